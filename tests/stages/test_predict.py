"""predict through the command line: masks lie on the grid of their source, for whoever reads them, to the last bit."""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its own documentation calls it so)
import torch

import samkit as package
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
    from samkit.pipeline.cli import run

    folder = tmp_path_factory.mktemp("predict")
    data, workspace = folder / "data", folder / "workspace"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("SAMKIT_ID_KEY", "key-of-the-tests")
        patch.delenv("SAMKIT_WORKSPACE", raising=False)
        patch.chdir(folder)
        for seed, orientation in enumerate(("RAS", "LPS", "PIR")):
            phantom = draw_subject(seed, shape=SHAPE, spacing_mm=SPACING_MM)
            write_nifti_pair(data, orientation, phantom, orientation=orientation)
        write_nifti_pair(data, "oblique", draw_subject(7, shape=SHAPE, spacing_mm=SPACING_MM))
        write_nifti_pair(data, "qform", draw_subject(8, shape=SHAPE, spacing_mm=SPACING_MM))
        for kind in ("images", "labels"):
            turn(data / kind / "oblique.nii.gz", qform_only=False)
            turn(data / kind / "qform.nii.gz", qform_only=True)
        ws = ["--workspace", str(workspace)]
        for command in (
            ["ingest", str(data), *ws],
            ["embed", "--size", "64", *ws],
            ["train-head", "linear", "--volumes", "1", "--steps", "30", *ws],
        ):
            assert run(command) == 0
    return data, workspace


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
    source, mask = nib.load(trained[0] / f"images/{name}.nii.gz"), nib.load(masks / f"{name}.nii.gz")
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
    source = sitk.ReadImage(str(trained[0] / f"images/{name}.nii.gz"))
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
            sitk.ReadImage(str(data / f"labels/{name}.nii.gz"), sitk.sitkUInt8),
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
        "predict", "latest", data / f"images/{name}.nii.gz", "--output", tmp_path / "new", "--workspace", workspace
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


def test_a_file_that_cannot_be_read_costs_one_mask(samkit, trained, write_pair, tmp_path):
    write_pair(tmp_path / "d", "good")
    write_pair(tmp_path / "d", "torn", seed=1)
    (tmp_path / "d/images/torn.nii.gz").write_bytes(b"torn")
    ended = samkit("predict", "latest", tmp_path / "d", "--output", tmp_path / "new", "--workspace", trained[1])
    assert ended.code == 3
    assert "truncated, damaged or not NIfTI" in ended.said
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["good.nii.gz"]


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
        for kind in ("images", "labels"):
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
@pytest.mark.parametrize("kind", ["images", "labels"])
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
    ended = samkit("predict", "latest", "-o", data / "images", "--overwrite", "--workspace", workspace)
    assert ended.code == 2
    assert "these are source files" in ended.said
    assert files_below(data) == before


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

    def fail(workspace: package.Workspace, *_: object) -> None:
        seen.append(Path(workspace.path))
        message = "as if it had failed"
        raise InputError(message)

    monkeypatch.setattr(commands, "embed_all", fail)
    ended = samkit("predict", "latest", trained[0], "-o", tmp_path / "m", "--workspace", trained[1])
    assert ended.code == 1
    (place,) = seen
    assert place.relative_to(tmp_path / "m").parts[0].startswith(".samkit-predict-")
    assert not (tmp_path / "m").exists()


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
    assert "and 2 more" in ended.said
    assert "samkit train-head linear --volumes 1" in ended.said
    assert not (tmp_path / "m").exists()


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are untrained is what this fixture is about
        encoder = package.load_encoder("nano", size=256)
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


def test_without_the_runs_weights_at_hand_nothing_is_predicted(samkit, trained, with_checkpoint, tmp_path):
    ended = samkit("predict", "latest", trained[0], "--output", tmp_path / "m", "--workspace", with_checkpoint)
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


def test_with_the_runs_weights_on_the_shelf_it_predicts(samkit, trained, with_checkpoint, checkpoint, tmp_path):
    assert samkit("weights", "add", checkpoint).code == 0
    assert "nano" in samkit("weights", "list").said
    ended = samkit("predict", "latest", trained[0], "--output", tmp_path / "m", "--workspace", with_checkpoint)
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
