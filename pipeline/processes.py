"""Where sources are read: in this process, or by several processes of a local dask cluster.

Both give the same results in the same order. Reading decodes files that come from anywhere: a codec that takes its
process down with it costs the one file that it was given, because each process reads one source at a time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Self

from ..stages.ingest import read_sources
from ..stages.intake.job import IngestJob, IngestTask, Read, Refused
from ..stages.intake.labels import read_label_values, values_in_label
from ..stages.intake.volume import read_source
from ..stages.readers.base import SourceFiles
from ..stages.readers.dicom_headers import files_under
from ..stages.readers.dicom_series import Held, read_headers
from . import console
from .forks import TRIES, Processes

# Starting processes takes a second: less is read faster without them.
_WORTH_PROCESSES_BYTES = 256 << 20
# Each holds a volume and what becomes of it, and more than these wait for the disk.
_MOST_PROCESSES = 16
# Headers are read by so many at a time: a tenth of a second.
_FILES_AT_ONCE = 128
# From so many on, reading headers takes seconds, and is shown.
_MANY_FILES = 2000


class SourceReaders:
    """Reads headers and sources, in this process or in others.

    Use as a context manager: what was started is stopped at its end.
    """

    def __init__(self, asked: int | None = None) -> None:
        """Take so many processes; None for one a core, where there is enough to read for them."""
        self._asked = asked
        self._processes = Processes(asked or _one_a_core(), imports=(__name__,))

    def __enter__(self) -> Self:
        """Nothing is started yet."""
        self._processes.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop the processes, if any."""
        self._processes.__exit__(*exception)

    def expect(self, root: Path) -> None:
        """Look at what is to be read, and start the processes in the background if it is much."""
        if self._processes.workers > 1 and _is_much(files_under(root)):
            self._processes.start()

    def headers(self, paths: Sequence[Path]) -> Iterator[Held]:
        """Tell what each DICOM file holds, in order; see `stages.readers.dicom_series.ReadHeaders`."""
        chunks = (paths[first : first + _FILES_AT_ONCE] for first in range(0, len(paths), _FILES_AT_ONCE))
        shown = console.progress_bar("reading headers", len(paths), "files") if len(paths) > _MANY_FILES else None
        with shown or contextlib.nullcontext() as bar:
            for held in self._held(chunks):
                if bar is not None:
                    bar.advance(len(held))
                yield from held

    def _held(self, chunks: Iterator[Sequence[Path]]) -> Iterator[list[Held]]:
        for chunk in chunks:
            yield _held(chunk)
            if self._processes.ready:  # they took a second to start, which was not waited for
                break
        if self._processes.ready:
            yield from self._processes.map_in_order(_held, chunks, killed=_headers_killed)

    def sources(self, job: IngestJob, tasks: Sequence[IngestTask]) -> Iterator[Read | Refused]:
        """Yield what became of each source, in order; see `stages.ingest.ReadSources`."""
        if len(tasks) < 2 or self._processes.workers < 2 or not (self._asked or self._worth_it(tasks)):
            return read_sources(job, tasks)
        return self._processes.map_in_order(partial(read_source, job), tasks, killed=_killed)

    def label_values(self, sources: Sequence[SourceFiles], threshold: float | None) -> Iterator[frozenset[int]]:
        """Yield the values in the label of each source, in order; see `stages.intake.labels.ReadLabelValues`."""
        labels = (path for source in sources if source.label is not None for path in source.label.paths)
        worth_it = self._processes.workers > 1 and (self._processes.ready or _is_much(labels))
        if len(sources) < 2 or not worth_it:
            return iter(read_label_values(sources, threshold))
        look = partial(values_in_label, threshold=threshold)
        return self._processes.map_in_order(look, sources, killed=lambda _: frozenset())

    def _worth_it(self, tasks: Sequence[IngestTask]) -> bool:
        """Tell whether to read by processes: compressed DICOM too, for decoders are what crashes."""
        sources = [task.source for task in tasks]
        compressed = any(source.series is not None and source.series.compressed for source in sources)
        return compressed or self._processes.ready or _is_much(path for source in sources for path in source.image)


def _one_a_core() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_PROCESSES)


def _held(paths: Sequence[Path]) -> list[Held]:
    return list(read_headers(paths))


def _is_much(paths: Iterable[Path]) -> bool:
    count = 0
    for path in paths:
        with contextlib.suppress(OSError):  # whoever reads it says what is wrong
            count += path.stat().st_size
        if count > _WORTH_PROCESSES_BYTES:
            return True
    return False


def _killed(task: IngestTask) -> Refused:
    return Refused(shown=task.source.shown, reason=_KILLED)


def _headers_killed(paths: Sequence[Path]) -> list[Held]:
    return [_KILLED_BY_HEADER for _ in paths]


_KILLED = (
    f"reading it killed the process that did, {TRIES} times: a decoder crashed over a damaged file, or the system ran "
    f"out of memory. Try it alone with --workers 1; if that fails too, decompress it first (`gdcmconv --raw IN OUT`)."
)
_KILLED_BY_HEADER = (
    f"reading its header, with those of a few others, killed the process that did, {TRIES} times: one of them is "
    f"damaged, or the system ran out of memory. Try it alone with --workers 1."
)
