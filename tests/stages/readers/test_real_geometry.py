"""Real images with real labels: does each label lie on its organ?"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from examples.scan_folders import find

from samkit.stages.readers.base import LabelMap, Scan, SourceFiles, read_image, read_label

pytestmark = pytest.mark.shared


def read(source: SourceFiles) -> tuple[Scan, LabelMap]:
    scan = read_image(source)
    label = read_label(source, grid=scan.grid)
    assert isinstance(label, LabelMap)
    return scan, label


def test_the_spleen_is_as_bright_as_a_spleen(shared_data: Path):
    # 29.9 if the label were upside down.
    (source,) = find(shared_data / "spleen").sources
    scan, label = read(source)
    assert scan.values[label.values > 0].mean() == pytest.approx(85.6, abs=0.1)


def test_labels_that_do_not_name_their_image_are_found_by_their_grid(shared_data: Path):
    sources = find(shared_data / "totalseg").sources
    assert {source.shown: source.label.paths[0].name for source in sources} == {
        "example_ct_sm.nii.gz": "example_seg.nii.gz",
        "example_mr_sm.nii.gz": "example_seg_mr.nii.gz",
    }
    for source in sources:
        scan, label = read(source)
        np.testing.assert_allclose(scan.affine, label.affine, atol=1e-3)


def test_organs_of_a_ct_have_the_density_of_organs(shared_data: Path):
    # TotalSegmentator's classes: 1 spleen, 5 liver (soft tissue), 10 to 14 lobes of the lungs (air).
    (source,) = [one for one in find(shared_data / "totalseg").sources if "ct" in one.shown]
    scan, label = read(source)
    tissue = scan.values[np.isin(label.values, (1, 5))]
    lung = scan.values[np.isin(label.values, range(10, 15))]
    assert tissue.size + lung.size > 0
    assert not tissue.size or 0 < tissue.mean() < 200
    assert not lung.size or -950 < lung.mean() < -400


def test_the_cord_is_found_in_the_oblique_neck(shared_data: Path):
    (source,) = find(shared_data / "sct").sources
    scan, label = read(source)
    assert label.values.shape == scan.values.shape
    np.testing.assert_allclose(scan.affine, label.affine, atol=1e-3)
    # A cord runs through most slices from feet to head.
    along = nib.io_orientation(scan.affine)[:, 0].tolist().index(2)
    filled = label.values.any(axis=tuple({0, 1, 2} - {along}))
    assert filled.mean() > 0.5


def test_every_hippocampus_lies_within_its_image(shared_data: Path):
    sources = find(shared_data / "hippocampus").sources
    assert len(sources) == 30
    for source in sources:
        scan, label = read(source)
        assert set(np.unique(label.values)) == {0, 1, 2}
        np.testing.assert_allclose(scan.affine, label.affine, atol=1e-3)
