"""A random anatomy follows from its seed, and its label map says what was painted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samkit.stages.synthesis.shapes import Kind, draw_scene, draw_subject

SIZE = 64
SEEDS = st.integers(0, 2**32)


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def drawn(seed: int, size: int = SIZE):
    rng = generator(seed)
    return draw_subject(rng, draw_scene(rng), size)


def overlap(first, second) -> float:
    """The share of pixels, of those with a part in either, where both anatomies have the same."""
    either = (first.parts > 0) | (second.parts > 0)
    return float(((first.parts == second.parts) & either).sum() / max(1, either.sum()))


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_equal_seeds_give_equal_anatomies(seed):
    first, second = drawn(seed), drawn(seed)
    assert np.array_equal(first.parts, second.parts)
    assert np.array_equal(first.kinds, second.kinds)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_another_seed_gives_another_anatomy(seed):
    assert not np.array_equal(drawn(seed).parts, drawn(seed + 1).parts)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_every_part_that_is_seen_has_a_kind_and_a_solid(seed):
    anatomy = drawn(seed)
    assert len(anatomy.kinds) == len(anatomy.solids) > anatomy.parts.max()
    assert (anatomy.kinds[0], anatomy.solids[0]) == (Kind.OUTSIDE, 0)
    assert set(anatomy.kinds.tolist()) <= set(Kind)
    assert (anatomy.solids[1:] > 0).all()


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_painting_the_layers_again_gives_the_label_map(seed):
    anatomy = drawn(seed)
    parts = np.zeros_like(anatomy.parts)
    for layer in anatomy.layers:
        if layer.labelled:
            parts[layer.box][layer.fraction > 0.5] = layer.part
    assert np.array_equal(parts, anatomy.parts)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_fractions_are_between_nothing_and_all(seed):
    for layer in drawn(seed).layers:
        rows, columns = layer.box
        assert layer.fraction.shape == (rows.stop - rows.start, columns.stop - columns.start)
        assert np.isfinite(layer.fraction).all()
        assert (layer.fraction >= 0).all()
        assert (layer.fraction <= 1).all()


def test_a_cavity_lies_inside_its_wall():
    # Before anything later covers it: the layers of one solid, one after the other.
    enclosed = 0
    for seed in range(60):
        anatomy = drawn(seed)
        layers = {layer.part: layer for layer in anatomy.layers}
        for part in np.flatnonzero(anatomy.kinds == Kind.CAVITY):
            assert anatomy.kinds[part - 1] == Kind.WALL
            if int(part) not in layers:
                continue  # beside the picture
            wall, cavity = layers[int(part) - 1], layers[int(part)]
            assert (cavity.fraction <= wall.fraction + 1e-5).all()
            enclosed += 1
    assert enclosed > 30


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_part_is_seen_in_some_picture(kind):
    anatomies = (drawn(seed) for seed in range(200))
    assert any(kind in anatomy.kinds[np.unique(anatomy.parts)] for anatomy in anatomies)


def test_halves_of_a_solid_share_its_number():
    for seed in range(100):
        anatomy = drawn(seed)
        halves = anatomy.solids[anatomy.kinds == Kind.HALF]
        if len(halves):
            assert len(halves) == 2 * len(set(halves.tolist()))


def test_most_pictures_show_several_parts():
    seen = [len(np.unique(drawn(seed).parts)) for seed in range(100)]
    assert np.median(seen) >= 5
    assert np.mean(np.array(seen) >= 2) > 0.9


def test_organs_mostly_lie_inside_the_body():
    inside = []
    for seed in range(100):
        anatomy = drawn(seed)
        layers = {layer.part: layer for layer in anatomy.layers}
        bodies = [part for part in layers if anatomy.kinds[part] in (Kind.BODY, Kind.BODY_LAYER)]
        if not bodies:
            continue
        body = np.zeros((SIZE, SIZE), bool)
        outermost = layers[bodies[0]]
        body[outermost.box] = outermost.fraction > 0.5
        for part, layer in layers.items():
            if anatomy.kinds[part] in (Kind.ORGAN, Kind.WALL):
                covered = np.zeros((SIZE, SIZE), bool)
                covered[layer.box] = layer.fraction > 0.5
                if covered.sum() > 10:
                    inside.append((covered & body).sum() / covered.sum())
    assert np.mean(inside) > 0.75


# -- subjects of one scene -------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_subjects_of_a_scene_have_the_same_parts(seed):
    rng = generator(seed)
    scene = draw_scene(rng)
    first, second = (draw_subject(rng, scene, SIZE, unlike=0.3) for _ in range(2))
    assert np.array_equal(first.kinds, second.kinds)
    assert np.array_equal(first.solids, second.solids)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_no_subject_is_another(seed):
    rng = generator(seed)
    scene = draw_scene(rng)
    first, second = (draw_subject(rng, scene, SIZE, unlike=0.2) for _ in range(2))
    assert not np.array_equal(first.parts, second.parts)


def test_subjects_differ_more_the_less_alike_they_are_to_be():
    scenes = [draw_scene(generator(seed)) for seed in range(60)]

    def alike_by(unlike: float) -> float:
        pairs = ([draw_subject(generator(k), scene, SIZE, unlike=unlike) for k in range(2)] for scene in scenes)
        return float(np.mean([overlap(first, second) for first, second in pairs]))

    alike = [alike_by(unlike) for unlike in (0.0, 0.1, 0.3)]
    assert alike[0] > 0.75
    assert alike[0] > alike[1] + 0.1
    assert alike[1] > alike[2] + 0.1


def test_subjects_of_one_scene_are_more_alike_than_those_of_two():
    scenes = [draw_scene(generator(seed)) for seed in range(61)]
    subjects = [[draw_subject(generator(k), scene, SIZE, unlike=0.1) for k in range(2)] for scene in scenes]
    of_one = np.mean([overlap(first, second) for first, second in subjects[:60]])
    of_two = np.mean([overlap(subjects[k][0], subjects[k + 1][1]) for k in range(60)])
    assert of_one > of_two + 0.2
