"""Steps/s of Stable-Baselines3's A2C on Pong: Nature's network, one pass, float32; what one would pick instead.

Run it with a Python of its own: pip install torch==2.13.0 stable-baselines3 ale-py opencv-python-headless
"""

import json
import sys
import time

import ale_py
import gymnasium as gym
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecFrameStack

gym.register_envs(ale_py)
ENVIRONMENTS, SECONDS = 16, 60


class Steady(BaseCallback):
    """Counts steps from a while after the start until the time is up."""

    def _on_training_start(self) -> None:
        self.began, self.first, self.rate = time.perf_counter(), 0, 0.0

    def _on_step(self) -> bool:
        elapsed = time.perf_counter() - self.began
        if not self.first and elapsed > SECONDS / 6:
            self.first, self.since = self.num_timesteps, elapsed
        if elapsed > SECONDS:
            self.rate = (self.num_timesteps - self.first) / (elapsed - self.since)
        return not self.rate


if __name__ == "__main__":
    processes = {"vec_env_cls": SubprocVecEnv} if "subproc" in sys.argv else {}
    vector = VecFrameStack(make_atari_env("PongNoFrameskip-v4", ENVIRONMENTS, seed=1, **processes), 4)
    steady = Steady()
    A2C("CnnPolicy", vector, device="cpu").learn(10**9, callback=steady)
    print(json.dumps({"program": "SB3 A2C", "vector": "subproc" if processes else "sync", "steps_per_s": steady.rate}))
    vector.close()
