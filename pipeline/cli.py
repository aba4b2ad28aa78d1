"""The verbs and their flags. Nothing heavy is imported before a verb runs: `samkit --help` is instant."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..store.errors import SamkitError, UsageError
from ..store.places import DEFAULT_WORKSPACE
from .exit_codes import FAILED, INTERRUPTED
from .options import (
    BValueOption,
    ChannelOption,
    CnnWeightsOption,
    ConventionChoice,
    Counted,
    CountOption,
    DeviceOption,
    EchoOption,
    FeaturesOption,
    FitPrecisionOption,
    FitRecipeOption,
    FitViewsOption,
    Ids,
    IdsOption,
    IntensityChoice,
    JsonOption,
    LabelSuffixOption,
    MaskFormatChoice,
    MinSlicesOption,
    NonFiniteChoice,
    Overlap,
    PretrainingStepsOption,
    ReportFormat,
    SeedOption,
    SplitOption,
    StepsOption,
    SubjectOption,
    TileOverlapOption,
    TilesOption,
    TimeIndexOption,
    ValidationOption,
    ViewsFor,
    WeightsOption,
    WorkspaceOption,
)


def _leave(code: int | None, **_flags: object) -> None:
    """Leave with what the verb returned: 0 done, 3 done but some items failed."""
    raise typer.Exit(code or 0)


app = typer.Typer(
    name="samkit",
    help="Run a frozen segmentation encoder once over a medical dataset, keep the embeddings, train heads in minutes.",
    epilog="Order of work: ingest, embed, train-head, predict, report. `samkit status` says what comes next.",
    add_completion=True,
    pretty_exceptions_enable=False,
    result_callback=_leave,
    context_settings={"help_option_names": ["-h", "--help"]},
)
weights_app = typer.Typer(help="Checkpoints of encoders, kept by digest.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")
bench_app = typer.Typer(help="Measurements that need what only you have.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")


@app.callback(invoke_without_command=True)
def _begin(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No bars and no lines of progress.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say where a refusal came from, and what libraries log.")
    ] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"samkit {installed('samkit')}")
        raise typer.Exit
    from . import console
    from .config import CONFIG_FILE, read_config

    console.be(quiet=quiet, verbose=verbose)
    commands = getattr(context.command, "commands", {})
    known = {
        # A flag and the parameter it fills have different names where the flag's is a word of Python's: --json.
        verb: {flag.lstrip("-"): parameter.name for parameter in command.params for flag in parameter.opts}
        for verb, command in commands.items()
    }
    flags = {verb: [flag for flag in names if flag != "help" and len(flag) > 1] for verb, names in known.items()}
    context.default_map = {
        verb: {known[verb][flag]: value for flag, value in settings.items()}
        for verb, settings in read_config(Path(CONFIG_FILE), flags).items()
    }
    if context.invoked_subcommand is not None:
        console.wait_for(f"samkit {context.invoked_subcommand}")
        return
    typer.echo(context.get_help())  # at once: what follows takes a moment to import
    from .commands.status import say_next

    settings = context.default_map.get("status", {})
    say_next(settings.get("workspace") or os.environ.get("SAMKIT_WORKSPACE") or DEFAULT_WORKSPACE)


@app.command("ingest")
def ingest_command(
    context: typer.Context,
    source: Annotated[
        Path | None, typer.Argument(help="A folder, a file or a .zip of DICOM, NIfTI, NRRD, h5 or pictures.")
    ] = None,
    *,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    labels: Annotated[
        str | None,
        typer.Option(help="Names of values: 1=RV,2=Myo. Or a selection: liver=liver,tumour=livertumor*|!livercyst*."),
    ] = None,
    labels_from: Annotated[
        Path | None,
        typer.Option(
            help="Add labels to volumes that are there, or correct them: called as the volumes, or as their images "
            "were. Nothing is encoded again."
        ),
    ] = None,
    overlap: Annotated[
        Overlap | None, typer.Option(help="Whose a voxel is that belongs to several classes of --labels.")
    ] = None,
    label_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Take soft labels: above this share a voxel belongs to them.")
    ] = None,
    resample_labels: Annotated[
        bool,
        typer.Option("--resample-labels", help="Bring labels on another lattice to the image's, by nearest voxel."),
    ] = False,
    window: Annotated[
        str | None, typer.Option(help="CT window: soft-tissue, lung, bone, ..., or width/level in HU: 400/40.")
    ] = None,
    channels: Annotated[
        str | None, typer.Option(help="Three windows as three channels: lung,soft-tissue,bone.")
    ] = None,
    intensity: Annotated[IntensityChoice, typer.Option(help="Scale of the values where no window is given.")] = (
        IntensityChoice.auto
    ),
    non_finite: Annotated[
        NonFiniteChoice, typer.Option(help="NaN and infinities: refused, or taken for the lowest value.")
    ] = NonFiniteChoice.refuse,
    axis: Annotated[str | None, typer.Option(help="axial, coronal or sagittal; 0, 1 or 2 without geometry.")] = None,
    subject: SubjectOption = None,
    ids: IdsOption = Ids.auto,
    channel: ChannelOption = None,
    time_index: TimeIndexOption = None,
    b_value: BValueOption = None,
    echo: EchoOption = None,
    min_slices: MinSlicesOption = None,
    label_suffix: LabelSuffixOption = None,
    require_labels: Annotated[bool, typer.Option("--require-labels", help="Refuse images without a label.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take volumes whose id belongs to another source, in its place.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that read; by default one a core where it is worth it.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print what is there, what would be taken and why not, as far as headers tell; write nothing.",
        ),
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Send the labels to the encoder's grid and back: the ceiling of heads on its features."
        ),
    ] = False,
    encoder: Annotated[str, typer.Option(help="For --check: whose grid.")] = "nano",
    size: Annotated[int | None, typer.Option(help="For --check: side of the encoder's input in pixels.")] = None,
    allow_refused: Annotated[
        bool, typer.Option("--allow-refused", help="Leave with 0, not 3, when something was refused.")
    ] = False,
    id_map: Annotated[
        Path | None, typer.Option(help="Write which id is which file and patient to this private CSV file.")
    ] = None,
    refused: Annotated[Path | None, typer.Option(help="Write what was refused, and why, to this private CSV file.")] = (
        None
    ),
    as_json: JsonOption = False,
) -> int:
    """Turn raw files into normalised slices."""
    from ..stages.intake.job import IngestOptions
    from ..stages.readers.dicom_series import VolumeChoice
    from ..stages.readers.labels import parse_labels
    from ..stages.readers.windows import chosen_windows
    from .commands.ingest import IngestReport, layout_options, run_ingest, run_relabel

    input_px = None
    if check:
        from .commands.check import input_size  # needs torch, which reading sources does without

        if as_json:
            message = "--check prints a table: type it without --json, after the ingest (samkit ingest --check)."
            raise UsageError(message)
        if dry_run:
            message = "--check reads labels that were ingested, and --dry-run ingests nothing: leave one of them out."
            raise UsageError(message)
        input_px = input_size(encoder, size)
    if labels_from is not None:
        for_images = ("window", "channels", "axis", "id_map", "workers", "min_slices", "require_labels", "replace")
        if idle := _typed_flags(context, *for_images):
            message = f"{', '.join(idle)}: for images, and --labels-from brings only labels. Leave it out."
            raise UsageError(message)
    if source is not None and labels_from is not None:
        message = (
            f"SOURCE {source} and --labels-from {labels_from}: one brings images, the other labels for images that are "
            f"there. Type one after the other."
        )
        raise UsageError(message)
    volume = VolumeChoice(time_index=time_index, b_value=b_value, echo=echo, min_slices=min_slices)
    # What is typed wins over a scale of samkit.toml that excludes it.
    if _typed_flags(context, "channels", "intensity") and not _is_typed(context, "window"):
        window = None
    if _typed_flags(context, "window", "intensity") and not _is_typed(context, "channels"):
        channels = None
    options = IngestOptions(
        windows=chosen_windows(window, channels),
        intensity=intensity.value,
        non_finite=non_finite.value,
        axis=axis,
        labels=None if labels is None else parse_labels(labels),
        overlap=None if overlap is None else overlap.value,
        label_threshold=label_threshold,
        resample_labels=resample_labels,
        require_labels=require_labels,
        replace=replace,
    )
    layout = layout_options(ids=ids.value, subject=subject, channel=channel, label_suffix=label_suffix, volume=volume)
    report = IngestReport(dry_run=dry_run, as_json=as_json, allow_refused=allow_refused, id_map=id_map, refused=refused)
    code = 0
    if labels_from is not None:
        code = run_relabel(labels_from, workspace, layout, options, report=report)
    elif source is not None:
        code = run_ingest(source, workspace, layout, options, report=report, workers=workers)
    elif not check:
        message = "samkit ingest SOURCE: name a folder, a file or a .zip (or --labels-from FOLDER, or --check)."
        raise UsageError(message)
    if input_px is not None:
        from .commands.check import run_check

        run_check(workspace, encoder_name=encoder, input_px=input_px)
    return code


def _typed_flags(context: typer.Context, *names: str) -> list[str]:
    """Return those flags that were typed: what samkit.toml says is for the commands that it fits."""
    flags = {parameter.name: max(parameter.opts, key=len) for parameter in context.command.params}
    return [flags[name] for name in names if _is_typed(context, name)]


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@app.command("init")
def init_command(
    folder: Annotated[Path, typer.Argument(help="The folder (or file, or .zip) that will be ingested.")],
    *,
    subject: SubjectOption = None,
    ids: IdsOption = Ids.auto,
    channel: ChannelOption = None,
    label_suffix: LabelSuffixOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a samkit.toml that is there.")] = False,
) -> int:
    """Write a commented samkit.toml from what a folder holds."""
    from .commands.ingest import layout_options
    from .commands.init import run_init

    layout = layout_options(ids=ids.value, subject=subject, channel=channel, label_suffix=label_suffix)
    flags = {"ids": None if ids is Ids.auto else ids.value, "subject": subject, "label-suffix": label_suffix}
    return run_init(folder, layout, flags={**flags, "channel": channel}, overwrite=overwrite)


@app.command("embed")
def embed_command(
    context: typer.Context,
    *,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    encoder: Annotated[
        str, typer.Option(help="nano, sam_vit_b, sam_vit_l, sam_vit_h, hf:FOLDER, or hf:ORGANISATION/NAME of the hub.")
    ] = "nano",
    weights: WeightsOption = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the encoder's input in pixels, a multiple of 16. SAM's own: 1024.")
    ] = None,
    device: DeviceOption = "cpu",
    gpus: Annotated[
        str | None, typer.Option(help="So many GPUs (2), or these (0,2): one worker each, in processes of their own.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes on the processor, which share its cores. Default: two for long work.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Use the workers of a dask cluster: tcp://HOST:PORT, or a scheduler file. They must see the workspace."
        ),
    ] = None,
    views: Annotated[
        str | None,
        typer.Option(
            help="Embed transformed slices too, for augmentation: none, reflections, dihedral, sam-lst, a file with "
            "one view a line, or views joined by commas (flip-rows,rotate+7-bilinear,zoom0.80-bilinear,gamma0.80)."
        ),
    ] = None,
    views_for: Annotated[
        ViewsFor, typer.Option(help="Whose slices get --views: the training pool's, or all.")
    ] = ViewsFor.train,
    split: Annotated[str, typer.Option(help="For --views-for train: which split's pool.")] = "default",
    tiles: TilesOption = False,
    tile_overlap: TileOverlapOption = None,
    precision: Annotated[str | None, typer.Option(help="float32, bfloat16 or auto (the default).")] = None,
    pixels: Annotated[
        str | None,
        typer.Option(
            help="How slices are brought to what the weights expect: sam (the default), sam-exact (the package's "
            "rounding to bytes), or as a paper's code does: autosam, sam-lst, medsam. For hf: the model's own."
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="How rows are kept: float16 (the default), float32, or int8. From float32 rows the others are derived "
            "without the encoder."
        ),
    ] = None,
    tap: Annotated[
        str | None,
        typer.Option(
            help="Which layer's output is kept: neck (what SAM's encoder ends with, the default), or block:9, the "
            "tokens that enter block 9, counted from 0: for heads that train the blocks after it (med-sa)."
        ),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Go on with an existing recipe, by its id.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would cost in disk and time; write nothing.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="First look at every row, and compute again those that are damaged.")
    ] = False,
) -> int:
    """Run the frozen encoder once over every slice that has no embedding yet."""
    if views is None and (idle := _typed_flags(context, "views_for", "split")):
        message = (
            f"{', '.join(idle)}: says whose slices get views, and none are asked for. Add --views, or leave it out."
        )
        raise UsageError(message)
    if recipe is not None and (idle := _typed_flags(context, "encoder", "size", "precision", "pixels")):
        message = (
            f"{', '.join(idle)}: recipe {recipe} says that already. Leave it out to go on with the recipe, or leave "
            f"--recipe out to begin another."
        )
        raise UsageError(message)
    from .commands.embed import run_embed
    from .commands.rows import RowChoice
    from .workers import Workers

    return run_embed(
        workspace,
        encoder_name=encoder,
        weights=weights,
        size=size,
        workers=Workers.chosen(device=device, gpus=gpus, workers=workers, scheduler=scheduler),
        precision=precision,
        pixel_normalisation=pixels,
        storage_precision=store,
        tap=tap,
        recipe_id=recipe,
        rows=RowChoice(
            views=views,
            views_for=views_for.value,
            split=split,
            tiles=_overlap_of_tiles(context, tile_overlap, tiles=tiles),
        ),
        dry_run=dry_run,
        repair=repair,
    )


@app.command("split")
def split_command(
    name: Annotated[
        str | None, typer.Argument(help="Of the split, for --split elsewhere; without it, all are listed.")
    ] = None,
    *,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    test_share: Annotated[
        float | None, typer.Option(help="Share of the labelled subjects that is kept for the score. Default: 0.3.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of who is kept, and of every draw. Default: 0.")] = None,
    stratify: Annotated[
        str | None,
        typer.Option(
            help="Compose both parts alike: by the classes in a subject's label maps (labels), or by a column of a "
            "table that names subjects: FILE.csv:COLUMN."
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Take it from a file: a CSV of subject and part (pool, test, unused), a JSON with lists of these, or "
            "nnU-Net's splits_final.json.",
        ),
    ] = None,
    fold: Annotated[int | None, typer.Option(help="For --from: which of several splits in the file.")] = None,
    as_json: JsonOption = False,
) -> int:
    """Make a named split of the labelled subjects into those to draw from and those to score on, or show them."""
    from .commands.split import SplitRule, run_split

    rule = SplitRule(test_share=test_share, seed=seed, stratify=stratify, source=source, fold=fold)
    return run_split(workspace, name, rule, as_json=as_json)


@app.command("train-head")
def train_head_command(
    context: typer.Context,
    head: Annotated[
        str,
        typer.Argument(
            help=(
                "On features: prototype, ridge (one pass), probe, linear, cnn, cnn-published, autosam. On features and "
                "slice: hybrid, ladder. On slices: unet, unet-simclr. With the encoder's last blocks live: med-sa. Not "
                "trained: sam-box, sam-auto."
            )
        ),
    ],
    *,
    volumes: Annotated[
        int | None,
        typer.Option(
            help="Labelled subjects to draw; a subject brings all of its volumes. 0 for sam-box and sam-auto. Needed."
        ),
    ] = None,
    count: CountOption = Counted.subjects,
    draws: Annotated[int, typer.Option(help="How many different draws to train on.")] = 1,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    encoder: FeaturesOption = None,
    split: SplitOption = "default",
    seed: SeedOption = 0,
    recipe: FitRecipeOption = "own",
    steps: StepsOption = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Slices a step; default: the recipe's.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Highest learning rate; default: the recipe's.")
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            help="Train a run for each value in one pass over the features: learning-rate=1e-3,3e-3; also steps and "
            "weight-decay. Several: every combination."
        ),
    ] = None,
    validation: ValidationOption = None,
    precision: FitPrecisionOption = None,
    device: DeviceOption = "cpu",
    memory: Annotated[
        int | None, typer.Option(help="Megabytes of features to keep in memory; above it they are streamed.")
    ] = None,
    views: FitViewsOption = "none",
    tiles: TilesOption = False,
    tile_overlap: TileOverlapOption = None,
    finetune_encoder: Annotated[
        bool,
        typer.Option("--finetune-encoder", help="Of autosam: train the encoder too, live in every step (ft all)."),
    ] = False,
    gate: Annotated[
        str | None, typer.Option(help="Of ladder: learned, fixed, cnn-only or sam-only; default: learned.")
    ] = None,
    faithful: Annotated[
        bool, typer.Option("--faithful", help="Of ladder: class tokens random and frozen, as in the published code.")
    ] = False,
    adapted_blocks: Annotated[
        str | None,
        typer.Option(
            help="Of med-sa: last:N of the encoder's blocks, on rows that `samkit embed --tap` has kept, or all, with "
            "the encoder live; default: last:3."
        ),
    ] = None,
    sd_trans: Annotated[
        str | None, typer.Option(help="Of med-sa: on or off, attention through slices; default: on.")
    ] = None,
    hyp: Annotated[
        str | None, typer.Option(help="Of med-sa: on or off, adapters that the prompt moves; default: on.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Of med-sa: none (all classes at once, the default), or what each class is asked for with, made from "
            "the reference: point:1, point:3, clicks:3, box:tight, box:jittered, box:0.75, box:0.5."
        ),
    ] = None,
    chunk: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of med-sa: slices that are looked through together; default: 4, shorter volumes whole."
        ),
    ] = None,
    adapter_ratio: Annotated[
        str | None,
        typer.Option(help="Of med-sa: an adapter's bottleneck to a token's channels, 0.25 (the default) or 0.0625."),
    ] = None,
    cnn_weights: CnnWeightsOption = None,
    pretraining_steps: PretrainingStepsOption = None,
) -> int:
    """Train a small head on a few labelled subjects and score it on the test subjects."""
    from ..heads.base import find_head
    from ..heads.recipes import chosen_fit, swept
    from ..stages.training.plan import TrainOptions
    from .commands.train import run_train

    if volumes is None:
        message = f"--volumes: say on how many labelled subjects. From one: samkit train-head {head} --volumes 1"
        raise UsageError(message)
    if finetune_encoder:
        if head not in ("autosam", "autosam-finetuned"):
            message = f"--finetune-encoder: of autosam alone, and this is {head}. Leave the flag out."
            raise UsageError(message)
        head = "autosam-finetuned"
    if head == "med-sa" and adapted_blocks == "all":
        head = "med-sa-live"
    chosen = {
        "gate": gate,
        "faithful": "yes" if faithful else None,
        "adapted-blocks": adapted_blocks,
        "sd-trans": sd_trans,
        "hyp": hyp,
        "prompt": prompt,
        "chunk": None if chunk is None else str(chunk),
        "adapter-ratio": adapter_ratio,
    }
    fits = swept(
        chosen_fit(
            find_head(head).own_fit,
            recipe,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            precision=_fit_precision(precision, device),
            validation=validation,
        ),
        sweep or [],
    )
    wanted = TrainOptions(
        head=head,
        head_options={name: value for name, value in chosen.items() if value is not None},
        subjects=volumes,
        counted=count.value,
        draw=0,
        split=split,
        seed=seed,
        fit=fits[0],
        device=device,
        memory_bytes=None if memory is None else memory * 1_000_000,
        tiles=_overlap_of_tiles(context, tile_overlap, tiles=tiles),
        cnn_weights=cnn_weights,
        pretraining_steps=pretraining_steps,
    )
    fit_flags = _typed_flags(
        context, "recipe", "steps", "batch_size", "learning_rate", "sweep", "validation", "precision"
    )
    return run_train(workspace, wanted, draws=draws, encoder=encoder, fits=fits, views=views, fit_flags=fit_flags)


@app.command("experiment")
def experiment_command(
    context: typer.Context,
    *,
    heads: Annotated[
        str,
        typer.Option(help="Heads to compare, joined by commas, with options: autosam,ridge,unet,ladder:gate=fixed."),
    ],
    volumes: Annotated[str, typer.Option(help="Numbers of labelled subjects, joined by commas.")] = "1,5",
    count: CountOption = Counted.subjects,
    draws: Annotated[int, typer.Option(help="How many different draws of each number.")] = 5,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    encoder: FeaturesOption = None,
    split: SplitOption = "default",
    seed: SeedOption = 0,
    recipe: FitRecipeOption = "own",
    steps: StepsOption = None,
    views: FitViewsOption = "none",
    tiles: TilesOption = False,
    tile_overlap: TileOverlapOption = None,
    cnn_weights: CnnWeightsOption = None,
    pretraining_steps: PretrainingStepsOption = None,
    validation: ValidationOption = None,
    precision: FitPrecisionOption = None,
    device: DeviceOption = "cpu",
    workers: Annotated[int | None, typer.Option(help="Runs at once; default: one a core, or one with a GPU.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained, and train nothing.")] = False,
) -> int:
    """Train every head on the same draws, and say which is better and by how much. What is there is not done again."""
    from .commands.experiment import run_experiment
    from .commands.rows import find_bank
    from .grid import Grid

    grid = Grid(
        heads=tuple(head.strip() for head in heads.split(",")),
        subjects=_whole_numbers("--volumes", volumes),
        counted=count.value,
        draws=draws,
        recipe=recipe,
        steps=steps,
        split=split,
        seed=seed,
        views=find_bank(views).texts,
        tiles=_overlap_of_tiles(context, tile_overlap, tiles=tiles),
        device=device,
        precision=_fit_precision(precision, device),
        validation=validation,
        cnn_weights=cnn_weights,
        pretraining_steps=pretraining_steps,
    )
    return run_experiment(workspace, grid, encoder=encoder, workers=workers, dry_run=dry_run)


def _fit_precision(precision: str | None, device: str) -> str | None:
    """Return what a head is fitted in on a device, or None for what its recipe says."""
    if precision is None:
        return None
    from ..stages.encoders.devices import find_device, resolve_precision

    return resolve_precision(precision, find_device(device))


def _whole_numbers(flag: str, text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[0-9]+(,[0-9]+)*", text):
        message = f"{flag} {text!r}: give whole numbers joined by commas, for example {flag} 1,5."
        raise UsageError(message)
    return tuple(map(int, text.split(",")))


def _overlap_of_tiles(context: typer.Context, overlap: float | None, *, tiles: bool) -> float | None:
    """Return the overlap of tiles, or None where planes are resized instead."""
    if tiles:
        from ..heads.tiling import DEFAULT_OVERLAP

        return DEFAULT_OVERLAP if overlap is None else overlap
    if _is_typed(context, "tile_overlap"):
        message = f"--tile-overlap {overlap}: of tiles, and planes are resized unless --tiles is given. Add --tiles."
        raise UsageError(message)
    return None


@app.command("predict")
def predict_command(
    run: Annotated[str, typer.Argument(help="A run: its id, path, 'latest', or head@subjects#draw.")],
    source: Annotated[
        Path | None,
        typer.Argument(help="Files, a folder or a .zip, new or ingested; without it, the volumes of the workspace."),
    ] = None,
    *,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the masks. Needed.")] = None,
    mask_format: Annotated[
        MaskFormatChoice,
        typer.Option(
            "--format", help="dicom-seg refers to the DICOM files, so SOURCE has to name them; png: pictures."
        ),
    ] = MaskFormatChoice.nifti,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities", help="Write what the head says of each class too: NAME.probabilities.nii.gz, 4-D."
        ),
    ] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    weights: WeightsOption = None,
    device: DeviceOption = "cpu",
    ids: IdsOption = Ids.auto,
    subject: SubjectOption = None,
    channel: ChannelOption = None,
    time_index: TimeIndexOption = None,
    b_value: BValueOption = None,
    echo: EchoOption = None,
    min_slices: MinSlicesOption = None,
    label_suffix: LabelSuffixOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace masks that are there already; never the source files.")
    ] = False,
) -> int:
    """Write masks on the grid of the source files, as NIfTI, NRRD, DICOM-SEG or PNG."""
    from ..stages.readers.dicom_series import VolumeChoice
    from .commands.ingest import layout_options
    from .commands.predict import PredictOptions, run_predict

    if output is None:
        message = f"--output: say where the masks go, for example samkit predict {shlex.quote(run)} --output masks"
        raise UsageError(message)
    volume = VolumeChoice(time_index=time_index, b_value=b_value, echo=echo, min_slices=min_slices)
    layout = layout_options(ids=ids.value, subject=subject, channel=channel, label_suffix=label_suffix, volume=volume)
    options = PredictOptions(
        output=output,
        mask_format=mask_format.value,
        probabilities=probabilities,
        weights=weights,
        device=device,
        layout=layout,
        overwrite=overwrite,
    )
    return run_predict(workspace, run_name=run, source=source, options=options)


@app.command("report")
def report_command(
    context: typer.Context,
    *,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="The page's folder, by default WORKSPACE/report; or the table's file."),
    ] = None,
    table_format: Annotated[
        ReportFormat,
        typer.Option("--format", help="The page with its pictures; or the table alone, for a program or a paper."),
    ] = ReportFormat.page,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Two heads, as the table calls them: how much better the first is, and how sure that is."),
    ] = None,
    convention: Annotated[
        ConventionChoice | None, typer.Option(help="Score by a paper's own rules too, to compare with its tables.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> int:
    """Print the table of all runs; write it as a page with pictures, CSV and JSON."""
    from .commands.report import run_compare, run_report

    if compare is not None:
        if idle := _typed_flags(context, "output", "table_format", "convention", "as_json"):
            message = f"{', '.join(idle)}: of the table, and --compare prints two heads side by side. Leave it out."
            raise UsageError(message)
        return run_compare(workspace, *compare)
    return run_report(
        workspace,
        output,
        table_format="json" if as_json else table_format.value,
        convention=None if convention is None else convention.value,
    )


@app.command("status")
def status_command(
    *,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    volumes: Annotated[
        bool, typer.Option("--volumes", help="List the volumes, too: ids, subjects, sizes, label values.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Say what exists, what is missing or stale, how large it is, and what to type next."""
    from .commands.status import run_status

    return run_status(workspace, volumes=volumes, as_json=as_json)


@app.command("verify")
def verify_command(
    context: typer.Context,
    *,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    recompute: Annotated[
        int, typer.Option(help="Encode so many rows again, chosen at random, and tell the error of the stored ones.")
    ] = 0,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, help="Encode the rows again that an earlier --recompute chose; by default others each time."
        ),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Whose rows, by its id; the newest recipe by default.")] = None,
    weights: WeightsOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> int:
    """Read everything once and say whether it is what was written; nothing is changed."""
    from .commands.verify import run_verify

    if not recompute and (idle := _typed_flags(context, "seed", "recipe", "weights", "device")):
        message = (
            f"{', '.join(idle)}: for rows that are encoded again, and everything is read without it. Add "
            f"--recompute 20, or leave it out."
        )
        raise UsageError(message)
    return run_verify(
        workspace, as_json=as_json, recompute=recompute, seed=seed, recipe_id=recipe, weights=weights, device=device
    )


@app.command("remove")
def remove_command(
    volumes: Annotated[
        list[str] | None, typer.Argument(help="Ids of volumes, as `samkit ingest` showed them.", show_default=False)
    ] = None,
    *,
    recipe: Annotated[
        list[str] | None, typer.Option(help="A recipe's id: all its rows go. Several: give it again.")
    ] = None,
    run: Annotated[list[str] | None, typer.Option(help="A run's id: its scores and masks go too.")] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
) -> int:
    """Take volumes out of the dataset (`samkit gc` frees what only they held), or recipes and runs off the disk."""
    from .commands.remove import run_remove

    return run_remove(workspace, volumes or [], recipes=recipe or [], runs=run or [])


@app.command("gc")
def gc_command(
    *,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    older_than: Annotated[
        float, typer.Option(help="Hours: what nothing points to and is younger may be work under way, and stays.")
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be taken away; change nothing.")] = False,
) -> int:
    """Free what is not needed any more: rows of removed slices, leftovers of killed commands, old logs."""
    from .commands.gc import run_gc

    return run_gc(workspace, older_than_hours=older_than, dry_run=dry_run)


@app.command("demo")
def demo_command(
    folder: Annotated[Path, typer.Argument(help="Where to write the sample and its workspace.")] = Path("samkit-demo"),
) -> int:
    """Write a sample of drawn anatomy as real files and run the whole job on it."""
    from .demo import run_demo

    return run_demo(folder)


@app.command("doctor")
def doctor_command(
    *,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time the ways to compute an encoder here, and how exact each is.")
    ] = False,
    encoder: Annotated[str, typer.Option(help="For --measure: which encoder.")] = "nano",
    size: Annotated[int | None, typer.Option(help="For --measure: side of its input in pixels.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="For --measure: a checkpoint; time does not depend on it, errors do, somewhat.")
    ] = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> int:
    """Say what this machine has and what samkit makes of it."""
    from .commands.doctor import run_doctor

    return run_doctor(
        workspace,
        encoder_name=encoder,
        weights=weights,
        size=size,
        device=device,
        measure=measure,
        as_json=as_json,
    )


@bench_app.command("real-weights")
def bench_real_weights_command(
    *,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    encoder: Annotated[str, typer.Option(help="sam_vit_b, sam_vit_l, sam_vit_h.")] = "sam_vit_b",
    weights: WeightsOption = None,
    size: Annotated[int | None, typer.Option(help="Side of the encoder's input in pixels.")] = None,
    device: DeviceOption = "cpu",
    head: Annotated[list[str] | None, typer.Option(help="Heads to compare; default: linear and autosam.")] = None,
    volumes: Annotated[int, typer.Option(min=1, help="Labelled subjects to draw.")] = 1,
    draws: Annotated[int, typer.Option(min=1, help="How many different draws to train on.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each head.")] = 300,
) -> int:
    """Tell what bfloat16 and float16 rows change in the Dice of heads, with SAM's own weights."""
    from ..heads.recipes import FitOptions
    from .commands.bench import run_bench_real_weights

    return run_bench_real_weights(
        workspace,
        encoder_name=encoder,
        weights=weights,
        size=size,
        device=device,
        heads=head or ["linear", "autosam"],
        subjects=volumes,
        draws=draws,
        fit=FitOptions(steps=steps),
    )


@weights_app.command("get")
def weights_get_command(
    name: Annotated[str, typer.Argument(help="sam_vit_b, sam_vit_l, sam_vit_h or medsam_vit_b.")],
    *,
    mirror: Annotated[
        str | None,
        typer.Option(
            envvar="SAMKIT_WEIGHTS_MIRROR",
            help="A folder or an http address that has the files by their official names: asked in place of theirs.",
        ),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", envvar="SAMKIT_OFFLINE", help="Ask no network: only a mirror that is a folder.")
    ] = False,
) -> int:
    """Bring published weights here, resumed where it stopped, their digest checked."""
    from .commands.weights import run_weights_get

    return run_weights_get(name, mirror=mirror, offline=offline)


@weights_app.command("add")
def weights_add_command(file: Annotated[Path, typer.Argument(help="A SAM checkpoint, .pth or .safetensors.")]) -> int:
    """Check a checkpoint and keep a copy, so that later commands find it by its digest."""
    from .commands.weights import run_weights_add

    return run_weights_add(file)


@weights_app.command("list")
def weights_list_command(*, as_json: JsonOption = False) -> int:
    """List the checkpoints that are kept, and those that can be got."""
    from .commands.weights import run_weights_list

    return run_weights_list(as_json=as_json)


def main(arguments: list[str] | None = None) -> None:
    """Run samkit; leave with 0 done, 1 failed, 2 wrong usage, 3 done but some items failed."""
    if sys.platform == "win32":
        typer.echo("samkit runs on Linux and macOS. On Windows install it inside WSL: wsl --install", err=True)
        sys.exit(FAILED)
    # A job's time is up, a container is moved: what Ctrl-C does, the same command goes on later.
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(run(arguments))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; a user's mistake is a message, never a traceback."""
    from . import console

    try:
        app(args=arguments, prog_name="samkit")
    except SystemExit as finished:
        if finished.code == INTERRUPTED:  # typer turns Ctrl-C into this, without a word
            console.complain(f"interrupted. {_GOES_ON}")
        return finished.code if isinstance(finished.code, int) else FAILED
    except SamkitError as error:
        console.complain(_with_workspace(str(error), sys.argv[1:] if arguments is None else arguments))
        return error.exit_code
    except OSError as error:
        if error.errno is None:  # not from the operating system: a fault of samkit's own, whose traceback is wanted
            raise
        place = error.filename or "the disk"
        hint = _DISK_TROUBLE.get(error.errno, "Check the path, and the disk behind it.")
        console.complain(f"{place}: {error.strerror}. {hint} {_GOES_ON}")
        return FAILED
    finally:
        console.no_longer_wait()
    return 0


def _with_workspace(message: str, arguments: list[str]) -> str:
    """Add the workspace that the user named to a command of ours, in a message, that would look in the default one."""
    if "--workspace" in message or not _COMMAND_IN_A_WORKSPACE.search(message):
        return message
    # --workspace=W is one word, --workspace W two.
    words = [word for argument in arguments for word in re.split(r"(?<=^--workspace)=", argument, maxsplit=1)]
    for flag, value in itertools.pairwise(words):
        if flag in ("--workspace", "-w"):
            return f"{message} (Add --workspace {shlex.quote(value)} to the command.)"
    return message


# Of the verbs those that have a workspace: "no file of a kind that samkit reads" is no command.
_VERBS = "embed|experiment|gc|ingest|predict|remove|report|split|status|train-head|verify"
_COMMAND_IN_A_WORKSPACE = re.compile(rf"samkit ({_VERBS})\b")
_GOES_ON = "Everything that was finished before is intact; the same command goes on from there."
_DISK_TROUBLE = {
    errno.ENOSPC: "The disk is full: free some space, or name a --workspace on another one.",
    errno.EDQUOT: "The quota is used up: free some space, or name a --workspace elsewhere.",
    errno.EACCES: "samkit may not write or read there: check the permissions.",
    errno.EPERM: "samkit may not write or read there: check the permissions.",
    errno.EROFS: "The file system is mounted read-only: name a folder on another one.",
    errno.EEXIST: "There is something else at that place: name another one.",
    errno.ENOTDIR: "There is a file where a folder is needed: name another place.",
    errno.EISDIR: "There is a folder where a file is needed: name another place.",
}


if __name__ == "__main__":
    main()
