"""Asked for all classes of a slice at once, the two-way transformer is the package's, asked with a copy for each."""

import pytest
import torch

from samkit.heads.sam_modules import TwoWayTransformer
from samkit.heads.two_way import two_way

SLICES, CHANNELS, SIDE = 2, 32, 5


def made(depth=2):
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=depth, embedding_dim=CHANNELS, mlp_dim=16, num_heads=4).double()
    for parameter in transformer.parameters():  # biases and norms begin as 0 and 1
        torch.nn.init.normal_(parameter, std=0.5)
    return transformer


def asked(classes=3, tokens=2):
    random = torch.Generator().manual_seed(1)
    embedding, position, of_class = (
        torch.randn(*shape, generator=random).double().requires_grad_()
        for shape in ((SLICES, CHANNELS, SIDE, SIDE), (CHANNELS, SIDE, SIDE), (classes, tokens, CHANNELS))
    )
    return embedding, position, of_class


def by_copies(transformer, embedding, position, tokens):
    """The package's own call: a copy of each slice for each class."""
    classes = len(tokens)
    copies = embedding.repeat_interleave(classes, dim=0)
    answered, cells = transformer(copies, position.expand(len(copies), -1, -1, -1), tokens.repeat(SLICES, 1, 1))
    return answered.unflatten(0, (SLICES, classes)), cells.unflatten(0, (SLICES, classes))


def at_once(transformer, embedding, position, tokens):
    return two_way(transformer, embedding.flatten(2).transpose(1, 2), position.flatten(1).transpose(0, 1), tokens[None])


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("classes", "tokens"), [(1, 2), (3, 2), (4, 1), (2, 7)])
def test_it_answers_what_the_package_answers(depth, classes, tokens):
    transformer, given = made(depth), asked(classes, tokens)
    for found, expected in zip(at_once(transformer, *given), by_copies(transformer, *given), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_every_weight_and_input_has_the_packages_gradient():
    transformer, gradients = made(), []
    for way in (at_once, by_copies):
        given = asked()
        transformer.zero_grad()
        answered, cells = way(transformer, *given)
        (answered.square().sum() + cells.pow(3).sum()).backward()
        grads = {name: parameter.grad for name, parameter in transformer.named_parameters()}
        gradients.append(grads | {f"input {number}": one.grad for number, one in enumerate(given)})
    found, expected = gradients
    for name, gradient in expected.items():
        if found[name] is not None:
            torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-7, msg=name)
    unused = {name for name in expected if found[name] is None}
    assert unused == {name for name in expected if "token_to_image.k_proj.bias" in name}
    # It adds the same to the scores of all cells, which softmax does not see: in the package its gradient is rounding.
    assert all(expected[name].abs().max() < 1e-6 for name in unused)
