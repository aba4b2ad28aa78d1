"""Chunks of consecutive slices, and prompts for what they show: what heads are fed that look through slices.

Shapes: B slices of a batch, K classes with background, G cells of the logit grid, P points of a prompt.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..store.embeddings import Embeddings
from ..store.errors import UsageError
from ..store.slices import Volume
from .base import Head
from .classes import to_class_index
from .feeding import AS_THEY_ARE, StoredFeatures, frame_of, square_of
from .frame import Frame
from .live_encoder import LiveEncoder
from .losses import IGNORED
from .prompt_rules import Asked, PromptRule, check_inside
from .prompting import PointKind, Prompts, boxes_around, boxes_in_square
from .seen import Chunks, ClassPrompts, Seen, Sees

__all__ = ["ChunkHead", "LabelledChunks", "StoredChunks", "check_chunks"]

_LABELS_AT_ONCE = 64
AUTO_CHUNK = 4
"""Slices that are looked through together where nobody says how many; a shorter volume is one chunk."""


class ChunkHead(Head):
    """A head that sees chunks of consecutive slices, and may be prompted."""

    sees = Sees.CHUNKS
    #: Slices that are looked through together; None for `AUTO_CHUNK`, or what a volume has.
    chunk: int | None
    rule: PromptRule
    #: Of one that sees squares: it says where slices lie in them.
    encoder: LiveEncoder

    @classmethod
    @abstractmethod
    def entered_block(cls, options: Mapping[str, str], depth: int) -> int:
        """Return the block of an encoder of that depth whose input it wants; rows of an earlier one do too."""


def check_chunks(head: ChunkHead, volumes: Sequence[Volume]) -> None:
    """Refuse chunks that are longer than a volume.

    Raises
    ------
    UsageError
        With the volume.
    """
    shortest = min(volumes, key=lambda volume: len(volume.slice_digests))
    slices = len(shortest.slice_digests)
    if head.chunk is not None and head.chunk > slices:
        message = (
            f"--chunk {head.chunk}: {shortest.id} has {slices} slice{'s' * (slices > 1)}, so that no {head.chunk} "
            f"follow each other. Give --chunk {slices} or less, or leave it out: chunks of {AUTO_CHUNK}, and shorter "
            f"volumes whole."
        )
        raise UsageError(message)


class _LabelledRows(Protocol):
    """Rows in the order of their slices: `feeding.LabelledSlices` and `feeding.LabelledSquares`."""

    @property
    def input_shape(self) -> tuple[int, int, int]: ...
    @property
    def streamed(self) -> bool: ...
    def __len__(self) -> int: ...
    def seen(self, indices: Sequence[int]) -> Seen: ...
    def labels(self, indices: Sequence[int]) -> Tensor: ...


class LabelledChunks:
    """Labelled slices, chunk by chunk: what `fitting` takes batches from.

    Every round shows each slice once. Where chunks begin is drawn anew for each volume and round, so that the first and
    the last chunk of a volume may be shorter. With prompts, chunks that show no class are left out, and each slice asks
    for one of the classes that it shows, drawn anew too; its label shows that one alone: one binary target a prompt.
    Slices that show none say nothing then.

    Parameters
    ----------
    rows
        Volume by volume, view by view, slice by slice.
    volumes
        Whose rows they are.
    head
        Which says how long chunks are, and how it is prompted.
    class_count
        With background.
    views
        How many of each slice there are.
    """

    def __init__(
        self,
        rows: _LabelledRows,
        volumes: Sequence[Volume],
        head: ChunkHead,
        class_count: int,
        *,
        views: Sequence[str] = AS_THEY_ARE,
    ) -> None:
        self._rows, self._rule, self._classes = rows, head.rule, class_count
        self._chunk = head.chunk or AUTO_CHUNK
        # Runs of rows that follow each other: the slices of a volume in one view.
        counts = [len(volume.slice_digests) for volume in volumes for _ in views]
        self._runs = [range(*ends) for ends in pairwise(np.cumsum([0, *counts]).tolist())]
        self._shows = self._showing() if self._prompted else np.ones(len(rows), bool)
        self.input_shape = rows.input_shape
        self.streamed = rows.streamed

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def _prompted(self) -> bool:
        return self._rule.kind is not Asked.NONE

    def _showing(self) -> NDArray[np.bool_]:
        """Return which rows show a class: prompts ask for nothing on the others."""
        parts = [
            self._rows.labels(range(first, min(first + _LABELS_AT_ONCE, len(self))))
            for first in range(0, len(self), _LABELS_AT_ONCE)
        ]
        shows = torch.cat([((part > 0) & (part != IGNORED)).flatten(1).any(dim=1) for part in parts]).numpy()
        if not shows.any():
            message = (
                "the drawn slices show no class on the encoder's grid, so that there is nothing to prompt for. Draw "
                "more --volumes, or look what the grid leaves of the labels: samkit ingest --check"
            )
            raise UsageError(message)
        return np.asarray(shows)

    def batches(self, batch_size: int, seed: int, device: torch.device) -> Iterator[tuple[Seen, Tensor]]:
        """Yield shuffled batches for ever, of as many whole chunks as make ``batch_size`` slices, or of one."""
        random, drawn = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        at_once = max(1, batch_size // self._chunk)
        while True:
            chunks = [
                chunk
                for run in self._runs
                for chunk in _cut(run, self._chunk, int(random.integers(min(self._chunk, len(run)))))
                if self._shows[chunk.start : chunk.stop].any()
            ]
            order = random.permutation(len(chunks)).tolist()
            for first in range(0, len(order), at_once):
                seen, labels = self._batch([chunks[number] for number in order[first : first + at_once]], drawn)
                yield seen.to(device), labels.long().to(device)

    def in_order(self, batch_size: int) -> Iterator[tuple[Seen, Tensor]]:
        """Yield every row once, on the CPU; all classes are asked for that a slice shows."""
        drawn = torch.Generator().manual_seed(0)
        chunks = [chunk for run in self._runs for chunk in _cut(run, self._chunk, 0)]
        at_once = max(1, batch_size // self._chunk)
        for first in range(0, len(chunks), at_once):
            yield self._batch(chunks[first : first + at_once], drawn, of_all=True)

    def _batch(
        self, chunks: Sequence[range], random: torch.Generator, *, of_all: bool = False
    ) -> tuple[Chunks, Tensor]:
        indices = [index for chunk in chunks for index in chunk]
        seen, labels = self._rows.seen(indices), self._rows.labels(indices)
        assert isinstance(seen, Tensor)
        prompts = None
        if self._prompted:
            shown = torch.stack([(labels == number).flatten(1).any(dim=1) for number in range(1, self._classes)], dim=1)
            if not of_all:
                shown = _one_of(shown, random)
                wanted = torch.where(shown.any(dim=1), 1 + shown.to(torch.uint8).argmax(dim=1), 0)[:, None, None]
                labels = torch.where((labels == wanted) | (labels == IGNORED), labels, 0)
                labels[~shown.any(dim=1)] = IGNORED  # asked for nothing, a slice says nothing
            prompts = _asked_on_grid(self._rule, labels, shown, random)
        return Chunks(seen, tuple(map(len, chunks)), prompts), labels


class StoredChunks:
    """Chunks of one volume in their order, read when they are asked for; prompted from its label.

    Parameters
    ----------
    head
        Which says how long chunks are, and how it is prompted.
    volume
        With a label, where the head is prompted.
    embeddings
        Where its rows are; None for a head that runs its encoder on the slices.
    label_values
        Of the classes but background.
    """

    def __init__(
        self, head: ChunkHead, volume: Volume, embeddings: Embeddings | None, label_values: Sequence[int]
    ) -> None:
        self._head, self._volume, self._values = head, volume, label_values
        self._rows = None
        if head.sees.squares:
            _, _, rows, columns = volume.record.shape
            px, resize = head.encoder.shape.input_px, head.encoder.resize
            self.frame = Frame(rows=rows, columns=columns, input_px=px, resize=resize)
        elif embeddings is not None:
            self.frame = frame_of(volume, embeddings)
            self._rows = StoredFeatures(embeddings, volume.row_keys())
        else:
            message = f"{head.name} sees embedded tokens, and no embeddings were given to segment {volume.id} by."
            raise UsageError(message)
        self._label = None if head.rule.kind is Asked.NONE else volume.read_label()

    def __iter__(self) -> Iterator[tuple[range, Chunks]]:
        for chunk in _cut(range(len(self._volume.slice_digests)), self._head.chunk or AUTO_CHUNK, 0):
            prompts = None if self._label is None else self._asked(chunk)
            yield chunk, Chunks(self._read(chunk), (len(chunk),), prompts)

    def _read(self, chunk: range) -> Tensor:
        if self._rows is not None:
            return torch.from_numpy(self._rows[chunk.start : chunk.stop])
        slices = [torch.from_numpy(self._volume.read_slice(number).copy())[None] for number in chunk]
        return square_of(torch.cat(slices), self.frame.input_px, self.frame.resize)

    def _asked(self, chunk: range) -> ClassPrompts:
        """Ask for every class that a slice shows, on its own pixels, alike whatever else is in the chunk."""
        assert self._label is not None
        rule, points_a_prompt = self._head.rule, self._head.rule.points
        places = torch.zeros(len(chunk), len(self._values), points_a_prompt, 2)
        kinds = torch.full(places.shape[:3], PointKind.NOTHING)
        for row, number in enumerate(chunk):
            for column, value in enumerate(self._values):
                mask = torch.from_numpy(self._label[number] == value)[None]
                if not mask.any():
                    continue
                seed = int(self._volume.slice_digests[number][:12], 16) + column
                asked = rule.ask(mask, torch.Generator().manual_seed(seed))
                places[row, column] = _in_square(asked, rule, self.frame)
                kinds[row, column] = asked.kinds[0]
        grid = self.frame.input_px // _PX_PER_LOGIT_CELL
        index = to_class_index(self._label[chunk.start : chunk.stop], [0, *self._values])
        return ClassPrompts(places, kinds, torch.from_numpy(self.frame.label_to_grid(index, grid)))


# SAM's patches are 16 pixels, and the logit grid is four times finer than theirs.
_PX_PER_LOGIT_CELL = 4


def _cut(run: range, length: int, begin: int) -> list[range]:
    """Return chunks of consecutive rows that cover a run, the first of ``begin`` rows where that is not 0.

    >>> _cut(range(10, 17), 3, 2)
    [range(10, 12), range(12, 15), range(15, 17)]
    """
    starts = sorted({run.start, *range(run.start + begin, run.stop, length)})
    return [range(*ends) for ends in pairwise([*starts, run.stop])]


def _one_of(shown_BC: Tensor, random: torch.Generator) -> Tensor:
    """Keep one of the classes that each slice shows, each with the same chance."""
    ranks = torch.rand(shown_BC.shape, generator=random).where(shown_BC, -1)
    return shown_BC & (ranks == ranks.amax(dim=1, keepdim=True))


def _asked_on_grid(rule: PromptRule, labels_BGG: Tensor, asked_BC: Tensor, random: torch.Generator) -> ClassPrompts:
    """Ask for some classes of labels on the logit grid."""
    places = torch.zeros(*asked_BC.shape, rule.points, 2)
    kinds = torch.full(places.shape[:3], PointKind.NOTHING)
    rows, classes = asked_BC.nonzero(as_tuple=True)
    if len(rows):
        asked = labels_BGG[rows]
        prompts = rule.ask(asked == (1 + classes)[:, None, None], random, boxes_around(asked != IGNORED))
        # A click is on the middle of a cell; a box reaches from the first pixel of a cell to the last of another.
        edge = 0.5 / _PX_PER_LOGIT_CELL
        within = torch.tensor([[edge], [1 - edge]]) if rule.kind is Asked.BOX else torch.tensor(0.5)
        places[rows, classes] = (prompts.points + within) / labels_BGG.shape[-1]
        kinds[rows, classes] = prompts.kinds
    return ClassPrompts(places, kinds, labels_BGG)


def _in_square(asked: Prompts, rule: PromptRule, frame: Frame) -> Tensor:
    """Return the points of a prompt on a slice's pixels as shares of the encoder's square, (P, 2)."""
    check_inside(asked, frame.rows, frame.columns)
    if rule.kind is Asked.BOX:
        within = boxes_in_square(asked.points.reshape(1, 4), frame).view(2, 2)
        return (within + 0.5) / frame.input_px
    rows, columns = frame.inner_px
    scale = torch.tensor([columns / frame.columns, rows / frame.rows])
    return (asked.points[0] + 0.5) * scale / frame.input_px
