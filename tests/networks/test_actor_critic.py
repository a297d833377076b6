"""The network: one module for single steps and whole rollouts, first weights, and plain words for what cannot be."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from troupe.config import Network, UsageError
from troupe.networks.actor_critic import build, wrap

BOX = gym.spaces.Box(-1.0, 1.0, (3, 2), np.float64)
IMAGE = gym.spaces.Box(0, 255, (4, 4), np.uint8)
SWITCHES = gym.spaces.MultiBinary([2, 2])
SYMBOLS = gym.spaces.Discrete(5, start=10)
ACTIONS = gym.spaces.Discrete(4)


@pytest.mark.parametrize("space", [BOX, IMAGE, SYMBOLS, SWITCHES], ids=["box", "image", "discrete", "switches"])
@pytest.mark.parametrize("shared", [True, False])
def test_an_unroll_is_the_step_of_every_row(space, shared):
    torch.manual_seed(0)
    space.seed(0)
    network = build(space, ACTIONS, Network(hidden=(8, 8), shared=shared))
    obs = torch.from_numpy(np.array([[space.sample() for _ in range(3)] for _ in range(6)]))
    output = network(obs)
    assert output.distribution.log_probs.shape == (6, 3, 4)
    assert output.value.shape == (6, 3)
    for t, row in enumerate(obs):
        step = network(row)
        torch.testing.assert_close(output.distribution.log_probs[t], step.distribution.log_probs)
        torch.testing.assert_close(output.value[t], step.value)


def test_a_discrete_observation_is_one_hot_from_its_start():
    network = build(SYMBOLS, ACTIONS, Network())
    assert network.body.encoder(torch.tensor([10, 14])).tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]


def test_weights_begin_orthogonal_with_the_gains_that_are_written():
    """Hidden layers sqrt(2), policy 0.01 (nearly uniform), value 1; no bias."""
    body = build(BOX, ACTIONS, Network(hidden=(32, 16), shared=False)).body
    first, second = body.trunk[0], body.trunk[2]
    torch.testing.assert_close(first.weight.T @ first.weight, 2 * torch.eye(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(second.weight @ second.weight.T, 2 * torch.eye(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(body.policy.weight @ body.policy.weight.T, 1e-4 * torch.eye(4), atol=1e-8, rtol=0)
    torch.testing.assert_close(body.value.weight.norm(), torch.tensor(1.0))
    assert not any(layer.bias.any() for layer in body.modules() if isinstance(layer, nn.Linear))


def test_a_first_policy_is_nearly_uniform():
    obs = torch.randn(50, 3, 2, generator=torch.Generator().manual_seed(0))
    probabilities = build(BOX, ACTIONS, Network())(obs).distribution.log_probs.exp()
    torch.testing.assert_close(probabilities, torch.full((50, 4), 0.25), atol=0.02, rtol=0)


@pytest.mark.parametrize(("weights", "expected"), [((1, 1), 2), ((-1, -1), 0), ((-1, 3), 2), ((1, -3), 0)], ids=str)
def test_a_standard_deviation_beyond_its_bound_follows_the_rows_total_gradient_if_that_leads_back(weights, expected):
    network = build(BOX, gym.spaces.Box(-1, 1, (1,)), Network())
    network.body.log_std.data.fill_(2.5)
    distribution = network(torch.zeros(2, 3, 2)).distribution  # whose entropy has the gradient 1 in each row
    (distribution.entropy() * torch.tensor(weights)).sum().backward()
    assert network.body.log_std.grad.tolist() == [expected]


@pytest.mark.parametrize("shared", [True, False])
def test_policy_and_value_share_their_trunk_only_if_they_are_configured_to(shared):
    network = build(BOX, ACTIONS, Network(hidden=(8,), shared=shared))
    network(torch.ones(1, 3, 2)).value.sum().backward()
    assert (network.body.trunk[0].weight.grad is not None) == shared
    assert network.body.policy.weight.grad is None


@pytest.mark.parametrize(("name", "kind"), [("tanh", nn.Tanh), ("relu", nn.ReLU)])
def test_the_activation_and_the_layers_are_those_that_were_asked_for(name, kind):
    trunk = build(BOX, ACTIONS, Network(hidden=(7, 5), activation=name)).body.trunk
    assert [getattr(layer, "out_features", type(layer)) for layer in trunk] == [7, kind, 5, kind]


def test_no_hidden_layer_gives_a_linear_policy():
    body = build(BOX, ACTIONS, Network(hidden=())).body
    assert body.policy.in_features == 6


# What cannot be


@pytest.mark.parametrize(
    ("observations", "actions", "named"),
    [
        (gym.spaces.Text(4), ACTIONS, r"observation space Text\("),
        (gym.spaces.Dict({"x": BOX, "y": gym.spaces.Tuple([gym.spaces.Sequence(BOX)])}), ACTIONS,
         r"observation space Sequence\(.* at \['y'\]\[0\]"),
        (BOX, gym.spaces.Graph(BOX, None), r"action space Graph\("),
        (BOX, gym.spaces.Dict({"go": gym.spaces.Text(2)}), r"action space Text\(.* at \['go'\]"),
    ],
)  # fmt: skip
def test_an_unsupported_space_is_named_with_what_is_supported(observations, actions, named):
    with pytest.raises(UsageError, match=rf"^{named}.* is not supported: Box, Discrete, MultiDiscrete and MultiBinary"):
        build(observations, actions, Network())


class Own(nn.Module):
    """A body that does what the test says."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, obs):
        return self.answer(obs)


EXPECTED = r"^network: it must map observations \[N, \.\.\.\] to \(logits \[N, 4\], values \[N\]\)"


def test_a_body_with_the_right_signature_passes():
    network = wrap(Own(lambda obs: (torch.zeros(len(obs), 4), torch.zeros(len(obs)))), BOX, ACTIONS, Network())
    output = network(torch.zeros(5, *BOX.shape))
    assert (output.distribution.log_probs.shape, output.value.shape) == ((5, 4), (5,))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda obs: (torch.zeros(2, 3), torch.zeros(2)), r"; it gave \(2, 3\) and \(2,\) for N = 2$"),
        (lambda obs: (torch.zeros(2, 4), torch.zeros(2, 1)), r"; it gave \(2, 4\) and \(2, 1\) for N = 2$"),
        (lambda obs: torch.zeros(2, 4), r"; it gave \(4,\) and \(4,\) for N = 2$"),
        (lambda obs: (torch.zeros(2, 4), None), r"; called with \(2, 3, 2\) it raised AttributeError"),
        (lambda obs: torch.zeros(3, 4), r"; called with \(2, 3, 2\) it raised ValueError: too many values"),
        (lambda obs: obs @ torch.zeros(9, 9), r"; called with \(2, 3, 2\) it raised RuntimeError"),
    ],
    ids=["too few logits", "a column of values", "two rows", "no values", "three rows", "an error inside"],
)
def test_a_custom_body_that_breaks_its_signature_is_refused_with_what_it_gave(answer, message):
    with pytest.raises(UsageError, match=EXPECTED + message):
        wrap(Own(answer), BOX, ACTIONS, Network())


def test_a_body_of_ones_own_cannot_change_which_actions_are_supported():
    with pytest.raises(UsageError, match=r"^action space Text\("):
        wrap(Own(lambda obs: obs), BOX, gym.spaces.Text(3), Network())


def test_a_body_for_boxes_gives_means_and_deviations():
    """Two numbers and a choice of three: logits, means, logarithms of deviations."""
    actions = gym.spaces.Tuple((gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(3)))
    message = r"^network: .*\(parameters \[N, 7\], values \[N\]\); it gave \(2, 5\)"
    with pytest.raises(UsageError, match=message):
        wrap(Own(lambda obs: (torch.zeros(len(obs), 5), torch.zeros(len(obs)))), BOX, actions, Network())
    network = wrap(Own(lambda obs: (torch.arange(7.0).repeat(len(obs), 1), obs.sum((1, 2)))), BOX, actions, Network())
    box, choice = network(torch.zeros(2, 3, 2)).distribution.parts
    assert box.mean.tolist() == [[0, 1]] * 2
    assert box.log_std.tolist() == [[2, 2]] * 2  # 5 and 6, held at the most there may be
    torch.testing.assert_close(choice.log_probs, torch.tensor([2.0, 3, 4]).log_softmax(-1).repeat(2, 1))
