"""A batch of environments that step together; errors name the environment, the step and the field."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv
from jaxtyping import Float

from troupe.config import TroupeError, one_line
from troupe.environments.actions import Actions
from troupe.environments.checks.contract import ContractError
from troupe.environments.checks.observations import Limits, misfit
from troupe.environments.layers import layers
from troupe.environments.packing import MaskSource, Packing
from troupe.environments.spaces import MASK
from troupe.environments.stepping.closing import close_and_report, close_in_time, report_failure
from troupe.user_code.guard import contained

FAILED = "troupe: failed"  # in an info: the environment was made anew, and this is its first observation
_LARGEST_REWARD = 1e100  # sums and squares of larger ones overflow float64


class EnvironmentFailed(TroupeError):
    """An environment raised, or returned values that cannot be learned from."""


class Transition(NamedTuple):
    """One step of B environments. The next step may overwrite the arrays. Observations are packed (packing.py).

    `life_lost`: whether a life was lost and the game continues, with `env.episodic_life`.
    """

    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    life_lost: np.ndarray


class Numbered(gym.Wrapper[Any, Any, Any, Any]):
    """One environment of a batch: adds its index to what it raises. Of an info it passes on only the entries in `read`:
    Gymnasium makes arrays of entries, and the others may be of any type and change from step to step.

    Where `restart` is set, an environment that raises is closed and another made in its place: its first observation,
    with a reward of 0 and FAILED in its info, is the answer. `restart` is called with what was raised before, and
    raises where there is to be no other.
    """

    def __init__(self, make: Callable[[], gym.Env[Any, Any]], number: int, read: Sequence[str] = (MASK,)):
        super().__init__(make())
        self._make, self._number, self._read = make, number, read
        self._seed, self._made = 0, 1
        self.restart: Callable[[_Raised], None] | None = None
        self.pulse = np.zeros(1)  # see VectorEnvironment.answer_to
        self.close_error: BaseException | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._seed = self._seed if seed is None else seed
        try:
            obs, info = self.env.reset(seed=seed, options=options)
        except BaseException as error:
            return self._anew("reset", contained(error))
        self._answered()
        return obs, self._readable(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        try:
            obs, reward, terminated, truncated, info = self.env.step(action)
        except BaseException as error:
            obs, info = self._anew("step", contained(error))
            return obs, 0.0, False, False, info
        self._answered()
        return obs, float(reward), terminated, truncated, self._readable(info)

    def close(self) -> None:
        """Keeps what it raises: the others of the batch must still be closed."""
        try:
            self.env.close()
        except BaseException as error:
            self.close_error = contained(error)

    def _anew(self, verb: str, error: Exception) -> tuple[Any, dict[str, Any]]:
        """The first observation of another environment; raises _Raised where `error` is not to be answered so."""
        while True:
            raised = _Raised(self._number, verb)
            raised.__cause__ = error
            if self.restart is None or isinstance(error, ContractError):
                raise raised
            self.restart(raised)
            close_in_time(self.env.close, "that failed")
            self._made += 1
            seed = np.random.SeedSequence((self._seed, self._made)).generate_state(1)
            try:
                self.env = self._make()
                obs, info = self.env.reset(seed=int(seed[0]))
            except BaseException as another:
                verb, error = "making it anew", contained(another)
                continue
            self._answered()
            return obs, self._readable(info) | {FAILED: True}

    def _answered(self) -> None:
        if self.pulse[0]:  # 0: nobody waits for the batch
            self.pulse[0] = time.monotonic()

    def _readable(self, info: dict[str, Any]) -> dict[str, Any]:
        return {key: info[key] for key in self._read if info.get(key) is not None}


class _Raised(Exception):
    """Environment `number` raised the cause in its method `verb`."""

    def __init__(self, number: int, verb: str):
        super().__init__(number, verb)
        self.number, self.verb = number, verb


class VectorEnvironment:
    """B environments that reset on the step after an episode's end.

    An episode's last observation is therefore always returned; the row that follows it is not a transition (its
    action is ignored and its reward is 0), and the rollout marks it invalid.

    A step is a `send` and a `receive`. Here all the work is done in `receive`; subclasses begin it in `send`. `notices`
    has a line for each kind of harmless fault so far.
    """

    def __init__(
        self,
        vector: VectorEnv[Any, Any, Any],
        name: str,
        delay_seconds: float = 0.0,
        *,
        episodic_life: bool = False,
        masked: MaskSource = "",
    ):
        self._vector = vector
        self._name = name
        self._delay = delay_seconds
        self.count: int = vector.num_envs
        self.observation_space, self.action_space = vector.single_observation_space, vector.single_action_space
        self._actions = Actions(self.action_space)
        self._packing = Packing(self.observation_space, self._actions, masked)
        self._limits = [Limits(leaf) for leaf in self._packing.leaves]
        layered = (layer for env in getattr(vector, "envs", ()) for layer in layers(env))
        self._numbered = [layer for layer in layered if isinstance(layer, Numbered)]
        self.notices: dict[str, str] = {}
        self._steps = 0
        self._asked = False  # sent, and not received yet
        self._episodic_life = episodic_life
        self._lives = np.zeros(self.count, np.int64)
        self._none = np.zeros(self.count, np.bool_)
        self._none.setflags(write=False)
        self.failed = self._none  # [B]: made anew in the last step, which was no transition (`restart_failed`)

    @property
    def vector(self) -> VectorEnv[Any, Any, Any]:
        """Gymnasium's own, which this one steps."""
        return self._vector

    def reset(self, seeds: np.random.SeedSequence) -> np.ndarray:
        """Resets all, each with a seed of its own (see `_begin` for the exception): packed observations [B, ...]."""
        try:
            obs, info = self._begin(seeds.generate_state(self.count))
        except BaseException as error:
            raise self._failed("reset", error) from _cause(error)
        self._asked = False
        if self._episodic_life:
            self._lives = np.array(info["lives"])
        return self._checked(obs, info, self._none)

    def answer_to(self, pulse: Float[np.ndarray, "1"]) -> None:
        """From now on, whenever an environment of the batch returns from a call, `pulse[0]` is set to the time
        (time.monotonic), unless it is 0, which means that no call is under way. Batches that do not step in Python
        leave this to the caller.
        """
        for env in self._numbered:
            env.pulse = pulse

    def restart_failed(self, refusal: Callable[[str], str] | None) -> None:
        """From now on an environment that raises is made anew (see `failed`), or with None no longer. `refusal` is
        called with the error, and says why there is to be no other; "" if there is. A batch that does not step its
        environments in Python one by one cannot tell which one raised: there it remains an error.
        """

        def restart(raised: _Raised) -> None:
            error = self._failed(raised.verb, raised)
            if why := refusal and refusal(str(error)):
                raise EnvironmentFailed(f"{error}; {why}") from _cause(raised)

        for env in self._numbered:
            env.restart = restart if refusal else None

    def delay(self) -> None:
        """Sleeps for `env.delay_seconds` before a step."""
        if self._delay:
            time.sleep(self._delay)

    def step(self, action: np.ndarray) -> Transition:
        """`action` [B, ...] holds rows (actions.py)."""
        self.send(action)
        return self.receive()

    def send(self, action: np.ndarray) -> None:
        """The first half of a step; `action` may be overwritten afterwards."""
        self._steps += 1
        try:
            self._ask(self._actions.to_environment(action))
        except BaseException as error:
            raise self._failed("step", error) from _cause(error)
        self._asked = True

    def receive(self) -> Transition:
        """The second half, once for every `send`."""
        assert self._asked, "receive without send"
        self._asked = False
        try:
            obs, reward, terminated, truncated, info = self._answer()
        except BaseException as error:
            raise self._failed("step", error) from _cause(error)
        fit = np.abs(reward, dtype=np.float64) < _LARGEST_REWARD
        if not fit.all():
            bad = int(np.flatnonzero(~fit)[0])
            least = f", and must be less than {_LARGEST_REWARD:g}" if np.isfinite(reward[bad]) else ""
            raise EnvironmentFailed(f"{self._at(bad)}: reward is {reward[bad]}{least}")
        packed = self._checked(obs, info, terminated | truncated)
        self.failed = info.get(FAILED, self._none)
        return Transition(packed, reward, terminated, truncated, self._life_lost(terminated, truncated, info))

    def state(self) -> Sequence[Mapping[str, Any]] | None:
        """The state for `restore`; None if it cannot be restored (episodes.py)."""
        return None

    def restore(self, state: Sequence[Mapping[str, Any]], obs: np.ndarray) -> list[int]:
        raise NotImplementedError

    def close(self) -> None:
        """Closes them all; logs what that raises."""
        close_and_report(self._vector.close, self._name)
        for env in self._numbered:
            if env.close_error:
                report_failure(self._name, env.close_error)

    def _begin(self, seeds: np.ndarray) -> tuple[Any, dict[str, Any]]:
        """A native vector environment of Gymnasium has one random stream for all, and takes the first seed."""
        if isinstance(self._vector, SyncVectorEnv):
            return self._vector.reset(seed=seeds.tolist())
        return self._vector.reset(seed=int(seeds[0]))

    def _ask(self, action: Any) -> None:
        self._action = action

    def _answer(self) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return self._vector.step(self._action)

    def _life_lost(self, terminated: np.ndarray, truncated: np.ndarray, info: Mapping[str, Any]) -> np.ndarray:
        if not self._episodic_life:
            return self._none
        before, self._lives = self._lives, np.array(info["lives"])
        lost: np.ndarray = (self._lives < before) & ~terminated
        self._lives[terminated | truncated] = 0  # so that the start of the next game is no loss
        return lost

    def _checked(self, obs: Any, info: Mapping[str, Any], ended: np.ndarray) -> np.ndarray:
        """Packs the observations and their masks; raises EnvironmentFailed for values that cannot be learned from."""
        for limits in self._limits:
            value = limits.leaf.of(obs)
            if unfit := limits.unfit(value):
                raise EnvironmentFailed(f"{self._at(unfit[0])}: the observation{limits.leaf.name} {unfit[1]}")
            if outside := limits.outside_box(value):
                what = f"the observation{limits.leaf.name}"
                self.notices[what] = f"{self._at(outside[0])}: {what} {outside[1]}"
        mask = None
        if self._packing.masked:
            mask = self._masks(obs, info, ended)
        elif MASK in info:
            self.notices[MASK] = f"environment {self._name}: {MASK} is in the info of steps and not of resets: ignored"
        return self._packing.pack(obs, mask)

    def _masks(self, obs: Any, info: Mapping[str, Any], ended: np.ndarray) -> np.ndarray:
        masks = np.ones((self.count, self._actions.mask_size), np.bool_)
        seen = self._packing.masked == "observation"
        given = np.ones(self.count, np.bool_) if seen else info.get(f"_{MASK}", self._none)
        for number in np.flatnonzero(given).tolist():
            mask = _entry((obs if seen else info)[MASK], number)
            try:
                masks[number] = self._packing.mask(mask, over=bool(ended[number]))
            except ValueError as error:
                raise EnvironmentFailed(f"{self._at(number)}: {MASK} {error}") from None
        return masks

    def _pack_one(self, obs: Any, info: Mapping[str, Any], *, over: bool = False) -> np.ndarray:
        """One environment's observation and mask, packed; `over`: its episode has ended."""
        return self._packing.pack_one(obs, self._packing.mask_of(obs, info, over=over))

    def _at(self, number: int) -> str:
        return f"environment {self._name}[{number}], step {self._steps}"

    def _failed(self, verb: str, error: BaseException) -> EnvironmentFailed:
        error, number = contained(error), ""
        if isinstance(error, EnvironmentFailed):  # of `restart_failed`
            return error
        if isinstance(error, _Raised):
            number, verb = f"[{error.number}]", error.verb
        elif misshapen := self._misshapen():
            return EnvironmentFailed(misshapen)
        cause = _cause(error)
        if isinstance(cause, ContractError):
            return EnvironmentFailed(f"environment {self._name}{number}, step {self._steps}: {cause}")
        why = f"{verb} raised {one_line(cause)}"
        return EnvironmentFailed(f"environment {self._name}{number}: {why} (step {self._steps})")

    def _misshapen(self) -> str:
        """Names the environment whose observation does not fit its space, if that is why the batch failed."""
        returned = getattr(self._vector, "_env_obs", None) or []
        for number, obs in enumerate(returned):
            if obs is None:  # it has not been reset yet
                continue
            if wrong := misfit(self._packing.leaves, obs):
                return f"{self._at(number)}: {wrong}"
        return ""


def _cause(error: BaseException) -> BaseException:
    return error.__cause__ if isinstance(error, _Raised | EnvironmentFailed) and error.__cause__ else error


def _entry(batched: Any, number: int) -> Any:
    """One environment's part of a batched value of Gymnasium, which adds "_name" beside each name."""
    if isinstance(batched, dict):
        return {key: _entry(part, number) for key, part in batched.items() if not str(key).startswith("_")}
    if isinstance(batched, tuple):
        return tuple(_entry(part, number) for part in batched)
    return batched[number]
