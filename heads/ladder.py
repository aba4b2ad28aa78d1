"""SAM-LST: a CNN that sees the slice, added to SAM's embedding through a learned gate."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Head, HeadContext, check_options, seeded
from .sam_modules import MLP, PositionEmbeddingRandom, TwoWayTransformer, output_upscaling, resnet18_stages
from .seen import FeaturesAndSlices, Sees
from .two_way import two_way
from .upscaling import as_picture, upscaled

_DEPTH, _ATTENTION_HEADS, _MLP_WIDTH = 2, 8, 2048
# As in `autosam`: classes begin as SAM's token, moved a little.
_CLASS_JITTER = 0.2
_RESNET_CHANNELS = 256
# ImageNet's, which the CNN's weights were trained with.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Gate(StrEnum):
    """How SAM's embedding and the CNN's are added: the paper's Table II."""

    LEARNED = "learned"
    """sigmoid(alpha) of the one and the rest of the other, alpha trained from 0."""
    FIXED = "fixed"
    """Half of each."""
    CNN_ONLY = "cnn-only"
    SAM_ONLY = "sam-only"


class Ladder(Head):
    r"""ResNet-18 to its third stage on the slice, gated into SAM's embedding, then SAM's decoder without prompts.

    Source: Ladder fine-tuning, SAM-LST (arXiv 2306.12737), figure 2 and its code. With x from SAM and c from the CNN
    the decoder gets

    .. math:: \sigma(\alpha) x + (1 - \sigma(\alpha)) c,

    fused once, between neck and decoder. The slice lies in the encoder's frame, at 16 pixels a cell of the embedding,
    the CNN's own stride; 13 of ResNet-18's 18 layers are there.

    Trained: the CNN, alpha, the decoder's up-scaling, and the class tokens with their hyper-networks. The two-way
    transformer is SAM's and frozen. Where the published code differs:

    - its class tokens and hyper-networks are random and frozen, because its loader drops them; ``faithful`` does that;
    - it gives the CNN values in [0, 1]; here they are normalised as ImageNet was, but with ``faithful``;
    - its alpha decays towards an even gate, here it is spared; `--recipe sam-lst-paper` decays all.

    Options: ``gate`` (learned, fixed, cnn-only, sam-only) and ``faithful`` (yes, no).

    Parameters
    ----------
    channels
        Of the embedding, 256 for SAM; for others the CNN's 256 are projected.
    class_count
        Classes with background.
    mlp_width
        Of the transformer's MLP, 2048 for SAM.
    gate
        See `Gate`.
    faithful
        "yes" or "no".
    cnn_start
        What the CNN began from: ``imagenet`` with its digest, or ``seed``. It changes nothing here; runs keep it.
    """

    name: ClassVar[str] = "ladder"
    sees = Sees.FEATURES_AND_SLICES
    needs_mask_decoder = True
    takes_cnn_weights = True
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "gate": tuple(Gate),
        "faithful": ("no", "yes"),
    }

    def __init__(
        self,
        *,
        channels: int,
        class_count: int,
        mlp_width: int = _MLP_WIDTH,
        gate: str = Gate.LEARNED,
        faithful: str = "no",
        cnn_start: str = "seed",
    ) -> None:
        super().__init__()
        self.channels, self.class_count, self.mlp_width = channels, class_count, mlp_width
        self.gate, self.faithful, self.cnn_start = Gate(gate), faithful, cnn_start
        self.alpha = nn.Parameter(torch.zeros(1))
        self.cnn = resnet18_stages()
        self.projection = (
            nn.Identity() if channels == _RESNET_CHANNELS else nn.Conv2d(_RESNET_CHANNELS, channels, kernel_size=1)
        )
        # SAM's IoU token, then one a class.
        self.tokens = nn.Parameter(torch.randn(1 + class_count, channels))
        self.no_mask = nn.Parameter(torch.zeros(channels))
        self.position = PositionEmbeddingRandom(channels // 2)
        self.transformer = TwoWayTransformer(
            depth=_DEPTH, embedding_dim=channels, num_heads=_ATTENTION_HEADS, mlp_dim=mlp_width
        )
        self.upscaling = output_upscaling(channels)
        self.hypernetworks = nn.ModuleList(MLP(channels, channels, channels // 8, 3) for _ in range(class_count))
        self._freeze()

    def _freeze(self) -> None:
        trained = {
            "alpha": self.gate is Gate.LEARNED,
            "cnn": self.gate is not Gate.SAM_ONLY,
            "projection": self.gate is not Gate.SAM_ONLY,
            "tokens": self.faithful == "no",
            "hypernetworks": self.faithful == "no",
            "upscaling": True,
        }
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(trained.get(name.partition(".")[0], False))

    @classmethod
    def build(cls, context: HeadContext) -> Self:
        """Build a fresh head: its decoder from the encoder's, its CNN from ImageNet's weights where there are any."""
        options = check_options(cls, context.options)
        source, start = context.mask_decoder, context.cnn_weights
        mlp_width = _MLP_WIDTH if source is None else source.mlp_width
        with seeded(context.seed):
            head = cls(
                channels=context.input_shape[0],
                class_count=context.class_count,
                mlp_width=mlp_width,
                cnn_start="seed" if start is None else start.name,
                **options,
            )
            if source is not None:
                head._start_from(source.decoder, source.position_matrix, source.no_mask)
        if start is not None:
            wanted = head.cnn.state_dict()
            head.cnn.load_state_dict({name: start.tensors[name] for name in wanted if name in start.tensors})
        return head

    @torch.no_grad()
    def _start_from(self, decoder: Mapping[str, Tensor], position_matrix: Tensor, no_mask: Tensor) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): decoder[name] for name in decoder if name.startswith(prefix)}

        self.transformer.load_state_dict(part("transformer."))
        self.upscaling.load_state_dict(part("output_upscaling."))
        self.position.positional_encoding_gaussian_matrix.copy_(position_matrix)
        self.no_mask.copy_(no_mask)
        if self.faithful == "yes":
            self.tokens[:1].copy_(decoder["iou_token.weight"])
            return
        for hypernetwork in self.hypernetworks:
            hypernetwork.load_state_dict(part("output_hypernetworks_mlps.0."))
        begun = torch.cat([decoder["iou_token.weight"], decoder["mask_tokens.weight"][:1].expand(self.class_count, -1)])
        begun[1:] += _CLASS_JITTER * torch.randn_like(begun[1:])
        self.tokens.copy_(begun)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild the module."""
        return {
            "channels": self.channels,
            "class_count": self.class_count,
            "mlp_width": self.mlp_width,
            "gate": str(self.gate),
            "faithful": self.faithful,
            "cnn_start": self.cnn_start,
        }

    @property
    def told(self) -> dict[str, float]:
        """The gate's share of SAM, for the record of each step."""
        return {"gate": float(self._share.detach())}

    @property
    def _share(self) -> Tensor:
        """Of SAM's embedding in the sum, 0-d."""
        shares = {Gate.FIXED: 0.5, Gate.CNN_ONLY: 0.0, Gate.SAM_ONLY: 1.0}
        if self.gate is Gate.LEARNED:
            return self.alpha.sigmoid()[0]
        return torch.tensor(shares[self.gate], device=self.alpha.device)

    def forward(self, seen: FeaturesAndSlices) -> Tensor:
        """Return the logits, (B, K, 4 h, 4 w)."""
        height, width = seen.features.shape[-2:]
        share = self._share
        fused = share * seen.features.float()
        if self.gate is not Gate.SAM_ONLY:
            fused = fused + (1 - share) * self._by_cnn(seen.slices, (height, width))
        cells = fused.flatten(2).transpose(1, 2) + self.no_mask
        position = self.position((height, width)).flatten(1).transpose(0, 1)
        answered, embeddings = two_way(self.transformer, cells, position, self.tokens[None, None])
        finest = upscaled(self.upscaling, embeddings[:, 0])  # B, h w, 4, 4, C / 8
        answers = [network(answered[:, 0, 1 + number]) for number, network in enumerate(self.hypernetworks)]
        return as_picture(torch.einsum("bkc,bnijc->bknij", torch.stack(answers, dim=1), finest), height, width)

    def _by_cnn(self, slices: Tensor, size: tuple[int, int]) -> Tensor:
        images = slices.float().expand(-1, 3, -1, -1)
        if self.faithful == "no":
            mean, deviation = (
                torch.tensor(values, device=images.device)[:, None, None] for values in (_MEAN, _DEVIATION)
            )
            images = (images - mean) / deviation
        found: Tensor = self.projection(self.cnn(images))
        if found.shape[-2:] != size:  # an encoder whose patches are not of 16 pixels
            found = F.interpolate(found, size, mode="bilinear", align_corners=False)
        return found
