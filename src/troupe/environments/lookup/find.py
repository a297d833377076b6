"""Finds environments: a Gymnasium id, `module:Id`, `path/to/file.py:factory`, or a callable."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import gymnasium as gym

from troupe import config as configuration
from troupe import hints
from troupe.config import PASSED, Environment, TrainConfig, UsageError
from troupe.environments.backends import BACKENDS, with_backends
from troupe.environments.lookup import packages
from troupe.environments.lookup.registry import from_factory, from_registry
from troupe.environments.source import EnvironmentSource, Maker, name_of
from troupe.user_code import files


def find(env: str | Maker, options: Environment | None = None, texts: Collection[str] = ()) -> EnvironmentSource:
    """Resolves `env` and makes it once, to check it and to learn its spaces.

    Of `options`, `kwargs`, `wrappers`, `max_steps`, `ignore` and `backend` matter here. The arguments named in `texts`
    are text from a shell, and are converted.

    Raises UsageError in one line: an unknown name (with the nearest), a missing package (with the command that
    installs it), a factory that fails, arguments or wrappers that do not fit.
    """
    options = options or Environment()
    if callable(env):
        source = from_factory(name_of(env), env, options, texts)
    elif files.path_of(env):
        source = from_factory(env, files.load(env, "environment factory"), options, texts)
    elif env.endswith(".py"):
        raise UsageError(f"'{env}' names no factory: write {env}:NAME, the callable in it that makes an environment")
    else:
        source = from_registry(env, options, texts)
    return with_backends(source, options)


def settle(
    config: TrainConfig, env: str | Maker, env_kwargs: Mapping[str, Any] | None = None
) -> tuple[TrainConfig, EnvironmentSource]:
    """The environment of a new run, and `config` completed so that it finds the same one again: typed arguments
    (`env_kwargs` as they are), and absolute paths and hashes of all files that settings name."""
    exact = {f"env.kwargs.{name}": value for name, value in (env_kwargs or {}).items()}
    config = configuration.replace(config, exact)
    wrappers = tuple(files.absolute(name.strip()) for name in config.env.wrappers)
    options = replace(config.env, wrappers=wrappers, backend=files.absolute(config.env.backend))
    source = find(env, options, texts=options.kwargs.keys() - (env_kwargs or {}).keys())
    env_id = files.absolute(source.id)
    callables = {name: files.absolute(value) for name, value in configuration.named_callables(config).items()}
    digests = files.digests([env_id, *options.wrappers, *callables.values()])
    settled = {"env.id": env_id, "env.wrappers": options.wrappers} | callables
    settled |= {f"env.kwargs.{name}": value for name, value in source.kwargs.items()}
    settled |= {f"env.files.{path}": digest for path, digest in digests.items()}
    return configuration.replace(config, settled), source


def of_run(run: Path, config: Environment, env: str | Maker | None = None) -> EnvironmentSource:
    """The environment of a run; `env` is its callable, as config.toml cannot hold one, or the name that it has now.

    A run directory may come from anybody: code that lies in it is not executed.
    """
    names = [*([] if env else [config.id]), *config.wrappers]
    option = hints.code_option("env")
    if not env and config.id.startswith(PASSED):
        raise UsageError(
            f"the run's environment was the callable {config.id.removeprefix(PASSED)}: pass it as {option}"
        )
    if not env:
        files.check_there(config.id, "environment factory", option)
    files.refuse_inside(run, (code for name in names for code in _code_of(name)), "environment")
    report_changes(replace(config, id="") if env else config)
    BACKENDS.check_code(run, config.backend, config.files)
    return find(env or config.id, config)


def report_changes(config: Environment) -> None:
    """Logs which files of a run's environment are no longer those that it was trained with."""
    consequence = "it may be another environment than the agent was trained in"
    files.warn_of_changes((config.id, *config.wrappers), config.files, consequence)


def _code_of(name: str) -> Iterator[Path]:
    """The files that finding `name` would import; none if it is registered already."""
    module, _, registered = name.rpartition(":")
    if files.path_of(name):
        yield from files.code_of(name)
    elif module or registered not in gym.registry:
        for registrar in chain(*packages.registrars(registered, module)):
            with suppress(ImportError, ValueError):
                yield from files.code_of(f"{registrar.module}:")
