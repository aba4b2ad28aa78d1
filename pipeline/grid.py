"""A grid of runs: every head on every draw, so that heads are compared on the same subjects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..heads.base import find_head, parse_head
from ..heads.feeding import AS_THEY_ARE
from ..heads.recipes import OWN, chosen_fit
from ..heads.sampling import SUBJECTS, Draw
from ..stages.training.plan import TrainOptions, embeddings_for, plan_run
from ..store.embeddings import Embeddings
from ..store.errors import UsageError
from ..store.pretrained import PretrainingSettings
from ..store.splits import DEFAULT_SPLIT
from ..store.workspace import Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """What is compared, and on what."""

    #: As they are typed, with their options: ``ladder:gate=fixed``.
    heads: tuple[str, ...]
    #: Numbers of labelled subjects, or of frames.
    subjects: tuple[int, ...]
    #: Which of the two.
    counted: str = SUBJECTS
    draws: int
    recipe: str = OWN
    #: Of every head that takes steps; None for what the recipe says.
    steps: int | None = None
    split: str = DEFAULT_SPLIT
    seed: int = 0
    views: tuple[str, ...] = AS_THEY_ARE
    tiles: float | None = None
    device: str = "cpu"
    #: None for what the recipe says.
    precision: str | None = None
    #: Whether one subject of a draw of three or more is kept to stop by; None for what the recipe says.
    validation: bool | None = None
    #: A checkpoint for the CNN of the heads that have one.
    cnn_weights: Path | None = None
    #: Of what heads learn without labels before, where they do; None for their own.
    pretraining_steps: int | None = None

    def __post_init__(self) -> None:
        for name, values in (("heads", self.heads), ("volumes", self.subjects)):
            if len(set(values)) < len(values) or not values:
                message = f"--{name} {','.join(map(str, values))}: name each once, and at least one."
                raise UsageError(message)
        for name, least in (("volumes", min(self.subjects)), ("draws", self.draws)):
            if least < 1:
                message = f"--{name} {least}: give at least 1."
                raise UsageError(message)

    def cells(self) -> list[TrainOptions]:
        """Return the options of every run: draw after draw, so that a grid that is stopped compares what it has.

        A head that is not trained is one run, of no subject.
        """
        chosen = [parse_head(text) for text in self.heads]
        as_they_are = [self._cell(head, options, 0, 0) for head, options in chosen if find_head(head).zero_shot]
        return as_they_are + [
            self._cell(head, options, subjects, draw)
            for draw in range(self.draws)
            for subjects in self.subjects
            for head, options in chosen
            if not find_head(head).zero_shot
        ]

    def _cell(self, head: str, options: Mapping[str, str], subjects: int, draw: int) -> TrainOptions:
        of_features = _sees_a_recipe(head)
        return TrainOptions(
            head=head,
            head_options=options,
            subjects=subjects,
            counted=self.counted if subjects else SUBJECTS,
            draw=draw,
            split=self.split,
            seed=self.seed,
            fit=chosen_fit(
                find_head(head).own_fit,
                self.recipe,
                steps=self.steps,
                precision=self.precision,
                validation=self.validation,
            ),
            device=self.device,
            cnn_weights=self.cnn_weights if find_head(head).takes_cnn_weights else None,
            pretraining_steps=None if find_head(head).contrast is None else self.pretraining_steps,
            tiles=self.tiles if of_features else None,
            views=self.views if subjects else AS_THEY_ARE,
        )

    @property
    def needs_features(self) -> bool:
        """Whether an encoder's recipe decides what any of the heads is."""
        return any(_sees_a_recipe(parse_head(text)[0]) for text in self.heads)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """A run of a grid before it is trained."""

    options: TrainOptions
    #: Of the embeddings it is trained on; None where its head sees the slices.
    recipe_id: str | None
    run_id: str
    draw: Draw
    #: What it begins from, where its head learns without labels before.
    pretraining: PretrainingSettings | None


def plan_grid(workspace: Workspace, encoder: str | None, grid: Grid, *, keeps_split: bool = True) -> list[PlannedRun]:
    """Return every run of a grid; what one would be refused for is refused before the first begins.

    ``encoder`` is whose embeddings, as for `embeddings_for`; ``keeps_split`` is that of `plan_run`. What is raised is
    that of `train.train`. The heads themselves are let go: a grid may have many.
    """
    found: dict[str, Embeddings | None] = {}

    def planned(options: TrainOptions) -> PlannedRun:
        head_class = find_head(options.head)
        text = f"{options.head} {sorted(options.head_options.items())}"
        if text not in found:
            found[text] = embeddings_for(workspace, head_class, options.head_options, encoder)
        plan = plan_run(workspace, found[text], head_class, options, keeps_split=keeps_split)
        recipe_id = None if found[text] is None else plan.settings.recipe_id
        return PlannedRun(
            options=options,
            recipe_id=recipe_id,
            run_id=plan.settings.run_id,
            draw=plan.draw,
            pretraining=plan.pretraining,
        )

    return [planned(options) for options in grid.cells()]


def _sees_a_recipe(head: str) -> bool:
    return find_head(head).sees.recipe
