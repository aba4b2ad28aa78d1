"""A SAM small enough to build in every test, and checkpoints of it made with the package's own modules."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from samkit.heads.sam_modules import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer

# isort: split
from segment_anything.modeling import Sam  # after samkit's module, which makes it importable beside any torch

from samkit.stages.encoders.sam import SamModel

#: Two windowed blocks and one global; a window of 3 does not tile the grid of 4, as 14 does not tile SAM's 64.
TINY = SamModel(
    name="tiny",
    width=32,
    depth=3,
    attention_heads=2,
    global_blocks=(1,),
    window=3,
    default_px=64,
    decoder_mlp_width=16,
)


def package_sam(model: SamModel = TINY, *, seed: int = 1, input_px: int | None = None) -> Sam:
    """The package's own `Sam` of a model's architecture, as its ``build_sam.py`` puts it together."""
    side = model.default_px if input_px is None else input_px
    grid = side // model.patch_px
    torch.manual_seed(seed)
    sam = Sam(
        image_encoder=ImageEncoderViT(
            depth=model.depth,
            embed_dim=model.width,
            img_size=side,
            mlp_ratio=4,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            num_heads=model.attention_heads,
            patch_size=model.patch_px,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=model.global_blocks,
            window_size=model.window,
            out_chans=256,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=256, image_embedding_size=(grid, grid), input_image_size=(side, side), mask_in_chans=16
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=model.decoder_mlp_width, num_heads=8),
            transformer_dim=256,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    ).eval()
    with torch.no_grad():
        for name, parameter in sam.named_parameters():
            # The package leaves them at zero: with zeros no test of positions could fail.
            if "rel_pos" in name or "pos_embed" in name:
                parameter.normal_(std=0.5)
    return sam


def checkpoint(folder: Path, content: object, name: str = "weights.pth") -> Path:
    """Write what a training framework might have written."""
    path = folder / name
    torch.save(content, path)
    return path


def tensors(seed: int = 1) -> dict[str, Tensor]:
    """A state dict under SAM's names: image_encoder.*, prompt_encoder.*, mask_decoder.*."""
    return package_sam(seed=seed).state_dict()
