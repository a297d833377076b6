"""Atari games: ale-py's own vector version, and single emulators that play the same game frame for frame.

Observations are the four newest gray frames [84, 84, 4], the newest last. A step is `frame_skip` frames, and shows the
maximum of the last two (Mnih et al. 2015). Rewards are raw, and an episode is a whole game.
"""

import re
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation, TransformObservation

from troupe.config import Environment, UsageError
from troupe.environments.packing import Packing
from troupe.environments.stepping.vector import VectorEnvironment

ONLY_HERE = ("threads", "protocol", "sticky", "episodic_life", "fire_reset", "noops", "frame_skip")  # of Environment
ARGUMENTS = ("mode", "difficulty", "full_action_space")  # of ale-py's environment; single emulators take them
MAX_FRAMES = 108_000  # half an hour of play, after which a game is truncated (Machado et al. 2018)
_FRAMES_PER_SECOND = 60
_STACK, _SIZE = 4, 84
SPACE = gym.spaces.Box(0, 255, (_SIZE, _SIZE, _STACK), np.uint8)
_OLD_NAME = re.compile(r"(\w+?)(NoFrameskip|Deterministic)?-v\d+")


def register() -> None:
    """Imports ale-py, which registers the games with Gymnasium; without ale-py nothing happens."""
    with suppress(ImportError):
        import ale_py

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner


def is_game(spec: gym.envs.registration.EnvSpec) -> bool:
    """Whether it is an Atari game. Raises UsageError, with the new name, for an old name."""
    if is_old(spec):
        name = new_name(spec.id)
        raise UsageError(
            f"'{spec.id}' is an old name: write {name} (env.sticky and env.frame_skip say how it is played)"
        )
    return spec.id.startswith("ALE/")


def is_old(spec: gym.envs.registration.EnvSpec) -> bool:
    return spec.entry_point == "ale_py.env:AtariEnv" and _OLD_NAME.fullmatch(spec.id) is not None


def new_name(name: str) -> str:
    """Pong-v5 or PongNoFrameskip-v4 as ALE/Pong-v5."""
    match = _OLD_NAME.fullmatch(name)
    return f"ALE/{match[1]}-v5" if match else name


def batch(game: str, count: int, config: Environment) -> VectorEnv[Any, Any, Any]:
    """ale-py's vector version: emulators in C++ threads."""
    register()
    from ale_py.vector_env import AtariVectorEnv

    return AtariVectorEnv(
        game,
        count,
        num_threads=max(1, config.threads),
        max_num_frames_per_episode=MAX_FRAMES,
        repeat_action_probability=config.sticky,
        autoreset_mode=AutoresetMode.NEXT_STEP,
        img_height=_SIZE,
        img_width=_SIZE,
        stack_num=_STACK,
        frameskip=config.frame_skip,
        noop_max=config.noops + 1,  # it draws from 0 to noop_max - 1
        use_fire_reset=config.fire_reset,
        episodic_life=False,
        reward_clipping=False,
    )


def single(env_id: str, config: Environment | None = None, **asked: Any) -> gym.Env[Any, Any]:
    """One emulator, made with the arguments `asked`; it renders in colour."""
    register()
    config = config or Environment()
    env: gym.Env[Any, Any] = gym.make(
        env_id,
        disable_env_checker=True,
        frameskip=1,
        repeat_action_probability=config.sticky,
        max_num_frames_per_episode=0,  # no limit: `Games` has one that does not count the frames before a game
        **asked,
    )
    env = Games(env, config)
    env = AtariPreprocessing(env, noop_max=0, frame_skip=config.frame_skip, screen_size=_SIZE)
    env = FrameStackObservation(env, _STACK, padding_type="zero")
    env = TransformObservation(env, lambda frames: np.moveaxis(frames, 0, -1), SPACE)
    env.metadata = env.metadata | {"render_fps": _FRAMES_PER_SECOND / config.frame_skip}
    return env


class Games(gym.Wrapper[Any, Any, Any, Any]):
    """Starts and truncates games as ale-py's vector version does, with the same random numbers.

    One step is one frame. See src/ale/vector/preprocessed_env.cpp in ale-py.
    """

    def __init__(self, env: gym.Env[Any, Any], config: Environment):
        super().__init__(env)
        self._ale, self._load = env.get_wrapper_attr("ale"), env.get_wrapper_attr("load_game")
        self._fires = config.fire_reset and "FIRE" in env.get_wrapper_attr("get_action_meanings")()
        self._most_noops = config.noops
        self._random = np.random.RandomState()
        self._frames = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Without a seed, the next game of the same random stream."""
        from ale_py import Action

        if seed is not None:
            seed = emulator_seed(seed)
            self._random = np.random.RandomState(seed)
            self._ale.setInt("random_seed", seed)
            self._load()  # the emulator reads the seed when it loads the game
        _, info = self.env.reset(options=options)
        noops = _below(self._most_noops + 1, self._random)
        if self._fires:
            self._ale.act(Action.FIRE)
            noops -= 1
        for _ in range(noops):
            self._ale.act(Action.NOOP)  # not by step: a few games lack NOOP among their actions
            if self._ale.game_over():
                self._ale.reset_game()
        self._frames = 0
        return self._ale.getScreenRGB(), info | {"lives": self._ale.lives()}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, _, info = self.env.step(action)
        self._frames += 1
        return obs, reward, terminated, self._frames >= MAX_FRAMES and not terminated, info


class AtariEnvironment(VectorEnvironment):
    """ale-py's vector version: between `send` and `receive` the emulators step while the caller does other work.

    Every emulator has its own random stream, so the number of threads does not change the games.
    """

    _vector: Any

    def __init__(self, vector: VectorEnv[Any, Any, Any], *what: Any, **how: Any):
        super().__init__(vector, *what, **how)
        assert not self._packing.masked, "no game has action masks"
        self.observation_space = SPACE
        self._packing = Packing(SPACE, self._actions)
        self._frames = Frames(self.count)

    def _begin(self, seeds: np.ndarray) -> Any:
        if self._asked:  # the result is not needed, but must be received before the next call
            self._vector.recv()
        obs, info = self._vector.reset(seed=np.array([emulator_seed(int(seed)) for seed in seeds]))
        return self._frames.begin(obs), info

    def _ask(self, action: np.ndarray) -> None:
        self._vector.send(action)

    def _answer(self) -> Any:
        obs, reward, terminated, truncated, info = self._vector.recv()
        return self._frames.push(obs, terminated | truncated), reward, terminated, truncated, info


class Frames:
    """Stacks the last four frames with channels last, [games, 84, 84, 4], which convolutions read fastest.

    ale-py returns them with channels first, and three of the four are known, so only the newest is copied. A pixel's
    four bytes are one word, whose lowest byte is the oldest frame.
    """

    def __init__(self, games: int):
        self._pixels = np.zeros((games, *SPACE.shape), np.uint8)
        self._words = self._pixels.view("<u4")[..., 0]
        self._ended = np.zeros(games, np.bool_)

    def begin(self, obs: np.ndarray) -> np.ndarray:
        """All frames [games, 4, 84, 84] after a reset -> [games, 84, 84, 4]."""
        self._pixels[:] = np.moveaxis(obs, 1, -1)
        self._ended[:] = False
        return self._pixels

    def push(self, obs: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """Adds the newest of the frames [games, 4, 84, 84]; takes all four of games that have just begun. The next call
        overwrites what this one returns."""
        self._words >>= 8
        self._pixels[..., -1] = obs[:, -1]
        self._pixels[self._ended] = np.moveaxis(obs[self._ended], 1, -1)
        self._ended[:] = ended
        return self._pixels


def emulator_seed(seed: int) -> int:
    """A seed of 31 bits, which is what emulators take."""
    return seed & 0x7FFFFFFF


def _below(bound: int, random: np.random.RandomState) -> int:
    """A random integer from 0 to bound - 1, as std::uniform_int_distribution of libstdc++ draws it (Lemire 2019)."""
    while True:
        product = int(random.randint(0, 2**32, dtype=np.uint32)) * bound
        if product % 2**32 >= 2**32 % bound:
            return product >> 32
