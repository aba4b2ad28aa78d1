"""Whether the study's U-Net is too lean: the same training with twice the channels.

larger_unet.py --folder FOLDER    the workspace of few_shot.py, in which the study's own was trained

A call that is stopped goes on with the runs that it has.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

from few_shot import COUNTS, TUNED_DRAWS, TUNED_ON, TURNED, WORKERS, Setting
from measure import keep

from samkit.heads.averages import mean_over_classes
from samkit.heads.base import register_head
from samkit.heads.metrics import ScoredVolume
from samkit.heads.unet import WIDTHS, UNet
from samkit.pipeline.trainers import train_cell
from samkit.stages.training.plan import TrainOptions
from samkit.store.runs import Run
from samkit.store.workspace import open_workspace

# Half the steps that the study chose: twice the channels take several times as long.
SETTING = Setting(steps=2400, learning_rate=1e-3, batch_size=4, views=TURNED.texts)
# Only where there are labels enough to need the parameters.
COUNT = max(COUNTS)


@register_head
class WiderUNet(UNet):
    """`UNet` with twice the channels: 7.8 million parameters in place of 1.9."""

    name: ClassVar[str] = "unet-wider"

    def __init__(
        self, *, channels: int, class_count: int, widths: Sequence[int] = tuple(2 * width for width in WIDTHS)
    ) -> None:
        super().__init__(channels=channels, class_count=class_count, widths=widths)


VARIANTS: dict[str, type[UNet]] = {"the study's channels": UNet, "twice the channels": WiderUNet}


def main() -> None:
    """Train, two at once by one thread each, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    workspace = open_workspace(parser.parse_args().folder / TUNED_ON / "development")
    cells = [_cell(head, draw) for head in VARIANTS.values() for draw in range(TUNED_DRAWS)]
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as processes:
        ids = list(processes.map(train_cell, [workspace.path] * len(cells), [None] * len(cells), cells))
    rows, numbers = [], dict[str, Any]()
    for name, head in VARIANTS.items():
        runs = [workspace.runs[one] for one, cell in zip(ids, cells, strict=True) if cell.head == head.name]
        parameters = runs[0].record["trainable_parameters"]
        dice = [_dice(run) for run in runs]
        numbers[name] = {"parameters": parameters, "setting": str(SETTING), "subjects": COUNT, "dice": dice}
        rows.append([name, f"{parameters:,}", str(SETTING), " ".join(f"{100 * one:.1f}" for one in dice)])
    columns = ["U-Net", "parameters", "setting", f"Dice % from {COUNT}"]
    keep("larger_unet", f"U-Nets on development subjects of {TUNED_ON}, each draw", columns, rows, numbers)


def _cell(head: type[UNet], draw: int) -> TrainOptions:
    return TrainOptions(
        head=head.name,
        subjects=COUNT,
        draw=draw,
        split="development",
        fit=SETTING.options,
        views=SETTING.views,
    )


def _dice(run: Run) -> float:
    dice = mean_over_classes([ScoredVolume.from_json(volume) for volume in run.scores]).dice
    assert dice is not None  # these subjects have every class
    return dice


if __name__ == "__main__":
    main()
