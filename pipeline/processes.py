"""Where sources are read: in this process, or by several processes of a local dask cluster.

Both give the same results in the same order. Reading decodes files that come from anywhere: a codec that takes its
process down with it costs the one file that it was given, because each process reads one source at a time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from ..stages.ingest import read_sources
from ..stages.intake.job import IngestJob, IngestTask, Read, Refused
from ..stages.intake.volume import read_source
from ..stages.readers.base import SourceFiles
from .cluster import TRIES, map_in_order

# Starting processes takes seconds: less is read faster without them.
_WORTH_PROCESSES_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceReader:
    """Reads sources in ``workers`` processes; see `stages.ingest.ReadSources`."""

    workers: int

    def __call__(self, job: IngestJob, tasks: Sequence[IngestTask]) -> Iterator[Read | Refused]:
        """Yield what became of each source, in order."""
        workers = min(self.workers, len(tasks))
        if workers <= 1:
            return read_sources(job, tasks)
        return map_in_order(partial(read_source, job), tasks, workers, killed=_killed)


def choose_workers(sources: Sequence[SourceFiles], asked: int | None) -> int:
    """Return how many processes to read with: what was asked for, else one a core where it is worth starting them.

    It is for much data, and for compressed DICOM: decoders are what crashes.
    """
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores == 1 or len(sources) < 2:
        return 1
    compressed = any(source.series is not None and source.series.compressed for source in sources)
    return cores if compressed or _bytes_of(sources) > _WORTH_PROCESSES_BYTES else 1


def _bytes_of(sources: Sequence[SourceFiles]) -> int:
    count = 0
    for source in sources:
        for path in source.image:
            with contextlib.suppress(OSError):  # whoever reads it says what is wrong
                count += path.stat().st_size
        if count > _WORTH_PROCESSES_BYTES:
            break
    return count


def _killed(task: IngestTask) -> Refused:
    return Refused(shown=task.source.shown, reason=_KILLED)


_KILLED = (
    f"reading it killed the process that did, {TRIES} times: a decoder crashed over a damaged file, or the system ran "
    f"out of memory. Try it alone with --workers 1; if that fails too, decompress it first (`gdcmconv --raw IN OUT`)."
)
