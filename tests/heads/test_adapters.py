"""Adapters begin as nothing, and the prompt moves those that it should move."""

import pytest
import torch

from samkit.heads.adapters import Adapter, HyperAdapter
from samkit.store.errors import UsageError

CHANNELS, HIDDEN = 12, 3
ADAPTERS = pytest.mark.parametrize("kind", [Adapter, HyperAdapter])


def made(kind, *, moved=True):
    torch.manual_seed(0)
    adapter = kind(CHANNELS, HIDDEN)
    if moved:
        torch.nn.init.normal_(adapter.up.weight)
    return adapter.double()


def tokens():
    return torch.randn(2, 4, 5, CHANNELS, generator=torch.Generator().manual_seed(1)).double()


def prompts(count=2):
    return torch.randn(count, CHANNELS, generator=torch.Generator().manual_seed(2)).double()


@ADAPTERS
def test_it_begins_by_adding_nothing(kind):
    assert not made(kind, moved=False)(tokens(), prompts()).any()


@ADAPTERS
def test_it_learns_from_its_first_step(kind):
    adapter = made(kind, moved=False)
    adapter(tokens(), prompts()).sum().backward()
    assert adapter.up.weight.grad.any()


def test_a_plain_one_is_down_relu_up_of_each_token():
    adapter = made(Adapter)
    token = tokens()[1, 2, 3]
    narrow = (adapter.down.weight @ token + adapter.down.bias).clamp(min=0)
    torch.testing.assert_close(adapter(tokens())[1, 2, 3], adapter.up.weight @ narrow + adapter.up.bias)


def test_a_hyper_adapter_is_the_papers_equation():
    adapter = made(HyperAdapter)
    prompt, token = prompts()[1], tokens()[1, 2, 3]
    reduced = (adapter.reduce.weight @ prompt + adapter.reduce.bias).clamp(min=0)
    weights = (adapter.weigh.weight @ reduced + adapter.weigh.bias).reshape(HIDDEN, HIDDEN)
    moved = (adapter.down.weight @ token + adapter.down.bias) @ weights
    normed = (moved - moved.mean()) / (moved.var(unbiased=False) + adapter.norm.eps).sqrt()
    expected = adapter.up.weight @ normed.clamp(min=0) + adapter.up.bias
    torch.testing.assert_close(adapter(tokens(), prompts())[1, 2, 3], expected)


def test_a_hyper_adapter_hears_its_own_prompt_alone():
    adapter = made(HyperAdapter)
    before = adapter(tokens(), prompts())
    other = prompts()
    other[1] += 1
    after = adapter(tokens(), other)
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1], before[1])


def test_one_prompt_may_be_for_all():
    adapter = made(HyperAdapter)
    one = prompts(1)
    torch.testing.assert_close(adapter(tokens(), one), adapter(tokens(), one.expand(2, -1)))


def test_a_hyper_adapter_without_a_prompt_is_refused():
    with pytest.raises(UsageError, match="not_a_point"):
        made(HyperAdapter)(tokens())


def test_generated_weights_begin_near_the_identity():
    torch.manual_seed(0)
    adapter = HyperAdapter(256, 64)
    with torch.no_grad():
        weights = adapter.weigh(torch.relu(adapter.reduce(torch.randn(1, 256)))).unflatten(-1, (64, 64))[0]
    assert (weights - torch.eye(64)).abs().max() < 0.05
