"""The memory: its steps against the formulas written out, its unroll against its steps, and networks that have it."""

import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from troupe.config import Network, UsageError, resolve
from troupe.environments.actions import Actions
from troupe.networks.actor_critic import build, wrap
from troupe.networks.recurrent import Core, LastStepFeatures, RecurrentState, grouped

BOX = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
CHOICES = gym.spaces.Discrete(4)
KINDS = ["lstm", "gru"]


def exact_core(kind: str, features: int = 3, units: int = 4, seed: int = 0) -> Core:
    """In double precision, every weight and bias of it some number."""
    torch.manual_seed(seed)
    made = Core(features, Actions(CHOICES), Network(core=kind, core_units=units)).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return made


def written_out(
    core: Core, features: np.ndarray, state: np.ndarray, first: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One step of one environment: Hochreiter & Schmidhuber's LSTM with a forget gate, Cho et al.'s GRU as PyTorch
    has it, and nothing remembered where an episode begins."""
    w, u, b, c = (each.detach().numpy() for each in core.rnn.parameters())
    if first:
        state = np.zeros_like(state)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    if not core.lstm:
        (wr, wz, wn), (ur, uz, un) = np.split(w @ features + b, 3), np.split(u @ state + c, 3)
        r, z = sigmoid(wr + ur), sigmoid(wz + uz)
        hidden = (1 - z) * np.tanh(wn + r * un) + z * state
        return hidden, hidden
    h, cell = np.split(state, 2)
    i, f, g, o = np.split(w @ features + b + u @ h + c, 4)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    hidden = sigmoid(o) * np.tanh(cell)
    return hidden, np.concatenate([hidden, cell])


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_formula_written_out_and_forgets_where_an_episode_begins(kind):
    core, rng = exact_core(kind), np.random.default_rng(0)
    state = torch.from_numpy(rng.normal(size=(5, core.state_size)))
    for _ in range(4):
        features, first = torch.from_numpy(rng.normal(size=(5, 3))), torch.from_numpy(rng.random(5) < 0.4)
        expected = [
            written_out(core, *(each.detach().numpy() for each in row))
            for row in zip(features, state, first, strict=True)
        ]
        hidden, state = core.step(features, state, first)
        np.testing.assert_allclose(hidden.detach(), [row[0] for row in expected], rtol=1e-12)
        np.testing.assert_allclose(state.detach(), [row[1] for row in expected], rtol=1e-12)


def stepped(core, features, state, first):
    rows = []
    for t in range(len(features)):
        hidden, state = core.step(features[t], state, first[t])
        rows.append(hidden)
    return torch.stack(rows)


@given(
    kind=st.sampled_from(KINDS),
    first=st.integers(1, 20).flatmap(
        lambda steps: st.integers(1, 5).flatmap(
            lambda columns: st.lists(
                st.lists(st.sampled_from([False, False, False, True]), min_size=columns, max_size=columns),
                min_size=steps,
                max_size=steps,
            )
        )
    ),
    seed=st.integers(0, 99),
)
def test_an_unroll_equals_its_steps_wherever_episodes_begin(kind, first, seed):
    """Outputs, and the gradients of any sum of them with respect to weights, features and first state."""
    core, begins = exact_core(kind, seed=seed), torch.tensor(first)
    features = torch.randn(*begins.shape, 3, dtype=torch.float64, requires_grad=True)
    state = torch.randn(begins.shape[1], core.state_size, dtype=torch.float64, requires_grad=True)
    some = torch.randn(*begins.shape, 4, dtype=torch.float64)
    inputs, gradients, outputs = [features, state, *core.parameters()], [], []
    for way in (core.unroll, lambda *given: stepped(core, *given)):
        outputs.append(way(features, state, begins))
        gradients.append(torch.autograd.grad((outputs[-1] * some).sum(), inputs))
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-12)
    for unrolled, step_by_step in zip(*gradients, strict=True):
        torch.testing.assert_close(unrolled, step_by_step, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("begins", [[], [(0, 0)], [(2, 1)], [(1, 0), (2, 0), (2, 1), (4, 1)]], ids=len)
def test_gradients_through_an_unroll_are_finite_differences(kind, begins):
    core, first = exact_core(kind, units=3), torch.zeros(5, 2, dtype=torch.bool)
    for t, b in begins:
        first[t, b] = True
    features = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    state = torch.randn(2, core.state_size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *given: core.unroll(*given, first), (features, state))
    some = torch.randn(5, 2, 3, dtype=torch.float64)

    def total() -> torch.Tensor:
        return (core.unroll(features, state, first) * some).sum()

    for name, weight in core.named_parameters():
        (gradient,) = torch.autograd.grad(total(), weight)
        for index in itertools.product(*({0, size // 2, size - 1} for size in weight.shape)):
            values = []
            with torch.no_grad():
                was = weight[index].item()
                for moved in (was + 1e-6, was - 1e-6):
                    weight[index] = moved
                    values.append(total().item())
                weight[index] = was
            assert (values[0] - values[1]) / 2e-6 == pytest.approx(gradient[index].item(), rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_before_an_episode_reaches_nothing_of_it(kind):
    """Nor what is in another column, nor what comes later: whatever is changed there, these outputs stay."""
    core, first = exact_core(kind), torch.zeros(9, 3, dtype=torch.bool)
    first[4, 1] = True
    features, state = torch.randn(9, 3, 3).double(), torch.randn(3, core.state_size).double()
    expected = core.unroll(features, state, first)[4:7, 1]
    features[:4, 1] = features[:, 0] = features[:, 2] = features[7:] = 5.0
    state[:] = -3.0
    torch.testing.assert_close(core.unroll(features, state, first)[4:7, 1], expected, rtol=1e-12, atol=0)


def test_an_unroll_is_one_call_where_no_episode_begins_inside_and_a_few_wherever_they_do():
    core, rng, calls = exact_core("lstm"), np.random.default_rng(0), []
    core.rnn.register_forward_hook(lambda module, given, result: calls.append(given[0].shape))
    steps, columns = 64, 8
    features, state = torch.randn(steps, columns, 3).double(), torch.zeros(columns, 8).double()
    first = torch.zeros(steps, columns, dtype=torch.bool)
    for at_the_start in (False, True):
        first[0] = at_the_start
        core.unroll(features, state, first)
    assert calls == [(64, 8, 3)] * 2
    for share in (0.003, 0.03, 0.3, 1.0):
        calls.clear()
        core.unroll(features, state, torch.from_numpy(rng.random((steps, columns)) < share))
        assert len(calls) <= math.log2(steps) + 1
        rows = sum(length * sequences for length, sequences, _ in calls)
        assert steps * columns <= rows < 2 * steps * columns


@given(st.lists(st.integers(1, 64), min_size=1, max_size=8), st.integers(0, 99), st.integers(0, 40))
def test_sequences_are_grouped_as_costs_least_of_all_ways(lengths, call, step):
    lengths = np.sort(lengths)[::-1]
    count = len(lengths)

    def cost(ends) -> int:
        return sum(call + lengths[begin] * (step + end - begin) for begin, end in itertools.pairwise((0, *ends, count)))

    groups = list(grouped(lengths, call, step))
    assert [number for group in groups for number in range(count)[group]] == list(range(count))
    ways = itertools.chain.from_iterable(itertools.combinations(range(1, count), inner) for inner in range(count))
    assert cost([group.stop for group in groups[:-1]]) == min(map(cost, ways))


def test_an_lstm_begins_by_remembering_and_weights_begin_orthogonal_by_gates():
    core = Core(3, Actions(CHOICES), Network(core="lstm", core_units=8))
    _, recurrent, bias, other = core.rnn.parameters()
    for gate in recurrent.split(8):
        torch.testing.assert_close(gate @ gate.T, torch.eye(8), atol=1e-5, rtol=0)
    assert (bias + other).tolist() == [0.0] * 8 + [1.0] * 8 + [0.0] * 16
    gru = Core(3, Actions(CHOICES), Network(core="gru", core_units=8))
    assert not any(bias.any() for name, bias in gru.named_parameters() if "bias" in name)


def test_the_action_and_the_reward_before_as_numbers_by_hand():
    actions = Actions(
        gym.spaces.Tuple((gym.spaces.Discrete(3), gym.spaces.Box(-1, 1, (2,)), gym.spaces.MultiBinary(1)))
    )
    before = LastStepFeatures(actions)
    memory = RecurrentState(
        torch.zeros(3, 0),
        torch.tensor([False, False, True]),
        torch.tensor([[2.0, 0.5, -1.5, 1.0], [0, 0, 0, 0], [1, 1, 1, 1]]),
        torch.tensor([math.e - 1, -(math.e**2) + 1, 7.0]),
    )
    assert before.features == 8
    expected = [[0, 0, 1, 0.5, -1.5, 0, 1, 1], [1, 0, 0, 0, 0, 1, 0, -2], [0] * 8]
    torch.testing.assert_close(before(memory), torch.tensor(expected).float())
    single = LastStepFeatures(Actions(gym.spaces.Discrete(3, start=5)))  # rows count from 0
    features = single(
        RecurrentState(torch.zeros(2, 0), torch.tensor([False, True]), torch.tensor([2, 2]), torch.zeros(2))
    )
    assert features.tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]


# In a network

SPACES = {
    "numbers": (BOX, CHOICES, ""),
    "images": (gym.spaces.Box(0, 255, (36, 36, 2), np.uint8), CHOICES, ""),
    "nested": (gym.spaces.Dict({"x": BOX, "symbol": gym.spaces.Discrete(3)}), CHOICES, ""),
    "masked": (BOX, gym.spaces.MultiDiscrete([2, 3]), "info"),
    "continuous": (BOX, gym.spaces.Box(-2, 2, (2,)), ""),
}


def packed_samples(network, space, rows: int) -> torch.Tensor:
    space.seed(0)
    masks = itertools.cycle([[1, 1, 0, 1, 1], [0, 1, 1, 0, 0], [1, 0, 1, 1, 1]])
    packing = network.packing
    obs = [packing.pack_one(space.sample(), packing.mask(next(masks)) if packing.masked else None) for _ in range(rows)]
    return torch.from_numpy(np.stack(obs))


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("inputs", [True, False], ids=["inputs", "no inputs"])
def test_an_unroll_of_any_network_is_its_steps_one_after_another(name, kind, shared, inputs):
    space, actions, masked = SPACES[name]
    torch.manual_seed(0)
    config = Network(core=kind, core_units=6, core_inputs=inputs, hidden=(5,), shared=shared)
    network = build(space, actions, config, masked)
    network.body.policy.weight.data.mul_(100)  # a first policy is nearly uniform, whatever is remembered
    obs = packed_samples(network, space, 7 * 3).unflatten(0, (7, 3))
    rng = np.random.default_rng(0)
    rows = Actions(actions)
    action = torch.from_numpy(np.stack([rows.random(rng, 3) for _ in range(7)]))
    reward, first = torch.randn(7, 3), torch.from_numpy(rng.random((7, 3)) < 0.2)
    state = torch.randn(3, network.state_size)
    output = network(obs, RecurrentState(state, first, action, reward))
    assert output.next_state is None
    for t in range(7):
        step = network(obs[t], RecurrentState(state, first[t], action[t], reward[t]))
        state = step.next_state
        torch.testing.assert_close(output.value[t], step.value, rtol=1e-4, atol=1e-5)
        chosen = step.distribution.mode()
        ours, theirs = output.distribution[t : t + 1].log_prob(chosen[None])[0], step.distribution.log_prob(chosen)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            output.distribution[t : t + 1].entropy()[0], step.distribution.entropy(), atol=1e-4, rtol=1e-4
        )


def test_without_a_state_an_episode_begins():
    network = build(BOX, CHOICES, Network(core="lstm", core_inputs=True))
    obs = torch.randn(5, 2, 3)
    torch.testing.assert_close(network(obs[0]).value, network(obs[0], network.initial_state(2)).value)
    torch.testing.assert_close(network(obs[0]).value, network(obs).value[0])


def test_with_inputs_the_action_and_the_reward_before_matter_and_without_they_do_not():
    obs = torch.randn(2, 3)
    for inputs in (True, False):
        network = build(BOX, CHOICES, Network(core="gru", core_inputs=inputs))
        assert network.reads_rewards is inputs
        memory = network.initial_state(2)._replace(resets=torch.zeros(2, dtype=torch.bool))
        changed = (
            memory._replace(last_action=torch.tensor([1, 2])),
            memory._replace(last_reward=torch.tensor([1.0, -1.0])),
        )
        value = network(obs, memory).value
        assert all(torch.equal(network(obs, each).value, value) is not inputs for each in changed)


def test_a_network_without_memory_ignores_one_and_says_nothing_of_it():
    network = build(BOX, CHOICES, Network())
    assert (network.state_size, network.initial_state(2), network.reads_rewards) == (0, None, False)
    assert network(torch.randn(2, 3)).next_state is None


def test_policy_and_value_both_read_the_memory_shared_trunk_or_not():
    for shared in (True, False):
        network = build(BOX, CHOICES, Network(core="lstm", shared=shared, hidden=(5,)))
        network.body.policy.weight.data.normal_()
        obs, memory = torch.randn(1, 3), network.initial_state(1)._replace(resets=torch.tensor([False]))
        ours, theirs = (network(obs, memory._replace(state=torch.full((1, 256), x))) for x in (0.0, 0.5))
        assert not torch.allclose(ours.value, theirs.value)
        assert not torch.allclose(ours.distribution.log_probs, theirs.distribution.log_probs)


def test_a_memory_is_float32_where_networks_compute_in_bfloat16():
    """Its weights act on what the convolutions say, which is rounded; but the state it adds to is not."""
    space = SPACES["images"][0]
    networks = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        networks.append(build(space, CHOICES, Network(core="lstm", precision=precision)))
    obs = packed_samples(networks[0], space, 2)
    exact, rounded = (network(obs) for network in networks)
    assert rounded.next_state.dtype == rounded.value.dtype == torch.float32
    torch.testing.assert_close(rounded.next_state, exact.next_state, atol=0.02, rtol=0.1)
    parameters = networks[1].raw_output(obs[None]).parameters
    assert parameters.dtype == torch.float32
    parameters.sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in networks[1].body.core.parameters())


def test_a_network_of_ones_own_is_given_no_memory():
    with pytest.raises(UsageError, match=r"^network\.core = 'lstm': a custom network cannot be recurrent"):
        wrap(torch.nn.Linear(3, 4), BOX, CHOICES, Network(core="lstm"))


def test_impala_for_deepmind_lab_is_the_deep_network_with_an_lstm_that_reads_the_last_action_and_reward():
    """Its parameters counted by hand, from figure 3 of Espeholt et al. 2018."""
    settings = {"network.core": "lstm", "network.core_units": 256, "network.core_inputs": True}
    config = resolve("ALE/Breakout-v5", "impala", settings).network
    network = build(gym.spaces.Box(0, 255, (84, 84, 4), np.uint8), CHOICES, config)

    def convolution(inputs: int, outputs: int) -> int:
        return 9 * inputs * outputs + outputs

    sections = sum(
        convolution(inputs, depth) + 4 * convolution(depth, depth)
        for inputs, depth in [(4, 16), (16, 32), (32, 32)]  # each with two residual blocks
    )
    hidden = 11 * 11 * 32 * 256 + 256
    lstm = 4 * 256 * (256 + CHOICES.n + 1 + 256 + 2)  # the features, the action, the reward, its state, two biases
    heads = 257 * CHOICES.n + 257
    assert sum(each.numel() for each in network.parameters()) == sections + hidden + lstm + heads
    assert network.reads_rewards
