"""From an id to the registered environment; error messages for unknown ids."""

import difflib
import re
from collections.abc import Iterable, Sequence

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from troupe.config import UsageError, did_you_mean, one_line
from troupe.environments.checks.quiet import quiet_gymnasium
from troupe.environments.lookup import packages
from troupe.environments.stepping import atari
from troupe.user_code.guard import user_code

_FEW = 4  # ids of a package that are named


def lookup(env_id: str) -> EnvSpec:
    """The registered environment `Id`, or that of `module:Id`, whose module is imported first.

    If the id is unknown, packages that may register it are imported one after another (packages.py).
    Raises UsageError in one line: no such id (with the nearest), or a missing package (with its pip command).
    """
    module, _, name = env_id.rpartition(":")
    found = None if module else _registered(name)
    if found:
        return found  # without reading the entry points of all packages, which takes 50 ms
    asked, others = packages.registrars(name, module)
    failed = ""
    for register in (*asked, *others):
        try:
            with quiet_gymnasium(), user_code():
                packages.load(register)
        except Exception as error:
            if register in asked:
                failed = failed or f"environment {env_id}: '{register.module}' cannot be imported: {one_line(error)}"
            if module and register is asked[0]:
                raise UsageError(_not_installed(env_id, module, error) or failed) from error
        if found := _registered(name):
            break
    if found:
        return found
    imported = [module] if module else list(dict.fromkeys(register.module for register in asked))
    raise UsageError(failed or _unknown(env_id, imported))


def _registered(name: str) -> EnvSpec | None:
    try:
        with quiet_gymnasium():
            return gym.spec(name)
    except gym.error.Error:
        return None


def _not_installed(env_id: str, module: str, error: Exception) -> str:
    """The message for a well-known package that is not installed; "" otherwise."""
    if not isinstance(error, ModuleNotFoundError) or error.name != packages.root(module):
        return ""
    commands = [package.command for package in packages.KNOWN if error.name in package.modules]
    return f"environment {env_id} needs a package that is not installed: {commands[0]}" if commands else ""


def _unknown(env_id: str, imported: Sequence[str]) -> str:
    """The message for an unknown id; `imported` are the modules that it names."""
    name = env_id.rpartition(":")[2]
    suited = packages.known(name)
    if suited and not imported:
        there = atari.new_name(name) if suited[0].extra == "atari" else name
        commands = " or ".join(package.command for package in suited)
        renamed = f"; its name there is {there}" if there != name else ""
        return f"environment {env_id} needs a package that is not installed: {commands}{renamed}"
    ids = _current(set().union(*map(packages.ids_of, imported)) if imported else gym.registry)
    if hint := _same_game(name, ids):
        return f"no environment '{env_id}'{hint} (troupe envs lists those with tuned settings)"
    if imported:
        modules = " and ".join(f"'{module}'" for module in imported)
        if not ids:
            return (
                f"no environment '{env_id}': {modules} was imported and registers no environments; "
                "a class or function that makes one is named in a file: path/to/file.py:NAME"
            )
        if hint := did_you_mean(name, ids):
            return f"no environment '{env_id}'{hint} ({modules} was imported and registers {_few(name, ids)})"
        return f"no environment '{env_id}': {modules} was imported and registers no such id, but {_few(name, ids)}"
    namespace, slash, _ = name.partition("/")
    if slash:  # of no installed package: similar names belong to others
        return (
            f"no environment '{env_id}': no installed package declares the namespace '{namespace}'; "
            f"name the module that registers it, MODULE:{name}"
        )
    hint = did_you_mean(name, ids) or f"; name the module that registers it, MODULE:{name}"
    return f"no environment '{env_id}'{hint} (troupe envs lists those with tuned settings)"


def _few(name: str, ids: Sequence[str]) -> str:
    """The nearest of the ids, and how many more there are."""
    nearest = sorted(sorted(ids), key=lambda each: -difflib.SequenceMatcher(None, each.lower(), name.lower()).ratio())
    more = f" and {len(ids) - _FEW:,} more" if len(ids) > _FEW else ""
    return f"{', '.join(nearest[:_FEW])}{more}"


def _current(ids: Iterable[str]) -> list[str]:
    return [each for each in ids if each not in gym.registry or not atari.is_old(gym.registry[each])]


def _same_game(name: str, ids: Iterable[str]) -> str:
    """Suggests ids that differ in version or case only, or else in namespace as well; the newest version of each."""
    newest: dict[str, tuple[int, str]] = {}
    for each in _current(ids):
        if _bare(each) == _bare(name):
            stem, _, version = each.rpartition("-v")
            newest[stem] = max(newest.get(stem, (-1, "")), (int(version) if version.isdigit() else -1, each))
    found = [each for _, each in newest.values()]
    found = [each for each in found if _namespace(each) == _namespace(name)] or found
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _bare(name: str) -> str:
    return re.sub(r"(NoFrameskip|Deterministic)?-v\d+$", "", name.rpartition("/")[2]).lower()


def _namespace(name: str) -> str:
    return name.rpartition("/")[0].lower()
