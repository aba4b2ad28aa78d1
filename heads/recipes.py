"""How heads are fitted: everything that decides a fit but its data, and the papers' settings by name.

`own` is each head's own, chosen on development subjects. The others are what a paper's code does, its accidents
included, for tables that are compared with that paper's.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Self

from ..store.errors import UsageError
from ..store.runs import check_name
from .losses import DiceRule

__all__ = [
    "BFLOAT16",
    "FLOAT32",
    "OWN",
    "RECIPES",
    "VALIDATE_EVERY",
    "ContrastOptions",
    "FitOptions",
    "Optimiser",
    "Schedule",
    "chosen_fit",
    "swept",
]

OWN = "own"
VALIDATE_EVERY = 25
"""Steps between validations, where there are any."""
FLOAT32, BFLOAT16 = "float32", "bfloat16"


class Optimiser(StrEnum):
    """Which rule moves the weights."""

    ADAMW = "adamw"
    """Decays weights; biases, norms and tokens (one-dimensional, or a class's own) are left out."""
    ADAMW_ON_ALL = "adamw on all"
    """Decays everything that is trained."""
    ADAM = "adam"
    """Without decay."""


class Schedule(StrEnum):
    """How the learning rate changes."""

    COSINE = "cosine"
    """Rises in a straight line to the rate asked for, then falls in half a cosine to 0."""
    POLYNOMIAL = "polynomial"
    """Rises, then falls as (1 - progress) to the power of 0.9, where the steps of the rise are not counted."""
    PLATEAU = "plateau"
    """A tenth of it after eleven epochs in which the last batch's loss was no better; looked at from epoch ten on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitOptions:
    """How a head is fitted."""

    #: The whole budget; early stopping may end sooner. Set by `for_rows` where epochs are asked for.
    steps: int = 300
    #: Of the budget, instead of steps.
    epochs: int | None = None
    batch_size: int = 8
    learning_rate: float = 1e-3
    optimiser: Optimiser = Optimiser.ADAMW
    weight_decay: float = 0.01
    schedule: Schedule = Schedule.COSINE
    #: Share of the steps during which the rate rises from 0.
    warmup_share: float = 0.05
    #: The same in steps, instead.
    warmup_steps: int | None = None
    cross_entropy_weight: float = 1.0
    dice_weight: float = 1.0
    dice_rule: DiceRule = DiceRule.PRESENT
    #: Validation happens this often, where there is a validation subject; None keeps none and ends with the last step.
    validate_every: int | None = VALIDATE_EVERY
    #: Validations without a better score before stopping; those before the first score above 0 are not counted.
    patience: int = 6
    #: What a head's own products are computed in, float32 or bfloat16; its weights, its losses and what it predicts are
    #: float32 in both.
    precision: str = FLOAT32

    def for_rows(self, rows: int) -> Self:
        """Return the same with the steps that its epochs take over so many rows.

        >>> FitOptions(epochs=2, batch_size=4).for_rows(9).steps
        6
        """
        return self if self.epochs is None else replace(self, steps=self.epochs * self.steps_an_epoch(rows))

    def steps_an_epoch(self, rows: int) -> int:
        """Return how many batches show every row once."""
        return math.ceil(rows / self.batch_size)

    @property
    def rising_steps(self) -> int:
        """How many steps the rate rises."""
        return max(1, round(self.steps * self.warmup_share)) if self.warmup_steps is None else self.warmup_steps

    def to_json(self) -> dict[str, Any]:
        """Return the options as they are kept in a run: alike for draws whose epochs have unlike numbers of steps."""
        kept = asdict(self)
        if self.epochs is not None:
            del kept["steps"]
        if self.precision == FLOAT32:  # as runs from before there was a choice, which are these
            del kept["precision"]
        return kept


@dataclass(frozen=True, kw_only=True, slots=True)
class ContrastOptions:
    """How a network learns from slices without labels, see `simclr`."""

    steps: int = 300
    #: Slices a step, each seen in two patches: of 256 pixels they take some 3 GB in float32.
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    warmup_share: float = 0.05
    #: AutoSAM's and SimCLR's, config.yaml:25-27.
    temperature: float = 0.5

    def to_json(self) -> dict[str, Any]:
        """Return the options as they are kept."""
        return asdict(self)


RECIPES: Mapping[str, FitOptions] = {
    # reference: scripts/main_autosam_seg.py:44-61, 198-206, 278-325 and loss_functions/dice_loss.py:99-121. The rate
    # follows one noisy batch, and the weights of the last epoch are scored.
    "autosam-paper": FitOptions(
        epochs=120,
        batch_size=4,
        learning_rate=5e-4,
        optimiser=Optimiser.ADAM,
        weight_decay=0.0,
        schedule=Schedule.PLATEAU,
        warmup_steps=0,
        dice_rule=DiceRule.SMOOTHED,
        validate_every=None,
    ),
    # trainer.py:22-26, 38, 55-60, 83-95 and utils.py:61-98, with the flags of its README.
    "sam-lst-paper": FitOptions(
        epochs=200,
        batch_size=24,
        learning_rate=1e-3,
        optimiser=Optimiser.ADAMW_ON_ALL,
        weight_decay=0.1,
        schedule=Schedule.POLYNOMIAL,
        warmup_steps=250,
        cross_entropy_weight=0.2,
        dice_weight=0.8,
        dice_rule=DiceRule.WITH_BACKGROUND,
        validate_every=None,
    ),
}
"""By the name that is typed. Sources: AutoSAM (arXiv 2306.13731) and SAM-LST (arXiv 2306.12737), as their code is."""


def chosen_fit(
    own: FitOptions,
    recipe: str = OWN,
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    precision: str | None = None,
    validation: bool | None = None,
) -> FitOptions:
    """Return a head's own options or a paper's, changed where something else is asked for.

    Parameters
    ----------
    own
        The head's, see `heads.base.Head.own_fit`.
    recipe
        ``own``, or a name among `RECIPES`.
    steps, batch_size, learning_rate, precision
        None for what the recipe says. Steps take the place of its epochs.
    validation
        Whether one subject of a draw of three or more is kept to stop by; None for what the recipe says.

    Raises
    ------
    UsageError
        For an unknown recipe, with the nearest one.
    """
    check_name("recipe", recipe, [OWN, *RECIPES])
    fit = own if recipe == OWN else RECIPES[recipe]
    if steps is not None:
        fit = replace(fit, steps=steps, epochs=None)
    if validation is not None:
        fit = replace(fit, validate_every=(fit.validate_every or VALIDATE_EVERY) if validation else None)
    return replace(
        fit,
        batch_size=fit.batch_size if batch_size is None else batch_size,
        learning_rate=fit.learning_rate if learning_rate is None else learning_rate,
        precision=fit.precision if precision is None else precision,
    )


# What can differ between heads that are given the same batches.
_SWEPT: Mapping[str, type] = {"learning-rate": float, "steps": int, "weight-decay": float}
_LEAST = {"learning-rate": sys.float_info.min, "steps": 1, "weight-decay": 0}


def swept(fit: FitOptions, sweeps: Sequence[str]) -> tuple[FitOptions, ...]:
    """Return a fit with every combination of the values that are named, each once.

    >>> [(one.learning_rate, one.steps) for one in swept(FitOptions(), ["learning-rate=1e-3,1e-2,1e-3", "steps=50"])]
    [(0.001, 50), (0.01, 50)]

    Parameters
    ----------
    sweeps
        ``NAME=VALUE,VALUE`` each, of learning-rate, steps and weight-decay: what the batches do not depend on.

    Raises
    ------
    UsageError
        For another name, or a value that is no positive number.
    """
    choices: dict[str, list[Any]] = {}
    for text in sweeps:
        name, _, values = text.partition("=")
        check_name("sweep", name, list(_SWEPT))
        try:
            choices[name] = list(dict.fromkeys(_SWEPT[name](value) for value in values.split(",")))
        except ValueError:
            choices[name] = []
        if not choices[name] or not all(_LEAST[name] <= value < math.inf for value in choices[name]):
            message = f"--sweep {text}: give numbers joined by commas, for example --sweep learning-rate=1e-3,3e-3."
            raise UsageError(message)
    if "steps" in choices:
        fit = replace(fit, epochs=None)
    names = [name.replace("-", "_") for name in choices]
    combined = [dict(zip(names, values, strict=True)) for values in itertools.product(*choices.values())]
    return tuple(replace(fit, **changed) for changed in combined)
