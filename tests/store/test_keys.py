"""What makes two embeddings the same embedding. The golden ids below are part of the format: they must not change."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samkit.store.errors import DamagedStore, UsageError
from samkit.store.keys import Recipe, RowKey, array_digest, content_id, shard_id

RECIPE = Recipe(
    encoder="sam_vit_b",
    weights_sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    input_px=1024,
)
OTHER_VALUES: dict[str, Any] = {
    "encoder": "sam_vit_h",
    "weights_sha256": "00" * 32,
    "tap": "block-11",
    "input_px": 512,
    "resize": "stretch",
    "pixel_normalisation": "sam-exact",
    "compute_precision": "bfloat16",
    "storage_precision": "float32",
    "format_version": 2,
}
KEYS = [RowKey(slice_digest="00" * 16), RowKey(slice_digest="01" * 16)]

parts = st.text(min_size=1).filter(lambda text: "/" not in text)


# -- digests ---------------------------------------------------------------------------------------


def test_the_digest_of_a_slice_is_this_one():
    plane = np.arange(6, dtype=np.float16).reshape(1, 2, 3)
    assert array_digest(plane) == "a791d35b13f72cf7465dc2870012a6d2"


@given(hnp.arrays(np.float16, hnp.array_shapes(min_dims=2, max_dims=3, max_side=5)))
def test_the_digest_does_not_depend_on_how_the_array_lies_in_memory(values: np.ndarray):
    wide = np.zeros((*values.shape[:-1], 2 * values.shape[-1]), values.dtype)
    wide[..., ::2] = values
    same = [
        np.asfortranarray(values),
        wide[..., ::2],
        values[::-1].copy()[::-1],
        values.astype(values.dtype.newbyteorder(">")),
    ]
    assert {array_digest(other) for other in same} == {array_digest(values)}


@given(hnp.arrays(np.uint8, (2, 3)), st.integers(0, 5), st.integers(1, 255))
def test_the_digest_depends_on_every_value(values: np.ndarray, place: int, step: int):
    changed = values.copy()
    changed.flat[place] = (int(changed.flat[place]) + step) % 256
    assert array_digest(changed) != array_digest(values)


@pytest.mark.parametrize("shape", [(6, 1), (3, 2), (6,), (1, 2, 3)])
def test_the_digest_depends_on_the_shape(shape: tuple[int, ...]):
    assert array_digest(np.zeros(shape)) != array_digest(np.zeros((2, 3)))


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32])
def test_the_digest_depends_on_the_kind_of_number(dtype: type[np.generic]):
    assert array_digest(np.zeros((2, 3), dtype)) != array_digest(np.zeros((2, 3), np.float16))


@pytest.mark.parametrize("values", [np.zeros((0, 3)), np.zeros(()), np.zeros((2, 0))])
def test_even_an_empty_array_has_a_digest(values: np.ndarray):
    assert len(array_digest(values)) == 32


def test_an_id_has_as_many_digits_as_asked_for():
    assert content_id({"a": 1}, digits=8) == content_id({"a": 1})[:8]
    assert len(content_id({"a": 1}, digits=8)) == 8


# -- row keys --------------------------------------------------------------------------------------


@given(parts, parts, parts)
def test_a_row_key_survives_its_text(slice_digest: str, view: str, tile: str):
    key = RowKey(slice_digest=slice_digest, view=view, tile=tile)
    assert RowKey.parse(str(key)) == key


@pytest.mark.parametrize("wrong", ["", "a", "a/b", "a/b/c/d"])
def test_text_without_three_parts_is_no_row_key(wrong: str):
    with pytest.raises(ValueError, match="unpack"):
        RowKey.parse(wrong)


@pytest.mark.parametrize("field", ["slice_digest", "view", "tile"])
@pytest.mark.parametrize("wrong", ["", "rows/2"])
def test_a_part_that_could_not_be_read_back_is_refused(field: str, wrong: str):
    with pytest.raises(UsageError, match="parts are joined by '/'"):
        replace(RowKey(slice_digest="0"), **{field: wrong})


# -- recipes ---------------------------------------------------------------------------------------


def test_the_id_of_a_recipe_is_this_one():
    assert RECIPE.id == "394285c8db0f"
    assert RECIPE.folder_name == "sam_vit_b--394285c8db0f"


def test_every_field_of_a_recipe_has_another_value_in_these_tests():
    assert set(OTHER_VALUES) == {field.name for field in fields(Recipe)}


@pytest.mark.parametrize("field", sorted(OTHER_VALUES))
def test_every_field_changes_the_id_of_a_recipe(field: str):
    assert replace(RECIPE, **{field: OTHER_VALUES[field]}).id != RECIPE.id


@pytest.mark.parametrize("field", sorted(OTHER_VALUES))
def test_the_difference_of_two_recipes_is_told_by_field(field: str):
    (difference,) = RECIPE.differences(replace(RECIPE, **{field: OTHER_VALUES[field]}))
    assert difference.startswith(f"{field}: ")


def test_equal_recipes_have_no_differences():
    assert RECIPE.differences(replace(RECIPE)) == []


def test_a_recipe_survives_json():
    assert Recipe.from_json(json.loads(json.dumps(RECIPE.to_json()))) == RECIPE


@pytest.mark.parametrize("field", sorted(OTHER_VALUES))
def test_a_recipe_with_a_field_missing_is_refused(field: str):
    kept = RECIPE.to_json()
    del kept[field]
    with pytest.raises(DamagedStore, match=field):
        Recipe.from_json(kept)


def test_a_recipe_with_a_field_from_elsewhere_is_refused():
    with pytest.raises(DamagedStore, match="flavour"):
        Recipe.from_json({**asdict(RECIPE), "flavour": "vanilla"})


def test_bfloat16_is_given_more_room_between_devices():
    assert replace(RECIPE, compute_precision="bfloat16").tolerance > RECIPE.tolerance


# -- shards ----------------------------------------------------------------------------------------


def test_the_id_of_a_shard_is_this_one():
    assert shard_id("efc7ecc26dcf", KEYS) == "202dfc763185464525d4960e"


def test_the_id_of_a_shard_depends_on_the_order_of_its_rows():
    assert shard_id("efc7ecc26dcf", KEYS[::-1]) != shard_id("efc7ecc26dcf", KEYS)


def test_the_id_of_a_shard_depends_on_the_recipe():
    assert shard_id("000000000000", KEYS) != shard_id("efc7ecc26dcf", KEYS)


def test_the_id_of_a_shard_depends_on_the_view():
    turned = [replace(key, view="rotate+7") for key in KEYS]
    assert shard_id("efc7ecc26dcf", turned) != shard_id("efc7ecc26dcf", KEYS)
