"""What the embedded encoder learns from a batch of random pictures, and then its mask decoder.

Five questions, all answered from the one embedding that is kept afterwards:

prompted   which mask does a click, a box, or a correction mean? As SAM was trained, but asked of the decoder alone, in
           steps after the encoder's; of the encoder too where `ObjectiveWeights.prompted` is above 0.
dense      at each cell of the logit grid: what kind of part is this, where in its part does it lie, is a border here?
picture    how bright is each cell of the logit grid? Without it an embedding forgets where exactly an organ ends.
likeness   which part of one subject is it, by comparison with the parts of another subject of the scene? However much
           larger, farther left, or brighter it is there: what a head has to know that learns from one subject.
solved     the same of a linear head that was solved on the other subject: what a head on the cache does, in one step.

The first trains the mask decoder, which heads start from. The others ask every cell of every picture, so that a step
teaches the encoder more; their own weights are thrown away, but for the decoder's up-scaling, which they share.

Shapes: B scenes, L subjects of each, N prompted masks, P parts, H W pixels, G cells along the logit grid.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from ...heads.base import LOGIT_CELLS_PER_FEATURE_CELL
from ...heads.prompting import PromptedDecoder, Prompts, boxes_around, jittered, points_on
from ...store.errors import UsageError
from ..synthesis.pictures import PictureBatch
from ..synthesis.shapes import Kind

# A prompted part covers such a share of the picture at least: half a cell of an embedding of 16 x 16. The mask is its
# largest piece, which in fewer than one of a hundred is smaller.
_SMALLEST_PART = 0.002
# So many of the masks are all parts of a solid: a wall with its cavity.
_WHOLE_SOLIDS = 0.15
# How often a part is prompted for beside an organ, by its kind. Drawn evenly, one mask in sixteen was a ring, which is
# hard, and one in three a layer of the body or a patch without a form, which no reader would put a box around.
_PROMPTED_FOR = {
    Kind.OUTSIDE: 0.0,  # part 0 of every scene: nobody's mask
    Kind.BODY: 0.3,
    Kind.BODY_LAYER: 0.3,
    Kind.ORGAN: 1.0,
    Kind.WALL: 3.0,
    Kind.CAVITY: 1.5,
    Kind.CORE: 1.0,
    Kind.TUBE: 1.0,
    Kind.HALF: 0.5,
    Kind.REGION: 0.3,
}
_BOX_JITTER, _MOST_BOX_JITTER_PX = 0.1, 10.0
_PROJECTED_CHANNELS = 32
_TEMPERATURE = 0.1
# Of a brightness, in standard deviations of a picture that is not flat.
_LEAST_CONTRAST = 0.05
# Where the ridge of the solved head begins, for embeddings of length 1, and how sure its answers begin to be.
_RIDGE, _SURENESS = 0.3, 10.0
# A weight so small that it counts only where all others are zero.
_HARDLY = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveWeights:
    """How much each question counts, and how many masks a step are prompted."""

    #: Without: the decoder has steps of its own.
    prompted: float = 0.0
    dense: float = 1.0
    picture: float = 1.0
    likeness: float = 1.0
    solved: float = 1.0
    masks: int = 8

    def __post_init__(self) -> None:
        if self.prompted and self.masks < 2:
            message = f"--masks {self.masks}: at least 2, of which a box means one and a click another."
            raise UsageError(message)
        for name in ("prompted", "dense", "picture", "likeness", "solved"):
            weight = getattr(self, name)
            if not 0 <= weight < math.inf:
                message = f"--{name} {weight:g}: how much a question counts is 0 or more."
                raise UsageError(message)

    @property
    def asks_encoder(self) -> bool:
        """Whether there is anything that the encoder learns from."""
        return any((self.prompted, self.dense, self.picture, self.likeness, self.solved))

    def to_json(self) -> dict[str, Any]:
        """Return the weights as they are kept in a log."""
        return asdict(self)


class Questions(nn.Module):
    """What is asked of an embedding, and the weights that only asking needs.

    Parameters
    ----------
    decoder
        Trained with the encoder, and kept.
    weights
        Of the questions; what counts nothing is not asked.
    """

    def __init__(self, decoder: PromptedDecoder, weights: ObjectiveWeights) -> None:
        super().__init__()
        self.decoder = decoder
        self.weights = weights
        channels = decoder.mask_decoder.transformer_dim // 8
        self.kind = nn.Conv2d(channels, len(Kind), kernel_size=1)
        self.place = nn.Conv2d(channels, 3, kernel_size=1)
        self.border = nn.Conv2d(channels, 1, kernel_size=1)
        self.picture = nn.Conv2d(channels, 1, kernel_size=1)
        self.projection = nn.Conv2d(channels, _PROJECTED_CHANNELS, kernel_size=1)
        self.log_ridge = nn.Parameter(torch.tensor(math.log(_RIDGE)))
        self.log_sureness = nn.Parameter(torch.tensor(math.log(_SURENESS)))

    def forward(self, embeddings_BLChw: Tensor, batch: PictureBatch, random: torch.Generator) -> dict[str, Tensor]:
        """Return the losses by name, those that count, each a 0-d tensor with its weight applied; and ``box_iou`` etc.

        Parameters
        ----------
        embeddings_BLChw
            (B, L, C, h, w) of the batch's images.
        batch
            Whose images were embedded.
        random
            Of the masks that are prompted, and of the prompts.
        """
        told: dict[str, Tensor] = {}
        grid = embeddings_BLChw.shape[-1] * LOGIT_CELLS_PER_FEATURE_CELL
        subjects = embeddings_BLChw.shape[1]
        parts = _at_cells(batch.parts.flatten(0, 1), grid).long()
        parts_by_subject = parts.unflatten(0, (-1, subjects))
        weights = self.weights
        if weights.dense or weights.picture or weights.likeness:
            upscaled = self.decoder.mask_decoder.output_upscaling(embeddings_BLChw.flatten(0, 1))
            if weights.dense:
                told |= self._dense(upscaled, parts, batch.kinds.repeat_interleave(subjects, dim=0))
            if weights.picture:
                seen = brightness(batch.images.flatten(0, 1), grid)
                told["picture"] = weights.picture * F.smooth_l1_loss(self.picture(upscaled)[:, 0].float(), seen)
            if weights.likeness:
                projected = self.projection(upscaled).unflatten(0, (-1, subjects))
                told["likeness"] = weights.likeness * prototype_loss(projected, parts_by_subject)
        if weights.solved:
            ridge, sureness = self.log_ridge.exp(), self.log_sureness.exp()
            told["solved"] = weights.solved * solved_loss(embeddings_BLChw, parts_by_subject, ridge, sureness)
        if weights.prompted:
            prompted = self.prompted(embeddings_BLChw[:, 0], batch, weights.masks, random)
            if prompted:
                prompted["prompted"] = weights.prompted * prompted["prompted"]
            told |= prompted
        return told

    def _dense(self, upscaled: Tensor, parts: Tensor, kinds: Tensor) -> dict[str, Tensor]:
        weight = self.weights.dense
        return {
            "kind": weight * F.cross_entropy(self.kind(upscaled).float(), _of_part(kinds, parts)),
            "place": weight * F.smooth_l1_loss(self.place(upscaled).float(), places(parts)),
            "border": weight * F.binary_cross_entropy_with_logits(self.border(upscaled)[:, 0].float(), borders(parts)),
        }

    def prompted(
        self, embeddings_BChw: Tensor, batch: PictureBatch, count: int, random: torch.Generator
    ) -> dict[str, Tensor]:
        """Ask for masks by a click or a box, and once more with a click where the first answer was wrong.

        No weight is applied: after the encoder's steps this is all that is asked.

        Parameters
        ----------
        embeddings_BChw
            Of the scenes' first subjects.
        batch, count, random
            Whose parts are prompted, how many of them, and by which prompts.
        """
        owners, masks = draw_masks(batch, count, random)
        if len(owners) == 0:  # no scene of the batch shows a part
            return {}
        grid = embeddings_BChw.shape[-1] * LOGIT_CELLS_PER_FEATURE_CELL
        # Vessels thinner than half a cell are lost here, and asked for all the same: one mask in two hundred is empty.
        target = F.adaptive_avg_pool2d(masks[:, None].float(), grid)[:, 0] > 0.5
        boxed = torch.arange(count, device=masks.device) % 2 == 0
        clicks = points_on(masks, random)[:, None]
        by_click = Prompts.of_points(clicks, torch.ones_like(clicks[..., 0]))
        by_box = Prompts.of_boxes(jittered(boxes_around(masks), _BOX_JITTER, _MOST_BOX_JITTER_PX, random))
        first = Prompts(
            points=torch.where(boxed[:, None, None], by_box.points, by_click.points),
            kinds=torch.where(boxed[:, None], by_box.kinds, by_click.kinds),
        )
        own = embeddings_BChw.index_select(0, owners)  # whose gradient adds in one order, as that of indexing does not
        logits, quality = self.decoder(own, first)
        losses, reached = mask_losses(logits, target), intersection_over_union(logits, target)
        # A box says enough, so that one mask answers; what a click means is ambiguous, and the best of three counts.
        ambiguous = losses[:, 1:].amin(dim=1) + 0.2 * losses[:, 0]
        loss = torch.where(boxed, losses[:, 0], ambiguous).mean() + F.mse_loss(quality.float(), reached)

        best = torch.where(boxed, 0, 1 + reached[:, 1:].argmax(dim=1))
        before = logits.detach()[torch.arange(count), best].float()
        wrong = ((before > 0) != target).float()
        # Where nothing is wrong any more, any point of the mask is as good.
        cells = points_on(wrong + _HARDLY * (target + _HARDLY), random)
        on_mask = target[torch.arange(count), cells[:, 1].long(), cells[:, 0].long()]
        pixels = (cells + 0.5) * (masks.shape[-1] / grid) - 0.5
        corrected, quality = self.decoder(own, first.and_points(pixels[:, None], on_mask[:, None]), before)
        after = intersection_over_union(corrected[:, :1], target)
        loss = loss + mask_losses(corrected[:, :1], target).mean() + F.mse_loss(quality[:, :1].float(), after)
        return {
            "prompted": loss,
            "box_iou": reached[boxed, 0].mean(),
            "click_iou": reached[~boxed, 1:].amax(dim=1).mean(),
            "corrected_iou": after.mean(),
        }


# -- targets -----------------------------------------------------------------------------------------------------------


def draw_masks(batch: PictureBatch, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw masks to prompt for: parts that are seen, or all that is seen of a solid; of what is in pieces, the largest.

    Parameters
    ----------
    batch
        Of pictures.
    count
        Masks, of the first subjects of scenes; fewer scenes than masks take turns. None where no scene shows a part.
    random
        Of the choice.

    Returns
    -------
    Tensor
        (N,) int64: which scene each mask is of.
    Tensor
        (N, H, W) bool, none of them empty.
    """
    first = batch.parts[:, 0]
    flat = first.flatten(1).long()
    seen = torch.zeros_like(batch.kinds).scatter_add_(1, flat, torch.ones_like(flat)) >= _SMALLEST_PART * flat.shape[1]
    wanted = seen * torch.tensor([_PROMPTED_FOR[kind] for kind in Kind], device=seen.device)[batch.kinds]
    some = torch.nonzero(wanted.any(dim=1))[:, 0]
    if len(some) == 0:
        return some, first[:0] > 0
    order = torch.randperm(len(some), generator=random, device=some.device)
    owners = some[order.repeat(-(-count // len(some)))[:count]]
    chosen = torch.multinomial(wanted[owners], 1, generator=random)
    parts = first[owners].long()
    part = parts == chosen[..., None]
    solids = batch.solids[owners]
    solid = _of_part(solids, parts) == solids.gather(1, chosen)[..., None]
    whole = torch.rand(len(owners), generator=random, device=parts.device) < _WHOLE_SOLIDS
    return owners, largest_pieces(torch.where(whole[:, None, None], solid, part))


def largest_pieces(masks_NHW: Tensor) -> Tensor:
    """Return of each mask, none of them empty, the largest piece that is connected by sides: (N, H, W) bool."""
    pieces = []
    for mask in masks_NHW.cpu().numpy():
        numbers, _ = ndimage.label(mask)
        pieces.append(torch.from_numpy(numbers == 1 + np.bincount(numbers[mask])[1:].argmax()))
    return torch.stack(pieces).to(masks_NHW.device)


def places(parts_BGG: Tensor) -> Tensor:
    """Return for each cell where it lies in its part and how large that is, (B, 3, G, G).

    Rows and columns from the middle of all that is seen of the part, in standard deviations of its cells; and the
    logarithm of that deviation over an eighth of the grid.
    """
    batch, grid = parts_BGG.shape[:2]
    flat = parts_BGG.flatten(1)
    row, column = torch.meshgrid(*2 * [torch.arange(grid, device=flat.device).float()], indexing="ij")

    def mean(values: Tensor) -> Tensor:
        """Return the mean over each part, (B, P)."""
        sums = torch.zeros(batch, int(flat.max()) + 1, device=flat.device)
        counts = torch.zeros_like(sums).scatter_add_(1, flat, torch.ones_like(flat, dtype=sums.dtype))
        return sums.scatter_add_(1, flat, values.flatten().expand(batch, -1)) / counts.clamp(min=1)

    middle_row, middle_column = mean(row), mean(column)
    variance = mean(row.square()) - middle_row.square() + mean(column.square()) - middle_column.square()
    deviation = variance.clamp(min=0.25).sqrt()
    here, by_row, by_column = (_of_part(table, parts_BGG) for table in (deviation, middle_row, middle_column))
    return torch.stack([(row - by_row) / here, (column - by_column) / here, torch.log(here / (grid / 8))], dim=1)


def brightness(images_BHW: Tensor, grid: int) -> Tensor:
    """Return how bright each cell is, in standard deviations of its picture from the picture's mean: (B, G, G)."""
    seen = F.adaptive_avg_pool2d(images_BHW[:, None], grid)[:, 0]
    spread = seen.std(dim=(1, 2), keepdim=True).clamp(min=_LEAST_CONTRAST)
    return (seen - seen.mean(dim=(1, 2), keepdim=True)) / spread


def borders(parts_BGG: Tensor) -> Tensor:
    """Return 1 where a cell's neighbour in its row or column is of another part, else 0: (B, G, G) float32."""
    border = torch.zeros(parts_BGG.shape, device=parts_BGG.device)
    for axis in (1, 2):
        first, second = (parts_BGG.narrow(axis, start, parts_BGG.shape[axis] - 1) for start in (0, 1))
        change = (first != second).float()
        for start in (0, 1):
            side = border.narrow(axis, start, change.shape[axis])
            side.copy_(torch.maximum(side, change))
    return border


def _at_cells(parts: Tensor, grid: int) -> Tensor:
    """Return the part of the pixel below and to the right of the middle of each cell of the logit grid."""
    step = parts.shape[-1] // grid
    return parts[:, step // 2 :: step, step // 2 :: step]


def _of_part(table_BP: Tensor, parts_BHW: Tensor) -> Tensor:
    """Look each pixel's part up in a table."""
    return table_BP.gather(1, parts_BHW.flatten(1)).view(parts_BHW.shape)


# -- losses ------------------------------------------------------------------------------------------------------------


def mask_losses(logits_NKGG: Tensor, target_NGG: Tensor) -> Tensor:
    """Return twice the mean cross-entropy plus soft Dice loss of each mask against its target, (N, K).

    SAM's focal loss, twenty times the Dice loss, ends in empty masks when it begins from random numbers (tried: 600
    steps); it needs SAM's patience. Inside and outside weighted alike end in masks that are too large (tried: 6,500).
    """
    logits = logits_NKGG.float()
    target = target_NGG[:, None].expand_as(logits).float()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=(2, 3))
    probability = logits.sigmoid()
    both, either = (probability * target).sum(dim=(2, 3)), (probability + target).sum(dim=(2, 3))
    return 2 * entropy + 1 - (2 * both + 1) / (either + 1)


def intersection_over_union(logits_NKGG: Tensor, target_NGG: Tensor) -> Tensor:
    """Return the IoU of each mask, where its logit is above 0, with its target, (N, K); 0 where both are empty."""
    found, target = logits_NKGG.detach() > 0, target_NGG[:, None]
    both, either = (found & target).sum(dim=(2, 3)), (found | target).sum(dim=(2, 3))
    return both.float() / either.clamp(min=1)


def prototype_loss(projected_BLCGG: Tensor, parts_BLGG: Tensor) -> Tensor:
    """Return the cross-entropy of each subject's cells among the parts of another, by likeness to their mean vectors.

    What a head does that learns from one labelled subject, as an episode: the second subject's parts are what is looked
    for, and the first one's, averaged, are what they are compared with; and the other way round. Cells of parts that
    the other subject does not show are left out; small parts count more than their cells do.

    Source: prototypical networks, Snell et al. (arXiv 1703.05175), with cosines.
    """
    shown = _shown(parts_BLGG)
    with torch.autocast(projected_BLCGG.device.type, enabled=False):  # cosines, of which a tenth is a temperature
        vectors = F.normalize(projected_BLCGG.float().flatten(3), dim=2)  # B, L, C, cells
        prototypes = F.normalize(torch.einsum("blcn,blnp->blcp", vectors, shown), dim=2)
        scores = torch.einsum("blcn,blcp->blnp", vectors, prototypes.roll(1, dims=1)) / _TEMPERATURE
        return _surprise(scores, parts_BLGG.flatten(2), shown)


def solved_loss(embeddings_BLChw: Tensor, parts_BLGG: Tensor, ridge: Tensor, sureness: Tensor) -> Tensor:
    """Return the cross-entropy of each subject's cells among the parts of another, by a linear head solved on that one.

    The head maps an embedding to the parts of its cell's own piece of the logit grid, all of it at once, as a probe
    with up-scaling would; ridge regression has its best weights in closed form, and the loss passes through them to
    both subjects' embeddings. Cells are left out and weighted as in `prototype_loss`.

    Source: R2-D2, Bertinetto et al. (arXiv 1805.08136), equations 3 to 6, with the cells of one picture as examples.

    Parameters
    ----------
    embeddings_BLChw
        (B, L, C, h, w), L of 2 or more.
    parts_BLGG
        (B, L, G, G) int64, G a multiple of h and w.
    ridge
        Of the regression, for embeddings whose mean square over channels is about 1.
    sureness
        What its answers, about 0 to 1, are multiplied by to be logits.
    """
    _, _, channels, height, width = embeddings_BLChw.shape
    finer = parts_BLGG.shape[-2] // height
    shown = _shown(parts_BLGG)
    with torch.autocast(embeddings_BLChw.device.type, enabled=False):
        vectors = embeddings_BLChw.float().flatten(3).transpose(2, 3) / channels**0.5  # B, L, h w, C
        # B, L, h, finer, w, finer, P: what a cell shows becomes one row of answers.
        answers = shown.unflatten(2, (height, finer, width, finer)).transpose(3, 4).flatten(4).flatten(2, 3)
        middle, usual = vectors.mean(dim=2, keepdim=True), answers.mean(dim=2, keepdim=True)
        examples = vectors - middle
        likeness = examples @ examples.transpose(2, 3) + ridge * torch.eye(height * width, device=vectors.device)
        solution = examples.transpose(2, 3) @ torch.cholesky_solve(
            answers - usual, torch.linalg.cholesky_ex(likeness).L
        )
        found = (vectors - middle.roll(1, dims=1)) @ solution.roll(1, dims=1) + usual.roll(1, dims=1)
        scores = found.unflatten(2, (height, width)).unflatten(4, (finer, finer, -1)).transpose(3, 4).flatten(2, 5)
        return _surprise(sureness * scores, parts_BLGG.flatten(2), shown)


def _shown(parts_BLGG: Tensor) -> Tensor:
    """Return 1 where a cell shows a part, else 0: (B, L, cells, P) float32.

    For sums by products: several threads that scatter into one sum add in another order every time.
    """
    parts = parts_BLGG.flatten(2)
    return F.one_hot(parts, int(parts.max()) + 1).float()


def _surprise(scores_BLNP: Tensor, parts_BLN: Tensor, shown_BLNP: Tensor) -> Tensor:
    """Return the weighted mean cross-entropy of cells among the parts that the subject before shows."""
    sizes = shown_BLNP.sum(dim=2)  # B, L, P
    sizes_there = sizes.roll(1, dims=1)
    scores = scores_BLNP.masked_fill((sizes_there == 0)[:, :, None], -torch.inf)
    there = sizes_there.gather(2, parts_BLN) > 0
    weight = sizes.gather(2, parts_BLN).rsqrt() * there
    loss = F.cross_entropy(scores.flatten(0, 2), parts_BLN.flatten(), reduction="none").view(parts_BLN.shape)
    return (weight * loss.masked_fill(~there, 0)).sum() / weight.sum().clamp(min=_HARDLY)
