"""What makes environments: one, or a batch stepped together, by the backend that a run asks for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import cloudpickle
import gymnasium as gym
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from troupe.config import Environment, UsageError, one_line
from troupe.environments.actions import Actions
from troupe.environments.checks.quiet import quiet_gymnasium
from troupe.environments.packing import MaskPlace, Packing
from troupe.environments.spaces import MASK
from troupe.environments.stepping import atari, pool
from troupe.environments.stepping.closing import close_in_time
from troupe.environments.stepping.episodes import Episodes, RestorableEnvironment
from troupe.environments.stepping.vector import Numbered, VectorEnvironment
from troupe.extras import command
from troupe.user_code.guard import user_code


@dataclass(frozen=True)
class EnvironmentSource:
    """Makes one environment, or many at once; knows the spaces and the score that counts as solved.

    `make(render_mode, config)` makes one; both can be left out, and only Atari games read `config`.
    """

    id: str
    make: Callable[..., gym.Env[Any, Any]]
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    masked: MaskPlace = ""
    reward_threshold: float | None = None
    native_vector: Callable[[int, Environment], VectorEnv[Any, Any, Any]] | None = None
    atari: bool = False
    time_limit: int | None = None  # steps of an episode, where the environment declares it (probe.py)
    pool_name: str = ""  # of the same environment in EnvPool, where it has it
    left_out: tuple[str, ...] = ()  # entries of its observation that are not in `observation_space`
    notices: tuple[str, ...] = ()  # what a user should know of it at the start of a run
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # the arguments it is made with, as config.toml holds them
    changed: tuple[str, ...] = ()  # which of env.kwargs, wrappers, max_steps make a registered environment another

    @cached_property
    def actions(self) -> Actions:
        return Actions(self.action_space)

    @cached_property
    def packing(self) -> Packing:
        """How observations are packed; raises UsageError for spaces that are not supported."""
        return Packing(self.observation_space, self.actions, self.masked)

    @cached_property
    def unsendable(self) -> str:
        """Why the environment cannot be sent to another process; nothing where it can."""
        try:
            cloudpickle.dumps(self)
        except Exception as error:
            return one_line(error)
        return ""

    @property
    def backends(self) -> list[str]:
        """Those that can be had here, the ones that cost nothing to try first."""
        there: dict[str, bool] = {
            "native": self.native_vector is not None,
            "sync": True,
            "envpool": self.pool_name != "" and pool.installed(),
        }
        return [name for name, is_there in there.items() if is_there]

    def backend(self, config: Environment) -> str:
        """The backend `config` asks for. What auto leaves open a run settles by measurement (preparation.py);
        where nobody has, it is the environment's own vector version, or else Python."""
        if config.backend != "auto":
            return config.backend
        return "native" if self.native_vector is not None else "sync"

    def is_native(self, config: Environment) -> bool:
        """Whether `make_vector` gives environments that step without Python."""
        return self.backend(config) != "sync"

    def has_threads(self, config: Environment) -> bool:
        """Whether a batch steps in threads of its own, so that `env.threads` means something."""
        return self.atari or self.backend(config) == "envpool"

    def is_restorable(self, config: Environment) -> bool:
        """Whether `make_restorable` gives environments that can be put back where they were.

        A game of Atari is long, and playing it again takes as long: only if sync is asked for.
        """
        return config.backend == "sync" or (config.backend == "auto" and not self.atari)

    def make_vector(self, count: int, config: Environment) -> VectorEnvironment:
        """`count` environments stepped together, by the backend that `config` asks for."""
        self.check(config)
        backend = self.backend(config)
        kind: type[VectorEnvironment] = VectorEnvironment
        with quiet_gymnasium():
            if backend == "native" and self.native_vector is not None:
                vector: VectorEnv[Any, Any, Any] = self.native_vector(count, config)
                kind = atari.AtariEnvironment if self.atari else VectorEnvironment
            elif backend == "envpool":
                spaces = self.observation_space, self.action_space
                vector = pool.PoolVector(self.pool_name, count, *spaces, threads=max(1, config.threads))
                kind = pool.PoolEnvironment
            else:
                vector = self._sync_vector(count, config)
        return kind(vector, self.id, config.delay_seconds, episodic_life=config.episodic_life, masked=self.masked)

    def make_restorable(self, count: int, config: Environment) -> VectorEnvironment:
        """The same, of environments that a checkpoint can put back where they were, if `is_restorable`."""
        if not self.is_restorable(config):
            return self.make_vector(count, config)
        self.check(config)
        with quiet_gymnasium():
            vector = self._sync_vector(count, config, Episodes)
        return RestorableEnvironment(
            vector, self.id, config.delay_seconds, episodic_life=config.episodic_life, masked=self.masked
        )

    def check(self, config: Environment) -> None:
        """Raises UsageError where the environment cannot be played as `config` says."""
        if config.backend == "native" and self.native_vector is None:
            taking = f" that takes {self._changes}" if self.changed else ""
            raise UsageError(f"env.backend = 'native': {self.id} has no vector version of its own{taking}; use sync")
        if config.backend == "envpool":
            self._check_pool()
        for name in () if self.atari else atari.ONLY_HERE:
            if name == "threads" and self.has_threads(config):
                continue
            if getattr(config, name) != getattr(Environment(), name):
                raise UsageError(f"env.{name} = {getattr(config, name)}: only Atari games have it, not {self.id}")

    @property
    def _changes(self) -> str:
        return ", ".join(f"env.{name}" for name in self.changed)

    def _check_pool(self) -> None:
        if self.changed:
            refusal = f"EnvPool takes no {self._changes}"
        elif not self.pool_name:
            why = pool.OTHERWISE.get(self.id)
            refusal = f"{self.id} is not taken from EnvPool, for {why}" if why else f"EnvPool has no {self.id}"
        elif not pool.installed():
            raise UsageError(f"env.backend = 'envpool': EnvPool is not installed: {command('envpool')}")
        else:
            refusal = pool.refusal(self.pool_name, self.observation_space, self.action_space)
        if refusal:
            raise UsageError(f"env.backend = 'envpool': {refusal}; use auto")

    def _sync_vector(
        self, count: int, config: Environment, wrap: Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]] = lambda env: env
    ) -> SyncVectorEnv:
        read = (MASK, "lives") if self.atari or config.episodic_life else (MASK,)

        made: list[gym.Env[Any, Any]] = []

        def make(number: int) -> gym.Env[Any, Any]:
            made.append(wrap(Numbered(self.make(config=config), number, read)))
            return made[-1]

        try:
            # copy=False: what is returned is the vector's own buffer, and the actor copies it at once.
            with user_code():
                makers = [partial(make, number) for number in range(count)]
                return SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)
        except Exception as error:  # what could be made once may fail the second time, or differ
            for each in made:
                close_in_time(each.close, self.id)
            raise UsageError(
                f"environment {self.id} cannot be made {count} times: {one_line(error)}; "
                "if only one can exist at a time, use --actors 1 --actor.environments 1"
            ) from error

    def exists_once(self, config: Environment) -> bool:
        """Whether a second one cannot be made while one is open: it needs a licence, a port, a device."""
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
