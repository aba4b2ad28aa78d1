"""SimCLR: a U-Net whose way down has learned from slices without labels which two patches show the same one.

Shapes: B slices, C channels of a slice, P pixels along a side of a patch, D numbers of a projection.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..store.errors import FitDiverged
from .base import HeadContext, seeded
from .fitting import learning_rate_at
from .recipes import ContrastOptions, FitOptions
from .unet import WIDTHS, UNet

_PROJECTION_WIDTH = 128


class SimClrUNet(UNet):
    """`UNet`, whose way down begins from a pretraining on the pool's slices without their labels.

    Source: AutoSAM's baseline UNet + SimCLR (arXiv 2306.13731, section 4) after Chen et al. (arXiv 2002.05709): the
    encoder and its deepest level are taken over, the way up is random, and all of it is then trained on the draw.
    Where it differs from AutoSAM's code: the second view of a slice is a view of the slice, not of the first view; the
    projection has a nonlinearity and a batch normalisation, as SimCLR's own (without it means over instance-normalised
    planes began so alike that nothing was learned); the U-Net is `UNet`.

    All parameters are trained.

    Parameters
    ----------
    channels, class_count, widths
        As of `UNet`.
    pretrained
        Which pretraining it began from, see `store.pretrained`; empty for none. It changes nothing here; runs keep it.
    """

    name: ClassVar[str] = "unet-simclr"
    contrast = ContrastOptions()

    def __init__(
        self, *, channels: int, class_count: int, widths: tuple[int, ...] = WIDTHS, pretrained: str = ""
    ) -> None:
        super().__init__(channels=channels, class_count=class_count, widths=widths)
        self.pretrained = pretrained

    @classmethod
    def build(cls, context: HeadContext) -> Self:
        """Build a fresh network, its way down from the pretraining where the context has one."""
        source = context.pretrained
        with seeded(context.seed):
            head = cls(
                channels=context.input_shape[0],
                class_count=context.class_count,
                pretrained="" if source is None else source.name,
            )
        head.see_patches_of(context.input_shape[1])
        if source is not None and source.tensors:
            head.down.load_state_dict(source.tensors, strict=True)
        return head

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild the module."""
        return {**super().config, "pretrained": self.pretrained}

    def embedded(self, patches_BCPP: Tensor) -> Tensor:
        """Return the mean of the deepest level, (B, channels there), of patches."""
        grid, _, _ = self._padded(patches_BCPP.float())
        for level in self.down:
            grid = level(grid)
        return grid.mean(dim=(2, 3))


@dataclass(frozen=True, kw_only=True, slots=True)
class ContrastStep:
    """What happened in one step of a pretraining."""

    number: int
    loss: float
    learning_rate: float
    #: Share of the patches whose partner is the most similar of all others in the batch.
    found: float

    def to_json(self) -> dict[str, Any]:
        """Return the step as it is kept."""
        return asdict(self)


def pretrain(
    head: SimClrUNet, pairs: Iterator[tuple[Tensor, Tensor]], options: ContrastOptions, seed: int
) -> Iterator[ContrastStep]:
    """Train the way down of a U-Net in place, yielding after each step; the projection is thrown away.

    Parameters
    ----------
    head
        On its device. Exactly the parameters of ``down`` are changed.
    pairs
        Endless: two patches (B, C, P, P) of each of some slices.
    options
        Steps, batch, rate and temperature.
    seed
        Of the projection.

    Raises
    ------
    FitDiverged
        At the first loss that is not finite.
    """
    width = head.widths[-1]
    with seeded(seed):
        projection = nn.Sequential(
            nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, _PROJECTION_WIDTH)
        )
    projection.to(head.device)
    trained = [*head.down.parameters(), *projection.parameters()]
    optimiser = torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=options.weight_decay)
    rates = FitOptions(steps=options.steps, learning_rate=options.learning_rate, warmup_share=options.warmup_share)
    head.train()
    for number in range(options.steps):
        rate = learning_rate_at(number, rates)
        for group in optimiser.param_groups:
            group["lr"] = rate
        both = torch.cat(next(pairs))
        loss, found = contrastive_loss(projection(head.embedded(both)), options.temperature)
        if not torch.isfinite(loss):
            told = float(loss.detach())
            message = (
                f"the contrastive loss is {told} at step {number + 1} of {options.steps}: it has diverged. Take fewer "
                f"steps, whose rate falls earlier: --pretraining-steps {max(1, number // 2)}; or unet, without it"
            )
            raise FitDiverged(message)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        yield ContrastStep(number=number, loss=float(loss.detach()), learning_rate=rate, found=found)
    head.eval()


def contrastive_loss(projected_2BD: Tensor, temperature: float) -> tuple[Tensor, float]:
    r"""Return NT-Xent, equation 1 of SimCLR (arXiv 2002.05709), and how often the partner is the most similar.

    With the cosine similarity s of two rows, and row i's partner j, the mean over all rows of

    .. math:: -\log \frac{\exp(s_{ij} / \tau)}{\sum_{k \ne i} \exp(s_{ik} / \tau)}

    Parameters
    ----------
    projected_2BD
        (2 B, D): row b and row B + b are of one slice.
    temperature
        The tau above, over 0.
    """
    rows = F.normalize(projected_2BD.float(), dim=1)
    count = len(rows)
    similar = (rows @ rows.T / temperature).fill_diagonal_(-math.inf)
    partner = torch.arange(count, device=rows.device).roll(count // 2)
    found = (similar.argmax(dim=1) == partner).float().mean()
    return F.cross_entropy(similar, partner), float(found)
