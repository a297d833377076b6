"""Packages that register environments: which to import for an unregistered id, and how pip installs them.

Gymnasium imports none by itself. A package is imported only for an id that it is known to register, or whose namespace
it declares as an entry point of the group `gymnasium.envs`.
"""

import importlib
import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from operator import attrgetter

import gymnasium as gym
from gymnasium.envs import registration

from troupe.extras import command

# Of Gymnasium's own environments, some need an extra of ours with the name of their module.
_GYMNASIUM = ("box2d", "mujoco")
# One package uses the second name for what is the first with the entry point's name __root__.
_GROUPS = ("gymnasium.envs", "gymnasium.envs.__root__")
_GAMES = (
    "Alien|Amidar|Assault|Asterix|Asteroids|Atlantis|BankHeist|BattleZone|BeamRider|Berzerk|Bowling|Boxing|Breakout|"
    "Centipede|ChopperCommand|CrazyClimber|Defender|DemonAttack|DoubleDunk|Enduro|FishingDerby|Freeway|Frostbite|"
    "Gopher|Gravitar|Hero|IceHockey|Jamesbond|Kangaroo|Krull|KungFuMaster|MontezumaRevenge|MsPacman|NameThisGame|"
    "Phoenix|Pitfall|Pong|PrivateEye|Qbert|Riverraid|RoadRunner|Robotank|Seaquest|Skiing|Solaris|SpaceInvaders|"
    "StarGunner|Surround|Tennis|TimePilot|Tutankham|UpNDown|Venture|VideoPinball|WizardOfWor|YarsRevenge|Zaxxon"
)


@dataclass(frozen=True)
class Registrar:
    """Registers environments when imported (`module`) or called (`module:function`), in a namespace, if any."""

    value: str
    namespace: str = ""

    @property
    def module(self) -> str:
        return self.value.partition(":")[0]


@dataclass(frozen=True)
class Package:
    """A well-known package. `ids`: a regular expression of its ids without version; it needs all `modules`."""

    ids: str
    modules: tuple[str, ...]
    registers: str
    requirement: str = ""  # for pip
    extra: str = ""  # or an extra of troupe's

    @property
    def installed(self) -> bool:
        return all(importlib.util.find_spec(module) for module in self.modules)

    @property
    def command(self) -> str:
        return command(self.extra) if self.extra else f"pip install {self.requirement}"


def _package(ids: str, module: str, requirement: str, registers: str = "") -> Package:
    return Package(ids, (module,), registers or module, requirement)


KNOWN = (
    Package(rf"ALE/.*|({_GAMES})(NoFrameskip|Deterministic)?", ("ale_py",), "ale_py", extra="atari"),
    Package(r"dm_control/.*", ("shimmy", "dm_control"), "shimmy", "'shimmy[dm-control]'"),
    _package(r"(MiniGrid|BabyAI)-.*", "minigrid", "minigrid"),
    _package(r"MiniWorld-.*", "miniworld", "miniworld"),
    _package(r"MinAtar/.*", "minatar", "minatar", "minatar.gym"),  # it declares an entry point
    _package(r"(Fetch|HandManipulate|HandReach|AdroitHand|AntMaze|PointMaze|FrankaKitchen).*", "gymnasium_robotics",
             "gymnasium-robotics"),
    _package(r"(exit|highway|intersection|lane-keeping|merge|parking|racetrack|roundabout|two-way|u-turn)(-.*)?",
             "highway_env", "highway-env"),
    _package(r"mo-.*|breakable-bottles|deep-sea-treasure(-.*)?|fishwood|four-room|fruit-tree|minecart(-.*)?|"
             r"resource-gathering|water-reservoir", "mo_gymnasium", "mo-gymnasium"),
    _package(r"popgym-.*", "popgym", "popgym"),
    _package(r"Panda.*", "panda_gym", "panda-gym"),
    _package(r".*BulletEnv", "pybullet_envs_gymnasium", "pybullet-envs-gymnasium"),
    _package(r"Meta-World/.*", "metaworld", "metaworld"),
    _package(r"gym_pusht/.*", "gym_pusht", "gym-pusht"),
    _package(r"gym_aloha/.*", "gym_aloha", "gym-aloha"),
    _package(r"gym_xarm/.*", "gym_xarm", "gym-xarm"),
    _package(r"PyFlyt/.*", "PyFlyt", "PyFlyt", "PyFlyt.gym_envs"),
    _package(r"Vizdoom.*", "vizdoom", "vizdoom", "vizdoom.gymnasium_wrapper"),
    _package(r"tetris_gymnasium/.*", "tetris_gymnasium", "tetris-gymnasium", "tetris_gymnasium.envs"),
    _package(r"FlappyBird", "flappy_bird_gymnasium", "flappy-bird-gymnasium"),
    _package(r"forex|stocks", "gym_anytrading", "gym-anytrading"),
    _package(r"(MultiDataset)?TradingEnv", "gym_trading_env", "gym-trading-env"),
    _package(r"sumo-rl", "sumo_rl", "sumo-rl"),
    _package(r"(Descent|PlanWaypoint|HorizontalCR|VerticalCR|SectorCR|StaticObstacle|Merge)Env", "bluesky_gym",
             "bluesky-gym", "bluesky_gym:register_envs"),
)  # fmt: skip


def known(name: str) -> list[Package]:
    """The well-known packages that have an environment of this name, in any version."""
    bare = re.sub(r"-v\d+$", "", name)
    return [package for package in KNOWN if re.fullmatch(package.ids, bare, re.IGNORECASE)]


def registrars(name: str, module: str = "") -> tuple[list[Registrar], list[Registrar]]:
    """The registrars that the id `name` refers to, and others that may register it; with `module`, only those of its
    package."""
    if module:
        mine = [Registrar(package.registers) for package in KNOWN if root(module) in package.modules]
        return [Registrar(module), *mine, *(each for each in _declared() if root(each.module) == root(module))], []
    namespace = name.partition("/")[0].lower() if "/" in name else ""
    asked = [Registrar(package.registers) for package in known(name) if package.installed]
    asked += [each for each in _declared() if namespace and each.namespace.lower() == namespace]
    return asked, [each for each in _declared() if not each.namespace]


_registered: dict[str, set[str]] = {}  # ids by package, as its import registered them


def load(registrar: Registrar) -> None:
    """Imports the module and calls its function, if any; raises what the package raises."""
    module, _, function = registrar.value.partition(":")
    before = set(gym.registry)
    with _namespace(registrar.namespace):
        loaded = importlib.import_module(module)
        if function:
            attrgetter(function)(loaded)()
    _registered.setdefault(root(module), set()).update(set(gym.registry) - before)


def ids_of(module: str) -> set[str]:
    """The ids that a package registered, or whose entry points it has."""
    makers = {key: spec.entry_point for key, spec in gym.registry.items()}
    makes = {key for key, maker in makers.items() if root(_module_of(maker)) == root(module)}
    return makes | (_registered.get(root(module), set()) & set(makers))


def missing(env_id: str, error: Exception) -> str:
    """The message for a registered environment that cannot be made because a package is missing."""
    module = _module_of(getattr(gym.registry.get(env_id.rpartition(":")[2]), "entry_point", ""))
    commands = [command(extra) for extra in _GYMNASIUM if extra in module.split(".")]
    commands += [
        package.command
        for package in KNOWN
        if root(module) in package.modules and (package.extra or not package.installed)
    ]
    return f"environment {env_id} needs a package that is not installed: {' or '.join(commands) or error}"


def pip_command(module: str) -> str:
    """What installs a missing module: of a package that is not known, its name is taken for the module's."""
    return next((each.command for each in KNOWN if root(module) in each.modules), f"pip install {root(module)}")


def root(module: str) -> str:
    return module.partition(".")[0]


def _declared() -> Iterator[Registrar]:
    """Entry points of installed packages; an entry point's name is the namespace of its ids."""
    for group in _GROUPS:
        for entry in entry_points(group=group):
            at_root = group != _GROUPS[0] or re.fullmatch("__.*__", entry.name)
            yield Registrar(entry.value.partition("[")[0].strip(), "" if at_root else entry.name)


def _module_of(entry_point: object) -> str:
    if isinstance(entry_point, str):
        return entry_point.partition(":")[0]
    return str(getattr(getattr(entry_point, "func", entry_point), "__module__", ""))


@contextmanager
def _namespace(name: str) -> Iterator[None]:
    """Sets Gymnasium's current namespace, whose own context manager does not reset it after an error."""
    before, registration.current_namespace = registration.current_namespace, name or registration.current_namespace
    try:
        yield
    finally:
        registration.current_namespace = before
