"""AutoSAM with its encoder trained too: what a frozen encoder's cache is compared with, at the full price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

from torch import Tensor

from ..store.errors import UsageError
from .autosam import AutoSam
from .base import HeadContext, seeded
from .live_encoder import LiveEncoder, LiveHead
from .recipes import FitOptions


class FinetunedAutoSam(LiveHead):
    """SAM's image encoder and `autosam`'s decoder, trained together: the row "ft all" of AutoSAM's table.

    Source: AutoSAM (arXiv 2306.13731), table 1, where all of it fine-tuned is worse than the frozen encoder from one
    and from five volumes. The encoder runs in every step, on slices in its own square; rows that are embedded are
    neither read nor needed, only their recipe, which says which encoder, at which size.

    All parameters are trained: the encoder, and of the decoder what `autosam` names.

    Parameters
    ----------
    encoder
        Arguments of `LiveEncoder`.
    class_count, mlp_width
        As of `AutoSam`.
    """

    name: ClassVar[str] = "autosam-finetuned"
    # A tenth of what the decoder alone is trained with: what the encoder knows should be moved, not overwritten.
    own_fit = FitOptions(steps=150, learning_rate=1e-4, validate_every=None)
    needs_mask_decoder = True

    def __init__(self, *, encoder: Mapping[str, Any], class_count: int, mlp_width: int) -> None:
        super().__init__()
        self.encoder = LiveEncoder(**encoder)
        channels = self.encoder.shape.channels
        self.decoder = AutoSam(channels=channels, class_count=class_count, mlp_width=mlp_width)

    @classmethod
    def build(cls, context: HeadContext) -> Self:
        """Build it from an encoder and its mask decoder.

        Raises
        ------
        UsageError
            Without an encoder: it cannot begin from numbers of a seed.
        """
        source = context.live_encoder
        if source is None:
            message = f"{cls.name} begins from an encoder, and the context has none."
            raise UsageError(message)
        with seeded(context.seed):
            encoder = LiveEncoder.begun_from(source)
        shape = encoder.shape
        decoder = AutoSam.build(replace(context, input_shape=(shape.channels, shape.grid, shape.grid)))
        with seeded(context.seed):
            head = cls(encoder=encoder.config, class_count=context.class_count, mlp_width=decoder.mlp_width)
        head.encoder, head.decoder = encoder, decoder
        return head

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild the module."""
        return {
            "encoder": self.encoder.config,
            "class_count": self.decoder.class_count,
            "mlp_width": self.decoder.mlp_width,
        }

    def forward(self, squares_BCSS: Tensor) -> Tensor:
        """Return the logits, (B, K, S / 4, S / 4), of squares (B, 1 or 3, S, S) in [0, 1]; see `Sees.SQUARES`."""
        logits: Tensor = self.decoder(self.encoder(squares_BCSS))
        return logits
