"""Bad input, as a user meets it: the message says what, where, why and what next; the exit code is right; no traceback.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but some items failed.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch

from samkit.pipeline.cli import main
from samkit.store.workspace import open_workspace

Samkit = Callable[..., Any]
BOX = np.diag([1.5, 1.5, 5.0, 1.0])


def save(path: Path, values: np.ndarray, affine: np.ndarray = BOX) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)


def noise(shape: tuple[int, ...] = (12, 10, 4), low: float = 50, high: float = 200) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, shape).astype(np.float32)


@pytest.fixture(autouse=True)
def no_traceback(capsys: pytest.CaptureFixture[str]) -> Any:
    yield
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err


@pytest.fixture
def refusal(samkit: Samkit, write_pair: Callable[..., None], tmp_path: Path) -> Callable[..., str]:
    """Ingest a good volume beside a bad one; return what was said, after looking that only the bad one was refused."""

    def ingest(folder: Path, *flags: str) -> str:
        write_pair(folder, "good", seed=5)
        finished = samkit("ingest", folder, "--workspace", tmp_path / "w", *flags)
        assert finished.code == 3, finished.said
        assert "1 taken (1" not in finished.out
        assert "1 taken" in finished.said
        assert "1 refused" in finished.said
        return finished.said

    return ingest


def test_what_a_command_cannot_do_without_is_told_with_an_example(samkit: Samkit, tmp_path: Path):
    ended = samkit("train-head", "linear", "--workspace", tmp_path / "w")
    assert ended.code == 2
    assert "--volumes: say on how many" in ended.said
    assert "samkit train-head linear --volumes 1" in ended.said
    ended = samkit("predict", "latest", "--workspace", tmp_path / "w")
    assert ended.code == 2
    assert "samkit predict latest --output masks" in ended.said


def test_volumes_without_any_label_are_taken_with_a_word_on_it(samkit: Samkit, tmp_path: Path):
    save(tmp_path / "d" / "one.nii.gz", noise())
    ended = samkit("ingest", tmp_path / "d", "--workspace", tmp_path / "w")
    assert ended.code == 0
    assert "none of these has a label" in ended.said
    (volume,) = open_workspace(tmp_path / "w").volumes
    assert f"Taken by mistake: samkit remove --workspace {tmp_path / 'w'} {volume}" in ended.said


def test_a_file_of_no_kind_is_refused_by_the_kinds_there_are(samkit: Samkit, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("none of this is an image")
    ended = samkit("ingest", tmp_path / "notes.txt", "--workspace", tmp_path / "w")
    assert ended.code == 1
    assert "notes.txt: the file is of no kind that samkit reads: NIfTI" in ended.said
    assert "imagesTr" not in ended.said


# -- folders and files -----------------------------------------------------------------------------


def test_a_missing_folder_is_wrong_usage_and_is_named(samkit, tmp_path):
    finished = samkit("ingest", tmp_path / "nowhere")
    assert finished.code == 2
    assert f"{tmp_path / 'nowhere'}: there is no such file or folder" in finished.said
    assert "Check the spelling" in finished.said


def test_an_empty_folder_fails_and_says_what_would_be_understood(samkit, tmp_path):
    (tmp_path / "empty").mkdir()
    finished = samkit("ingest", tmp_path / "empty")
    assert finished.code == 1
    assert "holds nothing that samkit reads" in finished.said
    assert "images/ and labels/" in finished.said


def test_an_empty_folder_leaves_no_workspace_behind(samkit, tmp_path):
    (tmp_path / "empty").mkdir()
    samkit("ingest", tmp_path / "empty", "--workspace", tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_label_without_an_image_is_refused_and_the_rest_is_taken(refusal, tmp_path):
    save(tmp_path / "d/labelsTr/lonely.nii.gz", np.ones((4, 4, 4), np.uint8))
    said = refusal(tmp_path / "d")
    assert "labelsTr/lonely.nii.gz" in said
    assert "a label without an image" in said


def test_an_image_without_a_label_is_taken_and_counted(samkit, write_pair, tmp_path):
    write_pair(tmp_path / "d", "a")
    write_pair(tmp_path / "d", "b", seed=1, label=False)
    finished = samkit("ingest", tmp_path / "d")
    assert finished.code == 0
    assert "2 taken (0 unchanged, 1 without a label), 0 refused" in finished.said


def test_require_labels_refuses_an_image_without_one(refusal, write_pair, tmp_path):
    write_pair(tmp_path / "d", "bare", seed=1, label=False)
    said = refusal(tmp_path / "d", "--require-labels")
    assert "imagesTr/bare.nii.gz: no label belongs to this image" in said
    assert "leave the flag out" in said


def test_another_shape_of_the_label_is_refused_with_both_shapes(refusal, tmp_path):
    save(tmp_path / "d/imagesTr/bad.nii.gz", noise((12, 10, 4)))
    save(tmp_path / "d/labelsTr/bad.nii.gz", np.ones((12, 10, 5), np.uint8))
    said = refusal(tmp_path / "d")
    assert "shape (12, 10, 4)" in said
    assert "shape (12, 10, 5)" in said
    assert "--resample-labels" in said


def displaced(folder: Path, voxels: float) -> None:
    moved = BOX.copy()
    moved[0, 3] = voxels * BOX[0, 0]
    save(folder / "imagesTr/moved.nii.gz", noise())
    save(folder / "labelsTr/moved.nii.gz", np.eye(12, 10, dtype=np.uint8)[:, :, None].repeat(4, axis=2), moved)


def test_a_label_0_005_voxel_away_is_taken_without_a_word(samkit, tmp_path):
    displaced(tmp_path / "d", 0.005)
    finished = samkit("ingest", tmp_path / "d")
    assert finished.code == 0
    assert "from its image" not in finished.said


def test_a_label_0_05_voxel_away_is_taken_with_a_warning(samkit, tmp_path):
    displaced(tmp_path / "d", 0.05)
    finished = samkit("ingest", tmp_path / "d")
    assert finished.code == 0
    assert "the label lies 0.050 voxel from its image" in finished.said


def test_a_label_half_a_voxel_away_is_refused(refusal, tmp_path):
    displaced(tmp_path / "d", 0.5)
    said = refusal(tmp_path / "d")
    assert "0.5 voxels from its image" in said
    assert "up to 0.1 is taken" in said
    assert "write the label with its image's affine" in said


# -- voxels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "counted"), [(np.nan, "1 NaN and 0 infinite"), (np.inf, "0 NaN and 1 infinite")])
def test_a_voxel_that_is_not_finite_is_refused_with_its_index(refusal, tmp_path, value, counted):
    values = noise()
    values[3, 2, 1] = value
    save(tmp_path / "d/imagesTr/bad.nii.gz", values)
    said = refusal(tmp_path / "d")
    assert counted in said
    assert "(3, 2, 1)" in said
    assert "nan_to_num" in said


def test_a_constant_volume_is_refused_with_its_value(refusal, tmp_path):
    save(tmp_path / "d/imagesTr/flat.nii.gz", np.full((8, 8, 3), 7, np.float32))
    assert "all 192 voxels have the value 7" in refusal(tmp_path / "d")


def test_a_truncated_nifti_is_refused_with_its_size(refusal, tmp_path):
    path = tmp_path / "d/imagesTr/torn.nii.gz"
    save(path, noise((40, 40, 8)))
    path.write_bytes(path.read_bytes()[:4000])
    said = refusal(tmp_path / "d")
    assert "truncated, damaged or not NIfTI (4000 bytes)" in said
    assert "copy it again" in said


def test_a_4d_nifti_is_refused_with_the_volumes_to_choose_from(refusal, tmp_path):
    save(tmp_path / "d/imagesTr/film.nii.gz", noise((8, 8, 3, 5)))
    said = refusal(tmp_path / "d")
    assert "5 volumes" in said
    assert "--time-index 0 to 4" in said


def test_a_label_that_is_not_integral_is_refused_with_some_of_its_values(refusal, tmp_path):
    save(tmp_path / "d/imagesTr/soft.nii.gz", noise())
    save(tmp_path / "d/labelsTr/soft.nii.gz", np.full((12, 10, 4), 0.25, np.float32))
    said = refusal(tmp_path / "d")
    assert "not whole numbers (0.25" in said
    assert "--label-threshold 0.5" in said


def test_label_values_without_a_name_are_refused_with_the_flag_that_names_them(refusal, write_pair, tmp_path):
    write_pair(tmp_path / "d", "other", seed=3, label_value=7)
    said = refusal(tmp_path / "d", "--labels", "1=organ")
    assert "value(s) 7, which have no name here (1=organ)" in said
    assert "--labels 1=organ,7=NAME" in said


@pytest.mark.parametrize("text", ["1", "1=", "=RV", "RV=1,2=Myo", "1=RV,1=Myo", "1=RV,2=RV"])
def test_labels_that_are_not_value_and_name_are_wrong_usage(samkit, write_pair, tmp_path, text):
    write_pair(tmp_path / "d", "a")
    finished = samkit("ingest", tmp_path / "d", "--labels", text)
    assert finished.code == 2
    assert f"--labels '{text}'" in finished.said


def test_an_h5_without_image_is_refused_with_what_it_holds(samkit, tmp_path):
    (tmp_path / "d").mkdir()
    with h5py.File(tmp_path / "d/case.h5", "w") as file:
        file["picture"] = noise((4, 8, 8))
    finished = samkit("ingest", tmp_path / "d")
    assert finished.code == 3
    assert "no dataset `image`; the datasets there are: `picture`" in finished.said
    assert "0 taken" in finished.said


# -- CT and its window -----------------------------------------------------------------------------


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    values = noise((12, 10, 4), -1000, 1500)
    values[:4] = -1000
    save(tmp_path / "ct/imagesTr/abdomen.nii.gz", values)
    return tmp_path / "ct"


def test_values_like_a_ct_without_a_window_are_refused_with_the_window_to_type(samkit, ct):
    finished = samkit("ingest", ct)
    assert finished.code == 3
    assert "look like Hounsfield units" in finished.said
    assert "--window 400/40" in finished.said
    assert "--intensity percentiles" in finished.said


def test_a_ct_with_a_window_is_taken(samkit, ct):
    import samkit as package

    assert samkit("ingest", ct, "--window", "400/40").code == 0
    (volume,) = package.open_workspace().volumes.values()
    assert volume.ingest_recipe["intensities"][0]["low"] == -160
    assert volume.ingest_recipe["intensities"][0]["high"] == 240


def test_a_ct_with_percentiles_is_taken(samkit, ct):
    assert samkit("ingest", ct, "--intensity", "percentiles").code == 0


def test_a_window_that_is_none_is_wrong_usage_with_an_example(samkit, ct):
    finished = samkit("ingest", ct, "--window", "soft")
    assert finished.code == 2
    assert "--window 'soft': expected width/level" in finished.said
    assert "--window 400/40" in finished.said


# -- numbers and names -----------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "told"), [("0", "give at least 1"), ("99", "has 3 labelled subjects")])
def test_volumes_out_of_range_are_wrong_usage(samkit, finished, count, told):
    ended = samkit("train-head", "linear", "--volumes", count, *finished.flag)
    assert ended.code == 2
    assert f"--volumes {count}" in ended.said
    assert told in ended.said


def test_steps_of_a_head_without_steps_are_refused(samkit, finished):
    ended = samkit("train-head", "ridge", "--volumes", "1", "--steps", "50", "--learning-rate", "0.1", *finished.flag)
    assert ended.code == 2
    assert "--steps, --learning-rate: ridge is solved in one pass" in ended.said


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("linear", "--gate", "fixed"), "linear has no option of that name"),
        (("ladder", "--gate", "open"), "ladder knows learned, fixed, cnn-only, sam-only"),
        (("linear", "--cnn-weights", "resnet.pth"), "linear has no CNN that begins from weights"),
        (("ladder", "--cnn-weights", "missing.pth"), "missing.pth: no such weights file"),
    ],
)
def test_what_only_a_ladder_has_is_refused_elsewhere(samkit, finished, flags, told):
    ended = samkit("train-head", *flags, "--volumes", "1", "--steps", "1", *finished.flag)
    assert ended.code in (1, 2)
    assert told in ended.said


def test_too_many_volumes_are_told_how_many_may_be_asked_for(samkit, finished):
    assert "Ask for 1 to 3." in samkit("train-head", "linear", "--volumes", "99", *finished.flag).said


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("train-head", "autosm", "--volumes", "1"), "unknown head 'autosm'. Did you mean 'autosam'?"),
        (("embed", "--encoder", "sam_vitb"), "unknown encoder 'sam_vitb'. Did you mean 'sam_vit_b'?"),
        (("embed", "--precision", "bf16"), "there are float32, bfloat16, auto"),
        (("embed", "--pixels", "sam-exakt"), "there are sam, sam-exact"),
        (("embed", "--size", "100"), "Try --size 96"),
        (("embed", "--size", "0"), "--size 0"),
        (("embed", "--device", "gpu"), "'gpu': not a device"),
        (("embed", "--workers", "0"), "--workers 0: give 1 or more"),
        (("embed", "--gpus", "0"), "--gpus 0: a number alone is how many, 1 or more"),
        (("embed", "--views", "flip-rowz"), "flip-rows"),
        (("embed", "--views-for", "all"), "--views-for: says whose slices get views"),
        (("embed", "--tile-overlap", "0.3"), "Add --tiles"),
        (("embed", "--tiles", "--tile-overlap", "2"), "--tile-overlap 2"),
        (("embed", "--gpus", "1", "--workers", "2"), "one worker a GPU"),
        (("embed", "--scheduler", "tcp://127.0.0.1:1", "--workers", "2"), "the cluster's workers are"),
        (("embed", "--encodr", "nano"), "--encoder"),
        (("embde",), "Did you mean 'embed'?"),
        (("train-head", "linear", "--volumes", "1", "--draws", "0"), "--draws 0: give at least 1"),
        (("train-head", "linear", "--volumes", "one"), "--volumes"),
        (("train-head", "linear", "--volumes", "1", "--split", "mine"), "no split 'mine'"),
        (("train-head", "linear"), "--volumes"),
    ],
)
def test_a_wrong_name_or_number_is_wrong_usage_and_the_right_one_is_named(samkit, finished, command, told):
    ended = samkit(*command, *(finished.flag if len(command) > 1 else ()))
    assert ended.code == 2
    assert told in ended.said.replace("│ ", "")


def test_an_unknown_intensity_is_wrong_usage_with_the_choices(samkit, tmp_path):
    ended = samkit("ingest", tmp_path, "--intensity", "percentile")
    assert ended.code == 2
    assert "'percentiles'" in ended.said


def test_an_unknown_axis_is_refused_with_the_axes_there_are(samkit, write_pair, tmp_path):
    write_pair(tmp_path / "d", "a")
    ended = samkit("ingest", tmp_path / "d", "--axis", "axail")
    assert ended.code in (2, 3)
    assert "axial" in ended.said


def test_a_run_that_is_not_there_is_refused_with_the_nearest(samkit, finished, tmp_path):
    ended = samkit("predict", "linaer@1#0", "--output", tmp_path / "m", *finished.flag)
    assert ended.code == 1
    assert "Did you mean 'linear@1#0'?" in ended.said


@pytest.mark.skipif(torch.cuda.device_count() >= 2, reason="this machine has two GPUs")
def test_gpus_that_are_not_there_fail_with_both_numbers(samkit, finished):
    ended = samkit("embed", "--gpus", "2", *finished.flag)
    assert ended.code == 1
    assert f"--gpus 2: this machine has {torch.cuda.device_count()} CUDA devices" in ended.said
    assert "--device cpu" in ended.said


@pytest.mark.parametrize("verb", [("embed",), ("status",), ("report",), ("train-head", "linear", "--volumes", "1")])
def test_a_place_that_is_no_workspace_fails_with_the_command_that_makes_one(samkit, tmp_path, verb):
    ended = samkit(*verb, "--workspace", tmp_path)
    assert ended.code == 1
    assert f"{tmp_path} is not a samkit workspace. Make one: samkit ingest" in ended.said


@pytest.mark.parametrize(
    ("verb", "following"),
    [
        (("train-head", "linear", "--volumes", "1"), "samkit embed"),
        (("report",), "samkit train-head"),
        (("predict", "latest", "--output", "m"), "samkit train-head"),
    ],
)
def test_a_verb_that_comes_too_early_names_the_one_before_it(samkit, ingested, verb, following):
    ended = samkit(*verb, *ingested.flag)
    assert ended.code == 1
    assert following in ended.said


# -- checkpoints -----------------------------------------------------------------------------------


class Bomb:
    """Unpickled without care, this makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.place),)


def checkpoint_with_code(folder: Path) -> Path:
    torch.save({"model": Bomb(folder / "executed")}, folder / "code.pth")
    return folder / "code.pth"


def plain_pickle_with_code(folder: Path) -> Path:
    (folder / "plain.pth").write_bytes(pickle.dumps(Bomb(folder / "executed"), protocol=2))
    return folder / "plain.pth"


@pytest.mark.parametrize("make", [checkpoint_with_code, plain_pickle_with_code])
@pytest.mark.parametrize("verb", [("embed", "--encoder", "sam_vit_b", "--weights"), ("weights", "add")])
def test_a_checkpoint_with_code_in_it_is_refused_and_the_code_does_not_run(samkit, finished, tmp_path, make, verb):
    flag = finished.flag if verb[0] == "embed" else ()
    ended = samkit(*verb, make(tmp_path), *flag)
    assert ended.code == 1
    assert "nothing in it was executed" in ended.said
    assert "torch.save(model.state_dict()" in ended.said
    assert not (tmp_path / "executed").exists()


def test_the_code_in_that_checkpoint_would_have_run(tmp_path):
    pickle.loads(plain_pickle_with_code(tmp_path).read_bytes())
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("verb", [("embed", "--encoder", "sam_vit_b", "--weights"), ("weights", "add")])
def test_a_checkpoint_of_another_model_is_refused_with_what_it_holds(samkit, finished, tmp_path, verb):
    torch.save({"layer1.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    ended = samkit(*verb, tmp_path / "resnet.pth", *(finished.flag if verb[0] == "embed" else ()))
    assert ended.code == 1
    assert "not a SAM checkpoint" in ended.said
    assert "layer1.weight" in ended.said


@pytest.mark.parametrize("kept", [0, 100, 4000])
def test_a_truncated_checkpoint_is_refused_with_its_size(samkit, tmp_path, kept):
    whole = tmp_path / "whole.pth"
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 64, 64, 8)}, whole)
    (tmp_path / "torn.pth").write_bytes(whole.read_bytes()[:kept])
    ended = samkit("weights", "add", tmp_path / "torn.pth")
    assert ended.code == 1
    assert str(tmp_path / "torn.pth") in ended.said


def test_a_checkpoint_that_is_not_there_is_named(samkit, finished, tmp_path):
    ended = samkit("embed", "--weights", tmp_path / "none.pth", *finished.flag)
    assert ended.code == 1
    assert f"{tmp_path / 'none.pth'}: no such weights file" in ended.said


def test_sam_without_a_checkpoint_says_how_to_give_one(samkit, finished):
    ended = samkit("embed", "--encoder", "sam_vit_b", *finished.flag)
    assert ended.code == 1
    assert "samkit weights add FILE" in ended.said


# -- workspaces and settings -----------------------------------------------------------------------


def test_a_workspace_of_a_newer_format_is_refused_by_every_verb(samkit, job):
    path = job.workspace / "workspace.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99, "made_by": "samkit 7.0"}))
    for verb in (("status",), ("embed",), ("report",), ("ingest", str(job.data)), ("predict", "latest", "-o", "m")):
        ended = samkit(*verb, *job.flag)
        assert ended.code == 1, verb
        assert "was written in format 99 by samkit 7.0" in ended.said
        assert "pip install --upgrade samkit" in ended.said


def test_other_labels_are_refused_with_the_command_for_a_workspace_of_their_own(
    samkit, ingested, write_pair, tmp_path, files_of
):
    write_pair(tmp_path / "spleens", "c", seed=4)
    before = files_of(ingested.workspace)
    ended = samkit("ingest", tmp_path / "spleens", "--labels", "1=spleen", *ingested.flag)
    assert ended.code == 1
    assert "holds a dataset with the labels 1=1; this one has 1=spleen" in ended.said
    assert f"samkit ingest {tmp_path / 'spleens'} --workspace spleens-workspace" in ended.said
    assert files_of(ingested.workspace) == before


def test_the_command_for_a_workspace_of_its_own_works(samkit, ingested, write_pair, tmp_path):
    write_pair(tmp_path / "spleens", "c", seed=4)
    said = samkit("ingest", tmp_path / "spleens", "--labels", "1=spleen", *ingested.flag).said
    command = said.partition("Give this one its own: samkit ")[2].partition(" (or")[0].split()
    assert samkit(*command, "--labels", "1=spleen").code == 0


def test_a_folder_with_other_things_in_it_never_becomes_a_workspace(samkit, write_pair, tmp_path):
    write_pair(tmp_path / "d", "a")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.tex").write_text("...")
    ended = samkit("ingest", tmp_path / "d", "--workspace", tmp_path / "thesis")
    assert ended.code != 0
    assert "exists and is not a samkit workspace" in ended.said
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter1.tex"]


def test_a_samkit_toml_with_an_unknown_key_is_wrong_usage_with_the_nearest(samkit, finished):
    Path("samkit.toml").write_text('[embed]\nencodr = "nano"\n')
    ended = samkit("embed", *finished.flag)
    assert ended.code == 2
    assert "samkit.toml: unknown setting 'encodr' in [embed]. Did you mean 'encoder'?" in ended.said


def test_a_samkit_toml_with_an_unknown_section_is_wrong_usage_with_the_nearest(samkit, finished):
    Path("samkit.toml").write_text("[train]\nsteps = 3\n")
    ended = samkit("status", *finished.flag)
    assert ended.code == 2
    assert "unknown section [train]" in ended.said
    assert "train-head" in ended.said


def test_a_samkit_toml_that_is_not_toml_is_wrong_usage(samkit, finished):
    Path("samkit.toml").write_text("[embed\n")
    ended = samkit("status", *finished.flag)
    assert ended.code == 2
    assert "not readable as TOML" in ended.said


# -- where a workspace may lie ---------------------------------------------------------------------


@pytest.mark.parametrize("command", [("status",), ("embed",), ("verify",), ("report",), ("gc",)])
def test_a_url_that_nobody_serves_is_wrong_usage_and_makes_no_folder(samkit, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    ended = samkit(*command, "--workspace", "nosuch://bucket/folder")
    assert ended.code == 2
    assert "nosuch://bucket/folder: a workspace needs a store that writes an object whole" in ended.said
    assert "s3://" in ended.said
    assert "or a directory" in ended.said
    assert list(tmp_path.iterdir()) == []


def test_a_url_whose_library_is_missing_says_what_to_install(samkit, write_pair, tmp_path, monkeypatch):
    from samkit.store import remote

    def missing(*_arguments: object, **_options: object) -> None:
        message = "Install s3fs to access S3"
        raise ImportError(message)

    write_pair(tmp_path / "data", "a")
    remote._file_system.cache_clear()
    monkeypatch.setattr(remote.fsspec, "filesystem", missing)
    ended = samkit("ingest", tmp_path / "data", "--workspace", "s3://bucket/folder")
    monkeypatch.undo()
    remote._file_system.cache_clear()
    assert ended.code == 2
    assert "Install s3fs to access S3 (samkit[s3] brings it for s3://). Or give a directory." in ended.said


def test_a_url_without_a_folder_is_wrong_usage(samkit):
    ended = samkit("status", "--workspace", "memory://")
    assert ended.code == 2
    assert "name a bucket and a folder in it" in ended.said


# -- the disk --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "The disk is full"),
        (errno.EACCES, "check the permissions"),
        (errno.EROFS, "mounted read-only"),
        (errno.EIO, "Check the path"),
    ],
)
def test_a_disk_that_refuses_fails_with_the_reason_and_nothing_is_lost(
    samkit, job, write_pair, tmp_path, monkeypatch, rows_of, number, told
):
    before = rows_of(job.workspace)
    write_pair(tmp_path / "more", "extra", seed=9)
    assert samkit("ingest", tmp_path / "more", "--labels", names_of(job.workspace), *job.flag).code == 0

    def refuse(_: object, path: Path, pieces: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as disk:
        disk.setattr("samkit.store.local.Disk.write", refuse)
        ended = samkit("embed", "--size", "64", *job.flag)
    assert ended.code == 1
    assert told in ended.said
    assert "Everything that was finished before is intact" in ended.said
    import samkit as package

    features = package.open_workspace(job.workspace).embeddings("nano")
    assert all(np.array_equal(features[name], rows) for name, rows in before.items())
    assert samkit("embed", "--size", "64", *job.flag).code == 0
    assert set(rows_of(job.workspace)) == {*before, "extra"}


def names_of(workspace: Path) -> str:
    names = open_workspace(workspace).label_names
    return ",".join(f"{value}={name}" for value, name in names.items())


def test_an_output_that_is_a_file_fails_with_its_name(samkit, finished, tmp_path):
    (tmp_path / "masks").write_text("")
    ended = samkit("predict", "latest", "--output", tmp_path / "masks", *finished.flag)
    assert ended.code == 1
    assert f"{tmp_path / 'masks'}: File exists" in ended.said


def test_an_interrupt_says_that_the_same_command_goes_on(samkit, finished, monkeypatch):
    def interrupted(*_arguments: object, **_flags: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("samkit.pipeline.commands.status.run_status", interrupted)
    ended = samkit("status", *finished.flag)
    assert ended.code == 130
    assert "the same command goes on" in ended.said


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (("embed", "--recipe", "0123456789ab", "--size", "512", "--pixels", "medsam"), "--size, --pixels"),
        (("report", "--compare", "linear", "ridge", "--json", "--format", "csv"), "--format, --json"),
        (("verify", "--recipe", "nonsense"), "--recipe"),
    ],
)
def test_flags_that_would_say_nothing_are_refused_by_name(samkit, ingested, command, flags):
    ended = samkit(*command, *ingested.flag)
    assert ended.code == 2
    assert f"{flags}: " in ended.said


def test_a_negative_seed_is_refused_without_a_traceback(samkit, ingested):
    ended = samkit("train-head", "linear", "--volumes", "1", "--seed", "-1", *ingested.flag)
    assert ended.code == 2
    assert "--seed" in ended.said


@pytest.mark.parametrize("flags", [("--channels", "lung,soft-tissue,bone"), ("--intensity", "percentiles")])
def test_a_scale_that_is_typed_wins_over_the_window_of_the_configuration(samkit, tmp_path, write_pair, flags):
    Path("samkit.toml").write_text('[ingest]\nwindow = "soft-tissue"\n')
    write_pair(tmp_path / "d", "a", seed=0)
    assert samkit("ingest", tmp_path / "d", *flags).code == 0


def test_a_message_without_a_command_names_no_workspace(samkit, ingested, tmp_path):
    (tmp_path / "notes.txt").write_text("no scan")
    ended = samkit("ingest", tmp_path / "notes.txt", *ingested.flag)
    assert "samkit reads" in ended.said
    assert "Add --workspace" not in ended.said


def test_a_message_names_a_workspace_that_was_given_in_one_word(samkit, ingested):
    ended = samkit("train-head", "linear", "--volumes", "1", f"--workspace={ingested.workspace}")
    assert ended.code != 0
    assert f"Add --workspace {ingested.workspace}" in ended.said


def test_on_windows_it_says_where_it_runs(monkeypatch, capsys):
    monkeypatch.setattr("samkit.pipeline.cli.sys.platform", "win32")
    with pytest.raises(SystemExit) as ended:
        main(["status"])
    assert ended.value.code == 1
    assert "On Windows install it inside WSL" in capsys.readouterr().err
