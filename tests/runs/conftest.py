"""What the tests of several runs have in common."""

import pytest


@pytest.fixture
def world_where(tmp_path):
    """Makes a CartPole that does `what` in the runs of these folders."""

    def make(what, *folders):
        (tmp_path / "world.py").write_text(
            "import gymnasium as gym, os, pathlib, signal\n"
            "class World(gym.Wrapper):\n"
            "    def __init__(self):\n"
            "        super().__init__(gym.make('CartPole-v1'))\n"
            "    def step(self, action):\n"
            f"        for run in map(pathlib.Path('out').joinpath, {folders!r}):\n"
            "            if run.exists() and not (run / 'summary.json').exists():\n"
            f"                {what}\n"
            "        return super().step(action)\n"
        )
        return "world.py:World"

    return make
