"""SAM's prompt encoder and mask decoder on embeddings that are there already: many images and prompts at once.

The package's decoder answers many prompts for one image. Here each prompt has its own image, which is what training
needs, and what prompting every slice of a volume from its cached embedding needs.

Shapes: N prompted masks, P points of a prompt, C channels, h w cells of the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

import torch
from torch import Tensor, nn

from .adapters import DecoderAdapters, LayerAdapters
from .frame import Frame
from .sam_modules import MaskDecoder, PromptEncoder
from .two_way import two_way
from .upscaling import as_picture, upscaled


class PointKind(IntEnum):
    """What a point of a prompt says, by SAM's numbers."""

    NOTHING = -1
    """Fills up a prompt of fewer points than its neighbours in the batch."""
    OUTSIDE = 0
    INSIDE = 1
    FIRST_CORNER = 2
    """Least column and row of a box."""
    LAST_CORNER = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompts:
    """One prompt for each of N masks."""

    points: Tensor
    """(N, P, 2): (column, row) in pixels of the encoder's input, 0 for the middle of the first one."""
    kinds: Tensor
    """(N, P): a `PointKind` each."""

    @classmethod
    def of_points(cls, points_NP2: Tensor, inside_NP: Tensor) -> Self:
        """Return prompts by clicks; ``inside_NP`` says which of them are on the object.

        A point that says nothing follows, as in the package where there is no box.
        """
        return cls(points=points_NP2, kinds=inside_NP.long()).with_nothing()

    @classmethod
    def of_boxes(cls, boxes_N4: Tensor) -> Self:
        """Return prompts by boxes, (first column, first row, last column, last row)."""
        corners = torch.tensor([PointKind.FIRST_CORNER, PointKind.LAST_CORNER], device=boxes_N4.device)
        return cls(points=boxes_N4.reshape(-1, 2, 2), kinds=corners.expand(len(boxes_N4), 2))

    def with_nothing(self) -> Self:
        """Return the same prompts followed by a point that says nothing, as in the package where there is no box."""
        nothing = self.kinds.new_full((len(self.kinds), 1), PointKind.NOTHING)
        points = torch.cat([self.points, self.points.new_zeros(len(self.points), 1, 2)], dim=1)
        return type(self)(points=points, kinds=torch.cat([self.kinds, nothing], dim=1))

    def and_points(self, points_NP2: Tensor, inside_NP: Tensor) -> Self:
        """Return the same prompts with clicks added to them."""
        return type(self)(
            points=torch.cat([self.points, points_NP2], dim=1),
            kinds=torch.cat([self.kinds, inside_NP.long()], dim=1),
        )


class PromptedDecoder(nn.Module):
    """SAM's mask decoder, prompted; equal to the package's for one image (test).

    Source: Kirillov et al. (arXiv 2304.02643), appendix A; the package's ``PromptEncoder`` and ``MaskDecoder``, whose
    modules these are. Answers are four masks a prompt: the first where the prompt says enough, the other three where it
    is ambiguous (whole, part, part of a part).

    Parameters
    ----------
    prompt_encoder, mask_decoder
        Of the same checkpoint. The first was built for the frame in whose pixels prompts are told.
    """

    def __init__(self, prompt_encoder: PromptEncoder, mask_decoder: MaskDecoder) -> None:
        super().__init__()
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder

    def forward(
        self,
        embeddings_NChw: Tensor,
        prompts: Prompts,
        previous_NGG: Tensor | None = None,
        adapters: Sequence[LayerAdapters] = (),
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of the masks, (N, 4, 4 h, 4 w), and their predicted IoU, (N, 4).

        Parameters
        ----------
        embeddings_NChw
            Of the image that each prompt is about; an image with several prompts comes several times.
        prompts
            N of them.
        previous_NGG
            Logits of an earlier answer to each, (N, 4 h, 4 w), to be corrected; None for a first one.
        adapters
            Of the transformer's layers, told what the prompts say; none of them for SAM as it is.
        """
        decoder = self.mask_decoder
        count, _, height, width = embeddings_NChw.shape
        said = self._embedded(prompts)
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(count, -1, -1)
        tokens = torch.cat([own, said], dim=1)
        source = embeddings_NChw + self._dense(previous_NGG)
        with _in_float32(tokens.device):
            # Of the grid that is there, which need not be the one that the prompt encoder was built for.
            position = self.prompt_encoder.pe_layer((height, width)).flatten(1).transpose(0, 1)
        told = DecoderAdapters(adapters, _mean_of(said, prompts.kinds)) if adapters else None
        cells = source.flatten(2).transpose(1, 2)
        answers, cells_NKMC = two_way(decoder.transformer, cells, position, tokens[:, None], told)
        answered = answers[:, 0]
        finest = upscaled(decoder.output_upscaling, cells_NKMC[:, 0])
        weights = torch.stack(
            [network(answered[:, 1 + number]) for number, network in enumerate(decoder.output_hypernetworks_mlps)],
            dim=1,
        )
        logits = as_picture(torch.einsum("nkc,nmijc->nkmij", weights, finest), height, width)
        return logits, decoder.iou_prediction_head(answered[:, 0])

    def _embedded(self, prompts: Prompts) -> Tensor:
        """Return (N, P, C): where each point is, and what it says."""
        encoder, kinds = self.prompt_encoder, prompts.kinds[..., None]
        with _in_float32(kinds.device):
            embedded: Tensor = encoder.pe_layer.forward_with_coords(prompts.points + 0.5, encoder.input_image_size)
        embedded = torch.where(kinds == PointKind.NOTHING, encoder.not_a_point_embed.weight, embedded)
        for kind, said in enumerate(encoder.point_embeddings):
            embedded = embedded + (kinds == kind) * said.weight
        return embedded

    def _dense(self, previous: Tensor | None) -> Tensor:
        if previous is None:
            nothing: Tensor = self.prompt_encoder.no_mask_embed.weight[..., None, None]
            return nothing
        embedded: Tensor = self.prompt_encoder.mask_downscaling(previous[:, None])
        return embedded


def _mean_of(said_NPC: Tensor, kinds_NP: Tensor) -> Tensor:
    """Return one vector a prompt, (N, C): the mean of what its points say, those that say nothing left out."""
    counts = (kinds_NP != PointKind.NOTHING)[..., None].to(said_NPC.dtype)
    return (said_NPC * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1)


def _in_float32(device: torch.device) -> torch.autocast:
    """Keep training in bfloat16 from rounding places: of waves that go round several times, a pixel would be lost."""
    return torch.autocast(device.type, enabled=False)


# -- prompts made from masks -------------------------------------------------------------------------------------------


def boxes_around(masks_NHW: Tensor) -> Tensor:
    """Return the tight box of each mask, (N, 4): first column, first row, last column, last row, in pixels.

    Parameters
    ----------
    masks_NHW
        Boolean, on the pixels of the encoder's input; none of them empty.
    """
    rows, columns = masks_NHW.any(dim=2), masks_NHW.any(dim=1)

    def ends(side: Tensor) -> tuple[Tensor, Tensor]:
        place = torch.arange(side.shape[1], device=side.device).expand(side.shape)
        return torch.where(side, place, side.shape[1]).amin(dim=1), torch.where(side, place, -1).amax(dim=1)

    (top, bottom), (left, right) = ends(rows), ends(columns)
    return torch.stack([left, top, right, bottom], dim=1).float()


def boxes_in_square(boxes_N4: Tensor, frame: Frame) -> Tensor:
    """Return boxes on a slice's pixels where the encoder sees them, in pixels of its square.

    The outer edges are moved, so that a box around the whole slice is one around the whole of what is seen.
    """
    rows, columns = frame.inner_px
    scale = torch.tensor([columns / frame.columns, rows / frame.rows]).repeat(2)
    outside = torch.tensor([0.0, 0.0, 1.0, 1.0])
    return (boxes_N4 + outside) * scale - outside


def jittered(boxes_N4: Tensor, share: float, most_px: float, random: torch.Generator) -> Tensor:
    """Move each side of each box by a normal number of standard deviation ``share`` of the box's side, at most so far.

    Source: Kirillov et al. (arXiv 2304.02643), appendix A: a tenth of the box's side, at most 20 pixels of 1024.
    """
    sides = (boxes_N4[:, 2:] - boxes_N4[:, :2] + 1).repeat(1, 2)
    noise = torch.randn(boxes_N4.shape, generator=random, device=boxes_N4.device) * share * sides
    return boxes_N4 + noise.clamp(-most_px, most_px)


def points_on(weights_NHW: Tensor, random: torch.Generator) -> Tensor:
    """Draw one pixel of each map with a chance in proportion to its weight: (N, 2) as (column, row).

    Parameters
    ----------
    weights_NHW
        Not negative; none of the maps all zero.
    """
    chosen = torch.multinomial(weights_NHW.flatten(1).float(), 1, generator=random)[:, 0]
    columns = weights_NHW.shape[2]
    return torch.stack([chosen % columns, chosen // columns], dim=1).float()
