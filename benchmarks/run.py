"""All benchmarks, one after the other, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = (
    "start_up",
    "ingest",
    "rows",
    "precision",
    "codec",
    "scale",
    "memory",
    "views",
    "encoder",
    "embed",
    "cache_against_live",
    "class_copies",
    "head_steps",
    "adapter_steps",
    "pictures",
    "few_shot",
)


def main() -> None:
    """Run them; stop at the first that fails."""
    for name in BENCHMARKS:
        ended = subprocess.run([sys.executable, str(Path(__file__).parent / f"{name}.py")], check=False)
        if ended.returncode:  # it has said why
            sys.exit(ended.returncode)


if __name__ == "__main__":
    main()
