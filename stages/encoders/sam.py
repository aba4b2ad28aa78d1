"""SAM's image encoder through the `segment-anything` package, at any input size.

Source: Kirillov et al., "Segment Anything" (arXiv 2304.02643); the package's modules and
its weights' names. At other sizes than 1024 the absolute position embedding and the relative
positions of the *global* blocks are interpolated bilinearly (the rule of SAMed and SAM-LST);
windowed blocks have a grid of their own size and stay as they are.

Shapes: B slices, S pixels of the square, C channels, h w cells of the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...heads.base import LiveEncoderWeights, MaskDecoderWeights, seeded
from ...heads.live_encoder import SamShape
from ...heads.prompting import PromptedDecoder
from ...heads.sam_modules import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from ...store.errors import UsageError, WeightsError
from ...store.keys import NECK, Recipe, block_of
from .checkpoints import read_checkpoint
from .devices import find_device, ieee_convolutions, resolve_precision
from .digests import file_sha256, tensors_sha256
from .memory import LESS_MEMORY, telling_of_memory
from .pixels import check_size, pixel_rule, prepare
from .sam_forward import SamForward

# Names of kernel paths. Where the order of the arithmetic changes, so does the name: rows of one compute class are
# bitwise alike.
_OWN_FORWARD, _PACKAGE_FORWARD = "samkit-1", "package"

_NECK_CHANNELS = 256
# Of the rules of `pixels`, the one that SAM's weights were trained with.
_OWN_RULE = "sam"
_SEED = 0
# As timm and SAM's own training start a ViT: small weights leave the residual stream close to the patches.
_INITIAL_DEVIATION = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class SamModel:
    """One size of SAM: the architecture, without weights."""

    name: str
    #: Channels of a token.
    width: int
    depth: int
    attention_heads: int
    #: Blocks that attend to the whole grid; the others attend inside windows.
    global_blocks: tuple[int, ...]
    window: int = 14
    patch_px: int = 16
    #: Side of the square that the architecture was made for.
    default_px: int = 1024
    #: Width of the MLP in the mask decoder's transformer.
    decoder_mlp_width: int = 2048
    #: Weights that come with samkit.
    own_weights: Path | None = None
    needs_weights: ClassVar[bool] = True

    def load(
        self,
        weights: Path | None,
        *,
        size: int | None = None,
        device: str = "cpu",
        precision: str = "float32",
        storage_precision: str = "float16",
        pixel_normalisation: str | None = None,
        tap: str | None = None,
    ) -> SamEncoder:
        """Build the encoder, from a checkpoint or, with None, from a seed; see `load_encoder`."""
        rule = pixel_rule(_OWN_RULE if pixel_normalisation is None else pixel_normalisation)
        input_px = (rule.input_px or self.default_px) if size is None else size
        check_size(self.name, input_px, self.patch_px)
        self._check_tap(tap or NECK)
        target = find_device(device)
        parts = self.parts(input_px)
        if weights is None:
            # A seed is one set of weights at every size: its positions are brought there as a checkpoint's are.
            made = parts if input_px == self.default_px else self.parts(self.default_px)
            tensors = {f"{part}.{name}": value for part in made for name, value in made[part].state_dict().items()}
            sha256 = tensors_sha256(tensors)
        else:
            tensors = read_checkpoint(weights)
            sha256 = file_sha256(weights)
        self._fill(parts["image_encoder"], tensors, input_px, weights)
        recipe = Recipe(
            encoder=self.name,
            weights_sha256=sha256,
            tap=tap or NECK,
            input_px=input_px,
            resize=rule.resize,
            pixel_normalisation=rule.name,
            compute_precision=resolve_precision(precision, target),
            storage_precision=storage_precision,
        )
        decoder = self._decoder(parts, tensors, weights)
        return SamEncoder(parts["image_encoder"], recipe, target, shape=self.shape(input_px), mask_decoder=decoder)

    def prompted_decoder(self, weights: Path, *, size: int | None = None) -> PromptedDecoder:
        """Build the prompt encoder and the mask decoder of a checkpoint, for embeddings of an input of that size.

        Raises
        ------
        WeightsError
            When the checkpoint has none, or another model's.
        """
        input_px = self.default_px if size is None else size
        check_size(self.name, input_px, self.patch_px)
        parts, tensors = self.parts(input_px), read_checkpoint(weights)
        for part in ("prompt_encoder", "mask_decoder"):
            prefix = f"{part}."
            given = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            try:
                parts[part].load_state_dict(given, strict=True)
            except RuntimeError as error:
                message = (
                    f"{weights}: its {part} is missing or not that of {self.name}, so that it cannot be prompted. Give "
                    f"a checkpoint of all of SAM: `samkit weights list`"
                )
                raise WeightsError(message) from error
        decoder = PromptedDecoder(parts["prompt_encoder"], parts["mask_decoder"])
        return decoder.eval().requires_grad_(requires_grad=False)

    def shape(self, input_px: int) -> SamShape:
        """Return the architecture of the image encoder for an input of that size."""
        return SamShape(
            input_px=input_px,
            patch_px=self.patch_px,
            width=self.width,
            depth=self.depth,
            attention_heads=self.attention_heads,
            global_blocks=self.global_blocks,
            window=self.window,
            channels=_NECK_CHANNELS,
        )

    @property
    def block_count(self) -> int:
        """How many transformer blocks it has."""
        return self.depth

    # -- building ----------------------------------------------------------------------------------

    def parts(self, input_px: int, *, seed: int = _SEED) -> dict[str, nn.Module]:
        """Build the three parts of SAM with seeded numbers, under the checkpoint's names."""
        grid = input_px // self.patch_px
        with seeded(seed):
            encoder = self.shape(input_px).build()
            _start(encoder)
            prompt_encoder = PromptEncoder(
                embed_dim=_NECK_CHANNELS,
                image_embedding_size=(grid, grid),
                input_image_size=(input_px, input_px),
                mask_in_chans=16,
            )
            mask_decoder = MaskDecoder(
                transformer_dim=_NECK_CHANNELS,
                transformer=TwoWayTransformer(
                    depth=2, embedding_dim=_NECK_CHANNELS, mlp_dim=self.decoder_mlp_width, num_heads=8
                ),
                num_multimask_outputs=3,
            )
        return {"image_encoder": encoder, "prompt_encoder": prompt_encoder, "mask_decoder": mask_decoder}

    def _check_tap(self, tap: str) -> None:
        block = block_of(tap)
        if tap != NECK and (block is None or block >= self.depth or tap != f"block:{block}"):
            message = (
                f"--tap {tap}: {self.name} has {NECK}, what it ends with, and block:0 to block:{self.depth - 1}, what "
                f"enters each of its blocks."
            )
            raise UsageError(message)

    def _fill(self, encoder: nn.Module, tensors: Mapping[str, Tensor], input_px: int, file: Path | None) -> None:
        """Load the image encoder strictly, its positions brought to this grid."""
        prefix = "image_encoder."
        given = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        given = self.resized_positions(given, input_px)
        expected = encoder.state_dict()
        missing = sorted(expected.keys() - given.keys())
        surplus = sorted(given.keys() - expected.keys())
        misshapen = [
            f"{name} is {tuple(given[name].shape)}, {self.name} has {tuple(expected[name].shape)}"
            for name in sorted(expected.keys() & given.keys())
            if given[name].shape != expected[name].shape
        ]
        if missing or surplus or misshapen:
            told = [
                *misshapen[:2],
                *(f"missing {name}" for name in missing[:2]),
                *(f"unknown {name}" for name in surplus[:2]),
            ]
            message = (
                f"{file}: not the weights of {self.name}: {'; '.join(told)} "
                f"({len(misshapen)} of another shape, {len(missing)} missing, {len(surplus)} unknown). "
                f"`samkit weights add {file}` says which encoder a checkpoint belongs to."
            )
            raise WeightsError(message)
        encoder.load_state_dict(given, strict=True)

    def resized_positions(self, tensors: Mapping[str, Tensor], input_px: int) -> dict[str, Tensor]:
        """Return an image encoder's tensors with its positions brought to another grid.

        The absolute position embedding (1, grid, grid, width) and the relative positions of the global blocks
        (2 grid - 1, head width) are interpolated bilinearly with ``align_corners=False`` and no antialias
        (SAMed's rule, SAM-LST build_sam.py:145-160, with the blocks named exactly, for all sizes of SAM).
        """
        grid = input_px // self.patch_px
        resized = dict(tensors)
        absolute = tensors.get("pos_embed")
        if absolute is not None and absolute.shape[1] != grid:
            image = F.interpolate(
                absolute.float().permute(0, 3, 1, 2), (grid, grid), mode="bilinear", align_corners=False
            )
            resized["pos_embed"] = image.permute(0, 2, 3, 1)
        for block in self.global_blocks:
            for name in (f"blocks.{block}.attn.rel_pos_h", f"blocks.{block}.attn.rel_pos_w"):
                relative = tensors.get(name)
                if relative is not None and relative.shape[0] != 2 * grid - 1:
                    table = F.interpolate(
                        relative.float()[None, None],
                        (2 * grid - 1, relative.shape[1]),
                        mode="bilinear",
                        align_corners=False,
                    )
                    resized[name] = table[0, 0]
        return resized

    def _decoder(
        self, parts: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], file: Path | None
    ) -> MaskDecoderWeights | None:
        """Return SAM's mask decoder, None where the checkpoint is an image encoder alone; what others added is left."""

        def of(part: str) -> dict[str, Tensor]:
            named = {name: f"{part}.{name}" for name in parts[part].state_dict()}
            return {name: tensors[long] for name, long in named.items() if long in tensors}

        matrix = tensors.get("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix")
        no_mask = tensors.get("prompt_encoder.no_mask_embed.weight")
        expected, decoder = parts["mask_decoder"].state_dict(), of("mask_decoder")
        if not decoder or matrix is None or no_mask is None:
            return None
        wrong = [name for name in expected if name not in decoder or decoder[name].shape != expected[name].shape]
        if wrong:
            message = (
                f"{file}: its mask decoder is not SAM's: {len(wrong)} of {len(expected)} tensors are missing or of "
                f"another shape (mask_decoder.{wrong[0]}, ...). Heads start from it; to use the image encoder alone, "
                f"save its state dict without mask_decoder.*"
            )
            raise WeightsError(message)
        prompt_encoder = of("prompt_encoder")
        whole = prompt_encoder.keys() == parts["prompt_encoder"].state_dict().keys()
        return MaskDecoderWeights(
            decoder=decoder,
            position_matrix=matrix,
            no_mask=no_mask[0],
            prompt_encoder=prompt_encoder if whole else {},
            trained=file is not None,
        )


class SamEncoder:
    """SAM's frozen image encoder; an `Encoder`."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        device: torch.device,
        *,
        shape: SamShape,
        mask_decoder: MaskDecoderWeights | None,
    ) -> None:
        with telling_of_memory(device, f"loading {recipe.encoder}", LESS_MEMORY):
            self.model = model.to(device).eval().requires_grad_(requires_grad=False)
        self.device = device
        self._recipe = recipe
        self._shape = shape
        self._mask_decoder = mask_decoder
        self._forward: SamForward | None = None

    @property
    def recipe(self) -> Recipe:
        """Everything that changes the numbers."""
        return self._recipe

    @property
    def embedding_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one slice's embedding, or of its tokens."""
        channels = self._shape.channels if self._recipe.block is None else self._shape.width
        return (channels, self._shape.grid, self._shape.grid)

    @property
    def trained(self) -> bool:
        """False where the weights come from a seed."""
        return self._mask_decoder is None or self._mask_decoder.trained

    @property
    def mask_decoder(self) -> MaskDecoderWeights | None:
        """SAM's mask decoder, where the checkpoint has one."""
        return self._mask_decoder

    @property
    def live(self) -> LiveEncoderWeights:
        """SAM's image encoder, and its own rule for pixels; by a paper's rule slices go a detour."""
        rule = pixel_rule(self._recipe.pixel_normalisation)
        pixels = {
            "scale": rule.scale,
            "mean": list(rule.mean),
            "deviation": list(rule.deviation),
            "resize": rule.resize,
        }
        return LiveEncoderWeights(
            shape=self._shape.to_json(),
            pixels=pixels if rule.name == _OWN_RULE else None,
            tensors=self.model.state_dict(),
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Return the embeddings, (B, C, h, w) float32, of (B, 1 or 3, H, W) images in [0, 1]."""
        return self.encode(self.prepare(images))

    def prepare(self, images: Tensor) -> Tensor:
        """Return (B, 3, S, S), normalised as the weights expect."""
        return prepare(
            images.to(self.device),
            input_px=self._recipe.input_px,
            pixel_normalisation=self._recipe.pixel_normalisation,
        )

    @property
    def kernel_paths(self) -> tuple[str, ...]:
        """Samkit's own forward pass, and the `segment-anything` package's."""
        return (_OWN_FORWARD, _PACKAGE_FORWARD)

    # Not inference_mode: a head could not be trained on its tensors, and training on a live encoder is a fair wish.
    @torch.no_grad()
    def encode(self, prepared: Tensor, kernel_path: str | None = None) -> Tensor:
        """Return the embeddings, or tokens where the recipe taps a block, (B, C, h, w) float32, of prepared slices.

        Raises
        ------
        UsageError
            A kernel path that this version does not have.
        """
        path = kernel_path or self.kernel_paths[0]
        half = self._recipe.compute_precision == "bfloat16"
        if path == _OWN_FORWARD:
            if self._forward is None:
                self._forward = SamForward(self.model, torch.bfloat16 if half else torch.float32)
            with ieee_convolutions():
                return self._forward(prepared, until=self._recipe.block)
        if path == _PACKAGE_FORWARD:
            with ieee_convolutions(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
                return self._by_package(prepared).float()
        message = (
            f"these rows were computed by {path!r}, and this version of samkit computes by "
            f"{' and '.join(self.kernel_paths)}. Install the version that made them, or embed into a new workspace."
        )
        raise UsageError(message)

    def _by_package(self, prepared: Tensor) -> Tensor:
        """Return what the package's forward pass makes of prepared slices, up to the recipe's tap."""
        until = self._recipe.block
        if until is None:
            embedding: Tensor = self.model(prepared)
            return embedding
        model = cast(ImageEncoderViT, self.model)
        tokens: Tensor = model.patch_embed(prepared) + model.pos_embed
        for block in model.blocks[:until]:
            tokens = block(tokens)
        return tokens.permute(0, 3, 1, 2).contiguous()


def _start(encoder: nn.Module) -> None:
    """Give a ViT the starting values that it is trained from; position tables too, which the package leaves at 0."""
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=_INITIAL_DEVIATION)
            nn.init.zeros_(module.bias)
    for name, parameter in encoder.named_parameters():
        if name == "pos_embed" or ".rel_pos_" in name:
            nn.init.trunc_normal_(parameter, std=_INITIAL_DEVIATION)


SAM_VIT_B = SamModel(name="sam_vit_b", width=768, depth=12, attention_heads=12, global_blocks=(2, 5, 8, 11))
SAM_VIT_L = SamModel(name="sam_vit_l", width=1024, depth=24, attention_heads=16, global_blocks=(5, 11, 17, 23))
SAM_VIT_H = SamModel(name="sam_vit_h", width=1280, depth=32, attention_heads=16, global_blocks=(7, 15, 23, 31))
