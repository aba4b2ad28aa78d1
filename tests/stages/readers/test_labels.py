"""``--labels`` in both forms, overlaps, soft labels: what ends up in which class."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from samkit.stages.readers.base import LabelMap, Structures
from samkit.stages.readers.labels import (
    LabelChoice,
    chosen_labels,
    count_values,
    parse_labels,
    unmatched,
    whole_labels,
)
from samkit.store.errors import UnusableLabel, UsageError

SHAPE = (6, 5, 4)


def label_map(*values: int, names: Mapping[int, str] = MappingProxyType({}), dtype: str = "uint8") -> LabelMap:
    """A map in which each value fills one row; the rest is background."""
    array = np.zeros(SHAPE, dtype, order="F")
    for row, value in enumerate(values):
        array[row] = value
    return LabelMap(values=array, affine=None, names=names)


def structures(**rows: int | range) -> Structures:
    """Masks by name, each filling some of the rows along i."""
    masks = {}
    for name, filled in rows.items():
        masks[name] = np.zeros(SHAPE, bool)
        masks[name][[filled] if isinstance(filled, int) else list(filled)] = True
    return Structures(masks=masks, affine=None)


def rows_of(values: np.ndarray) -> list[int]:
    """The class of each row; every row has one."""
    rows = [np.unique(row).tolist() for row in values]
    assert all(len(row) == 1 for row in rows)
    return [row[0] for row in rows]


def choose(annotation, labels: str, **choices):
    return chosen_labels(annotation, parse_labels(labels), place="case 7", **choices)


class TestReadingTheFlag:
    def test_values_are_named(self):
        choice = parse_labels("2=Myo, 1=RV")
        assert choice.names == {1: "RV", 2: "Myo"}
        assert not choice.selects

    def test_background_is_no_class(self):
        assert parse_labels("0=background,1=RV") == parse_labels("1=RV")

    def test_classes_that_select_are_numbered_as_written(self):
        choice = parse_labels("tumour=livertumor*, liver = liver|Leber")
        assert choice.names == {1: "tumour", 2: "liver"}
        assert choice.selects

    def test_names_from_a_dataset_are_the_same_choice_as_names_from_the_flag(self):
        assert LabelChoice.of_names({0: "background", 2: "Myo", 1: "RV"}) == parse_labels("1=RV,2=Myo")

    def test_choices_differ_by_what_they_take(self):
        assert parse_labels("liver=liver") != parse_labels("liver=liver|Leber")
        assert parse_labels("liver=liver") != parse_labels("1=liver")

    def test_structures_are_numbered_in_natural_order(self):
        names = ["rib_10", "Spleen", "rib_2", "liver"]
        assert LabelChoice.of_structures(names).names == {1: "liver", 2: "rib_2", 3: "rib_10", 4: "Spleen"}

    def test_a_structure_spelled_in_two_ways_is_one_class(self):
        assert len(LabelChoice.of_structures(["Liver", "liver", "spleen"]).names) == 2

    @given(st.permutations(["a1", "a02", "A3", "b", "10", "9"]))
    def test_the_order_in_which_structures_are_found_does_not_matter(self, names: list[str]):
        assert LabelChoice.of_structures(names) == LabelChoice.of_structures(sorted(names))

    @pytest.mark.parametrize(
        "text", ["1=RV,2=Myo", "liver=liver|livertumor*,tumour=livertumor*|!livertumor07", "organ=1|3-7|!5"]
    )
    def test_a_choice_as_text_is_read_back(self, text: str):
        assert str(parse_labels(text)) == text

    @given(st.dictionaries(st.integers(1, 300), st.text(min_size=1), max_size=5))
    def test_any_choice_survives_json(self, names: dict[int, str]):
        choice = LabelChoice.of_names(names)
        assert LabelChoice.from_json(json.loads(json.dumps(choice.to_json()))) == choice

    def test_a_choice_that_selects_survives_json(self):
        choice = parse_labels("liver=liver|3-7|!4,tumour=livertumor*")
        assert LabelChoice.from_json(json.loads(json.dumps(choice.to_json()))) == choice


class TestRefusingTheFlag:
    @pytest.mark.parametrize("text", ["", "RV", "1=", "=RV", "1=RV,", "liver="])
    def test_an_entry_of_neither_form_is_refused_with_examples_of_both(self, text: str):
        with pytest.raises(UsageError, match=r"1=RV,2=Myo,3=LV.*tumour=livertumor\*"):
            parse_labels(text)

    @pytest.mark.parametrize("text", ["1=RV,tumour=livertumor*", "tumour=2,1=liver"])
    def test_both_forms_together_are_refused_with_an_example(self, text: str):
        with pytest.raises(UsageError, match=r"of one form.*--labels liver=1,tumour=2\|3"):
            parse_labels(text)

    @pytest.mark.parametrize("text", ["1=RV,1=LV", "1=RV,2=RV"])
    def test_a_value_or_name_twice_is_refused(self, text: str):
        with pytest.raises(UsageError, match="repeats"):
            parse_labels(text)

    def test_a_class_twice_is_refused_with_how_to_merge(self):
        with pytest.raises(UsageError, match=r"Liver=PATTERN\|PATTERN"):
            parse_labels("liver=1,Liver=2")

    @pytest.mark.parametrize("text", ["a=1||2", "a=1|!", "a=|"])
    def test_an_empty_pattern_is_refused(self, text: str):
        with pytest.raises(UsageError, match="empty pattern"):
            parse_labels(text)

    def test_only_exclusions_are_refused_with_what_was_meant(self):
        with pytest.raises(UsageError, match=r"organ=\*\|!cyst\*"):
            parse_labels("organ=!cyst*")

    @pytest.mark.parametrize("pattern", ["7-3", "0", "0-3", "!0"])
    def test_a_range_has_to_go_up_and_leaves_background_alone(self, pattern: str):
        with pytest.raises(UsageError, match="no range of label values"):
            parse_labels(f"a=1|{pattern}")

    @pytest.mark.parametrize("name", ["livertumor*", "a|b", "!a"])
    def test_a_pattern_in_place_of_a_name_is_refused(self, name: str):
        with pytest.raises(UsageError, match=r"on the left.*--labels NAME="):
            parse_labels(f"1={name}")


class TestNamedValues:
    def test_values_stay_as_they_are(self):
        chosen = choose(label_map(3, 1, 1, 0, 2), "1=RV,2=Myo,3=LV")
        assert rows_of(chosen.values) == [3, 1, 1, 0, 2, 0]
        assert (chosen.present, chosen.left_out, chosen.notes) == ((1, 2, 3), (), ())

    def test_a_value_without_a_name_is_refused_with_the_command(self):
        with pytest.raises(UnusableLabel, match=r"case 7: .*value\(s\) 2, 9.*--labels 1=RV,2=NAME,9=NAME"):
            choose(label_map(1, 2, 9), "1=RV")

    def test_the_type_holds_every_class_and_not_only_those_present(self):
        assert choose(label_map(1), "1=a,300=b").values.dtype == np.uint16
        assert choose(label_map(1, dtype="uint32"), "1=a").values.dtype == np.uint8

    def test_an_empty_map_is_noted_and_no_error(self):
        chosen = choose(label_map(), "1=RV")
        assert (chosen.present, chosen.notes) == ((), ("the label map is empty",))

    def test_structures_go_to_the_class_of_their_name(self):
        choice = LabelChoice.of_structures(["liver", "spleen", "stomach"])
        chosen = chosen_labels(structures(Spleen=range(2), liver=3), choice, place="case 7")
        assert rows_of(chosen.values) == [2, 2, 0, 1, 0, 0]

    def test_a_structure_that_is_no_class_is_refused_with_the_command(self):
        with pytest.raises(UnusableLabel, match=r"case 7: .*structure\(s\) cyst.*--labels liver=cyst"):
            choose(structures(liver=1, cyst=2), "1=liver")

    def test_a_value_that_the_file_names_goes_to_the_class_of_its_name(self):
        # The segments of two files, drawn in another order, have each other's numbers.
        choice = LabelChoice.of_structures(["aorta", "liver"])
        for names, expected in (({1: "aorta", 2: "liver"}, [1, 2]), ({1: "Liver", 2: "aorta"}, [2, 1])):
            chosen = chosen_labels(label_map(1, 2, names=names), choice, place="case 7")
            assert rows_of(chosen.values)[:2] == expected
            assert chosen.present == (1, 2)

    def test_a_value_whose_own_name_is_no_class_is_refused_though_its_number_is_one(self):
        with pytest.raises(UnusableLabel, match=r"structure\(s\) Segment_1, .*--labels RV=Segment_1"):
            choose(label_map(1, names={1: "Segment_1"}), "1=RV")

    def test_among_values_that_the_file_names_one_without_is_refused(self):
        with pytest.raises(UnusableLabel, match=r"value\(s\) 2,"):
            choose(label_map(1, 2, names={1: "RV"}), "1=RV,2=Myo")

    def test_classes_that_are_called_by_numbers_are_no_example_of_a_selection(self):
        # --labels 1=cyst would name a value.
        with pytest.raises(UnusableLabel, match="--labels NAME=cyst"):
            choose(structures(cyst=1), "1=1,2=2")

    def test_a_structure_that_is_no_class_may_be_there_if_it_is_empty(self):
        chosen = choose(structures(liver=1, cyst=range(0)), "1=liver")
        assert (chosen.present, chosen.left_out) == ((1,), ("cyst",))


class TestSelectedValues:
    def test_numbers_and_ranges_are_merged_and_renumbered(self):
        chosen = choose(label_map(1, 3, 4, 5, 9), "b=9,a=1|3-4")
        assert rows_of(chosen.values) == [2, 2, 2, 0, 1, 0]
        assert chosen.present == (1, 2)

    def test_what_no_class_takes_is_background_and_reported(self):
        chosen = choose(label_map(1, 2, 7), "a=1", file_names={2: "cyst"})
        assert chosen.left_out == ("cyst", "7")

    def test_names_of_the_dataset_are_patterns_too(self):
        chosen = choose(label_map(1, 2), "tumour=*TUMOR*", file_names={1: "liver", 2: "liver tumor"})
        assert rows_of(chosen.values)[:2] == [0, 1]

    def test_the_files_own_names_go_before_the_datasets(self):
        annotation = label_map(1, 2, names={1: "kidney", 2: "liver"})
        chosen = choose(annotation, "a=liver", file_names={1: "liver", 2: "kidney"})
        assert rows_of(chosen.values)[:2] == [0, 1]

    def test_exclusions_win_wherever_they_stand(self):
        chosen = choose(label_map(3, 4, 5), "a=!4|3-5")
        assert rows_of(chosen.values)[:3] == [1, 0, 1]

    def test_a_star_takes_values_without_a_name(self):
        assert rows_of(choose(label_map(3, 200), "organ=*").values)[:2] == [1, 1]

    def test_large_values_are_chosen_as_small_ones(self):
        chosen = choose(label_map(5, 70_000, 3_000_000_000, dtype="uint32"), "a=70000,b=1-10")
        assert rows_of(chosen.values) == [2, 1, 0, 0, 0, 0]
        assert chosen.left_out == ("3000000000",)

    def test_a_patient_without_the_class_is_a_note(self):
        chosen = choose(label_map(1), "tumour=2")
        assert (chosen.present, chosen.left_out) == ((), ("1",))
        assert chosen.notes == ("none of the chosen classes is in its label",)

    @given(
        values=st.lists(st.integers(0, 12), min_size=1, max_size=6),
        owner_of=st.dictionaries(st.integers(1, 12), st.sampled_from([1, 2])),
    )
    def test_every_voxel_is_what_the_definition_says(self, values: list[int], owner_of: dict[int, int]):
        a, b = ("|".join(str(value) for value in [90 + n, *owner_of] if owner_of.get(value, n) == n) for n in (1, 2))
        chosen = choose(label_map(*values), f"a={a},b={b}")
        expected = [owner_of.get(value, 0) for value in values]
        assert rows_of(chosen.values)[: len(values)] == expected
        assert set(chosen.present) == set(expected) - {0}


class TestSelectedStructures:
    def test_structures_are_merged_and_renamed(self):
        annotation = structures(liver=0, livertumor01=1, livertumor02=3, liverkyst=4)
        chosen = choose(annotation, "tumour=livertumor*,liver=liver")
        assert rows_of(chosen.values) == [2, 1, 0, 1, 0, 0]
        assert (chosen.present, chosen.left_out) == ((1, 2), ("liverkyst",))

    def test_an_explicit_list_keeps_tumours_of_other_organs_out(self):
        annotation = structures(livertumor1=0, leftsurretumor=1, tumor=2)
        assert rows_of(choose(annotation, "tumour=*tumor*|!*surre*").values) == [1, 0, 1, 0, 0, 0]

    def test_a_patient_without_the_structure_is_a_note(self):
        chosen = choose(structures(liver=0), "tumour=livertumor*")
        assert chosen.values.shape == SHAPE
        assert not chosen.values.any()
        assert chosen.notes == ("none of the chosen classes is in its label",)

    def test_upper_case_and_composed_letters_do_not_matter(self):
        annotation = Structures(masks={"Ma\u0308rz Niere ": np.ones(SHAPE, bool)}, affine=None)
        assert choose(annotation, "kidney=m\u00e4rz niere").present == (1,)

    def test_a_structure_may_be_called_by_a_number(self):
        annotation = Structures(masks={"3": np.ones(SHAPE, bool), "4": np.ones(SHAPE, bool)}, affine=None)
        assert choose(annotation, "kidney=3").left_out == ("4",)

    def test_masks_of_different_shapes_are_refused(self):
        masks = {"liver": np.ones(SHAPE, bool), "spleen": np.ones((6, 5, 3), bool)}
        for labels in ("organ=*", "a=liver,b=spleen"):
            with pytest.raises(UnusableLabel, match=r"'spleen' has shape \(6, 5, 3\), the others \(6, 5, 4\)"):
                choose(Structures(masks=masks, affine=None), labels)

    def test_no_structures_at_all_are_refused(self):
        with pytest.raises(UnusableLabel, match="no structures"):
            choose(Structures(masks={}, affine=None), "a=*")

    @given(st.text("ab*?", min_size=1, max_size=4), st.lists(st.text("ab", min_size=1, max_size=4), unique=True))
    def test_a_pattern_takes_what_a_shell_would(self, pattern: str, names: list[str]):
        assume(names)
        masks = {name: np.ones((1, 1, 1), bool) for name in names}
        chosen = choose(Structures(masks=masks, affine=None), f"x={pattern}")
        assert list(chosen.left_out) == [name for name in names if not fnmatchcase(name, pattern)]


class TestOverlap:
    LIVER_AND_TUMOUR = "liver=liver|livertumor*,tumour=livertumor*"

    def test_it_is_refused_with_both_names_the_voxels_and_the_flag(self):
        annotation = structures(liver=range(4), livertumor=range(2, 5))
        with pytest.raises(UnusableLabel, match=r"case 7: liver and tumour overlap in 60 voxel.*--overlap last"):
            choose(annotation, self.LIVER_AND_TUMOUR)

    def test_the_last_class_makes_a_tumour_in_its_organ_right(self):
        annotation = structures(liver=range(4), livertumor=range(2, 5))
        chosen = choose(annotation, self.LIVER_AND_TUMOUR, overlap="last")
        assert rows_of(chosen.values) == [1, 1, 2, 2, 2, 0]
        assert chosen.notes == ("liver and tumour overlap in 60 voxel(s): taken as tumour (--overlap last)",)

    def test_the_first_class_wins_where_told(self):
        chosen = choose(structures(a=range(3), b=range(2, 5)), "a=a,b=b", overlap="first")
        assert rows_of(chosen.values) == [1, 1, 1, 2, 2, 0]

    def test_a_class_that_is_swallowed_whole_is_pointed_out(self):
        chosen = choose(structures(liver=range(4), tumor=1), "tumour=tumor,liver=liver", overlap="last")
        assert chosen.present == (2,)
        assert "nothing is left of tumour" in chosen.notes[1]

    def test_structures_of_one_class_may_overlap(self):
        assert rows_of(choose(structures(a1=range(3), a2=range(2, 4)), "a=a*").values) == [1, 1, 1, 1, 0, 0]

    def test_masks_are_not_changed(self):
        annotation = structures(a1=range(3), a2=range(2, 4))
        choose(annotation, "a=a*,b=a2", overlap="last")
        assert annotation.masks["a1"].sum() == 3 * 20

    @pytest.mark.parametrize(("overlap", "expected"), [("last", [1, 2, 2]), ("first", [1, 1, 2])])
    def test_a_value_of_two_classes_follows_the_same_rule(self, overlap, expected: list[int]):
        chosen = choose(label_map(1, 2, 3), "liver=1-2,tumour=2-3", overlap=overlap)
        assert rows_of(chosen.values)[:3] == expected
        assert "overlap in 20 voxel" in chosen.notes[0]

    def test_a_value_of_two_classes_is_refused_where_it_occurs(self):
        with pytest.raises(UnusableLabel, match="liver and tumour overlap in 20 voxel"):
            choose(label_map(1, 2), "liver=1|2,tumour=2")
        assert choose(label_map(1), "liver=1|2,tumour=2").present == (1,)

    @given(st.lists(st.integers(0, 63), min_size=3, max_size=3), st.sampled_from(["first", "last"]))
    @example([0b111, 0b011, 0b001], "last")
    def test_every_voxel_is_what_the_definition_says(self, bits: list[int], overlap):
        filled = {name: [row for row in range(6) if bits[n] >> row & 1] for n, name in enumerate("abc")}
        masks = {
            name: np.isin(np.arange(6), rows)[:, None, None] * np.ones(SHAPE, bool) for name, rows in filled.items()
        }
        chosen = choose(Structures(masks=masks, affine=None), "a=a,b=b,c=c", overlap=overlap)
        owners = [[n for n, name in enumerate("abc", start=1) if row in filled[name]] for row in range(6)]
        pick = 0 if overlap == "first" else -1
        assert rows_of(chosen.values) == [owner[pick] if owner else 0 for owner in owners]


class TestUnmatched:
    def test_patterns_that_take_nothing_in_the_dataset_are_named(self):
        choice = parse_labels("liver=liver|leber,tumour=livertumr*")
        assert unmatched(choice, ["Liver", "livertumor01"]) == ("liver=leber", "tumour=livertumr*")

    def test_values_count_by_number_range_and_star(self):
        choice = parse_labels("a=3-7,b=12|9,c=*")
        assert unmatched(choice, [], values=[0, 5, 12]) == ("b=9",)

    def test_background_is_nothing_to_find(self):
        assert unmatched(parse_labels("a=*"), [], values=[0]) == ("a=*",)

    def test_exclusions_are_a_precaution(self):
        assert unmatched(parse_labels("a=*|!cyst*"), ["liver"]) == ()

    def test_names_for_values_take_no_patterns(self):
        assert unmatched(parse_labels("1=RV,2=Myo"), ["liver"]) == ()


class OneAtATime(Mapping[str, np.ndarray]):
    """Masks made when they are asked for, as a reader of many files may give them."""

    def __init__(self, names: list[str], shape: tuple[int, ...]) -> None:
        self.names, self.shape = names, shape
        self.asked: list[str] = []

    def __getitem__(self, name: str) -> np.ndarray:
        self.asked.append(name)
        return np.zeros(self.shape, bool, order="F")

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class TestMemory:
    SHAPE = (160, 160, 100)
    BYTES = 160 * 160 * 100

    def peak(self, annotation, labels: str) -> int:
        choose(annotation, labels)
        tracemalloc.start()
        try:
            choose(annotation, labels)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def test_masks_are_held_one_class_at_a_time(self):
        masks = OneAtATime([f"rib_{number}" for number in range(12)], self.SHAPE)
        labels = ",".join(f"r{number}=rib_{number}" for number in range(12))
        assert self.peak(Structures(masks=masks, affine=None), labels) < 2.5 * self.BYTES  # the map and one mask

    def test_masks_that_no_class_takes_are_not_read(self):
        masks = OneAtATime(["liver", "spleen"], (2, 2, 2))
        choose(Structures(masks=masks, affine=None), "liver=liver")
        assert masks.asked == ["liver"]

    def test_large_values_ask_for_no_large_table(self):
        assert self.peak(label_map(5, 3_000_000_000, dtype="uint32"), "a=5") < 100_000

    @pytest.mark.parametrize("labels", ["1=a,2=b", "a=1,b=2"])
    def test_a_map_takes_no_more_than_its_result(self, labels: str):
        values = np.zeros(self.SHAPE, np.uint16, order="F")
        values[:9] = 1
        assert self.peak(LabelMap(values=values, affine=None), labels) < 1.5 * self.BYTES


class TestCountingValues:
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32"])
    @given(numbers=st.lists(st.integers(0, 5), min_size=24, max_size=24))
    def test_it_is_what_numpy_counts(self, dtype: str, numbers: list[int]):
        values, counts = np.unique(numbers, return_counts=True)
        expected = dict(zip(values.tolist(), counts.tolist(), strict=True))
        for shape in [(24,), (4, 6), (2, 3, 4)]:
            assert count_values(np.array(numbers, dtype).reshape(shape)) == expected
        assert list(count_values(np.array(numbers, dtype))) == sorted(expected)


class TestWholeLabels:
    @given(st.lists(st.integers(0, 2**16 - 1), min_size=1), st.floats(-9e-4, 9e-4))
    def test_whole_values_come_back_as_they_were(self, labels: list[int], noise: float):
        np.testing.assert_array_equal(whole_labels(np.array(labels) + abs(noise), place="x"), labels)

    @pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int32", "uint64", ">i2", "float32", "float64"])
    @pytest.mark.parametrize("shape", [(4,), (2, 2), (2, 1, 2)])
    def test_any_real_type_and_shape_is_taken(self, dtype: str, shape: tuple[int, ...]):
        values = np.array([0, 1, 1, 0]).astype(dtype).reshape(shape)
        whole = whole_labels(values, place="x")
        assert whole.dtype == np.uint8
        np.testing.assert_array_equal(whole, values.astype(int))

    @pytest.mark.parametrize(("largest", "dtype"), [(255, "uint8"), (256, "uint16"), (70_000, "uint32")])
    def test_the_smallest_type_is_taken_wherever_the_largest_value_lies(self, largest: int, dtype: str):
        values = np.zeros((2, 2, 3))
        values[0, 1, 1] = largest
        values[1, 1, 2] = 7
        whole = whole_labels(values, place="x")
        assert whole.dtype == dtype
        np.testing.assert_array_equal(whole, values)

    def test_an_empty_array_stays_empty(self):
        assert whole_labels(np.zeros((3, 2, 0)), place="x").shape == (3, 2, 0)
        assert whole_labels(np.zeros(0), place="x").shape == (0,)

    @pytest.mark.parametrize(
        ("values", "says"),
        [
            ([0, 2.4, 1.5, 1], r"2 of 4 label values are not whole numbers \(1\.5, 2\.4"),
            ([0, -1, -1, 2], r"2 of 4 label values are negative \(-1\)"),
            ([0, np.nan, np.inf, 2], r"2 of 4 label values are NaN"),
            ([0, 1, 1, 2**33], r"reach 8\.59e\+09"),
        ],
    )
    @pytest.mark.parametrize("shape", [(4,), (1, 1, 4), (2, 1, 2)])
    def test_what_is_wrong_is_counted_over_the_whole_map(self, values: list[float], says: str, shape):
        with pytest.raises(UnusableLabel, match=f"case 7: .*{says}"):
            whole_labels(np.array(values, np.float64).reshape(shape), place="case 7")

    def test_negative_integers_are_refused(self):
        with pytest.raises(UnusableLabel, match=r"1 of 2 .*negative \(-1\)"):
            whole_labels(np.array([-1, 3], np.int16), place="x")


class TestSoftLabels:
    SOFT = np.array([0, 0.2, 0.5, 0.50001, 0.9995, 1]).reshape(1, 2, 3)

    def test_without_a_threshold_they_are_refused_with_the_flag(self):
        with pytest.raises(UnusableLabel, match=r"soft label.*--label-threshold 0\.5"):
            whole_labels(self.SOFT, place="x")

    @given(st.floats(0.001, 0.999))
    def test_what_lies_above_the_threshold_is_one(self, threshold: float):
        whole = whole_labels(self.SOFT, place="x", threshold=threshold)
        assert whole.dtype == np.uint8
        np.testing.assert_array_equal(whole, np.greater(self.SOFT, threshold))

    def test_a_map_that_is_whole_stays_as_it_is(self):
        values = np.array([0.0, 1, 2, 3]).reshape(1, 2, 2)
        np.testing.assert_array_equal(whole_labels(values, place="x", threshold=0.5), values)

    @pytest.mark.parametrize("values", [[0, 0.5, 2], [0, 0.5, -1], [0, 127.5, 255]])
    def test_a_map_that_runs_beyond_one_is_no_soft_label(self, values: list[float]):
        with pytest.raises(UnusableLabel, match=r"no soft label either.*resample"):
            whole_labels(np.array(values).reshape(1, 1, 3), place="x", threshold=0.5)

    @pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5, 50, float("nan")])
    def test_a_threshold_lies_between_the_two(self, threshold: float):
        with pytest.raises(UsageError, match=r"between 0 and 1: 0\.001 \(any share at all\) to 0\.999"):
            whole_labels(self.SOFT, place="x", threshold=threshold)
