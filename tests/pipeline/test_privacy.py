"""Nothing of a header or a path gets into a workspace: known strings are planted everywhere, and searched for."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import zarr
from synthetic.label_objects import write_seg
from synthetic.phantom import phantom
from synthetic.private import DAY, UID_ROOT, plant_file, plant_nifti, plant_series
from synthetic.series import write_series

SHAPE = (36, 32, 5)
PATHS = ("ZQYROOT", "ZQYDOE^JANE", "ZQYSTUDY 1769", "ZQYSCAN")
"""A part of the path each: what the user typed, a patient, a study, a file."""
AGE = "099Y"
"""Too short for a search among pixels."""
DAYS = {DAY, "1769-08-15", "15.08.1769", "15/08/1769", "08/15/1769", "1769/08/15"}
FLAGS = ("--ids", "hash")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """Four DICOM series with segmentations and two NIfTI pairs; every string of their headers."""
    root = tmp_path_factory.mktemp("private") / PATHS[0]
    strings: set[str] = set()
    affine_lps = np.diag([6.0, 6.0, 10.0, 1.0])
    for number in range(4):
        body = phantom(SHAPE, seed=number)
        folder = root / f"{PATHS[1]}{number}" / PATHS[2]
        series = write_series(
            folder / PATHS[3], stored=body.hounsfield, affine_lps=affine_lps, modality="CT", seed=number
        )
        mask = body.hounsfield > 0
        write_seg(folder / f"{PATHS[3]}.dcm", series, {"organ": mask})
        strings |= set(plant_series(series)[1]) | set(plant_file(folder / f"{PATHS[3]}.dcm"))
    for number in range(4, 6):
        body = phantom(SHAPE, seed=number)
        folder = root / f"{PATHS[1]}{number}"
        folder.mkdir(parents=True)
        for name, values in (("", body.hounsfield.astype(np.int16)), ("_seg", (body.hounsfield > 0).astype(np.uint8))):
            path = folder / f"{PATHS[3]}{number}{name}.nii.gz"
            nib.save(nib.Nifti1Image(values, np.diag([6.0, 6.0, 10.0, 1.0])), path)
            strings |= set(plant_nifti(path))
    broken = root / f"{PATHS[1]}9" / "broken.dcm"
    broken.parent.mkdir()
    broken.write_bytes(b"\0" * 128 + b"DICM" + b"\x10\x00\x10\x00PN\x40\x00ZQXBROKEN^PATIENT")
    return root, strings | {"ZQXBROKEN"}


@pytest.fixture(scope="module")
def everything(planted, user, tmp_path_factory) -> tuple[Path, str, Path]:
    """All stages over the planted files, as processes: the workspace, all that was said, and the masks."""
    root, _ = planted
    home = tmp_path_factory.mktemp("neutral")
    workspace, masks = home / "workspace", home / "masks"
    ingest = ("ingest", root, "--window", "400/40", "--labels", "organ=*|1", *FLAGS)
    said = ""
    for command in (
        ("init", root),
        (*ingest, "--dry-run"),
        (*ingest, "--dry-run", "--json"),
        (*ingest, "--json"),
        ingest,
        ("ingest", "--labels-from", root, *FLAGS, "--allow-refused"),
        ("ingest", "--check", "--size", "64"),
        ("embed", "--size", "64"),
        ("train-head", "linear", "--volumes", "1", "--steps", "3"),
        ("predict", "latest", "-o", masks / "own"),
        ("predict", "latest", root, "-o", masks / "new", *FLAGS),
        ("report",),
        ("status", "--json"),
        ("verify", "--json"),
    ):
        words = [sys.executable, "-m", "samkit.pipeline.cli", *map(str, command)]
        if not {"init", "--dry-run"} & set(command):
            words += ["--workspace", str(workspace)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=home)
        assert done.returncode in (0, 3), (command, done.stdout, done.stderr)
        said += done.stdout + done.stderr
    return workspace, said, masks


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every name below a folder, every file, every file that was compressed, and every array's bytes."""
    for path in sorted(folder.rglob("*")):
        yield f"the name {path.relative_to(folder)}", str(path.relative_to(folder)).encode()
        if path.is_file():
            raw = path.read_bytes()
            yield f"{path.relative_to(folder)}", raw
            if raw[:2] == b"\x1f\x8b":
                yield f"{path.relative_to(folder)}, unpacked", gzip.decompress(raw)
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    yield from (
                        (f"{path.relative_to(folder)}, {name}", archive.read(name)) for name in archive.namelist()
                    )
        elif (path / "zarr.json").exists():
            yield f"{path.relative_to(folder)}, decoded", np.asarray(zarr.open_array(path)[:]).tobytes()


def forms(word: str) -> set[bytes]:
    """Return how a string may be written: as it is, in small letters, and in UTF-16."""
    plain = word.encode()
    return {plain, word.lower().encode(), word.encode("utf-16-le")}


def found(strings: set[str], folder: Path) -> list[tuple[bytes, str]]:
    """Return what the strings begin with, wherever that is found: eight bytes do not come about by chance."""
    starts = {form[:8] for word in strings for form in forms(word)}
    return [(start, where) for where, content in contents(folder) for start in starts if start in content]


def test_the_strings_are_in_the_source(planted):
    # Were nothing planted, or nothing found, the tests below would hold.
    root, strings = planted
    assert len(strings) > 1000
    patients = [root / f"{PATHS[1]}{number}" for number in (0, 4)]
    everything = b"".join(content for patient in patients for _, content in contents(patient))
    assert sum(word.encode() in everything for word in strings) > 0.9 * len(strings)
    assert found(strings, patients[0])
    assert found(strings, patients[1])


def test_all_volumes_were_taken_with_their_labels(everything):
    import samkit

    volumes = samkit.open_workspace(everything[0]).volumes
    assert len(volumes) == 6
    assert all(volume.labelled and volume.label_names == {1: "organ"} for volume in volumes.values())


@pytest.mark.parametrize("what", ["workspace", "masks"])
def test_no_string_of_a_header_is_in_what_is_written(planted, everything, what: str):
    workspace, _, masks = everything
    assert found(planted[1] | DAYS | {UID_ROOT}, {"workspace": workspace, "masks": masks}[what]) == []


def test_no_age_is_in_what_is_written(everything):
    documents = [path for path in everything[0].rglob("*") if path.suffix in {".json", ".jsonl", ".html", ".csv"}]
    assert documents
    assert [path for path in documents if AGE in path.read_text()] == []


def test_there_is_no_kind_of_file_that_the_search_does_not_open(everything):
    # Arrays are decoded, gzip and zip unpacked, all else is searched as it lies: what is compressed hides its strings.
    kinds = {path.suffix for path in everything[0].rglob("*") if path.is_file() and not path.suffix[1:].isdigit()}
    assert kinds <= {"", ".json", ".jsonl", ".safetensors", ".html", ".csv", ".md", ".png"}


@pytest.mark.parametrize("what", ["workspace", "masks"])
def test_no_part_of_a_path_is_in_what_is_written(everything, what: str):
    workspace, _, masks = everything
    assert found({part[:8] for part in PATHS}, {"workspace": workspace, "masks": masks}[what]) == []


NAMES = ("ZQYDOE_JANE", "ZQYROE_JOHN")


def write_pairs(kind: str, folder: Path) -> None:
    """Images and labels called after patients, in a folder as anybody has one."""
    for seed, name in enumerate(NAMES):
        body = phantom(SHAPE, seed=seed)
        image, label = body.hounsfield.astype(np.int16), (body.hounsfield > 0).astype(np.uint8)
        if kind == "h5":
            folder.mkdir(parents=True, exist_ok=True)
            with h5py.File(folder / f"{name}.h5", "w") as file:
                file["image"], file["label"] = image.T, label.T
            continue
        images, labels = ("images", "labels") if kind == "images and labels" else ("", "")
        suffix = "" if labels else "_seg"
        for place, values, ending in ((images, image, ""), (labels, label, suffix)):
            (folder / place).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values, np.diag([6.0, 6.0, 10.0, 1.0])), folder / place / f"{name}{ending}.nii.gz")


@pytest.mark.parametrize("kind", ["images and labels", "h5", "loose"])
def test_no_name_of_a_file_is_kept_of_folders_that_are_no_research_layout(samkit, tmp_path, kind: str):
    write_pairs(kind, tmp_path / PATHS[0])
    ingest = ("ingest", tmp_path / PATHS[0], "--window", "400/40", "--workspace", tmp_path / "w")
    finished = samkit(*ingest)
    assert "2 taken" in finished.said
    assert "--ids stem" in finished.said
    assert found(set(NAMES), tmp_path / "w") == []
    samkit(*ingest[:-1], tmp_path / "named", "--ids", "stem")  # they would be found, were they kept
    assert found(set(NAMES), tmp_path / "named")


@pytest.mark.parametrize("names", ["of the images", "of nobody"])
def test_no_name_of_a_label_that_came_later_is_kept(samkit, tmp_path, names: str):
    write_pairs("images and labels", tmp_path / PATHS[0])
    (tmp_path / PATHS[0] / "labels").rename(tmp_path / "ZQYLABELS")
    if names == "of nobody":
        (tmp_path / "ZQYLABELS" / f"{NAMES[0]}.nii.gz").rename(tmp_path / "ZQYLABELS" / "ZQYPOE_ANNA.nii.gz")
    samkit("ingest", tmp_path / PATHS[0], "--window", "400/40", "--workspace", tmp_path / "w")
    finished = samkit("ingest", "--labels-from", tmp_path / "ZQYLABELS", "--workspace", tmp_path / "w")
    assert finished.code == (0 if names == "of the images" else 3), finished.said
    assert found({*NAMES, "ZQYLABELS", "ZQYPOE_ANNA"}, tmp_path / "w") == []


def test_no_string_of_a_header_is_said(planted, everything):
    said = everything[1].lower()
    assert [word for word in planted[1] | DAYS | {AGE} if word.lower() in said] == []


def test_a_file_is_told_by_its_path_below_what_the_user_typed(planted, everything):
    # What is refused has to be found; the folders above what was typed are nobody's business.
    root, said = planted[0], everything[1]
    assert f"{PATHS[1]}9/broken.dcm" in said
    assert root.parent.name not in said.replace(str(root), "TYPED")


def test_whatever_tells_a_patient_or_a_source_hangs_on_the_key(planted, everything, tmp_path):
    # A hash without a key, or with one that everybody has, is undone by trying all patients of a hospital.
    hashes = [
        {
            word
            for file in workspace.rglob("*.json*")
            for word in re.findall(
                r'"(?:id|subject|identity|series|called|label_files)": ?(\[.*?\]|".*?")', file.read_text()
            )
        }
        for workspace in (everything[0], ingested_under("another key", planted[0], tmp_path / "workspace"))
    ]
    assert all(len(one) > 6 * 4 for one in hashes)
    assert not hashes[0] & hashes[1] - {"[]"}


def ingested_under(key: str, root: Path, workspace: Path) -> Path:
    """Ingest the planted files under a key of the user's."""
    words = [sys.executable, "-m", "samkit.pipeline.cli", "ingest", root, "--window", "400/40", "--labels", "organ=*|1"]
    words += [*FLAGS, "--workspace", workspace]
    subprocess.run(words, capture_output=True, check=False, env={**os.environ, "SAMKIT_ID_KEY": key})
    return workspace
