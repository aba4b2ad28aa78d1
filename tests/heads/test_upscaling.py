"""The up-scaling, computed cell by cell, is the package's."""

import pytest
import torch

from samkit.heads.sam_modules import MaskDecoder, TwoWayTransformer, output_upscaling
from samkit.heads.upscaling import as_picture, upscaled


def as_pictures(finest, height, width):
    """(B, N, 4, 4, channels) to (B, channels, 4 h, 4 w)."""
    return as_picture(finest.movedim(-1, 1), height, width)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 5), (1, 1)])
def test_it_equals_the_modules_of_sams_mask_decoder(height, width):
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=1, embedding_dim=32, mlp_dim=8, num_heads=4)
    modules = MaskDecoder(transformer_dim=32, transformer=transformer).output_upscaling
    embedding = torch.randn(2, 32, height, width)
    with torch.no_grad():
        found = as_pictures(upscaled(modules, embedding.flatten(2).transpose(1, 2)), height, width)
        torch.testing.assert_close(found, modules(embedding), rtol=1e-5, atol=1e-6)


def test_its_gradients_are_those_of_the_modules():
    torch.manual_seed(0)
    modules, gradients = output_upscaling(32).double(), []
    answer = torch.randn(2, 4, 12, 20).double()
    for path in ("modules", "cells"):
        embedding = torch.randn(2, 32, 3, 5, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
        modules.zero_grad()
        if path == "modules":
            found = modules(embedding)
        else:
            found = as_pictures(upscaled(modules, embedding.flatten(2).transpose(1, 2)), 3, 5)
        (found * answer).sum().backward()
        gradients.append([embedding.grad, *(parameter.grad.clone() for parameter in modules.parameters())])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)
