"""What several verbs' flags mean, said once; and the words that a flag takes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Ids(StrEnum):
    """Where ids of volumes come from."""

    auto = "auto"
    stem = "stem"
    hash = "hash"


class IntensityChoice(StrEnum):
    """How values become [0, 1]."""

    auto = "auto"
    percentiles = "percentiles"
    full_range = "full-range"


class NonFiniteChoice(StrEnum):
    """What becomes of NaN and infinities."""

    refuse = "refuse"
    lowest = "lowest"


class Overlap(StrEnum):
    """Whose a voxel is that belongs to several classes."""

    refuse = "refuse"
    first = "first"
    last = "last"


class ViewsFor(StrEnum):
    """Whose slices are embedded in several views."""

    train = "train"
    all = "all"


class Counted(StrEnum):
    """What --volumes counts."""

    subjects = "subjects"
    frames = "frames"


class ConventionChoice(StrEnum):
    """Whose rules scores are counted by; see `heads.conventions`."""

    autosam = "autosam"
    transunet = "transunet"


class ReportFormat(StrEnum):
    """How the table of runs is told."""

    page = "page"
    json = "json"
    csv = "csv"
    markdown = "markdown"
    latex = "latex"


class MaskFormatChoice(StrEnum):
    """How masks are written."""

    nifti = "nifti"
    nrrd = "nrrd"
    dicom_seg = "dicom-seg"
    png = "png"


WorkspaceOption = Annotated[
    str,
    typer.Option(
        "--workspace",
        "-w",
        envvar="SAMKIT_WORKSPACE",
        help="The workspace: a directory, or a URL (s3://bucket/folder).",
    ),
]
SubjectOption = Annotated[
    str | None,
    typer.Option(
        help="Regular expression for the patient in a file's name, or, with a / in it, in its folders and name: its "
        "first group, or the whole match."
    ),
]
IdsOption = Annotated[
    Ids,
    typer.Option(
        help="Volume ids: file stems, keyed hashes, or 'auto': stems in research layouts (imagesTr, BIDS, ACDC, ...), "
        "hashes elsewhere, where file names may be those of patients."
    ),
]
ChannelOption = Annotated[int | None, typer.Option(help="Which of several image channels (nnU-Net's _0000, _0001).")]
LabelSuffixOption = Annotated[
    str | None, typer.Option(help="Which of several labels of an image, by the end of its name (BIDS: seg-manual).")
]
TimeIndexOption = Annotated[int | None, typer.Option(min=0, help="Which volume of a 4-D file or series, from 0.")]
BValueOption = Annotated[float | None, typer.Option(min=0, help="Which b-value of a diffusion series, in s/mm2.")]
EchoOption = Annotated[int | None, typer.Option(min=1, help="Which echo of a series with several, from 1.")]
MinSlicesOption = Annotated[
    int | None,
    typer.Option(min=1, help="Refuse DICOM series of fewer slices. Default: 3 where a study has larger ones."),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        help="Checkpoint file, a name or digest of `samkit weights list`, or 'seeded': numbers from a seed. Default: "
        "those that come with the encoder, else the shelf's."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps.")]
CountOption = Annotated[
    Counted,
    typer.Option(help="What --volumes counts: patients with all their labelled volumes, or those one by one."),
]
FeaturesOption = Annotated[
    str | None, typer.Option("--encoder", help="Whose embeddings: an encoder's newest recipe, or a recipe id.")
]
SplitOption = Annotated[str, typer.Option(help="Which split of subjects into pool and test.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Of a head's start and the order of slices.")]
FitRecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe", help="Loss, optimiser, rates and budget: each head's own, or autosam-paper, sam-lst-paper."
    ),
]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Budget of optimiser steps; default: the recipe's.")]
FitViewsOption = Annotated[
    str,
    typer.Option(
        "--views",
        help="Fit to views of the slices too, which `samkit embed --views` has embedded (`unet` makes its own): none, "
        "reflections, dihedral, sam-lst, a file with one view a line, or views joined by commas.",
    ),
]
CnnWeightsOption = Annotated[
    Path | None, typer.Option(help="Of ladder: torchvision's resnet18-f37072fd.pth; without, a random CNN.")
]
PretrainingStepsOption = Annotated[
    int | None, typer.Option(min=1, help="Of unet-simclr: steps on slices without labels, before. Default: 300.")
]
ValidationOption = Annotated[
    bool | None,
    typer.Option(
        "--validation/--no-validation",
        help="Keep one subject of a draw of three or more to stop by; default: the recipe's (all are fitted to).",
        show_default=False,
    ),
]
FitPrecisionOption = Annotated[
    str | None,
    typer.Option(help="What a head's products are computed in: float32 (the default), bfloat16, or auto (the faster)."),
]
TilesOption = Annotated[
    bool,
    typer.Option(
        "--tiles", help="Cut planes larger than the encoder's input into tiles, at full resolution; else they shrink."
    ),
]
TileOverlapOption = Annotated[
    float | None, typer.Option(help="For --tiles: the least share of one that the next covers too. Default: 0.25.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
