"""Means keep the order that is fair, and what is undefined is counted instead of averaged."""

from types import SimpleNamespace

import pytest

from samkit.heads.averages import mean_accuracy, mean_by_class, mean_over_classes, over_draws, unlike_draws
from samkit.heads.metrics import ClassScore, ScoredVolume

# Means -----------------------------------------------------------------------------------------------------------


def made_score(name="organ", **measures):
    values = {
        "class_value": 1,
        "dice": None,
        "iou": None,
        "hd95": None,
        "assd": None,
        "distance_unit": "mm",
        "reference_voxels": 10,
        "prediction_voxels": 10,
        "outcome": "scored",
        "false_positive_volume": None,
    }
    return ClassScore(class_name=name, **{**values, **measures})


def made_volume(subject, *scores, volume_id="", accuracy=None):
    return ScoredVolume(volume_id=volume_id, subject=subject, scores=scores, accuracy=accuracy)


def test_a_subject_with_two_volumes_weighs_as_much_as_one_with_a_single_volume():
    volumes = [
        made_volume("patient001", made_score(dice=0.2, hd95=1.0)),
        made_volume("patient002", made_score(dice=0.8, hd95=4.0)),
        made_volume("patient001", made_score(dice=0.4, hd95=3.0)),
    ]
    mean = mean_by_class(volumes)["organ"]
    assert (mean.dice, mean.hd95, mean.subjects, mean.scored) == (pytest.approx(0.55), 3.0, 2, 3)


def test_classes_keep_their_order():
    volumes = [made_volume("a", made_score("RV"), made_score("Myo")), made_volume("b", made_score("LV"))]
    assert list(mean_by_class(volumes)) == ["RV", "Myo", "LV"]


def test_what_is_left_out_of_the_mean_is_counted():
    volumes = [
        made_volume("a", made_score(dice=0.9, assd=2.0)),
        made_volume("b", made_score(dice=0.0, outcome="prediction empty")),
        made_volume("c", made_score(outcome="reference empty", false_positive_volume=1.5)),
        made_volume("d", made_score(outcome="reference empty", false_positive_volume=2.0)),
        made_volume("e", made_score(outcome="both empty")),
    ]
    mean = mean_by_class(volumes)["organ"]
    assert (mean.dice, mean.assd, mean.subjects) == (pytest.approx(0.45), 2.0, 2)
    assert (mean.scored, mean.prediction_empty, mean.reference_empty, mean.both_empty) == (1, 1, 2, 1)
    assert mean.false_positive_volume == pytest.approx(3.5)


def test_a_class_that_is_nowhere_has_no_mean():
    mean = mean_by_class([made_volume("a", made_score(outcome="both empty"))])["organ"]
    assert (mean.dice, mean.hd95, mean.subjects, mean.both_empty) == (None, None, 0, 1)


def test_millimetres_and_voxels_are_not_averaged():
    volumes = [
        made_volume("a", made_score(dice=0.5, hd95=3.0, assd=1.0)),
        made_volume("b", made_score(dice=0.7, hd95=9.0, assd=2.0, distance_unit="voxels")),
    ]
    mean = mean_by_class(volumes)["organ"]
    assert (mean.hd95, mean.assd, mean.false_positive_volume, mean.distance_unit) == (None, None, None, "mixed")
    assert mean.dice == pytest.approx(0.6)


def test_over_all_classes_the_classes_of_a_volume_are_averaged_first():
    volumes = [
        made_volume("a", made_score("RV", dice=0.2), made_score("LV", dice=0.6)),
        made_volume("b", made_score("RV", dice=1.0), made_score("LV", outcome="both empty")),
    ]
    # (0.4 + 1.0) / 2, where the mean of the class means would be 0.6.
    assert mean_over_classes(volumes).dice == pytest.approx(0.7)


def test_no_volumes_have_no_mean():
    assert mean_by_class([]) == {}
    assert mean_over_classes([]).dice is None


def test_accuracy_is_averaged_in_subjects_first_and_skips_volumes_without_one():
    volumes = [
        made_volume("a", accuracy=0.5),
        made_volume("a", accuracy=0.7),
        made_volume("b", accuracy=1.0),
        made_volume("c"),
    ]
    assert mean_accuracy(volumes) == pytest.approx(0.8)


# Draws -----------------------------------------------------------------------------------------------------------


def run_of(draw: int, drawn: str) -> SimpleNamespace:
    """What tells one draw from another in a run."""
    return SimpleNamespace(settings=SimpleNamespace(draw=draw, drawn_volumes={drawn: "content"}))


def test_of_draws_that_drew_the_same_the_lowest_number_counts():
    runs = [run_of(3, "a"), run_of(2, "b"), run_of(0, "a"), run_of(1, "c")]
    assert [run.settings.draw for run in unlike_draws(runs)] == [0, 1, 2]


def test_a_volume_with_another_content_is_another_draw():
    first, second = run_of(0, "a"), run_of(1, "a")
    second.settings.drawn_volumes["a"] = "other content"
    assert unlike_draws([first, second]) == [first, second]


def test_the_standard_deviation_over_draws_is_that_of_a_sample():
    spread = over_draws([0.5, 0.7, 0.9], measure="dice")
    assert (spread.mean, spread.standard_deviation, spread.draws) == (pytest.approx(0.7), pytest.approx(0.2), 3)


def test_one_draw_has_no_standard_deviation():
    spread = over_draws([0.5], measure="dice")
    assert (spread.mean, spread.standard_deviation, spread.worst, spread.worst_draw) == (0.5, None, 0.5, 0)


@pytest.mark.parametrize(("measure", "worst"), [("dice", 1), ("iou", 1), ("accuracy", 1), ("hd95", 2), ("assd", 2)])
def test_the_worst_draw_is_the_lowest_overlap_or_the_highest_distance(measure, worst):
    values = [0.5, 0.1, 0.9]
    spread = over_draws(values, measure=measure)
    assert (spread.worst, spread.worst_draw) == (values[worst], worst)


def test_draws_without_a_value_are_left_out_and_keep_the_numbering_of_the_others():
    spread = over_draws([None, 4.0, None, 2.0], measure="hd95")
    assert (spread.mean, spread.worst, spread.worst_draw) == (3.0, 4.0, 1)
    assert (spread.draws, spread.undefined_draws) == (2, 2)


def test_draws_that_are_all_undefined_have_no_mean():
    spread = over_draws([None, None], measure="dice")
    assert (spread.mean, spread.standard_deviation, spread.worst, spread.worst_draw) == (None, None, None, None)
    assert spread.undefined_draws == 2
