"""Makes one environment, or a batch that steps together, with the backend that the settings choose."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from troupe.config import PASSED, Environment, UsageError, one_line
from troupe.environments.actions import Actions
from troupe.environments.checks.quiet import quiet_gymnasium
from troupe.environments.packing import MaskSource, Packing
from troupe.environments.spaces import MASK
from troupe.environments.stepping import atari
from troupe.environments.stepping.closing import close_in_time
from troupe.environments.stepping.episodes import Episodes, RestorableEnvironment
from troupe.environments.stepping.vector import Numbered, VectorEnvironment
from troupe.user_code.guard import user_code

Maker = Callable[..., gym.Env[Any, Any]]


def name_of(env: str | Maker) -> str:
    """The name of an environment in settings (`env.id`)."""
    name = PASSED + getattr(env, "__qualname__", type(env).__qualname__) if callable(env) else env
    try:
        name.encode()
    except UnicodeEncodeError:  # the name of a file need not be UTF-8
        raise UsageError(f"environment {name}: config.toml cannot hold a name that is not UTF-8") from None
    return name


@dataclass(frozen=True)
class EnvironmentSource:
    """Makes one environment or a batch; holds its spaces and its reward threshold.

    `make(render_mode, config)` makes one; both arguments are optional, and only Atari games read `config`.
    """

    id: str
    make: Callable[..., gym.Env[Any, Any]]
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    masked: MaskSource = ""
    reward_threshold: float | None = None
    native_vector: Callable[[int, Environment], VectorEnv[Any, Any, Any]] | None = None
    atari: bool = False
    time_limit: int | None = None  # steps of an episode, where the environment declares it (probe.py)
    pool_name: str = ""  # its name in EnvPool; "": EnvPool does not have the same environment
    left_out: tuple[str, ...] = ()  # entries of its observation that `observation_space` lacks
    notices: tuple[str, ...] = ()  # printed at the start of a run
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # the arguments it is made with, as config.toml holds them
    changed: tuple[str, ...] = ()  # which of env.kwargs, wrappers, max_steps change the registered environment
    known_backends: tuple["Backend", ...] = ()

    @cached_property
    def actions(self) -> Actions:
        return Actions(self.action_space)

    @cached_property
    def packing(self) -> Packing:
        """How observations are packed; raises UsageError for spaces that are not supported."""
        return Packing(self.observation_space, self.actions, self.masked)

    @cached_property
    def unsendable(self) -> str:
        """Why the environment cannot be sent to another process; "" if it can."""
        try:
            cloudpickle.dumps(self)
        except Exception as error:
            return one_line(error)
        return ""

    def backend(self, config: Environment) -> "Backend":
        """The backend `config` names. For auto, which runs settle by measurement (preparation.py), the environment's
        own vector version, or else Python.

        Raises UsageError for an unknown one.
        """
        name = config.backend
        if name == "auto":
            name = "native" if self.native_vector is not None else "sync"
        known = {backend.name: backend for backend in self.known_backends}
        if name not in known:
            raise UsageError(f"env.backend = '{name}': {self.id} has {', '.join(known)}")
        return known[name]

    @property
    def backends(self) -> list[str]:
        """The backends among which auto chooses, the cheapest to try first."""
        return [backend.name for backend in self.known_backends if backend.available(self)]

    def penalty(self, backend: str) -> float:
        """The factor on a backend's measured cost in the choice of auto: 1 for the default, which it must beat."""
        named = self.backend(replace(Environment(), backend=backend))
        return 1.0 if named is self.backend(Environment()) else named.penalty

    def is_native(self, config: Environment) -> bool:
        """Whether `make_vector` gives environments that step without Python, or all in one call of it."""
        return not self.backend(config).in_python

    def has_threads(self, config: Environment) -> bool:
        """Whether a batch steps in threads of its own (`env.threads`)."""
        return self.atari or self.backend(config).threaded

    def is_restorable(self, config: Environment) -> bool:
        """Whether `make_restorable` makes environments whose state a checkpoint can restore.

        Restoring replays the episode, which takes long in Atari games: there only if backend sync is asked for.
        """
        return config.backend == "sync" or (config.backend == "auto" and not self.atari)

    def make_vector(self, count: int, config: Environment) -> VectorEnvironment:
        """`count` environments that step together, by the backend that `config` chooses."""
        self.check(config)
        with quiet_gymnasium():
            return self.backend(config).make(self, count, config)

    def make_restorable(self, count: int, config: Environment) -> VectorEnvironment:
        """The same with environments whose state a checkpoint can restore, if `is_restorable`."""
        if not self.is_restorable(config):
            return self.make_vector(count, config)
        self.check(config)
        with quiet_gymnasium():
            return self.wrapped(self.sync_vector(count, config, Episodes), config, RestorableEnvironment)

    def wrapped(
        self,
        vector: VectorEnv[Any, Any, Any],
        config: Environment,
        kind: type[VectorEnvironment] = VectorEnvironment,
    ) -> VectorEnvironment:
        """`vector` as actors step it."""
        return kind(vector, self.id, config.delay_seconds, episodic_life=config.episodic_life, masked=self.masked)

    def check(self, config: Environment) -> None:
        """Raises UsageError if the settings `config` do not fit the environment."""
        backend = self.backend(config)
        if refusal := backend.refusal(self, config):
            raise UsageError(f"env.backend = '{backend.name}': {refusal}")
        for name in () if self.atari else atari.ONLY_HERE:
            if name == "threads" and self.has_threads(config):
                continue
            if getattr(config, name) != getattr(Environment(), name):
                raise UsageError(f"env.{name} = {getattr(config, name)}: only Atari games have it, not {self.id}")

    @property
    def changed_settings(self) -> str:
        return ", ".join(f"env.{name}" for name in self.changed)

    def random_actions(self, rng: np.random.Generator, obs: np.ndarray) -> np.ndarray:
        """Random allowed actions, a row for each packed observation [B, ...]."""
        masks = self.packing.unpack(torch.from_numpy(obs))[1] if self.masked else None
        return self.actions.random(rng, len(obs), None if masks is None else masks.numpy())

    def random_action(self, rng: np.random.Generator, obs: Any, info: Any) -> Any:
        """A random allowed action for the environment's own `step`, given its observation and info.

        Raises ValueError or AttributeError for a mask that does not fit.
        """
        mask = self.packing.mask_of(obs, info)
        return self.actions.one(self.actions.random(rng, 1, None if mask is None else mask[None])[0])

    def sync_vector(
        self, count: int, config: Environment, wrap: Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]] = lambda env: env
    ) -> SyncVectorEnv:
        """`count` environments in Python, each wrapped by `wrap`. Raises UsageError if so many cannot be made."""
        read = (MASK, "lives") if self.atari or config.episodic_life else (MASK,)
        made: list[gym.Env[Any, Any]] = []

        def make(number: int) -> gym.Env[Any, Any]:
            made.append(wrap(Numbered(partial(self.make, config=config), number, read)))
            return made[-1]

        try:
            # copy=False: returns the vector's own buffer, which the actor copies at once.
            with user_code():
                makers = [partial(make, number) for number in range(count)]
                return SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)
        except Exception as error:  # the second may fail, or have other spaces
            for each in made:
                close_in_time(each.close, self.id)
            raise UsageError(
                f"environment {self.id} cannot be made {count} times: {one_line(error)}; "
                "if only one can exist at a time, use --actors 1 --actor.environments 1"
            ) from error

    def exists_once(self, config: Environment) -> bool:
        """Whether a second one cannot be made while one is open, as with a licence, a port or a device."""
        made: list[gym.Env[Any, Any]] = []
        try:
            for _ in range(2):
                with user_code():
                    made.append(self.make(config=config))
        except Exception:
            return bool(made)
        finally:
            for each in made:
                close_in_time(each.close, self.id)
        return False


class Backend(ABC):
    """Steps a batch of environments; backends.py has the built-in ones."""

    name: str
    penalty: float = 1.0  # factor on its measured cost in the choice of auto, if it is not the default
    in_python: bool = False  # steps environment by environment in Python: actors are processes
    threaded: bool = False  # in threads of its own (env.threads)
    startup_seconds: float = 0.0  # cost before the first step ...
    call_seconds: float = 0.0  # ... and of each step, whatever the size of the batch

    def available(self, source: EnvironmentSource) -> bool:
        """Whether it is a candidate of auto."""
        return not self.refusal(source, Environment())

    def refusal(self, source: EnvironmentSource, config: Environment) -> str:  # noqa: ARG002
        """Why it cannot step `source` with the settings `config`; "" if it can."""
        return ""

    @abstractmethod
    def make(self, source: EnvironmentSource, count: int, config: Environment) -> VectorEnvironment:
        """`count` environments; raises UsageError."""
