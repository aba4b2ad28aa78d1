"""Freed memory stays with the process that asked for it, and an end of memory is told from other errors."""

from __future__ import annotations

import mmap
import subprocess
import sys

import psutil
import pytest
import torch

from samkit.stages.encoders.memory import (
    forget_peak_memory,
    free_memory_bytes,
    is_out_of_memory,
    keep_freed_memory,
    peak_memory_bytes,
    total_memory_bytes,
)

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")

FAULTS = """
import resource, sys, threading, torch
from samkit.stages.encoders.memory import keep_freed_memory
if {kept}: assert keep_freed_memory()
def block(): torch.ones(80 << 20, dtype=torch.uint8)
def work():
    for _ in range(8): block()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10): block()
    sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))
{where}
"""


@linux
@pytest.mark.parametrize(
    "where",
    ["work()", "thread = threading.Thread(target=work); thread.start(); thread.join()"],
    ids=["main thread", "another thread"],
)
def test_memory_that_was_freed_is_not_asked_for_again(where):
    faults = {}
    for kept in (False, True):
        program = FAULTS.format(kept=kept, where=where)
        faults[kept] = int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)
    assert faults[True] < faults[False] / 10


@linux
def test_it_says_whether_it_could():
    # In a process of its own: nothing takes the setting back.
    program = "from samkit.stages.encoders.memory import keep_freed_memory; raise SystemExit(not keep_freed_memory())"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    ],
)
def test_an_end_of_memory_is_recognised(error):
    assert is_out_of_memory(error)


def test_the_end_of_a_processors_memory_is_recognised_as_torch_raises_it():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("memory")])
def test_another_error_is_not(error):
    assert not is_out_of_memory(error)


def test_what_is_free_is_part_of_what_there_is():
    cpu = torch.device("cpu")
    assert 0 < free_memory_bytes(cpu) <= total_memory_bytes(cpu)


def test_inside_a_container_what_is_free_is_the_containers(tmp_path, monkeypatch):
    used = psutil.Process().memory_info().rss
    limit = tmp_path / "memory.max"
    monkeypatch.setattr("samkit.stages.encoders.memory._CGROUP_LIMIT", limit)
    limit.write_text(f"{used + 50_000_000}\n")
    assert free_memory_bytes(torch.device("cpu")) <= 50_000_000 + used // 2
    limit.write_text("max\n")
    assert free_memory_bytes(torch.device("cpu")) > 100_000_000
    limit.write_text("1\n")
    assert free_memory_bytes(torch.device("cpu")) == 0


@linux
def test_a_peak_that_is_forgotten_does_not_count_for_what_comes_after():
    # Mapped by itself: what torch frees may stay with the process, see `keep_freed_memory`.
    with mmap.mmap(-1, 100_000_000) as taken:
        taken.write(b"\1" * len(taken))
        high = peak_memory_bytes()
    forget_peak_memory()
    assert peak_memory_bytes() < high - 50_000_000
