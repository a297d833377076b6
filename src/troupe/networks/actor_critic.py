"""One module for actors and learners: `step` on [B] observations, `unroll` on [T, B] of them."""

from dataclasses import replace
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from troupe.algorithm.distributions import Categorical, Distribution, Gaussian, Product
from troupe.algorithm.normalization import Normalizer
from troupe.config import Network, UsageError, one_line
from troupe.environments.actions import Actions
from troupe.environments.packing import MaskPlace, Packing
from troupe.networks.encoders import Encoder, encoder
from troupe.networks.layers import hidden_layers, orthogonal
from troupe.networks.recurrent import Core, Memory, core

LEAST_LOG_STD, MOST_LOG_STD = -5.0, 2.0


class PolicyOutput(NamedTuple):
    distribution: Distribution
    value: Float[Tensor, "*batch"]
    bonus_value: Float[Tensor, "*batch"] | None = None
    state: Float[Tensor, "B S"] | None = None  # of a memory, after a step


class Heads(NamedTuple):
    """What a body says: of these `ActorCritic.policy` makes what actors and losses read."""

    parameters: Float[Tensor, "*batch P"]
    value: Float[Tensor, "*batch"]
    mask: Bool[Tensor, "*batch choices"] | None = None
    bonus_value: Float[Tensor, "*batch"] | None = None
    state: Float[Tensor, "B S"] | None = None


class ActorCritic(nn.Module):
    """A policy and a value on any body: a module that maps observations [N, ...], nested as the environment's,
    to the policy's parameters [N, P] and values [N]. The body may be one's own (docs/extending.md).

    One that remembers (`memory_size` > 0) reads a `Memory` beside its observations, and a step gives the state after
    it. Without a `Memory` an episode begins with what is observed. Others ignore all of that.

    Observations come packed (environments/packing.py). `precision` is what the body computes in; weights,
    parameters and values are float32 all the same. `bonus_value` values the bonuses for what is new
    (novelty.py), where there are any: for learning only.
    """

    def __init__(
        self,
        body: nn.Module,
        packing: Packing,
        actions: Actions,
        precision: torch.dtype = torch.float32,
        bonus_value: nn.Module | None = None,
    ):
        super().__init__()
        self.body, self.packing, self.precision, self.bonus_value = body, packing, precision, bonus_value
        self._head, self._actions = PolicyHead(actions), actions
        remembering = body.core if isinstance(body, Body) else None
        self.memory_size = remembering.state_size if remembering else 0
        self.eval()  # but for a learner's passes (runtime/learning/learner.py)

    def step(self, obs: Shaped[Tensor, "B *shape"], memory: Memory | None = None) -> PolicyOutput:
        return self.policy(self.heads(obs, memory))

    def unroll(self, obs: Shaped[Tensor, "T B *shape"], memory: Memory | None = None) -> PolicyOutput:
        """The same for every row of a rollout, in one call."""
        return self.policy(self.unrolled_heads(obs, memory))

    def unrolled_heads(self, obs: Shaped[Tensor, "T B *shape"], memory: Memory | None = None) -> Heads:
        rows = obs.shape[:2]
        heads = self.heads(obs.flatten(0, 1), self.fresh(*rows, device=obs.device) if memory is None else memory)
        parameters, value, mask = heads[:3]
        return Heads(
            parameters.reshape(*rows, -1), value.reshape(rows), None if mask is None else mask.reshape(*rows, -1)
        )

    def learned_heads(self, obs: Shaped[Tensor, "T B *shape"], memory: Memory | None = None) -> Heads:
        """All that is learned: `unrolled_heads`, and the value of bonuses where there is one."""
        heads = self.unrolled_heads(obs, memory)
        if self.bonus_value is None:
            return heads
        seen, _ = self.packing.unpack(obs.flatten(0, 1))
        return heads._replace(bonus_value=self.bonus_value(seen).reshape(obs.shape[:2]))

    def heads(self, obs: Shaped[Tensor, "N *shape"], memory: Memory | None = None) -> Heads:
        """Of N observations, each a step of its own; or, with a memory of T rows, of N = T B, one row after another."""
        seen, mask = self.packing.unpack(obs)
        if self.memory_size and memory is None:
            memory = self.fresh(len(obs), device=obs.device)
        if self.precision == torch.float32:
            parameters, value, state = self.think(seen, memory)
            return Heads(parameters, value, mask, state=state)
        with torch.autocast(obs.device.type, self.precision):
            parameters, value, state = self.think(seen, memory)
        return Heads(parameters.float(), value.float(), mask, state=state)

    def think(self, seen: Any, memory: Memory | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Parameters, values and the state after a step, as the body makes them of observations that are unpacked."""
        if not self.memory_size:
            return *self.body(seen), None
        assert isinstance(self.body, Body)
        assert memory is not None
        return self.body.remembering(seen, memory)

    def fresh(self, *rows: int, device: torch.device | None = None) -> Memory | None:
        """The memory of [B] or [T, B] rows before anything was seen, the first of them an episode's first; None for
        a network that has none."""
        if not self.memory_size:
            return None
        first = torch.zeros(rows, dtype=torch.bool, device=device)
        first.view(-1, rows[-1])[0] = True
        return Memory(
            torch.zeros(rows[-1], self.memory_size, device=device),
            first,
            torch.from_numpy(np.zeros((*rows, *self._actions.shape), self._actions.dtype)).to(device),
            torch.zeros(rows, device=device),
        )

    @property
    def reads_rewards(self) -> bool:
        """Whether what it does depends on the action and the reward before, too."""
        core = self.body.core if isinstance(self.body, Body) else None
        return core is not None and core.before is not None

    def policy(self, heads: Heads) -> PolicyOutput:
        return PolicyOutput(self._head(heads.parameters, heads.mask), heads.value, heads.bonus_value, heads.state)

    @property
    def normalizer(self) -> Normalizer | None:
        """What numbers are normalised by, if they are."""
        seen = getattr(self.body, "encoder", None)
        return seen.normalizer if isinstance(seen, Encoder) else None

    @torch.no_grad()
    def numbers(self, obs: Shaped[Tensor, "N *shape"]) -> Float[Tensor, "N D"]:
        """What `normalizer` gets to see."""
        eyes = self.body.encoder
        assert isinstance(eyes, Encoder)
        assert eyes.numbers is not None
        vector: Tensor = eyes.numbers(self.packing.unpack(obs)[0])
        return vector


class PolicyHead:
    """Makes distributions of a body's parameters: first the logits of every choice and the means of every Box, in
    the order of the actions' parts, then the logarithms of the deviations of all Boxes."""

    def __init__(self, actions: Actions):
        self._actions = actions
        self._sizes = [part.choices or part.width for part in actions.parts]
        self._choices = [part.choices for part in actions.parts if part.choices]
        self.numbers = sum(part.width for part in actions.parts if not part.choices)  # of all Boxes
        self.outputs = sum(self._sizes)  # logits and means
        self.parameters = self.outputs + self.numbers

    def __call__(
        self, parameters: Float[Tensor, "*batch P"], mask: Bool[Tensor, "*batch choices"] | None
    ) -> Distribution:
        if self._actions.single:
            return Categorical.from_logits(parameters, mask)
        columns = iter(parameters[..., : self.outputs].split_with_sizes(self._sizes, -1))
        log_std = parameters[..., self.outputs :].clamp(LEAST_LOG_STD, MOST_LOG_STD)
        allowed = iter(() if mask is None else mask.split_with_sizes(self._choices, -1))
        distributions: list[Categorical | Gaussian] = []
        start = 0
        for part in self._actions.parts:
            if part.choices:
                distributions.append(Categorical.from_logits(next(columns), next(allowed, None)))
            else:
                distributions.append(Gaussian(next(columns), log_std[..., start : start + part.width]))
                start += part.width
        one_box = len(distributions) == 1 and not self._actions.countable
        return distributions[0] if one_box else Product(tuple(distributions))


class Body(nn.Module):
    """Encoder, memory if there is one, hidden layers, one trunk for policy and value or one for each, and their heads.

    A Gaussian's deviations are weights of their own, the same for every observation.
    """

    def __init__(self, encoder: Encoder, head: PolicyHead, config: Network, core: Core | None = None):
        super().__init__()
        self.encoder, self.core = encoder, core
        encoded = core.features if core else encoder.features
        features = (encoded, *config.hidden)[-1]
        self.trunk = hidden_layers(encoded, config.hidden, config.activation)
        self.value_trunk = None if config.shared else hidden_layers(encoded, config.hidden, config.activation)
        # A near-uniform first policy explores; a value head of ordinary size learns at once.
        self.policy = orthogonal(features, head.outputs, 0.01)
        self.value = orthogonal(features, 1, 1.0)
        self.log_std = nn.Parameter(torch.full((head.numbers,), config.log_std)) if head.numbers else None

    def forward(self, obs: Any) -> tuple[Float[Tensor, "N P"], Float[Tensor, " N"]]:
        """Of a body without memory."""
        return self._decide(self.encoder(obs))

    def remembering(
        self, obs: Any, memory: Memory
    ) -> tuple[Float[Tensor, "N P"], Float[Tensor, " N"], Float[Tensor, "B S"] | None]:
        """Of one with: the state after a step as well."""
        assert self.core is not None
        features, state = self.core(self.encoder(obs), memory)
        return *self._decide(features), state

    def _decide(self, encoded: Float[Tensor, "N F"]) -> tuple[Float[Tensor, "N P"], Float[Tensor, " N"]]:
        features = self.trunk(encoded)
        value_features = features if self.value_trunk is None else self.value_trunk(encoded)
        parameters = self.policy(features)
        if self.log_std is not None:
            parameters = torch.cat([parameters, self.log_std.expand(parameters.shape[0], -1)], -1)
        return parameters, self.value(value_features).squeeze(-1)


def build(
    observation_space: gym.Space[Any], action_space: gym.Space[Any], config: Network, masked: MaskPlace = ""
) -> ActorCritic:
    """The network for an environment's spaces; raises UsageError for a space that is not supported."""
    actions = Actions(action_space)
    packing = Packing(observation_space, actions, masked)
    eyes = encoder(packing, config)
    if eyes.only_images:  # they have their hidden layer, as published
        config = replace(config, hidden=(), shared=True)
    remembering = core(eyes.features, actions, config)
    return ActorCritic(Body(eyes, PolicyHead(actions), config, remembering), packing, actions, precision(config))


def around(
    body: nn.Module,
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    config: Network,
    masked: MaskPlace = "",
) -> ActorCritic:
    """A network of one's own; raises UsageError where it breaks its signature, tried on two observations."""
    if config.core != "none":
        raise UsageError(
            f"network.core = '{config.core}': a network of one's own is given no memory; set it to none, or leave the "
            "network to troupe"
        )
    actions = Actions(action_space)
    packing = Packing(observation_space, actions, masked)
    network = ActorCritic(body, packing, actions, precision(config))
    size = PolicyHead(actions).parameters
    what = f"logits [N, {size}]" if actions.single else f"parameters [N, {size}]"
    expected = f"network: it must map observations [N, ...] to ({what}, values [N])"
    given = [packing.pack_one(observation_space.sample(), packing.mask() if masked else None) for _ in range(2)]
    obs, _ = packing.unpack(torch.from_numpy(np.stack(given)))
    try:
        with torch.no_grad():
            parameters, value = body(obs)
        shapes = tuple(parameters.shape), tuple(value.shape)
    except Exception as error:
        called = f" with {tuple(obs.shape)}" if isinstance(obs, Tensor) else ""
        raise UsageError(f"{expected}; called{called} it raised {one_line(error)}") from error
    if shapes != ((2, size), (2,)):
        raise UsageError(f"{expected}; it gave {shapes[0]} and {shapes[1]} for N = 2")
    return network


def precision(config: Network) -> torch.dtype:
    return torch.bfloat16 if config.precision == "bfloat16" else torch.float32
