"""Other programs on the same machine: CartPole-v1 until 475 is confirmed, and steps/s of Pong.

python benchmarks/others.py cartpole [PROGRAM ...] [--seeds 11,12]   results are added to what is in the file already
python benchmarks/others.py pong [subproc]                           Stable-Baselines3's A2C: Nature's network, float32

CartPole-v1 has one rule for all: 20 greedy episodes every 2,500 steps; where their mean is 475, 100 others must confirm
it (their mean less two standard errors); evaluations do not count as training time. The policy that comes out is
evaluated once more, by the same function for all. Limits: 500,000 steps and 150 s of training (the RL Zoo's PPO: its
own 100,000 steps, over which its learning rate and its clip range fall to 0). troupe's evaluations have at most a tenth
of its time, so that a fast run has fewer of them. CleanRL is left out: its releases since 0.5 need Python below 3.11.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from common import RESULTS, troupe, write

SEEDS = range(11, 21)  # 1 to 10 had a part in choosing troupe's settings for CartPole-v1
TARGET, EVERY_STEPS, EPISODES, CONFIRMING_EPISODES = 475.0, 2_500, 20, 100
STEPS, SECONDS = 500_000, 150.0

RULE = [
    "--target", str(TARGET), "--steps", str(STEPS), "--time", f"{SECONDS}s",
    "--evaluation.every_steps", str(EVERY_STEPS), "--evaluation.every_seconds", "0",
    "--evaluation.episodes", str(EPISODES), "--evaluation.final_episodes", str(CONFIRMING_EPISODES),
]  # fmt: skip
OURS = {
    "troupe appo, tuned for CartPole-v1": ["--preset", "appo"],
    "troupe appo, --untuned": ["--preset", "appo", "--untuned"],
    "troupe impala, tuned for CartPole-v1": ["--preset", "impala"],
    "troupe impala, --untuned": ["--preset", "impala", "--untuned"],
}
# algorithm, environments, steps, arguments. "zoo" is hyperparams/ppo.yml and a2c.yml of rl_zoo3 2.9.2.
Settings = tuple[str, int, int, dict[str, Any]]
THEIRS: dict[str, Settings] = {
    "SB3 PPO, RL Zoo": ("PPO", 8, 100_000, {
        "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20, "ent_coef": 0.0,
        "learning_rate": lambda left: 1e-3 * left, "clip_range": lambda left: 0.2 * left,
    }),
    "SB3 PPO, defaults": ("PPO", 1, STEPS, {}),
    "SB3 A2C, RL Zoo": ("A2C", 8, STEPS, {"ent_coef": 0.0}),
    "SB3 A2C, defaults": ("A2C", 1, STEPS, {}),
}  # fmt: skip


def greedy_returns(act: Callable[[np.ndarray], np.ndarray], episodes: int, seed: int) -> list[float]:
    """The returns of one episode in each of `episodes` environments; act: [N, 4] -> [N]."""
    environments = [gym.make("CartPole-v1") for _ in range(episodes)]
    observations = np.stack([environment.reset(seed=seed + k)[0] for k, environment in enumerate(environments)])
    returns, running = np.zeros(episodes), np.ones(episodes, bool)
    while running.any():
        actions = act(observations)
        for k in np.flatnonzero(running):
            observations[k], reward, terminated, truncated, _ = environments[k].step(int(actions[k]))
            returns[k] += float(reward)
            running[k] = not (terminated or truncated)
    return [float(each) for each in returns]


def train_theirs(program: str, seed: int) -> dict[str, Any]:
    import stable_baselines3
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)  # faster than two for networks of this size, and what troupe uses
    algorithm, environments, steps, arguments = THEIRS[program]

    class UntilConfirmed(BaseCallback):
        outcome, next_steps, seconds = "steps", EVERY_STEPS, 0.0

        def _on_training_start(self) -> None:
            self.since = time.perf_counter()

        def _reached(self, episodes: int, purpose: int, errors: int) -> bool:
            first = seed * 10_000_000 + purpose * 5_000_000 + self.num_timesteps  # fresh episodes at each evaluation
            returns = greedy_returns(act, episodes, first)
            return statistics.mean(returns) - errors * statistics.stdev(returns) / episodes**0.5 >= TARGET

        def _on_step(self) -> bool:
            if self.num_timesteps < self.next_steps:
                return True
            self.seconds += time.perf_counter() - self.since
            self.next_steps += EVERY_STEPS
            if self._reached(EPISODES, 0, errors=0) and self._reached(CONFIRMING_EPISODES, 1, errors=2):
                self.outcome = "solved"
            elif self.seconds > SECONDS:
                self.outcome = "time"
            self.since = time.perf_counter()
            return self.outcome == "steps"

    made = make_vec_env("CartPole-v1", environments, seed=seed)
    model = getattr(stable_baselines3, algorithm)("MlpPolicy", made, seed=seed, device="cpu", **arguments)

    def act(observations: np.ndarray) -> np.ndarray:
        actions: np.ndarray = model.predict(observations, deterministic=True)[0]
        return actions

    until = UntilConfirmed()
    model.learn(steps, callback=until)
    if until.outcome == "steps":
        until.seconds += time.perf_counter() - until.since
    return {
        "outcome": until.outcome,
        "steps": model.num_timesteps,
        "training_seconds": round(until.seconds, 2),
        "mean_return": statistics.mean(greedy_returns(act, CONFIRMING_EPISODES, 900_000_000)),
    }


def train_ours(program: str, seed: int) -> dict[str, Any]:
    from troupe import load

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = ["train", "CartPole-v1", *OURS[program], *RULE, "--seed", str(seed), "--run-dir", str(run)]
        _, seconds = troupe(*command)
        summary = json.loads((run / "summary.json").read_text())
        returns = greedy_returns(load(run).act, CONFIRMING_EPISODES, 900_000_000)
    kept = {key: summary[key] for key in ("outcome", "steps", "training_seconds")}
    return kept | {"mean_return": statistics.mean(returns), "command_seconds": round(seconds, 2)}


def train(program: str, seed: int) -> dict[str, Any]:
    if program in OURS:
        return {"seed": seed} | train_ours(program, seed)
    began = time.perf_counter()  # in a process of its own, so that its start is measured, too
    done = subprocess.run([sys.executable, __file__, "one", program, str(seed)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{program} failed:\n{done.stderr}")
    spent = round(time.perf_counter() - began, 2)
    return {"seed": seed} | json.loads(done.stdout.splitlines()[-1]) | {"command_seconds": spent}


def settings_of(program: str) -> str:
    if program in OURS:
        return " ".join(["troupe train CartPole-v1", *OURS[program], *RULE])
    algorithm, environments, steps, arguments = THEIRS[program]
    shown = {key: "linear to 0" if callable(value) else value for key, value in arguments.items()}
    return f"{algorithm}('MlpPolicy'), {environments} environments, {steps} steps, {shown or 'defaults'}"


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    solved = [run for run in runs if run["outcome"] == "solved"]
    medians = ("steps", "training_seconds", "command_seconds")
    return {
        "solved": len(solved),
        "lowest": min(run["mean_return"] for run in runs),
        **{f"median_{name}": statistics.median(run[name] for run in runs) for name in medians},
        "longest_training_seconds": max(run["training_seconds"] for run in runs),
    }


def cartpole(programs: list[str], seeds: list[int]) -> None:
    file = RESULTS / "others-cartpole.json"
    results: dict[str, Any] = json.loads(file.read_text())["programs"] if file.exists() else {}
    for program in programs or [*OURS, *THEIRS]:
        done = {run["seed"]: run for run in results.get(program, {"runs": []})["runs"]}
        for seed in seeds:
            done[seed] = train(program, seed)
            print(program, done[seed], flush=True)
            runs = [done[each] for each in sorted(done)]
            results[program] = {"settings": settings_of(program), **summary(runs), "runs": runs}
            write(file.stem, {"command": "python benchmarks/others.py cartpole", "programs": results})


def pong(vector: str) -> None:
    """Steps/s of A2C over the last five sixths of a minute, with 16 environments."""
    import ale_py
    from stable_baselines3 import A2C
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import SubprocVecEnv, VecFrameStack

    seconds = 60

    class Steady(BaseCallback):
        def _on_training_start(self) -> None:
            self.began, self.first, self.rate = time.perf_counter(), 0, 0.0

        def _on_step(self) -> bool:
            elapsed = time.perf_counter() - self.began
            if not self.first and elapsed > seconds / 6:
                self.first, self.since = self.num_timesteps, elapsed
            if elapsed > seconds:
                self.rate = (self.num_timesteps - self.first) / (elapsed - self.since)
            return not self.rate

    gym.register_envs(ale_py)
    processes = {"vec_env_cls": SubprocVecEnv} if vector == "subproc" else {}
    environments = VecFrameStack(make_atari_env("PongNoFrameskip-v4", 16, seed=1, **processes), 4)
    steady = Steady()
    A2C("CnnPolicy", environments, device="cpu").learn(10**9, callback=steady)
    print(json.dumps({"program": "SB3 A2C", "vector": vector, "steps_per_s": steady.rate}))
    environments.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cartpole", "pong", "one"])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[*SEEDS])
    asked = parser.parse_args()
    if asked.what == "cartpole":
        cartpole(asked.names, asked.seeds)
    elif asked.what == "pong":
        pong(asked.names[0] if asked.names else "sync")
    else:
        print(json.dumps(train_theirs(asked.names[0], int(asked.names[1]))))
