"""Runs of a grid trained by processes of this machine, several at once.

Each run is fitted by one thread, so that what comes out does not depend on how many there are. A run counts when its
folder is there: a process that is killed costs the run it was at, which is begun again, twice at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from ..heads.base import find_head
from ..stages.encoders.memory import free_memory_bytes, keep_freed_memory
from ..stages.train import train
from ..stages.training.plan import TrainOptions
from ..store.errors import SamkitError
from ..store.local import LocalPlace
from ..store.places import Place
from ..store.workspace import open_workspace
from .clients import local_client

# What a process may keep of features, of its part of the memory that is free when the grid begins.
_MEMORY_SHARE = 0.4
_TIMES_BEGUN_AGAIN = 2


def train_cells(
    place: Place, cells: Sequence[tuple[TrainOptions, str | None]], workers: int
) -> Iterator[tuple[TrainOptions, str | None]]:
    """Train runs, yielding each when it has ended, with why it failed or None.

    Parameters
    ----------
    place
        Of the workspace.
    cells
        What to train, each on the embeddings of a recipe, by its id; None for a head that sees the slices.
    workers
        Processes.
    """
    from distributed import KilledWorker, as_completed

    if isinstance(place, LocalPlace):  # processes may have another working directory
        place = LocalPlace(place.path.absolute())
    memory_bytes = int(free_memory_bytes(torch.device("cpu")) * _MEMORY_SHARE / workers)
    settings = {"distributed.scheduler.allowed-failures": _TIMES_BEGUN_AGAIN}
    with local_client(workers, memory_limit=0, settings=settings) as client:
        futures = {
            client.submit(
                train_cell, place, recipe_id, replace(options, memory_bytes=memory_bytes), pure=False, priority=-number
            ): options
            for number, (options, recipe_id) in enumerate(cells)
        }
        for future in as_completed(futures, loop=client.loop):
            error = future.exception() if future.status == "error" else None
            if isinstance(error, KilledWorker):
                reason = (
                    "its process was killed each time it was begun. The usual cause is memory: look for the killer in "
                    "the system's log (dmesg), and give fewer --workers"
                )
                yield futures[future], reason
            elif error is None or isinstance(error, SamkitError):
                yield futures[future], None if error is None else str(error)
            elif isinstance(error, OSError):  # a full disk, say: the other runs would meet it too
                raise error
            else:
                reason = (
                    f"{type(error).__name__}: {error}. That is a fault of the head or of samkit; "
                    f"samkit train-head, with the same head and draw, shows where"
                )
                yield futures[future], reason


def train_cell(place: Place, recipe_id: str | None, options: TrainOptions) -> str:
    """Train one run in this process, by one thread, and return its id."""
    keep_freed_memory()
    torch.set_num_threads(1)
    workspace = open_workspace(place)
    embeddings = None if recipe_id is None else workspace.embeddings(recipe_id)
    return train(workspace, embeddings, find_head(options.head), options).id
