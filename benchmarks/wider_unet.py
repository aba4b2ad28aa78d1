"""Whether the study's U-Net is too lean: the same training with twice the channels at every level, on the same draws.

wider_unet.py --folder FOLDER    the workspace of few_shot.py, in which the lean one was trained
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

from few_shot import TURNED, Setting
from measure import keep

from samkit.heads.averages import mean_over_classes
from samkit.heads.base import register_head
from samkit.heads.metrics import ScoredVolume
from samkit.heads.unet import WIDTHS, UNet
from samkit.pipeline.trainers import train_cell
from samkit.stages.training.plan import TrainOptions
from samkit.store.runs import Run
from samkit.store.workspace import open_workspace

TIMES = 2
SETTING = Setting(steps=2400, learning_rate=1e-3, batch_size=4, views=TURNED.texts)
SUBJECTS, DRAWS = 5, 2


@register_head
class WiderUNet(UNet):
    """`UNet` with twice the channels: 7.8 million parameters in place of 1.9."""

    name: ClassVar[str] = "unet-wider"

    def __init__(
        self, *, channels: int, class_count: int, widths: Sequence[int] = tuple(TIMES * width for width in WIDTHS)
    ) -> None:
        super().__init__(channels=channels, class_count=class_count, widths=widths)


def main() -> None:
    """Train, each draw by a process of one thread, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    workspace = open_workspace(parser.parse_args().folder / "acdc" / "development")
    cells = [
        TrainOptions(
            head=head.name,
            subjects=SUBJECTS,
            draw=draw,
            split="development",
            fit=SETTING.options,
            views=SETTING.views,
        )
        for draw in range(DRAWS)
        for head in (WiderUNet, UNet)
    ]
    with ProcessPoolExecutor(DRAWS, mp_context=get_context("spawn")) as processes:
        ids = list(processes.map(train_cell, [workspace.path] * len(cells), [None] * len(cells), cells))
    runs = [workspace.runs[one] for one in ids]
    rows, numbers = [], {}
    for head in (UNet, WiderUNet):
        own = [run for run in runs if run.settings.head == head.name]
        dice = [_dice(run) for run in own]
        parameters = own[0].record["trainable_parameters"]
        mean = f"{100 * statistics.mean(dice):.1f}"
        rows.append([head.name, f"{parameters:,}", mean, *(f"{100 * one:.1f}" for one in dice)])
        numbers[head.name] = {"parameters": parameters, "dice": dice}
    columns = ["head", "parameters", "Dice %", *(f"draw {draw}" for draw in range(DRAWS))]
    title = f"U-Net of {SUBJECTS} subjects of ACDC, {SETTING}, on development subjects"
    keep("wider_unet", title, columns, rows, {"subjects": SUBJECTS, "setting": str(SETTING), **numbers})


def _dice(run: Run) -> float:
    dice = mean_over_classes([ScoredVolume.from_json(volume) for volume in run.scores]).dice
    assert dice is not None  # these subjects have every class
    return dice


if __name__ == "__main__":
    main()
