"""What a head is given: features, slices, or both; single rows, or chunks of consecutive ones; with prompts or without.

Shapes: B slices, K classes with background, C channels, h w cells of the embedding, S pixels of the encoder's square.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor


class Sees(Enum):
    """What a head is given."""

    FEATURES = "features"
    #: The slices themselves: a baseline without an encoder.
    SLICES = "slices"
    #: Both, the slices in the encoder's frame: `FeaturesAndSlices`.
    FEATURES_AND_SLICES = "features and slices"
    #: The slices in the encoder's own square, not a number where the square has no slice: an encoder of the head's own
    #: runs on them. (B, 1 or 3, S, S) in [0, 1].
    SQUARES = "slices in the encoder's square"
    #: Features, and the boxes of the reference: a bound, not a method. `FeaturesAndBoxes`.
    FEATURES_AND_BOXES = "features and boxes of the reference"

    #: Chunks of consecutive slices: the tokens that enter a block of the encoder, and prompts: `Chunks`.
    CHUNKS = "chunks of slices"
    #: The same, of slices in the encoder's own square: an encoder of the head's own runs on them.
    CHUNKS_OF_SQUARES = "chunks of slices in the encoder's square"

    @property
    def features(self) -> bool:
        """Whether there are features in it, so that rows have to be embedded."""
        return self is not Sees.SLICES and not self.squares

    @property
    def squares(self) -> bool:
        """Whether slices are in it in the encoder's own square, for an encoder of the head's own."""
        return self in (Sees.SQUARES, Sees.CHUNKS_OF_SQUARES)

    @property
    def chunks(self) -> bool:
        """Whether slices come in chunks of consecutive ones."""
        return self in (Sees.CHUNKS, Sees.CHUNKS_OF_SQUARES)

    @property
    def recipe(self) -> bool:
        """Whether an encoder's recipe decides what it is."""
        return self is not Sees.SLICES


SLICE_PX_PER_FEATURE_CELL = 16
"""How finely a head that sees both sees the slices: SAM's patches, and the stride of a ResNet's third stage."""


class FeaturesAndSlices(NamedTuple):
    """What a head that sees both is given."""

    features: Tensor
    """(B, C, h, w), any float kind."""
    slices: Tensor
    """(B, 1 or 3, 16 h, 16 w) in [0, 1], in the encoder's frame, padded with 0."""

    def to(self, device: torch.device) -> FeaturesAndSlices:
        """Return both on a device."""
        return FeaturesAndSlices(self.features.to(device), self.slices.to(device))

    def rows(self, which: slice) -> FeaturesAndSlices:
        """Return some rows of both."""
        return FeaturesAndSlices(self.features[which], self.slices[which])


class FeaturesAndBoxes(NamedTuple):
    """What a head that is prompted is given."""

    features: Tensor
    """(B, C, h, w), any float kind."""
    boxes: Tensor
    """(B, K - 1, 4), a box for each class but background: first column and row, last column and row, the middles of
    their pixels as shares of the encoder's square; not a number where the slice does not show the class."""

    def to(self, device: torch.device) -> FeaturesAndBoxes:
        """Return both on a device."""
        return FeaturesAndBoxes(self.features.to(device), self.boxes.to(device))


class ClassPrompts(NamedTuple):
    """What is asked of some slices: for each class but background a prompt, or nothing."""

    points: Tensor
    """(B, K - 1, P, 2), (column, row) as shares of the encoder's square; the middle of its first pixel is not 0."""
    kinds: Tensor
    """(B, K - 1, P), a `prompting.PointKind` each; all `NOTHING` where the class is not asked for in the slice."""
    reference: Tensor
    """(B, G, G) uint8 class indices on the logit grid: what a click that corrects an answer is made from."""

    def to(self, device: torch.device) -> ClassPrompts:
        """Return all on a device."""
        return ClassPrompts(self.points.to(device), self.kinds.to(device), self.reference.to(device))


class Chunks(NamedTuple):
    """What a head that sees chunks is given."""

    rows: Tensor
    """(B, C, h, w) tokens, any float kind, or (B, 1 or 3, S, S) squares; slice after slice, chunk after chunk."""
    lengths: tuple[int, ...]
    """Slices of each chunk; they sum to B."""
    prompts: ClassPrompts | None = None
    """None for a head that is not prompted."""

    def to(self, device: torch.device) -> Chunks:
        """Return all on a device."""
        return Chunks(self.rows.to(device), self.lengths, None if self.prompts is None else self.prompts.to(device))


Seen = Tensor | FeaturesAndSlices | FeaturesAndBoxes | Chunks
"""What is given to a head."""
