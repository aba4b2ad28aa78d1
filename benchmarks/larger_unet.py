"""Whether the study's U-Net is too lean, or stopped too early: the same training with twice the channels, or the steps.

larger_unet.py --folder FOLDER    the workspace of few_shot.py, in which the study's own was trained

Hours; a call that is stopped goes on with the runs that it has.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

from few_shot import COUNTS, TUNED_ON, TURNED, WORKERS, Setting
from measure import keep

from samkit.heads.averages import mean_over_classes
from samkit.heads.base import register_head
from samkit.heads.metrics import ScoredVolume
from samkit.heads.unet import WIDTHS, UNet
from samkit.pipeline.trainers import train_cell
from samkit.stages.training.plan import TrainOptions
from samkit.store.runs import Run
from samkit.store.workspace import open_workspace

SETTING = Setting(steps=2400, learning_rate=1e-3, batch_size=4, views=TURNED.texts)
TIMES = 2
DRAWS = 2


@register_head
class WiderUNet(UNet):
    """`UNet` with twice the channels: 7.8 million parameters in place of 1.9."""

    name: ClassVar[str] = "unet-wider"

    def __init__(
        self, *, channels: int, class_count: int, widths: Sequence[int] = tuple(TIMES * width for width in WIDTHS)
    ) -> None:
        super().__init__(channels=channels, class_count=class_count, widths=widths)


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A U-Net, and what it is trained on."""

    name: str
    head: type[UNet]
    setting: Setting
    counts: tuple[int, ...] = COUNTS

    def options(self, count: int, draw: int) -> TrainOptions:
        """Return what is trained on a draw."""
        return TrainOptions(
            head=self.head.name,
            subjects=count,
            draw=draw,
            split="development",
            fit=self.setting.options,
            views=self.setting.views,
        )


VARIANTS = (
    Variant(name="as in the study", head=UNet, setting=SETTING),
    Variant(name="twice the steps", head=UNet, setting=replace(SETTING, steps=TIMES * SETTING.steps)),
    # Dear: only where there are labels enough to need the parameters.
    Variant(name="twice the channels", head=WiderUNet, setting=SETTING, counts=(max(COUNTS),)),
)


def main() -> None:
    """Train, two at once by one thread each, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    workspace = open_workspace(parser.parse_args().folder / TUNED_ON / "development")
    asked = [(one, count, draw) for one in VARIANTS for count in one.counts for draw in range(DRAWS)]
    cells = [one.options(count, draw) for one, count, draw in asked]
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as processes:
        ids = list(processes.map(train_cell, [workspace.path] * len(cells), [None] * len(cells), cells))
    rows, numbers = [], dict[str, Any]()
    for variant in VARIANTS:
        runs = {
            count: [
                workspace.runs[one]
                for one, (of, its, _) in zip(ids, asked, strict=True)
                if (of, its) == (variant, count)
            ]
            for count in variant.counts
        }
        parameters = runs[max(COUNTS)][0].record["trainable_parameters"]
        dice = {str(count): [_dice(run) for run in own] for count, own in runs.items()}
        numbers[variant.name] = {"parameters": parameters, "setting": str(variant.setting), "dice": dice}
        told = [" ".join(f"{100 * one:.1f}" for one in dice.get(str(count), [])) for count in COUNTS]
        rows.append([variant.name, f"{parameters:,}", str(variant.setting), *told])
    columns = ["U-Net", "parameters", "setting", *(f"Dice % from {count}" for count in COUNTS)]
    keep("larger_unet", f"U-Nets on development subjects of {TUNED_ON}, each draw", columns, rows, numbers)


def _dice(run: Run) -> float:
    dice = mean_over_classes([ScoredVolume.from_json(volume) for volume in run.scores]).dice
    assert dice is not None  # these subjects have every class
    return dice


if __name__ == "__main__":
    main()
