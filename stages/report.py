"""report: runs -> report/. One page that says what was compared, on whom, how sure it is, and what it looks like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np

from ..heads.base import asks_reference
from ..heads.comparison import Standing, standings
from ..store.documents import readable_json
from ..store.embeddings import Embeddings
from ..store.places import Place
from ..store.provenance import code_version
from ..store.runs import Run
from ..store.workspace import Workspace
from .reporting.cases import Case, PicturedVolume, cases_of
from .reporting.costs import encoding_cost
from .reporting.figures import distributions, gates, label_efficiency, training_curves
from .reporting.spectra import spectrum
from .reporting.table import LeftOut, Row, reportable, table_csv, tabulate, told_heads, told_test_sets

# Okabe and Ito's palette, which colour-blind readers tell apart, without its black.
_CLASS_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")


def write_report(workspace: Workspace, folder: Place) -> Place:
    """Write ``index.html``, ``table.csv`` and ``table.json``.

    Returns
    -------
    Place
        The page.
    """
    runs, left_out = reportable(workspace)
    rows = tabulate(runs)
    page = folder / "index.html"
    # All of it, or what was there before: a prediction that is damaged is found when the page is made.
    content = _page(workspace, runs, left_out, rows).encode()
    (folder / "table.csv").publish(table_csv(rows).encode())
    (folder / "table.json").publish(readable_json([asdict(row) for row in rows]))
    page.publish(content)
    return page


def _page(workspace: Workspace, runs: Sequence[Run], left_out: Sequence[LeftOut], rows: Sequence[Row]) -> str:
    template = files("samkit.stages.reporting").joinpath("page.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    volumes = list(workspace.volumes.values())
    used = {run.settings.recipe_id for run in runs}
    recipes = [embeddings for embeddings in workspace.recipes().values() if embeddings.recipe.id in used]
    cases, pictured = cases_of(workspace, _pictured(rows, workspace))
    plots = (label_efficiency(rows), distributions(runs, rows), training_curves(runs, rows), gates(runs, rows))
    costs = (encoding_cost(embeddings, runs) for embeddings in recipes)
    names = told_heads(rows)
    return environment.from_string(template).render(
        rows=rows,
        dataset={
            "volumes": len(volumes),
            "labelled": sum(volume.labelled for volume in volumes),
            "subjects": len({volume.subject for volume in volumes}),
            "slices": sum(len(volume.slice_digests) for volume in volumes),
            "labels": ", ".join(workspace.label_names.values()),
        },
        recipes=[embeddings.recipe for embeddings in recipes],
        runs=runs,
        left_out=left_out,
        told_test_sets=told_test_sets(rows),
        seeded=any(not row.encoder_trained for row in rows),
        scored=_scored(runs),
        prompted=sorted({names[run.id] for run in runs if asks_reference(run.settings.head, run.settings.head_config)}),
        standings=_standings(runs, rows),
        plots=[plot for plot in plots if plot is not None],
        costs=[cost for cost in costs if cost is not None],
        cases=cases,
        pictured=pictured,
        spectra=_spectra(workspace, recipes, cases, pictured),
        viewer={"cases": [_case_json(case) for case in cases], "volumes": _volumes_json(pictured)},
        colours={
            name: _CLASS_COLOURS[number % len(_CLASS_COLOURS)]
            for number, name in enumerate(workspace.label_names.values())
        },
        code_version=code_version(),
        percent=lambda value: "-" if value is None else f"{100 * value:.1f}",
        number=lambda value: "-" if value is None else f"{value:.1f}",
    )


def _scored(runs: Sequence[Run]) -> dict[str, int]:
    """Return how many subjects are scored, by the name of the split that keeps them for it."""
    subjects: dict[str, set[str]] = {}
    for run in runs:
        subjects.setdefault(run.settings.split, set()).update(volume["subject"] for volume in run.scores)
    return {split: len(found) for split, found in sorted(subjects.items())}


def _standings(runs: Sequence[Run], rows: Sequence[Row]) -> list[Standing]:
    """Compare what the table tells apart, where there is more than one of it at a number of subjects."""
    names = told_heads(rows)
    found = standings(runs, lambda run: names[run.id])
    # Those that are compared have one best, whose name tells its test set where there are several.
    beside = Counter((one.amount, one.prompted, one.best) for one in found)
    return [one for one in found if beside[one.amount, one.prompted, one.best] > 1]


def _pictured(rows: Sequence[Row], workspace: Workspace) -> dict[str, Run]:
    """Return the first draw of each experiment at its most subjects, by name: ``linear@5#0 (steps 45)``."""
    names, runs = told_heads(rows), workspace.runs
    chosen = {names[row.run_ids[0]]: row for row in rows}  # in the order of subjects: the last one stands
    pictured = {}
    for name, row in chosen.items():
        run = runs[row.run_ids[0]]
        pictured[run.alias + name.removeprefix(row.head)] = run
    return pictured


# -- what the page's script is given ---------------------------------------------------------------


def _case_json(case: Case) -> dict[str, Any]:
    return {"volume": case.volume_id, "first": case.first, "found": list(case.found)}


def _volumes_json(pictured: dict[str, PicturedVolume]) -> dict[str, Any]:
    return {
        name: {
            "positions": list(volume.positions),
            "slices": volume.slices,
            "pictures": list(volume.pictures),
            "reference": list(volume.reference),
        }
        for name, volume in pictured.items()
    }


# -- embeddings ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Spectrum:
    """One slice beside its embedding."""

    recipe: str
    volume: PicturedVolume
    #: Which of the volume's positions.
    position: int
    data: str


def _spectra(
    workspace: Workspace, recipes: Sequence[Embeddings], cases: Sequence[Case], pictured: dict[str, PicturedVolume]
) -> list[_Spectrum]:
    """Return a slice of the first median case of each recipe, beside its embedding, where it has one."""
    found = []
    for embeddings in recipes:
        of_recipe = [case for case in cases if workspace.runs[case.run_id].settings.recipe_id == embeddings.recipe.id]
        case = next((case for case in of_recipe if case.place == "median"), of_recipe[0] if of_recipe else None)
        if case is None:
            continue
        volume = pictured[case.volume_id]
        largest = int(np.argmax([sum(map(len, outline.values())) for outline in volume.reference]))
        data = spectrum(embeddings, workspace.volumes[volume.id], volume.positions[largest])
        if data is not None:
            found.append(_Spectrum(recipe=embeddings.recipe.folder_name, volume=volume, position=largest, data=data))
    return found
