"""Adapters: the few numbers that Medical SAM Adapter trains beside SAM's own layers.

Source: Wu et al., "Medical SAM Adapter" (arXiv 2304.12620).

Shapes: N prompts or images, T tokens, C channels, R channels of the bottleneck.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..store.errors import UsageError

MLP_SCALE = 0.5
"""What the adapter beside an MLP is multiplied by before it is added, the paper's s."""


class Adapter(nn.Module):
    """A bottleneck: down, ReLU, up. What it returns is added to something by whoever calls it.

    Its last layer begins at zero, so that what it is added to begins as it was. The paper does not say how adapters
    begin; those of the published code begin at random, and move tokens by a fifth of their length before any training.

    Parameters
    ----------
    channels
        Of what it is given and returns.
    hidden
        Of the bottleneck.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(channels, hidden)
        self.up = nn.Linear(hidden, channels)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Tensor, _prompt: Tensor | None = None) -> Tensor:
        """Return what is to be added, (..., C) as ``tokens`` are, whatever the prompt."""
        raised: Tensor = self.up(torch.relu(self.down(tokens)))
        return raised


class HyperAdapter(Adapter):
    """HyP-Adpt: an adapter whose bottleneck is moved by weights that the prompt makes.

    Source: the paper's equations for HyP-Adpt: W = Re(M(e_prompt)) and e' = ReLU(Norm(e W)), e being in the bottleneck.
    M is two linear layers, the first of which brings the prompt to the bottleneck's size: from C = 256 at once, it
    would have a million numbers. The published code has no such adapter.

    W begins near the identity, whatever the prompt: M's bias is the identity, its weights are small.

    Parameters
    ----------
    channels
        Of tokens and of the prompt.
    hidden
        Of the bottleneck.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__(channels, hidden)
        self.hidden = hidden
        self.norm = nn.LayerNorm(hidden)
        self.reduce = nn.Linear(channels, hidden)
        self.weigh = nn.Linear(hidden, hidden * hidden)
        nn.init.normal_(self.weigh.weight, std=hidden**-1.5)
        with torch.no_grad():
            self.weigh.bias.copy_(torch.eye(hidden).flatten())

    def forward(self, tokens: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Return what is to be added to tokens, (N, K, T, C), given a prompt for each, (N, C), or one for all, (1, C).

        Raises
        ------
        UsageError
            Without a prompt.
        """
        if prompt is None:
            message = "a HyperAdapter is moved by a prompt, and there is none: give SAM's not_a_point embedding instead"
            raise UsageError(message)
        weights = self.weigh(torch.relu(self.reduce(prompt))).unflatten(-1, (self.hidden, self.hidden))
        turned = self.norm(self.down(tokens) @ weights[:, None])
        raised: Tensor = self.up(torch.relu(turned))
        return raised


class BlockAdapters(NamedTuple):
    """Those of one block of the image encoder."""

    space: Adapter
    """After attention among the cells, with a skip."""
    mlp: Adapter
    """Beside the MLP, times `MLP_SCALE`."""
    depth: Adapter | None = None
    """After attention through the slices (SD-Trans), whose branch is added to the other; None without the branch."""


class LayerAdapters(NamedTuple):
    """Those of one layer of the mask decoder's transformer."""

    prompt: Adapter
    """After tokens have looked at the embedding, with a skip: a `HyperAdapter`, or a plain one."""
    mlp: Adapter
    """Beside the MLP, times `MLP_SCALE`."""
    embedding: Adapter
    """After the embedding has looked at the tokens, and that was added to it, with a skip."""


class DecoderAdapters(NamedTuple):
    """Those of the mask decoder's transformer, and what they are told."""

    layers: Sequence[LayerAdapters]
    prompt: Tensor
    """(N, C), of each slice or mask that is asked for; or (1, C), of all."""
