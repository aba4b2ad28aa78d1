"""The `segment-anything` package's building blocks and torchvision's ResNet, importable beside any torch.

The torchvision wheel on PyPI is a CUDA build. Beside a CPU-only torch its compiled
operators do not load, and ``import torchvision`` (hence ``import segment_anything``)
stops at "operator torchvision::nms does not exist", because a Python part registers
shape functions for operators that were never declared. Declaring their schemas makes
torchvision's Python parts usable; nothing in SAM's encoder or decoder calls the operators.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

import torch
from torch import nn

# A `torch.library.Library` drops its declarations when it is collected, so it lives as long as the module.
_declarations: list[torch.library.Library] = []


def _declare_torchvision_operators() -> None:
    """Declare the operators that torchvision registers shape functions for, if they did not load."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declarations.append(library)


try:
    import torchvision  # noqa: F401 - only to see whether it imports
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    _declare_torchvision_operators()

from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer  # noqa: E402
from segment_anything.modeling.common import LayerNorm2d  # noqa: E402
from segment_anything.modeling.image_encoder import Attention, Block  # noqa: E402
from segment_anything.modeling.mask_decoder import MLP  # noqa: E402
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom  # noqa: E402
from segment_anything.utils.transforms import ResizeLongestSide  # noqa: E402
from torchvision.models import resnet18  # noqa: E402

__all__ = [
    "MLP",
    "Attention",
    "Block",
    "ImageEncoderViT",
    "LayerNorm2d",
    "MaskDecoder",
    "PositionEmbeddingRandom",
    "PromptEncoder",
    "ResizeLongestSide",
    "TwoWayTransformer",
    "output_upscaling",
    "resnet18_stages",
]


def output_upscaling(channels: int) -> nn.Sequential:
    """Return the up-convolutions of SAM's mask decoder, fresh: (B, C, h, w) to (B, C / 8, 4 h, 4 w).

    In the package they are built inside `MaskDecoder`; the names of their weights are the same here.
    """
    return nn.Sequential(
        nn.ConvTranspose2d(channels, channels // 4, kernel_size=2, stride=2),
        LayerNorm2d(channels // 4),
        nn.GELU(),
        nn.ConvTranspose2d(channels // 4, channels // 8, kernel_size=2, stride=2),
        nn.GELU(),
    )


def resnet18_stages() -> nn.Sequential:
    """Return torchvision's ResNet-18 to its third stage, fresh: (B, 3, H, W) to (B, 256, H / 16, W / 16).

    2,782,784 parameters, under torchvision's names.
    """
    whole = resnet18(weights=None)
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
    return nn.Sequential(OrderedDict((name, cast(nn.Module, getattr(whole, name))) for name in names))
