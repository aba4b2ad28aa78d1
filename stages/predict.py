"""predict: embeddings + a trained head -> masks on the grid of the source file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..heads.base import Head
from ..heads.frame import Frame
from ..heads.inference import segment
from ..heads.metrics import ScoredVolume, judge
from ..store.embeddings import Embeddings
from ..store.runs import Run
from ..store.slices import Volume
from .readers.base import SourceGrid
from .readers.geometry import Orientation
from .readers.nifti import write_label_nifti


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """One mask that was written."""

    volume_id: str
    path: Path
    #: Against the volume's label map, at the source's resolution; None for an unlabelled volume.
    scores: ScoredVolume | None
    #: Whether the head was trained on this volume, so that its scores say nothing.
    trained_on: bool


def predict_volume(run: Run, head: Head, volume: Volume, embeddings: Embeddings, output: Path) -> Predicted:
    """Segment one volume and write its mask as NIfTI, with the source's shape, affine, qform, sform and label values.

    Parameters
    ----------
    run, head
        The head and the settings it was trained with; ``head`` in eval mode.
    volume
        Of any workspace whose embeddings follow the run's recipe.
    embeddings
        The volume's features.
    output
        The folder to write ``<volume id>.nii.gz`` to.

    Raises
    ------
    MissingEmbeddings
        When the volume is not embedded.
    """
    _, _, rows, columns = volume.record.shape
    frame = Frame(rows=rows, columns=columns, input_px=embeddings.recipe.input_px)
    label_names = dict(run.settings.label_names)
    label = segment(head, embeddings[volume.id], frame, label_names)
    path = output / f"{volume.id}.nii.gz"
    orientation = Orientation.from_json(dict(volume.record.orientation))
    write_label_nifti(path, orientation.undo(label), SourceGrid.from_json(dict(volume.record.source_grid)))
    # Labels with other names (a new dataset's numbers) mean other things and are not compared.
    comparable = volume.labelled and volume.label_names == label_names
    trained_on = volume.subject in run.settings.drawn
    return Predicted(
        volume_id=volume.id, path=path, scores=judge(volume, label) if comparable else None, trained_on=trained_on
    )
