"""Fitting a head: the loop, the schedule, early stopping. It does not care where features come from.

Shapes: B slices in a batch, C channels, h w cells of the embedding, G cells of the logit grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..store.errors import FitDiverged
from .base import Head
from .losses import segmentation_loss
from .recipes import BFLOAT16, FitOptions, Optimiser, Schedule
from .seen import Seen

_POLYNOMIAL_POWER = 0.9
# AutoSAM's, scripts/main_autosam_seg.py:324.
_FIRST_PLATEAU_EPOCH = 10


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
    #: What the head says of itself beside its losses, such as the ladder's gate.
    told: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the step as it is kept in a run."""
        return asdict(self)


def learning_rate_at(step: int, options: FitOptions) -> float:
    """Return the rate of a step (from 0) of a schedule that does not look at losses.

    >>> options = FitOptions(steps=100, learning_rate=1.0, warmup_share=0.1)
    >>> [round(learning_rate_at(step, options), 3) for step in (0, 9, 10, 55, 99)]
    [0.1, 1.0, 1.0, 0.5, 0.0]

    SAM-LST's, trainer.py:55-56 and 83-95, sets the rate after each step, so that the first two are alike:

    >>> options = FitOptions(steps=1000, learning_rate=1.0, schedule=Schedule.POLYNOMIAL, warmup_steps=250)
    >>> [round(learning_rate_at(step, options), 3) for step in (0, 1, 250, 251, 999)]
    [0.004, 0.004, 1.0, 1.0, 0.289]
    """
    warmup = options.rising_steps
    if options.schedule is Schedule.POLYNOMIAL:
        if step <= warmup:
            return options.learning_rate * max(1, step) / max(1, warmup)
        progress = (step - 1 - warmup) / options.steps
        rate: float = options.learning_rate * (1 - progress) ** _POLYNOMIAL_POWER
        return rate
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, options.steps - warmup)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


class _Rates:
    """The rate of each step, set in an optimiser."""

    def __init__(self, optimiser: torch.optim.Optimizer, options: FitOptions, steps_an_epoch: int) -> None:
        self._optimiser, self._options, self._steps_an_epoch = optimiser, options, steps_an_epoch
        self._plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        if options.schedule is Schedule.PLATEAU:
            self._plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser)

    def before(self, step: int) -> float:
        """Set the rate of a step, and return it."""
        if self._plateau is None:
            for group in self._optimiser.param_groups:
                group["lr"] = learning_rate_at(step, self._options)
        rate: float = self._optimiser.param_groups[0]["lr"]
        return rate

    def after(self, step: int, loss: float) -> None:
        """Learn what a step's loss was."""
        epoch, place = divmod(step, self._steps_an_epoch)
        if self._plateau is not None and place == self._steps_an_epoch - 1 and epoch >= _FIRST_PLATEAU_EPOCH:
            self._plateau.step(loss)


def fit(
    head: Head,
    batches: Iterator[tuple[Seen, Tensor]],
    options: FitOptions,
    *,
    rows: int | None = None,
    validate: Callable[[Head], float] | None = None,
) -> Iterator[Step]:
    """Fit a head in place, yielding after each step.

    With ``validate`` the head ends with the weights of its best validation, of equal ones the first, of none above 0
    the last; without, with its last weights.

    Parameters
    ----------
    head
        On its device. Exactly the parameters that require a gradient are changed.
    batches
        Endless (what the head sees, labels (B, G, G) as class indices with `losses.IGNORED`).
    options
        Steps, rates and patience.
    rows
        How many there are, for what is told in epochs; without, an epoch is a step.
    validate
        Returns a score of the head in eval mode, 0 or more; higher is better.

    Raises
    ------
    FitDiverged
        At the first loss that is not finite.
    """
    if rows is not None:
        options = options.for_rows(rows)
    optimiser = _optimiser(head, options)
    rates = _Rates(optimiser, options, options.steps_an_epoch(rows or 1))
    best_score, best_weights, without_better = 0.0, None, 0
    head.train()
    for number in range(options.steps):
        features, labels = next(batches)
        rate = rates.before(number)
        with torch.autocast(labels.device.type, dtype=torch.bfloat16, enabled=options.precision == BFLOAT16):
            logits = head(features)
        parts = segmentation_loss(
            logits.float(),
            labels,
            cross_entropy_weight=options.cross_entropy_weight,
            dice_weight=options.dice_weight,
            dice_rule=options.dice_rule,
        )
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
        rates.after(number, float(parts.total.detach()))
        score = None
        if validate is not None and _is_validated(number, options):
            head.eval()
            score = validate(head)
            head.train()
            # Before a class is found at all nothing gets worse, and who has learned longest is the best.
            if score > best_score or best_score <= 0:
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
            told=head.told,
        )
        if without_better >= options.patience:
            break
    if best_weights is not None:
        head.load_state_dict(best_weights)
    head.eval()


def _is_validated(number: int, options: FitOptions) -> bool:
    done = number + 1
    return options.validate_every is not None and (done % options.validate_every == 0 or done == options.steps)


def _optimiser(head: Head, options: FitOptions) -> torch.optim.Optimizer:
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    match options.optimiser:
        case Optimiser.ADAM:
            return torch.optim.Adam(trained, lr=options.learning_rate)
        case Optimiser.ADAMW_ON_ALL:
            return torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=options.weight_decay)
        case Optimiser.ADAMW:
            return torch.optim.AdamW(_parameter_groups(head, options.weight_decay), lr=options.learning_rate)


def _parameter_groups(head: Head, weight_decay: float) -> list[dict[str, Any]]:
    trained = [(name, parameter) for name, parameter in head.named_parameters() if parameter.requires_grad]
    spared = [parameter for name, parameter in trained if parameter.ndim <= 1 or _is_token(name)]
    decayed = [parameter for name, parameter in trained if not (parameter.ndim <= 1 or _is_token(name))]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


def _is_token(name: str) -> bool:
    """Return whether a parameter is a class's own tokens, or SAM's: ``class_tokens``, ``mask_tokens.weight``.

    >>> _is_token("decoder.mask_decoder.iou_token.weight"), _is_token("transformer.layers.0.token_to_image.weight")
    (True, False)
    """
    return any(part.endswith(("_tokens", "_token")) or part == "tokens" for part in name.split("."))
