"""`troupe check`: plays a few hundred random steps, and reports what is wrong with an environment and what is unwise.

Wrong: what breaks the interface or makes results unrepeatable. Unwise: what makes learning harder.
"""

import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env

from troupe.config import one_line
from troupe.environments.checks.contract import Conforming, ContractError, WrongEnvironment
from troupe.environments.checks.findings import Finding, Seen, unwise, wrong
from troupe.environments.source import EnvironmentSource
from troupe.environments.stepping.closing import close_in_time
from troupe.user_code.guard import user_code

STEPS = 400
_REPEATED_STEPS = 100  # of an episode that is played again
_SECONDS = 20.0  # limit on the check of a slow environment, half of it for the first pass
_SLOW_RESET_SECONDS = 1.0
_RESETS_OF_GYMNASIUMS = 8  # about as many as check_env makes
_INTERFACE = "return what gymnasium.Env documents for reset and step"
# Warnings of Gymnasium's checker that are not about training, or that duplicate findings here.
_NOT_OURS = re.compile(
    "different from the unwrapped|render|is (-)?infinity|not an image|symmetric and normalized|conventional|"
    "expecting a numpy array|Casting input|reward returned|precision lowered|flattened|not within the observation space"
)


@dataclass
class Report:
    """What was found, and in how many steps and episodes."""

    name: str
    steps: int = 0
    episodes: int = 0
    complete: bool = True  # False if the time limit came first
    findings: list[Finding] = field(default_factory=list)

    @property
    def wrong(self) -> list[Finding]:
        return [each for each in self.findings if each.wrong]

    @property
    def unwise(self) -> list[Finding]:
        return [each for each in self.findings if not each.wrong]

    def summary(self) -> dict[str, Any]:
        found = {
            kind: [{"what": each.what, "change": each.change} for each in findings]
            for kind, findings in (("wrong", self.wrong), ("unwise", self.unwise))
        }
        return {
            "environment": self.name,
            "steps": self.steps,
            "episodes": self.episodes,
            "complete": self.complete,
            **found,
        }

    def lines(self) -> Iterator[str]:
        cut = "" if self.complete else f"; cut short after {_SECONDS:g} s"
        yield f"{self.name}: {self.steps} steps of random actions, {self.episodes} episodes ended{cut}"
        for each in (*self.wrong, *self.unwise):
            yield f"{'wrong ' if each.wrong else 'unwise'}  {each.what}"
            yield f"        {each.change}"
        wrong, unwise = len(self.wrong), len(self.unwise)
        yield f"{wrong or 'nothing'} wrong, {unwise or 'nothing'} unwise"


def check(name: str, find: Callable[[], EnvironmentSource], steps: int = STEPS, seed: int = 0) -> Report:
    """Checks the environment that `find` makes. Raises UsageError if there is none."""
    report = Report(name)
    try:
        source = find()
        _ = source.packing  # whether its spaces can be read
    except WrongEnvironment as error:
        report.findings.append(wrong(f"{error}", _INTERFACE))
        return report
    report.findings += [_of_notice(notice) for notice in source.notices]
    began = time.monotonic()
    seen, again, anew = Seen(source), Seen(source), Seen(source)
    with _made(source) as (env, recorder):
        _play(env, recorder, source, seed, steps, seen, began + _SECONDS / 2)
        slow = _slow_reset(recorder.reset_seconds)
        repeated = min(_REPEATED_STEPS, seen.steps)
        if not seen.wrong and time.monotonic() < began + _SECONDS:
            _play(env, recorder, source, seed, repeated, again, began + _SECONDS * 3 / 4)
    if not seen.wrong and time.monotonic() < began + _SECONDS:
        with _made(source) as (env, recorder):
            _play(env, recorder, source, seed, repeated, anew, began + _SECONDS)
    report.steps, report.episodes = seen.steps, seen.episodes
    report.complete = bool(seen.wrong) or (seen.steps >= steps and min(again.steps, anew.steps) >= repeated)
    report.findings += [*slow, *seen.findings(), *_differences(seen, again, anew)]
    if not (report.wrong or source.atari):
        left = began + _SECONDS - time.monotonic()
        if left > _RESETS_OF_GYMNASIUMS * min(recorder.reset_seconds):
            report.findings += _gymnasiums(source)
        else:
            report.complete = False
    return report


class _Recorder(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps the environment's raw return values, and the duration of each reset."""

    answer: Any = None

    def __init__(self, env: gym.Env[Any, Any]):
        super().__init__(env)
        self.reset_seconds: list[float] = []

    def reset(self, **how: Any) -> Any:
        began = time.monotonic()
        self.answer = self.env.reset(**how)
        self.reset_seconds.append(time.monotonic() - began)
        return self.answer

    def step(self, action: Any) -> Any:
        self.answer = self.env.step(action)
        return self.answer


@contextmanager
def _made(source: EnvironmentSource) -> Iterator[tuple[Conforming, _Recorder]]:
    """An environment and its recorder; closes it at the end."""
    with user_code():
        env = source.make()
    recorder = _Recorder(env.env if isinstance(env, Conforming) else env)
    try:
        yield Conforming(recorder, source.observation_space if source.left_out else None), recorder
    finally:
        close_in_time(env.close, source.id)


def _play(
    env: Conforming,
    recorder: _Recorder,
    source: EnvironmentSource,
    seed: int,
    steps: int,
    seen: Seen,
    until: float,
) -> None:
    """Plays random allowed actions, seeded like the episodes: at least one step, and none after the time `until`."""
    rng = np.random.default_rng(seed)
    verb, number = "reset", 0  # what is called next, and in which step
    try:
        with user_code():
            obs, info = env.reset(seed=seed)
            seen.reset(obs, recorder.answer)
            while seen.steps < steps and not seen.wrong and (not seen.steps or time.monotonic() < until):
                action = source.random_action(rng, obs, info)
                verb, number = "step", seen.steps + 1
                obs, reward, terminated, truncated, info = env.step(action)
                seen.step(obs, reward, terminated, truncated, recorder.answer)
                if (terminated or truncated) and time.monotonic() < until:
                    verb = "reset"
                    obs, info = env.reset()
                    seen.reset(obs, recorder.answer)
    except ContractError as error:
        seen.fail(f"step {number}: {error}", _INTERFACE)
    except Exception as error:
        seen.fail(f"step {number}: {verb} raised {one_line(error)}", "fix it, or catch the expected exceptions there")


def _slow_reset(seconds: list[float]) -> list[Finding]:
    """Judged by the fastest reset: the first may load what the others reuse."""
    least = min(seconds, default=0.0)
    if least < _SLOW_RESET_SECONDS:
        return []
    change = (
        "keep what is slow to load or to start from one episode to the next; an actor resets its environments one "
        "after another (with --actor.environments 1 no other waits)"
    )
    return [unwise(f"a reset takes {least:.1f} s", change)]


def _differences(seen: Seen, again: Seen, anew: Seen) -> Iterator[Finding]:
    if seen.wrong:
        return
    for other, where in ((again, "in the same environment"), (anew, "in another environment of the same kind")):
        if other.wrong:
            yield wrong(f"played again {where}: {other.wrong[0].what}", other.wrong[0].change)
        elif (step := seen.first_difference(other)) is not None:
            yield wrong(
                f"the same seed and actions gave another episode {where}, from step {step} on",
                "draw every random number from self.np_random, call super().reset(seed=seed) first, and let reset put "
                "everything back",
            )
            return


def _of_notice(notice: str) -> Finding:
    if notice.startswith("no time limit"):
        what, change = notice.partition(";")[0], "wrap it in gymnasium.wrappers.TimeLimit, or give --env.max_steps N"
    else:
        what, _, change = notice.partition("; ")
    return unwise(what, change or "turn it into numbers if it matters to the agent")


def _gymnasiums(source: EnvironmentSource) -> Iterator[Finding]:
    """Findings of Gymnasium's own checker."""
    advice = "see gymnasium.utils.env_checker.check_env"
    with _made(source) as (_, recorder), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with user_code():
                check_env(recorder.env, skip_render_check=True, skip_close_check=True)
        except Exception as error:
            yield unwise(f"Gymnasium's checker: {one_line(error)}", advice)
    for text in dict.fromkeys(re.sub(r"\x1b\[\d*m|WARN: ", "", str(each.message)) for each in caught):
        if not _NOT_OURS.search(text):
            yield unwise(f"Gymnasium's checker: {one_line(text)}", advice)
