"""experiment: a grid of heads, numbers of labelled subjects and draws, and how the heads compare."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ...heads.base import find_head, parse_head
from ...heads.comparison import Standing, standings
from ...heads.sampling import Draw, listed_subjects
from ...stages.encoders.devices import find_device, usable_cores
from ...stages.encoders.memory import keep_freed_memory
from ...stages.reporting.table import tabulate
from ...stages.training.plan import TrainOptions, split_of
from ...store.errors import UsageError
from ...store.workspace import open_workspace
from .. import console
from ..console import counted
from ..exit_codes import DONE, SOME_FAILED
from ..grid import Grid, plan_grid
from ..trainers import train_cells
from .hints import workspace_flag
from .pretrain import pretrain_missing
from .train import amount_of, warn_of_classes_not_shown, warn_of_other_ways


def run_experiment(
    workspace_path: str, grid: Grid, *, encoder: str | None, workers: int | None, dry_run: bool = False
) -> int:
    """Train what is missing of a grid, and print the table and how the heads compare.

    ``workers`` processes train at once, None for one a core; with a GPU one.
    """
    keep_freed_memory()
    if workers is not None and workers < 1:
        message = f"--workers {workers}: give at least 1."
        raise UsageError(message)
    find_device(grid.device)
    workspace = open_workspace(workspace_path)
    if encoder is not None and not grid.needs_features:
        message = f"--encoder {encoder}: {', '.join(grid.heads)} sees the slices themselves. Leave the flag out."
        raise UsageError(message)
    planned = plan_grid(workspace, encoder, grid, keeps_split=not dry_run)
    there = set(workspace.runs)
    todo = [one for one in planned if one.run_id not in there]
    amounts = " and ".join(map(str, grid.subjects))
    counted_in = grid.counted.removesuffix("s") if grid.subjects == (1,) else grid.counted
    console.say(
        f"{counted(len(grid.heads), 'head')} on {amounts} labelled {counted_in}, {counted(grid.draws, 'draw')}: "
        f"{counted(len(planned), 'run')}, {len(planned) - len(todo)} of them there already"
    )
    if prompted := [text for text in grid.heads if find_head((one := parse_head(text))[0]).asks_reference(one[1])]:
        console.say(
            f"{', '.join(prompted)}: told by the test subjects' reference where things are, and compared with each "
            f"other alone"
        )
    _say_draws_alike([one.draw for one in planned])
    draws = {(one.draw.count, one.draw.number): one.draw for one in planned}  # heads share them
    warn_of_classes_not_shown(workspace, draws.values())
    warn_of_other_ways(workspace, split_of(workspace, grid.split), draws.values())
    if dry_run:
        return DONE
    failed: list[str] = []
    if todo:
        pretrain_missing(workspace, [one.pretraining for one in todo], grid.device)
        count = min(len(todo), workers or _workers_for(grid.device))
        console.say(f"{counted(count, 'worker')}, each run by one thread")
        cells = [(one.options, one.recipe_id) for one in todo]
        with console.progress_bar("training", len(todo), "runs") as bar:
            for options, reason in train_cells(workspace.path, cells, count):
                bar.advance()
                if reason is not None:
                    failed.append(f"{_alias(options)}: {reason}")
    runs = workspace.runs
    found = [runs[one.run_id] for one in planned if one.run_id in runs]
    if found:
        console.results_table(tabulate(found))
        _say_standings(standings(found))
    for reason in failed:
        console.warn(reason)
    flag = workspace_flag(workspace_path)
    if failed:
        console.say(f"{counted(len(failed), 'run')} failed; the same command tries them again")
    console.say(f"next: samkit report{flag}")
    return SOME_FAILED if failed else DONE


def _say_draws_alike(draws: Sequence[Draw]) -> None:
    """Say which draws hold the same subjects: they tell less than as many different ones."""
    by_drawn: dict[tuple[str, ...], dict[int, Draw]] = defaultdict(dict)
    for draw in draws:
        by_drawn[tuple(sorted(draw.volumes or draw.subjects))][draw.number] = draw
    for drawn, alike in by_drawn.items():
        if drawn and len(alike) > 1:
            numbers = " and ".join(map(str, sorted(alike)))
            each = amount_of(alike[min(alike)])
            console.say(f"draws {numbers} ({each} each) drew the same: {listed_subjects(drawn)}")


def _workers_for(device: str) -> int:
    return usable_cores() if device == "cpu" else 1


def _alias(options: TrainOptions) -> str:
    words = "".join(f":{name}={value}" for name, value in options.head_options.items())
    return f"{options.head}{words}@{options.subjects}#{options.draw}"


def _say_standings(found: Sequence[Standing]) -> None:
    """Print how heads compare, where there is more than one."""
    if len({one.head for one in found}) < 2:
        return
    splits = len({one.split for one in found}) > 1
    prompted = len({one.prompted for one in found}) > 1
    rows = [
        [
            one.head,
            one.amount,
            *([one.split] if splits else []),
            *(["yes" if one.prompted else "no"] if prompted else []),
            one.on_draws,
            str(one.test_subjects),
            one.dice.percent,
            "-" if one.behind is None else one.behind.percent,
        ]
        for one in found
    ]
    groups = [*(["split"] if splits else []), *(["prompted"] if prompted else [])]
    console.table(
        "Mean Dice % over all classes, and how far behind the best head, on the same draws and test subjects "
        "(95 % of a bootstrap over both)",
        ["head", "subjects", *groups, "draws", "test subjects", "Dice %", "behind the best"],
        rows,
        whole=("head",),
    )
