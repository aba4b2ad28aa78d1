"""predict through the command line: masks lie on the grid of their source, for whoever reads them, to the last bit."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 (its own documentation calls it so)
import torch
from PIL import Image
from synthetic.irregular import tilted

import samkit as package
from samkit.stages.encoders.sam import SamEncoder
from samkit.stages.readers.dicom_series import triage
from samkit.stages.synthesis.anatomy import draw_subject
from samkit.stages.synthesis.files import write_dicom_series, write_nifti_pair

SHAPE, SPACING_MM = (4, 36, 32), (10.0, 6.0, 6.0)


def oblique(tilt_degrees: float = 20) -> np.ndarray:
    """An RAS+ affine turned about two axes, as of a tilted head."""
    angle = np.radians(tilt_degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    about_z = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag([-6.0, -6.0, 10.0])
    affine[:3, 3] = (91.3, -12.7, 40.1)
    return affine


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """Source files of several geometries, and a workspace of them with a run: (data, workspace)."""
    folder = tmp_path_factory.mktemp("predict")
    data = folder / "data"
    for seed, orientation in enumerate(("RAS", "LPS", "PIR")):
        phantom = draw_subject(seed, shape=SHAPE, spacing_mm=SPACING_MM)
        write_nifti_pair(data, orientation, phantom, orientation=orientation)
    write_nifti_pair(data, "oblique", draw_subject(7, shape=SHAPE, spacing_mm=SPACING_MM))
    write_nifti_pair(data, "qform", draw_subject(8, shape=SHAPE, spacing_mm=SPACING_MM))
    for kind in ("imagesTr", "labelsTr"):
        turn(data / kind / "oblique.nii.gz", qform_only=False)
        turn(data / kind / "qform.nii.gz", qform_only=True)
    return data, train(folder, data)


@pytest.fixture(scope="module")
def on_ct(tmp_path_factory) -> Path:
    """A workspace with a run on CT in a window."""
    folder = tmp_path_factory.mktemp("predict-ct")
    values = np.random.default_rng(0).normal(40, 60, (20, 24, 5)).astype(np.int16)
    for kind, array in (("imagesTr", values), ("labelsTr", (values > 80).astype(np.uint8))):
        (folder / "data" / kind).mkdir(parents=True)
        for name, voxels in (("a", array), ("b", np.flip(array, 0))):
            nib.save(nib.Nifti1Image(voxels, np.diag([-1.0, -1.0, 3.0, 1.0])), folder / f"data/{kind}/{name}.nii.gz")
    return train(folder, folder / "data", "--window", "400/40")


def train(folder: Path, data: Path, *flags: str, subjects: int = 1) -> Path:
    """Ingest, embed and train; return the workspace."""
    from samkit.pipeline.cli import run

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("SAMKIT_ID_KEY", "key-of-the-tests")
        patch.delenv("SAMKIT_WORKSPACE", raising=False)
        patch.chdir(folder)
        ws = ["--workspace", str(folder / "workspace")]
        for command in (
            ["ingest", str(data), *flags, *ws],
            ["embed", "--size", "64", *ws],
            ["train-head", "linear", "--volumes", str(subjects), "--steps", "60", "--learning-rate", "0.01", *ws],
        ):
            assert run(command) == 0
    return folder / "workspace"


@pytest.fixture(scope="module")
def on_ct_and_mr(tmp_path_factory) -> Path:
    """A folder with a BIDS dataset of CT and MR, and a workspace with a run on both, the CT in a window."""
    folder = tmp_path_factory.mktemp("predict-ct-and-mr")
    for number, suffix in ((1, "ct"), (2, "T1w"), (3, "ct"), (4, "T1w"), (5, "T1w")):
        values = np.random.default_rng(number).normal(40, 60, (20, 24, 5)).astype(np.int16)
        image, labels = (folder / f"data/{above}sub-{number}/anat" for above in ("", "derivatives/"))
        for place in (image, labels):
            place.mkdir(parents=True)
        affine = np.diag([-1.0, -1.0, 3.0, 1.0])
        nib.save(nib.Nifti1Image(values, affine), image / f"sub-{number}_{suffix}.nii.gz")
        name = f"sub-{number}_{suffix}_seg.nii.gz"
        nib.save(nib.Nifti1Image((values > 80).astype(np.uint8), affine), labels / name)
    train(folder, folder / "data", "--window", "400/40", subjects=3)
    return folder


def new_scan(folder: Path, seed: int = 99) -> Path:
    """Write a file that is in no workspace."""
    return write_nifti_pair(folder / "new-scan", "scan", draw_subject(seed, shape=SHAPE, spacing_mm=SPACING_MM))[0]


def turn(path: Path, *, qform_only: bool) -> None:
    image = nib.load(path)
    turned = nib.Nifti1Image(np.asanyarray(image.dataobj), oblique(), image.header)
    turned.set_qform(oblique(), code=1)
    turned.set_sform(None if qform_only else oblique(), code=0 if qform_only else 1)
    nib.save(turned, path)


@pytest.fixture
def masks(samkit, trained, tmp_path) -> Path:
    _, workspace = trained
    assert samkit("predict", "latest", "--output", tmp_path / "masks", "--workspace", workspace).code == 0
    return tmp_path / "masks"


GEOMETRIES = ("RAS", "LPS", "PIR", "oblique", "qform")


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_mask_lies_on_the_grid_of_its_source_in_nibabel(trained, masks, name):
    source, mask = nib.load(trained[0] / f"imagesTr/{name}.nii.gz"), nib.load(masks / f"{name}.nii.gz")
    assert mask.shape == source.shape
    assert np.array_equal(mask.affine, source.affine)
    for form in ("qform", "sform"):
        (theirs, their_code), (mine, my_code) = (getattr(image, f"get_{form}")(coded=True) for image in (source, mask))
        assert my_code == their_code
        assert (mine is None and theirs is None) or np.array_equal(mine, theirs)
    for field in ("pixdim", "quatern_b", "qoffset_x", "srow_x", "srow_y", "srow_z"):
        mine, theirs = (np.atleast_1d(image.header[field])[:4] for image in (mask, source))
        assert np.array_equal(mine, theirs), field
    assert mask.header["xyzt_units"] == source.header["xyzt_units"]


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_mask_lies_on_the_grid_of_its_source_in_simpleitk(trained, masks, name):
    source = sitk.ReadImage(str(trained[0] / f"imagesTr/{name}.nii.gz"))
    mask = sitk.ReadImage(str(masks / f"{name}.nii.gz"))
    assert mask.GetSize() == source.GetSize()
    assert mask.GetOrigin() == source.GetOrigin()
    assert mask.GetSpacing() == source.GetSpacing()
    assert mask.GetDirection() == source.GetDirection()


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_mask_holds_label_values_where_its_source_has_them(trained, masks, name):
    mask = np.asanyarray(nib.load(masks / f"{name}.nii.gz").dataobj)
    assert mask.dtype.kind == "u"
    assert set(np.unique(mask)) <= {0, 1, 2, 3, 4}


def test_the_score_printed_is_that_of_the_file_written(samkit, trained, masks):
    """SimpleITK finds the Dice of the table between the mask and the label on disk: nothing is mirrored."""
    data, workspace = trained
    said = samkit("predict", "latest", "--output", masks, "--overwrite", "--workspace", workspace).out
    for name in GEOMETRIES:
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(
            sitk.ReadImage(str(data / f"labelsTr/{name}.nii.gz"), sitk.sitkUInt8),
            sitk.ReadImage(str(masks / f"{name}.nii.gz"), sitk.sitkUInt8),
        )
        lines = said.splitlines()
        first = next(number for number, line in enumerate(lines) if line.strip().startswith(name))
        for offset, value in enumerate((1, 2, 3, 4)):
            assert f"{100 * overlap.GetDiceCoefficient(value):.1f}" in lines[first + offset]


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_new_file_gets_the_mask_that_it_gets_in_the_workspace(samkit, trained, masks, tmp_path, name):
    data, workspace = trained
    ended = samkit(
        "predict", "latest", data / f"imagesTr/{name}.nii.gz", "--output", tmp_path / "new", "--workspace", workspace
    )
    assert ended.code == 0
    (new,) = (tmp_path / "new").glob("*.nii.gz")
    assert np.array_equal(nib.load(new).dataobj, nib.load(masks / f"{name}.nii.gz").dataobj)


def test_new_files_in_a_named_layout_keep_their_names_and_are_scored(samkit, trained, masks, tmp_path):
    data, workspace = trained
    ended = samkit("predict", "latest", data, "--output", tmp_path / "new", "--workspace", workspace)
    assert ended.code == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(f"{n}.nii.gz" for n in GEOMETRIES)
    assert " mm" in ended.said
    for name in GEOMETRIES:
        assert (tmp_path / f"new/{name}.nii.gz").read_bytes()
        assert np.array_equal(
            nib.load(tmp_path / f"new/{name}.nii.gz").dataobj, nib.load(masks / f"{name}.nii.gz").dataobj
        )


def test_a_new_dicom_series_gets_a_mask_on_its_grid(samkit, trained, tmp_path):
    phantom = draw_subject(12, shape=SHAPE, spacing_mm=SPACING_MM)
    write_dicom_series(tmp_path / "series", phantom)
    ended = samkit("predict", "latest", tmp_path / "series", "--output", tmp_path / "new", "--workspace", trained[1])
    assert ended.code == 0
    (path,) = (tmp_path / "new").glob("*.nii.gz")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "series")))
    source, mask = reader.Execute(), sitk.ReadImage(str(path))
    assert mask.GetSize() == source.GetSize()
    for mine, theirs in zip(
        (mask.GetOrigin(), mask.GetSpacing(), mask.GetDirection()),
        (source.GetOrigin(), source.GetSpacing(), source.GetDirection()),
        strict=True,
    ):
        assert mine == pytest.approx(theirs, abs=1e-4)


def test_a_dicom_series_and_its_nifti_get_the_same_mask(samkit, trained, tmp_path):
    phantom = draw_subject(12, shape=SHAPE, spacing_mm=SPACING_MM)
    write_dicom_series(tmp_path / "series", phantom)
    nifti, _ = write_nifti_pair(tmp_path / "nifti", "scan", phantom, orientation="RAS")
    masks = []
    for name, source in (("from-dicom", tmp_path / "series"), ("from-nifti", nifti)):
        samkit("predict", "latest", source, "--output", tmp_path / name, "--workspace", trained[1])
        (path,) = (tmp_path / name).glob("*.nii.gz")
        masks.append(nib.as_closest_canonical(nib.load(path)))
    assert np.array_equal(masks[0].dataobj, masks[1].dataobj)


def test_predicting_new_files_leaves_the_workspace_as_it_was(samkit, trained, tmp_path):
    data, workspace = trained
    before = {path: path.stat().st_mtime_ns for path in workspace.rglob("*")}
    samkit("predict", "latest", data, "--output", tmp_path / "new", "--workspace", workspace)
    assert {path: path.stat().st_mtime_ns for path in workspace.rglob("*")} == before


def test_files_are_told_in_the_order_of_their_names_and_not_of_a_second_time(samkit, trained, tmp_path):
    _, workspace = trained
    for name in ("b/scan10", "a/scan", "b/scan9"):
        (tmp_path / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(new_scan(tmp_path), tmp_path / f"new/{name}.nii.gz")
    said = samkit("predict", "latest", tmp_path / "new", "-o", tmp_path / "m", "--workspace", workspace).said
    assert re.findall(r"[ab]/scan\d*(?=\.nii\.gz)", said.split("Masks of")[1]) == ["a/scan", "b/scan9", "b/scan10"]
    assert "the same slices" not in said


def test_a_file_that_cannot_be_read_costs_one_mask(samkit, trained, write_pair, tmp_path):
    write_pair(tmp_path / "d", "good")
    write_pair(tmp_path / "d", "torn", seed=1)
    (tmp_path / "d/imagesTr/torn.nii.gz").write_bytes(b"torn")
    ended = samkit("predict", "latest", tmp_path / "d", "--output", tmp_path / "new", "--workspace", trained[1])
    assert ended.code == 3
    assert "truncated, damaged or not NIfTI" in ended.said
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["good.nii.gz"]


def test_files_that_are_ingested_otherwise_than_the_runs_own_cost_their_masks_alone(samkit, trained, tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (36, 32, 3)).astype(np.uint8)
    (tmp_path / "d").mkdir()
    Image.fromarray(colours).save(tmp_path / "d/colour.png")
    Image.fromarray(colours[..., 0]).save(tmp_path / "d/grey.png")
    ended = samkit("predict", "latest", tmp_path / "d", "--output", tmp_path / "new", "--workspace", trained[1])
    assert ended.code == 3, ended.said
    assert "trained on slices with channels 1: the head would see other grey values" in ended.said
    assert "Name files like those that it was trained on" in ended.said
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["grey.nii.gz"]


def test_an_mr_gets_no_mask_from_a_run_on_ct(samkit, on_ct, series, tmp_path):
    ended = samkit("predict", "latest", series, "-o", tmp_path / "m", "--workspace", on_ct)
    assert ended.code == 3, ended.said
    assert "trained on slices with window 400/40, intensity window" in ended.said
    assert "no masks were written" in ended.said


def test_a_file_that_cannot_be_encoded_costs_one_mask(samkit, trained, write_pair, tmp_path, monkeypatch):
    encode = SamEncoder.encode

    def encode_all_but_one(self, *given):
        features = encode(self, *given)
        features[0] = float("nan")
        return features

    monkeypatch.setattr(SamEncoder, "encode", encode_all_but_one)
    for seed, name in enumerate(("one", "other")):
        write_pair(tmp_path / "d", name, seed=seed)
    ended = samkit("predict", "latest", tmp_path / "d", "--output", tmp_path / "new", "--workspace", trained[1])
    assert ended.code == 3, ended.said
    assert "not finite" in ended.said
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_a_label_that_means_something_else_costs_the_score_and_not_the_mask(samkit, trained, write_pair, tmp_path):
    write_pair(tmp_path / "d", "other", label_value=9)
    ended = samkit("predict", "latest", tmp_path / "d", "--output", tmp_path / "new", "--workspace", trained[1])
    assert ended.code == 0
    assert "its label is left out" in ended.said
    assert (tmp_path / "new/other.nii.gz").exists()


def test_volumes_the_head_was_trained_on_are_marked(samkit, trained, tmp_path):
    _, workspace = trained
    (run,) = package.open_workspace(workspace).runs.values()
    out = samkit("predict", "latest", "--output", tmp_path / "m", "--workspace", workspace).out
    marked = {line.split()[0] for line in out.splitlines() if "trained on" in line and ".nii.gz" in line}
    assert marked == set(run.settings.drawn)


def test_new_files_the_head_was_trained_on_are_marked_whatever_they_are_called(samkit, trained, tmp_path):
    data, workspace = trained
    (run,) = package.open_workspace(workspace).runs.values()
    (drawn,) = run.settings.drawn
    other = next(name for name in GEOMETRIES if name != drawn)
    for source, name in ((drawn, "renamed"), (other, drawn)):
        for kind in ("imagesTr", "labelsTr"):
            (tmp_path / "d" / kind).mkdir(parents=True, exist_ok=True)
            shutil.copy(data / f"{kind}/{source}.nii.gz", tmp_path / f"d/{kind}/{name}.nii.gz")
    out = samkit("predict", "latest", tmp_path / "d", "--output", tmp_path / "m", "--workspace", workspace).out
    lines = [line for line in out.splitlines() if "trained on" in line]
    assert lines
    assert "renamed" in lines[0]
    assert drawn not in {line.split()[0] for line in lines}


# -- what is there already -------------------------------------------------------------------------


@pytest.mark.parametrize("new", [False, True])
def test_masks_that_are_there_are_replaced_only_when_asked(samkit, trained, tmp_path, new):
    data, workspace = trained
    source = [data] if new else []
    command = ("predict", "latest", *source, "--output", tmp_path / "m", "--workspace", workspace)
    (tmp_path / "m").mkdir()
    (tmp_path / "m/RAS.nii.gz").write_bytes(b"mine")
    ended = samkit(*command)
    assert ended.code == 2
    assert "RAS.nii.gz: there already" in ended.said
    assert "--overwrite" in ended.said
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["RAS.nii.gz"]
    assert (tmp_path / "m/RAS.nii.gz").read_bytes() == b"mine"
    assert samkit(*command, "--overwrite").code == 0
    assert nib.load(tmp_path / "m/RAS.nii.gz").shape


@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
@pytest.mark.parametrize("kind", ["imagesTr", "labelsTr"])
@pytest.mark.parametrize("through", ["folder", "link"])
def test_source_files_are_never_replaced(samkit, trained, files_below, tmp_path, flags, kind, through):
    shutil.copytree(trained[0], tmp_path / "d")
    before = files_below(tmp_path / "d")
    output = tmp_path / "d" / kind
    if through == "link":
        (tmp_path / "link").symlink_to(output)
        output = tmp_path / "link"
    ended = samkit("predict", "latest", tmp_path / "d", "-o", output, "--workspace", trained[1], *flags)
    assert ended.code == 2
    assert "these are source files" in ended.said
    assert "and 2 more" in ended.said
    assert files_below(tmp_path / "d") == before


def test_images_of_the_workspace_are_never_replaced(samkit, trained, files_below):
    data, workspace = trained
    before = files_below(data)
    ended = samkit("predict", "latest", "-o", data / "imagesTr", "--overwrite", "--workspace", workspace)
    assert ended.code == 2
    assert "these are source files" in ended.said
    assert files_below(data) == before


@pytest.mark.parametrize("source", ["", "imagesTr", "copies"])
def test_labels_of_the_workspace_are_never_replaced(samkit, trained, files_below, tmp_path, source):
    data, workspace = trained
    before = files_below(data)
    shutil.copytree(data / "imagesTr", tmp_path / "copies/imagesTr")
    of = [] if not source else [data / "imagesTr" if source == "imagesTr" else tmp_path / "copies"]
    ended = samkit("predict", "latest", *of, "-o", data / "labelsTr", "--overwrite", "--workspace", workspace)
    assert ended.code == 2
    assert "these are source files" in ended.said
    assert files_below(data) == before


@pytest.mark.parametrize("how", ["edited and not ingested again", "corrected by --labels-from"])
def test_a_label_that_says_something_else_by_now_is_never_replaced(samkit, trained, tmp_path, how):
    shutil.copytree(trained[1], tmp_path / "w")
    shutil.copytree(trained[0] / "labelsTr", tmp_path / "mine")
    assert samkit("ingest", "--labels-from", tmp_path / "mine", "--workspace", tmp_path / "w").code == 0
    corrected = tmp_path / "mine"
    if how.startswith("corrected"):
        corrected = Path(shutil.copytree(corrected, tmp_path / "corrected"))
    for path in corrected.iterdir():
        image = nib.load(path)
        values = np.asanyarray(image.dataobj).copy()
        values[:4, :4] = 1
        nib.save(nib.Nifti1Image(values, None, image.header), path)
    if how.startswith("corrected"):
        assert samkit("ingest", "--labels-from", corrected, "--workspace", tmp_path / "w").code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    ended = samkit("predict", "latest", "-o", tmp_path / "mine", "--overwrite", "--workspace", tmp_path / "w")
    assert ended.code == 2
    assert "these are source files" in ended.said
    assert {path: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before


@pytest.fixture
def files_below():
    """Every file below a folder with its bytes."""
    return lambda folder: {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- names of masks and scratch --------------------------------------------------------------------


def test_masks_of_loose_files_are_called_as_their_files_are(samkit, trained, tmp_path):
    for name in ("patient one", "b"):
        image, _ = write_nifti_pair(tmp_path / name, "x", draw_subject(3, shape=SHAPE, spacing_mm=SPACING_MM))
        (tmp_path / "d").mkdir(exist_ok=True)
        shutil.copy(image, tmp_path / f"d/{name}.nii.gz")
    ended = samkit("predict", "latest", tmp_path / "d", "-o", tmp_path / "m", "--workspace", trained[1])
    assert ended.code == 0
    # Nothing else: the scratch is gone.
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["b.nii.gz", "patient one.nii.gz"]


def test_two_files_of_one_name_keep_their_ids(samkit, trained, tmp_path):
    for seed, folder in enumerate(("a", "b")):
        image, _ = write_nifti_pair(tmp_path / folder, "x", draw_subject(seed, shape=SHAPE, spacing_mm=SPACING_MM))
        (tmp_path / "d" / folder).mkdir(parents=True)
        shutil.copy(image, tmp_path / "d" / folder / "scan.nii.gz")
    ended = samkit("predict", "latest", tmp_path / "d", "-o", tmp_path / "m", "--workspace", trained[1])
    assert ended.code == 0
    names = [path.name for path in (tmp_path / "m").iterdir()]
    assert len(names) == 2
    assert all(re.fullmatch(r"v[0-9a-f]{12}\.nii\.gz", name) for name in names)


def test_scratch_lies_in_the_output_and_goes_with_what_failed(samkit, trained, tmp_path, monkeypatch):
    from samkit.pipeline.commands import predict as commands
    from samkit.store.errors import InputError

    seen: list[Path] = []

    def fail(workspace: package.Workspace, *_: object, **__: object) -> None:
        seen.append(Path(workspace.path))
        message = "as if it had failed"
        raise InputError(message)

    monkeypatch.setattr(commands, "embed_all", fail)
    ended = samkit("predict", "latest", new_scan(tmp_path), "-o", tmp_path / "m", "--workspace", trained[1])
    assert ended.code == 1
    (place,) = seen
    assert place.relative_to(tmp_path / "m").parts[0].startswith(".samkit-predict-")
    assert not (tmp_path / "m").exists()


def test_what_a_killed_predict_left_goes_with_the_next(samkit, trained, tmp_path):
    killed = f"""
        import os, pathlib, signal
        from samkit.pipeline.commands.scratch import scratch_inside
        with scratch_inside(pathlib.Path({str(tmp_path / "m")!r})) as folder:
            (folder / "slices").mkdir()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(killed)], check=False)
    (left,) = (tmp_path / "m").glob(".samkit-predict-*/slices")
    ended = samkit("predict", "latest", new_scan(tmp_path), "-o", tmp_path / "m", "--workspace", trained[1])
    assert ended.code == 0, ended.said
    assert not left.parent.exists()


@pytest.fixture
def stopped(samkit, trained, tmp_path, monkeypatch):
    """Predict, of the workspace or of files, and press Ctrl-C before the third mask; return the command."""

    from samkit.pipeline.commands import predict as commands

    whole = commands.predict_volume

    def stop(*of):
        command = ("predict", "latest", *of, "-o", tmp_path / "m", "--workspace", trained[1])
        written = []

        def interrupted(*given, **more):
            if len(written) == 2:
                raise KeyboardInterrupt
            written.append(whole(*given, **more))
            return written[-1]

        with monkeypatch.context() as patch:
            patch.setattr(commands, "predict_volume", interrupted)
            assert samkit(*command).code == 130
        assert len(list((tmp_path / "m").glob("*.nii.gz"))) == 2
        return command

    return stop


@pytest.mark.parametrize("files", [False, True])
def test_the_same_command_goes_on_after_an_interruption(samkit, trained, masks, stopped, tmp_path, files):
    ended = samkit(*stopped(*[trained[0]] * files))
    assert ended.code == 0, ended.said
    assert {path.name for path in (tmp_path / "m").iterdir()} == {path.name for path in masks.iterdir()}


def test_a_mask_that_was_edited_after_an_interruption_is_not_replaced(samkit, stopped, tmp_path):
    command = stopped()
    edited, _ = sorted((tmp_path / "m").glob("*.nii.gz"))
    edited.write_bytes(b"mine")
    ended = samkit(*command)
    assert ended.code == 2
    assert f"{edited}: there already" in ended.said
    assert edited.read_bytes() == b"mine"


# -- whether the head fits -------------------------------------------------------------------------


def test_volumes_ingested_in_another_way_are_refused_before_the_first_mask(samkit, trained, tmp_path):
    data, workspace = trained
    shutil.copytree(workspace, tmp_path / "w")
    ended = samkit("ingest", data, "--window", "400/40", "--workspace", tmp_path / "w")
    assert ended.code == 0, ended.said
    ended = samkit("predict", "latest", "-o", tmp_path / "m", "--workspace", tmp_path / "w")
    assert ended.code == 1
    assert "window 400/40, intensity window" in ended.said
    assert "window none, intensity percentiles" in ended.said
    assert "5 volumes: ingested" in ended.said
    assert "as the run's was, without --window and with --intensity percentiles" in ended.said
    assert "samkit train-head linear --volumes 1" in ended.said
    assert not (tmp_path / "m").exists()


def test_a_volume_ingested_in_another_way_costs_its_own_mask_alone(samkit, trained, tmp_path):
    shutil.copytree(trained[1], tmp_path / "w")
    other = new_scan(tmp_path)
    assert samkit("ingest", other, "--window", "400/40", "--workspace", tmp_path / "w").code == 0
    ended = samkit("predict", "latest", "-o", tmp_path / "m", "--workspace", tmp_path / "w")
    assert ended.code == 3, ended.said
    assert "ingested with window 400/40, intensity window, and run" in ended.said
    assert len(list((tmp_path / "m").glob("*.nii.gz"))) == len(package.open_workspace(trained[1]).volumes)


def test_what_to_type_names_the_flag_by_which_a_volume_differs(samkit, trained, tmp_path):
    shutil.copytree(trained[1], tmp_path / "w")
    other = new_scan(tmp_path)
    assert samkit("ingest", other, "--axis", "sagittal", "--workspace", tmp_path / "w").code == 0
    ended = samkit("predict", "latest", "-o", tmp_path / "m", "--workspace", tmp_path / "w")
    assert "ingest the source again as the run's was, without --axis" in ended.said


def test_a_workspace_whose_volumes_were_all_removed_gets_no_mask(samkit, trained, tmp_path):
    shutil.copytree(trained[1], tmp_path / "w")
    assert samkit("remove", *package.open_workspace(trained[1]).volumes, "--workspace", tmp_path / "w").code == 0
    ended = samkit("predict", "latest", "-o", tmp_path / "m", "--workspace", tmp_path / "w")
    assert ended.code == 0, ended.said
    assert "no masks were written" in ended.said


def test_a_volume_without_embeddings_is_refused_before_the_first_mask(samkit, trained, tmp_path):
    shutil.copytree(trained[1], tmp_path / "w")
    write_nifti_pair(tmp_path / "d", "zz", draw_subject(40, shape=SHAPE, spacing_mm=SPACING_MM))
    assert samkit("ingest", tmp_path / "d", "--workspace", tmp_path / "w").code == 0
    ended = samkit("predict", "latest", "-o", tmp_path / "m", "--workspace", tmp_path / "w")
    assert ended.code == 1
    assert "have no embedding" in ended.said
    assert not (tmp_path / "m").exists()


# -- weights ---------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """Numbers of the small encoder as a file: what a trained checkpoint looks like."""
    encoder = package.load_encoder("nano", "seeded", size=256)
    tensors = {f"image_encoder.{name}": value + 0.01 for name, value in encoder.model.state_dict().items()}
    torch.save(tensors, tmp_path / "nano.pth")
    return tmp_path / "nano.pth"


@pytest.fixture
def with_checkpoint(samkit, trained, checkpoint, tmp_path) -> str:
    """A workspace whose run stands on that checkpoint."""
    workspace = str(tmp_path / "w")
    samkit("ingest", trained[0], "--workspace", workspace)
    assert samkit("embed", "--size", "64", "--weights", checkpoint, "--workspace", workspace).code == 0
    assert samkit("train-head", "linear", "--volumes", "1", "--steps", "2", "--workspace", workspace).code == 0
    return workspace


def test_without_the_runs_weights_at_hand_nothing_new_is_predicted(samkit, with_checkpoint, tmp_path):
    ended = samkit("predict", "latest", new_scan(tmp_path), "-o", tmp_path / "m", "--workspace", with_checkpoint)
    assert ended.code == 1
    assert "are not at hand" in ended.said
    assert "samkit weights add FILE" in ended.said
    assert not (tmp_path / "m").exists()


def test_with_the_runs_weights_named_it_predicts(samkit, trained, with_checkpoint, checkpoint, tmp_path):
    ended = samkit(
        *("predict", "latest", trained[0], "--weights", checkpoint),
        *("--output", tmp_path / "m", "--workspace", with_checkpoint),
    )
    assert ended.code == 0


def test_with_the_runs_weights_on_the_shelf_it_predicts(samkit, with_checkpoint, checkpoint, tmp_path):
    assert samkit("weights", "add", checkpoint).code == 0
    assert "nano" in samkit("weights", "list").said
    ended = samkit("predict", "latest", new_scan(tmp_path), "-o", tmp_path / "m", "--workspace", with_checkpoint)
    assert ended.code == 0


def test_seeded_numbers_do_not_pass_for_the_runs_weights(samkit, trained, with_checkpoint, tmp_path):
    ended = samkit(
        *("predict", "latest", trained[0], "--weights", "seeded"),
        *("--output", tmp_path / "m", "--workspace", with_checkpoint),
    )
    assert ended.code == 1
    assert "are not those of recipe" in ended.said
    assert "weights_sha256" in ended.said


def test_a_checkpoint_does_not_pass_for_a_seeded_runs_numbers(samkit, trained, checkpoint, tmp_path):
    data, workspace = trained
    ended = samkit(
        *("predict", "latest", data, "--weights", checkpoint, "--output", tmp_path / "m", "--workspace", workspace)
    )
    assert ended.code == 1
    assert "are not those of recipe" in ended.said


def test_masks_of_the_workspace_need_no_weights(samkit, with_checkpoint, checkpoint, tmp_path):
    checkpoint.unlink()
    assert samkit("predict", "latest", "--output", tmp_path / "m", "--workspace", with_checkpoint).code == 0


# -- what is embedded already ----------------------------------------------------------------------


@pytest.fixture
def no_encoder(monkeypatch) -> None:
    """Let the encoder fail, whoever asks for it."""
    from samkit.pipeline.commands import predict as commands

    def fail(*_: object) -> None:
        message = "the encoder was asked for"
        raise AssertionError(message)

    monkeypatch.setattr(commands, "load_recipe", fail)


@pytest.mark.usefixtures("no_encoder")
@pytest.mark.parametrize("moved", [False, True])
def test_files_that_the_workspace_holds_are_not_encoded_again(samkit, trained, masks, tmp_path, moved, monkeypatch):
    data, workspace = trained
    if moved:  # other paths: what counts is the pixels, though that shows only when they are read
        data = shutil.copytree(data, tmp_path / "elsewhere")
        monkeypatch.setattr("samkit.pipeline.commands.predict._probably_embedded", lambda *_: True)
    ended = samkit("predict", "latest", data, "-o", tmp_path / "m", "--workspace", workspace)
    assert ended.code == 0, ended.said
    assert "5 of 5 volumes embedded in the workspace already" in ended.said
    for name in GEOMETRIES:
        assert (tmp_path / f"m/{name}.nii.gz").read_bytes() == (masks / f"{name}.nii.gz").read_bytes()


def test_a_file_that_changed_under_its_name_is_encoded(samkit, trained, tmp_path):
    data, workspace = trained
    shutil.copytree(data, tmp_path / "d")
    shutil.copytree(workspace, tmp_path / "w")
    assert samkit("ingest", tmp_path / "d", "--replace", "--workspace", tmp_path / "w").code == 0
    shutil.copy(new_scan(tmp_path), tmp_path / "d/imagesTr/RAS.nii.gz")
    ended = samkit("predict", "latest", tmp_path / "d", "-o", tmp_path / "changed", "--workspace", tmp_path / "w")
    assert ended.code == 0, ended.said
    assert "4 of 5 volumes embedded in the workspace already" in ended.said
    alone = samkit("predict", "latest", new_scan(tmp_path), "-o", tmp_path / "alone", "--workspace", workspace)
    assert alone.code == 0
    changed, expected = (
        nib.load(path).dataobj for path in (tmp_path / "changed/RAS.nii.gz", tmp_path / "alone/scan.nii.gz")
    )
    assert np.array_equal(changed, expected)


def test_what_is_new_among_what_is_known_is_encoded(samkit, trained, masks, tmp_path):
    data, workspace = trained
    shutil.copytree(data, tmp_path / "d")
    shutil.copy(new_scan(tmp_path), tmp_path / "d/imagesTr/zz.nii.gz")
    ended = samkit("predict", "latest", tmp_path / "d", "-o", tmp_path / "m", "--workspace", workspace)
    assert ended.code == 0, ended.said
    assert "5 of 6 volumes embedded in the workspace already" in ended.said
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == sorted(
        f"{n}.nii.gz" for n in (*GEOMETRIES, "zz")
    )
    assert (tmp_path / "m/PIR.nii.gz").read_bytes() == (masks / "PIR.nii.gz").read_bytes()


def test_masks_of_ingested_files_need_no_weights(samkit, trained, with_checkpoint, checkpoint, tmp_path):
    checkpoint.unlink()
    ended = samkit("predict", "latest", trained[0], "-o", tmp_path / "m", "--workspace", with_checkpoint)
    assert ended.code == 0, ended.said


# -- formats ---------------------------------------------------------------------------------------


def test_masks_as_nrrd_hold_what_masks_as_nifti_hold(samkit, trained, masks, tmp_path):
    data, workspace = trained
    ended = samkit("predict", "latest", "-o", tmp_path / "m", "--format", "nrrd", "--workspace", workspace)
    assert ended.code == 0, ended.said
    for name in GEOMETRIES:
        mask, source = (
            sitk.ReadImage(str(path)) for path in (tmp_path / f"m/{name}.nrrd", data / f"imagesTr/{name}.nii.gz")
        )
        assert np.array_equal(sitk.GetArrayFromImage(mask).T, nib.load(masks / f"{name}.nii.gz").dataobj)
        for field in ("GetSize", "GetOrigin", "GetSpacing", "GetDirection"):
            assert getattr(mask, field)() == pytest.approx(getattr(source, field)(), abs=1e-5), field


@pytest.fixture
def series(tmp_path) -> Path:
    write_dicom_series(tmp_path / "series", draw_subject(12, shape=SHAPE, spacing_mm=SPACING_MM))
    return tmp_path / "series"


def labels_of_seg(path: Path, names: dict[int, str]) -> dict[tuple[float, ...], np.ndarray]:
    """Return the label values of each plane (rows, columns) of a segmentation by where it lies, from its own frames."""
    seg = pydicom.dcmread(path)
    value_of = {name: value for value, name in names.items()}
    values = {segment.SegmentNumber: value_of[segment.SegmentLabel] for segment in seg.SegmentSequence}
    planes: dict[tuple[float, ...], np.ndarray] = {}
    for frame, pixels in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        place = tuple(float(x) for x in frame.PlanePositionSequence[0].ImagePositionPatient)
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        planes.setdefault(place, np.zeros(pixels.shape, int))[pixels > 0] = values[number]
    return planes


def test_a_dicom_seg_holds_what_the_mask_as_nifti_holds(samkit, trained, series, tmp_path):
    _, workspace = trained
    for folder, mask_format in (("nifti", "nifti"), ("seg", "dicom-seg")):
        ended = samkit(
            "predict", "latest", series, "-o", tmp_path / folder, "--format", mask_format, "--workspace", workspace
        )
        assert ended.code == 0, ended.said
    (nifti,), (seg,) = (list((tmp_path / folder).iterdir()) for folder in ("nifti", "seg"))
    assert seg.name.endswith(".seg.dcm")
    mask = nib.load(nifti)
    (run,) = package.open_workspace(workspace).runs.values()
    planes = labels_of_seg(seg, dict(run.settings.label_names))
    assert planes
    for k in range(mask.shape[2]):
        left, back, top = (mask.affine @ [0, 0, k, 1])[:3] * (-1, -1, 1)
        found = [plane for place, plane in planes.items() if np.allclose(place, (left, back, top), atol=1e-3)]
        expected = np.asarray(mask.dataobj)[:, :, k].T
        assert np.array_equal(found[0] if found else np.zeros(expected.shape), expected)


def test_a_series_that_highdicom_does_not_take_costs_one_mask(samkit, trained, series, tmp_path, monkeypatch):
    import highdicom

    write_dicom_series(tmp_path / "series/b", draw_subject(13, shape=SHAPE, spacing_mm=SPACING_MM))
    build, calls = highdicom.seg.Segmentation.__init__, []

    def fail_once(self: object, *arguments: object, **settings: object) -> None:
        calls.append(self)
        if len(calls) == 1:
            message = "Doe^Jane"
            raise ValueError(message)
        build(self, *arguments, **settings)

    monkeypatch.setattr(highdicom.seg.Segmentation, "__init__", fail_once)
    ended = samkit("predict", "latest", series, "-o", tmp_path / "m", "--format", "dicom-seg", "-w", trained[1])
    assert ended.code == 3
    assert "highdicom cannot describe this series" in ended.said
    assert "Doe" not in ended.said
    assert len(list((tmp_path / "m").iterdir())) == 1


@pytest.fixture
def with_series(samkit, trained, series, tmp_path) -> Path:
    """A workspace that holds the DICOM series too, embedded."""
    workspace = shutil.copytree(trained[1], tmp_path / "with-series")
    for command in (("ingest", series), ("embed",)):
        assert samkit(*command, "--workspace", workspace).code == 0
    return workspace


@pytest.mark.usefixtures("no_encoder")
def test_an_ingested_series_gets_its_dicom_seg_without_the_encoder(samkit, with_series, series, tmp_path):
    ended = samkit("predict", "latest", series, "-o", tmp_path / "m", "--format", "dicom-seg", "-w", with_series)
    assert ended.code == 0, ended.said
    (path,) = (tmp_path / "m").iterdir()
    referred = {item.ReferencedSOPInstanceUID for item in pydicom.dcmread(path).SourceImageSequence}
    assert referred == {pydicom.dcmread(file).SOPInstanceUID for file in series.iterdir()}


def test_a_zip_of_a_series_gets_its_dicom_seg_and_leaves_nothing_behind(samkit, trained, series, tmp_path):
    shutil.make_archive(str(tmp_path / "study"), "zip", series)
    (tmp_path / "out").mkdir()
    ended = samkit(
        *("predict", "latest", tmp_path / "study.zip", "-o", tmp_path / "out/m", "--format", "dicom-seg"),
        *("--workspace", trained[1]),
    )
    assert ended.code == 0, ended.said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m"]
    (path,) = (tmp_path / "out/m").iterdir()
    referred = {item.ReferencedSOPInstanceUID for item in pydicom.dcmread(path).SourceImageSequence}
    assert referred == {pydicom.dcmread(file).SOPInstanceUID for file in series.iterdir()}


@pytest.mark.parametrize("inside", ["", "masks", "../workspace/masks"])
def test_masks_of_files_do_not_go_into_the_workspace(samkit, trained, series, inside):
    workspace = trained[1]
    ended = samkit("predict", "latest", series, "-o", workspace / inside, "--format", "dicom-seg", "-w", workspace)
    assert ended.code == 2
    assert "that is inside the workspace" in ended.said
    assert not (workspace / "masks").exists()


@pytest.mark.parametrize("inside", [".", "masks"])
def test_masks_do_not_go_into_the_folder_that_is_searched(samkit, trained, files_below, tmp_path, inside):
    source = tmp_path / "data"
    shutil.copytree(trained[0], source)
    before = files_below(source)
    ended = samkit("predict", "latest", source, "-o", source / inside, "--workspace", trained[1])
    assert ended.code == 2
    assert "would be taken for some. Name a folder elsewhere" in ended.said
    assert files_below(source) == before


def test_a_dicom_seg_of_the_workspace_is_refused_with_what_to_type(samkit, trained, tmp_path):
    ended = samkit("predict", "latest", "-o", tmp_path / "m", "--format", "dicom-seg", "--workspace", trained[1])
    assert ended.code == 2
    assert "FOLDER --format dicom-seg --output" in ended.said
    assert not (tmp_path / "m").exists()


def test_a_dicom_seg_of_a_nifti_is_refused(samkit, trained, tmp_path):
    ended = samkit("predict", "latest", trained[0], "-o", tmp_path / "m", "--format", "dicom-seg", "-w", trained[1])
    assert ended.code == 2
    assert "this source is no DICOM" in ended.said
    assert not (tmp_path / "m").exists()


def test_a_series_without_frame_of_reference_gets_no_dicom_seg(samkit, trained, series, tmp_path):
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.FrameOfReferenceUID
        dataset.save_as(path)
    ended = samkit("predict", "latest", series, "-o", tmp_path / "m", "--format", "dicom-seg", "-w", trained[1])
    assert ended.code == 2
    assert "have no FrameOfReferenceUID" in ended.said
    assert "--format nifti" in ended.said
    assert not (tmp_path / "m").exists()


def test_a_picture_gets_a_picture(samkit, trained, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (36, 32)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    ended = samkit(
        "predict", "latest", tmp_path / "photo.png", "-o", tmp_path / "m", "--format", "png", "-w", trained[1]
    )
    assert ended.code == 0, ended.said
    mask = np.asarray(Image.open(tmp_path / "m/photo.png"))
    assert mask.shape == (36, 32)
    assert set(np.unique(mask)) <= {0, 1, 2, 3, 4}


@pytest.mark.parametrize("source", [True, False])
def test_a_volume_gets_no_picture(samkit, trained, tmp_path, source):
    of = [trained[0]] if source else []
    ended = samkit("predict", "latest", *of, "-o", tmp_path / "m", "--format", "png", "--workspace", trained[1])
    assert ended.code == 2
    assert "--format png is for pictures" in ended.said
    assert not (tmp_path / "m").exists()


# -- probabilities ---------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["workspace", "files"])
def test_probabilities_lie_on_the_grid_of_the_source_and_decide_the_mask(samkit, trained, tmp_path, of):
    data, workspace = trained
    named = [data] if of == "files" else []
    ended = samkit("predict", "latest", *named, "--probabilities", "-o", tmp_path / "m", "--workspace", workspace)
    assert ended.code == 0, ended.said
    assert "5 files *.probabilities.nii.gz, along the fourth axis: background, 1, 2, 3, 4" in ended.said
    for name in ("RAS", "LPS", "PIR", "oblique", "qform"):
        image = nib.load(data / f"imagesTr/{name}.nii.gz")
        mask, told = (nib.load(tmp_path / f"m/{name}{kind}.nii.gz") for kind in ("", ".probabilities"))
        np.testing.assert_array_equal(told.affine, image.affine)
        values = np.asanyarray(told.dataobj)
        assert (values.shape, values.dtype) == ((*image.shape, 5), np.float32)
        np.testing.assert_allclose(values.sum(axis=3), 1, atol=1e-5)
        np.testing.assert_array_equal(values.argmax(axis=3), np.asanyarray(mask.dataobj))


def test_probabilities_that_are_there_are_not_written_over(samkit, trained, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/RAS.probabilities.nii.gz").write_bytes(b"mine")
    ended = samkit("predict", "latest", "--probabilities", "-o", tmp_path / "m", "--workspace", trained[1])
    assert ended.code == 2
    assert "RAS.probabilities.nii.gz: there already. Nothing was written" in ended.said
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["RAS.probabilities.nii.gz"]


@pytest.mark.parametrize("mask_format", ["nrrd", "dicom-seg"])
def test_probabilities_are_nifti_beside_a_mask_of_any_format(samkit, trained, series, tmp_path, mask_format):
    flags = ("--probabilities", "--format", mask_format, "-o", tmp_path / "m", "-w", trained[1])
    assert samkit("predict", "latest", series, *flags).code == 0
    (told,) = (tmp_path / "m").glob("*.probabilities.nii.gz")
    assert nib.load(told).shape == (32, 36, 4, 5)


def test_probabilities_on_a_sheared_grid_are_in_index_space_as_their_mask_is(samkit, trained, tilted_series, tmp_path):
    flags = ("--probabilities", "-o", tmp_path / "m", "--workspace", trained[1])
    assert samkit("predict", "latest", tilted_series, *flags).code == 0
    endings = sorted(path.name.partition(".")[2] for path in (tmp_path / "m").iterdir())
    assert endings == [
        "index-space.affine.json",
        "index-space.nii.gz",
        "probabilities.index-space.affine.json",
        "probabilities.index-space.nii.gz",
    ]


# -- sheared grids ---------------------------------------------------------------------------------


@pytest.fixture
def tilted_series(tmp_path) -> Path:
    tilted(tmp_path / "tilted", shear_mm=(0.0, 20.0))
    return tmp_path / "tilted"


@pytest.mark.parametrize(("mask_format", "ending"), [("nifti", "nii.gz"), ("nrrd", "nrrd")])
def test_a_tilted_series_gets_a_mask_in_index_space_and_a_warning(
    samkit, on_ct, tilted_series, tmp_path, mask_format, ending
):
    ended = samkit("predict", "latest", tilted_series, "-o", tmp_path / "m", "--format", mask_format, "-w", on_ct)
    assert ended.code == 0, ended.said
    assert "index space" in ended.err
    assert "--format dicom-seg keeps the place of every slice" in " ".join(ended.err.split())
    beside, mask = sorted((tmp_path / "m").iterdir())
    assert mask.name.endswith(f".index-space.{ending}")
    assert sitk.ReadImage(str(mask)).GetOrigin() == (0, 0, 0)
    series = triage(tilted_series).findings[0].series
    assert series is not None
    assert json.loads(beside.read_text())["affine_ras_mm"] == [list(row) for row in series.affine or ()]


def test_a_tilted_series_gets_a_dicom_seg_without_a_warning(samkit, on_ct, tilted_series, tmp_path):
    ended = samkit("predict", "latest", tilted_series, "-o", tmp_path / "m", "--format", "dicom-seg", "-w", on_ct)
    assert ended.code == 0, ended.said
    assert "index space" not in ended.said
    (path,) = (tmp_path / "m").iterdir()
    assert pydicom.dcmread(path).SOPClassUID.name == "Segmentation Storage"


def test_a_tilted_series_of_the_workspace_gets_a_mask_in_index_space(samkit, on_ct, tilted_series, tmp_path):
    workspace = shutil.copytree(on_ct, tmp_path / "workspace")
    for command in (("ingest", tilted_series, "--window", "400/40"), ("embed",)):
        assert samkit(*command, "--workspace", workspace).code == 0
    assert samkit("predict", "latest", "-o", tmp_path / "m", "--workspace", workspace).code == 0
    assert len(list((tmp_path / "m").glob("*.index-space.nii.gz"))) == 1
    assert len(list((tmp_path / "m").glob("*.index-space.affine.json"))) == 1


def test_a_sheared_nifti_gets_a_mask_with_its_header_and_a_warning(samkit, trained, tmp_path):
    image = nib.load(new_scan(tmp_path))
    affine = image.affine.copy()
    affine[0, 2] += 4.0
    sheared = nib.Nifti1Image(np.asanyarray(image.dataobj), affine)
    nib.save(sheared, tmp_path / "sheared.nii.gz")
    ended = samkit("predict", "latest", tmp_path / "sheared.nii.gz", "-o", tmp_path / "m", "--workspace", trained[1])
    assert ended.code == 0, ended.said
    assert "Tools built on ITK" in ended.err
    mask = nib.load(tmp_path / "m/sheared.nii.gz")
    assert np.array_equal(mask.affine, nib.load(tmp_path / "sheared.nii.gz").affine)
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(tmp_path / "m/sheared.nii.gz"))


def test_a_mask_in_index_space_is_not_written_over_another(samkit, on_ct, tilted_series, tmp_path):
    command = ("predict", "latest", tilted_series, "-o", tmp_path / "m", "--workspace", on_ct)
    assert samkit(*command).code == 0
    (beside,) = (tmp_path / "m").glob("*.json")
    for path in (tmp_path / "m").glob("*.nii.gz"):
        path.unlink()
    ended = samkit(*command)
    assert ended.code == 2
    assert f"{beside.name}: there already" in ended.said


def test_a_mask_whose_name_shows_only_after_reading_is_not_written_over_another(samkit, trained, tmp_path):
    image = nib.load(new_scan(tmp_path))
    affine = image.affine.copy()
    affine[0, 2] += 4.0
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), affine), tmp_path / "sheared.nii.gz")
    (tmp_path / "m").mkdir()
    (tmp_path / "m/sheared.index-space.nrrd").write_bytes(b"mine")
    ended = samkit(
        *("predict", "latest", tmp_path / "sheared.nii.gz", "-o", tmp_path / "m", "--format", "nrrd"),
        *("--workspace", trained[1]),
    )
    assert ended.code == 2
    assert "sheared.index-space.nrrd: there already" in ended.said
    assert (tmp_path / "m/sheared.index-space.nrrd").read_bytes() == b"mine"


# -- as the run's volumes were made ------------------------------------------------------------------


def masks_of(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asanyarray(nib.load(path).dataobj) for path in sorted(folder.iterdir())}


def both_ways(samkit, workspace: Path, source: Path, folder: Path, *flags: str) -> tuple[str, str]:
    """Predict the volumes of a workspace, and their files as if they were new; return what was said of either."""
    said = []
    for name, of in (("ingested", []), ("files", [source, *flags])):
        ended = samkit("predict", "latest", *of, "-o", folder / name, "--workspace", workspace)
        assert ended.code == 0, ended.said
        said.append(ended.said)
    return said[0], said[1]


def test_files_get_the_channels_of_the_run(samkit, on_ct, tmp_path):
    data = on_ct.parent / "data"
    workspace = train(tmp_path, data, "--channels", "lung,soft-tissue,bone")
    said = both_ways(samkit, workspace, data, tmp_path / "m")
    assert "2 of 2 volumes embedded in the workspace already" in said[1]
    assert masks_of(tmp_path / "m/ingested").keys() == {"a.nii.gz", "b.nii.gz"}


def test_volumes_of_other_channels_are_refused_with_what_to_type(samkit, on_ct, tmp_path):
    data = on_ct.parent / "data"
    workspace = train(tmp_path, data, "--channels", "lung,soft-tissue,bone")
    assert samkit("ingest", data, "--window", "lung", "--workspace", workspace).code == 0
    ended = samkit("predict", "latest", "-o", tmp_path / "m", "--workspace", workspace)
    assert ended.code == 1
    assert "window 1500/-600, channels 1" in ended.said
    assert "ingest the source again as the run's was, with --channels 1500/-600,400/40,1800/400." in ended.said


def test_files_get_the_grey_values_of_the_run_where_it_was_trained_on_ct_and_mr(samkit, on_ct_and_mr, tmp_path):
    workspace = on_ct_and_mr / "workspace"
    (run,) = package.open_workspace(workspace).runs.values()
    volumes = package.open_workspace(workspace).volumes
    rules = {volumes[name].ingest_recipe["intensities"][0]["rule"] for name in run.settings.drawn_volumes}
    assert rules == {"window", "percentiles"}
    said = both_ways(samkit, workspace, on_ct_and_mr / "data", tmp_path / "m")
    assert "5 of 5 volumes embedded in the workspace already" in said[1]


def test_the_window_that_is_taken_is_told_where_the_run_has_several_and_no_modality_says_which(samkit, tmp_path):
    workspace = ("--workspace", tmp_path / "workspace")
    for number, name in enumerate("abcd"):
        values = np.random.default_rng(number).normal(40, 60, (20, 24, 5)).astype(np.int16)
        for kind, array in (("images", values), ("labels", (values > 80).astype(np.uint8))):
            (tmp_path / f"d{number % 2}" / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"d{number % 2}/{kind}/{name}.nii.gz")
    samkit("ingest", tmp_path / "d0", "--window", "400/40", *workspace)
    samkit("ingest", tmp_path / "d1", "--intensity", "percentiles", *workspace)
    samkit("embed", "--size", "64", *workspace)
    samkit("train-head", "linear", "--volumes", "3", "--steps", "5", *workspace)  # all of the pool: of both kinds
    ended = samkit("predict", "latest", tmp_path / "d0/images", "-o", tmp_path / "m", *workspace)
    assert ended.code == 0, ended.said
    assert "slices in window 400/40 and none; 2 files whose modality nothing says: window 400/40 is taken" in ended.said


def test_files_get_the_grey_values_of_the_run_where_it_was_trained_on_pictures_of_8_and_16_bits(samkit, tmp_path):
    for number in range(4):
        pixels = np.random.default_rng(number).integers(20, 80, (24, 30))
        for kind, array in (("images", pixels), ("labels", pixels > 60)):
            (tmp_path / "d" / kind).mkdir(parents=True, exist_ok=True)
            deep = kind == "images" and number % 3 == 0
            picture = Image.fromarray(array.astype(np.uint16 if deep else np.uint8))
            picture.save(tmp_path / f"d/{kind}/s{number}.{'tif' if deep else 'png'}")
    workspace = train(tmp_path, tmp_path / "d", "--ids", "stem", subjects=2)
    (run,) = package.open_workspace(workspace).runs.values()
    volumes = package.open_workspace(workspace).volumes
    rules = {volumes[name].ingest_recipe["intensities"][0]["rule"] for name in run.settings.drawn_volumes}
    assert rules == {"full-range", "percentiles"}
    said = both_ways(samkit, workspace, tmp_path / "d/images", tmp_path / "m")
    assert "4 of 4 volumes embedded in the workspace already" in said[1]


def test_the_channel_of_the_run_is_not_asked_of_files_without_channels(samkit, write_pair, tmp_path):
    for seed, name in enumerate(("a", "b")):
        for kind in ("images", "labels"):
            (tmp_path / "d" / kind).mkdir(parents=True, exist_ok=True)
        write_pair(tmp_path / "pairs", name, seed=seed)
        for channel in range(2):
            shutil.copy(tmp_path / f"pairs/imagesTr/{name}.nii.gz", tmp_path / f"d/images/{name}_000{channel}.nii.gz")
        shutil.copy(tmp_path / f"pairs/labelsTr/{name}.nii.gz", tmp_path / f"d/labels/{name}.nii.gz")
    workspace = train(tmp_path, tmp_path / "d", "--channel", "1")
    (tmp_path / "new/images").mkdir(parents=True)
    shutil.copy(tmp_path / "pairs/imagesTr/a.nii.gz", tmp_path / "new/images/q.nii.gz")
    ended = samkit("predict", "latest", tmp_path / "new", "-o", tmp_path / "m", "--workspace", workspace)
    assert ended.code == 0, ended.said
    assert len(masks_of(tmp_path / "m")) == 1


@pytest.mark.parametrize("flags", [(), ("--time-index", "0")])
def test_files_get_the_volume_of_the_run_where_they_have_several(samkit, write_pair, tmp_path, flags):
    for seed, name in enumerate("abc"):
        write_pair(tmp_path / "d", name, seed=seed)
        path = tmp_path / f"d/imagesTr/{name}.nii.gz"
        if name == "c":  # 3-D: whichever of them the run is trained on
            continue
        image = nib.load(path)
        both = np.stack([np.flip(image.get_fdata(), 0), image.get_fdata()], axis=-1).astype(np.float32)
        nib.save(nib.Nifti1Image(both, image.affine), path)
    workspace = train(tmp_path, tmp_path / "d", "--time-index", "1")
    _, said = both_ways(samkit, workspace, tmp_path / "d", tmp_path / "m", *flags)
    # The other volume is encoded.
    assert f"{1 if flags else 3} of 3 volumes embedded in the workspace already" in said


def test_labels_of_files_are_chosen_as_those_of_the_run_were(samkit, trained, tmp_path):
    workspace = train(tmp_path, trained[0], "--labels", "low=1|2,high=3|4")
    ingested, files = both_ways(samkit, workspace, trained[0], tmp_path / "m")
    scores = [
        [line for line in said.split("Masks of")[1].split() if re.fullmatch(r"\d+\.\d", line)]
        for said in (ingested, files)
    ]
    assert sorted(scores[0]) == sorted(scores[1])  # files come in the order of their names
    assert len(scores[0]) >= 10


def drawn_of_latest(workspace: Path) -> str:
    (drawn,) = list(package.open_workspace(workspace).runs.values())[-1].settings.drawn
    return drawn


@pytest.fixture
def corrected(samkit, write_pair, tmp_path) -> Path:
    """A run on a volume whose organ is 2 in the dataset and 1 in a correction of its label."""
    for seed, name in enumerate("abcde"):
        write_pair(tmp_path / "d", name, seed=seed, label_value=2)
    workspace = train(tmp_path, tmp_path / "d", "--ids", "stem", "--labels", "organ=2")
    write_pair(tmp_path / "corrected", drawn_of_latest(workspace), seed=9)
    labels = tmp_path / "corrected/labelsTr"
    flag = ("--workspace", workspace)
    assert samkit("ingest", "--labels-from", labels, "--labels", "organ=1", *flag).code == 0
    assert samkit("train-head", "linear", "--volumes", "1", "--steps", "60", *flag).code == 0
    return workspace


def test_a_correction_of_a_drawn_label_does_not_choose_the_labels_of_files(samkit, corrected, tmp_path):
    ingested, files = both_ways(samkit, corrected, tmp_path / "d", tmp_path / "m", "--ids", "stem")
    drawn = drawn_of_latest(corrected)
    scores = [dict(re.findall(r"(\w)\.nii\.gz organ [\d.]+ ml ([\d.]+)", said)) for said in (ingested, files)]
    assert {*scores[0]} == {*scores[1]} == {*"abcde"}
    assert {name for name in "abcde" if scores[0][name] != scores[1][name]} == {drawn}  # whose files are not corrected


def test_nothing_is_scored_where_the_runs_labels_were_taken_in_several_ways(samkit, write_pair, tmp_path):
    for seed, name in enumerate("abcde"):
        write_pair(tmp_path / "d", name, seed=seed, label_value=2)
        write_pair(tmp_path / "more", name * 2, seed=10 + seed)
    flag = ("--workspace", tmp_path / "w")
    assert samkit("ingest", tmp_path / "d", "--ids", "stem", "--labels", "organ=2", *flag).code == 0
    assert samkit("ingest", tmp_path / "more", "--ids", "stem", "--labels", "organ=1", *flag).code == 0
    samkit("embed", "--size", "64", *flag)
    assert samkit("train-head", "linear", "--volumes", "7", "--steps", "2", *flag).code == 0
    said = samkit("predict", "latest", tmp_path / "d", "--output", tmp_path / "m", *flag).said
    assert "were taken in several ways" in " ".join(said.split())
    assert "Dice" not in said.split("Masks of")[1]


def test_labels_that_have_nothing_of_the_run_cost_the_score_and_not_the_mask(samkit, trained, tmp_path):
    workspace = train(tmp_path, trained[0], "--labels", "low=1|2,high=3|4")
    (tmp_path / "other/imagesTr").mkdir(parents=True)
    (tmp_path / "other/labelsTr").mkdir()
    shutil.copy(trained[0] / "imagesTr/RAS.nii.gz", tmp_path / "other/imagesTr/x.nii.gz")
    label = nib.load(trained[0] / "labelsTr/RAS.nii.gz")
    nib.save(
        nib.Nifti1Image((np.asanyarray(label.dataobj) > 0) * np.uint8(7), label.affine),
        tmp_path / "other/labelsTr/x.nii.gz",
    )
    described = {"labels": {"0": "background", "7": "vessel"}, "modality": {"0": "MRI"}}
    (tmp_path / "other/dataset.json").write_text(json.dumps(described))
    ended = samkit("predict", "latest", tmp_path / "other", "-o", tmp_path / "m", "--workspace", workspace)
    assert ended.code == 0, ended.said
    assert "nothing is scored against them" in ended.said
    assert "Dice" not in ended.out.split("Masks of")[1]
    assert (tmp_path / "m/x.nii.gz").exists()
