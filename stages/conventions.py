"""conventions: runs -> their scores by a paper's own rules, from the predictions that they keep."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from ..heads.averages import unlike_draws
from ..heads.conventions import Convention, LabelledCase, mean_by
from ..store.errors import DamagedStore
from ..store.runs import Run
from ..store.workspace import Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class ConventionRow:
    """One class of one head at one number of labelled subjects, by a paper's rules."""

    encoder: str
    #: With what tells its experiment from others like it.
    head: str
    #: How many subjects were drawn; of frames with that word.
    amount: str
    #: Unlike ones.
    draws: int
    class_name: str
    dice: float
    #: Of draws, n - 1; None for one draw.
    dice_standard_deviation: float | None
    hd95_voxels: float
    #: Scored in each draw, as the convention counts them.
    cases: int


def tabulate_by(
    convention: Convention, runs: Iterable[Run], workspace: Workspace, names: Mapping[str, str]
) -> list[ConventionRow]:
    """Score runs again by a paper's rules, the draws of one experiment together.

    Parameters
    ----------
    convention
        The rules.
    runs
        With their predictions.
    workspace
        Where the references are.
    names
        What each run's head is told by, see `reporting.table.told_heads`.

    Raises
    ------
    DamagedStore
        When a volume that was scored has no label any more, or a prediction is not what was kept.
    """
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.settings.experiment].append(run)
    return [row for group in groups.values() for row in _rows(convention, group, workspace, names[group[0].id])]


def _rows(convention: Convention, group: Sequence[Run], workspace: Workspace, name: str) -> Iterator[ConventionRow]:
    unlike = unlike_draws(group)
    by_draw = [mean_by(convention, _cases(run, workspace), dict(run.settings.label_names)) for run in unlike]
    for means in zip(*by_draw, strict=True):
        dice = [one.dice for one in means]
        yield ConventionRow(
            encoder=group[0].settings.encoder,
            head=name,
            amount=group[0].settings.amount,
            draws=len(unlike),
            class_name=means[0].class_name,
            dice=fmean(dice),
            dice_standard_deviation=stdev(dice) if len(dice) > 1 else None,
            hd95_voxels=fmean(one.hd95_voxels for one in means),
            cases=means[0].cases,
        )


def _cases(run: Run, workspace: Workspace) -> Iterator[LabelledCase]:
    volumes = workspace.volumes
    for volume_id, prediction in sorted(run.predictions.items()):
        reference = volumes[volume_id].read_label()
        if reference is None:
            message = f"{volume_id} has no label, and {run.id} was scored on it. Ingest it with its label again."
            raise DamagedStore(message)
        yield LabelledCase(subject=volumes[volume_id].subject, prediction=prediction, reference=reference)
