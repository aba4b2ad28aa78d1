"""The floor: what features say of classes when nothing is trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import LOGIT_CELLS_PER_FEATURE_CELL, SolvedHead
from .classes import class_shares

# Of cosines, which answers are divided by: a probability then says something.
_TEMPERATURE = 0.1
# The cosine of a class that was never seen; below any other.
_NEVER = -2.0


class Prototype(SolvedHead):
    """Each cell is of the class whose mean feature vector it is most like, by cosine: nothing is trained.

    Source: prototypical networks, Snell et al. (arXiv 1703.05175), with cosines and the background as one class more.
    A cell that shows several classes counts in each by its share. Scores are brought to the logit grid bilinearly.

    Parameters
    ----------
    channels
        Of the embedding, 256 for SAM.
    class_count
        Classes with background.
    """

    name: ClassVar[str] = "prototype"
    #: (K, C), of length 1; 0 for a class that was never seen.
    prototypes: Tensor

    def __init__(self, *, channels: int, class_count: int) -> None:
        super().__init__(channels=channels, class_count=class_count)
        self.register_buffer("prototypes", torch.zeros(class_count, channels))

    @torch.no_grad()
    def solve(self, rows: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Average the features of each class; see `SolvedHead.solve`."""
        sums = torch.zeros(self.class_count, self.channels, dtype=torch.float64)
        for features, labels in rows:
            vectors = F.normalize(features.float(), dim=1)
            shares = class_shares(labels, self.class_count, features.shape[-2])
            sums += torch.einsum("bkhw,bchw->kc", shares, vectors).cpu().double()
        self.prototypes.copy_(F.normalize(sums, dim=1))

    def forward(self, features_BChw: Tensor) -> Tensor:
        """Return the logits, (B, K, 4 h, 4 w)."""
        vectors = F.normalize(features_BChw.float(), dim=1)
        cosines = torch.einsum("bchw,kc->bkhw", vectors, self.prototypes)
        seen = self.prototypes.any(dim=1)[:, None, None]
        scores = torch.where(seen, cosines, _NEVER) / _TEMPERATURE
        return F.interpolate(scores, scale_factor=LOGIT_CELLS_PER_FEATURE_CELL, mode="bilinear", align_corners=False)
