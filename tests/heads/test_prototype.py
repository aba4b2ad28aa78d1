"""The prototype head keeps the contract of solved heads, and compares with means of classes."""

import torch
from contracts.head import SolvedHeadContract
from torch.nn import functional as F

from samkit.heads.base import HeadContext
from samkit.heads.prototype import Prototype


class TestPrototype(SolvedHeadContract):
    head_class = Prototype


def test_prototypes_are_the_mean_directions_of_their_classes():
    head = Prototype.build(HeadContext(input_shape=(5, 2, 2), class_count=2))
    features = torch.randn(3, 5, 2, 2, generator=torch.Generator().manual_seed(0))
    coarse = torch.tensor([[[0, 1], [0, 0]], [[1, 1], [0, 0]], [[0, 0], [0, 0]]])
    head.solve([(features, coarse.repeat_interleave(4, 1).repeat_interleave(4, 2))])
    vectors = F.normalize(features, dim=1).movedim(1, -1)
    for number in range(2):
        expected = F.normalize(vectors[coarse == number].sum(dim=0), dim=0)
        torch.testing.assert_close(head.prototypes[number], expected)


def test_a_cell_of_two_classes_counts_in_both():
    head = Prototype.build(HeadContext(input_shape=(2, 1, 1), class_count=2))
    labels = torch.zeros(2, 4, 4, dtype=torch.long)
    labels[0, :2] = 1  # half of the first cell
    labels[1] = 1
    head.solve([(torch.tensor([[1.0, 0.0], [0.0, 1.0]])[..., None, None], labels)])
    torch.testing.assert_close(head.prototypes[1], F.normalize(torch.tensor([0.5, 1.0]), dim=0))
    torch.testing.assert_close(head.prototypes[0], torch.tensor([1.0, 0.0]))
