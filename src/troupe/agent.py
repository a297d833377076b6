"""A trained agent: what `load` gives back, and what evaluation, video and one's own program use."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from troupe.algorithm.distributions import Categorical
from troupe.config import TrainConfig, UsageError
from troupe.environments import spaces
from troupe.environments.actions import Actions
from troupe.environments.checks.observations import Limits
from troupe.environments.spaces import MASK
from troupe.networks.actor_critic import ActorCritic, PolicyOutput, build
from troupe.networks.custom import NetworkMaker, custom_network
from troupe.networks.novelty import with_bonus_value
from troupe.networks.recurrent import RecurrentState
from troupe.networks.user_encoder import ENCODERS, EncoderMaker
from troupe.runs.store import checkpoint
from troupe.user_code.files import without_folder

if TYPE_CHECKING:
    from troupe.runs.export.onnx import Exported


class Agent:
    """A policy with its value. Observations come one at a time, as the environment gives them.

    A recurrent agent keeps its state between calls of `act`, one for each index of a batch; `reset` begins a new
    episode. Use a `session` for each of several games played at once.
    """

    def __init__(
        self,
        network: ActorCritic,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        *,
        greedy: bool = True,
        about: Mapping[str, str] | None = None,
    ):
        self.greedy = greedy  # what `act` does if it is not told
        self.about = about or {}  # the run it comes from, for whoever finds an exported file
        self.network, self.observation_space, self.action_space = network, observation_space, action_space
        self._actions, self._limits = Actions(action_space), [Limits(leaf) for leaf in network.packing.leaves]
        self._generator = torch.Generator()
        self._generator.seed()
        self._state: RecurrentState | None = None  # for the next observations; None at the beginning

    @property
    def reads_rewards(self) -> bool:
        """Whether `act` and `distribution` need the `reward` of the last step."""
        return self.network.reads_rewards

    def reset(self, ended: Any = None) -> None:
        """The next observation begins an episode; of a batch, where `ended` is true, or at the indices it holds."""
        if ended is None:
            self._state = None
        elif self._state is not None:
            resets = self._state.resets.clone()
            resets[torch.as_tensor(np.asarray(ended))] = True
            self._state = self._state._replace(resets=resets)

    def session(self) -> "Agent":
        """The same policy with a recurrent state of its own."""
        return Agent(self.network, self.observation_space, self.action_space, greedy=self.greedy)

    @torch.inference_mode()
    def act(self, observation: Any, *, mask: Any = None, reward: Any = None, greedy: bool | None = None) -> Any:
        """The action for one observation, or actions for a batch [N, ...] of them (nested ones come one at a time):
        the mode of the policy (`greedy`) or a sample from it; None is as in the evaluations of its run.

        `mask` is `info["action_mask"]` of an environment that has it; None allows all. `reward` is that of the last
        step, for an agent that reads it. A recurrent agent's state advances by one step.
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

    @torch.inference_mode()
    def distribution(self, observation: Any, mask: Any = None, reward: Any = None) -> tuple[np.ndarray | None, float]:
        """The probability of every action, None where they are not a single choice; and the value. The recurrent state
        does not advance: `act` does that.

        A mask that forbids every action, as on an episode's final observation, counts as one that allows all.
        """
        batch, _ = self._batch(observation, mask, acting=False)
        output: PolicyOutput = self.network(batch, self._current_state(len(batch), reward))
        policy = output.distribution
        probabilities = policy.log_probs[0].exp().numpy() if isinstance(policy, Categorical) else None
        return probabilities, float(output.value[0])

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
        packing = self.network.packing
        if packing.plain:
            return self._plain_batch(observation)
        try:
            allowed = self._allowed(observation, mask, acting=acting) if packing.masked else None
            packed = packing.pack_one(observation, allowed)
            for limits in self._limits:
                if unfit := limits.unfit(np.asarray(limits.leaf.of(observation), limits.leaf.space.dtype)[None]):
                    raise UsageError(f"the observation{limits.leaf.name} {unfit[1]}")
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise UsageError(f"observation does not fit {self.observation_space}: {error}") from None
        return torch.from_numpy(packed[None]), True

    def _allowed(self, observation: Any, mask: Any, *, acting: bool) -> np.ndarray:
        given = observation[MASK] if self.network.packing.masked == "observation" else mask
        try:
            over = not (acting or given is None or self._actions.mask(given).any())
            return self.network.packing.mask(given, over=over)
        except ValueError as error:
            raise UsageError(f"{MASK} {error}") from None

    def _plain_batch(self, observation: Any) -> tuple[torch.Tensor, bool]:
        shape = self.observation_space.shape or ()
        try:
            given = np.asarray(observation)
            with np.errstate(invalid="ignore"):
                array = given.astype(self.observation_space.dtype)
        except (TypeError, ValueError) as error:
            raise UsageError(f"observation cannot be read as numbers of shape {shape}: {error}") from None
        single = array.shape == shape
        if not single and (array.ndim == 0 or array.shape[1:] != shape):
            raise UsageError(
                f"observation has shape {array.shape}; the agent was trained on {shape}, or [N, ...] of it"
            )
        if array.dtype.kind in "iu" and (array != given).any():
            lost = given[array != given].flat[0]
            raise UsageError(f"the observation holds {lost}, which its space's dtype cannot ({array.dtype})")
        batch = array[None] if single else array
        if unfit := self._limits[0].unfit(batch):
            number, what = unfit
            raise UsageError(f"the observation{f' {number} of {len(batch)}' if len(batch) > 1 else ''} {what}")
        return torch.from_numpy(batch), single


def load(
    run: str | Path,
    network: nn.Module | NetworkMaker | None = None,
    *,
    encoder: str | EncoderMaker | None = None,
) -> Agent:
    """The best agent of a run directory. Nothing that it holds or names is executed or unpickled.

    A run with a custom network needs that network again, as `network`: code is not saved. One with a custom encoder
    needs that as `encoder`: the callable, or `path/to/file.py:NAME`.
    """
    run = Path(run)
    saved = checkpoint.load(run, warn=logging.getLogger("troupe").warning)
    config = checkpoint.read_config(run)
    observation_space = spaces.restore(saved.state["observation_space"])
    action_space = spaces.restore(saved.state["action_space"])
    if saved.state["custom_network"] and network is None:
        raise needs_network(run)
    name = config.network.encoder
    if ":" in name and network is None and encoder is None:
        raise UsageError(
            f"'{run}' was trained with the encoder '{name}', and loading a run executes no code that it names: if you "
            "trust it, pass it in Python, troupe.load(run, encoder=...)"
        )
    make = ENCODERS.load(encoder) if isinstance(encoder, str) else encoder
    masked = saved.state.get("masked", "")
    body = (
        build(observation_space, action_space, config.network, masked, make)
        if network is None
        else custom_network(network, observation_space, action_space, config.network, masked)
    )
    put_weights(run, saved.best, with_bonus_value(body, config, make))
    greedy, about = config.evaluation.greedy, origin(run, config)
    return Agent(body.eval(), observation_space, action_space, greedy=greedy, about=about)


def origin(run: Path, config: TrainConfig) -> dict[str, str]:
    """Where an agent comes from: the run's name, without its path."""
    return {"run": run.resolve().name, "environment": without_folder(config.env.id)}


def put_weights(run: Path, weights: Mapping[str, Tensor], network: ActorCritic) -> None:
    """Puts the weights of `run` into the network; raises UsageError where they do not fit."""
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise UsageError(f"the weights of '{run}' do not fit the network: {first}") from None


def needs_network(run: Path) -> UsageError:
    return UsageError(f"'{run}' was trained with a custom network: pass it as network= (code is not saved)")
