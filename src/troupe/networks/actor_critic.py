"""The actor-critic network: one `forward` for acting on [B] observations and for learning from [T, B] of them."""

from dataclasses import replace
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from troupe.algorithm.distributions import Categorical, Distribution, Gaussian, Product, bounded
from troupe.algorithm.normalization import Normalizer
from troupe.config import Network, UsageError, one_line
from troupe.environments.actions import Actions
from troupe.environments.packing import MaskSource, Packing
from troupe.networks.encoders import Encoder
from troupe.networks.layers import hidden_layers, orthogonal
from troupe.networks.recurrent import Core, RecurrentState
from troupe.networks.user_encoder import EncoderMaker, UserEncoder, make_encoder
from troupe.user_code.files import FileCallable

MIN_LOG_STD, MAX_LOG_STD = -5.0, 2.0


class NetworkOutput(NamedTuple):
    """Raw outputs of the network; `ActorCritic.policy` builds the action distribution from them."""

    parameters: Float[Tensor, "*batch P"]
    value: Float[Tensor, "*batch"]
    mask: Bool[Tensor, "*batch choices"] | None = None
    bonus_value: Float[Tensor, "*batch"] | None = None
    next_state: Float[Tensor, "B S"] | None = None


class PolicyOutput(NamedTuple):
    distribution: Distribution
    value: Float[Tensor, "*batch"]
    bonus_value: Float[Tensor, "*batch"] | None = None  # for learning, in a run with novelty bonuses
    next_state: Float[Tensor, "B S"] | None = None  # for acting with a recurrent network


class ActorCritic(nn.Module):
    """A policy and a value function around a body: a module that maps observations [N, ...], nested as the
    environment's, to the policy's parameters [N, P] and values [N]. The body may be the user's (docs/extending.md).

    Observations come packed (environments/packing.py). A recurrent network (`state_size` > 0) reads a
    `RecurrentState` besides them; without one, the first row begins an episode. `precision` applies to the body's
    computation only: weights, parameters and values are float32. `bonus_value` estimates the value of novelty bonuses
    (novelty.py).
    """

    def __init__(
        self,
        body: nn.Module,
        packing: Packing,
        actions: Actions,
        precision: torch.dtype = torch.float32,
        bonus_value: nn.Module | None = None,
        source: FileCallable | None = None,
    ):
        # Pickled before the body, in the order of __dict__: unpickling it imports the file that defines the body.
        object.__setattr__(self, "_source", source)
        super().__init__()
        self.body, self.packing, self.precision, self.bonus_value = body, packing, precision, bonus_value
        self._head, self._actions = PolicyHead(actions), actions
        self.state_size = self._core.state_size if self._core else 0
        self.eval()  # except in a learner's passes (runtime/learning/learner.py)

    def forward(self, obs: Shaped[Tensor, "*batch_and_shape"], state: RecurrentState | None = None) -> PolicyOutput:
        """Acts on [B] observations, which gives `next_state`; or evaluates [T, B] rows of rollouts for learning, which
        gives `bonus_value`."""
        return self.policy(self.raw_output(obs, state))

    def raw_output(self, obs: Shaped[Tensor, "*batch_and_shape"], state: RecurrentState | None = None) -> NetworkOutput:
        """`forward` without the distribution: tensors that can be cut and joined along B."""
        batch = obs.shape[: obs.ndim - len(self.packing.space.shape or ())]
        rows = obs.flatten(0, 1) if len(batch) == 2 else obs
        unpacked, mask = self.packing.unpack(rows)
        if state is None:
            state = self.initial_state(*batch, device=obs.device)
        if self.precision == torch.float32:
            parameters, value, next_state = self._run_body(unpacked, state)
        else:
            with torch.autocast(obs.device.type, self.precision):
                parameters, value, next_state = self._run_body(unpacked, state)
            parameters, value = parameters.float(), value.float()
        if len(batch) == 1:
            return NetworkOutput(parameters, value, mask, next_state=next_state)
        return NetworkOutput(
            parameters.reshape(*batch, -1),
            value.reshape(batch),
            None if mask is None else mask.reshape(*batch, -1),
            None if self.bonus_value is None else self.bonus_value(unpacked).reshape(batch),
        )

    def policy(self, raw: NetworkOutput) -> PolicyOutput:
        return PolicyOutput(self._head(raw.parameters, raw.mask), raw.value, raw.bonus_value, raw.next_state)

    def _run_body(self, obs: Any, state: RecurrentState | None) -> tuple[Tensor, Tensor, Tensor | None]:
        if self._core is None:
            return *self.body(obs), None
        outputs: tuple[Tensor, Tensor, Tensor | None] = self.body(obs, state)
        return outputs

    def initial_state(self, *batch: int, device: torch.device | None = None) -> RecurrentState | None:
        """The state for [B] or [T, B] rows, the first of which begins an episode; None if the network is not
        recurrent."""
        if not self.state_size:
            return None
        resets = torch.zeros(batch, dtype=torch.bool, device=device)
        resets.view(-1, batch[-1])[0] = True
        return RecurrentState(
            torch.zeros(batch[-1], self.state_size, device=device),
            resets,
            torch.from_numpy(np.zeros((*batch, *self._actions.shape), self._actions.dtype)).to(device),
            torch.zeros(batch, device=device),
        )

    @property
    def _core(self) -> Core | None:
        return self.body.core if isinstance(self.body, Body) else None

    @property
    def has_user_modules(self) -> bool:
        """Whether some modules are the user's: they may behave differently in train mode (dropout, batch norm)."""
        return not isinstance(self.body, Body) or isinstance(self.body.encoder, UserEncoder)

    @property
    def reads_rewards(self) -> bool:
        """Whether the policy depends on the last action and reward as well."""
        return self._core is not None and self._core.last_step is not None

    @property
    def normalizer(self) -> Normalizer | None:
        """The normaliser of numeric observations, if there is one."""
        encoder = getattr(self.body, "encoder", None)
        return encoder.normalizer if isinstance(encoder, Encoder) else None

    @torch.no_grad()
    def normalizer_input(self, obs: Shaped[Tensor, "N *shape"]) -> Float[Tensor, "N D"]:
        """The numbers of packed observations that `normalizer` normalises."""
        encoder = self.body.encoder
        assert isinstance(encoder, Encoder)
        assert encoder.numbers is not None
        vector: Tensor = encoder.numbers(self.packing.unpack(obs)[0])
        return vector


class PolicyHead:
    """Builds distributions from a body's parameters: the logits of every choice and the means of every Box in the order
    of the actions' parts, then the log standard deviations of all Boxes."""

    def __init__(self, actions: Actions):
        self._actions = actions
        self._sizes = [part.choices or part.width for part in actions.parts]
        self._choices = [part.choices for part in actions.parts if part.choices]
        self.stds = sum(part.width for part in actions.parts if not part.choices)
        self.outputs = sum(self._sizes)  # logits and means
        self.parameters = self.outputs + self.stds

    def __call__(
        self, parameters: Float[Tensor, "*batch P"], mask: Bool[Tensor, "*batch choices"] | None
    ) -> Distribution:
        if self._actions.single:
            return Categorical.from_logits(parameters, mask)
        columns = iter(parameters[..., : self.outputs].split_with_sizes(self._sizes, -1))
        log_std = bounded(parameters[..., self.outputs :], MIN_LOG_STD, MAX_LOG_STD)
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
    """Encoder, recurrent core if there is one, one trunk for policy and value or one for each, and their heads.

    A Gaussian's standard deviations are parameters of their own, independent of the observation.
    """

    def __init__(self, encoder: Encoder, head: PolicyHead, config: Network, core: Core | None = None):
        super().__init__()
        self.encoder, self.core = encoder, core
        encoded = core.features if core else encoder.features
        features = (encoded, *config.hidden)[-1]
        self.trunk = hidden_layers(encoded, config.hidden, config.activation)
        self.value_trunk = None if config.shared else hidden_layers(encoded, config.hidden, config.activation)
        # A small gain makes the initial policy nearly uniform.
        self.policy = orthogonal(features, head.outputs, 0.01)
        self.value = orthogonal(features, 1, 1.0)
        self.log_std = nn.Parameter(torch.full((head.stds,), config.log_std)) if head.stds else None

    def forward(self, obs: Any, state: RecurrentState | None = None) -> tuple[Tensor, ...]:
        """Parameters [N, P] and values [N]; with a core also the next state [B, S], or None for T rows."""
        encoded = self.encoder(obs)
        if self.core is None:
            return self._heads(encoded)
        assert state is not None
        features, next_state = self.core(encoded, state)
        return *self._heads(features), next_state

    def _heads(self, encoded: Float[Tensor, "N F"]) -> tuple[Float[Tensor, "N P"], Float[Tensor, " N"]]:
        features = self.trunk(encoded)
        value_features = features if self.value_trunk is None else self.value_trunk(encoded)
        parameters = self.policy(features)
        if self.log_std is not None:
            # Bounded before it is expanded: what counts is the sign of the rows' total gradient, not of each row's.
            log_std = bounded(self.log_std, MIN_LOG_STD, MAX_LOG_STD)
            parameters = torch.cat([parameters, log_std.expand(parameters.shape[0], -1)], -1)
        return parameters, self.value(value_features).squeeze(-1)


def build(
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    config: Network,
    masked: MaskSource = "",
    user_encoder: EncoderMaker | None = None,
) -> ActorCritic:
    """The network for an environment's spaces; raises UsageError for a space that is not supported.

    The user's encoder is `user_encoder`, or else the one that `network.encoder` names, whose code is executed.
    """
    actions = Actions(action_space)
    packing = Packing(observation_space, actions, masked)
    features = make_encoder(packing, config, user_encoder)
    if features.only_images:  # their encoders have the hidden layer that was published with them
        config = replace(config, hidden=(), shared=True)
    recurrent = None if config.core == "none" else Core(features.features, actions, config)
    return ActorCritic(Body(features, PolicyHead(actions), config, recurrent), packing, actions, precision(config))


def wrap(
    body: nn.Module,
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    config: Network,
    masked: MaskSource = "",
    source: FileCallable | None = None,
) -> ActorCritic:
    """The user's network as an actor-critic; `source` names it if it comes from a file. It is tried on two
    observations; raises UsageError where it does not return what it should."""
    if config.core != "none":
        raise UsageError(
            f"network.core = '{config.core}': a custom network cannot be recurrent; set it to none, or pass an encoder "
            "(network.encoder) instead of a network"
        )
    actions = Actions(action_space)
    packing = Packing(observation_space, actions, masked)
    network = ActorCritic(body, packing, actions, precision(config), source=source)
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
