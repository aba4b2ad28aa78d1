"""AutoSAM's prompt-free mask decoder: SAM's decoder asked for classes instead of prompts.

Shapes: B slices, K classes, C channels, h w cells of the embedding, T tokens a class.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from .adapters import DecoderAdapters
from .base import Head, HeadContext, seeded
from .recipes import FitOptions
from .sam_modules import MLP, PositionEmbeddingRandom, TwoWayTransformer, output_upscaling
from .two_way import two_way
from .upscaling import as_picture, upscaled

# SAM's decoder: depth 2, 8 attention heads, MLP 2048.
_DEPTH = 2
_ATTENTION_HEADS = 8
_MLP_WIDTH = 2048
# A class starts as SAM's tokens moved a little, so that the classes differ from the first step. SAM's trained
# tokens have a standard deviation of about 1 an entry, as `nn.Embedding` starts them.
_CLASS_JITTER = 0.2


class AutoSam(Head):
    """SAM's mask decoder without prompts, one set of tokens a class, all other weights shared by the classes.

    Source: AutoSAM (arXiv 2306.13731), models/sam_decoder.py. Every class has two tokens of its
    own (SAM's IoU token and one mask token); the two-way transformer, the up-scaling and the hyper-network make an
    embedding of its own of the slice's (`two_way`: without the copies that the published code starts from), and the
    class's logits are the product of its mask token and the up-scaled embedding.

    Where it differs from the published code:

    - the position encoding is SAM's own (there a random matrix that is drawn anew in every run and never saved);
    - one mask token a class (there two, of which the second is attended to and never read) that starts from SAM's, and
      an IoU token that is trained (there random and frozen);
    - SAM's ``no_mask_embed`` is added to the embedding, as when SAM was trained;
    - no IoU head: its output is not used for the loss.

    All parameters are trained: class tokens, transformer, up-scaling, hyper-network, ``no_mask``; but for the biases of
    keys, on which no answer depends: they add the same to whatever is compared. The position matrix is a buffer and is
    saved with the head. With SAM's sizes 3,504,128 numbers are trained and 512 a class.

    Parameters
    ----------
    channels
        Of the embedding, 256 for SAM.
    class_count
        Classes with background.
    mlp_width
        Of the transformer's MLP, 2048 for SAM.
    """

    name: ClassVar[str] = "autosam"
    own_fit = FitOptions(steps=150, learning_rate=1e-3, validate_every=None)
    needs_mask_decoder = True

    def __init__(self, *, channels: int, class_count: int, mlp_width: int = _MLP_WIDTH) -> None:
        super().__init__()
        self.channels, self.class_count, self.mlp_width = channels, class_count, mlp_width
        self.class_tokens = nn.Parameter(torch.randn(class_count, 2, channels))
        self.no_mask = nn.Parameter(torch.zeros(channels))
        self.position = PositionEmbeddingRandom(channels // 2)
        self.transformer = TwoWayTransformer(
            depth=_DEPTH, embedding_dim=channels, num_heads=_ATTENTION_HEADS, mlp_dim=mlp_width
        )
        for name, parameter in self.transformer.named_parameters():
            parameter.requires_grad_(not name.endswith("k_proj.bias"))
        self.output_upscaling = output_upscaling(channels)
        self.hypernetwork = MLP(channels, channels, channels // 8, 3)

    @classmethod
    def build(cls, context: HeadContext) -> Self:
        """Build a fresh head, from the encoder's mask decoder where there is one, else from the seed."""
        source = context.mask_decoder
        mlp_width = _MLP_WIDTH if source is None else source.mlp_width
        with seeded(context.seed):
            head = cls(channels=context.input_shape[0], class_count=context.class_count, mlp_width=mlp_width)
            if source is not None:
                head._start_from(source.decoder, source.position_matrix, source.no_mask)
        return head

    @torch.no_grad()
    def _start_from(self, decoder: Any, position_matrix: Tensor, no_mask: Tensor) -> None:  # noqa: ANN401
        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): decoder[name] for name in decoder if name.startswith(prefix)}

        self.transformer.load_state_dict(part("transformer."))
        self.output_upscaling.load_state_dict(part("output_upscaling."))
        # Mask token 0 and its hyper-network are those of SAM's single-mask answer.
        self.hypernetwork.load_state_dict(part("output_hypernetworks_mlps.0."))
        self.position.positional_encoding_gaussian_matrix.copy_(position_matrix)
        self.no_mask.copy_(no_mask)
        tokens = torch.cat([decoder["iou_token.weight"], decoder["mask_tokens.weight"][:1]])
        self.class_tokens.copy_(tokens + _CLASS_JITTER * torch.randn_like(self.class_tokens))

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild the module."""
        return {"channels": self.channels, "class_count": self.class_count, "mlp_width": self.mlp_width}

    def forward(self, features_BChw: Tensor) -> Tensor:
        """Return the logits, (B, K, 4 h, 4 w)."""
        return self.answered(features_BChw)

    def answered(self, features_BChw: Tensor, adapters: DecoderAdapters | None = None) -> Tensor:
        """Return the logits, (B, K, 4 h, 4 w), with adapters in the transformer's layers; see `two_way`."""
        height, width = features_BChw.shape[-2:]
        cells = features_BChw.float().flatten(2).transpose(1, 2) + self.no_mask
        position = self.position((height, width)).flatten(1).transpose(0, 1)
        answered, cells = two_way(self.transformer, cells, position, self.class_tokens[None], adapters)
        mask_token = self.hypernetwork(answered[:, :, 1])
        finest = upscaled(self.output_upscaling, cells)  # B, K, h w, 4, 4, C / 8
        return as_picture(torch.einsum("bkc,bknijc->bknij", mask_token, finest), height, width)


class SamAuto(AutoSam):
    """`AutoSam` as it begins: no prompt and no training, so that what it answers is chance.

    Source: the row "SAM without fine-tuning" of SAM-LST (arXiv 2306.12737), Dice 1.73 %, whose class tokens are random
    numbers; here they are SAM's, moved a little.

    Nothing is trained, and no subject is drawn.
    """

    name: ClassVar[str] = "sam-auto"
    zero_shot = True

    def __init__(self, *, channels: int, class_count: int, mlp_width: int = _MLP_WIDTH) -> None:
        super().__init__(channels=channels, class_count=class_count, mlp_width=mlp_width)
        self.requires_grad_(requires_grad=False)
