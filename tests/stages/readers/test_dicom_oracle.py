"""Geometry and voxels of DICOM series against dcm2niix, which everybody trusts with them."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from synthetic.answers import LPS_TO_RAS
from synthetic.catalogue import CATALOGUE, seed_of
from synthetic.codecs import COMPRESSED
from synthetic.enhanced import ENHANCED
from synthetic.irregular import tilted
from synthetic.series import PLAIN

from samkit.stages.readers.base import Scan
from samkit.stages.readers.dicom import read_series
from samkit.stages.readers.dicom_series import VolumeChoice, triage

# Beside the Python that runs the tests, where pip puts it and no PATH need point.
BESIDE = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
DCM2NIIX = shutil.which("dcm2niix", path=BESIDE)
pytestmark = pytest.mark.skipif(DCM2NIIX is None, reason="dcm2niix is not installed")

OTHERWISE = {
    "deflated": "it does not read them",
    "modality table": "it leaves the table out",
    "enhanced rle": "it decodes shuffled frames of one compressed file into one another",
    "enhanced jpeg-ls": "as above",
    "enhanced jpeg 2000": "as above",
    "two enhanced files": "it makes two volumes of a concatenation",
    "tilted enhanced ct": "a tilted CT; see below",
}
"""Where dcm2niix 1.0.20260724 is no oracle."""
REFUSED = ("frame missing", "enhanced time points", "enhanced b-values", "enhanced echoes")
FARTHEST_MM = {"noisy headers": 0.01}
"""It stacks slices straight along the normal, even of rounded cosines: at the far corner."""
CASES = [name for name in (*PLAIN, *COMPRESSED, *ENHANCED) if name not in {*OTHERWISE, *REFUSED}]
SEVERAL = ("mixed orientations", "mixed matrix sizes", "copies", "almost even spacing", "two slices")


def convert(folder: Path, target: Path) -> list[nib.Nifti1Image]:
    target.mkdir()
    command = [str(DCM2NIIX), "-z", "n", "-b", "n", "-f", "%s", "-o", str(target), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return [nib.load(path) for path in sorted(target.glob("*.nii"))]


def values_of(image: nib.Nifti1Image) -> NDArray[np.generic]:
    values = np.asarray(image.dataobj)
    return np.stack([values[name] for name in "RGB"], axis=-1) if values.dtype.names else values


def scans(folder: Path, **choice) -> list[Scan]:
    found = triage(folder, VolumeChoice(**choice)).findings
    return [read_series(finding.series) for finding in found if finding.series is not None]


def turned(scan: Scan, affine: NDArray[np.float64]) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    """Bring a scan into the axes of another affine by flips and permutations."""
    change = nib.orientations.ornt_transform(nib.io_orientation(scan.affine), nib.io_orientation(affine))
    values = nib.orientations.apply_orientation(scan.values, change)
    return values, scan.affine @ nib.orientations.inv_ornt_aff(change, scan.values.shape[:3])


def require_equal(
    scan: Scan, values: NDArray[np.generic], affine: NDArray[np.float64], *, farthest_mm: float = 2e-3
) -> None:
    found, placed = turned(scan, affine)
    assert found.shape == values.shape
    np.testing.assert_allclose(found, values, rtol=1e-6, atol=1e-3 if found.dtype.kind == "f" else 0)
    corners = np.array(np.meshgrid(*([0, size - 1] for size in values.shape[:3]), [1])).reshape(4, -1)
    np.testing.assert_allclose(placed @ corners, affine @ corners, atol=farthest_mm)


@pytest.mark.parametrize("name", CASES)
def test_a_series_is_what_dcm2niix_makes_of_it(tmp_path: Path, name: str):
    (answer,) = CATALOGUE[name](tmp_path / "dicom", seed_of(name))
    (scan,) = scans(tmp_path / "dicom")
    (image,) = convert(tmp_path / "dicom", tmp_path / "nifti")
    values = values_of(image)
    if "within" in answer.facts:  # two decoders of lossy JPEG round differently
        found, _ = turned(scan, image.affine)
        assert np.abs(found.astype(int) - values).max() <= 1
        values = found
    require_equal(scan, values, image.affine, farthest_mm=FARTHEST_MM.get(name, 1e-4))


@pytest.mark.parametrize("name", SEVERAL)
def test_each_stack_of_a_mixed_folder_is_among_what_dcm2niix_makes_of_it(tmp_path: Path, name: str):
    CATALOGUE[name](tmp_path / "dicom", seed_of(name))
    images = convert(tmp_path / "dicom", tmp_path / "nifti")
    for scan in scans(tmp_path / "dicom"):
        alike = [image for image in images if np.allclose(turned(scan, image.affine)[1], image.affine, atol=1e-4)]
        same = [image for image in alike if image.shape == turned(scan, image.affine)[0].shape]
        assert any(np.array_equal(turned(scan, image.affine)[0], values_of(image)) for image in same)


def test_the_voxels_of_a_tilted_ct_are_those_of_dcm2niix_before_it_resamples_them(tmp_path: Path):
    """Its raw file holds the voxels, on a grid without the tilt; its other file is resampled: neither has the place."""
    tilted(tmp_path / "dicom")
    (scan,) = scans(tmp_path / "dicom")
    images = convert(tmp_path / "dicom", tmp_path / "nifti")
    raw = next(image for image in images if image.shape == scan.values.shape)
    found, placed = turned(scan, raw.affine)
    np.testing.assert_array_equal(found, values_of(raw))
    np.testing.assert_allclose(placed[:3, :2], raw.affine[:3, :2], atol=1e-4)
    assert np.abs(placed[:3, 2] - raw.affine[:3, 2]).max() > 0.5


SIMPLE = ("ct", "mr", "oblique", "coronal", "sagittal", "slopes of a Philips mr", "ct unsigned with intercept")


@pytest.mark.parametrize("name", SIMPLE)
def test_simpleitk_agrees_too(tmp_path: Path, name: str):
    (answer,) = CATALOGUE[name](tmp_path, seed_of(name))
    (scan,) = scans(tmp_path)
    reference = SimpleITK.ReadImage([str(path) for path in answer.paths])
    np.testing.assert_allclose(scan.values, SimpleITK.GetArrayFromImage(reference).T, rtol=1e-6, atol=1e-4)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reference.GetDirection(), (3, 3)) * reference.GetSpacing()
    affine[:3, 3] = reference.GetOrigin()
    np.testing.assert_allclose(scan.affine, LPS_TO_RAS @ affine, atol=1e-6)


REAL = (
    "ge/anatomical/001",
    "ge/anatomical/001_single_slice",
    "ge/dti/001",
    "ge/dti/002",
    "ge/fmri/001",
    "generic/anatomical/001",
    "generic/anatomical/002_non_isotropic",
    "generic/compressed_j2k/001",
    "generic/compressed_jpeg/001",
    "generic/compressed_jpegls/001",
    "generic/compressed_rle/001",
    "hitachi/anatomical/001",
    "hyperfine/anatomical/001",
    "failing/slicecount/001",
)


@pytest.mark.shared
@pytest.mark.parametrize("name", REAL)
def test_a_real_series_is_what_dcm2niix_makes_of_it(tmp_path: Path, shared_data: Path, name: str):
    folder = shared_data / "dicom2nifti" / name
    (image,) = convert(folder, tmp_path / "nifti")
    values = values_of(image)
    volumes = [values] if values.ndim == 3 else list(np.moveaxis(values, 3, 0))
    for index, volume in enumerate(volumes):
        (scan,) = scans(folder, time_index=index)
        require_equal(scan, volume, image.affine)


NIBABELS = Path(nib.__file__).parent / "nicom" / "tests" / "data"
"""Real files that come with nibabel, unless it was packed without its tests."""


@pytest.mark.skipif(not NIBABELS.is_dir(), reason="nibabel was installed without its tests")
class TestFilesOfNibabel:
    def test_a_real_enhanced_file_is_what_dcm2niix_makes_of_it(self, tmp_path: Path):
        (tmp_path / "dicom").mkdir()
        (tmp_path / "dicom" / "x").write_bytes(gzip.decompress((NIBABELS / "philips_mprage.dcm.gz").read_bytes()))
        (scan,) = scans(tmp_path / "dicom")
        (image,) = convert(tmp_path / "dicom", tmp_path / "nifti")
        assert scan.values.shape == (256, 256, 176)
        require_equal(scan, values_of(image), image.affine)

    @pytest.mark.parametrize("name", ["0.dcm", "siemens_dwi_1000.dcm.gz"])
    def test_a_real_mosaic_is_refused_as_one(self, tmp_path: Path, name: str):
        data = (NIBABELS / name).read_bytes()
        (tmp_path / "x").write_bytes(gzip.decompress(data) if name.endswith(".gz") else data)
        (finding,) = triage(tmp_path).findings
        assert "a Siemens mosaic" in (finding.reason or "")
