"""Draw the picture of random-pictures.md: `python docs/explanation/random_pictures.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from samkit.stages.synthesis.looks import Modality, draw_image, draw_scanner
from samkit.stages.synthesis.shapes import Anatomy, draw_scene, draw_subject

SCENES = (3, 11, 19, 34)
SIDE = 256


def main() -> None:
    """Two subjects of a scene in a row, and how scanners show them."""
    figure = Figure(figsize=(8.0, 1.6 * len(SCENES)), layout="constrained")
    axes = figure.subplots(len(SCENES), 2 + len(Modality))
    for row, seed in zip(axes, SCENES, strict=True):
        rng = np.random.Generator(np.random.PCG64(seed))
        scene = draw_scene(rng)
        first, second = (draw_subject(rng, scene, SIDE, unlike=0.15) for _ in range(2))
        parts = len(first.kinds)
        in_air = scene.body is not None
        scanners = {modality: draw_scanner(rng, parts, modality, outside_is_air=in_air) for modality in Modality}
        row[0].imshow(_coloured(first), interpolation="nearest")
        for axis, scanner in zip(row[1:], scanners.values(), strict=False):
            axis.imshow(draw_image(rng, first, scanner), cmap="gray", vmin=0, vmax=1)
        next_day = scanners[Modality.MR].of_another(rng)
        row[-1].imshow(draw_image(rng, second, next_day), cmap="gray", vmin=0, vmax=1)
        for axis in row:
            axis.set_axis_off()
    titles = ("parts", "MR-like", "CT-like", "ultrasound-like", "MR, another subject")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    figure.savefig(Path(__file__).with_name("random-pictures.png"), dpi=80)


def _coloured(anatomy: Anatomy) -> np.ndarray:
    """Return (rows, columns, 3): solids in colours of their own, their parts in shades of it."""
    hues = colormaps["tab20"](anatomy.solids % 20)[:, :3]
    shade = np.ones(len(hues))
    for part in range(2, len(hues)):
        if anatomy.solids[part] == anatomy.solids[part - 1]:
            shade[part] = 0.7 * shade[part - 1]
    hues = hues * shade[:, None]
    hues[0] = 0
    return hues[anatomy.parts]


if __name__ == "__main__":
    main()
