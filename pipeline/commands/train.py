"""train-head: a head on each draw, and its table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ...heads.base import SolvedHead, check_options, find_head, head_words
from ...heads.feeding import tiling_of
from ...heads.recipes import FitOptions
from ...heads.sampling import FRAMES, Draw, listed_subjects, removed_subjects, scored_subjects
from ...heads.seen import Sees
from ...heads.views import Bank, words_for
from ...stages.encoders.devices import find_device
from ...stages.encoders.memory import keep_freed_memory
from ...stages.reporting.table import tabulate
from ...stages.train import train_together
from ...stages.training.plan import (
    TrainOptions,
    classes_not_shown,
    draw_of,
    drawn_volumes,
    embeddings_for,
    labelled_volumes,
    plan_run,
    scored_otherwise,
    split_of,
    training_volumes,
)
from ...store.embeddings import Embeddings
from ...store.errors import UsageError
from ...store.runs import Run
from ...store.slices import Volume
from ...store.splits import Split
from ...store.workspace import Workspace, open_workspace
from .. import console
from ..console import counted
from ..exit_codes import DONE
from .hints import workspace_flag
from .pretrain import pretrain_missing
from .rows import find_bank


def run_train(
    workspace_path: str,
    wanted: TrainOptions,
    *,
    draws: int,
    encoder: str | None,
    fits: Sequence[FitOptions],
    views: str = "none",
    fit_flags: Sequence[str] = (),
) -> int:
    """Train a head on each draw, score it, and print the table of this head.

    ``wanted`` is of the first draw and without its views: those are a bank as it is typed. ``fits`` are how: each makes
    a run of every draw, in one pass over the features; ``fit_flags`` are those flags of them that were typed.
    """
    head, subjects, tiles = wanted.head, wanted.subjects, wanted.tiles
    keep_freed_memory()
    head_class = find_head(head)
    if fit_flags and (head_class.zero_shot or issubclass(head_class, SolvedHead)):
        how = "is not trained" if head_class.zero_shot else "is solved in one pass, without steps"
        message = f"{', '.join(fit_flags)}: {head} {how}. Leave it out."
        raise UsageError(message)
    if head_class.zero_shot and (subjects, draws) != (0, 1):
        message = f"{head} is scored as it is, without training: give --volumes 0, and leave --draws out."
        raise UsageError(message)
    if subjects < 1 and not head_class.zero_shot:
        message = f"--volumes {subjects}: give at least 1."
        raise UsageError(message)
    if draws < 1:
        message = f"--draws {draws}: give at least 1."
        raise UsageError(message)
    check_options(head_class, wanted.head_options)
    if not head_class.takes_cnn_weights and wanted.cnn_weights is not None:
        message = f"--cnn-weights {wanted.cnn_weights}: {head} has no CNN that begins from weights. Leave the flag out."
        raise UsageError(message)
    if head_class.contrast is None and wanted.pretraining_steps is not None:
        message = f"--pretraining-steps {wanted.pretraining_steps}: {head} learns nothing without labels. Leave it out."
        raise UsageError(message)
    find_device(wanted.device)
    workspace = open_workspace(workspace_path)
    embeddings = embeddings_for(workspace, head_class, wanted.head_options, encoder)
    if embeddings is None and encoder is not None:
        message = f"--encoder {encoder}: {head} sees the slices themselves, without an encoder. Leave the flag out."
        raise UsageError(message)
    bank = find_bank(views)
    wanted = replace(wanted, views=bank.texts)
    parted = split_of(workspace, wanted.split)
    present = workspace.labelled_subjects
    first = draw_of(workspace, parted, head_class, replace(wanted, fit=fits[0]))
    scored = scored_subjects(parted, present)
    if gone := removed_subjects([*parted.pool, *parted.test], present):
        console.warn(
            f"removed, or without a label now, and so neither drawn nor scored: {listed_subjects(gone)}. Runs from "
            f"before that compare with those from now on only where they did not use them: samkit status tells"
        )
    trained_on = "not trained"
    if not head_class.zero_shot:
        volumes = counted(len(drawn_volumes(workspace, first)), "labelled volume")
        of_subjects = f"{len(first.subjects)} of {len({*parted.pool} & present)} subjects"
        trained_on = f"{of_subjects} ({volumes} in the first draw)"
        if wanted.counted == FRAMES:
            trained_on = f"{volumes}, in the first draw of {of_subjects}"
    console.say(f"{head} on {_described(embeddings)}: {trained_on}, scored on {counted(len(scored), 'test subject')}")
    if not head_class.zero_shot:
        asked = [replace(wanted, fit=fits[0], draw=number) for number in range(draws)]
        every = [draw_of(workspace, parted, head_class, one) for one in asked]
        warn_of_classes_not_shown(workspace, every)
        warn_of_other_ways(workspace, parted, every)
    if head_class.sees.squares:
        console.say(f"{head}: the encoder runs in every step, live; rows that are embedded are not read")
    if head_class.sees is Sees.FEATURES_AND_BOXES:
        console.say(f"{head} is given boxes around the test subjects' reference: a bound to compare with, no method")
    elif head_class.asks_reference(wanted.head_options):
        console.say(
            f"{head_words(head, wanted.head_options)} is asked with prompts that are made from the test subjects' "
            f"reference: its scores are those of somebody who prompts every class of every slice"
        )
    if head_class.takes_cnn_weights and wanted.cnn_weights is None:
        console.say(
            f"{head}: its CNN begins from random numbers, the paper's from ImageNet's: --cnn-weights "
            f"resnet18-f37072fd.pth"
        )
    if tiles is not None and embeddings is not None:
        _say_tiles(embeddings, tiles, labelled_volumes(workspace, sorted({*parted.pool, *parted.test} & present)))
    _say_views(bank, embeddings, training_volumes(workspace, first))
    if head_class.contrast is not None:
        plan = plan_run(workspace, embeddings, head_class, replace(wanted, fit=fits[0]))
        pretrain_missing(workspace, [plan.pretraining], wanted.device)
    runs = []
    before = set(workspace.runs)
    for draw in range(draws):
        options = [replace(wanted, draw=draw, fit=fit) for fit in fits]
        with console.progress_bar("fitting", max(fit.steps for fit in fits), "steps") as bar:
            of_draw = train_together(workspace, embeddings, head_class, options, progress=bar.reach)
        for run in of_draw:
            told = f"{sum(run.record['seconds'].values()):.1f} s" if run.id not in before else "was there already"
            trained = f"draw {draw}: trained on {_trained_on(run)}; " if subjects else ""
            console.say(f"{trained}{run.id}, {told}")
        runs += of_draw
    if head_class.sees.squares or head_class.sees.chunks:
        _say_parameters(runs[-1].record.get("parameters", {}))  # runs from before it was kept are as they were
    console.results_table(tabulate(runs))
    flag = workspace_flag(workspace_path)
    console.say(f"next: samkit report{flag}, or samkit predict {runs[0].id} --output masks{flag}")
    return DONE


def amount_of(draw: Draw) -> str:
    """Return how many were drawn, as people are told: ``1 subject``, ``3 frames``."""
    return counted(draw.count, "subject" if draw.volumes is None else "frame")


def warn_of_classes_not_shown(workspace: Workspace, draws: Iterable[Draw]) -> None:
    """Say which draws lack a class: a head is scored on it all the same."""
    told = {}
    for draw in draws:
        if draw.subjects and (classes := classes_not_shown(workspace, draw)):
            told[draw.count, draw.number] = (
                f"draw {draw.number} ({amount_of(draw)}): no voxel of {', '.join(classes)} is labelled in "
                f"{listed_subjects(draw.training)}; a head cannot learn what it is not shown"
            )
    for message in told.values():
        console.warn(message)


def warn_of_other_ways(workspace: Workspace, split: Split, draws: Iterable[Draw]) -> None:
    """Say in how many draws test volumes are unlike all that a head is fitted to: it is scored on them all the same."""
    told = [why for draw in draws if draw.subjects and (why := scored_otherwise(workspace, split, draw)) is not None]
    if told:
        console.warn(
            f"in {counted(len(told), 'draw')}: {told[0]}. A head does not know such slices, and predict would refuse "
            f"them: ingest all volumes alike, or give those that are unlike a workspace of their own"
        )


def _trained_on(run: Run) -> str:
    """Return whom a head was fitted to, as the report names them; of frames the volumes."""
    if run.settings.counted == FRAMES:
        return ", ".join(run.record["training_volumes"])
    return ", ".join(subject for subject in run.settings.drawn if subject != run.settings.validation)


def _described(embeddings: Embeddings | None) -> str:
    """Say what a head is trained on."""
    if embeddings is None:
        return "the slices themselves"
    recipe = embeddings.recipe
    seeded = "" if embeddings.trained else " (seeded)"
    inner = "" if recipe.block is None else f" of {recipe.tap}"
    return f"{recipe.encoder}{seeded} {recipe.id}, rows{inner} in {recipe.storage_precision}"


def _say_parameters(parts: Mapping[str, Mapping[str, int]]) -> None:
    """Print how much of each part of a head with an encoder in it is trained."""
    if not parts:
        return
    whole = sum(part["trained"] + part["frozen"] for part in parts.values())
    trained = sum(part["trained"] for part in parts.values())
    rows = [[name.replace("_", " "), f"{part['trained']:,}", f"{part['frozen']:,}"] for name, part in parts.items()]
    rows.append(["all", f"{trained:,}", f"{whole - trained:,}"])
    console.table(
        f"Numbers that are trained: {trained / whole:.1%} of encoder, decoder and adapters",
        ["part", "trained", "frozen"],
        rows,
    )


def _say_views(bank: Bank, embeddings: Embeddings | None, volumes: Sequence[Volume]) -> None:
    """Say in how many views slices are fitted to, or that there are some that nobody asked for."""
    if len(bank.views) > 1 and embeddings is None:
        console.say(f"views {bank.name}: each patch is of a slice in one of {len(bank.views)} views")
    elif len(bank.views) > 1:
        console.say(f"views {bank.name}: every slice that the head is fitted to, in {len(bank.views)} views")
    elif embeddings is not None and len(embeddings.journal):
        drawn = {digest for volume in volumes for digest in volume.slice_digests}
        slices_of = defaultdict(set)
        for key in embeddings.journal:
            if key.slice_digest in drawn:
                slices_of[key.view].add(key.slice_digest)
        whole = [view for view, slices in slices_of.items() if slices == drawn]
        if len(whole) > 1:
            console.say(
                f"these slices are embedded in {len(whole)} views, and the head is fitted to one of them: add "
                f"--views {words_for(whole)} for all"
            )


def _say_tiles(embeddings: Embeddings, overlap: float, volumes: Sequence[Volume]) -> None:
    """Say how many volumes have planes that are cut, or that none has."""
    tiling = tiling_of(embeddings, overlap)
    cut = [volume for volume in volumes if tiling is not None and tiling.cuts(*volume.record.shape[2:])]
    of_labelled = f"of {counted(len(volumes), 'labelled volume')}"
    side = f"{embeddings.recipe.input_px} px"
    if not cut:
        console.say(f"--tiles: every plane {of_labelled} fits the encoder's input of {side}, so that nothing is cut")
        return
    console.say(
        f"planes larger than the encoder's input are cut into tiles of {side}, each covering at least {overlap:.0%} of "
        f"the next: {len(cut)} {of_labelled}"
    )
