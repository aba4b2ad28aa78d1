"""The loss that heads are trained with: cross-entropy plus soft Dice.

Shapes: B slices in a batch, K classes (0 is background), H W pixels of the training grid, F = K - 1 foreground classes.
Both terms are computed in float32 whatever the precision of the logits, and leave out ignored pixels, such as
the padding of the encoder's frame, altogether.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..store.errors import GeometryMismatch, UnusableLabel, UsageError

__all__ = ["IGNORED", "DiceRule", "LossParts", "segmentation_loss"]

IGNORED = 255
"""The target value of pixels that say nothing: the largest of uint8, in which labels are kept."""


_SAM_LST_CONSTANT = 1e-5


class DiceRule(StrEnum):
    """Which classes enter the soft Dice loss, and what keeps it from dividing by 0."""

    PRESENT = "present"
    """The foreground classes that occur in the batch; no constant is needed."""
    SMOOTHED = "smoothed"
    """All foreground classes with 1 added to both sides of the fraction; those whose term is not positive are dropped.

    AutoSAM's, loss_functions/dice_loss.py:99-121; where no term is positive the loss is 0 here and NaN there."""
    WITH_BACKGROUND = "with background"
    """All classes, with 1e-5 added to both sides; an absent one counts about 1. SAM-LST's, utils.py:61-98."""


class LossParts(NamedTuple):
    """The loss and what it is made of, as 0-d tensors; the parts are before weighting."""

    total: Tensor
    cross_entropy: Tensor
    dice: Tensor


def segmentation_loss(
    logits_BKHW: Tensor,
    target_BHW: Tensor,
    *,
    cross_entropy_weight: float = 1.0,
    dice_weight: float = 1.0,
    dice_rule: DiceRule = DiceRule.PRESENT,
    ignore_index: int = IGNORED,
) -> LossParts:
    r"""Return the weighted sum of cross-entropy and soft Dice of one batch.

    Cross-entropy is the mean over all pixels that are not ignored. Soft Dice is the mean, over the foreground
    classes that occur in the batch's target, of

    .. math:: 1 - \frac{2 \sum p g}{\sum p^2 + \sum g^2}

    where p is the softmax probability and g is 1 where the target is the class, else 0; each sum runs over the
    whole batch, so that a slice with three pixels of an organ does not weigh as much as one with three thousand. The
    squared denominator is that of V-Net (Milletari et al. 2016, arXiv:1606.04797), which AutoSAM and SAM-LST use too.

    A class that does not occur in the target is left out of Dice. The usual smoothing constant would keep it
    in with a value near 1 and a gradient near 0 (for an epsilon of 1e-5, 64 x 64 pixels and p = 1/2 about
    1e-11 a pixel): an offset that depends on the batch and teaches nothing. What is predicted there by mistake is
    punished by cross-entropy. A class that occurs has a denominator of at least 1, so no constant is needed
    at all and a perfect prediction costs exactly 0. A batch of background alone thus has a Dice of 0 and the
    gradient of its cross-entropy. What the papers' codes do instead is in `DiceRule`.

    Parameters
    ----------
    logits_BKHW : floating point, (B, K, H, W)
        At least two classes. Values at ignored pixels are never looked at, not even NaN ones.
    target_BHW : whole numbers, (B, H, W)
        Each from 0 to K - 1, or ``ignore_index``. The range is not checked here: that would make a GPU wait
        in every step, so whoever builds the targets checks it once.
    cross_entropy_weight, dice_weight
        Factors of the two terms in ``total``.
    dice_rule
        Which classes enter Dice; the above is said of ``PRESENT``.
    ignore_index
        The target value of pixels to leave out.

    Returns
    -------
    LossParts
        float32 (float64 for float64 logits). When every pixel is ignored all three are 0 and the
        gradient is 0, not NaN.

    Raises
    ------
    GeometryMismatch
        When the shapes do not belong together.
    UnusableLabel
        When the target is not of whole numbers.
    UsageError
        When there are fewer than two classes.
    """
    _check(logits_BKHW, target_BHW)
    target_BHW = target_BHW.long()  # cross-entropy takes nothing else, and a negative ignore_index would wrap in uint8
    known_B1HW = (target_BHW != ignore_index).unsqueeze(1)
    # Filling before anything is computed, rather than weighting by 0 afterwards: 0 times infinity is NaN.
    logits_BKHW = _at_least_float32(logits_BKHW).masked_fill(~known_B1HW, 0.0)
    cross_entropy = _cross_entropy(logits_BKHW, target_BHW, known_B1HW, ignore_index=ignore_index)
    dice = _soft_dice(logits_BKHW, target_BHW, known_B1HW, dice_rule)
    return LossParts(cross_entropy_weight * cross_entropy + dice_weight * dice, cross_entropy, dice)


def _cross_entropy(logits_BKHW: Tensor, target_BHW: Tensor, known_B1HW: Tensor, *, ignore_index: int) -> Tensor:
    # torch's own mean divides 0 by 0 when every pixel is ignored.
    summed = F.cross_entropy(logits_BKHW, target_BHW, ignore_index=ignore_index, reduction="sum")
    return summed / known_B1HW.sum().clamp(min=1)


def _soft_dice(logits_BKHW: Tensor, target_BHW: Tensor, known_B1HW: Tensor, rule: DiceRule) -> Tensor:
    over_batch = (0, 2, 3)
    first = 0 if rule is DiceRule.WITH_BACKGROUND else 1
    class_values_F = torch.arange(first, logits_BKHW.shape[1], device=target_BHW.device)
    # Ignored pixels drop out of every sum: both p and g are 0 there.
    reference_BFHW = (target_BHW.unsqueeze(1) == class_values_F.view(1, -1, 1, 1)) & known_B1HW
    probability_BFHW = logits_BKHW.softmax(dim=1)[:, first:] * known_B1HW

    reference_pixels_F = reference_BFHW.sum(over_batch)
    overlap_F = (probability_BFHW * reference_BFHW).sum(over_batch)
    size_F = probability_BFHW.square().sum(over_batch) + reference_pixels_F
    if rule is DiceRule.WITH_BACKGROUND:
        return (1.0 - (2.0 * overlap_F + _SAM_LST_CONSTANT) / (size_F + _SAM_LST_CONSTANT)).mean()
    if rule is DiceRule.SMOOTHED:
        loss_F = 1.0 - (2.0 * overlap_F + 1.0) / (size_F + 1.0)
        counts_F = loss_F > 0
    else:
        counts_F = reference_pixels_F > 0
        # An absent class is divided by 1 instead of by what may be 0, so that its gradient is finite before it is
        # dropped.
        loss_F = 1.0 - 2.0 * overlap_F / size_F.where(counts_F, 1.0)
    return (loss_F * counts_F).sum() / counts_F.sum().clamp(min=1)


def _at_least_float32(tensor: Tensor) -> Tensor:
    # Half precision ends at 65504: a sum over the pixels of one batch is beyond it.
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _check(logits_BKHW: Tensor, target_BHW: Tensor) -> None:
    logits_shape, target_shape = tuple(logits_BKHW.shape), tuple(target_BHW.shape)
    if len(logits_shape) != 4 or target_shape != (logits_shape[0], *logits_shape[2:]):
        message = (
            f"logits of shape {logits_shape} and a target of shape {target_shape} do not belong together: they are "
            f"(batch, classes, rows, columns) and (batch, rows, columns). The labels were probably not brought to "
            f"the grid of the head's logits: use nearest neighbour to {logits_shape[-2:]}."
        )
        raise GeometryMismatch(message)
    if target_BHW.is_floating_point() or target_BHW.is_complex():
        message = (
            f"the target holds {target_BHW.dtype} values, and labels are whole numbers. They were probably resized "
            f"with a mode that mixes neighbours: resize with nearest neighbour, then convert with .long()."
        )
        raise UnusableLabel(message)
    if logits_shape[1] < 2:
        message = (
            f"the logits have {logits_shape[1]} class, and the loss needs background and at least one more. A "
            f"head for one organ has two: build it with classes=2."
        )
        raise UsageError(message)
