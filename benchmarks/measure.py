"""What the benchmarks share: data, whole processes timed and weighed, a table that is kept."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from samkit.pipeline.console import say, table
from samkit.stages.synthesis.anatomy import draw_subject
from samkit.stages.synthesis.files import write_nifti_pair
from samkit.store.provenance import code_version

RESULTS = Path(__file__).parent / "results"
DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
ACDC = DATA / "acdc" / "volumes"
HIPPOCAMPUS = DATA / "hippocampus"
SUBJECTS = json.loads(Path(__file__).with_name("subjects.json").read_text(encoding="utf-8"))
SAMKIT = [sys.executable, "-m", "samkit.pipeline.cli"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one whole process took."""

    seconds: float
    peak_memory_bytes: int
    #: Its standard output.
    said: str


def cost_of(command: Sequence[str | Path]) -> Cost:
    """Run a command to its end; its peak memory is the kernel's own account of it and its children."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([str(word) for word in command], stdout=output, stderr=subprocess.PIPE, text=True)
        error = process.stderr.read() if process.stderr else ""
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        output.seek(0)
        said = output.read()
    if status != 0:
        message = f"{command} failed: {error}"
        raise RuntimeError(message)
    scale = 1 if sys.platform == "darwin" else 1024
    return Cost(seconds=seconds, peak_memory_bytes=usage.ru_maxrss * scale, said=said)


def in_turn(one: Callable[[], float], other: Callable[[], float], rounds: int) -> tuple[float, float, float]:
    """Measure two things A B A B ...; return the medians of A, of B, and of the ratios A / B of each pair."""
    pairs = [(one(), other()) for _ in range(rounds)]
    ratios = [first / second for first, second in pairs]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), statistics.median(ratios)


def sample(folder: Path, volumes: int, *, without: Collection[str] = ()) -> Path:
    """Return a folder of labelled volumes: links to ACDC's, but for some subjects; or, without those, drawn anatomy."""
    folder.mkdir(parents=True)
    real = [file for file in sorted(ACDC.glob("*.h5")) if file.name.split("_frame")[0] not in without][:volumes]
    for file in real:
        (folder / file.name).symlink_to(file.resolve())
    if not real:
        for number in range(volumes):
            write_nifti_pair(folder, f"phantom{number:03d}", draw_subject(number, shape=(10, 160, 144)))
    return folder


def keep(name: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: dict[str, Any]) -> None:
    """Print a table and keep its numbers beside the machine they were measured on."""
    table(title, columns, rows)
    path = keep_numbers(name, numbers)
    say(f"kept in {path.relative_to(Path(__file__).parents[1])}\n")


def keep_numbers(name: str, numbers: dict[str, Any]) -> Path:
    """Keep numbers, all measured just now, beside the machine they were measured on; return the file."""
    return write_numbers(name, {"machine": this_machine(), **numbers})


def this_machine() -> dict[str, Any]:
    """Return what numbers are measured on and by."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "code": code_version(),
    }


def write_numbers(name: str, numbers: dict[str, Any]) -> Path:
    """Write a file of results, whole or not at all; return it."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    return path


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        return names[0] if names else platform.processor()
    return platform.processor()
