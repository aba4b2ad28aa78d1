"""SAM as it is, prompted with the box of each class around the reference: what can be had without any training.

Shapes: B slices, K classes with background, C channels, h w cells of the embedding.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

from torch import Tensor

from .base import Head, HeadContext, seeded
from .prompting import PromptedDecoder, Prompts
from .sam_modules import MaskDecoder, PromptEncoder, TwoWayTransformer
from .seen import FeaturesAndBoxes, Sees

_DEPTH, _ATTENTION_HEADS, _MLP_WIDTH = 2, 8, 2048
_AMBIGUOUS_MASKS = 3
_MASK_CHANNELS = 16
# Prompts are told in shares of the encoder's square: a frame of one pixel, whose middle is at 0.5.
_FRAME = (1, 1)
_MIDDLE = 0.5
# What a class without a box has: never the highest, and not infinite, because logits are interpolated afterwards.
_NO_BOX = -1000.0


class SamBox(Head):
    """SAM's prompt encoder and mask decoder, a box a class, the one mask that SAM gives where a prompt says enough.

    Boxes are those of the reference: this is no method but a bound, and it knows which classes a slice shows. Where
    masks overlap the highest logit wins; where none is above 0 there is background. Source: the zero-shot row of
    AutoSAM (arXiv 2306.13731), scripts/inference.py:153-297. Where it differs from the published code: slices have
    SAM's range of values, boxes are clipped to the slice, and of equal logits none is preferred, so that a cavity
    inside a ring is not lost to it.

    Nothing is trained, and no subject is drawn.

    Parameters
    ----------
    channels
        Of the embedding, 256 for SAM.
    class_count
        Classes with background.
    mlp_width
        Of the transformer's MLP, 2048 for SAM.
    """

    name: ClassVar[str] = "sam-box"
    sees = Sees.FEATURES_AND_BOXES
    needs_mask_decoder = True
    zero_shot = True

    def __init__(self, *, channels: int, class_count: int, mlp_width: int = _MLP_WIDTH) -> None:
        super().__init__()
        self.channels, self.class_count, self.mlp_width = channels, class_count, mlp_width
        transformer = TwoWayTransformer(
            depth=_DEPTH, embedding_dim=channels, num_heads=_ATTENTION_HEADS, mlp_dim=mlp_width
        )
        self.prompted = PromptedDecoder(
            PromptEncoder(channels, _FRAME, _FRAME, _MASK_CHANNELS),
            MaskDecoder(transformer_dim=channels, transformer=transformer, num_multimask_outputs=_AMBIGUOUS_MASKS),
        )
        self.requires_grad_(requires_grad=False)

    @classmethod
    def build(cls, context: HeadContext) -> Self:
        """Build it from the encoder's prompt encoder and mask decoder, or from the seed where there are none."""
        source = context.mask_decoder
        mlp_width = _MLP_WIDTH if source is None else source.mlp_width
        with seeded(context.seed):
            head = cls(channels=context.input_shape[0], class_count=context.class_count, mlp_width=mlp_width)
        if source is not None:
            head.prompted.mask_decoder.load_state_dict(dict(source.decoder))
            head.prompted.prompt_encoder.load_state_dict(dict(source.prompt_encoder))
        return head

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild the module."""
        return {"channels": self.channels, "class_count": self.class_count, "mlp_width": self.mlp_width}

    def forward(self, seen: FeaturesAndBoxes) -> Tensor:
        """Return the logits, (B, K, 4 h, 4 w); background's are 0."""
        features, boxes = seen.features.float(), seen.boxes.float()
        height, width = features.shape[-2:]
        logits = features.new_full((len(features), self.class_count, 4 * height, 4 * width), _NO_BOX)
        logits[:, 0] = 0
        slices, classes = boxes.isfinite().all(dim=-1).nonzero(as_tuple=True)
        if len(slices):
            masks, _ = self.prompted(features[slices], Prompts.of_boxes(boxes[slices, classes] - _MIDDLE))
            logits[slices, 1 + classes] = masks[:, 0]
        return logits
