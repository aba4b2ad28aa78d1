"""Chunks are consecutive slices of one volume, each slice is in one of them, and prompts ask for what is there."""

from __future__ import annotations

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from examples.tiny_sam import TINY
from examples.workspaces import add_volume, boxes, embed, workspace_of_boxes

from samkit.heads.chunks import AUTO_CHUNK, LabelledChunks, StoredChunks, check_chunks
from samkit.heads.feeding import LabelledSlices, frame_of
from samkit.heads.losses import IGNORED
from samkit.heads.prompt_rules import PromptRule
from samkit.heads.prompting import PointKind
from samkit.heads.seen import Sees
from samkit.store.errors import UsageError

CPU = torch.device("cpu")
VALUES = [3, 42]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Two subjects of three slices, one of seven, and one of one."""
    made = workspace_of_boxes(tmp_path_factory.mktemp("chunks") / "workspace", subjects=2)
    add_volume(made, "long", *boxes(7, slices=7))
    add_volume(made, "single", *boxes(8, slices=1))
    embed(made, TINY.load(None, tap="block:1"))
    return made


def head_of(*, chunk=None, prompt="none"):
    return SimpleNamespace(name="a head", sees=Sees.CHUNKS, chunk=chunk, rule=PromptRule.parse(prompt))


def tapped(workspace):
    (kept,) = workspace.recipes().values()
    return kept


def fed(workspace, **options):
    volumes = list(workspace.volumes.values())
    rows = LabelledSlices(tapped(workspace), volumes, 1 << 30)
    return rows, LabelledChunks(rows, volumes, head_of(**options), 3)


def one_round(chunks, rows, batch_size=4):
    """The batches of the first round: as many as show every row once."""
    taken, seen = [], 0
    for batch in chunks.batches(batch_size, 0, CPU):
        taken.append(batch)
        seen += len(batch[1])
        if seen == len(rows):
            return taken
    raise AssertionError


def numbers_of(rows, features):
    """Which rows these are."""
    known = rows.features(range(len(rows)))
    return [int((known == one).flatten(1).all(dim=1).nonzero()[0]) for one in features]


@pytest.mark.parametrize("chunk", [1, 2, 3, None])
def test_a_round_shows_every_slice_once(workspace, chunk):
    rows, chunks = fed(workspace, chunk=chunk)
    shown = [number for seen, _ in one_round(chunks, rows) for number in numbers_of(rows, seen.rows)]
    assert sorted(shown) == list(range(len(rows)))


def test_prompted_slices_that_show_nothing_say_nothing(tmp_path):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=0)
    image, label = boxes(1, slices=9)
    label[3:] = 0  # whole chunks of nothing
    add_volume(workspace, "sparse", image, label)
    embed(workspace, TINY.load(None, tap="block:1"))
    _, chunks = fed(workspace, chunk=2, prompt="point:1")
    for seen, labels in islice(chunks.batches(2, 0, CPU), 12):
        asked = (seen.prompts.kinds != PointKind.NOTHING).flatten(1).any(dim=1)
        assert asked.any()
        assert (labels[~asked] == IGNORED).all()


def test_slices_that_show_no_class_at_all_cannot_be_prompted(tmp_path):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=0)
    image, label = boxes(1)
    add_volume(workspace, "empty", image, np.zeros_like(label))
    embed(workspace, TINY.load(None, tap="block:1"))
    with pytest.raises(UsageError, match="nothing to prompt for"):
        fed(workspace, prompt="point:1")


@pytest.mark.parametrize("chunk", [2, 3, None])
def test_the_slices_of_a_chunk_follow_each_other_in_one_volume(workspace, chunk):
    rows, chunks = fed(workspace, chunk=chunk)
    ends = np.cumsum([len(volume.slice_digests) for volume in workspace.volumes.values()])
    for seen, _ in one_round(chunks, rows):
        for part in torch.as_tensor(numbers_of(rows, seen.rows)).split(list(seen.lengths)):
            assert (part.diff() == 1).all()
            assert len({int(np.searchsorted(ends, number, side="right")) for number in part.tolist()}) == 1


def test_no_chunk_is_longer_than_asked_for(workspace):
    rows, chunks = fed(workspace, chunk=3)
    assert max(length for seen, _ in one_round(chunks, rows) for length in seen.lengths) == 3
    rows, chunks = fed(workspace)
    assert max(length for seen, _ in one_round(chunks, rows, 8) for length in seen.lengths) == AUTO_CHUNK


def test_where_chunks_begin_differs_from_round_to_round(workspace):
    _, chunks = fed(workspace, chunk=3)
    lengths = [seen.lengths for seen, _ in islice(chunks.batches(3, 0, CPU), 40)]
    assert {(1,), (2,), (3,)} <= set(lengths)


def test_a_batch_has_as_many_chunks_as_make_its_size_or_one(workspace):
    _, chunks = fed(workspace, chunk=2)
    assert all(len(seen.lengths) <= 2 for seen, _ in islice(chunks.batches(4, 0, CPU), 10))
    assert all(len(seen.lengths) == 1 for seen, _ in islice(chunks.batches(1, 0, CPU), 10))


def test_equal_seeds_give_equal_batches(workspace):
    _, chunks = fed(workspace, prompt="point:1")
    pairs = zip(islice(chunks.batches(4, 5, CPU), 8), islice(chunks.batches(4, 5, CPU), 8), strict=True)
    for (seen, labels), (again, labels_again) in pairs:
        assert torch.equal(seen.rows, again.rows)
        assert torch.equal(seen.prompts.points, again.prompts.points)
        assert torch.equal(labels, labels_again)


def test_while_training_a_slice_is_asked_for_one_class_and_its_label_shows_that_one(workspace):
    _, chunks = fed(workspace, prompt="point:1")
    asked_classes = set()
    for seen, labels in islice(chunks.batches(4, 0, CPU), 20):
        asked = (seen.prompts.kinds != PointKind.NOTHING).any(dim=-1)
        assert (asked.sum(dim=1) <= 1).all()
        for row, label in zip(asked, labels, strict=True):
            shown = {1 + int(number) for number in row.nonzero()}
            assert set(label.unique().tolist()) - {0, IGNORED} == shown
            asked_classes |= shown
    assert asked_classes == {1, 2}


def test_a_click_lies_on_the_class_that_it_asks_for(workspace):
    _, chunks = fed(workspace, prompt="point:3")
    for seen, labels in islice(chunks.batches(4, 0, CPU), 20):
        for row, column in (seen.prompts.kinds != PointKind.NOTHING).any(dim=-1).nonzero().tolist():
            cells = (seen.prompts.points[row, column] * labels.shape[-1]).long()
            assert (labels[row, cells[:, 1], cells[:, 0]] == column + 1).all()


def test_in_order_every_class_is_asked_for_that_a_slice_shows(workspace):
    rows, chunks = fed(workspace, prompt="point:1")
    batches = list(chunks.in_order(4))
    assert [number for seen, _ in batches for number in numbers_of(rows, seen.rows)] == list(range(len(rows)))
    for seen, labels in batches:
        shown = torch.stack([(labels == number).flatten(1).any(dim=1) for number in (1, 2)], dim=1)
        assert torch.equal((seen.prompts.kinds != PointKind.NOTHING).any(dim=-1), shown)


@pytest.mark.parametrize("prompt", ["point:1", "box:tight"])
def test_prompts_of_a_stored_volume_lie_on_its_own_pixels_scaled_to_the_square(workspace, prompt):
    volume, embeddings = workspace.volumes["long"], tapped(workspace)
    label, frame = volume.read_label(), frame_of(volume, embeddings)
    stored = StoredChunks(head_of(prompt=prompt), volume, embeddings, VALUES)
    rows, columns = frame.inner_px
    for chunk, seen in stored:
        for row, column in (seen.prompts.kinds != PointKind.NOTHING).any(dim=-1).nonzero().tolist():
            mask = label[chunk[row]] == VALUES[column]
            places = seen.prompts.points[row, column] * frame.input_px
            places = places / torch.tensor([columns / frame.columns, rows / frame.rows])
            if prompt == "point:1":
                x, y = places[0].long().tolist()
                assert mask[y, x]
            else:
                found_rows, found_columns = np.nonzero(mask)
                # The outer edges of the box are those of its pixels, less half a pixel of the square.
                half = 0.5 * frame.rows / rows
                assert places[0].tolist() == pytest.approx([found_columns.min() + half, found_rows.min() + half])
                assert places[1].tolist() == pytest.approx(
                    [found_columns.max() + 1 - half, found_rows.max() + 1 - half]
                )


def test_a_box_is_told_alike_while_training_and_afterwards(tmp_path):
    """On a slice whose pixels are the logit grid's cells, and that is not square."""
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=0)
    image, label = np.zeros((1, 1, 10, 16), np.float16), np.zeros((1, 10, 16), np.uint8)
    label[0, 2:7, 5:13] = 3
    add_volume(workspace, "oblong", image, label)
    embed(workspace, TINY.load(None, tap="block:1"))
    _, chunks = fed(workspace, prompt="box:tight")
    ((trained, _),) = chunks.in_order(1)
    ((_, scored),) = StoredChunks(head_of(prompt="box:tight"), workspace.volumes["oblong"], tapped(workspace), VALUES)
    torch.testing.assert_close(trained.prompts.points[:, :1], scored.prompts.points[:, :1])
    # Columns 5 to 12 and rows 2 to 6, four pixels of the square each, its first pixels and its last.
    expected = [[20.5 / 64, 8.5 / 64], [51.5 / 64, 27.5 / 64]]
    assert trained.prompts.points[0, 0].tolist() == [pytest.approx(one) for one in expected]


def test_prompts_of_a_slice_do_not_depend_on_its_chunk(workspace):
    volume, embeddings = workspace.volumes["long"], tapped(workspace)

    def asked(chunk):
        parts = [
            seen.prompts for _, seen in StoredChunks(head_of(chunk=chunk, prompt="point:3"), volume, embeddings, VALUES)
        ]
        return torch.cat([part.points for part in parts])

    assert torch.equal(asked(1), asked(5))


def test_a_chunk_that_is_longer_than_a_volume_is_refused(workspace):
    volumes = list(workspace.volumes.values())
    with pytest.raises(UsageError, match=r"--chunk 2: single has 1 slice, .* Give --chunk 1 or less"):
        check_chunks(head_of(chunk=2), volumes)
    check_chunks(head_of(chunk=1), volumes)
    check_chunks(head_of(), volumes)


def test_tokens_without_embeddings_are_refused(workspace):
    with pytest.raises(UsageError, match="sees embedded tokens"):
        StoredChunks(head_of(), workspace.volumes["long"], None, VALUES)
