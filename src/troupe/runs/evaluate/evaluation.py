"""Evaluation: the raw returns of whole episodes, in environments of its own."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Float

from troupe.config import Environment, Evaluation, UsageError, checked
from troupe.environments import EnvironmentSource, VectorEnvironment, quiet_gymnasium
from troupe.networks.actor_critic import ActorCritic, PolicyOutput
from troupe.networks.custom import AnyNetwork
from troupe.networks.recurrent import RecurrentState
from troupe.runs.evaluate.scores import Scores, Tally
from troupe.runtime.acting.inference import generator
from troupe.runtime.measure import cores
from troupe.torch_threads import one_torch_thread
from troupe.with_code import environment_of, load_with_code

_STREAM = 1_000_000  # spawn key of evaluations after a run: no resume of it draws from the same stream
_SAVING = 10  # a measured batch is so large that passes of the network take one part in so many of the time
_MEASURED_STEPS, _MEASURED_SECONDS = 20, 0.5  # of one environment, to choose that size
_MOST_STEPS = 27_000  # of an episode: Atari's, 108,000 frames of which a step is four (Machado et al. 2018)


def _never() -> bool:
    return False


def _ignore(_: Tally) -> None:
    pass


def most_steps(evaluation: Evaluation, source: EnvironmentSource) -> int:
    """The steps after which an episode of an evaluation is cut off."""
    if evaluation.max_steps != "auto":
        return evaluation.max_steps
    return max(_MOST_STEPS, source.time_limit or 0)


class Evaluator:
    """Plays whole episodes in its own batch of environments.

    These follow `config`, but are chosen for speed, and their number suits evaluations of the numbers of `episodes`
    that will be asked for; losing a life in an Atari game does not end an episode. An episode that has not ended after
    `max_steps` is cut off.

    With `measured`, there are fewer Python environments if their steps or resets are slow: they step one after another,
    so a batch saves only passes of the network, and the first episodes of a large one end late, perhaps after the time
    limit. The first evaluation measures this.
    """

    def __init__(
        self,
        source: EnvironmentSource,
        config: Environment,
        *episodes: int,
        max_steps: int = _MOST_STEPS,
        measured: bool = False,
    ):
        config = replace(config, episodic_life=False)
        if source.atari:  # games that have played their share still cost as much as the others
            count = min(*episodes, 32 if source.is_native(config) else 16)
            config = replace(config, threads=min(count, cores()))
        else:
            # What was trained in EnvPool can be evaluated where that is not installed.
            kept = config.backend in source.backends and source.is_native(config)
            config = replace(config, backend=config.backend if kept else "auto", threads=0)
            # A native batch costs little more for a hundred than for one; Python environments do not.
            count = min(max(episodes), 100 if source.is_native(config) else 16)
            config = replace(config, threads=min(count, cores()) if source.has_threads(config) else 0)
        self._make, self._max_steps = partial(source.make_vector, config=config), max_steps
        measured = measured and not source.is_native(config)
        self._most = count if measured else 0  # environments, if the first evaluation decides how many
        self._environment = self._make(1 if measured else count)

    def run(
        self,
        network: ActorCritic,
        episodes: int,
        seeds: np.random.SeedSequence,
        *,
        greedy: bool = True,
        stopped: Callable[[], bool] = _never,
        out_of_time: Callable[[], bool] = _never,
        pulse: Float[np.ndarray, "1"] | None = None,
        progress: Callable[[Tally], None] = _ignore,
        refusal: Callable[[str], str] | None = None,
    ) -> Scores | None:
        """Plays `episodes` episodes; returns None if `stopped` before they are complete, and the scores so far once it
        is `out_of_time`.

        Each environment plays a share fixed beforehand: taking whichever episodes end first would favour the short
        ones. `pulse` shows since when the environments have not answered, as an actor's does. `progress` is called
        before every reset and after every step. With `refusal`, an environment that raises is made anew and plays
        another episode (VectorEnvironment.restart_failed).
        """
        pulse = np.zeros(1) if pulse is None else pulse
        if self._most:
            self._choose_count(network, pulse, stopped, refusal)
        environment = self._environment
        environment.answer_to(pulse)
        environment.restart_failed(refusal)
        environment_seeds, action_seed = seeds.spawn(2)
        draws = generator(action_seed)
        tally = Tally(environment.count, episodes, self._max_steps)
        with torch.inference_mode():
            while not tally.is_complete:
                progress(tally)
                with _awaited(pulse):
                    obs = environment.reset(environment_seeds)
                tally.begin_round()
                ended = np.zeros(environment.count, np.bool_)
                state = network.initial_state(environment.count)
                while not tally.round_is_over:
                    if stopped():
                        return None
                    output: PolicyOutput = network(torch.from_numpy(obs), state)
                    distribution = output.distribution
                    action = distribution.mode() if greedy else distribution.sample(draws)
                    with _awaited(pulse):
                        obs, reward, terminated, truncated, _ = environment.step(action.numpy())
                    begun = ended | environment.failed  # this step was a reset
                    if output.next_state is not None:
                        last_reward = torch.as_tensor(reward, dtype=torch.float32)
                        state = RecurrentState(output.next_state, torch.from_numpy(begun), action, last_reward)
                    tally.drop(environment.failed)
                    tally.add(reward, begun, terminated | truncated)
                    progress(tally)
                    ended = terminated | truncated
                    if not tally.is_complete and out_of_time():
                        return tally.scores_so_far(greedy=greedy)
                environment_seeds = environment_seeds.spawn(1)[0]
        return tally.scores(greedy=greedy)

    def close(self) -> None:
        self._environment.close()

    def _choose_count(
        self,
        network: ActorCritic,
        pulse: Float[np.ndarray, "1"],
        stopped: Callable[[], bool],
        refusal: Callable[[str], str] | None,
    ) -> None:
        """Makes as many environments as it takes for the network's passes to be a tenth of the time."""
        environment, state = self._environment, network.initial_state(1)
        environment.answer_to(pulse)
        environment.restart_failed(refusal)
        playing: list[float] = []  # seconds of the reset and of each step
        acting: list[float] = []
        with torch.inference_mode():
            began = time.perf_counter()
            with _awaited(pulse):
                obs = environment.reset(np.random.SeedSequence(0))
            playing.append(time.perf_counter() - began)
            while len(acting) < _MEASURED_STEPS and time.perf_counter() - began < _MEASURED_SECONDS and not stopped():
                acts = time.perf_counter()
                action = network(torch.from_numpy(obs), state).distribution.mode()
                plays = time.perf_counter()
                with _awaited(pulse):
                    obs = environment.step(action.numpy()).obs
                acting.append(plays - acts)
                playing.append(time.perf_counter() - plays)
        if not acting:
            return
        count = min(self._most, math.ceil(_SAVING * min(acting) * len(acting) / sum(playing)))
        self._most = 0
        if count > 1:
            with suppress(UsageError), _awaited(pulse):  # if so many cannot be made, one has to do
                self._environment = self._make(count)
                environment.close()


@contextmanager
def _awaited(pulse: Float[np.ndarray, "1"]) -> Iterator[None]:
    """Marks in `pulse` since when a call of the environments is under way."""
    pulse[0] = time.monotonic()
    try:
        yield
    finally:
        pulse[0] = 0.0


class BorrowingEvaluator(Evaluator):
    """Plays in an actor's environments, where no others can be made; the actor closes them."""

    def __init__(self, environment: VectorEnvironment, max_steps: int):
        self._environment, self._max_steps, self._most = environment, max_steps, 0

    def close(self) -> None:
        pass


@checked
@quiet_gymnasium()
def evaluate(
    run: str | os.PathLike[str],
    *,
    episodes: int = 100,
    seed: int = 0,
    greedy: bool | None = None,
    env: str | Callable[..., gym.Env[Any, Any]] | None = None,
    network: AnyNetwork | None = None,
    encoder: str | Callable[..., Any] | None = None,
    backend: str | Callable[..., Any] | None = None,
    trust: bool = False,
    progress: Callable[[Tally], None] = _ignore,
) -> Scores:
    """Evaluates the agent of a run directory, a checkpoint or a file (as `load`) in new environments with their own
    seeds.

    With `greedy` it plays the mode of the policy, otherwise actions are sampled; by default as in the run's
    evaluations.

    `env`, `network`, `encoder` and `backend` are needed only if the run was trained with callables passed from Python;
    those of files it finds by name. Files and modules that you have not trained with are imported only with `trust`
    (SECURITY.md). `progress` is called after every step with the episodes counted so far.
    """
    agent, saved = load_with_code(run, network, trusted=trust, env=env, encoder=encoder, backend=backend)
    config = saved.config
    source = environment_of(agent, saved, env)
    evaluator = Evaluator(source, config.env, episodes, max_steps=most_steps(config.evaluation, source))
    seeds = np.random.SeedSequence(seed, spawn_key=(_STREAM,))
    greedy = config.evaluation.greedy if greedy is None else greedy
    try:
        with one_torch_thread():
            scores = evaluator.run(agent.network, episodes, seeds, greedy=greedy, progress=progress)
    finally:
        evaluator.close()
    assert scores is not None
    return scores
