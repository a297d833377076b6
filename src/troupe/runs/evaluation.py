"""Evaluation: whole episodes in environments of its own, judged by raw returns."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from troupe.agent import load
from troupe.config import Environment, UsageError
from troupe.environments import EnvironmentSource, of_run, quiet_gymnasium
from troupe.networks.actor_critic import ActorCritic
from troupe.networks.recurrent import Memory
from troupe.runs.checkpoint import read_config
from troupe.runtime.inference import generator
from troupe.runtime.measure import cores
from troupe.torch_threads import one_torch_thread

_STREAM = 1_000_000  # spawn key of evaluations after a run: no resume of it draws from the same stream


@dataclass(frozen=True)
class Scores:
    """Raw returns and lengths, one of each for every episode."""

    returns: np.ndarray
    lengths: np.ndarray
    greedy: bool = True  # or by actions drawn from the policy

    @property
    def mean(self) -> float:
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        return float(self.returns.std())

    @property
    def lower(self) -> float:
        """Two standard errors below the mean: what a lucky draw of episodes does not lift."""
        return self.lower_of(len(self.returns))

    def lower_of(self, episodes: int) -> float:
        """What `lower` is to be expected of that many."""
        return self.mean - 2 * self.std / math.sqrt(episodes)

    def summary(self) -> dict[str, float]:
        return {
            "episodes": len(self.returns),
            "mean_return": self.mean,
            "std_return": self.std,
            "min_return": float(self.returns.min()),
            "max_return": float(self.returns.max()),
            "mean_length": float(self.lengths.mean()),
        }


class Evaluator:
    """A batch of environments of its own, in which a network is judged.

    They are as `config` says, but fast, and as many as suit evaluations of the numbers of `episodes` that
    will be asked for; a life lost in an Atari game ends nothing.
    """

    def __init__(self, source: EnvironmentSource, config: Environment, *episodes: int):
        config = replace(config, episodic_life=False)
        if source.atari:  # those that have played their share still cost what the others do
            count = min(*episodes, 32 if source.is_native(config) else 16)
            config = replace(config, threads=min(count, cores()))
        else:
            # What was trained in EnvPool can be judged where that is not installed.
            pooled = config.backend == "envpool" and "envpool" in source.backends
            config = replace(config, backend="envpool" if pooled else "auto", threads=0)
            # A native batch costs little more for a hundred than for one; Python environments do not.
            count = min(max(episodes), 100 if source.is_native(config) else 16)
            config = replace(config, threads=min(count, cores()) if pooled else 0)
        self._environment = source.make_vector(count, config)

    def run(
        self,
        network: ActorCritic,
        episodes: int,
        seeds: np.random.SeedSequence,
        *,
        greedy: bool = True,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Scores | None:
        """Plays `episodes` episodes; None if `stopped` before they were done.

        Each environment plays a share fixed beforehand: taking whichever episodes end first would
        favour the short ones.
        """
        environment = self._environment
        environment_seeds, action_seed = seeds.spawn(2)
        draws = generator(action_seed)
        share = np.full(environment.count, episodes // environment.count)
        share[: episodes % environment.count] += 1
        obs = environment.reset(environment_seeds)
        ended = np.zeros(environment.count, np.bool_)
        total, length = np.zeros(environment.count), np.zeros(environment.count, np.int64)
        returns, lengths = [], []
        memory = network.fresh(environment.count)
        with torch.inference_mode():
            while share.any():
                if stopped():
                    return None
                output = network.step(torch.from_numpy(obs), memory)
                distribution = output.distribution
                action = distribution.mode() if greedy else distribution.sample(draws)
                obs, reward, terminated, truncated, _ = environment.step(action.numpy())
                if output.state is not None:  # what has ended is reset with this step
                    before = torch.as_tensor(reward, dtype=torch.float32)
                    memory = Memory(output.state, torch.from_numpy(ended), action, before)
                total += reward
                length += ~ended
                ended = terminated | truncated
                if ended.any():
                    counts = ended & (share > 0)
                    returns += total[counts].tolist()
                    lengths += length[counts].tolist()
                    share[counts] -= 1
                    total[ended], length[ended] = 0.0, 0
        return Scores(np.array(returns), np.array(lengths), greedy)

    def close(self) -> None:
        self._environment.close()


@quiet_gymnasium()
def evaluate(
    run: str | Path,
    *,
    episodes: int = 100,
    seed: int = 0,
    greedy: bool | None = None,
    env: Callable[..., gym.Env[Any, Any]] | None = None,
    network: nn.Module | None = None,
) -> Scores:
    """Judges the best agent of a run directory in environments and with seeds of its own.

    `greedy` plays the likeliest actions, otherwise they are drawn; None is as the run was judged.

    `env` and `network` are needed only where the run was trained with a callable or module of one's own.
    """
    if episodes < 1:
        raise UsageError(f"episodes = {episodes}: there must be at least one")
    agent = load(run, network)
    config = read_config(Path(run))
    evaluator = Evaluator(of_run(Path(run), config.env, env), config.env, episodes)
    seeds = np.random.SeedSequence(seed, spawn_key=(_STREAM,))
    greedy = config.evaluation.greedy if greedy is None else greedy
    with one_torch_thread():
        scores = evaluator.run(agent.network, episodes, seeds, greedy=greedy)
    evaluator.close()
    assert scores is not None
    return scores
