"""The agent that `load` gives back: its answers, its errors, and that nothing of a run is executed."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

import troupe
from troupe import UsageError
from troupe.agent import Agent
from troupe.config import Network, TrainConfig
from troupe.networks.actor_critic import build, wrap

SMALL = {"actor.count": 1, "actor.environments": 2, "evaluation.final_episodes": 2, "stop.target": "none"}


class Table(nn.Module):
    """Prefers action 1 where the first number of the observation is positive, else action 0; values it so."""

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = obs.flatten(1)[:, 0].float()
        return torch.stack([-x, x], 1), x


def agent(shape: tuple[int, ...] = (3,), start: int = 0) -> Agent:
    spaces = gym.spaces.Box(-9, 9, shape, np.float32), gym.spaces.Discrete(2, start=start)
    return Agent(wrap(Table(), *spaces, Network()), *spaces)


def test_one_observation_gives_one_action_and_a_batch_an_array():
    assert agent().act(np.array([5.0, 0, 0])) == 1
    assert agent().act([-5.0, 0, 0]) == 0
    assert agent().act(np.array([[5.0, 0, 0], [-5, 0, 0], [1, 0, 0]])).tolist() == [1, 0, 1]
    assert agent().act(np.zeros((0, 3))).tolist() == []


@pytest.mark.parametrize(("space", "observation", "message"), [
    (gym.spaces.Box(-1, 1, (2,)), [0.0, np.nan], "the observation holds nan"),
    (gym.spaces.Box(-1, 1, (2,)), [[0.0, 0.0], [np.inf, 0.0]], "the observation 1 of 2 holds inf"),
    (gym.spaces.Discrete(2), 5, r"the observation holds 5, which is not in Discrete\(2\)"),
    (gym.spaces.Discrete(2), [0, 1, -1], r"the observation 2 of 3 holds -1, which is not in Discrete\(2\)"),
    (gym.spaces.Discrete(2), 0.5, r"the observation holds 0\.5, which does not fit its space's dtype \(int64\)"),
    (gym.spaces.Discrete(2), [0.0, np.nan], r"the observation holds nan, which does not fit its space's dtype \(int6"),
    (gym.spaces.MultiDiscrete([2, 3]), [1, 3], "the observation holds 3, which is not in MultiDiscrete"),
    (gym.spaces.Dict(a=gym.spaces.Discrete(2), b=gym.spaces.Box(0, 1, (1,))), {"a": 1, "b": [np.nan]},
     r"the observation\['b'\] holds nan"),
    (gym.spaces.Dict(a=gym.spaces.Discrete(2), b=gym.spaces.Box(0, 1, (1,))), {"a": 2, "b": [0.0]},
     r"the observation\['a'\] holds 2"),
])  # fmt: skip
def test_an_observation_that_its_space_does_not_have_is_one_line(space, observation, message):
    choice = gym.spaces.Discrete(2)
    asked = Agent(build(space, choice, Network(hidden=(4,))), space, choice)
    with pytest.raises(UsageError, match=f"^{message}") as raised:
        asked.act(observation)
    assert "\n" not in str(raised.value)


class Unsorted(gym.Env):
    """Its spaces have their entries in another order than that of the alphabet, as those made by keywords do."""

    observation_space = gym.spaces.Dict(where=gym.spaces.Box(-1, 1, (2,)), card=gym.spaces.Discrete(4, start=1))
    action_space = gym.spaces.Dict(turn=gym.spaces.Discrete(2), go=gym.spaces.MultiDiscrete([3, 2]))

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return self._obs(), {}

    def step(self, action):
        self.steps += 1
        reward = action["turn"] - self.steps * action["go"][0] + 0.1 * action["go"][1]
        return self._obs(), float(reward), self.steps == 5, False, {}

    def _obs(self):
        return {"where": np.array([np.cos(self.steps), 0.5], np.float32), "card": np.int64(1 + self.steps % 4)}


def test_entries_of_a_space_keep_their_order_in_a_saved_run(tmp_path):
    run = troupe.train(Unsorted, steps=64, seed=3, settings=SMALL | {"topology": "serial"}, run_dir=tmp_path / "run")
    loaded = troupe.load(run.path)
    assert list(loaded.observation_space.spaces) == ["where", "card"]
    assert list(loaded.action_space.spaces) == ["turn", "go"]
    assert troupe.evaluate(run.path, episodes=2, env=Unsorted).mean == run.scores.mean


class Riddle(gym.Env):
    """Nested observations and actions; a mask of the action's card, which forbids all when the episode is over."""

    observation_space = gym.spaces.Dict(
        number=gym.spaces.Box(-1, 1, (2,)),
        rest=gym.spaces.Tuple([gym.spaces.Discrete(3, start=5), gym.spaces.MultiBinary(2)]),
    )
    action_space = gym.spaces.Dict(box=gym.spaces.Box(-3, 3, (1,)), card=gym.spaces.Discrete(3))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(2, 5))
        return self._ask()

    def step(self, action):
        self.left -= 1
        assert action in self.action_space
        assert self.allowed[action["card"]]
        obs, info = self._ask()
        return obs, 1.0, self.left == 0, False, info

    def _ask(self):
        rng = self.np_random
        self.allowed = rng.permutation([0, 1, 1] if self.left else [0, 0, 0])
        number, bits = rng.uniform(-1, 1, 2).astype(np.float32), rng.integers(0, 2, 2).astype(np.int8)
        return {"number": number, "rest": (5 + rng.integers(3), bits)}, {"action_mask": self.allowed}


@pytest.mark.parametrize("core", ["none", "lstm"])
def test_a_batch_of_nested_observations_is_answered_as_each_of_them(core):
    spaces = Riddle.observation_space, Riddle.action_space
    torch.manual_seed(0)
    asked = Agent(build(*spaces, Network(hidden=(8,), core=core, core_units=8), "info").eval(), *spaces)
    singles = [asked.session() for _ in range(3)]
    vector = troupe.make_vector(Riddle, 3)
    obs, info = vector.reset(seed=4)
    ended, state, episodes = np.ones(3, bool), None, 0
    for _ in range(12):
        masks = info["action_mask"]
        asked.reset(ended)
        actions = asked.act(obs, mask=masks, greedy=True)
        predicted, state = asked.predict(obs, state, ended, deterministic=True, mask=masks)
        for number, single in enumerate(singles):
            one = {"number": obs["number"][number], "rest": tuple(part[number] for part in obs["rest"])}
            if ended[number]:
                single.reset()
            alone = single.act(one, mask=masks[number] if masks[number].any() else None, greedy=True)
            for name in ("box", "card"):
                assert np.allclose(actions[name][number], alone[name], atol=1e-6)
                assert np.array_equal(actions[name][number], predicted[name][number])
        over = ended
        obs, _, ended, _, info = vector.step(actions)
        episodes += (ended & ~over).sum()
    assert actions["box"].shape == (3, 1)
    assert episodes > 3
    vector.close()


@pytest.mark.parametrize(("changed", "message"), [
    ({"number": np.zeros(2)}, r"the observations are neither one nor a batch: \['number'\] \(2,\), \['rest'\]"),
    ({"number": np.zeros((4, 2))}, r"the observations are neither one nor a batch: \['number'\] \(4, 2\)"),
    ({"number": np.zeros((3, 3))}, r"observation\['number'\] has shape \(3, 3\); the agent was trained on \(2,\), or"),
    ({"rest": ([5, 5, 9], np.zeros((3, 2)))}, r"the observation\['rest'\]\[0\] 2 of 3 holds 9, which is not in Disc"),
    ({"rest": ([5, 5.5, 5], np.zeros((3, 2)))}, r"the observation\['rest'\]\[0\] holds 5.5, which does not fit"),
])  # fmt: skip
def test_a_nested_batch_that_does_not_fit_is_one_line(changed, message):
    spaces = Riddle.observation_space, Riddle.action_space
    asked = Agent(build(*spaces, Network(hidden=(4,)), "info"), *spaces)
    fits = {"number": np.zeros((3, 2)), "rest": (np.full(3, 5), np.zeros((3, 2)))}
    assert asked.act(fits)["card"].shape == (3,)
    with pytest.raises(UsageError, match=f"^{message}"):
        asked.act(fits | changed)
    with pytest.raises(UsageError, match=r"^action_mask has 2 entries, expected 3"):
        asked.act(fits, mask=np.ones((3, 2)))


def test_a_batch_of_plain_observations_may_have_masks():
    spaces = gym.spaces.Box(-9, 9, (3,), np.float32), gym.spaces.Discrete(2)
    asked = Agent(wrap(Table(), *spaces, Network(), "info"), *spaces)
    observations, masks = np.array([[5.0, 0, 0], [5, 0, 0], [-5, 0, 0]]), np.array([[1, 1], [1, 0], [0, 0]])
    assert asked.act(observations, mask=masks).tolist() == [1, 0, 0]
    assert asked.act(observations[1], mask=masks[1]) == 0


def test_actions_count_from_the_start_of_their_space():
    assert agent(start=5).act([[5.0, 0, 0], [-5.0, 0, 0]]).tolist() == [6, 5]


def test_sampling_follows_the_probabilities():
    actions = agent().act(np.full((4000, 3), 0.5), greedy=False)
    expected = 1 / (1 + np.exp(-1.0))
    assert abs(actions.mean() - expected) < 6 * np.sqrt(expected * (1 - expected) / 4000)


def test_distribution_gives_probabilities_and_the_value():
    probabilities, value = agent().distribution([0.5, 0, 0])
    assert probabilities == pytest.approx([1 / (1 + np.e), np.e / (1 + np.e)])
    assert value == 0.5


@pytest.mark.parametrize("wrong", [np.zeros(4), np.zeros((2, 4)), np.zeros((2, 2, 3)), 1.0, np.zeros((3, 1))])
def test_a_wrong_shape_is_named_with_the_right_one(wrong):
    with pytest.raises(UsageError, match=r"observation has shape .*; the agent was trained on \(3,\)"):
        agent().act(wrong)


@pytest.mark.parametrize("wrong", ["left", [[1.0], [2.0, 3.0]], None, {"x": 1}])
def test_what_are_no_numbers_is_named(wrong):
    with pytest.raises(UsageError, match="observation"):
        agent().act(wrong)


# What it is asked


def recurrent(core: str = "lstm", **settings) -> Agent:
    torch.manual_seed(0)
    spaces = gym.spaces.Box(-1, 1, (3,), np.float32), gym.spaces.Discrete(2)
    network = build(*spaces, Network(core=core, core_units=4, hidden=(4,), **settings)).eval()
    return Agent(network, *spaces, greedy=False, about={"run": "one"}, config=TrainConfig(seed=3))


def test_a_session_is_the_same_agent_with_a_state_of_its_own():
    one, ones = recurrent(), np.ones(3)
    begun = one.distribution(ones)[1]
    one.act(ones)
    other = one.session()
    assert (other.network, other.greedy, other.about, other.config) == (one.network, False, one.about, one.config)
    assert (other.observation_space, other.action_space) == (one.observation_space, one.action_space)
    assert other.distribution(ones)[1] == begun != one.distribution(ones)[1]
    other.act(ones)
    assert other.distribution(ones)[1] == one.distribution(ones)[1]
    one.reset()
    assert other.distribution(ones)[1] != one.distribution(ones)[1] == begun


def test_an_agent_made_by_hand_is_greedy_and_comes_from_no_run(tmp_path):
    made = agent()
    assert (made.greedy, made.about, made.config, made.reads_rewards) == (True, {}, None, False)
    assert {made.act(np.zeros(3) + 0.5) for _ in range(50)} == {1}
    assert {made.act(np.zeros(3) + 0.1, greedy=False) for _ in range(50)} == {0, 1}
    made.greedy = False
    assert {made.act(np.zeros(3) + 0.1) for _ in range(50)} == {0, 1}
    assert {made.act(np.zeros(3) + 0.1, greedy=True) for _ in range(50)} == {1}
    with pytest.raises(UsageError, match="only the agent of a run can be saved"):
        made.save(tmp_path / "agent.safetensors")


@pytest.mark.parametrize("ended", [[False, True, False], [1], np.array([1])])
def test_in_a_batch_only_those_whose_episode_ended_forget(ended):
    one, batch = recurrent("gru"), np.ones((3, 3))
    one.reset(ended)  # before anything was seen it changes nothing
    begun = np.array([one.distribution(row)[1] for row in batch])
    one.act(batch)
    remembered = values(one, batch)
    one.reset(ended)
    assert values(one, batch) == pytest.approx([remembered[0], begun[1], remembered[2]])
    one.act(batch)
    later = values(one, batch)
    assert later[1] == pytest.approx(remembered[1])
    assert abs(later[0] - remembered[1]) > 1e-4 < abs(remembered[1] - begun[1])


def values(one: Agent, batch: np.ndarray, reward: list[float] | None = None) -> np.ndarray:
    """Of all rows, as the agent's state is now."""
    with torch.inference_mode():
        return one._output(batch, None, reward).value.numpy()


def test_the_action_before_and_its_reward_are_what_the_next_one_is_chosen_by():
    one = recurrent(core_inputs=True)
    assert one.reads_rewards
    seen = np.zeros((2, 3))
    one.act(seen)
    low, high = (values(one, seen, [reward, 0.0]) for reward in (0.0, 5.0))
    assert low[0] != high[0]
    assert low[1] == high[1]
    for count, words in ((1, "1 observation for a recurrent agent in the middle of 2: "), (3, "3 observations for")):
        with pytest.raises(UsageError, match=f"^{words}"):
            one.act(np.zeros((count, 3)), reward=[0.0] * count)
    with pytest.raises(UsageError, match="reads the reward of the last step"):
        one.act(seen)
    for wrong in ("much", [1.0], [[1.0], [2.0, 3.0]]):
        with pytest.raises(UsageError, match=r"expected a number for each of 2$"):
            one.act(seen, reward=wrong)
    one.reset([True, True])  # so there is no action before
    one.act(seen)


def test_the_probabilities_of_each_choice_are_given_in_the_order_of_the_action():
    actions = gym.spaces.Dict(a=gym.spaces.Discrete(3), b=gym.spaces.Box(-1, 1, (2,)), c=gym.spaces.MultiBinary(2))
    space = gym.spaces.Box(-1, 1, (2,))
    several = Agent(build(space, actions, Network(hidden=(4,))), space, actions)
    probabilities, value = several.distribution(np.zeros(2))
    assert probabilities is None
    assert isinstance(value, float)
    choices = several.choice_probabilities(np.zeros(2))
    assert [len(each) for each in choices] == [3, 2, 2]
    assert [each.sum() for each in choices] == pytest.approx([1, 1, 1])
    (only,) = agent().choice_probabilities([0.5, 0, 0])
    assert only.tolist() == agent().distribution([0.5, 0, 0])[0].tolist()


@pytest.mark.parametrize("where", ["info", "observation"])
def test_what_a_mask_forbids_is_never_chosen_and_a_mask_that_forbids_all_is_refused_but_at_an_episodes_end(where):
    space: gym.Space = gym.spaces.Dict(x=gym.spaces.Box(-1, 1, (2,)))
    if where == "observation":
        space = gym.spaces.Dict(x=gym.spaces.Box(-1, 1, (2,)), action_mask=gym.spaces.MultiBinary(3))
    actions = gym.spaces.Discrete(3, start=2)
    one = Agent(build(space, actions, Network(hidden=(4,)), where), space, actions, greedy=False)

    def given(mask):
        if where == "info":
            return {"observation": {"x": np.zeros(2)}, "mask": mask}
        return {"observation": {"x": np.zeros(2), "action_mask": mask}}

    assert {one.act(**given(np.array([1, 0, 1]))) for _ in range(60)} == {2, 4}
    probabilities = one.distribution(**given(np.array([1, 0, 1])))[0]
    assert probabilities[1] == 0
    none = given(np.array([0, 0, 0]))
    assert (one.distribution(**none)[0] > 0).all()
    assert (one.choice_probabilities(**none)[0] > 0).all()
    with pytest.raises(UsageError, match=r"^action_mask forbids every action$"):
        one.act(**none)
    for wrong in (np.array([1, 0]), "some"):
        with pytest.raises(UsageError, match=r"^action_mask "):
            one.act(**given(wrong))
    if where == "info":
        assert {one.act({"x": np.zeros(2)}) for _ in range(90)} == {2, 3, 4}


@pytest.mark.parametrize(
    ("observation", "what"),
    [({}, "KeyError|'x'"), (3, "not subscriptable|'int'"), ({"x": np.zeros(3)}, "shape"), ({"x": "far"}, "far")],
)
def test_a_nested_observation_that_does_not_fit_is_refused_in_a_line(observation, what):
    space = gym.spaces.Dict(x=gym.spaces.Box(-1, 1, (2,)))
    one = Agent(build(space, gym.spaces.Discrete(2), Network(hidden=(4,))), space, gym.spaces.Discrete(2))
    with pytest.raises(UsageError, match=what) as raised:
        one.act(observation)
    assert "\n" not in str(raised.value)


def test_whole_numbers_are_taken_where_the_space_has_fractions_and_choices_one_or_many_at_a_time():
    assert agent().act([5, 0, 0]) == 1
    space = gym.spaces.Discrete(5)
    one = Agent(build(space, space, Network(hidden=(4,))), space, space)
    assert one.act(3) == one.act(np.int8(3)) == one.act([3])[0]
    assert one.act([0, 1, 2, 3]).shape == (4,)
    with pytest.raises(UsageError, match=r"has shape \(1, 1\); the agent was trained on \(\), or \[N, \.\.\.\] of it$"):
        one.act([[3]])


class Own(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.body, self.policy, self.value = nn.Linear(2, width), nn.Linear(width, 2), nn.Linear(width, 1)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.tanh(self.body(obs.float()))
        return self.policy(features), self.value(features).squeeze(-1)


@pytest.fixture(scope="module")
def own_run(tmp_path_factory, pays):
    class Two(pays):
        observation_space = gym.spaces.Box(0.0, 1.0, (2,), np.float32)

        def reset(self, **given):
            return np.ones(2, np.float32), super().reset(**given)[1]

        def step(self, action):
            return np.ones(2, np.float32), *super().step(action)[1:]

    own = Own()
    before = own.body.weight.clone()
    folder = tmp_path_factory.mktemp("own") / "run"
    run = troupe.train(Two, steps=200, network=own, run_dir=folder, settings=SMALL)
    assert torch.equal(own.body.weight, before)  # one's own module is copied, not changed
    return run, Two


def test_a_custom_network_is_passed_again(own_run):
    run, _ = own_run
    given = Own()
    for network in (given, lambda observations, actions: Own()):
        loaded = troupe.load(run.path, network)
        probabilities, value = loaded.distribution([0.3, 0.7])
        assert probabilities == pytest.approx(run.agent.distribution([0.3, 0.7])[0])
        assert value == pytest.approx(run.agent.distribution([0.3, 0.7])[1])
    assert not torch.equal(given.body.weight, loaded.network.body.body.weight)


def test_a_network_that_is_missing_or_does_not_fit_is_one_line(own_run):
    run, env = own_run
    missing = "was trained with a custom network: pass it as network="
    with pytest.raises(UsageError, match=missing):
        troupe.load(run.path)
    with pytest.raises(UsageError, match=missing):
        troupe.resume(run.path, steps=400, env=env)
    with pytest.raises(UsageError, match=r"do not fit the network: .*size mismatch"):
        troupe.load(run.path, Own(width=9))
    with pytest.raises(UsageError, match=r"do not fit the network: .*size mismatch"):
        troupe.resume(run.path, steps=400, env=env, network=Own(width=9))
    with pytest.raises(UsageError, match="network: it must map observations"):
        troupe.load(run.path, nn.Linear(2, 2))
    with pytest.raises(UsageError, match="network: dict is no"):
        troupe.load(run.path, lambda *spaces: {})


def test_the_run_of_a_callable_is_evaluated_with_the_callable(own_run):
    run, env = own_run
    with pytest.raises(UsageError, match=r"the run's environment was the callable .*Two: pass it as env="):
        troupe.evaluate(run.path, network=Own())
    scores = troupe.evaluate(run.path, episodes=4, env=env, network=Own())
    assert scores.returns.tolist() == [5.0] * 4
    assert scores.lengths.tolist() == [5] * 4


@pytest.mark.parametrize(
    ("observations", "actions", "what"),
    [
        (gym.spaces.Box(0.0, 1.0, (2,), np.float64), 2, "observations"),
        (gym.spaces.Box(0.0, 1.0, (2, 1), np.float32), 2, "observations"),
        (gym.spaces.Box(0.0, 1.0, (2,), np.float32), 3, "actions"),
    ],
)
def test_an_environment_with_other_spaces_than_the_agents_is_refused(own_run, observations, actions, what):
    run, env = own_run

    class Other(env):
        observation_space = observations

        def __init__(self):
            super().__init__(arms=(1.0,) * actions)

        def reset(self, **given):
            return np.ones(observations.shape, observations.dtype), super().reset(**given)[1]

        def step(self, action):
            return np.ones(observations.shape, observations.dtype), *super().step(action)[1:]

    with pytest.raises(UsageError, match=rf"Other: its {what} are not those that the agent was trained with"):
        troupe.evaluate(run.path, episodes=1, env=Other, network=Own())


def test_load_makes_no_environment_and_runs_no_code_of_the_run(tmp_path, monkeypatch):
    file = tmp_path / "env.py"
    file.write_text("import gymnasium as gym\ndef make():\n    return gym.make('CartPole-v1')\n")
    run = troupe.train(f"{file}:make", steps=100, run_dir=tmp_path / "run", settings=SMALL)
    file.write_text("raise AssertionError('executed')")
    monkeypatch.setattr(gym, "make", lambda *given, **named: pytest.fail("an environment was made"))
    assert troupe.load(run.path).act(np.zeros(4)) in (0, 1)


def smuggled_file(run, monkeypatch):
    (run / "evil.py").write_text("import pathlib\npathlib.Path('executed').touch()\n")
    return f"{run / 'evil.py'}:make"


def smuggled_behind_dots(run, monkeypatch):
    (run / "evil.py").write_text("import pathlib\npathlib.Path('executed').touch()\n")
    return f"{run / 'checkpoints' / '..' / 'evil.py'}:make"


def smuggled_link_outwards(run, monkeypatch):
    (run.parent / "outside.py").write_text("import pathlib\npathlib.Path('executed').touch()\n")
    (run / "evil.py").symlink_to(run.parent / "outside.py")
    return f"{run / 'evil.py'}:make"


def smuggled_link_inwards(run, monkeypatch):
    (run / "evil.py").write_text("import pathlib\npathlib.Path('executed').touch()\n")
    (run.parent / "innocent.py").symlink_to(run / "evil.py")
    return f"{run.parent / 'innocent.py'}:make"


def smuggled_relative(run, monkeypatch):
    (run / "evil.py").write_text("import pathlib\npathlib.Path('executed').touch()\n")
    monkeypatch.chdir(run)
    return "evil.py:make"


def smuggled_module(run, monkeypatch):
    (run / "evil_module.py").write_text("import pathlib\npathlib.Path('executed').touch()\n")
    monkeypatch.syspath_prepend(str(run))
    return "evil_module:Evil-v0"


@pytest.mark.parametrize(
    "smuggle",
    [smuggled_file, smuggled_behind_dots, smuggled_link_outwards, smuggled_link_inwards, smuggled_relative,
     smuggled_module],
)  # fmt: skip
def test_code_that_lies_in_the_run_directory_is_not_executed(smuggle, tmp_path, monkeypatch):
    from troupe import cli, config

    monkeypatch.chdir(tmp_path)
    run = troupe.train("CartPole-v1", steps=100, run_dir=tmp_path / "run", settings=SMALL).path
    env_id = smuggle(run, monkeypatch)
    changed = config.replace(config.from_toml((run / "config.toml").read_text()), {"env.id": env_id})
    (run / "config.toml").write_text(config.to_toml(changed))
    with pytest.raises(UsageError, match=r"code in the run directory itself .*, which is not executed"):
        troupe.evaluate(run)
    with pytest.raises(UsageError, match=r"code in the run directory itself .*, which is not executed"):
        troupe.resume(run, steps=10_000)
    assert cli.run(["watch", str(run), "--video", str(tmp_path / "agent.gif")]) == 2
    assert not list(tmp_path.rglob("executed"))
    assert troupe.load(run).act(np.zeros(4)) in (0, 1)
