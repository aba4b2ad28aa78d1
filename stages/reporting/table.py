"""The table of runs: what was compared, class by class, over draws."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...heads.averages import Measure, Spread, mean_accuracy, mean_by_class, mean_over_classes, over_draws, unlike_draws
from ...heads.base import head_words
from ...heads.metrics import ScoredVolume
from ...heads.views import words_for
from ...store.errors import MissingRun
from ...store.keys import content_id
from ...store.runs import NO_ENCODER, Run, RunSettings, stale_because
from ...store.workspace import Workspace

ALL_CLASSES = "all classes"
# A message names so many runs, and counts the rest.
_NAMED = 3
_DIGITS = 6
_MEASURES: tuple[Measure, ...] = ("dice", "iou", "hd95", "assd")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table: one head, one number of labelled subjects, one class (or the mean of all)."""

    encoder: str
    recipe_id: str
    #: False where the encoder's weights came from a seed.
    encoder_trained: bool
    #: As it is typed, with those of its own options that differ from their defaults: ``ladder:gate=fixed``.
    head: str
    #: What tells this experiment from others of its head, and its test set from others of the table ("split two, steps
    #: 45"), else empty.
    head_settings: str
    split: str
    split_digest: str
    #: A hash of the volumes scored, with their references: rows of different ones cannot be compared.
    test_set: str
    #: How many were drawn.
    subjects: int
    #: Of what: ``subjects``, or ``frames``, which are labelled volumes one by one.
    counted: str
    #: Labelled volumes drawn, in the first draw.
    volumes: int
    draws: int
    #: Draws that drew other volumes than those before them: in a small pool two draws may be the same. Every number of
    #: the row is of these.
    unlike_draws: int
    class_name: str
    dice: Spread
    iou: Spread
    hd95: Spread
    assd: Spread
    #: "mm", "voxels" or "mixed"; of hd95 and assd.
    distance_unit: str
    #: By voxel, background included; only in the row of the mean.
    accuracy: Spread | None
    #: Volumes over these draws in which the head found nothing of a class that is there.
    prediction_empty: int
    #: Volumes over these draws in which the head found a class that is not there.
    false_positives: int
    #: Mean seconds to fit the head.
    fitting_seconds: float
    #: Of the process, the largest of the draws: what the machine needs for one run.
    peak_memory_bytes: int
    trainable_parameters: int
    #: One a draw, of unlike ones.
    run_ids: tuple[str, ...]
    #: Of draws that drew the same as one of those: they enter no number.
    alike_run_ids: tuple[str, ...]

    @property
    def amount(self) -> str:
        """How many were drawn, as people are told: ``5``, or ``5 frames``."""
        return str(self.subjects) if self.counted == "subjects" else f"{self.subjects} {self.counted}"

    @property
    def told_draws(self) -> str:
        """How many draws, as people are told: ``5``, or ``5 (4 unlike)``."""
        return f"{self.draws}" if self.unlike_draws == self.draws else f"{self.draws} ({self.unlike_draws} unlike)"

    @property
    def on_recipe(self) -> bool:
        """Whether an encoder's recipe is behind it: false of a head that sees slices alone."""
        return self.recipe_id != NO_ENCODER

    @property
    def told_head(self) -> str:
        """The head, with what tells this experiment from others like it: ``linear (steps 45)``."""
        return f"{self.head} ({self.head_settings})" if self.head_settings else self.head


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A run that enters no average, and why."""

    run_id: str
    alias: str
    reason: str


def reportable(workspace: Workspace) -> tuple[list[Run], list[LeftOut]]:
    """Return the runs that describe the workspace's volumes as they are now, oldest first, and the others.

    Raises
    ------
    MissingRun
        When there are no runs, or none that can be reported on.
    """
    volumes = workspace.volumes
    left_out: list[LeftOut] = []
    newest: dict[tuple[str, int], Run] = {}
    for run in workspace.runs.values():
        reason = stale_because(run, volumes)
        if reason is not None:
            left_out.append(_left_out(run, reason))
            continue
        # The same draw twice: a drawn subject got another labelled volume in between.
        place = (run.settings.experiment, run.settings.draw)
        if place in newest:
            left_out.append(
                _left_out(newest.pop(place), f"the same draw was trained again, on other volumes: {run.id}")
            )
        newest[place] = run
    if left_out and not newest:
        told = "; ".join(f"{left.run_id}: {left.reason}" for left in left_out[:_NAMED])
        more = f"; and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
        message = (
            f"{workspace.path}: every run is stale, so there is nothing to report on ({told}{more}). "
            f"Train on the volumes as they are now: samkit train-head linear --volumes 1"
        )
        raise MissingRun(message)
    return list(newest.values()), left_out


def tabulate(runs: Iterable[Run]) -> list[Row]:
    """Summarise runs: draws of one experiment become one group of rows; unlike experiments never mix.

    Raises
    ------
    MissingRun
        When there are no runs.
    """
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.settings.experiment].append(run)
    if not groups:
        message = "there are no runs to report on. Train one: samkit train-head linear --volumes 1"
        raise MissingRun(message)
    ordered = sorted(groups.values(), key=lambda group: _place_of(group[0].settings))
    told = _differences([group[0].settings for group in ordered])
    return [row for group, settings in zip(ordered, told, strict=True) for row in _rows(group, settings)]


def told_heads(rows: Sequence[Row]) -> dict[str, str]:
    """Return what the table calls the head of each run, by the run's id: with its encoder where there are several."""
    several = several_recipes(rows)
    return {
        run_id: row.told_head + (f" on {row.encoder} {row.recipe_id}" if several and row.on_recipe else "")
        for row in rows
        for run_id in (*row.run_ids, *row.alike_run_ids)
    }


def several_recipes(rows: Iterable[Row]) -> bool:
    """Return whether heads have to be told apart by what they stand on; one that sees slices alone stands on none."""
    return len({row.recipe_id for row in rows if row.on_recipe}) > 1


def told_test_sets(rows: Iterable[Row]) -> str | None:
    """Say that rows of different test sets cannot be compared, where there are such."""
    count = len({row.test_set for row in rows})
    if count < 2:
        return None
    return (
        f"{count} different test sets were scored, as the names of the rows say: rows of one can be compared, rows of "
        f"different ones cannot."
    )


def table_csv(rows: Sequence[Row]) -> str:
    """Return the table as CSV, one line a row, the spread of each measure in columns of its own."""
    text = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        flat = _flat(row)
        if writer is None:
            writer = csv.DictWriter(text, fieldnames=list(flat), lineterminator="\n")
            writer.writeheader()
        writer.writerow(flat)
    return text.getvalue()


def _left_out(run: Run, reason: str) -> LeftOut:
    return LeftOut(run_id=run.id, alias=run.alias, reason=reason)


def _place_of(settings: RunSettings) -> tuple[int, str, str]:
    return settings.subjects, settings.amount, _typed(settings)


def _typed(settings: RunSettings) -> str:
    return head_words(settings.head, settings.head_config)


def _differences(experiments: Sequence[RunSettings]) -> list[str]:
    """Say of each experiment how it differs from others of its head and recipe, and on whom it was scored, or nothing.

    Of other numbers of subjects too: 30 steps on one and 3000 on five are no curve of what labels bring. Who was scored
    is told where it differs between any two: by the name of the split, and where one has changed by what it was.
    """
    parts = [_flat_parts(settings) for settings in experiments]
    flat = [_flat_settings(settings) for settings in experiments]
    of_split: dict[str, list[dict[str, str]]] = defaultdict(list)
    of_head: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for settings, its_parts, values in zip(experiments, parts, flat, strict=True):
        of_split[settings.split].append(its_parts)
        of_head[_typed(settings), settings.recipe_id].append(values)
    told = []
    for settings, its_parts, values in zip(experiments, parts, flat, strict=True):
        differences = {"split": settings.split} if len(of_split) > 1 else {}
        differences |= _not_shared(its_parts, of_split[settings.split])
        differences |= _not_shared(values, of_head[_typed(settings), settings.recipe_id])
        told.append(", ".join(f"{name} {value}" for name, value in differences.items()))
    return told


def _not_shared(values: Mapping[str, str], others: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return those of some values that not all of the others have."""
    return {name: value for name, value in values.items() if {other.get(name) for other in others} != {value}}


def _flat_parts(settings: RunSettings) -> dict[str, str]:
    """Return who was drawn from and who was scored: of what is too long to print, enough of its digest."""
    return {"split digest": settings.split_digest[:_DIGITS], "test set": _test_set(settings)[:_DIGITS]}


def _test_set(settings: RunSettings) -> str:
    return content_id(dict(settings.scored_volumes))


def _flat_settings(settings: RunSettings) -> dict[str, str]:
    """Return how experiments can differ, but for their subjects, as short texts, by a name that a reader knows."""
    flat = {"seed": f"{settings.seed}", "revision": f"{settings.revision}"}
    flat["tiles"] = "none" if settings.tiles is None else f"{settings.tiles:g}"
    flat["views"] = words_for(settings.views)
    flat |= {name.replace("_", " "): _short(value) for name, value in settings.training.items()}
    flat |= {name.replace("_", " "): _short(value) for name, value in settings.head_config.items()}
    flat["labels"] = "/".join(f"{value}={name}" for value, name in settings.label_names.items())
    return flat


def _short(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rows(group: Sequence[Run], head_settings: str) -> list[Row]:
    """Return the rows of one head at one number of subjects: each class, then the mean."""
    unlike = unlike_draws(group)
    first = unlike[0]
    entered = tuple(run.id for run in unlike)
    scored = [[ScoredVolume.from_json(volume) for volume in run.scores] for run in unlike]
    by_draw = [{**mean_by_class(volumes), ALL_CLASSES: mean_over_classes(volumes)} for volumes in scored]
    rows = []
    # By number, as labels are: runs from before scored their classes in the order of the numbers' text.
    order = [*first.settings.label_names.values(), ALL_CLASSES]
    for name in sorted(by_draw[0], key=order.index):
        means = [draw[name] for draw in by_draw]
        spreads = {
            measure: over_draws([getattr(mean, measure) for mean in means], measure=measure) for measure in _MEASURES
        }
        rows.append(
            Row(
                encoder=first.settings.encoder,
                recipe_id=first.settings.recipe_id,
                encoder_trained=first.record["encoder_trained"],
                head=_typed(first.settings),
                head_settings=head_settings,
                split=first.settings.split,
                split_digest=first.settings.split_digest,
                test_set=_test_set(first.settings),
                subjects=first.settings.subjects,
                counted=first.settings.counted,
                volumes=len(first.settings.drawn_volumes),
                draws=len(group),
                unlike_draws=len(unlike),
                class_name=name,
                dice=spreads["dice"],
                iou=spreads["iou"],
                hd95=spreads["hd95"],
                assd=spreads["assd"],
                distance_unit=means[0].distance_unit,
                accuracy=over_draws([mean_accuracy(volumes) for volumes in scored], measure="accuracy")
                if name == ALL_CLASSES
                else None,
                prediction_empty=sum(mean.prediction_empty for mean in means),
                false_positives=sum(mean.reference_empty for mean in means),
                fitting_seconds=float(np.mean([run.record["seconds"]["fitting"] for run in unlike])),
                peak_memory_bytes=max(run.record["peak_memory_bytes"] for run in unlike),
                trainable_parameters=first.record["trainable_parameters"],
                run_ids=entered,
                alike_run_ids=tuple(run.id for run in group if run.id not in entered),
            )
        )
    return rows


def _flat(row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in asdict(row).items():
        if name in (*_MEASURES, "accuracy"):
            for part in ("mean", "standard_deviation", "worst", "draws"):
                flat[f"{name}_{part}"] = None if value is None else value[part]
        elif name in ("run_ids", "alike_run_ids"):
            flat[name] = " ".join(value)
        else:
            flat[name] = value
    return flat
