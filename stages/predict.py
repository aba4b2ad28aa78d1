"""predict: embeddings + a trained head -> masks on the grid of the source file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..heads.base import Head
from ..heads.feeding import frame_of
from ..heads.inference import segment
from ..heads.metrics import ScoredVolume, judge
from ..store.embeddings import Embeddings
from ..store.errors import InputError, UsageError
from ..store.runs import Run
from ..store.slices import Volume
from .readers.base import SourceFiles, SourceGrid
from .readers.geometry import Orientation
from .readers.intensity import Window
from .readers.naming import identity_of_text, stem
from .readers.nifti import write_label_nifti

# A message names so many files or volumes, and counts the rest.
_NAMED = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """One mask that was written."""

    volume_id: str
    path: Path
    #: Against the volume's label map, at the source's resolution; None for an unlabelled volume.
    scores: ScoredVolume | None
    #: Whether the head was trained on this volume or its subject, so that its scores say nothing.
    trained_on: bool


def predict_volume(run: Run, head: Head, volume: Volume, embeddings: Embeddings, path: Path) -> Predicted:
    """Segment one volume and write its mask as NIfTI, with the source's shape, affine, qform, sform and label values.

    Parameters
    ----------
    run, head
        The head and the settings it was trained with; ``head`` in eval mode.
    volume
        Of any workspace whose embeddings follow the run's recipe.
    embeddings
        The volume's features.
    path
        The file to write, ``.nii.gz``; replaced if it exists, see `check_targets`.

    Raises
    ------
    MissingEmbeddings
        When the volume is not embedded.
    """
    label_names = dict(run.settings.label_names)
    label = segment(head, embeddings[volume.id], frame_of(volume, embeddings), label_names)
    orientation = Orientation.from_json(dict(volume.record.orientation))
    write_label_nifti(path, orientation.undo(label), SourceGrid.from_json(dict(volume.record.source_grid)))
    # Labels with other names (a new dataset's numbers) mean other things and are not compared.
    comparable = volume.labelled and volume.label_names == label_names
    # A subject's name means the same patient in the run's own workspace only; equal slices are equal anywhere.
    own = embeddings.folder.parent.parent.same_as(run.folder.parent.parent)
    drawn_slices = {_slices_of(content) for content in run.settings.drawn_volumes.values()}
    trained_on = (own and volume.subject in run.settings.drawn) or _slices_of(volume.content) in drawn_slices
    return Predicted(
        volume_id=volume.id, path=path, scores=judge(volume, label) if comparable else None, trained_on=trained_on
    )


# -- where masks go --------------------------------------------------------------------------------


def mask_names(sources: Sequence[SourceFiles]) -> dict[str, str]:
    """Return the file name of each source's mask, by volume id.

    A mask lies in the user's own folder, beside files whose names they know: it is called as its source is. A DICOM
    series has no name of its own, and two sources of one name would write one file: both keep their ids.
    """
    stems = {source.id: _own_name(source) for source in sources}
    # Some file systems do not tell capitals from small letters.
    shared = Counter(name.casefold() for name in stems.values())
    return {
        volume_id: f"{name if shared[name.casefold()] == 1 else volume_id}.nii.gz" for volume_id, name in stems.items()
    }


def check_targets(targets: Iterable[Path], source_files: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse to write masks over files that exist; over sources always, over others unless ``overwrite``.

    Parameters
    ----------
    targets
        The masks to be written.
    source_files
        Images and labels that the masks are made from.

    Raises
    ------
    UsageError
        With the first names and what to type.
    """
    # A link counts even if what it points to is gone: it is the user's.
    there = [path for path in targets if os.path.lexists(path)]
    if not there:
        return
    # By inode, which sees through links, relative paths and capitals that a file system does not tell apart.
    sources = {_inode(path) for path in source_files if path.exists()}
    own = [path for path in there if path.exists() and _inode(path) in sources]
    if own:
        message = (
            f"{_first(map(str, own))}: these are source files, and the masks would take their place. Nothing was "
            f"written. Name another folder: --output MASKS"
        )
        raise UsageError(message)
    if not overwrite:
        message = (
            f"{_first(map(str, there))}: there already. Nothing was written. Name another folder: --output MASKS, or "
            f"add --overwrite to replace them."
        )
        raise UsageError(message)


def check_not_sources(targets: Mapping[str, Path], volumes: Iterable[Volume], key: bytes) -> None:
    """Refuse to write masks over the images that a workspace's volumes were read from.

    Parameters
    ----------
    targets
        The masks to be written, by volume id.
    volumes
        A workspace keeps no paths, only keyed hashes of them.
    key
        The key of these hashes, see `readers.naming.identity_of_text`.

    Raises
    ------
    UsageError
        With the first names and what to type.
    """
    identities = {volume.record.identity for volume in volumes}
    own = [path for path in targets.values() if identity_of_text(key, "path", str(path.resolve())) in identities]
    check_targets(own, own, overwrite=False)


@contextmanager
def scratch_inside(output: Path) -> Iterator[Path]:
    """Give a hidden folder inside the folder of the masks, gone afterwards, and that folder with it if it is empty.

    There, and not in the system's temporary folder: embeddings of a dataset are large, and patients' images stay
    where the user wants their masks.
    """
    made = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryDirectory(prefix=".samkit-predict-", dir=output) as folder:
            yield Path(folder)
    finally:
        if made and not any(output.iterdir()):
            output.rmdir()


# -- whether a head fits ---------------------------------------------------------------------------


def check_ingested_alike(run: Run, volumes: Iterable[Volume]) -> None:
    """Refuse volumes whose slices were made in another way than those that the head was trained on.

    Raises
    ------
    InputError
        With both ways, the first volumes, and what to do.
    """
    expected = _way_of(run.record["ingest_recipe"])
    unlike = [(volume, way) for volume in volumes if (way := _way_of(volume.ingest_recipe)) != expected]
    if not unlike:
        return
    way = unlike[0][1]
    same = [volume.id for volume, other in unlike if other == way]
    differing = [name for name in expected if expected[name] != way[name]]
    message = (
        f"{_first(same)}: ingested with {_told(way, differing)}, and run {run.id} was trained on slices with "
        f"{_told(expected, differing)}: the head would see other grey values or planes than it knows. Nothing was "
        f"written. Train on the slices as they are now: samkit train-head {run.settings.head} "
        f"--volumes {run.settings.subjects}, or ingest the source again as the run's was{_flags(expected)}."
    )
    raise InputError(message)


def _way_of(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Return what the user decided of an ingest recipe, as text; a volume's own percentiles are left out."""
    window = recipe["window"]
    return {
        "window": "none" if window is None else str(Window(**window)),
        "intensity": str(recipe["intensity"]["rule"]),
        "axis": str(recipe["axis"] or "chosen by the file"),
        "channels": str(recipe["channels"]),
    }


def _told(way: Mapping[str, str], names: Iterable[str]) -> str:
    return ", ".join(f"{name} {way[name]}" for name in names)


def _flags(way: Mapping[str, str]) -> str:
    return f": --window {way['window']}" if way["window"] != "none" else ", without --window"


# -- parts -----------------------------------------------------------------------------------------


def _own_name(source: SourceFiles) -> str:
    """Return the id where it is a part of the file's name already (nnU-Net's without its channel), else the stem."""
    if source.reader == "dicom":
        return source.id
    name = stem(source.image[0])
    return source.id if source.id in name or not name else name


def _slices_of(content: str) -> str:
    """Return the part of `Volume.content` that stands for the slices."""
    return content.split("/", maxsplit=1)[0]


def _inode(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _first(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more
