"""Where environments come from: a Gymnasium id, `module:Id`, `path/to/file.py:factory`, or a callable."""

import importlib
import importlib.util
import inspect
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from troupe.config import Backend, Environment, UsageError, did_you_mean
from troupe.environments import atari, pool
from troupe.environments.actions import Actions
from troupe.environments.episodes import Episodes, RestorableEnvironment
from troupe.environments.packing import MaskPlace, Packing
from troupe.environments.spaces import MASK
from troupe.environments.vector import Numbered, VectorEnvironment

_FILE = re.compile(r"(.+\.py):(\w+)")
# What to install for environments whose module or namespace names them.
_EXTRAS = {"ale": "atari", "shimmy": "atari", "box2d": "box2d", "mujoco": "mujoco"}


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
    pool_name: str = ""  # of the same environment in EnvPool, where it has it

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
            return _one_line(error)
        return ""

    @property
    def backends(self) -> list[Backend]:
        """Those that can be had here, the ones that cost nothing to try first."""
        there: dict[Backend, bool] = {
            "native": self.native_vector is not None,
            "sync": True,
            "envpool": self.pool_name != "" and pool.installed(),
        }
        return [name for name, is_there in there.items() if is_there]

    def backend(self, config: Environment) -> Backend:
        """The backend `config` asks for. What auto leaves open a run settles by measurement (preparation.py);
        where nobody has, it is the environment's own vector version, or else Python."""
        if config.backend != "auto":
            return config.backend
        return "native" if self.native_vector is not None else "sync"

    def is_native(self, config: Environment) -> bool:
        """Whether `make_vector` gives environments that step without Python."""
        return self.backend(config) != "sync"

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
                vector = self._sync_vector(count, partial(self.make, config=config))
        return kind(vector, self.id, config.delay_seconds, episodic_life=config.episodic_life, masked=self.masked)

    def make_restorable(self, count: int, config: Environment) -> VectorEnvironment:
        """The same, of environments that a checkpoint can put back where they were, if `is_restorable`."""
        if not self.is_restorable(config):
            return self.make_vector(count, config)
        self.check(config)
        with quiet_gymnasium():
            vector = self._sync_vector(count, lambda: Episodes(self.make(config=config)))
        return RestorableEnvironment(
            vector, self.id, config.delay_seconds, episodic_life=config.episodic_life, masked=self.masked
        )

    def check(self, config: Environment) -> None:
        """Raises UsageError where the environment cannot be played as `config` says."""
        if config.backend == "native" and self.native_vector is None:
            raise UsageError(f"env.backend = 'native': {self.id} has no vector version of its own; use sync")
        if config.backend == "envpool":
            self._check_pool()
        for name in () if self.atari else atari.ONLY_HERE:
            if name == "threads" and config.backend == "envpool":
                continue
            if getattr(config, name) != getattr(Environment(), name):
                raise UsageError(f"env.{name} = {getattr(config, name)}: only Atari games have it, not {self.id}")

    def _check_pool(self) -> None:
        if not self.pool_name:
            why = pool.OTHERWISE.get(self.id)
            refusal = f"{self.id} is not taken from EnvPool, for {why}" if why else f"EnvPool has no {self.id}"
        elif not pool.installed():
            raise UsageError("env.backend = 'envpool': EnvPool is not installed: pip install 'troupe[envpool]'")
        else:
            refusal = pool.refusal(self.pool_name, self.observation_space, self.action_space)
        if refusal:
            raise UsageError(f"env.backend = 'envpool': {refusal}; use auto")

    def _sync_vector(self, count: int, make: Callable[[], gym.Env[Any, Any]]) -> SyncVectorEnv:
        try:
            # copy=False: what is returned is the vector's own buffer, and the actor copies it at once.
            return SyncVectorEnv(
                [lambda number=number: Numbered(make(), number) for number in range(count)],  # type: ignore[misc]
                copy=False,
                autoreset_mode=AutoresetMode.NEXT_STEP,
            )
        except Exception as error:  # what could be made once may fail the second time, or differ
            raise UsageError(f"environment {self.id} cannot be made {count} times: {_one_line(error)}") from error


def find(env: str | Callable[..., gym.Env[Any, Any]]) -> EnvironmentSource:
    """Resolves `env` and makes it once, to see that it can be made and what its spaces are.

    Raises UsageError in one line: no such name (with the nearest), a package that is missing (with the
    command that installs it), a factory that fails.
    """
    if callable(env):
        return _from_factory(f"python:{getattr(env, '__qualname__', type(env).__qualname__)}", env)
    if match := _FILE.fullmatch(env):
        return _from_factory(env, _load_factory(Path(match[1]), match[2]))
    if env.endswith(".py"):
        raise UsageError(f"'{env}' names no factory: write {env}:NAME, the callable in it that makes an environment")
    return _from_registry(env)


def of_run(run: Path, env_id: str, env: Callable[..., gym.Env[Any, Any]] | None = None) -> EnvironmentSource:
    """The environment of a run; `env` gives it where it was a callable, which no file can hold.

    A run directory may come from anybody: code that lies in it is not executed.
    """
    if env is not None:
        return find(env)
    if env_id.startswith("python:"):
        raise UsageError(f"the run's environment was the callable {env_id[7:]}: pass it as env= in Python")
    code = _code_of(env_id)
    if code and any(run.resolve() in path.parents for path in (Path(os.path.abspath(code)), code.resolve())):
        raise UsageError(
            f"the environment of '{run}' is code in the run directory itself ({code}), which is not executed; "
            "if you trust it, move it elsewhere and name its new place in config.toml"
        )
    return find(env_id)


def _code_of(env_id: str) -> Path | None:
    """The file that `env_id` would have imported; None where Gymnasium knows the environment already."""
    if match := _FILE.fullmatch(env_id):
        return Path(match[1])
    module, colon, _ = env_id.partition(":")
    try:
        spec = importlib.util.find_spec(module.partition(".")[0]) if colon else None
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin else None


def _from_factory(name: str, factory: Callable[..., gym.Env[Any, Any]]) -> EnvironmentSource:
    try:
        takes_mode = "render_mode" in inspect.signature(factory).parameters
    except (TypeError, ValueError):
        takes_mode = False

    def make(render_mode: str | None = None, config: Environment | None = None) -> gym.Env[Any, Any]:  # noqa: ARG001
        env = factory(render_mode=render_mode) if takes_mode else factory()
        if not isinstance(env, gym.Env):
            raise UsageError(f"environment {name}: the factory returned {type(env).__name__}, not a gymnasium.Env")
        return env

    return _probe(name, make)


def _load_factory(path: Path, name: str) -> Callable[..., gym.Env[Any, Any]]:
    if not path.is_file():
        raise UsageError(f"no file '{path}' to take the environment factory '{name}' from")
    spec = importlib.util.spec_from_file_location(f"troupe_environment_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"{path} cannot be imported: {_one_line(error)}") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        callables = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UsageError(f"{path} has no callable '{name}'{did_you_mean(name, callables)}")
    return factory  # type: ignore[no-any-return]


def _from_registry(env_id: str) -> EnvironmentSource:
    try:
        with quiet_gymnasium():
            spec = _spec(env_id)
    except (gym.error.Error, ImportError) as error:
        raise UsageError(_unknown(env_id, error)) from None

    if atari.is_game(spec):
        game = partial(atari.single, env_id)
        batch = partial(atari.batch, spec.kwargs["game"])
        with quiet_gymnasium():
            return replace(_probe(env_id, game), native_vector=batch, atari=True)

    def make(render_mode: str | None = None, config: Environment | None = None) -> gym.Env[Any, Any]:  # noqa: ARG001
        asked: dict[str, Any] = {"render_mode": render_mode} if render_mode else {}  # not every environment takes one
        with quiet_gymnasium():
            return gym.make(env_id, **asked)

    def native(count: int, config: Environment) -> VectorEnv[Any, Any, Any]:  # noqa: ARG001
        return gym.make_vec(env_id, num_envs=count, vectorization_mode="vector_entry_point")

    source = _probe(env_id, make, spec.reward_threshold)
    vector = native if _resets_on_the_next_step(spec, native) else None
    return replace(source, native_vector=vector, pool_name=pool.name_of(spec))


def _spec(env_id: str) -> gym.envs.registration.EnvSpec:
    """The registered environment; of `module:Id` the module is imported first, for it registers Id."""
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except Exception as error:
            raise UsageError(f"environment {env_id}: '{module}' cannot be imported: {_one_line(error)}") from error
    try:
        return gym.spec(name)
    except gym.error.Error:
        atari.register()
        return gym.spec(name)


def _resets_on_the_next_step(spec: Any, native: Callable[[int, Environment], VectorEnv[Any, Any, Any]]) -> bool:
    """Whether the environment's own vector version exists, can be made, and keeps the rollout contract."""
    if spec.vector_entry_point is None:
        return False
    try:
        with quiet_gymnasium():
            vector = native(1, Environment())
    except Exception:  # one that needs packages we do not ask for (JAX): the Python version serves
        return False
    mode = vector.metadata.get("autoreset_mode")
    vector.close()
    return mode == AutoresetMode.NEXT_STEP


def _probe(name: str, make: Callable[..., gym.Env[Any, Any]], threshold: float | None = None) -> EnvironmentSource:
    """Makes one environment to see what it is, and begins an episode to see whether it says what is allowed."""
    try:
        env = make()
    except UsageError:
        raise
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise UsageError(_missing(name, error)) from None
    except Exception as error:
        raise UsageError(f"environment {name} cannot be made: {_one_line(error)}") from error
    source = EnvironmentSource(name, make, env.observation_space, env.action_space, _masked(name, env), threshold)
    env.close()
    return source


def _masked(name: str, env: gym.Env[Any, Any]) -> MaskPlace:
    """Where its action masks come from."""
    if isinstance(env.observation_space, gym.spaces.Dict) and MASK in env.observation_space.spaces:
        return "observation"
    if getattr(env.unwrapped, "ale", None) is not None:
        return ""
    try:
        _, info = env.reset(seed=0)
    except Exception as error:
        raise UsageError(f"environment {name}: reset raised {_one_line(error)}") from error
    return "info" if MASK in info else ""


def _unknown(env_id: str, error: Exception) -> str:
    name = env_id.rpartition(":")[2]
    namespace = name.partition("/")[0].lower() if "/" in name else ""
    if namespace in _EXTRAS and not any(key.lower().startswith(f"{namespace}/") for key in gym.registry):
        return f"environment {env_id} needs a package that is not installed: pip install 'troupe[{_EXTRAS[namespace]}]'"
    if isinstance(error, ImportError):
        return f"environment {env_id}: {error}"
    hint = did_you_mean(name, [known for known, spec in gym.registry.items() if not atari.is_old(spec)])
    return f"no environment '{env_id}'{hint} (troupe envs lists those with tuned settings)"


def _missing(env_id: str, error: Exception) -> str:
    entry = str(getattr(gym.registry.get(env_id.rpartition(":")[2]), "entry_point", ""))
    words = re.split(r"[\W_]+", entry.lower())
    for word, extra in _EXTRAS.items():
        if word in words:
            return f"environment {env_id} needs a package that is not installed: pip install 'troupe[{extra}]'"
    return f"environment {env_id} needs a package that is not installed: {error}"


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@contextmanager
def quiet_gymnasium() -> Iterator[None]:
    """Keeps Gymnasium's advice on versions and wrappers out of the output; errors still raise."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="gymnasium")
        yield
