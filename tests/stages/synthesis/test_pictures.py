"""A stream of pictures is the same however it is cut, resumed or shared among workers."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch.utils.data import DataLoader

from samkit.stages.synthesis.pictures import Pictures
from samkit.stages.synthesis.shapes import Kind

SIZE = 32


def stream(**options):
    return Pictures(**{"seed": 5, "batch_size": 3, "size": SIZE, **options})


def assert_equal(first, second):
    for name in first.__slots__:
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_a_batch_has_images_parts_and_what_the_parts_are():
    batch = stream(subjects=2).batch(0)
    assert (batch.images.shape, batch.images.dtype) == ((3, 2, SIZE, SIZE), torch.float32)
    assert (batch.parts.shape, batch.parts.dtype) == ((3, 2, SIZE, SIZE), torch.uint8)
    assert batch.kinds.shape == batch.solids.shape
    assert batch.parts.max() < batch.kinds.shape[1]
    assert set(batch.kinds.unique().tolist()) <= set(Kind)


def test_iterating_gives_batch_after_batch():
    for number, batch in enumerate(islice(stream(), 3)):
        assert_equal(batch, stream().batch(number))


def test_a_stream_goes_on_from_any_batch():
    assert_equal(next(iter(stream(first=4))), stream().batch(4))


def test_a_picture_does_not_depend_on_the_size_of_its_batch():
    large, small = stream(batch_size=6).batch(0), stream(batch_size=2).batch(1)
    assert torch.equal(large.images[2:4], small.images)
    assert torch.equal(large.parts[2:4], small.parts)


def test_subjects_alone_are_scenes_of_one():
    batch = stream(subjects=2).batch(0)
    alone = batch.each_alone()
    assert alone.images.shape == (6, 1, SIZE, SIZE)
    for number in range(6):
        scene, subject = divmod(number, 2)
        assert torch.equal(alone.images[number, 0], batch.images[scene, subject])
        assert torch.equal(alone.parts[number, 0], batch.parts[scene, subject])
        assert torch.equal(alone.kinds[number], batch.kinds[scene])
        assert torch.equal(alone.solids[number], batch.solids[scene])


def test_another_seed_is_another_stream():
    assert not torch.equal(stream(seed=1).batch(0).images, stream(seed=2).batch(0).images)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_batches_in_order(workers):
    loader = DataLoader(stream(), batch_size=None, num_workers=workers)
    for number, batch in enumerate(islice(loader, 4)):
        assert_equal(batch, stream().batch(number))


def brightness(batch):
    """Mean of each scene's parts that both subjects show, (parts, 2), background included."""
    rows = []
    for images, parts in zip(batch.images, batch.parts, strict=True):
        for part in parts[0].unique():
            seen = parts == part
            if (seen.sum(dim=(1, 2)) > 20).all():
                rows.append([float(image[where].mean()) for image, where in zip(images, seen, strict=True)])
    return torch.tensor(rows)


def test_a_part_often_looks_alike_in_two_subjects_and_sometimes_does_not():
    first, second = brightness(stream(batch_size=60, subjects=2, size=64).batch(0)).T
    apart = (first - second).abs()
    assert apart.quantile(0.4) < 0.05
    assert apart.quantile(0.9) > 0.2
