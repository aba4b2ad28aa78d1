"""Scores agree with two independent computations, and what is undefined is never dressed up as a number.

The first opinion is brute force (every surface voxel against every other), the second SimpleITK.
"""

import json
import math

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  # the name its own documentation uses
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cdist

from samkit.heads.metrics import (
    ClassScore,
    ScoredVolume,
    accuracy,
    score_volume,
    surface_distances,
)
from samkit.store.errors import DamagedStore, GeometryMismatch, InputError, UnusableLabel

# Masks -----------------------------------------------------------------------------------------------------------

ANISOTROPIC = (5.0, 0.7, 1.3)


def box(shape, *corners):
    """A mask of boxes, each given as ((first, last + 1), ...) along slices, rows and columns."""
    mask = np.zeros(shape, dtype=bool)
    for corner in corners:
        mask[tuple(slice(*ends) for ends in corner)] = True
    return mask


def random_mask(shape, *, seed, density=0.3):
    return np.random.default_rng(seed).random(shape) < density


SHAPE = (6, 9, 8)
FLAT = (1, 12, 10)
PAIRS = {
    "single voxel against single voxel": (
        box(SHAPE, ((0, 1), (0, 1), (0, 1))),
        box(SHAPE, ((5, 6), (8, 9), (7, 8))),
    ),
    "single voxel inside a ball": (
        box(SHAPE, ((3, 4), (4, 5), (4, 5))),
        box(SHAPE, ((1, 6), (1, 8), (1, 7))),
    ),
    "touching every border": (np.ones(SHAPE, dtype=bool), box(SHAPE, ((1, 5), (2, 7), (2, 6)))),
    "disconnected": (
        box(SHAPE, ((0, 2), (0, 2), (0, 2)), ((4, 6), (6, 9), (5, 8))),
        box(SHAPE, ((1, 3), (1, 4), (1, 3)), ((5, 6), (0, 2), (7, 8))),
    ),
    "hollow against full": (
        box(SHAPE, ((0, 6), (0, 9), (0, 8))) & ~box(SHAPE, ((1, 5), (1, 8), (1, 7))),
        box(SHAPE, ((2, 4), (3, 6), (3, 5))),
    ),
    "touching by an edge only": (
        box(SHAPE, ((1, 3), (1, 3), (1, 3))),
        box(SHAPE, ((3, 5), (3, 5), (1, 3))),
    ),
    "one slice of several": (
        box(SHAPE, ((2, 3), (1, 8), (1, 7))),
        box(SHAPE, ((2, 3), (2, 7), (3, 8))),
    ),
    "random": (random_mask(SHAPE, seed=0), random_mask(SHAPE, seed=1, density=0.6)),
    "random, sparse": (random_mask(SHAPE, seed=2, density=0.02), random_mask(SHAPE, seed=3, density=0.02)),
    "a volume of one slice": (
        box(FLAT, ((0, 1), (2, 9), (1, 8))),
        box(FLAT, ((0, 1), (0, 7), (3, 10))),
    ),
    "a volume of one slice, random": (random_mask(FLAT, seed=4), random_mask(FLAT, seed=5, density=0.7)),
}
every_pair = pytest.mark.parametrize(("prediction", "reference"), PAIRS.values(), ids=PAIRS.keys())
every_spacing = pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), ANISOTROPIC], ids=["isotropic", "anisotropic"])


def score(prediction, reference, *, spacing_mm=(1.0, 1.0, 1.0)):
    (only,) = score_volume(
        prediction.astype(np.uint8), reference.astype(np.uint8), class_names={1: "organ"}, spacing_mm=spacing_mm
    )
    return only


# First opinion: brute force --------------------------------------------------------------------------------------


def surface_points(mask, spacing):
    """Positions of the voxels with a face neighbour outside, found voxel by voxel."""
    steps = [(0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    if mask.shape[0] > 1:
        steps += [(1, 0, 0), (-1, 0, 0)]
    padded = np.pad(mask, 1)
    points = []
    for voxel in np.argwhere(padded):
        if any(not padded[tuple(voxel + step)] for step in steps):
            points.append(voxel * np.array(spacing))
    return np.array(points)


def brute_force(prediction, reference, spacing):
    distances = cdist(surface_points(prediction, spacing), surface_points(reference, spacing))
    there, back = distances.min(axis=1), distances.min(axis=0)
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    assd = (there.sum() + back.sum()) / (there.size + back.size)
    return hd95, assd


@every_pair
@every_spacing
def test_distances_are_those_of_brute_force(prediction, reference, spacing):
    hd95, assd = brute_force(prediction, reference, spacing)
    scored = score(prediction, reference, spacing_mm=spacing)
    assert (scored.hd95, scored.assd) == pytest.approx((hd95, assd))


# Second opinion: SimpleITK ---------------------------------------------------------------------------------------


def as_itk(mask, spacing):
    """An image with a margin, so that the border of the array is a border of the object; 2-D for one slice."""
    values = np.pad(mask[0] if mask.shape[0] == 1 else mask, 1).astype(np.uint8)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(tuple(reversed(spacing))[: image.GetDimension()])
    return image


def itk_surface(mask, spacing):
    return sitk.BinaryContour(as_itk(mask, spacing), fullyConnected=False)


def itk_distances(mask, other, spacing):
    """From the surface of one mask to that of the other."""
    surface = sitk.GetArrayFromImage(itk_surface(mask, spacing)).astype(bool)
    to_other = sitk.SignedMaurerDistanceMap(itk_surface(other, spacing), squaredDistance=False, useImageSpacing=True)
    return np.abs(sitk.GetArrayFromImage(to_other))[surface]


@every_pair
def test_overlaps_are_those_of_simpleitk(prediction, reference):
    measures = sitk.LabelOverlapMeasuresImageFilter()
    measures.Execute(as_itk(reference, ANISOTROPIC), as_itk(prediction, ANISOTROPIC))
    scored = score(prediction, reference)
    assert (scored.dice, scored.iou) == pytest.approx((measures.GetDiceCoefficient(), measures.GetJaccardCoefficient()))


@every_pair
@every_spacing
def test_distances_are_those_of_simpleitk(prediction, reference, spacing):
    there = itk_distances(prediction, reference, spacing)
    back = itk_distances(reference, prediction, spacing)
    scored = score(prediction, reference, spacing_mm=spacing)
    assert scored.hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-5)
    assert scored.assd == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-5)


@every_pair
@every_spacing
def test_the_largest_surface_distance_is_the_hausdorff_distance_of_simpleitk(prediction, reference, spacing):
    measures = sitk.HausdorffDistanceImageFilter()
    measures.Execute(itk_surface(prediction, spacing), itk_surface(reference, spacing))
    there, back = surface_distances(prediction, reference, spacing=spacing)
    assert max(there.max(), back.max()) == pytest.approx(measures.GetHausdorffDistance(), rel=1e-5)


# Numbers worked out by hand --------------------------------------------------------------------------------------


def test_two_voxels_three_slices_apart_are_three_slice_spacings_apart():
    prediction = box(SHAPE, ((1, 2), (4, 5), (4, 5)))
    reference = box(SHAPE, ((4, 5), (4, 5), (4, 5)))
    scored = score(prediction, reference, spacing_mm=ANISOTROPIC)
    assert (scored.hd95, scored.assd, scored.distance_unit) == (15.0, 15.0, "mm")


def test_without_spacing_distances_are_in_voxels_and_say_so():
    prediction = box(SHAPE, ((1, 2), (4, 5), (4, 5)))
    reference = box(SHAPE, ((4, 5), (4, 5), (4, 5)))
    scored = score(prediction, reference, spacing_mm=None)
    assert (scored.hd95, scored.assd, scored.distance_unit) == (3.0, 3.0, "voxels")


def test_hd95_is_the_larger_direction_and_not_the_percentile_of_both_together():
    reference = box((1, 1, 100), ((0, 1), (0, 1), (0, 2)))
    prediction = reference | box((1, 1, 100), ((0, 1), (0, 1), (99, 100)))
    # Prediction to reference: 0, 0, 98, whose 95th percentile lies 9/10 of the way from 0 to 98; back: 0, 0.
    assert score(prediction, reference).hd95 == pytest.approx(0.9 * 98)


def test_assd_pools_both_surfaces_instead_of_averaging_two_means():
    reference = box((1, 1, 10), ((0, 1), (0, 1), (0, 1)))
    prediction = box((1, 1, 10), ((0, 1), (0, 1), (0, 4)))
    # Prediction to reference: 0, 1, 2, 3; back: 0. Pooled 6 / 5, where the mean of the means would be 3 / 4.
    assert score(prediction, reference).assd == pytest.approx(6 / 5)


def test_the_inside_of_an_organ_in_a_single_slice_is_not_surface():
    filled = box((1, 9, 9), ((0, 1), (1, 8), (1, 8)))
    ring = filled & ~box((1, 9, 9), ((0, 1), (2, 7), (2, 7)))
    there, _ = surface_distances(filled, ring, spacing=(1.0, 1.0, 1.0))
    assert there.size == np.count_nonzero(ring)


def test_the_same_slice_within_a_volume_is_all_surface():
    filled = box((3, 9, 9), ((1, 2), (1, 8), (1, 8)))
    there, _ = surface_distances(filled, filled, spacing=(1.0, 1.0, 1.0))
    assert there.size == np.count_nonzero(filled)


def test_accuracy_counts_background():
    reference = np.zeros((1, 2, 5), dtype=np.uint8)
    reference[0, 0, 0] = 2
    assert accuracy(np.zeros_like(reference), reference) == pytest.approx(9 / 10)


def test_classes_are_scored_in_the_order_of_their_names_and_background_is_not():
    labels = np.arange(4, dtype=np.uint8).reshape(1, 2, 2)
    scores = score_volume(labels, labels, class_names={0: "background", 3: "LV", 1: "RV", 2: "Myo"}, spacing_mm=None)
    assert [(each.class_value, each.class_name) for each in scores] == [(3, "LV"), (1, "RV"), (2, "Myo")]


def test_each_class_is_scored_by_its_own_voxels():
    reference = np.array([[[1, 1, 2, 2]]], dtype=np.int16)
    prediction = np.array([[[1, 2, 2, 2]]], dtype=np.uint8)
    first, second = score_volume(prediction, reference, class_names={1: "a", 2: "b"}, spacing_mm=None)
    assert (first.dice, second.dice) == pytest.approx((2 / 3, 4 / 5))


# Empty masks -----------------------------------------------------------------------------------------------------

NOTHING = np.zeros(SHAPE, dtype=bool)
SOMETHING = box(SHAPE, ((1, 3), (2, 7), (2, 6)))  # 40 voxels


def measures_of(scored):
    return scored.dice, scored.iou, scored.hd95, scored.assd


def test_both_empty_has_no_score():
    scored = score(NOTHING, NOTHING)
    assert (scored.outcome, *measures_of(scored)) == ("both empty", None, None, None, None)
    assert scored.false_positive_volume is None


def test_an_empty_prediction_has_no_overlap_and_no_distance():
    scored = score(NOTHING, SOMETHING)
    assert (scored.outcome, *measures_of(scored)) == ("prediction empty", 0.0, 0.0, None, None)
    assert (scored.prediction_voxels, scored.reference_voxels) == (0, 40)


def test_an_empty_reference_has_no_score_but_a_false_positive_volume_in_millilitres():
    scored = score(SOMETHING, NOTHING, spacing_mm=(5.0, 2.0, 2.0))
    assert (scored.outcome, *measures_of(scored)) == ("reference empty", None, None, None, None)
    assert scored.false_positive_volume == pytest.approx(40 * 20 / 1000)
    assert scored.volume_unit == "ml"


def test_without_spacing_the_false_positive_volume_is_in_voxels():
    scored = score(SOMETHING, NOTHING, spacing_mm=None)
    assert (scored.false_positive_volume, scored.volume_unit) == (40.0, "voxels")


def test_masks_that_do_not_meet_are_scored_with_distances():
    scored = score(box(SHAPE, ((0, 1), (0, 1), (0, 1))), SOMETHING)
    assert (scored.outcome, scored.dice, scored.iou) == ("scored", 0.0, 0.0)
    assert scored.hd95 is not None


def test_surface_distance_to_an_empty_mask_is_refused():
    with pytest.raises(InputError, match="40 voxels, the reference 0"):
        surface_distances(SOMETHING, NOTHING, spacing=(1.0, 1.0, 1.0))


# Properties ------------------------------------------------------------------------------------------------------

shapes = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6))
spacings = st.tuples(*[st.floats(0.1, 10.0)] * 3)


@st.composite
def pairs_of_masks(draw):
    shape = draw(shapes)
    masks = hnp.arrays(bool, shape)
    prediction, reference = draw(masks), draw(masks)
    assume(prediction.any() and reference.any())
    return prediction, reference


@given(pairs_of_masks(), spacings)
@settings(max_examples=60, deadline=None)
def test_scores_do_not_change_when_prediction_and_reference_are_exchanged(pair, spacing):
    prediction, reference = pair
    one, other = score(prediction, reference, spacing_mm=spacing), score(reference, prediction, spacing_mm=spacing)
    assert measures_of(one) == pytest.approx(measures_of(other))


@given(pairs_of_masks(), spacings)
@settings(max_examples=60, deadline=None)
def test_a_perfect_prediction_has_overlap_1_and_distance_0(pair, spacing):
    mask, _ = pair
    assert measures_of(score(mask, mask, spacing_mm=spacing)) == (1.0, 1.0, 0.0, 0.0)


@given(pairs_of_masks())
@settings(max_examples=60, deadline=None)
def test_dice_follows_from_iou(pair):
    scored = score(*pair)
    assert scored.dice == pytest.approx(2 * scored.iou / (1 + scored.iou))


@given(pairs_of_masks(), spacings)
@settings(max_examples=60, deadline=None)
def test_distances_of_any_masks_are_those_of_brute_force(pair, spacing):
    scored = score(*pair, spacing_mm=spacing)
    assert (scored.hd95, scored.assd) == pytest.approx(brute_force(*pair, spacing))


@given(pairs_of_masks(), spacings, st.floats(0.1, 10.0))
@settings(max_examples=30, deadline=None)
def test_distances_scale_with_the_spacing(pair, spacing, factor):
    scored = score(*pair, spacing_mm=spacing)
    scaled = score(*pair, spacing_mm=tuple(factor * step for step in spacing))
    assert (scaled.hd95, scaled.assd) == pytest.approx((factor * scored.hd95, factor * scored.assd))


@given(pairs_of_masks(), st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_empty_space_around_the_organ_changes_nothing(pair, before, after):
    prediction, reference = pair
    assume(prediction.shape[0] > 1)  # a single slice becomes a volume when slices are added
    padded = [np.pad(mask, (before, after)) for mask in pair]
    assert measures_of(score(*padded)) == pytest.approx(measures_of(score(prediction, reference)))


# Refusals --------------------------------------------------------------------------------------------------------


def scores_of(prediction, reference, *, class_names=None, spacing_mm=None):
    return score_volume(prediction, reference, class_names=class_names or {1: "organ"}, spacing_mm=spacing_mm)


def test_grids_that_differ_are_refused_with_both_shapes():
    with pytest.raises(GeometryMismatch, match=r"\(1, 4, 4\), the reference \(1, 8, 8\)"):
        scores_of(np.zeros((1, 4, 4), np.uint8), np.zeros((1, 8, 8), np.uint8))


def test_a_single_image_is_refused_with_what_to_write():
    with pytest.raises(GeometryMismatch, match=r"write prediction\[None\]"):
        scores_of(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8))


def test_a_volume_without_voxels_has_no_accuracy():
    with pytest.raises(GeometryMismatch, match="at least one"):
        accuracy(np.zeros((0, 4, 4), np.uint8), np.zeros((0, 4, 4), np.uint8))


def test_probabilities_are_refused():
    with pytest.raises(UnusableLabel, match=r"prediction holds float32 values.*argmax"):
        scores_of(np.zeros((1, 4, 4), np.float32), np.zeros((1, 4, 4), np.uint8))


def test_values_without_a_name_are_refused_and_listed():
    labels = np.array([[[0, 1, 7, 255]]], dtype=np.uint8)
    with pytest.raises(UnusableLabel, match=r"reference holds the values \[7, 255\].*--labels 7=NAME"):
        scores_of(np.zeros_like(labels), labels)


def test_two_classes_of_one_name_are_refused():
    labels = np.zeros((1, 4, 4), np.uint8)
    with pytest.raises(UnusableLabel, match="several classes are called 'kidney'"):
        scores_of(labels, labels, class_names={1: "kidney", 2: "kidney"})


@pytest.mark.parametrize("step", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_spacing_is_refused(step):
    labels = np.zeros((1, 4, 4), np.uint8)
    with pytest.raises(InputError, match="finite number above zero"):
        scores_of(labels, labels, spacing_mm=(1.0, step, 1.0))


# JSON ------------------------------------------------------------------------------------------------------------


@every_pair
def test_scores_survive_json(prediction, reference):
    volume = ScoredVolume(
        volume_id="a", subject="b", scores=(score(prediction, reference), score(NOTHING, NOTHING)), accuracy=0.5
    )
    assert ScoredVolume.from_json(json.loads(json.dumps(volume.to_json(), allow_nan=False))) == volume


def test_the_score_of_a_class_survives_json():
    scored = score(SOMETHING, NOTHING)
    assert ClassScore.from_json(json.loads(json.dumps(scored.to_json(), allow_nan=False))) == scored


def test_a_damaged_score_is_refused_with_the_field():
    values = score(SOMETHING, NOTHING).to_json()
    with pytest.raises(DamagedStore, match="outcome"):
        ClassScore.from_json({**values, "outcome": "perfect"})


def test_a_score_that_was_cut_short_is_refused_with_the_field():
    values = ScoredVolume(volume_id="a", subject="b", scores=(score(SOMETHING, NOTHING),)).to_json()
    del values["scores"][0]["dice"]
    with pytest.raises(DamagedStore, match=r"scores\.0\.dice"):
        ScoredVolume.from_json(values)
