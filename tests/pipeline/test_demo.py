"""The demo runs the whole job on files it writes itself, and shows each command before it runs it."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

import samkit as package
from samkit.heads.averages import mean_over_classes
from samkit.heads.metrics import ScoredVolume
from samkit.pipeline.demo import run_demo
from samkit.store.errors import UsageError


def test_a_small_demo_does_the_whole_job(tmp_path, capsys):
    code = run_demo(tmp_path, subjects=8, shape=(4, 48, 44), spacing_mm=(20.0, 6.0, 6.0), steps=2)
    said = capsys.readouterr().out
    assert code == 0
    for verb in ("ingest", "embed", "experiment", "train-head autosam", "predict", "status", "report"):
        assert f"$ samkit {verb}" in said
    assert (tmp_path / "workspace/report/index.html").exists()
    (mask,) = (tmp_path / "masks").glob("*.nii.gz")
    assert nib.load(mask).shape == (44, 48, 4)
    assert len(package.open_workspace(tmp_path / "workspace").runs) == 13
    assert np.isfinite(nib.load(mask).affine).all()


@pytest.mark.soak
def test_five_labelled_volumes_of_the_demo_are_enough_for_its_organs(tmp_path):
    run_demo(tmp_path)
    runs = package.open_workspace(tmp_path / "workspace").runs.values()
    reached = {
        run.settings.head: mean_over_classes([ScoredVolume.from_json(volume) for volume in run.scores]).dice
        for run in runs
        if run.settings.subjects == 5
    }
    assert set(reached) == {"ridge", "linear", "hybrid", "autosam"}
    assert all(dice > 0.8 for dice in reached.values()), reached


def test_the_demo_leaves_a_folder_with_other_files_alone(tmp_path):
    (tmp_path / "dataset/imagesTr").mkdir(parents=True)
    (tmp_path / "dataset/imagesTr/mine.nii.gz").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"mine\.nii\.gz"):
        run_demo(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["mine.nii.gz"]


def test_the_command_line_has_the_demo(samkit):
    assert "drawn anatomy" in samkit("demo", "--help").said
