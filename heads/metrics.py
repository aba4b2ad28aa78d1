"""How a predicted label map is judged against a reference, class by class.

Conventions of the whole module:

- Arrays are (slices, rows, columns) of whole numbers, 0 is background, and both label maps lie on the
  source's own grid. Spacing is (between slices, between rows, between columns), the order of the axes.
- Distances are in millimetres where the spacing is known, in voxels where it is not, and say which.
- What is undefined is ``None``: never 0, never 1, never NaN. Published code that answers otherwise flatters
  itself: an organ missed entirely gets a surface distance of 0 (perfect), a false alarm a Dice of 1.

  ====================  =====  =====  =========  =======================================
  outcome               dice   iou    distances  enters the means
  ====================  =====  =====  =========  =======================================
  scored                value  value  values     yes
  prediction empty      0      0      None       of overlap; its count stands beside them
  reference empty       None   None   None       no; counted, with the volume predicted
  both empty            None   None   None       no; counted
  ====================  =====  =====  =========  =======================================

How many scored volumes become one number is in `heads.averages`.

The formulas follow Taha and Hanbury, "Metrics for evaluating 3D medical image segmentation" (BMC Medical
Imaging 15:29, 2015), and for the surface distances Heimann et al., "Comparison and evaluation of methods for
liver segmentation from CT datasets" (IEEE Transactions on Medical Imaging 28:8, 2009).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from scipy import ndimage

from ..store.errors import DamagedStore, GeometryMismatch, InputError, UnusableLabel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..store.slices import Volume

__all__ = [
    "ClassScore",
    "DistanceUnit",
    "Outcome",
    "ScoredVolume",
    "accuracy",
    "judge",
    "score_volume",
    "surface_distances",
]

Outcome = Literal["scored", "both empty", "prediction empty", "reference empty"]
DistanceUnit = Literal["mm", "voxels"]

Labels = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]
Distances = NDArray[np.float64]
Spacing = tuple[float, float, float]

BACKGROUND = 0
CUBIC_MM_PER_ML = 1000.0
_PERCENT_OF_HD95 = 95.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassScore:
    """One class in one volume; the table at the top of the module says what is ``None`` when."""

    class_value: int
    class_name: str
    dice: float | None
    """2 |P and R| / (|P| + |R|), from 0 to 1."""
    iou: float | None
    """|P and R| / |P or R| (Jaccard), from 0 to 1."""
    hd95: float | None
    """The larger of the two directed 95th percentiles of surface distance, in ``distance_unit``."""
    assd: float | None
    """Mean distance of all surface voxels of both to the other's surface, in ``distance_unit``."""
    distance_unit: DistanceUnit
    reference_voxels: int
    prediction_voxels: int
    outcome: Outcome
    false_positive_volume: float | None
    """What was predicted where the reference has none of this class, in ``volume_unit``; None for other outcomes."""

    @property
    def volume_unit(self) -> Literal["ml", "voxels"]:
        """The unit of ``false_positive_volume``."""
        return "ml" if self.distance_unit == "mm" else "voxels"

    def to_json(self) -> dict[str, Any]:
        """Return plain values that ``json.dumps(..., allow_nan=False)`` takes."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, object]) -> ClassScore:
        """Return the score that ``to_json`` wrote.

        Raises
        ------
        DamagedStore
            When a field is missing or of the wrong kind.
        """
        return _read(_CLASS_SCORE, values, what="the score of a class")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredVolume:
    """The scores of one volume, and whose volume it is."""

    volume_id: str
    subject: str
    scores: tuple[ClassScore, ...]
    accuracy: float | None = None
    """Share of voxels with the right label, background included; None where it was not asked for."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values that ``json.dumps(..., allow_nan=False)`` takes."""
        return {**asdict(self), "scores": [score.to_json() for score in self.scores]}

    @staticmethod
    def from_json(values: Mapping[str, object]) -> ScoredVolume:
        """Return the scored volume that ``to_json`` wrote.

        Raises
        ------
        DamagedStore
            When a field is missing or of the wrong kind.
        """
        return _read(_SCORED_VOLUME, values, what="the scores of a volume")


def score_volume(
    prediction: Labels,
    reference: Labels,
    *,
    class_names: Mapping[int, str],
    spacing_mm: Spacing | None,
) -> list[ClassScore]:
    """Score every named class of one volume.

    Parameters
    ----------
    prediction, reference : array of whole numbers, (slices, rows, columns)
        Label maps on one grid. A volume of a single slice is judged as the 2-D image it is (see
        `surface_distances`).
    class_names : mapping from label value to name
        The classes to score, in this order. 0 is background: it may be named and is never scored.
    spacing_mm : (between slices, between rows, between columns), in millimetres, or None
        None gives distances and false-positive volumes in voxels, so labelled.

    Returns
    -------
    list of ClassScore
        One for each class of ``class_names`` except background, empty or not.

    Raises
    ------
    GeometryMismatch
        When the two are not 3-D arrays of one shape, or have no voxels.
    UnusableLabel
        When an array is not of whole numbers, holds a value without a name, or two classes share a name.
    InputError
        When a spacing is not a finite number above zero.
    """
    _check_label_maps(prediction, reference)
    _check_names(prediction, reference, class_names)
    _check_spacing(spacing_mm)
    return [
        _score_class(prediction == value, reference == value, value=value, name=name, spacing_mm=spacing_mm)
        for value, name in class_names.items()
        if value != BACKGROUND
    ]


def judge(volume: Volume, prediction: Labels) -> ScoredVolume:
    """Score a prediction against the label map of a labelled volume.

    Parameters
    ----------
    volume
        With a label map; its names and its spacing are used.
    prediction
        (slices, rows, columns), on the volume's own pixels.
    """
    reference = volume.read_label()
    if reference is None:
        message = f"{volume.id} has no label map to be scored against. Ingest it with one, or leave it out."
        raise InputError(message)
    scores = score_volume(prediction, reference, class_names=volume.label_names, spacing_mm=volume.spacing_mm)
    return ScoredVolume(
        volume_id=volume.id, subject=volume.subject, scores=tuple(scores), accuracy=accuracy(prediction, reference)
    )


def accuracy(prediction: Labels, reference: Labels) -> float:
    """Return the share of voxels with the right label, background included, from 0 to 1.

    Background is most of a medical image, so that this is close to 1 for a head that finds nothing.

    Raises
    ------
    GeometryMismatch
        When the two are not 3-D arrays of one shape, or have no voxels.
    UnusableLabel
        When an array is not of whole numbers.
    """
    _check_label_maps(prediction, reference)
    return np.count_nonzero(prediction == reference) / reference.size


def surface_distances(prediction: Mask, reference: Mask, *, spacing: Spacing) -> tuple[Distances, Distances]:
    """Measure the distance of every surface voxel of one mask to the nearest of the other, both ways.

    The surface of a mask is made of its voxels with a face neighbour (6 in a volume, 4 in a single slice) outside the
    mask; what lies beyond the image counts as outside. Were a volume of one slice taken as 3-D, each of its
    voxels would touch the outside, and the inside of an organ would count as surface: so there the surface is
    the outline in the plane. Distances are between voxel centres.

    Parameters
    ----------
    prediction, reference : bool, (slices, rows, columns)
    spacing : (between slices, between rows, between columns)
        The size of a voxel; its unit is the unit of the result.

    Returns
    -------
    prediction to reference, reference to prediction : float64, one number for each surface voxel

    Raises
    ------
    InputError
        When one of them is empty: no distance is defined then.
    """
    if not (prediction.any() and reference.any()):
        message = (
            f"the prediction has {np.count_nonzero(prediction)} voxels, the reference {np.count_nonzero(reference)}, "
            f"and nothing is at a distance from an empty mask. Use score_volume, which keeps such cases apart."
        )
        raise InputError(message)
    # A voxel outside the box of the union is in neither mask, which is also what erosion assumes beyond the edge
    # of an array: cropping changes no surface, and the distance maps cost what the organ costs, not the scan.
    box = _bounding_box(prediction | reference)
    flat = reference.shape[0] == 1
    surface_of_prediction = _surface(prediction[box], flat=flat)
    surface_of_reference = _surface(reference[box], flat=flat)
    to_reference = ndimage.distance_transform_edt(~surface_of_reference, sampling=spacing)
    from_prediction: Distances = to_reference[surface_of_prediction]
    to_prediction = ndimage.distance_transform_edt(~surface_of_prediction, sampling=spacing)
    from_reference: Distances = to_prediction[surface_of_reference]
    return from_prediction, from_reference


def _score_class(prediction: Mask, reference: Mask, *, value: int, name: str, spacing_mm: Spacing | None) -> ClassScore:
    prediction_voxels = int(np.count_nonzero(prediction))
    reference_voxels = int(np.count_nonzero(reference))
    outcome = _outcome(prediction_voxels=prediction_voxels, reference_voxels=reference_voxels)
    dice = iou = hd95 = assd = false_positive_volume = None
    if outcome == "scored":
        shared = int(np.count_nonzero(prediction & reference))
        dice = 2 * shared / (prediction_voxels + reference_voxels)
        iou = shared / (prediction_voxels + reference_voxels - shared)
        distances = surface_distances(prediction, reference, spacing=spacing_mm or (1.0, 1.0, 1.0))
        hd95 = max(float(np.percentile(directed, _PERCENT_OF_HD95)) for directed in distances)
        # Pooled, as Heimann et al. define it: the mean of the two directed means would weigh a small surface
        # as much as a large one.
        assd = float(np.concatenate(distances).mean())
    elif outcome == "prediction empty":
        dice = iou = 0.0
    elif outcome == "reference empty":
        voxel_volume = 1.0 if spacing_mm is None else math.prod(spacing_mm) / CUBIC_MM_PER_ML
        false_positive_volume = prediction_voxels * voxel_volume
    return ClassScore(
        class_value=int(value),
        class_name=name,
        dice=dice,
        iou=iou,
        hd95=hd95,
        assd=assd,
        distance_unit="voxels" if spacing_mm is None else "mm",
        reference_voxels=reference_voxels,
        prediction_voxels=prediction_voxels,
        outcome=outcome,
        false_positive_volume=false_positive_volume,
    )


def _outcome(*, prediction_voxels: int, reference_voxels: int) -> Outcome:
    if reference_voxels:
        return "scored" if prediction_voxels else "prediction empty"
    return "reference empty" if prediction_voxels else "both empty"


def _bounding_box(mask: Mask) -> tuple[slice, ...]:
    box: tuple[slice, ...] = ndimage.find_objects(mask.view(np.uint8))[0]
    return box


def _surface(mask: Mask, *, flat: bool) -> Mask:
    faces = ndimage.generate_binary_structure(rank=3, connectivity=1)
    inside = ndimage.binary_erosion(mask, faces[1:2] if flat else faces, border_value=0)
    surface: Mask = mask & ~inside
    return surface


def _check_label_maps(prediction: Labels, reference: Labels) -> None:
    for role, array in (("prediction", prediction), ("reference", reference)):
        if array.dtype.kind not in "biu":
            message = (
                f"the {role} holds {array.dtype} values, and labels are whole numbers. It is probably a map of "
                f"probabilities or logits: take its argmax, or, if its values are whole, use .astype('uint8')."
            )
            raise UnusableLabel(message)
        if array.ndim != 3 or array.size == 0:
            message = (
                f"the {role} has shape {array.shape}, and a label map is (slices, rows, columns) with at least one "
                f"voxel. If it is a single image, write {role}[None]."
            )
            raise GeometryMismatch(message)
    if prediction.shape != reference.shape:
        message = (
            f"the prediction has shape {prediction.shape}, the reference {reference.shape}, as (slices, rows, "
            f"columns). The prediction was probably left on the training grid or in display orientation: bring it to "
            f"the reference's own grid before scoring."
        )
        raise GeometryMismatch(message)


def _check_names(prediction: Labels, reference: Labels, class_names: Mapping[int, str]) -> None:
    shared_names = [name for name, count in Counter(class_names.values()).items() if count > 1]
    if shared_names:
        message = (
            f"several classes are called {shared_names[0]!r} in {dict(class_names)}, and scores are kept by name. "
            f"Give each its own name, as in --labels 1=left-kidney,2=right-kidney."
        )
        raise UnusableLabel(message)
    named = [BACKGROUND, *class_names]
    for role, array in (("prediction", prediction), ("reference", reference)):
        if not np.isin(array, named).all():
            unnamed = sorted(set(np.unique(array).tolist()) - set(named))
            message = (
                f"the {role} holds the values {unnamed}, and the named classes are {dict(class_names)}. Either the "
                f"label names are incomplete, or the two come from different datasets. Name every value, as in "
                f"--labels {unnamed[0]}=NAME."
            )
            raise UnusableLabel(message)


def _check_spacing(spacing_mm: Spacing | None) -> None:
    if spacing_mm is not None and not all(math.isfinite(step) and step > 0 for step in spacing_mm):
        message = (
            f"the spacing is {spacing_mm} mm between slices, rows and columns, and each must be a finite number above "
            f"zero. The source's header is probably incomplete: pass spacing_mm=None to have distances in voxels."
        )
        raise InputError(message)


# JSON ------------------------------------------------------------------------------------------------------------

_Value = TypeVar("_Value")

_CLASS_SCORE = TypeAdapter(ClassScore)
_SCORED_VOLUME = TypeAdapter(ScoredVolume)


def _read(adapter: TypeAdapter[_Value], values: Mapping[str, object], *, what: str) -> _Value:
    try:
        return adapter.validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        message = (
            f"{what} cannot be read back: {field}: {first['msg']}, and the file has {first['input']!r}. It was "
            f"probably edited, or cut short. Remove the folder of the run and train it again."
        )
        raise DamagedStore(message) from error
