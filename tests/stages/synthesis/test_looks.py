"""A random scanner's image is in range, shows the anatomy, and never shows it the same way twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from samkit.stages.synthesis.looks import Modality, draw_image, draw_scanner
from samkit.stages.synthesis.shapes import draw_scene, draw_subject

SIZE = 64
SEEDS = st.integers(0, 2**32)


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def anatomy_of(seed: int):
    rng = generator(seed)
    return draw_subject(rng, draw_scene(rng), SIZE)


def look(rng: np.random.Generator, anatomy, modality=None):
    """An image by a scanner of its own."""
    return draw_image(rng, anatomy, draw_scanner(rng, len(anatomy.kinds), modality))


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from([None, *Modality]))
def test_images_are_finite_and_in_range(seed, modality):
    image = look(generator(seed), anatomy_of(seed), modality)
    assert image.shape == (SIZE, SIZE)
    assert image.dtype == np.float32
    assert np.isfinite(image).all()
    assert (image >= 0).all()
    assert (image <= 1).all()


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_equal_generators_give_equal_images(seed):
    anatomy = anatomy_of(0)
    assert np.array_equal(look(generator(seed), anatomy), look(generator(seed), anatomy))


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_two_looks_at_one_anatomy_differ(seed):
    rng, anatomy = generator(seed), anatomy_of(0)
    assert not np.array_equal(look(rng, anatomy), look(rng, anatomy))


def explained(image, parts):
    """The share of an image's variance that lies between its parts."""
    means = ndimage.mean(image, parts, np.arange(parts.max() + 1))
    means = np.nan_to_num(means)
    return 1 - np.var(image - means[parts]) / max(np.var(image), 1e-9)


@pytest.mark.parametrize("modality", list(Modality))
def test_what_an_image_shows_is_mostly_its_anatomy(modality):
    shares = []
    for seed in range(40):
        anatomy = anatomy_of(seed)
        shares.append(explained(look(generator(seed), anatomy, modality), anatomy.parts))
    shuffled = []
    for seed in range(40):
        image = look(generator(seed), anatomy_of(seed), modality)
        shuffled.append(explained(image, anatomy_of(seed + 1000).parts))
    assert np.median(shares) > 2 * np.median(shuffled)


def test_bright_and_dark_change_places_from_look_to_look():
    anatomy = anatomy_of(4)
    first, second = 1 + np.argsort(-np.bincount(anatomy.parts.ravel())[1:])[:2]
    brighter = [
        image[anatomy.parts == first].mean() > image[anatomy.parts == second].mean()
        for image in (look(generator(seed), anatomy) for seed in range(40))
    ]
    assert 5 < sum(brighter) < 35


def test_images_are_as_sharp_as_a_coarse_scanner_or_a_fine_one():
    anatomy = anatomy_of(4)
    edges = [np.abs(np.diff(look(generator(seed), anatomy), axis=0)).max() for seed in range(40)]
    assert max(edges) > 2 * min(edges)


def test_parts_are_told_apart_by_their_brightness_but_for_a_few():
    scanner = draw_scanner(generator(0), 30, Modality.MR)
    looks = scanner.values[scanner.tissue_of_part]
    assert 18 <= len(np.unique(looks)) <= 31


def test_air_is_darker_than_anything_and_a_tissue_outside_is_not():
    def darkest(*, outside_is_air):
        scanners = [draw_scanner(generator(seed), 12, outside_is_air=outside_is_air) for seed in range(60)]
        return sum(one.values[one.tissue_of_part[0]] <= 0.02 for one in scanners)

    assert darkest(outside_is_air=True) > 45
    assert darkest(outside_is_air=False) < 30


def test_a_scanner_shows_a_part_alike_the_next_day():
    anatomy = anatomy_of(4)
    apart = {"again": [], "another": []}
    for seed in range(40):
        rng = generator(seed)
        scanner = draw_scanner(rng, len(anatomy.kinds), Modality.MR)
        others = {"again": scanner.of_another(rng), "another": draw_scanner(rng, len(anatomy.kinds), Modality.MR)}
        for name, other in others.items():
            apart[name].append(np.abs(draw_image(rng, anatomy, scanner) - draw_image(rng, anatomy, other)).mean())
    assert np.median(apart["again"]) < 0.5 * np.median(apart["another"])
