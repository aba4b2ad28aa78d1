"""Fitting a head: the loop, the schedule, early stopping. It does not care where features come from.

Shapes: B slices in a batch, C channels, h w cells of the embedding, G cells of the logit grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..store.errors import FitDiverged
from .base import Head
from .losses import segmentation_loss


@dataclass(frozen=True, kw_only=True, slots=True)
class FitOptions:
    """How a head is fitted."""

    #: The whole budget; early stopping may end sooner.
    steps: int = 300
    batch_size: int = 8
    learning_rate: float = 1e-3
    #: AdamW's, on weights; biases, norms and tokens (one-dimensional, or a class's own) are left out.
    weight_decay: float = 0.01
    #: Share of the steps during which the rate rises from 0.
    warmup_share: float = 0.05
    #: Validation happens this often, where there is a validation subject.
    validate_every: int = 25
    #: Validations without a better score before stopping.
    patience: int = 6

    def to_json(self) -> dict[str, Any]:
        """Return the options as they are kept in a run."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What happened in one step."""

    number: int
    loss: float
    cross_entropy: float
    dice_loss: float
    learning_rate: float
    #: Mean foreground Dice of the validation subject on the logit grid, where it was looked at in this step.
    validation_dice: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the step as it is kept in a run."""
        return asdict(self)


def learning_rate_at(step: int, options: FitOptions) -> float:
    """Return the rate of a step (from 0): a linear rise, then half a cosine down to 0.

    >>> options = FitOptions(steps=100, learning_rate=1.0, warmup_share=0.1)
    >>> [round(learning_rate_at(step, options), 3) for step in (0, 9, 10, 55, 99)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    warmup = max(1, round(options.steps * options.warmup_share))
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, options.steps - warmup)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def fit(
    head: Head,
    batches: Iterator[tuple[Tensor, Tensor]],
    options: FitOptions,
    *,
    validate: Callable[[Head], float] | None = None,
) -> Iterator[Step]:
    """Fit a head in place, yielding after each step.

    With ``validate`` the head ends with the weights of its best validation; without, with its last.

    Parameters
    ----------
    head
        On its device. Exactly the parameters that require a gradient are changed.
    batches
        Endless (features (B, C, h, w), labels (B, G, G) as class indices with `losses.IGNORED`).
    options
        Steps, rates and patience.
    validate
        Returns a score of the head in eval mode; higher is better.

    Raises
    ------
    FitDiverged
        At the first loss that is not finite.
    """
    optimiser = torch.optim.AdamW(_parameter_groups(head, options.weight_decay), lr=options.learning_rate)
    best_score, best_weights, without_better = -math.inf, None, 0
    head.train()
    for number in range(options.steps):
        features, labels = next(batches)
        rate = learning_rate_at(number, options)
        for group in optimiser.param_groups:
            group["lr"] = rate
        parts = segmentation_loss(head(features), labels)
        if not torch.isfinite(parts.total):
            message = (
                f"the loss is {float(parts.total.detach())} at step {number + 1} of {options.steps}, with a learning "
                f"rate of {rate:g}: the fit has diverged. "
                f"Try a lower one: --learning-rate {options.learning_rate / 10:g}"
            )
            raise FitDiverged(message)
        optimiser.zero_grad(set_to_none=True)
        parts.total.backward()
        optimiser.step()
        score = None
        if validate is not None and ((number + 1) % options.validate_every == 0 or number + 1 == options.steps):
            head.eval()
            score = validate(head)
            head.train()
            if score > best_score:
                best_score, without_better = score, 0
                best_weights = {name: tensor.clone() for name, tensor in head.state_dict().items()}
            else:
                without_better += 1
        yield Step(
            number=number,
            loss=float(parts.total.detach()),
            cross_entropy=float(parts.cross_entropy.detach()),
            dice_loss=float(parts.dice.detach()),
            learning_rate=rate,
            validation_dice=score,
        )
        if without_better >= options.patience:
            break
    if best_weights is not None:
        head.load_state_dict(best_weights)
    head.eval()


def _parameter_groups(head: Head, weight_decay: float) -> list[dict[str, Any]]:
    trained = [(name, parameter) for name, parameter in head.named_parameters() if parameter.requires_grad]
    spared = [parameter for name, parameter in trained if parameter.ndim <= 1 or name.endswith("tokens")]
    decayed = [parameter for name, parameter in trained if not (parameter.ndim <= 1 or name.endswith("tokens"))]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
