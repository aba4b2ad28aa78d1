"""Train a head of one's own in a loop of one's own, on embeddings that samkit keeps.

python training_loop.py WORKSPACE
"""

import sys

import torch
from torch.utils.data import DataLoader

import samkit

IGNORED = 255  # beside the slice, in the encoder's square

workspace = samkit.open_workspace(sys.argv[1])
split = workspace.split()  # who is trained on, and who is scored: `samkit split`, or the first `samkit train-head`
trained_on = set(split.pool) if split else {volume.subject for volume in workspace.volumes.values()}
volumes = [volume for volume in workspace.volumes.values() if volume.labelled and volume.subject in trained_on]
dataset = samkit.EmbeddedSlices(workspace.embeddings(), volumes)
loader = DataLoader(dataset, batch_size=8, shuffle=True)

channels, classes = dataset[0].features.shape[0], 1 + len(workspace.label_names)
head = torch.nn.Sequential(
    torch.nn.Conv2d(channels, classes, kernel_size=1),
    torch.nn.Upsample(scale_factor=4, mode="bilinear"),
)
optimiser = torch.optim.AdamW(head.parameters(), lr=1e-2)
for epoch in range(5):
    total = 0.0
    for features, label, _volume_id, _position in loader:
        loss = torch.nn.functional.cross_entropy(head(features.float()), label, ignore_index=IGNORED)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += loss.item() * len(label)
    sys.stdout.write(f"epoch {epoch + 1}: loss {total / len(dataset):.3f}\n")
