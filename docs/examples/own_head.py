"""A head of one's own, trained and scored as samkit's are: the same draws, the same metrics, the same report.

python own_head.py WORKSPACE
"""

import sys

import torch

import samkit
from samkit.stages.train import train
from samkit.stages.training.plan import TrainOptions


@samkit.register_head
class TwoLayers(samkit.FeatureHead):
    """Two 1x1 convolutions with a nonlinearity between them."""

    name = "two-layers"

    def __init__(self, *, channels: int, class_count: int) -> None:
        super().__init__(channels=channels, class_count=class_count)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(channels, 64, kernel_size=1),
            torch.nn.GELU(),
            torch.nn.Conv2d(64, class_count, kernel_size=1),
            torch.nn.Upsample(scale_factor=4, mode="bilinear"),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(features.float())
        return logits


workspace = samkit.open_workspace(sys.argv[1])
options = TrainOptions(head=TwoLayers.name, subjects=1, draw=0, fit=TwoLayers.own_fit)
run = train(workspace, workspace.embeddings(), TwoLayers, options)
for volume in run.scores:
    dice = ", ".join(f"{one['class_name']} {one['dice']}" for one in volume["scores"])
    sys.stdout.write(f"{volume['volume_id']}: {dice}\n")
