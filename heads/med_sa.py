"""Medical SAM Adapter: adapters inside SAM's encoder and decoder, on a cached prefix or on the whole encoder live.

Shapes: B slices, K classes with background, N prompted masks, C channels, h w cells of the embedding, G = 4 h.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from ..store.errors import UsageError
from .adapters import Adapter, BlockAdapters, DecoderAdapters, HyperAdapter, LayerAdapters
from .autosam import AutoSam
from .base import HeadContext, LiveEncoderWeights, MaskDecoderWeights, PartParameters, seeded
from .chunks import ChunkHead
from .live_encoder import EncoderTail, LiveEncoder, SamShape
from .losses import IGNORED
from .prompt_rules import PROMPTS, Asked, PromptRule, click_on_error
from .prompting import PointKind, PromptedDecoder, Prompts
from .recipes import FitOptions
from .sam_modules import MaskDecoder, PromptEncoder, TwoWayTransformer
from .seen import Chunks, ClassPrompts, Sees

# SAM's decoder: depth 2, 8 attention heads, MLP 2048, 16 channels where a mask enters, four masks of which the first is
# the answer to a prompt that says enough.
_DEPTH, _ATTENTION_HEADS, _MLP_WIDTH, _MASK_CHANNELS, _AMBIGUOUS_MASKS = 2, 8, 2048, 16, 3
_DECODER_RATIO = 0.25
# The logit of what was not asked for: never the highest, not even beside another.
_NOT_ASKED = -1e4
# Prompted masks that are decoded together where nothing is learned: at SAM's sizes each takes some 40 MB.
_AT_ONCE = 16
# Places are told as shares of the encoder's square.
_FRAME, _MIDDLE = (1, 1), 0.5


class _MedSa(ChunkHead):
    """What the two below have in common: adapters, the decoder, and prompts."""

    own_fit = FitOptions(steps=300, learning_rate=1e-3, validate_every=None)
    needs_mask_decoder = True
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "adapted-blocks": ("last:3", "last:N"),
        "sd-trans": ("on", "off"),
        "hyp": ("on", "off"),
        "prompt": PROMPTS,
        "chunk": ("auto", "N"),
        "adapter-ratio": ("0.25", "0.0625"),
    }

    def __init__(
        self,
        *,
        shape: SamShape,
        class_count: int,
        mlp_width: int,
        adapted_blocks: str,
        sd_trans: str,
        hyp: str,
        prompt: str,
        chunk: str,
        adapter_ratio: str,
    ) -> None:
        super().__init__()
        self.shape, self.class_count, self.mlp_width = shape, class_count, mlp_width
        self.chosen = {
            "adapted_blocks": adapted_blocks,
            "sd_trans": sd_trans,
            "hyp": hyp,
            "prompt": prompt,
            "chunk": chunk,
            "adapter_ratio": adapter_ratio,
        }
        self.rule = PromptRule.parse(prompt)
        self.chunk = 1 if sd_trans == "off" else None if chunk == "auto" else int(chunk)
        first = first_adapted(adapted_blocks, shape.depth)
        width, hidden = shape.width, max(1, round(float(adapter_ratio) * shape.width))

        def in_blocks() -> nn.ModuleDict:
            return nn.ModuleDict({str(number): Adapter(width, hidden) for number in range(first, shape.depth)})

        self.space_adapters, self.mlp_adapters = in_blocks(), in_blocks()
        self.depth_adapters = in_blocks() if sd_trans == "on" else nn.ModuleDict()
        channels, narrow = shape.channels, round(_DECODER_RATIO * shape.channels)
        prompt_adapter = HyperAdapter if hyp == "on" else Adapter
        self.prompt_adapters = nn.ModuleList(prompt_adapter(channels, narrow) for _ in range(_DEPTH))
        self.decoder_mlp_adapters = nn.ModuleList(Adapter(channels, narrow) for _ in range(_DEPTH))
        self.embedding_adapters = nn.ModuleList(Adapter(channels, narrow) for _ in range(_DEPTH))
        #: (1, C), what the prompt's adapters are told where nothing is asked: SAM's point that is none.
        self.nothing_asked: Tensor
        self.register_buffer("nothing_asked", torch.zeros(1, channels))
        self.decoder: AutoSam | PromptedDecoder
        if self.rule.kind is Asked.NONE:
            self.decoder = AutoSam(channels=channels, class_count=class_count, mlp_width=mlp_width)
        else:
            self.decoder = _prompted_decoder(channels, mlp_width)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild the module."""
        return {"class_count": self.class_count, "mlp_width": self.mlp_width, **self.chosen}

    @classmethod
    def asks_reference(cls, config: Mapping[str, Any]) -> bool:
        """Return whether it is asked with anything."""
        return bool(config.get("prompt", PROMPTS[0]) != PROMPTS[0])

    @classmethod
    def entered_block(cls, options: Mapping[str, str], depth: int) -> int:
        """Return the first block that is adapted."""
        return first_adapted(options.get("adapted-blocks", cls.options["adapted-blocks"][0]), depth)

    def forward(self, seen: Chunks) -> Tensor:
        """Return the logits, (B, K, G, G); with prompts background's are 0, and what is not asked for is never said."""
        embedding = self._embedded(seen, self._block_adapters())
        kinds = (self.prompt_adapters, self.decoder_mlp_adapters, self.embedding_adapters)
        layers = [LayerAdapters(*cast(tuple[Adapter, Adapter, Adapter], each)) for each in zip(*kinds, strict=True)]
        if isinstance(self.decoder, AutoSam):
            return self.decoder.answered(embedding, DecoderAdapters(layers, self.nothing_asked))
        if seen.prompts is None:
            message = f"{self.name} was built for --prompt {self.chosen['prompt']}, and none is given."
            raise UsageError(message)
        return self._prompted(embedding, seen.prompts, layers)

    @abstractmethod
    def _embedded(self, seen: Chunks, adapters: Mapping[int, BlockAdapters]) -> Tensor:
        """Return the embeddings, (B, C, h, w), by the encoder with adapters in it."""

    def _block_adapters(self) -> dict[int, BlockAdapters]:
        space, mlp, depth = (
            {int(number): cast(Adapter, adapter) for number, adapter in kind.items()}
            for kind in (self.space_adapters, self.mlp_adapters, self.depth_adapters)
        )
        return {
            number: BlockAdapters(space=space[number], mlp=mlp[number], depth=depth.get(number)) for number in space
        }

    def _prompted(self, embedding: Tensor, prompts: ClassPrompts, layers: list[LayerAdapters]) -> Tensor:
        count, _, height, width = embedding.shape
        logits = embedding.new_full((count, self.class_count, 4 * height, 4 * width), _NOT_ASKED, dtype=torch.float32)
        logits[:, 0] = 0
        asked = (prompts.kinds != PointKind.NOTHING).any(dim=-1).nonzero()
        if not len(asked):
            return logits + 0 * embedding.sum()  # a step on slices that show nothing has gradients too: of 0
        # While it learns, a batch is as large as it is; afterwards a chunk of many classes may be larger.
        for slices, classes in (part.unbind(dim=1) for part in asked.split(len(asked) if self.training else _AT_ONCE)):
            logits[slices, 1 + classes] = self._masks(embedding[slices].float(), prompts, slices, classes, layers)
        return logits

    def _masks(
        self, pictures: Tensor, prompts: ClassPrompts, slices: Tensor, classes: Tensor, layers: list[LayerAdapters]
    ) -> Tensor:
        """Return the logits of prompted masks, (N, G, G), corrected as often as the rule says."""
        assert isinstance(self.decoder, PromptedDecoder)
        asked = Prompts(points=prompts.points[slices, classes] - _MIDDLE, kinds=prompts.kinds[slices, classes])
        if self.rule.kind is not Asked.BOX:
            asked = asked.with_nothing()
        masks, _ = self.decoder(pictures, asked, adapters=layers)
        shown = prompts.reference[slices].cpu()
        for _ in range(self._corrections()):
            answer = masks[:, 0].detach()
            # While it learns, corrections fall anywhere on what is wrong; afterwards they are the same every time.
            random = torch.Generator().manual_seed(int(torch.randint(2**31, ()))) if self.training else None
            reference = shown == (1 + classes.cpu())[:, None, None]
            points, inside = click_on_error((answer > 0).cpu(), reference, shown != IGNORED, random)
            places = ((points + 0.5) / answer.shape[-1] - _MIDDLE).to(pictures.device)
            asked = asked.and_points(places[:, None], inside[:, None].to(pictures.device))
            masks, _ = self.decoder(pictures, asked, answer, adapters=layers)
        first: Tensor = masks[:, 0].float()
        return first

    def _corrections(self) -> int:
        """Return how many there are: all of them, or, while it learns, a random number up to that."""
        most = self.rule.corrections
        return int(torch.randint(most + 1, ())) if self.training and most else most

    @torch.no_grad()
    def _start_from(self, source: MaskDecoderWeights | None, context: HeadContext) -> None:
        """Begin the decoder from SAM's, where there is one."""
        if isinstance(self.decoder, AutoSam):
            with_shape = (self.shape.channels, self.shape.grid, self.shape.grid)
            self.decoder = AutoSam.build(
                HeadContext(
                    input_shape=with_shape, class_count=self.class_count, mask_decoder=source, seed=context.seed
                )
            )
        elif source is not None:
            if not source.prompt_encoder:
                message = (
                    f"--prompt {self.chosen['prompt']} needs SAM's prompt encoder, and these embeddings were made "
                    f"without it. Embed again into a fresh workspace: samkit embed"
                )
                raise UsageError(message)
            self.decoder.mask_decoder.load_state_dict(dict(source.decoder))
            self.decoder.prompt_encoder.load_state_dict(dict(source.prompt_encoder))
        if source is not None and source.prompt_encoder:
            self.nothing_asked.copy_(source.prompt_encoder["not_a_point_embed.weight"])

    @classmethod
    def _chosen_of(cls, context: HeadContext) -> tuple[dict[str, str], LiveEncoderWeights]:
        """Return the options by the names of arguments, and the encoder."""
        if context.live_encoder is None:
            message = f"{cls.name} begins from an encoder, and the context has none."
            raise UsageError(message)
        options = {name: context.options.get(name, values[0]) for name, values in cls.options.items()}
        if options["sd-trans"] == "off" and options["chunk"] != "auto":
            message = (
                f"--chunk {options['chunk']} says how many slices are looked through together, and with --sd-trans off "
                f"none are. Leave one of the two out."
            )
            raise UsageError(message)
        return {name.replace("-", "_"): value for name, value in options.items()}, context.live_encoder


class MedSa(_MedSa):
    """Medical SAM Adapter on a cached prefix: the last blocks of SAM's encoder run live, with adapters.

    Source: Wu et al., "Medical SAM Adapter" (arXiv 2304.12620). What is before the first adapted block is frozen and
    was computed once (``samkit embed --tap block:9``). In each adapted block: an adapter after attention (with a skip),
    one beside the MLP (times 0.5), and, with SD-Trans, the same attention through the slices of a chunk at each cell,
    by an adapter of its own, added to the first. In each layer of the mask decoder: HyP-Adpt, whose weights the prompt
    makes, after the tokens have looked at the embedding; one beside the MLP; one after the embedding has looked at the
    tokens.

    Where it differs from the paper and its published code:

    - the last blocks are adapted, there all of them; `MedSaLive` does that, at the price of the whole encoder;
    - adapters begin at zero, so that step 0 is SAM; the published ones begin at random;
    - attention through slices sees the whole grid, before it is cut into windows; there, windows of mostly one slice
      are taken for slices. It has no relative positions; there those of the plane are stretched over slices;
    - HyP-Adpt is there, and the adapters of the decoder, as in the paper; the published code has none. A prompt of
      several points is the mean of what they say; where nothing is asked, SAM's ``not_a_point``;
    - SAM's relative positions are kept; the published code loses them.

    By ``prompt=none`` all classes are answered at once, by tokens of their own (`AutoSam`), so that it sits in the same
    tables as other heads. Otherwise each class of a slice is a prompt with one binary answer, and the highest wins; the
    prompts are made from the reference, so that its scores are those of somebody who clicks well.

    Trained are all adapters and the mask decoder: its tokens, transformer, up-scaling and the hyper-network of the mask
    that is used. Frozen are the tail of the encoder, the prompt encoder, and of the decoder what no answer depends on.

    Parameters
    ----------
    shape
        Of the encoder, as `live_encoder.SamShape` keeps it.
    block
        The one that features enter; those from here to the first adapted run live and frozen.
    class_count, mlp_width
        As of `AutoSam`.
    adapted_blocks
        ``last:N``.
    sd_trans, hyp
        ``on`` or ``off``.
    prompt
        One of `prompt_rules.PROMPTS`.
    chunk
        Slices that are looked through together, or ``auto``: `chunks.AUTO_CHUNK`, and shorter volumes whole.
    adapter_ratio
        Of an adapter's bottleneck to a token's channels: the published code's 0.25. By 0.0625, without SD-Trans and in
        all blocks, ViT-H has the 13 million numbers in adapters that the paper tells, 2 % of its encoder; the mask
        decoder, which is trained too, is not among them.
    """

    name: ClassVar[str] = "med-sa"

    def __init__(self, *, shape: Mapping[str, Any], block: int, **chosen: Any) -> None:  # noqa: ANN401 - as documented
        super().__init__(shape=SamShape.from_json(shape), **chosen)
        self.tail = EncoderTail(self.shape, block).requires_grad_(requires_grad=False)

    @classmethod
    def build(cls, context: HeadContext) -> Self:
        """Build it from an encoder and its mask decoder.

        Raises
        ------
        UsageError
            Without an encoder; for blocks that it does not have; and for features that enter a later block than the
            first to be adapted, or are what the encoder ends with.
        """
        chosen, encoder = cls._chosen_of(context)
        depth = SamShape.from_json(encoder.shape).depth
        first = first_adapted(chosen["adapted_blocks"], depth)
        if context.block is None or context.block > first:
            had = "are what the encoder ends with" if context.block is None else f"enter block {context.block}"
            message = (
                f"{cls.name} adapts the blocks {first} to {depth - 1}, and these features {had}. Keep what enters the "
                f"first of them: samkit embed --tap block:{first}"
            )
            if context.block is not None:
                message += f"; or adapt fewer: --adapted-blocks last:{depth - context.block}"
            raise UsageError(message)
        source = context.mask_decoder
        with seeded(context.seed):
            head = cls(
                shape=encoder.shape,
                block=context.block,
                class_count=context.class_count,
                mlp_width=_MLP_WIDTH if source is None else source.mlp_width,
                **chosen,
            )
            head.tail = EncoderTail.begun_from(encoder, context.block).requires_grad_(requires_grad=False)
        head._start_from(source, context)
        return head

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild the module."""
        return {"shape": self.shape.to_json(), "block": self.tail.first, **super().config}

    def parameters_by_part(self) -> dict[str, PartParameters]:
        """Return how many numbers each part has; ``prefix`` is what the encoder has before the rows, not here."""
        with torch.device("meta"):
            whole = sum(parameter.numel() for parameter in self.shape.build().parameters())
        tail = sum(parameter.numel() for parameter in self.tail.parameters())
        return {**super().parameters_by_part(), "prefix": PartParameters(trained=0, frozen=whole - tail)}

    def _embedded(self, seen: Chunks, adapters: Mapping[int, BlockAdapters]) -> Tensor:
        embedding: Tensor = self.tail(seen.rows, adapters, seen.lengths)
        return embedding


class MedSaLive(_MedSa):
    """Medical SAM Adapter as published: adapters in all blocks, so that nothing of the encoder can be cached.

    As `MedSa` in everything else. The encoder runs in every step, on slices in its own square; rows that are embedded
    are neither read nor needed. Its cost is what `MedSa` saves.

    Parameters
    ----------
    encoder
        Arguments of `live_encoder.LiveEncoder`.
    adapted_blocks
        ``all``, or ``last:N``.

    Other parameters are those of `MedSa`.
    """

    name: ClassVar[str] = "med-sa-live"
    sees = Sees.CHUNKS_OF_SQUARES
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {**_MedSa.options, "adapted-blocks": ("all", "last:N")}

    def __init__(self, *, encoder: Mapping[str, Any], **chosen: Any) -> None:  # noqa: ANN401 - as documented
        super().__init__(shape=SamShape.from_json(encoder["shape"]), **chosen)
        self.encoder = LiveEncoder(**encoder).requires_grad_(requires_grad=False)

    @classmethod
    def build(cls, context: HeadContext) -> Self:
        """Build it from an encoder and its mask decoder.

        Raises
        ------
        UsageError
            Without an encoder, or for blocks that it does not have.
        """
        chosen, source = cls._chosen_of(context)
        decoder = context.mask_decoder
        with seeded(context.seed):
            encoder = LiveEncoder.begun_from(source).requires_grad_(requires_grad=False)
        with seeded(context.seed):  # so that adapters begin as those on a cached prefix do
            head = cls(
                encoder=encoder.config,
                class_count=context.class_count,
                mlp_width=_MLP_WIDTH if decoder is None else decoder.mlp_width,
                **chosen,
            )
        head.encoder = encoder
        head._start_from(decoder, context)
        return head

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild the module."""
        return {"encoder": self.encoder.config, **super().config}

    def _embedded(self, seen: Chunks, adapters: Mapping[int, BlockAdapters]) -> Tensor:
        embedding: Tensor = self.encoder(seen.rows, adapters, seen.lengths)
        return embedding


def first_adapted(adapted_blocks: str, depth: int) -> int:
    """Return the first block of an encoder that has adapters, from 0.

    >>> first_adapted("last:3", 12), first_adapted("all", 12)
    (9, 0)

    Raises
    ------
    UsageError
        For more blocks than there are.
    """
    if adapted_blocks == "all":
        return 0
    count = int(adapted_blocks.removeprefix("last:"))
    if count > depth:
        message = f"--adapted-blocks {adapted_blocks}: the encoder has {depth} blocks. Give last:{depth} or fewer."
        raise UsageError(message)
    return depth - count


def _prompted_decoder(channels: int, mlp_width: int) -> PromptedDecoder:
    """Return SAM's decoder for prompts, of which the parts are trained that an answer depends on."""
    transformer = TwoWayTransformer(depth=_DEPTH, embedding_dim=channels, num_heads=_ATTENTION_HEADS, mlp_dim=mlp_width)
    decoder = PromptedDecoder(
        PromptEncoder(channels, _FRAME, _FRAME, _MASK_CHANNELS),
        MaskDecoder(transformer_dim=channels, transformer=transformer, num_multimask_outputs=_AMBIGUOUS_MASKS),
    )
    decoder.prompt_encoder.requires_grad_(requires_grad=False)
    for name, parameter in decoder.mask_decoder.named_parameters():
        idle = name.startswith("iou_prediction_head") or name.endswith("k_proj.bias")
        other = name.startswith("output_hypernetworks_mlps") and not name.startswith("output_hypernetworks_mlps.0.")
        parameter.requires_grad_(not (idle or other))
    return decoder
