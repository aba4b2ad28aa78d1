"""A plan has every missing row once, in order, in shards that are neither too long nor too large."""

import itertools

import pytest
from examples.tiny_sam import TINY
from examples.workspaces import add_volume, boxes, embed, workspace_of_boxes
from hypothesis import given
from hypothesis import strategies as st

from samkit.pipeline.plan import cut_into_shards, plan_embedding
from samkit.stages.embed import prepare_embeddings
from samkit.store.embeddings import BYTES_PER_SHARD, ROWS_PER_SHARD
from samkit.store.keys import RowKey

row_sizes = st.integers(1, 4 * BYTES_PER_SHARD)


def keys(count):
    return [RowKey(slice_digest=f"{number:032x}") for number in range(count)]


@given(st.integers(0, 300), row_sizes)
def test_every_row_is_in_one_shard_in_order(count, row_bytes):
    shards = cut_into_shards("recipe", keys(count), row_bytes)
    assert list(itertools.chain.from_iterable(shard.keys for shard in shards)) == keys(count)


@given(st.integers(1, 300), row_sizes)
def test_shards_are_bounded_in_rows_and_bytes(count, row_bytes):
    for shard in cut_into_shards("recipe", keys(count), row_bytes):
        assert 1 <= len(shard.keys) <= ROWS_PER_SHARD
        assert len(shard.keys) == 1 or len(shard.keys) * row_bytes <= BYTES_PER_SHARD


@given(st.integers(1, 300), row_sizes)
def test_only_the_last_shard_is_shorter(count, row_bytes):
    lengths = [len(shard.keys) for shard in cut_into_shards("recipe", keys(count), row_bytes)]
    assert len(set(lengths[:-1])) <= 1
    assert lengths[-1] <= lengths[0]


@given(st.integers(1, 300), row_sizes)
def test_planning_again_gives_the_same_shards(count, row_bytes):
    first, second = (cut_into_shards("recipe", keys(count), row_bytes) for _ in range(2))
    assert [shard.id for shard in first] == [shard.id for shard in second]
    assert len({shard.id for shard in first}) == len(first)


@given(st.integers(1, 300), row_sizes, st.data())
def test_whichever_shards_are_done_the_next_plan_has_exactly_the_others(count, row_bytes, data):
    # So two processes, or one that was killed, cut the same shards; were they others, rows would be computed twice.
    shards = cut_into_shards("recipe", keys(count), row_bytes)
    done = data.draw(st.sets(st.sampled_from([shard.id for shard in shards])))
    left = [shard for shard in shards if shard.id not in done]
    assert cut_into_shards("recipe", [key for shard in left for key in shard.keys], row_bytes) == left


def test_sam_at_1024_fills_a_shard_with_64_rows():
    assert [len(shard.keys) for shard in cut_into_shards("recipe", keys(130), 2 << 20)] == [64, 64, 2]


@pytest.fixture(scope="module")
def tiny():
    return TINY.load(None)


def plan(workspace, encoder):
    embeddings = prepare_embeddings(workspace, encoder, "cpu")
    return plan_embedding(embeddings.recipe.id, embeddings.journal, workspace.volumes.values(), 8192)


def test_at_first_everything_is_missing(tmp_path, tiny):
    made = plan(workspace_of_boxes(tmp_path / "workspace", subjects=3, slices=4), tiny)
    assert (made.wanted, made.present, made.missing) == (12, 0, 12)


def test_afterwards_nothing_is(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=2)
    embed(workspace, tiny)
    made = plan(workspace, tiny)
    assert (made.missing, made.shards) == (0, ())


def test_a_new_volume_adds_its_own_rows_only(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=2)
    embed(workspace, tiny)
    add_volume(workspace, "newcomer", *boxes(20, slices=4))
    made = plan(workspace, tiny)
    assert made.missing == 4
    assert [key for shard in made.shards for key in shard.keys] == workspace.volumes["newcomer"].row_keys()


def test_a_slice_that_occurs_twice_is_computed_once(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=1)
    add_volume(workspace, "copy", *boxes(0))
    assert plan(workspace, tiny).wanted == 3
