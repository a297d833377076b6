"""Weights as one vector: changing it changes the module, and gradients are those of torch."""

import copy

import pytest
import torch
from torch import nn

from troupe.config import UsageError
from troupe.networks.flat import FlatWeights


class Tied(nn.Module):
    """A decoder that is its encoder's weight, used in two places under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(3, 3, bias=False), nn.Linear(3, 3)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(x).tanh())


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(7, 3, generator=torch.Generator().manual_seed(1))


def test_the_vector_holds_all_weights_in_the_modules_own_order():
    module = network()
    before = torch.cat([each.detach().reshape(-1) for each in module.parameters()])
    assert torch.equal(FlatWeights(module).vector, before)


def test_a_vector_copied_in_changes_the_module_at_once(x):
    module, other = network(), nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    weights = FlatWeights(module)
    weights.vector.copy_(FlatWeights(other).vector)
    assert torch.equal(module(x), other(x))
    assert all(each.untyped_storage().data_ptr() == weights.vector.data_ptr() for each in module.parameters())


def test_a_deep_copy_has_weights_of_its_own(x):
    module = network()
    weights = FlatWeights(module)
    before, copied = module(x), copy.deepcopy(module)
    weights.vector.zero_()
    assert torch.equal(copied(x), before)


@pytest.mark.parametrize("make", [network, Tied], ids=["plain", "tied"])
def test_the_gradient_is_that_of_backward_and_does_not_add_up(make, x):
    module = make()
    weights = FlatWeights(module)
    module(x).square().mean().backward()
    expected = torch.cat([each.grad.reshape(-1) for each in module.parameters()])
    for _ in range(2):
        torch.testing.assert_close(weights.gradient(module(x).square().mean()), expected)
        assert torch.equal(torch.cat([each.grad.reshape(-1) for each in module.parameters()]), expected)


def test_a_parameter_that_the_loss_does_not_use_has_gradient_zero(x):
    module = network()
    weights = FlatWeights(module)
    gradient = weights.named(weights.gradient(module[0](x).sum()))
    assert gradient["0.weight"].any()
    assert not gradient["2.weight"].any()


def test_a_frozen_parameter_has_gradient_zero(x):
    module = network()
    module[0].requires_grad_(False)
    weights = FlatWeights(module)
    gradient = weights.named(weights.gradient(module(x).sum()))
    assert not gradient["0.weight"].any()
    assert gradient["2.weight"].any()


@pytest.mark.parametrize("make", [network, Tied], ids=["plain", "tied"])
def test_named_parts_load_into_another_module_of_the_kind(make, x):
    """Every name that state_dict has, both names of a tied weight, or a load would leave one as it was."""
    module, other = make(), make()
    weights = FlatWeights(module)
    weights.vector.copy_(torch.arange(len(weights.vector)) / 10)
    assert weights.named(weights.vector).keys() == module.state_dict().keys()
    other.load_state_dict(other.state_dict() | weights.named(weights.vector))
    assert torch.equal(other(x), module(x))


def test_a_tied_weight_is_one_weight():
    assert len(FlatWeights(Tied()).vector) == 9 + 3


def test_a_bfloat16_vector_makes_a_bfloat16_module(x):
    """Each weight rounded once; what is copied into the vector changes the module at once, as before."""
    module, other = network(), copy.deepcopy(network())
    weights = FlatWeights(module)
    for factor in (1.0, -3.0):
        wanted = torch.cat([each.detach().reshape(-1) for each in other.parameters()]) * factor
        if factor == 1.0:
            weights.move_to(wanted.to(torch.bfloat16))
        else:
            weights.vector.copy_(wanted)  # float32 into bfloat16, as a pull does
        assert {each.dtype for each in module.parameters()} == {weights.vector.dtype} == {torch.bfloat16}
        shapes = [each.shape for each in other.parameters()]
        rounded = [factor * each.detach() for each in other.parameters()]
        assert [each.shape for each in module.parameters()] == shapes
        for mine, theirs in zip(module.parameters(), rounded, strict=True):
            assert torch.equal(mine, theirs.bfloat16())
        (w0, b0, w1, b1) = (each.bfloat16().float() for each in rounded)
        expected = (x @ w0.T + b0).tanh() @ w1.T + b1
        torch.testing.assert_close(module(x.bfloat16()).float(), expected, rtol=0.05, atol=0.05)


def test_weights_that_moved_back_are_float32_again(x):
    module = network()
    weights = FlatWeights(module)
    kept, before = weights.vector.clone(), module(x)
    weights.move_to(kept.to(torch.bfloat16))
    weights.move_to(kept)
    assert torch.equal(module(x), before)
    assert all(each.untyped_storage().data_ptr() == kept.data_ptr() for each in module.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_weights_of_another_type_are_refused_by_name(dtype):
    module = network()
    module[2].to(dtype)
    with pytest.raises(UsageError, match=rf"parameter '2\.weight' is {dtype}; weights are kept in float32"):
        FlatWeights(module)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value):
    module = network()
    module[2].bias.data[1] = value
    with pytest.raises(UsageError, match=r"parameter '2\.bias' holds values that are not finite"):
        FlatWeights(module)


def test_a_module_without_parameters_is_refused():
    with pytest.raises(UsageError, match="it has no parameters that a gradient reaches"):
        FlatWeights(nn.Tanh())


def test_a_module_whose_parameters_are_all_frozen_is_refused():
    with pytest.raises(UsageError, match="it has no parameters that a gradient reaches"):
        FlatWeights(network().requires_grad_(requires_grad=False))
