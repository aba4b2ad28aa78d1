"""Subjects look like subjects: repeatable from a seed, different between seeds, with every organ in its place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from samkit.stages.synthesis.anatomy import LABEL_NAMES, draw_subject
from samkit.stages.synthesis.atlas import ATLAS
from samkit.stages.synthesis.scanner import TISSUES
from samkit.store.errors import UsageError

SMALL = (6, 48, 40)
seeds = st.integers(0, 2**63)


@pytest.fixture(scope="module")
def subject():
    return draw_subject(7)


def middle_of(label, name):
    """(slice, row, column) of an organ's centre of mass, as fractions of the grid."""
    value = next(value for value, known in LABEL_NAMES.items() if known == name)
    return np.divide(ndimage.center_of_mass(label == value), label.shape)


def test_the_default_grid_is_24_slices_of_160_rows_and_144_columns(subject):
    assert subject.image.shape == subject.label.shape == (24, 160, 144)


def test_image_is_float32_and_label_is_uint8(subject):
    assert (subject.image.dtype, subject.label.dtype) == (np.float32, np.uint8)


def test_the_same_seed_draws_the_same_subject():
    first, second = draw_subject(3, shape=SMALL), draw_subject(3, shape=SMALL)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.label, second.label)
    assert first.origin_mm == second.origin_mm


def test_drawing_leaves_numpys_global_random_state_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the legacy state is what is tested
    draw_subject(3, shape=SMALL)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@settings(max_examples=20, deadline=None)
@given(seeds, seeds)
def test_other_seeds_draw_other_anatomy(one, other):
    same = np.array_equal(draw_subject(one, shape=SMALL).label, draw_subject(other, shape=SMALL).label)
    assert same == (one == other)


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(4, 9), st.integers(24, 70), st.integers(24, 70), st.floats(0.5, 8), st.floats(0.4, 3))
def test_every_organ_is_present_on_any_grid(seed, slices, rows, columns, between_slices_mm, pixel_mm):
    spacing_mm = (between_slices_mm, pixel_mm, pixel_mm)
    subject = draw_subject(seed, shape=(slices, rows, columns), spacing_mm=spacing_mm)
    assert set(np.unique(subject.label).tolist()) == {0, *LABEL_NAMES}


def test_the_body_keeps_its_proportions_when_pixels_are_not_square():
    def depth_over_width(phantom):
        _, rows, columns = ndimage.find_objects((phantom.image > 150).astype(int))[0]
        return (rows.stop - rows.start) * phantom.spacing_mm[1] / (columns.stop - columns.start) / phantom.spacing_mm[2]

    square = draw_subject(0, shape=(4, 96, 96), spacing_mm=(5, 2, 2))
    flat = draw_subject(0, shape=(4, 128, 96), spacing_mm=(5, 1.5, 2))
    assert depth_over_width(flat) == pytest.approx(depth_over_width(square), rel=0.05)


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_organs_keep_their_relative_places(seed):
    label = draw_subject(seed, shape=(12, 80, 72)).label
    liver, spleen, left, right = (middle_of(label, name) for name in ("liver", "spleen", "left kidney", "right kidney"))
    assert liver[2] < 0.5 < spleen[2], "liver on the patient's right, spleen on the left"
    assert right[2] < 0.5 < left[2], "right kidney on the patient's right, which is the left of the picture"
    assert max(liver[1], spleen[1]) < min(left[1], right[1]), "kidneys behind liver and spleen"
    assert right[0] < liver[0], "kidneys below the middle of the liver"
    assert left[0] < spleen[0], "kidneys below the middle of the spleen"


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_intensities_are_finite_not_negative_and_about_a_thousand_at_most(seed):
    image = draw_subject(seed, shape=SMALL).image
    assert np.isfinite(image).all()
    assert image.min() >= 0
    assert 500 < np.percentile(image, 99.5) < 1200


def test_the_air_around_the_body_is_dark_noise(subject):
    corner = subject.image[:, :20, :20]
    assert 0 < corner.mean() < 40
    assert corner.std() > 0


def test_organs_differ_in_brightness(subject):
    inside = {
        name: float(np.median(subject.image[ndimage.binary_erosion(subject.label == value)]))
        for value, name in LABEL_NAMES.items()
    }
    assert inside["liver"] > 1.15 * inside["spleen"], inside


def test_a_kidney_is_a_brighter_shell_around_a_darker_core():
    shells, cores = [], []
    for seed in range(5):
        subject = draw_subject(seed)
        depth = ndimage.distance_transform_edt(subject.label == 3, sampling=subject.spacing_mm)
        shells.append(subject.image[(depth > 3) & (depth < 6)].mean())
        cores.append(subject.image[depth > 0.75 * depth.max()].mean())
    assert np.mean(shells) > 1.05 * np.mean(cores)


def test_organs_vary_in_volume_between_subjects():
    labels = [draw_subject(seed, shape=(12, 80, 72)).label for seed in range(12)]
    for value, name in LABEL_NAMES.items():
        volumes = [np.count_nonzero(label == value) for label in labels]
        assert np.std(volumes) > 0.05 * np.mean(volumes), name


def test_contrast_varies_between_subjects():
    ratios = []
    for seed in range(8):
        subject = draw_subject(seed, shape=(12, 80, 72))
        ratios.append(np.median(subject.image[subject.label == 1]) / np.percentile(subject.image, 99))
    assert np.std(ratios) > 0.02


def test_organ_borders_are_blurred_more_between_slices_than_within_them():
    """Partial volume: thick slices mix tissues where a surface slants through them."""
    thick, thin = draw_subject(5, shape=(6, 96, 88)), draw_subject(5, shape=(48, 96, 88))

    def share_of_mixed_voxels(phantom):
        body = phantom.image[phantom.image > 150]
        liver = np.median(phantom.image[phantom.label == 1])
        fat = np.percentile(body, 90)
        near = ndimage.binary_dilation(phantom.label == 1, iterations=1) & (phantom.label == 0)
        between = (phantom.image > liver + 0.3 * (fat - liver)) & (phantom.image < fat - 0.3 * (fat - liver))
        return np.count_nonzero(between & near) / np.count_nonzero(near)

    assert share_of_mixed_voxels(thick) > share_of_mixed_voxels(thin)


def test_the_affine_puts_the_first_voxel_at_the_origin(subject):
    np.testing.assert_array_equal(subject.affine @ (0, 0, 0, 1), (*subject.origin_mm, 1))


def test_the_affine_takes_columns_left_rows_back_and_slices_up(subject):
    between_slices, between_rows, between_columns = subject.spacing_mm
    np.testing.assert_array_equal(subject.affine[:3, :3], np.diag([-between_columns, -between_rows, between_slices]))


def test_every_tissue_of_the_atlas_has_relaxation_times():
    assert {part.tissue for part in ATLAS} <= set(TISSUES)


def test_every_label_of_the_atlas_has_a_name():
    assert {part.label for part in ATLAS} - {0} == set(LABEL_NAMES)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"seed": -1}, "seed of 0 or more, not -1"),
        ({"seed": 0, "shape": (2, 48, 40)}, r"\(2, 48, 40\).*larger shape.*\(4, 24, 24\)"),
        ({"seed": 0, "shape": (4, 32, 32), "spacing_mm": (5.0, 2.5, 0.5)}, "nearer to square"),
        ({"seed": 0, "spacing_mm": (5.0, 0.0, 1.5)}, r"\(5.0, 0.0, 1.5\) mm.*positive"),
        ({"seed": 0, "spacing_mm": (float("nan"), 1.5, 1.5)}, "nan"),
    ],
)
def test_impossible_arguments_are_refused_with_their_value(arguments, words):
    with pytest.raises(UsageError, match=words):
        draw_subject(**arguments)
