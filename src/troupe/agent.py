"""A trained agent: what `load` returns, and what evaluation, video and the user's programs call."""

import copy
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import nn

from troupe.algorithm.distributions import Categorical, Product
from troupe.config import Network, TrainConfig, UsageError, checked
from troupe.environments.actions import Actions
from troupe.environments.checks.observations import Limits, lost_by_conversion
from troupe.environments.spaces import MASK, Leaf, with_entries
from troupe.networks.actor_critic import ActorCritic, Body, PolicyOutput, build
from troupe.networks.custom import AnyNetwork, NetworkMaker, custom_network, find_network, needs_network
from troupe.networks.novelty import with_bonus_value
from troupe.networks.recurrent import RecurrentState
from troupe.networks.user_encoder import ENCODERS, EncoderMaker
from troupe.runs.store import saved_agent, weights
from troupe.runs.store.saved_agent import SavedAgent

if TYPE_CHECKING:
    from troupe.runs.export.onnx import Exported


class Agent:
    """A policy with its value function. It takes observations as the environment returns them, one or a batch.

    A recurrent agent keeps its state between calls of `act`, one for each index of a batch; `reset` begins a new
    episode. To play several games at once, use a `session` for each.
    """

    def __init__(
        self,
        network: ActorCritic,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        *,
        greedy: bool = True,
        about: Mapping[str, str] | None = None,
        config: TrainConfig | None = None,
    ):
        self.greedy = greedy  # the default of `act`
        self.about = about or {}  # the run it comes from, for an exported file's metadata
        self.config = config  # of that run
        self.network, self.observation_space, self.action_space = network, observation_space, action_space
        self._actions, self._limits = Actions(action_space), [Limits(leaf) for leaf in network.packing.leaves]
        self._generator = torch.Generator()
        self._generator.seed()
        self._state: RecurrentState | None = None  # for the next observations; None before the first

    @property
    def reads_rewards(self) -> bool:
        """Whether `act` and `distribution` need the `reward` of the last step."""
        return self.network.reads_rewards

    @property
    def reads_masks(self) -> bool:
        """Whether `act` and `distribution` take a `mask`: its environment gave one in `info` while it trained."""
        return self.network.packing.masked == "info"

    def reset(self, ended: Any = None) -> None:
        """The next observation begins an episode; in a batch, only where `ended` is true, or at the indices in it."""
        if ended is None:
            self._state = None
        elif self._state is not None:
            resets = self._state.resets.clone()
            resets[torch.as_tensor(np.asarray(ended))] = True
            self._state = self._state._replace(resets=resets)

    def session(self) -> "Agent":
        """The same policy with a recurrent state of its own."""
        spaces = self.observation_space, self.action_space
        return Agent(self.network, *spaces, greedy=self.greedy, about=self.about, config=self.config)

    @torch.inference_mode()
    def act(self, observation: Any, *, mask: Any = None, reward: Any = None, greedy: bool | None = None) -> Any:
        """The action for one observation, or actions for a batch of them: the mode of the policy if `greedy`, else a
        sample from it; by default as in the evaluations of its run.

        A batch is what a vector environment gives, [N, ...], of a nested space each part [N, ...], and so are its
        actions. `mask` is `info["action_mask"]`, [N, ...] for a batch, of an agent with `reads_masks`; None allows all.
        In a batch one that forbids every action belongs to an episode that has ended, and is read as one that allows
        all. `reward` is the last step's, for an agent with `reads_rewards`. A recurrent agent's state advances by one
        step. Raises UsageError.
        """
        greedy = self.greedy if greedy is None else greedy
        batch, single = self._batch(observation, mask)
        output: PolicyOutput = self.network(batch, self._current_state(len(batch), reward))
        action = output.distribution.mode() if greedy else output.distribution.sample(self._generator)
        if output.next_state is not None:
            no_resets, unknown_reward = torch.zeros(len(batch), dtype=torch.bool), torch.zeros(len(batch))
            self._state = RecurrentState(output.next_state, no_resets, action, unknown_reward)
        rows = action.numpy()
        return self._actions.one(rows[0]) if single else self._actions.to_environment(rows)

    def predict(
        self,
        observation: Any,
        state: RecurrentState | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
        *,
        mask: Any = None,
        reward: Any = None,
    ) -> tuple[Any, RecurrentState | None]:
        """As Stable-Baselines3's `predict`: the action or actions, and the recurrent state to pass with the next
        observations, None where the policy has none.

        `state` None begins episodes; `episode_start` [N] is true where an observation begins one. `deterministic` takes
        the mode of the policy. What `act` keeps is neither read nor changed.
        """
        if not (state is None or isinstance(state, RecurrentState)):
            raise UsageError(f"state is a {type(state).__name__}: expected None, or the state that predict returned")
        caller = copy.copy(self)
        caller._state = state
        if state is not None and episode_start is not None:
            begins = np.asarray(episode_start, np.bool_).reshape(-1)
            if len(begins) != len(state.resets):
                raise UsageError(f"episode_start has {len(begins)} entries, and the state is of {len(state.resets)}")
            caller.reset(begins)
        action = caller.act(observation, mask=mask, reward=reward, greedy=deterministic)
        return action, caller._state

    @torch.inference_mode()
    def distribution(self, observation: Any, mask: Any = None, reward: Any = None) -> tuple[np.ndarray | None, float]:
        """The probability of every action, None if the action is not a single discrete choice; and the value. The
        recurrent state does not advance: only `act` does that.

        A mask that forbids every action, as on an episode's final observation, is read as one that allows all.
        """
        output = self._output(observation, mask, reward)
        policy = output.distribution
        probabilities = policy.log_probs[0].exp().numpy() if isinstance(policy, Categorical) else None
        return probabilities, float(output.value[0])

    @torch.inference_mode()
    def choice_probabilities(
        self, observation: Any, mask: Any = None, reward: Any = None
    ) -> list[Float[np.ndarray, " alternatives"]]:
        """Of each choice in an action (a Discrete, a number of a MultiDiscrete or a Box of integers, a bit), in their
        order, the probability of every alternative, the lowest first. `mask` and state are as for `distribution`."""
        policy = self._output(observation, mask, reward).distribution
        parts = policy.parts if isinstance(policy, Product) else (policy,)
        return [part.log_probs[0].exp().numpy() for part in parts if isinstance(part, Categorical)]

    def _output(self, observation: Any, mask: Any, reward: Any) -> PolicyOutput:
        batch, _ = self._batch(observation, mask, acting=False)
        output: PolicyOutput = self.network(batch, self._current_state(len(batch), reward))
        return output

    @checked
    def save(self, file: str | os.PathLike[str]) -> None:
        """Writes the agent of a run as one file, NAME.safetensors, which `troupe.load` reads."""
        if self.config is None:
            raise UsageError("only the agent of a run can be saved: this one was made without a configuration")
        network = self.network
        saved = SavedAgent(
            Path(file), self.config, network.state_dict(), self.observation_space, self.action_space,
            network.packing.masked, not isinstance(network.body, Body), self.about,
        )  # fmt: skip
        saved_agent.write(Path(file), saved)

    @checked
    def export(self, file: str | Path) -> "Exported":
        """Writes the agent as an ONNX file, which other programs run without troupe (docs/extending.md)."""
        from troupe.runs.export.onnx import export

        return export(self, Path(file))

    def _current_state(self, count: int, reward: Any) -> RecurrentState | None:
        state = self._state
        if state is None:
            return self.network.initial_state(count)
        if len(state.resets) != count:
            raise UsageError(
                f"{count} observation{'s' * (count != 1)} for a recurrent agent in the middle of {len(state.resets)}: "
                "reset() begins new episodes, and session() gives an agent with a state of its own"
            )
        if not self.reads_rewards or state.resets.all():
            return state
        if reward is None:
            raise UsageError("this agent reads the reward of the last step: act(observation, reward=...)")
        try:
            rewards = torch.as_tensor(np.asarray(reward, np.float32)).reshape(count)
        except (TypeError, ValueError, RuntimeError):
            raise UsageError(f"reward = {reward!r}: expected a number for each of {count}") from None
        return state._replace(last_reward=rewards)

    def _batch(self, observation: Any, mask: Any, *, acting: bool = True) -> tuple[torch.Tensor, bool]:
        """Packed observations [N, ...], and whether they are of one observation without a batch."""
        packing = self.network.packing
        if mask is not None and not self.reads_masks:
            raise UsageError("mask=: this agent was trained without masks, or finds them in its observations")
        arrays = [self._array(limits.leaf, observation) for limits in self._limits]
        batched = [array.ndim > len(limits.leaf.space.shape or ()) for limits, array in self._each(arrays)]
        if not any(batched):
            arrays = [array[None] for array in arrays]
        elif not all(batched) or len({len(array) for array in arrays}) > 1:
            sizes = ", ".join(f"{limits.leaf.name} {array.shape}" for limits, array in self._each(arrays))
            raise UsageError(f"the observations are neither one nor a batch: {sizes}")
        count = len(arrays[0])
        for limits, batch in self._each(arrays):
            if unfit := limits.unfit(batch):
                number, what = unfit
                where = f"{limits.leaf.name}{f' {number} of {count}' if count > 1 else ''}"
                raise UsageError(f"the observation{where} {what}")
        if packing.plain:
            return torch.from_numpy(arrays[0]), not any(batched)
        given = observation[MASK] if packing.masked == "observation" else mask
        masks = self._masks(given, count if any(batched) else None, acting) if packing.masked else None
        return torch.from_numpy(packing.pack(with_entries(packing.seen, iter(arrays)), masks)), not any(batched)

    def _each(self, arrays: list[np.ndarray]) -> Iterator[tuple[Limits, np.ndarray]]:
        return zip(self._limits, arrays, strict=True)

    def _array(self, leaf: Leaf, observation: Any) -> np.ndarray:
        """A leaf of one observation or of a batch, in its space's dtype."""
        shape = leaf.space.shape or ()
        try:
            given = np.asarray(leaf.of(observation))
            with np.errstate(invalid="ignore"):
                array = given.astype(leaf.space.dtype)
        except (LookupError, TypeError, ValueError) as error:
            what = f"numbers of shape {shape}" if not leaf.path else self.observation_space
            raise UsageError(f"observation does not fit {what}: {error!r}") from None
        if array.shape != shape and (array.ndim == 0 or array.shape[1:] != shape):
            raise UsageError(
                f"observation{leaf.name} has shape {array.shape}; the agent was trained on {shape}, or [N, ...] of it"
            )
        if (lost := lost_by_conversion(given, array)) is not None:
            raise UsageError(
                f"the observation{leaf.name} holds {lost}, which does not fit its space's dtype ({array.dtype})"
            )
        return array

    def _masks(self, given: Any, count: int | None, acting: bool) -> Bool[np.ndarray, "N choices"]:
        """The mask of each of `count` observations, or of the only one (None). One that forbids every action is an
        error, unless the episode may be over: then it allows all."""
        each = [given] if count is None else [_of_one(given, number) for number in range(count)]
        lenient = count is not None or not acting
        try:
            rows = [
                self.network.packing.mask(one, over=lenient and one is not None and not self._actions.mask(one).any())
                for one in each
            ]
        except (LookupError, ValueError) as error:
            raise UsageError(f"{MASK} {error}") from None
        return np.stack(rows) if rows else np.ones((0, self._actions.mask_size), np.bool_)


def _of_one(masks: Any, number: int) -> Any:
    """The mask of one observation of a batch: an array or a list [N, ...] of masks, or a Dict or Tuple of these."""
    if isinstance(masks, dict):
        return {key: _of_one(part, number) for key, part in masks.items()}
    if isinstance(masks, tuple):
        return tuple(_of_one(part, number) for part in masks)
    return None if masks is None else masks[number]


@checked
def load(
    run: str | os.PathLike[str],
    network: AnyNetwork | None = None,
    *,
    encoder: str | EncoderMaker | None = None,
) -> Agent:
    """The best agent of a run directory; of a checkpoint folder (RUN/checkpoints/STEP) the agent as it was at that
    step; or the one that `Agent.save` wrote into a file. Nothing that these hold or name is executed or unpickled.

    A run with a custom network needs that network again, as `network`: code is not saved. One with a custom encoder
    needs that as `encoder`. Each is the callable, or its name, `path/to/file.py:NAME`.
    """
    saved = saved_agent.read(Path(run), logging.getLogger("troupe").warning)
    config = saved.config
    if network is None and (saved.custom_network or config.network.custom != Network.custom):
        raise needs_network(saved.path, config.network.custom)
    name = config.network.encoder
    if ":" in name and network is None and encoder is None:
        raise UsageError(
            f"'{run}' was trained with the encoder '{name}', and loading a run executes no code that it names: if you "
            "trust it, pass it in Python, troupe.load(run, encoder=...)"
        )
    make = ENCODERS.load(encoder) if isinstance(encoder, str) else encoder
    return restored(saved, find_network(network, config), make)


def restored(saved: SavedAgent, network: nn.Module | NetworkMaker | None, encoder: EncoderMaker | None) -> Agent:
    config, spaces = saved.config, (saved.observation_space, saved.action_space)

    def make() -> ActorCritic:
        if network is not None:
            made = custom_network(network, *spaces, config.network, saved.masked)
        else:
            made = build(*spaces, config.network, saved.masked, encoder)
        return with_bonus_value(made, config, encoder)

    if network is None and ENCODERS.is_builtin(config.network.encoder):
        weights.check_sizes(saved.path, saved.weights, make)
    made = make()
    weights.put(saved.path, saved.weights, made)
    return Agent(made.eval(), *spaces, greedy=config.evaluation.greedy, about=saved.about, config=config)
