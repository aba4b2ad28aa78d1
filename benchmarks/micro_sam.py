"""The whole of `samkit embed` beside micro-sam's `precompute_state`, on the same slices, with the same seeded weights.

micro-sam brings napari and Qt with it, so it lives in an environment of its own:

    python -m venv peer && peer/bin/pip install micro-sam
    micro_sam.py --python peer/bin/python

Both encode the same volumes of different lengths; what a slice takes is the difference, so neither is charged with its
start. micro-sam runs the package's encoder in float32 and keeps float32; samkit once in float32 and once in bfloat16,
kept in float16.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import torch
from measure import SAMKIT, cost_of, keep
from PIL import Image

import samkit.heads.sam_modules  # noqa: F401 - makes the next import possible beside a torch for processors
from samkit.stages.synthesis.anatomy import draw_subject

# isort: split
from segment_anything import sam_model_registry

SLICES = (2, 6)
ROUNDS = 2
TARGETS = {"float32": 2.0, "bfloat16": 6.5}
# In the peer's interpreter. The schemas: a torchvision wheel made for CUDA beside a torch for processors.
PEER = """
import sys, torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from micro_sam.precompute_state import precompute_state
precompute_state(sys.argv[1], sys.argv[2], model_type="vit_b", checkpoint_path=sys.argv[3], ndim=3)
"""


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True, help="an interpreter that has micro-sam")
    python = parser.parse_args().python
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = folder / "sam_vit_b.pth"
        torch.save(sam_model_registry["vit_b"]().state_dict(), checkpoint)
        image = draw_subject(0, shape=(max(SLICES), 256, 256)).image
        for count in SLICES:
            _write(folder, count, image[:count])
        rounds: dict[str, list[float]] = {"micro-sam": [], **{precision: [] for precision in TARGETS}}
        for number in range(ROUNDS):
            times = []
            for count in SLICES:
                output = folder / f"peer{number}-{count}"
                times.append(cost_of([python, "-c", PEER, folder / f"{count}.tif", output, checkpoint]).seconds)
            rounds["micro-sam"].append((times[1] - times[0]) / (SLICES[1] - SLICES[0]))
            for precision in TARGETS:
                times = [_embedded(folder, count, precision, number, checkpoint) for count in SLICES]
                rounds[precision].append((times[1] - times[0]) / (SLICES[1] - SLICES[0]))
    seconds = {name: statistics.median(taken) for name, taken in rounds.items()}
    rows = [["micro-sam precompute_state", f"{seconds['micro-sam']:.3g}", "1"]]
    numbers: dict[str, object] = {"micro_sam_seconds_per_slice": seconds["micro-sam"], "version": _version(python)}
    for precision, target in TARGETS.items():
        ratio = statistics.median(peer / own for peer, own in zip(rounds["micro-sam"], rounds[precision], strict=True))
        rows.append([f"samkit embed, {precision}", f"{seconds[precision]:.3g}", f"{ratio:.2f}"])
        numbers[precision] = {"seconds_per_slice": seconds[precision], "times_faster": ratio, "target": target}
    title = "sam_vit_b at 1024 px, seeded weights, whole commands without their start"
    keep("micro_sam", title, ["", "s a slice", "times faster"], rows, numbers)


def _write(folder: Path, count: int, image: np.ndarray) -> None:
    bytes_255 = np.clip(255 * (image - image.min()) / np.ptp(image), 0, 255).astype(np.uint8)
    first, *others = (Image.fromarray(plane) for plane in bytes_255)
    first.save(folder / f"{count}.tif", save_all=True, append_images=others)
    nibabel.save(nibabel.Nifti1Image(bytes_255.T, np.diag([1.0, 1.0, 3.0, 1.0])), folder / f"{count}.nii.gz")


def _embedded(folder: Path, count: int, precision: str, number: int, checkpoint: Path) -> float:
    flag = ["--workspace", str(folder / f"{precision}{number}-{count}")]
    cost_of([*SAMKIT, "ingest", folder / f"{count}.nii.gz", "--intensity", "percentiles", *flag])
    command = ["embed", "--encoder", "sam_vit_b", "--weights", str(checkpoint), "--precision", precision, *flag]
    return cost_of([*SAMKIT, *command]).seconds


def _version(python: str) -> str:
    program = "from importlib.metadata import version; print(version('micro_sam'))"
    return subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
