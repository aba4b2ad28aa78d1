"""How long `samkit --help` takes beside `import torch`: both whole processes, in turn."""

from __future__ import annotations

import sys

from measure import SAMKIT, cost_of, in_turn, keep

ROUNDS = 9


def main() -> None:
    """Measure and keep."""
    help_seconds, torch_seconds, ratio = in_turn(
        lambda: cost_of([*SAMKIT, "--help"]).seconds,
        lambda: cost_of([sys.executable, "-c", "import torch"]).seconds,
        ROUNDS,
    )
    rows = [
        ["samkit --help", f"{help_seconds:.3f}", f"{ratio:.2f}"],
        ["python -c 'import torch'", f"{torch_seconds:.3f}", "1"],
    ]
    numbers = {"help_seconds": help_seconds, "import_torch_seconds": torch_seconds, "ratio": ratio, "target": 0.25}
    keep("start_up", f"Start-up, median of {ROUNDS} pairs", ["command", "seconds", "ratio"], rows, numbers)


if __name__ == "__main__":
    main()
