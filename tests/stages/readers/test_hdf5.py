"""h5 volumes: axes turned, geometry unknown, refusals that list what is there."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from samkit.stages.readers.geometry import choose_orientation
from samkit.stages.readers.hdf5 import has_label, read_hdf5_image, read_hdf5_label
from samkit.store.errors import UnreadableFile, UnusableLabel, UnusableVoxels


def save(path: Path, **datasets: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    return path


IMAGE_ZHW = np.random.default_rng(0).random((3, 5, 4), dtype=np.float32)


def test_z_h_w_is_turned_into_w_h_z(tmp_path: Path):
    scan = read_hdf5_image(save(tmp_path / "a.h5", image=IMAGE_ZHW))
    assert scan.values.shape == (4, 5, 3)
    assert scan.values[3, 4, 2] == IMAGE_ZHW[2, 4, 3]


def test_display_gives_the_stored_array_back(tmp_path: Path):
    scan = read_hdf5_image(save(tmp_path / "a.h5", image=IMAGE_ZHW))
    orientation = choose_orientation(scan.affine, scan.grid.shape, None)
    np.testing.assert_array_equal(orientation.apply(scan.values), IMAGE_ZHW)


def test_a_2d_image_is_one_slice(tmp_path: Path):
    scan = read_hdf5_image(save(tmp_path / "a.h5", image=IMAGE_ZHW[0]))
    assert scan.values.shape == (4, 5, 1)
    assert scan.values[3, 4, 0] == IMAGE_ZHW[0, 4, 3]


def test_geometry_and_modality_are_unknown(tmp_path: Path):
    scan = read_hdf5_image(save(tmp_path / "a.h5", image=IMAGE_ZHW))
    assert (scan.affine, scan.grid.affine, scan.modality) == (None, None, None)


def test_the_label_lies_on_the_image(tmp_path: Path):
    path = save(tmp_path / "a.h5", image=IMAGE_ZHW, label=(IMAGE_ZHW > 0.5).astype(np.float64))
    label = read_hdf5_label(path)
    assert label.values.dtype == np.uint8
    np.testing.assert_array_equal(label.values, read_hdf5_image(path).values > 0.5)


def test_whether_there_is_a_label_is_known(tmp_path: Path):
    assert has_label(save(tmp_path / "a.h5", image=IMAGE_ZHW, label=IMAGE_ZHW))
    assert not has_label(save(tmp_path / "b.h5", image=IMAGE_ZHW))


def test_a_file_without_image_lists_what_it_has(tmp_path: Path):
    with pytest.raises(UnreadableFile, match=r"no dataset `image`.*`data/raw`, `seg`"):
        read_hdf5_image(save(tmp_path / "a.h5", seg=IMAGE_ZHW, **{"data/raw": IMAGE_ZHW}))


def test_4d_is_refused(tmp_path: Path):
    with pytest.raises(UnusableVoxels, match=r"\(1, 3, 5, 4\)"):
        read_hdf5_image(save(tmp_path / "a.h5", image=IMAGE_ZHW[None]))


def test_text_is_refused(tmp_path: Path):
    with pytest.raises(UnusableVoxels, match="real numbers"):
        read_hdf5_image(save(tmp_path / "a.h5", image=np.array([[b"a", b"b"]])))


def test_soft_labels_are_refused(tmp_path: Path):
    with pytest.raises(UnusableLabel, match="not whole numbers"):
        read_hdf5_label(save(tmp_path / "a.h5", image=IMAGE_ZHW, label=IMAGE_ZHW))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_to_be_copied_again(tmp_path: Path, share: float):
    path = save(tmp_path / "a.h5", image=np.random.default_rng(0).random((8, 32, 32)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UnreadableFile, match=r"truncated.*copy it again"):
        read_hdf5_image(path)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(UnreadableFile, match="no such file"):
        read_hdf5_image(tmp_path / "a.h5")


@pytest.mark.shared
def test_a_real_acdc_volume_is_read(shared_data: Path):
    path = shared_data / "acdc" / "volumes" / "patient001_frame01.h5"
    scan, label = read_hdf5_image(path), read_hdf5_label(path)
    assert scan.values.shape == label.values.shape == (216, 256, 10)
    assert set(np.unique(label.values)) == {0, 1, 2, 3}
