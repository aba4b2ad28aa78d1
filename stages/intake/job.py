"""What the user chooses, what is to be read, and what becomes of it: values that travel between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...store.places import Place
from ...store.slices import Pixels, VolumeRecord
from ..readers.base import SourceFiles
from ..readers.intensity import IntensityRule, NonFinite
from ..readers.labels import LabelChoice, Overlap
from ..readers.windows import Window


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestOptions:
    """What the user chooses."""

    #: None, one, or one for each of three channels.
    windows: tuple[Window, ...] = ()
    intensity: IntensityRule = "auto"
    #: What becomes of NaN and infinities.
    non_finite: NonFinite = "refuse"
    axis: str | None = None
    #: From ``--labels``; None for those of the dataset, or numbers.
    labels: LabelChoice | None = None
    #: What becomes of a voxel that belongs to several classes; None for what the dataset's layout says, or refusal.
    overlap: Overlap | None = None
    #: Above which share a soft label is one; None refuses soft labels.
    label_threshold: float | None = None
    #: Bring labels that lie on another lattice to the image's by nearest neighbour.
    resample_labels: bool = False
    require_labels: bool = False
    #: Take a volume whose id belongs to another source, as its new generation.
    replace: bool = False
    #: Take an image without its label, and note why, where the label cannot be used.
    spare_labels: bool = False
    #: What the user named as the source, for messages.
    shown: str = "SOURCE"


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """A volume that is in the workspace now."""

    shown: str
    id: str
    #: "new", "unchanged", "new pixels", "new label", "new details", "repaired".
    change: str
    slices: int
    labelled: bool
    label_values: tuple[int, ...]
    geometry_known: bool
    notes: tuple[str, ...]
    #: What to tell of another volume of the workspace with the same slices.
    twin: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A source that was not taken, and why."""

    shown: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestJob:
    """What is the same for all sources of a command; it goes to the processes that read them."""

    place: Place
    #: As typed, where not typed with the label rules of the workspace's volumes.
    options: IngestOptions
    #: As typed.
    typed: IngestOptions
    choice: LabelChoice
    overlap: Overlap
    #: What the dataset calls the values in its label files.
    file_names: Mapping[int, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestTask:
    """One source, and the volume of its id that is in the workspace already."""

    source: SourceFiles
    there: VolumeRecord | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Read:
    """A source that was read: the pixels of a volume of several slices are on the disk, those of one slice are here."""

    taken: Taken
    #: None where nothing has changed.
    record: VolumeRecord | None
    pixels: Pixels | None = None
