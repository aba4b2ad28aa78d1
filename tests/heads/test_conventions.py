"""Papers' rules are reproduced on the cases that tell them apart."""

import weakref

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from samkit.heads.conventions import Convention, LabelledCase, mean_by

AUTOSAM, TRANSUNET = Convention.AUTOSAM, Convention.TRANSUNET
NAMES = {1: "organ"}


def square(first, last, size=224, slices=1):
    labels = np.zeros((slices, size, size), np.uint8)
    labels[:, first:last, first:last] = 1
    return labels


def case(prediction, reference, subject="a"):
    return LabelledCase(subject=subject, prediction=prediction, reference=reference)


def told(convention, *cases):
    mean = mean_by(convention, cases, NAMES)[0]
    return mean.dice, mean.hd95_voxels


@pytest.mark.parametrize(
    ("predicted", "there", "autosam", "transunet"),
    [
        (False, False, (1.0, 0.0), (0.0, 0.0)),
        (True, False, (0.0, 0.0), (1.0, 0.0)),
        (False, True, (0.0, 0.0), (0.0, 0.0)),
    ],
)
def test_what_is_empty_is_scored_as_each_paper_scores_it(predicted, there, autosam, transunet):
    one = case(square(10, 10 + 20 * predicted), square(10, 10 + 20 * there))
    assert told(AUTOSAM, one) == autosam
    assert told(TRANSUNET, one) == transunet


@pytest.mark.parametrize("convention", [AUTOSAM, TRANSUNET])
def test_the_percentile_is_that_of_both_directions_together(convention):
    """A large mask around a small one: each direction alone has another percentile."""
    prediction, reference = square(40, 120), square(60, 70)
    points = [np.argwhere(outline(mask[0])) for mask in (prediction == 1, reference == 1)]
    distances = cdist(*points)
    pooled = np.percentile(np.concatenate([distances.min(axis=0), distances.min(axis=1)]), 95)
    assert told(convention, case(prediction, reference))[1] == pytest.approx(pooled)
    assert pooled != pytest.approx(np.percentile(distances.min(axis=0), 95))


def outline(mask):
    inner = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    return mask & ~np.pad(inner, 1)


def test_autosam_counts_a_subject_once_and_transunet_each_volume():
    found, missed = case(square(0, 50), square(0, 50)), case(square(0, 0), square(0, 50))
    # One subject: a hundred of two hundred slices' worth was found.
    assert told(AUTOSAM, found, missed)[0] == pytest.approx(2 / 3)
    assert told(TRANSUNET, found, missed)[0] == pytest.approx(1 / 2)


def test_autosam_counts_on_a_grid_of_224():
    small = case(square(10, 30, size=56), square(10, 20, size=56))
    at_full_size = case(square(40, 120), square(40, 80))
    assert told(AUTOSAM, small) == pytest.approx(told(AUTOSAM, at_full_size), rel=0.02)  # corners become round
    assert told(TRANSUNET, small)[1] == pytest.approx(told(TRANSUNET, at_full_size)[1] / 4, rel=0.1)


def test_the_mean_is_that_of_the_classes():
    reference = square(0, 50)
    reference[:, 60:80, 60:80] = 2
    prediction = np.where(reference == 2, 0, reference).astype(np.uint8)
    means = mean_by(TRANSUNET, [case(prediction, reference)], {1: "one", 2: "two"})
    assert [one.class_name for one in means] == ["one", "two", "mean"]
    assert [one.dice for one in means] == [1.0, 0.0, 0.5]


@pytest.mark.parametrize("convention", [AUTOSAM, TRANSUNET])
def test_a_volume_is_let_go_before_the_next_but_one_is_read(convention):
    volumes = []
    most_alive = 0

    def read():
        nonlocal most_alive
        for subject in "abcdef":
            volume = case(square(10, 30, size=56), square(10, 20, size=56), subject)
            volumes.append(weakref.ref(volume.prediction))
            yield volume
            del volume
            most_alive = max(most_alive, sum(one() is not None for one in volumes))

    mean_by(convention, read(), NAMES)
    assert most_alive == 1


def test_classes_keep_their_order_and_their_own_numbers_over_several_volumes():
    both, first_alone = square(0, 50), square(0, 50)
    both[:, 60:80, 60:80] = 2
    means = mean_by(TRANSUNET, [case(both, both), case(first_alone, both)], {2: "two", 1: "one"})
    assert [(one.class_name, one.dice, one.cases) for one in means] == [
        ("two", 0.5, 2),
        ("one", 1.0, 2),
        ("mean", 0.75, 2),
    ]
