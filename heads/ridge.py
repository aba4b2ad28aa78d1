"""The best linear head there is for squared errors, computed at once instead of trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import LOGIT_CELLS_PER_FEATURE_CELL, SolvedHead
from .classes import class_shares, shown_classes

# Of the variance of a channel: the best of 0.1, 0.01 and 0.001 on ACDC's development subjects, by 0 to 2 points.
_RIDGE = 1e-3
# Of the mean square of a channel: one that never changes would otherwise be as good as the constant.
_LEAST_VARIANCE = 1e-6
# The answer for a class that was never seen; below any other.
_NEVER = -10.0
# What answers of about 0 to 1 are multiplied by to be logits.
_SURENESS = 10.0
_CELLS = LOGIT_CELLS_PER_FEATURE_CELL**2


class Ridge(SolvedHead):
    """A weighted sum of the features for each class and each of the 16 logit cells of a feature cell, by regression.

    Where `probe` has one answer a feature cell and brings it to the logit grid bilinearly, this one has sixteen. Its
    16 K (C + 1) numbers (16,448 for four classes of SAM's features) minimise squared errors to 1 for the class that
    is there and 0 for the others, plus a ridge; there is one such head, and it is found in one pass. Cells
    count with the square root of how rare their classes are, or background would be all that is ever found. Of a
    feature cell that lies partly beside the slice, the logit cells there are as its others are on average.

    Source: Hoerl and Kennard, Technometrics 12:55 (1970); as a few-shot head R2-D2 (arXiv 1805.08136).

    Parameters
    ----------
    channels
        Of the embedding, 256 for SAM.
    class_count
        Classes with background.
    """

    name: ClassVar[str] = "ridge"
    revision = 2
    #: (16 K, C, 1, 1), a class's sixteen cells together, row by row.
    weight: Tensor
    #: (16 K,)
    bias: Tensor

    def __init__(self, *, channels: int, class_count: int) -> None:
        super().__init__(channels=channels, class_count=class_count)
        self.register_buffer("weight", torch.zeros(_CELLS * class_count, channels, 1, 1))
        self.register_buffer("bias", torch.zeros(_CELLS * class_count))

    @torch.no_grad()
    def solve(self, rows: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Find the one head of these rows; see `SolvedHead.solve`."""
        classes, known = self.class_count, self.channels + 1
        # By class, because how rare it is shows at the end: products of the features where the class is shown, and of
        # the features with the answers there.
        products = torch.zeros(classes, known, known, dtype=torch.float64)
        answers = torch.zeros(classes, known, _CELLS * classes, dtype=torch.float64)
        for features, labels in rows:
            vectors = F.pad(features.float().movedim(1, -1).flatten(0, 2), (0, 1), value=1.0)  # cells, C + 1
            shares = class_shares(labels, classes, features.shape[-2]).movedim(1, -1).flatten(0, 2)  # cells, K
            shown = F.pixel_unshuffle(shown_classes(labels, classes), LOGIT_CELLS_PER_FEATURE_CELL)
            shown = shown.movedim(1, -1).flatten(0, 2).unflatten(1, (classes, _CELLS))  # cells, K, 16
            # Answers of no class at all would lower that of whatever the slice's edges show: background.
            average = shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-9)
            beside = shown.sum(dim=1, keepdim=True) == 0
            wanted = torch.where(beside, average[..., None], shown).flatten(1)  # cells, K 16
            for number in range(classes):
                there = shares[:, number] > 0
                weighted = vectors[there] * shares[there, number, None]
                products[number] += (weighted.T @ vectors[there]).cpu().double()
                answers[number] += (weighted.T @ wanted[there]).cpu().double()
        counts = products[:, -1, -1]
        rarity = torch.where(counts > 0, (counts.sum() / counts.clamp(min=1e-9)).sqrt(), 0)
        product = torch.einsum("k,kij->ij", rarity, products)
        answer = torch.einsum("k,kij->ij", rarity, answers)
        total = product[-1, -1].clamp(min=1e-9)
        means, squares = product[-1, :-1] / total, product.diagonal()[:-1] / total
        variances = torch.maximum(squares - means.square(), _LEAST_VARIANCE * squares + torch.finfo().tiny)
        # All but the constant, whose weight costs nothing.
        product.diagonal()[:-1] += _RIDGE * total * variances
        product[-1, -1] = total
        solution = torch.linalg.solve(product, answer)
        self.weight.copy_(solution[:-1].T[..., None, None])
        self.bias.copy_(torch.where((counts > 0).repeat_interleave(_CELLS), solution[-1], _NEVER))

    def forward(self, features_BChw: Tensor) -> Tensor:
        """Return the logits, (B, K, 4 h, 4 w)."""
        cells = F.conv2d(features_BChw.float(), self.weight, self.bias)
        return _SURENESS * F.pixel_shuffle(cells, LOGIT_CELLS_PER_FEATURE_CELL)
