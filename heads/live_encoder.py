"""SAM's image encoder as a part of a head, or the end of it: it runs in every step, and gradients reach it.

Blocks run as those of the frozen encoder do (`sam_blocks`), so that what an encoder's rows hold is where this begins.

Shapes: B slices, S pixels of the encoder's square, C channels of a token or of the embedding, h w cells of the grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from ..store.errors import UsageError
from .adapters import MLP_SCALE, BlockAdapters
from .base import Head, LiveEncoderWeights
from .sam_blocks import Positions, depth_attention, space_attention
from .sam_modules import Block, ImageEncoderViT
from .seen import Sees

_MLP_RATIO = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class SamShape:
    """The architecture of a SAM image encoder at one size of its input."""

    input_px: int
    patch_px: int
    #: Channels of a token.
    width: int
    depth: int
    attention_heads: int
    #: Blocks that attend to the whole grid; the others attend inside windows.
    global_blocks: tuple[int, ...]
    window: int
    #: Of the embedding.
    channels: int

    @property
    def grid(self) -> int:
        """Cells of the embedding along a side."""
        return self.input_px // self.patch_px

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read a shape."""
        return cls(**{**value, "global_blocks": tuple(value["global_blocks"])})

    def to_json(self) -> dict[str, Any]:
        """Return the shape as it is kept."""
        return {**asdict(self), "global_blocks": list(self.global_blocks)}

    def build(self) -> nn.Module:
        """Return the package's module, its numbers from torch's generator."""
        encoder: nn.Module = ImageEncoderViT(
            img_size=self.input_px,
            patch_size=self.patch_px,
            embed_dim=self.width,
            depth=self.depth,
            num_heads=self.attention_heads,
            mlp_ratio=_MLP_RATIO,
            out_chans=self.channels,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=self.window,
            global_attn_indexes=self.global_blocks,
        )
        return encoder


class EncoderTail(nn.Module):
    """The last blocks of SAM's image encoder and its neck: what follows a tap, with adapters or without.

    Parameters
    ----------
    shape
        Of the whole encoder.
    first
        The first block it has, from 0; rows tapped there are what it is given.

    Its numbers are undefined until they are loaded, see `begun_from`.
    """

    def __init__(self, shape: SamShape, first: int) -> None:
        super().__init__()
        self.shape, self.first = shape, first
        with torch.device("meta"):  # its numbers come with a state dict
            whole = shape.build()
        # By SAM's names, of the blocks that are left.
        numbered = list(enumerate(cast(nn.ModuleList, whole.blocks)))
        self.blocks = nn.ModuleDict({str(number): block for number, block in numbered[first:]})
        self.neck = cast(nn.Module, whole.neck)
        self.to_empty(device="cpu")

    @classmethod
    def begun_from(cls, source: LiveEncoderWeights, first: int) -> Self:
        """Build it with an encoder's own weights.

        Raises
        ------
        UsageError
            For a block that the encoder does not have.
        """
        shape = SamShape.from_json(source.shape)
        if not 0 <= first < shape.depth:
            message = f"block:{first}: the encoder has the blocks 0 to {shape.depth - 1}."
            raise UsageError(message)
        tail = cls(shape, first)
        tail.load_state_dict({name: source.tensors[name] for name in tail.state_dict()}, strict=True)
        return tail

    def forward(
        self, tokens_BChw: Tensor, adapters: Mapping[int, BlockAdapters] | None = None, lengths: Sequence[int] = ()
    ) -> Tensor:
        """Return the embeddings, (B, C, h, w), of the tokens that enter the first block.

        Parameters
        ----------
        tokens_BChw
            As rows of the tap are, any float kind.
        adapters
            By the number of the block that they are of.
        lengths
            Of the chunks of consecutive slices that the batch consists of, for adapters with a depth branch.
        """
        # Channels lie outermost in memory, as after the patches: the neck rounds by how its input lies.
        tokens = tokens_BChw.float().contiguous().permute(0, 2, 3, 1)
        for name, block in self.blocks.items():
            tokens = _through(block, tokens, (adapters or {}).get(int(name)), lengths)
        embedding: Tensor = self.neck(tokens.permute(0, 3, 1, 2))
        return embedding


class LiveEncoder(nn.Module):
    """Slices in the encoder's square in, embeddings out, with gradients.

    Parameters
    ----------
    shape
        Of the encoder, as `SamShape` keeps it.
    scale, mean, deviation
        What pixels in [0, 1] are multiplied by, less, and divided by: red, green, blue.
    resize
        Where a slice lies in the square, one of `frame.RESIZES`.
    """

    def __init__(
        self,
        *,
        shape: Mapping[str, Any],
        scale: float,
        mean: Sequence[float],
        deviation: Sequence[float],
        resize: str,
    ) -> None:
        super().__init__()
        self.shape = SamShape.from_json(shape)
        self.scale, self.mean, self.deviation, self.resize = scale, tuple(mean), tuple(deviation), resize
        self.model = self.shape.build()

    @classmethod
    def begun_from(cls, source: LiveEncoderWeights) -> Self:
        """Build it with an encoder's own weights.

        Raises
        ------
        UsageError
            For an encoder with a paper's rule for pixels, by which slices go a detour.
        """
        if source.pixels is None:
            message = (
                "this head runs an encoder on the slices, and of one with a paper's --pixels only embeddings can be "
                "had. Name a recipe by SAM's own rule, --encoder RECIPE, made by: samkit embed --pixels sam"
            )
            raise UsageError(message)
        encoder = cls(shape=source.shape, **source.pixels)
        encoder.model.load_state_dict(source.tensors, strict=True)
        return encoder

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild the module."""
        return {
            "shape": self.shape.to_json(),
            "scale": self.scale,
            "mean": list(self.mean),
            "deviation": list(self.deviation),
            "resize": self.resize,
        }

    def forward(
        self, squares_BCSS: Tensor, adapters: Mapping[int, BlockAdapters] | None = None, lengths: Sequence[int] = ()
    ) -> Tensor:
        """Return the embeddings, (B, C, h, w), of squares (B, 1 or 3, S, S); see `base.Sees.SQUARES`.

        Other parameters are those of `EncoderTail.forward`.
        """
        model = cast(ImageEncoderViT, self.model)
        pixels = squares_BCSS.float().expand(-1, 3, -1, -1) * self.scale
        mean, deviation = (pixels.new_tensor(values)[:, None, None] for values in (self.mean, self.deviation))
        # SAM pads what is normalised with 0.
        tokens = model.patch_embed(torch.nan_to_num((pixels - mean) / deviation, nan=0.0)) + model.pos_embed
        for number, block in enumerate(model.blocks):
            tokens = _through(block, tokens, (adapters or {}).get(number), lengths)
        embedding: Tensor = model.neck(tokens.permute(0, 3, 1, 2))
        return embedding


def _through(block: Block, tokens: Tensor, adapters: BlockAdapters | None, lengths: Sequence[int]) -> Tensor:
    """Return what a block makes of tokens, (B, h, w, C)."""
    attention = block.attn
    projected = attention.qkv(block.norm1(tokens))
    positions = Positions(attention, block.window_size or tokens.shape[1])
    attended = space_attention(attention, positions, projected)
    if adapters is not None:
        attended = attended + adapters.space(attended)
        if adapters.depth is not None:
            attended = attended + adapters.depth(depth_attention(attention, projected, lengths))
    tokens = tokens + attended
    normed = block.norm2(tokens)
    grown = block.mlp(normed)
    if adapters is not None:
        grown = grown + MLP_SCALE * adapters.mlp(normed)
    answered: Tensor = tokens + grown
    return answered


class LiveHead(Head):
    """A head that runs an encoder of its own, on slices in its square."""

    sees = Sees.SQUARES
    #: Which says where slices lie in the square.
    encoder: LiveEncoder
