"""report: runs -> report/. One table that says what was compared, and pictures of what it means."""

from __future__ import annotations

import base64
import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from ..heads.averages import Measure, Spread, mean_accuracy, mean_by_class, mean_over_classes, over_draws
from ..heads.comparison import Standing, standings
from ..heads.metrics import ScoredVolume
from ..heads.views import words_for
from ..store.documents import readable_json
from ..store.errors import DamagedStore, MissingRun
from ..store.keys import content_id
from ..store.places import Place
from ..store.provenance import code_version
from ..store.runs import Run, RunSettings, stale_because
from ..store.slices import Volume
from ..store.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALL_CLASSES = "all classes"
# A message names so many runs, and counts the rest.
_NAMED = 3
_DIGITS = 6
_MEASURES: tuple[Measure, ...] = ("dice", "iou", "hd95", "assd")
# As wide as the page at its widest; a page of a dozen pictures stays below 4 MB.
_PICTURE_INCHES, _PICTURE_DPI = 9.0, 110
# For the titles above and the legend below.
_CAPTIONS_INCHES = 0.7
# Very flat or tall slices (sagittal ones of few, thick slices) keep their proportions inside a panel of these bounds.
_PANEL_HEIGHT_OVER_WIDTH = (0.35, 1.5)
# The patient's side at the left and at the right of the picture, in display orientation (see readers.geometry).
_SIDES = {"axial": ("R", "L"), "coronal": ("R", "L"), "sagittal": ("A", "P")}
# Okabe and Ito's palette, which colour-blind readers tell apart, without its black.
_CONTOUR_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table: one head, one number of labelled subjects, one class (or the mean of all)."""

    encoder: str
    recipe_id: str
    #: False where the encoder's weights came from a seed.
    encoder_trained: bool
    head: str
    #: What tells this experiment from others of one head and number of subjects ("steps 45"), else empty.
    head_settings: str
    #: How many were drawn.
    subjects: int
    #: Of what: ``subjects``, or ``frames``, which are labelled volumes one by one.
    counted: str
    #: Labelled volumes drawn, in the first draw.
    volumes: int
    draws: int
    class_name: str
    dice: Spread
    iou: Spread
    hd95: Spread
    assd: Spread
    #: "mm", "voxels" or "mixed"; of hd95 and assd.
    distance_unit: str
    #: By voxel, background included; only in the row of the mean.
    accuracy: Spread | None
    #: Volumes over all draws in which the head found nothing of a class that is there.
    prediction_empty: int
    #: Volumes over all draws in which the head found a class that is not there.
    false_positives: int
    #: Mean seconds to fit the head.
    fitting_seconds: float
    #: Of the process, the largest of the draws: what the machine needs for one run.
    peak_memory_bytes: int
    trainable_parameters: int
    run_ids: tuple[str, ...]

    @property
    def amount(self) -> str:
        """How many were drawn, as people are told: ``5``, or ``5 frames``."""
        return str(self.subjects) if self.counted == "subjects" else f"{self.subjects} {self.counted}"

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
    return [
        row
        for group, settings in zip(ordered, told, strict=True)
        for row in _rows(sorted(group, key=lambda run: run.settings.draw), settings)
    ]


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


def write_report(workspace: Workspace, folder: Place) -> Place:
    """Write ``index.html``, ``table.csv`` and ``table.json``.

    Returns
    -------
    Place
        The page.
    """
    runs, left_out = reportable(workspace)
    rows = tabulate(runs)
    (folder / "table.csv").publish(table_csv(rows).encode())
    (folder / "table.json").publish(readable_json([asdict(row) for row in rows]))
    page = folder / "index.html"
    page.publish(_page(workspace, runs, left_out, rows).encode())
    return page


# -- the table -------------------------------------------------------------------------------------


def _left_out(run: Run, reason: str) -> LeftOut:
    return LeftOut(run_id=run.id, alias=run.alias, reason=reason)


def _place_of(settings: RunSettings) -> tuple[int, str, str]:
    return settings.subjects, settings.amount, settings.head


def _differences(experiments: Sequence[RunSettings]) -> list[str]:
    """Say of each experiment how it differs from others of its head, recipe and number of subjects, or nothing."""
    alike: dict[tuple[str, str, str], list[dict[str, str]]] = defaultdict(list)
    flat = [_flat_settings(settings) for settings in experiments]
    for settings, values in zip(experiments, flat, strict=True):
        alike[settings.head, settings.recipe_id, settings.amount].append(values)
    told = []
    for settings, values in zip(experiments, flat, strict=True):
        others = alike[settings.head, settings.recipe_id, settings.amount]
        told.append(
            ", ".join(
                f"{name} {value}" for name, value in values.items() if {other.get(name) for other in others} != {value}
            )
        )
    return told


def _flat_settings(settings: RunSettings) -> dict[str, str]:
    """Return what can differ between experiments as short texts, by a name that a reader knows."""
    flat = {"seed": f"{settings.seed}", "split": settings.split}
    flat["tiles"] = "none" if settings.tiles is None else f"{settings.tiles:g}"
    flat["views"] = words_for(settings.views)
    flat |= {name.replace("_", " "): _short(value) for name, value in settings.training.items()}
    flat |= {name.replace("_", " "): _short(value) for name, value in settings.head_config.items()}
    flat["labels"] = "/".join(f"{value}={name}" for value, name in settings.label_names.items())
    # Of what is too long to print, enough of its digest to tell one from another.
    flat["split digest"] = settings.split_digest[:_DIGITS]
    flat["test set"] = content_id(dict(settings.scored_volumes), digits=_DIGITS)
    return flat


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rows(group: Sequence[Run], head_settings: str) -> list[Row]:
    """Return the rows of one head at one number of subjects: each class, then the mean."""
    first = group[0]
    scored = [[ScoredVolume.from_json(volume) for volume in run.scores] for run in group]
    by_draw = [{**mean_by_class(volumes), ALL_CLASSES: mean_over_classes(volumes)} for volumes in scored]
    rows = []
    for name in by_draw[0]:
        means = [draw[name] for draw in by_draw]
        spreads = {
            measure: over_draws([getattr(mean, measure) for mean in means], measure=measure) for measure in _MEASURES
        }
        rows.append(
            Row(
                encoder=first.settings.encoder,
                recipe_id=first.settings.recipe_id,
                encoder_trained=first.record["encoder_trained"],
                head=first.settings.head,
                head_settings=head_settings,
                subjects=first.settings.subjects,
                counted=first.settings.counted,
                volumes=len(first.settings.drawn_volumes),
                draws=len(group),
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
                fitting_seconds=float(np.mean([run.record["seconds"]["fitting"] for run in group])),
                peak_memory_bytes=max(run.record["peak_memory_bytes"] for run in group),
                trainable_parameters=first.record["trainable_parameters"],
                run_ids=tuple(run.id for run in group),
            )
        )
    return rows


def _flat(row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in asdict(row).items():
        if name in (*_MEASURES, "accuracy"):
            for part in ("mean", "standard_deviation", "worst"):
                flat[f"{name}_{part}"] = None if value is None else value[part]
        elif name == "run_ids":
            flat[name] = " ".join(value)
        else:
            flat[name] = value
    return flat


# -- the page --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Picture:
    title: str
    data: str


def _page(workspace: Workspace, runs: Sequence[Run], left_out: Sequence[LeftOut], rows: Sequence[Row]) -> str:
    template = files("samkit.stages").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    volumes = list(workspace.volumes.values())
    return environment.from_string(template).render(
        rows=rows,
        dataset={
            "volumes": len(volumes),
            "labelled": sum(volume.labelled for volume in volumes),
            "subjects": len({volume.subject for volume in volumes}),
            "slices": sum(len(volume.slice_digests) for volume in volumes),
            "labels": ", ".join(workspace.label_names.values()),
        },
        recipes=[embeddings.recipe for embeddings in workspace.recipes().values()],
        runs=runs,
        left_out=left_out,
        seeded=any(not row.encoder_trained for row in rows),
        test_subjects=len({volume["subject"] for run in runs for volume in run.scores}),
        standings=_standings(runs, rows),
        pictures=[picture for run in _pictured(rows, workspace) for picture in _overlays(workspace, run)],
        code_version=code_version(),
        percent=lambda value: "-" if value is None else f"{100 * value:.1f}",
        number=lambda value: "-" if value is None else f"{value:.1f}",
    )


def _standings(runs: Sequence[Run], rows: Sequence[Row]) -> list[Standing]:
    """Compare what the table tells apart, where there is more than one of it at a number of subjects."""
    recipes = {row.recipe_id for row in rows}
    names = {
        run_id: row.told_head + (f" on {row.encoder} {row.recipe_id}" if len(recipes) > 1 else "")
        for row in rows
        for run_id in row.run_ids
    }
    found = standings(runs, lambda run: names[run.id])
    return [one for one in found if sum(other.amount == one.amount for other in found) > 1]


def _pictured(rows: Sequence[Row], workspace: Workspace) -> list[Run]:
    """Return the first draw of each head at its largest number of subjects."""
    chosen: dict[str, str] = {}
    for row in rows:  # in the order of subjects: the last one stands
        chosen[row.head] = row.run_ids[0]
    return [workspace.runs[run_id] for run_id in chosen.values()]


def _overlays(workspace: Workspace, run: Run) -> list[_Picture]:
    """Return pictures of the worst, the median and the best test volume of a run."""
    predictions = run.predictions
    graded = []
    for volume in run.scores:
        found = [score["dice"] for score in volume["scores"] if score["dice"] is not None]
        if found:
            graded.append((float(np.mean(found)), volume["volume_id"]))
    graded.sort()
    if not graded:
        return []
    # Of one or two test volumes each is shown once.
    places = {len(graded) // 2: "median", len(graded) - 1: "best", 0: "worst"}
    if len(graded) == 1:
        places = {0: "only"}
    pictures = []
    for place in sorted(places):
        dice, volume_id = graded[place]
        title = f"{run.alias}: {places[place]} volume, {volume_id}, Dice {100 * dice:.1f} %"
        data = _overlay(workspace.volumes[volume_id], predictions[volume_id])
        pictures.append(_Picture(title=title, data=data))
    return pictures


def _overlay(volume: Volume, prediction: NDArray[np.unsignedinteger[Any]]) -> str:
    """Draw the slice with most wrong pixels, as a base64 PNG: the image, the reference on it, the prediction on it."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    reference = volume.read_label()
    if reference is None:  # what is scored has a label, and a run whose volumes changed is not pictured
        message = f"{volume.id} has no label, and a run was scored on it. Ingest the volume with its label again."
        raise DamagedStore(message)
    worst = int(np.argmax((reference != prediction).sum(axis=(1, 2))))
    image = volume.read_slice(worst)[0].astype(np.float32)
    rows, columns = image.shape
    pixel_aspect = 1.0 if volume.spacing_mm is None else volume.spacing_mm[1] / volume.spacing_mm[2]
    height = _PICTURE_INCHES / 3 * float(np.clip(pixel_aspect * rows / columns, *_PANEL_HEIGHT_OVER_WIDTH))
    figure = Figure(figsize=(_PICTURE_INCHES, height + _CAPTIONS_INCHES), layout="constrained")
    shown = {
        f"slice {worst + 1} of {len(reference)}": None,
        "reference": reference[worst],
        "prediction": prediction[worst],
    }
    colours = {
        value: _CONTOUR_COLOURS[number % len(_CONTOUR_COLOURS)] for number, value in enumerate(volume.label_names)
    }
    for axis, (title, label) in zip(figure.subplots(1, 3), shown.items(), strict=True):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1, aspect=pixel_aspect, interpolation="nearest")
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
        if label is not None:
            _draw_contours(axis, label, colours)
        for place, letter in zip((0.02, 0.98), _SIDES.get(volume.record.orientation["plane"], ("", "")), strict=True):
            axis.text(place, 0.5, letter, transform=axis.transAxes, color="white", fontsize=8, ha="center", va="center")
    seen = [value for value in colours if value in reference[worst] or value in prediction[worst]]
    if seen:
        lines = [Line2D([], [], color=colours[value], linewidth=2, label=volume.label_names[value]) for value in seen]
        figure.legend(handles=lines, loc="outside lower center", ncols=min(len(lines), 6), frameon=False, fontsize=9)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=_PICTURE_DPI)
    return base64.b64encode(data.getvalue()).decode()


def _draw_contours(axis: Axes, label: NDArray[np.unsignedinteger[Any]], colours: Mapping[int, str]) -> None:
    """Outline each class of a (rows, columns) label map."""
    from matplotlib.patheffects import Normal, Stroke

    # A border of background closes the outline of what touches the edge.
    padded = np.pad(label, 1)
    rows, columns = (np.arange(-1, size + 1) for size in label.shape)
    for value, colour in colours.items():
        if (label == value).any():
            drawn = axis.contour(columns, rows, padded == value, levels=[0.5], colors=[colour], linewidths=1.3)
            # Dark under light: seen on bright bowel and on black lung alike.
            drawn.set_path_effects([Stroke(linewidth=2.6, foreground="black"), Normal()])
    axis.set_xlim(-0.5, label.shape[1] - 0.5)
    axis.set_ylim(label.shape[0] - 0.5, -0.5)
