"""Draw the curves of a training of nano: `python docs/explanation/nano_training.py LOG`, or of the one that ships."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
CURVES = {
    "asked of every cell, loss": ("kind", "place", "border", "picture"),
    "asked across subjects, loss": ("likeness", "solved"),
    "asked of prompts, IoU": ("box_iou", "click_iou", "corrected_iou"),
}


def main() -> None:
    """Draw and write."""
    log = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "nano-training.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure, axes = plt.subplots(1, len(CURVES), figsize=(14, 3.6), layout="constrained")
    for axis, (title, names) in zip(axes, CURVES.items(), strict=True):
        for name in names:
            told = [line for line in lines if name in line]
            axis.plot([line["step"] for line in told], [line[name] for line in told], label=name.replace("_iou", ""))
        axis.set(title=title, xlabel="step")
        axis.legend()
        axis.grid(alpha=0.3)
    figure.savefig(HERE / "nano-training.png", dpi=80)


if __name__ == "__main__":
    main()
