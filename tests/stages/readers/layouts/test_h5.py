"""h5 volumes: image and label in one file."""

from __future__ import annotations

from pathlib import Path

from examples.scan_folders import find, h5, pairs, row


def test_stems_are_ids_and_the_label_is_in_the_file(tmp_path: Path):
    h5(tmp_path / "patient001_frame01.h5", "image", "label")
    h5(tmp_path / "patient001_frame12.h5", "image")
    found = find(tmp_path)
    assert found.layout == "h5 volumes"
    assert pairs(found) == {"patient001_frame01": "patient001_frame01.h5", "patient001_frame12": None}
    assert {source.subject for source in found.sources} == {"patient001"}


def test_acdcs_stems_name_the_labels(tmp_path: Path):
    h5(tmp_path / "patient001_frame01.h5", "image", "label")
    found = find(tmp_path)
    assert found.label_names == {0: "background", 1: "RV", 2: "Myo", 3: "LV"}
    assert found.labels is not None
    assert found.labels.names == {1: "RV", 2: "Myo", 3: "LV"}
    assert any("ACDC" in note for note in found.notes)


def test_one_file_of_another_name_and_the_numbers_mean_nothing(tmp_path: Path):
    h5(tmp_path / "patient001_frame01.h5", "image", "label")
    h5(tmp_path / "scan.h5", "image", "label")
    found = find(tmp_path)
    assert (found.labels, found.label_names) == (None, None)
    assert not any("ACDC" in note for note in found.notes)


def test_a_file_of_another_name_may_be_anybodys_and_is_hashed(tmp_path: Path):
    h5(tmp_path / "Doe_Jane.h5", "image", "label")
    h5(tmp_path / "patient001_frame01.h5", "image", "label")
    h5(tmp_path / "case0001_slice012.h5", "image", "label")
    found = find(tmp_path)
    by_name = {source.shown: source for source in found.sources}
    stranger = by_name["Doe_Jane.h5"]
    assert (stranger.id[0], stranger.subject[0]) == ("v", "s")
    assert "Doe" not in f"{stranger.id} {stranger.subject} {stranger.called}"
    assert [by_name[name].subject for name in sorted(by_name)[1:]] == ["case0001", "patient001"]
    assert any("--ids stem" in note for note in found.notes)


def test_frames_of_anybody_are_one_subject(tmp_path: Path):
    for name in ("x_frame01", "x_frame02", "y_frame01"):
        h5(tmp_path / f"{name}.h5", "image")
    assert len({source.subject for source in find(tmp_path).sources}) == 2


def test_the_table_shows_columns_rows_and_slices(tmp_path: Path):
    h5(tmp_path / "a.h5", "image", "label")  # stored as (slices, rows, columns) = (2, 3, 4)
    assert row(find(tmp_path), "a.h5").size == "4 x 3 x 2"


def test_a_damaged_file_is_left_to_its_reader(tmp_path: Path):
    (tmp_path / "a.h5").write_bytes(b"no")
    found = find(tmp_path, ids="stem")
    assert pairs(found) == {"a": None}
    assert row(found, "a.h5").size == ""
