"""What `samkit status` counts of embeddings: a bank of views is told, and neither missing nor out of place."""

import json

import nibabel as nib
import numpy as np
import pytest
from examples.tiny_sam import TINY
from examples.views import keep_rows
from examples.workspaces import add_volume, boxes, embed, workspace_of_boxes

from samkit.pipeline.commands.status import bank_lines, run_status, status_of
from samkit.store.keys import RowKey
from samkit.store.workspace import open_workspace


def test_volumes_are_listed_where_they_are_asked_for(samkit, job):
    assert "Volumes" not in samkit("status", *job.flag).said
    told = json.loads(samkit("status", "--volumes", "--json", *job.flag).out)["volumes"]
    volumes = open_workspace(job.workspace).volumes
    assert [one["id"] for one in told] == list(volumes)
    assert [one["label_values"] for one in told] == [list(volume.record.label_values) for volume in volumes.values()]
    said = samkit("status", "--volumes", *job.flag).said
    assert all(name in said for name in volumes)


def test_what_comes_next_without_labels_is_labels(samkit, tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(2):
        voxels = np.random.default_rng(number).normal(100, 20, (20, 20, 3)).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / f"images/{number}.nii.gz")
    flag = ("--workspace", tmp_path / "w")
    assert samkit("ingest", tmp_path / "images", *flag).code == 0
    for command in (("embed", "--size", "64"), ("status",)):
        assert f"next: samkit ingest --labels-from FOLDER --workspace {tmp_path / 'w'}" in samkit(*command, *flag).said


@pytest.fixture(scope="module")
def tiny():
    return TINY.load(None)


@pytest.fixture
def workspace(tmp_path, tiny):
    """Two subjects of three slices, each with a row."""
    made = workspace_of_boxes(tmp_path / "workspace", subjects=2)
    embed(made, tiny)
    return made


def add_bank(workspace, volume_id, *views):
    keep_rows(workspace.embeddings(), [key for view in views for key in workspace.volumes[volume_id].row_keys(view)])


def entry(workspace):
    (found,) = status_of(open_workspace(workspace.path))["embeddings"]
    return found


def counts(workspace):
    found = entry(workspace)
    return found["rows"], found["missing"], found["orphaned"]


def test_rows_of_views_are_rows_and_none_is_missing_or_orphaned(workspace):
    add_bank(workspace, "subject0", "flip-rows", "rotate+7-nearest")
    assert counts(workspace) == (6 + 6, 0, 0)


def test_the_views_are_told_with_their_rows_the_identity_first(workspace):
    add_bank(workspace, "subject0", "flip-rows", "anti-transpose")
    assert list(entry(workspace)["views"].items()) == [("identity", 6), ("anti-transpose", 3), ("flip-rows", 3)]


def test_a_bank_leaves_what_comes_next_as_it_was(workspace):
    before = status_of(open_workspace(workspace.path))["next"]
    add_bank(workspace, "subject0", "flip-rows")
    assert status_of(open_workspace(workspace.path))["next"] == before


def test_a_slice_that_has_only_views_is_missing(workspace):
    image, label = boxes(9)
    add_volume(workspace, "newcomer", image, label)
    assert counts(workspace) == (6, 3, 0)
    add_bank(workspace, "newcomer", "flip-rows")
    assert counts(workspace) == (9, 3, 0)


def test_views_of_a_removed_volume_are_orphaned_as_its_other_rows_are(workspace):
    add_bank(workspace, "subject0", "flip-rows")
    workspace.remove_volumes(["subject0"])
    assert counts(workspace) == (3, 0, 6)
    assert entry(workspace)["views"] == {"identity": 3}


def test_a_slice_whose_rows_are_those_of_its_tiles_is_not_missing(workspace):
    image, label = boxes(9, slices=1)
    add_volume(workspace, "large", image, label)
    (digest,) = workspace.volumes["large"].slice_digests
    tiles = ("rows0-40+columns0-32", "rows0-40+columns8-40")
    keep_rows(workspace.embeddings(), [RowKey(slice_digest=digest, tile=tile) for tile in tiles])
    assert counts(workspace) == (8, 0, 0)


def test_the_terminal_names_the_views(workspace, capsys):
    add_bank(workspace, "subject0", "flip-rows")
    run_status(str(workspace.path), as_json=False)
    assert f"{workspace.embeddings().folder.name}: 1 more view of 3 rows: flip-rows" in capsys.readouterr().out


def test_without_a_bank_nothing_is_said_of_views(workspace, capsys):
    run_status(str(workspace.path), as_json=False)
    assert "more view" not in capsys.readouterr().out


def test_many_views_are_counted_and_a_few_named():
    views = {"identity": 9, "gamma0.80": 7} | {f"rotate+{angle}-nearest": 4 for angle in range(1, 10)}
    assert bank_lines(views) == [
        "1 more view of 7 rows: gamma0.80",
        "9 more views of 4 rows each: rotate+1-nearest, rotate+2-nearest, rotate+3-nearest, rotate+4-nearest, "
        "rotate+5-nearest and 4 more",
    ]
