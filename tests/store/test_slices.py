"""The pixels of a volume: what was ingested is what is read, or nothing is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from samkit.store.errors import DamagedStore
from samkit.store.keys import array_digest
from samkit.store.slices import Volume, VolumeRecord, slice_digests, write_pixels
from samkit.store.workspace import Workspace


@pytest.fixture
def volume(workspace: Workspace) -> Volume:
    return workspace.volumes["a"]


def data_file(workspace: Workspace, volume: Volume, name: str) -> Path:
    """The one file that holds the numbers of an array."""
    (found,) = [path for path in (workspace.path / volume.record.pixels / name).glob("*") if path.name != "zarr.json"]
    return found


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 0x10
    file.write_bytes(data)


# -- writing and reading ---------------------------------------------------------------------------


def test_pixels_and_label_read_back_bit_by_bit(tmp_path: Path, workspace: Workspace, volume: Volume):
    image = np.asarray(volume.image[:])
    assert image.dtype == np.float16
    assert slice_digests(image) == volume.slice_digests
    assert volume.label is not None
    assert array_digest(np.asarray(volume.label[:])) == volume.record.label_digest


def test_a_slice_is_read_with_its_channels(volume: Volume):
    plane = volume.read_slice(1)
    assert plane.shape == (1, 6, 5)
    np.testing.assert_array_equal(plane, np.asarray(volume.image[1]))


def test_a_label_is_read_whole(volume: Volume):
    label = volume.read_label()
    assert label is not None
    assert label.shape == (3, 6, 5)
    assert label.dtype == np.uint8


def test_an_unlabelled_volume_has_no_label(workspace: Workspace):
    volume = workspace.volumes["b"]
    assert not volume.labelled
    assert volume.label is None
    assert volume.read_label() is None


def test_a_volume_tells_its_geometry_in_millimetres(volume: Volume):
    assert volume.spacing_mm == (5.0, 1.5, 1.5)
    np.testing.assert_array_equal(volume.affine, np.diag([1.5, 1.5, 5.0, 1.0]))


def test_a_volume_without_geometry_says_so(workspace: Workspace, volume: Volume):
    flat = Volume(workspace.path, replace(volume.record, affine=None, spacing_mm=None), {})
    assert flat.affine is None
    assert flat.spacing_mm is None


def test_a_volume_names_its_rows_in_the_order_of_its_slices(volume: Volume):
    assert [key.slice_digest for key in volume.row_keys()] == list(volume.slice_digests)
    assert {key.view for key in volume.row_keys("transpose")} == {"transpose"}


def test_slices_of_zeros_are_written_like_any_other(tmp_path: Path):
    image = np.zeros((2, 1, 4, 4), np.float16)
    pixels = write_pixels(tmp_path, "dark", image, None)
    assert [path.name for path in (tmp_path / pixels / "image").iterdir() if path.name != "zarr.json"] != []
    np.testing.assert_array_equal(np.asarray(zarr.open_array(tmp_path / pixels / "image", mode="r")[:]), image)


def test_more_slices_than_one_file_holds_read_back(tmp_path: Path):
    image = np.random.default_rng(0).random((70, 1, 3, 2)).astype(np.float16)
    pixels = write_pixels(tmp_path, "tall", image, None)
    files = [path for path in (tmp_path / pixels / "image").iterdir() if path.name != "zarr.json"]
    assert len(files) == 3
    np.testing.assert_array_equal(np.asarray(zarr.open_array(tmp_path / pixels / "image", mode="r")[:]), image)


# -- generations -----------------------------------------------------------------------------------


def test_other_pixels_lie_in_another_folder(tmp_path: Path):
    image = np.zeros((2, 1, 4, 4), np.float16)
    before = write_pixels(tmp_path, "a", image, None)
    after = write_pixels(tmp_path, "a", image + np.float16(1), None)
    assert before != after
    assert float(zarr.open_array(tmp_path / before / "image", mode="r")[0, 0, 0, 0]) == 0.0


def test_another_label_lies_in_another_folder(tmp_path: Path):
    image = np.zeros((2, 1, 4, 4), np.float16)
    folders = {
        write_pixels(tmp_path, "a", image, label)
        for label in (None, np.zeros((2, 4, 4), np.uint8), np.ones((2, 4, 4), np.uint8))
    }
    assert len(folders) == 3


def test_the_same_pixels_are_not_written_twice(tmp_path: Path):
    image = np.zeros((2, 1, 4, 4), np.float16)
    folder = tmp_path / write_pixels(tmp_path, "a", image, None)
    before = folder.stat().st_ino
    assert tmp_path / write_pixels(tmp_path, "a", image, None) == folder
    assert folder.stat().st_ino == before


def test_torn_pixels_are_written_again(tmp_path: Path):
    image = np.ones((2, 1, 4, 4), np.float16)
    pixels = write_pixels(tmp_path, "a", image, None)
    (tmp_path / pixels / "image" / "zarr.json").write_text("{")
    assert write_pixels(tmp_path, "a", image, None) == pixels
    np.testing.assert_array_equal(np.asarray(zarr.open_array(tmp_path / pixels / "image", mode="r")[:]), image)


# -- damage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["image", "label"])
def test_pixels_that_are_gone_are_damage_and_named(workspace: Workspace, volume: Volume, name: str):
    shutil.rmtree(workspace.path / volume.record.pixels / name)
    with pytest.raises(DamagedStore, match=rf"a: its {name} at .* is missing or torn"):
        getattr(volume, name)


def test_a_deleted_file_of_pixels_is_damage_and_never_zeros(workspace: Workspace, volume: Volume):
    data_file(workspace, volume, "image").unlink()
    with pytest.raises(DamagedStore, match=r"0\.0\.0\.0 is missing"):
        volume.read_slice(1)
    with pytest.raises(DamagedStore, match=r"0\.0\.0\.0 is missing"):
        _ = volume.image


def test_a_deleted_file_of_a_label_is_damage_and_never_background(workspace: Workspace, volume: Volume):
    data_file(workspace, volume, "label").unlink()
    with pytest.raises(DamagedStore, match=r"a: its label at .* is missing"):
        volume.read_label()


def test_a_flipped_byte_never_gives_other_pixels(workspace: Workspace, volume: Volume):
    file = data_file(workspace, volume, "image")
    good = file.read_bytes()
    right = [np.asarray(volume.image[position]) for position in range(3)]
    refused = 0
    for place in range(len(good)):
        flip(file, place)
        for position in range(3):
            try:
                plane = volume.read_slice(position)
            except DamagedStore:
                refused += 1
            else:
                np.testing.assert_array_equal(plane, right[position])
        file.write_bytes(good)
    assert refused > 0


def test_a_flipped_byte_never_gives_another_label(workspace: Workspace, volume: Volume):
    file = data_file(workspace, volume, "label")
    good = file.read_bytes()
    right = volume.read_label()
    for place in range(0, len(good), 3):
        flip(file, place)
        try:
            label = volume.read_label()
        except DamagedStore:
            continue
        finally:
            file.write_bytes(good)
        np.testing.assert_array_equal(label, right)


# -- records ---------------------------------------------------------------------------------------


def kept(volume: Volume, **changes: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(volume.record.to_json())), **changes}


def test_a_record_survives_json(volume: Volume):
    assert VolumeRecord.from_json(kept(volume)) == volume.record


def test_a_record_without_geometry_survives_json(volume: Volume):
    flat = replace(volume.record, affine=None, spacing_mm=None)
    assert VolumeRecord.from_json(json.loads(json.dumps(flat.to_json()))) == flat


@pytest.mark.parametrize("field", sorted(field.name for field in fields(VolumeRecord)))
def test_a_record_without_one_of_its_fields_is_damage(volume: Volume, field: str):
    value = kept(volume)
    del value[field]
    with pytest.raises(DamagedStore, match=rf"the fields \['{field}'\] are missing"):
        VolumeRecord.from_json(value)


def test_a_record_with_a_field_from_elsewhere_is_damage_and_names_its_volume(volume: Volume):
    with pytest.raises(DamagedStore, match=r"volume a: .*\['patient_name'\] are not known"):
        VolumeRecord.from_json(kept(volume, patient_name="Doe"))


@pytest.mark.parametrize(
    ("field", "value"), [("shape", [1, 2]), ("shape", None), ("affine", 3), ("spacing_mm", [1]), ("label_values", 1)]
)
def test_a_record_with_a_field_of_another_form_is_damage(volume: Volume, field: str, value: object):
    with pytest.raises(DamagedStore, match="volume a: a field is not of its form"):
        VolumeRecord.from_json(kept(volume, **{field: value}))


@pytest.mark.parametrize("value", [None, 3, [], "text"])
def test_what_is_no_object_is_no_record(value: Any):
    with pytest.raises(DamagedStore, match="where an object with the fields"):
        VolumeRecord.from_json(value)


def test_slices_with_the_same_pixels_have_the_same_digest_in_every_volume(
    workspace: Workspace, add_volume: Callable[..., VolumeRecord]
):
    image = np.asarray(workspace.volumes["a"].image[:])
    assert slice_digests(image[::-1].copy()) == workspace.volumes["a"].slice_digests[::-1]
