"""An encoder of one's own: the colours of each cell. What samkit asks of one, and what it does with it.

python own_encoder.py WORKSPACE
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

import samkit
from samkit.stages.encoders.pixels import prepare
from samkit.store.keys import Recipe

PX, CELL_PX = 256, 16


class Pixels:
    """Each cell's 16 x 16 pixels, row by row, as 256 channels."""

    recipe = Recipe(encoder="pixels", weights_sha256="none", input_px=PX)  # everything that changes the numbers
    embedding_shape = (CELL_PX**2, PX // CELL_PX, PX // CELL_PX)
    trained = True
    mask_decoder = None  # heads that start from SAM's decoder will say that there is none
    live = None
    kernel_paths = ("pixels",)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self.encode(self.prepare(images))

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        return prepare(images, input_px=PX, pixel_normalisation="sam")

    def encode(self, prepared: torch.Tensor, kernel_path: str | None = None) -> torch.Tensor:
        return F.pixel_unshuffle(prepared[:, :1], CELL_PX)


@dataclass(frozen=True)
class PixelsModel:
    """What `samkit embed --encoder pixels` loads, once a package names it in its pyproject.toml."""

    name: str = "pixels"
    default_px: int = PX
    own_weights: Path | None = None
    needs_weights: bool = False  # there is no checkpoint to ask for
    block_count: int | None = None  # of a transformer, whose inner layers can be tapped

    def load(self, weights: Path | None, **_settings: object) -> Pixels:
        return Pixels()


samkit.register_encoder(PixelsModel())
encoder = samkit.load_encoder("pixels")
workspace = samkit.open_workspace(sys.argv[1])
volume = next(iter(workspace.volumes.values()))
features = encoder(torch.from_numpy(volume.image[:1]))
sys.stdout.write(f"{volume.id}, first slice: {tuple(features.shape)}, recipe {encoder.recipe.id}\n")
