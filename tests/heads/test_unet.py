"""The U-Net keeps the contract of heads that see slices, at any size of slice."""

import numpy as np
import pytest
import torch
from contracts.head import SliceHeadContract
from examples.workspaces import add_volume
from torch import nn

from samkit.heads.base import HeadContext
from samkit.heads.inference import segment_volume
from samkit.heads.tiling import blend_weights
from samkit.heads.unet import PlaneNorm, UNet
from samkit.store.workspace import Workspace


class TestUNet(SliceHeadContract):
    head_class = UNet
    trained_parts = frozenset({"down", "up", "upscaling", "classifier"})


def built(**options):
    torch.manual_seed(0)
    return UNet(channels=1, class_count=3, **options).eval()


def test_it_has_two_million_parameters():
    head = UNet.build(HeadContext(input_shape=(1, 224, 224), class_count=4))
    assert head.parameter_count() == pytest.approx(1.94e6, rel=0.01)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_its_norm_and_what_flows_back_through_it_are_those_of_instance_norm(dtype, layout):
    torch.manual_seed(0)
    norm, reference = PlaneNorm(6), nn.InstanceNorm2d(6, affine=True)
    for each in (norm, reference):
        with torch.no_grad():
            each.weight.copy_(torch.linspace(0.5, 2, 6))
            each.bias.copy_(torch.linspace(-1, 1, 6))
        each.to(torch.float64 if dtype is torch.float64 else torch.float32)
    drawn, weights = 3 * torch.randn(3, 6, 5, 7) + 2, torch.randn(3, 6, 5, 7)
    results = []
    for each in (norm, reference):
        grid = drawn.to(dtype, memory_format=layout).requires_grad_()
        out = each(grid)
        (out * weights.to(dtype)).sum().backward()
        results.append((out, grid.grad, each.weight.grad, each.bias.grad))
    # bfloat16 has 8 bits: rounded once more or less on the way.
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_its_grids_stay_channels_last_on_a_cpu():
    assert PlaneNorm(6)(torch.randn(3, 6, 5, 7)).is_contiguous(memory_format=torch.channels_last)


def test_colour_slices_are_taken_too():
    head = UNet.build(HeadContext(input_shape=(3, 64, 64), class_count=2))
    assert head(torch.rand(1, 3, 20, 30)).shape == (1, 2, 20, 30)


@pytest.mark.parametrize(("rows", "columns"), [(33, 48), (47, 31), (1, 1), (160, 16)])
@pytest.mark.parametrize("patch_px", [0, 48, 64])
def test_planes_are_padded_to_a_patch_around_them_which_is_cut_off_again(rows, columns, patch_px):
    head, image = built(), torch.rand(1, 1, rows, columns)
    head.see_patches_of(patch_px)
    step = 2 ** (len(head.widths) - 1)
    sides = [-(-max(2 * step, patch_px, side) // step) * step for side in (rows, columns)]
    margins = [(want - side) // 2 for want, side in zip(sides, (rows, columns), strict=True)]
    inside = (slice(margins[0], margins[0] + rows), slice(margins[1], margins[1] + columns))
    padded = torch.zeros(1, 1, *sides)
    padded[..., *inside] = image
    assert torch.equal(head(image), head(padded)[..., *inside])


def test_the_side_of_its_patches_is_kept_with_its_weights():
    head = UNet.build(HeadContext(input_shape=(1, 96, 96), class_count=2))
    again = UNet(**head.config)
    again.load_state_dict(head.state_dict(), strict=True)
    assert again.window_px == 96


def test_weights_of_before_the_side_was_kept_are_loaded():
    state = built().state_dict()
    del state["patch_px"]
    again = built()
    again.load_state_dict(state, strict=True)
    assert again.window_px is None


def test_each_level_is_half_as_fine():
    head, sides = built(), []
    for level in head.down:
        level.register_forward_hook(lambda _module, _inputs, output: sides.append(output.shape[-1]))
    head(torch.rand(1, 1, 64, 64))
    assert sides == [64, 32, 16, 8, 4]


def test_a_pixel_far_away_is_seen():
    # Nine levels of 3x3 windows, halved four times, reach across 64 pixels.
    head, image = built(), torch.rand(1, 1, 64, 64, requires_grad=True)
    for level in (*head.down, *head.up):
        for place in (1, 4):  # a norm looks at all pixels, however far a convolution reaches
            level[place] = nn.Identity()
    head(image)[0, 1, 32, 32].backward()
    assert (image.grad[0, 0, [10, 54], [10, 54]] != 0).all()


def volume_of(path, rows, columns):
    image = np.random.default_rng(0).random((1, 1, rows, columns)).astype(np.float16)
    workspace = Workspace.create(path, {1: "a", 2: "b"})
    add_volume(workspace, "one", image, np.zeros((1, rows, columns), np.uint8))
    (volume,) = workspace.volumes.values()
    return volume


def test_a_plane_of_a_patchs_size_is_answered_at_once(tmp_path):
    head, volume = built(), volume_of(tmp_path / "ws", 256, 200)
    with torch.no_grad():
        expected = head(torch.from_numpy(volume.image[:]).float()).argmax(1).numpy()
    np.testing.assert_array_equal(segment_volume(head, volume, {1: "a", 2: "b"}, None), expected)


def test_a_larger_plane_is_answered_in_windows_of_a_patchs_size_that_overlap_by_half(tmp_path):
    head, volume = built(), volume_of(tmp_path / "ws", 40, 384)
    spans = [(0, 256), (128, 384)]
    image = torch.from_numpy(volume.image[:]).float()
    expected = torch.zeros(3, 40, 384)
    with torch.no_grad():
        for (first, stop), weight in zip(spans, blend_weights(spans), strict=True):
            expected[..., first:stop] += head(image[..., first:stop])[0] * torch.from_numpy(weight)
        whole = head(image)[0]
    found = segment_volume(head, volume, {1: "a", 2: "b"}, None)[0]
    np.testing.assert_array_equal(found, expected.argmax(0).numpy())
    assert (whole.argmax(0).numpy() != found).any()
