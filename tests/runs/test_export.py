"""Exported files: onnxruntime computes from them what the agent computes, and a file that differs is removed."""

import contextlib
import io
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import troupe
from helpers import PATIENCE_SECONDS, slow, slow_unless
from troupe import TroupeError, UsageError, cli
from troupe.agent import Agent
from troupe.config import Network
from troupe.environments.packing import MaskSource
from troupe.networks.actor_critic import build, wrap
from troupe.runs.export import onnx as room
from troupe.runs.export.check import difference
from troupe.runs.export.onnx import OPSET

S = gym.spaces
BOX, IMAGE = S.Box(-1, 1, (3,)), S.Box(0, 255, (40, 36, 2), np.uint8)
NESTED = S.Dict(
    {
        "number": S.Box(-np.inf, np.inf, (2, 1), np.float64),
        "pair": S.Tuple([S.Discrete(3, start=5), S.MultiBinary(2)]),
        "many": S.MultiDiscrete([2, 4], start=[1, -1]),
    }
)
HALF_BOUNDED = S.Box(np.array([[-2, 0], [-np.inf, -np.inf]]), np.array([[4, 0.5], [3, np.inf]]), dtype=np.float64)
EVERYTHING = S.Dict(
    {"box": HALF_BOUNDED, "card": S.Discrete(3, start=-1), "rest": S.Tuple([S.MultiBinary(2), S.MultiDiscrete([2, 3])])}
)

KINDS: dict[str, tuple[gym.Space[Any], gym.Space[Any], MaskSource]] = {
    "numbers, choices counted from 5": (BOX, S.Discrete(4, start=5), ""),
    "a choice, a Box": (S.Discrete(4, start=2), S.Box(-3, 5, (2,)), ""),
    "bits, a Box without bounds": (S.MultiBinary(3), S.Box(-np.inf, np.inf, (2,)), ""),
    "several choices": (S.MultiDiscrete([3, 2], start=[-1, 4]), S.MultiDiscrete([[2, 3], [1, 4]]), ""),
    "whole numbers, bits": (S.Box(-5, 5, (2,), np.int16), S.MultiBinary(3), ""),
    "a Box of integers": (BOX, S.Dict(a=S.Box(-3, 2, (2,), np.int8), b=S.Box(-1, 1, (1,))), ""),
    "everything nested, masked by the info": (NESTED, EVERYTHING, "info"),
    "masked in the observation": (
        S.Dict({"x": BOX, "action_mask": S.MultiBinary(4)}), S.Discrete(4, start=1), "observation",
    ),
    "an image, channels first, a small Box": (S.Box(0, 255, (2, 40, 36), np.uint8), S.Box(-1, 1, (1,), np.float16), ""),
    "an image, channels last, beside numbers": (S.Dict({"image": IMAGE, "x": BOX}), S.Discrete(3), ""),
}  # fmt: skip


def agent(observations: gym.Space[Any], actions: gym.Space[Any], masked: MaskSource = "", **settings: Any) -> Agent:
    """One whose weights are of ordinary size, as after training, and whose statistics are not those it begins with."""
    torch.manual_seed(0)
    network = build(observations, actions, Network(hidden=(8,), **settings), masked)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith("policy.weight"):
                weight *= 100
            if name.endswith("log_std"):
                weight += torch.randn(weight.shape)
        if network.normalizer is not None:
            network.normalizer.mean.uniform_(-1, 1)
            network.normalizer.scale.uniform_(0.5, 2)
    return Agent(network.eval(), observations, actions, about={"run": "one", "environment": "Own-v0"})


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An agent of one of `KINDS` and what came of its export; each is made once."""
    made: dict[str, tuple[Agent, Any]] = {}

    def export(kind: str, **settings: Any) -> tuple[Agent, Any]:
        name = f"{kind} {settings}"
        if name not in made:
            one = agent(*KINDS[kind], **settings)
            made[name] = one, one.export(tmp_path_factory.mktemp("exported") / "one.onnx")
        return made[name]

    return export


def leaves(space: gym.Space[Any], value: Any, name: str) -> dict[str, Any]:
    """A nested value taken apart, the names made as the documentation says."""
    if isinstance(space, S.Dict):
        parts = [(key, space[key], value[key]) for key in space.spaces]
    elif isinstance(space, S.Tuple):
        parts = [(str(i), part, value[i]) for i, part in enumerate(space.spaces)]
    else:
        return {name: np.asarray(value, space.dtype)}
    return {k: v for key, part, each in parts for k, v in leaves(part, each, f"{name}.{key}").items()}


def asked(file: Path, observations: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(file)
    names = [port.name for port in session.get_outputs()]
    batch = {name: np.stack([each[name] for each in observations]) for name in observations[0]}
    return dict(zip(names, session.run(names, batch), strict=True))


def mask_of(space: gym.Space[Any], rng: np.random.Generator) -> np.ndarray:
    """At least one alternative of each choice, in the order of the leaves."""
    if isinstance(space, S.Dict | S.Tuple):
        parts = space.spaces.values() if isinstance(space, S.Dict) else space.spaces
        return np.concatenate([mask_of(part, rng) for part in parts])
    if isinstance(space, S.Box):
        return np.zeros(0, bool)
    sizes = {S.Discrete: lambda: [space.n], S.MultiBinary: lambda: [2] * space.n}
    rows = [rng.random(n) < 0.4 for n in sizes.get(type(space), lambda: space.nvec.ravel())()]
    for row in rows:
        row[rng.integers(len(row))] = True
    return np.concatenate(rows)


QUICK_KINDS = ["an image, channels first, a small Box"]


@pytest.mark.parametrize("kind", slow_unless(QUICK_KINDS, KINDS))
def test_onnxruntime_computes_what_the_agent_computes(kind, exported):
    observations, actions, masked = KINDS[kind]
    one, done = exported(kind)
    file, rng = done.file, np.random.default_rng(3)
    observations.seed(7)
    seen, masks, fed = [], [], []
    for _ in range(57):
        observation, mask = observations.sample(), mask_of(actions, rng) if masked else None
        if masked == "observation":
            observation["action_mask"] = mask.astype(np.int8)
        parts = leaves(observations, observation, "obs")
        parts.pop("obs.action_mask", None)
        seen.append(observation)
        masks.append(mask)
        fed.append(parts | ({"action_mask": mask} if masked else {}))
    answers = [asked(file, fed[rows]) for rows in (slice(0, 1), slice(1, 8), slice(8, 57))]
    outputs = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    chances = {name: each for name, each in outputs.items() if name.startswith("probabilities")}
    decided = 0
    for i, (observation, mask) in enumerate(zip(seen, masks, strict=True)):
        given = mask if masked == "info" else None
        probabilities, value = one.distribution(observation, given)
        assert outputs["value"][i] == pytest.approx(value, rel=1e-4, abs=1e-4)
        if probabilities is not None:
            assert outputs["probabilities"][i] == pytest.approx(probabilities, abs=1e-5)
        if mask is not None:
            assert not np.concatenate([each[i] for each in chances.values()])[~mask].any()
        if all(is_clear(each[i], name, actions) for name, each in chances.items()):
            decided += 1
            for name, expected in leaves(actions, one.act(observation, mask=given), "action").items():
                assert outputs[name].dtype == expected.dtype
                assert outputs[name][i] == pytest.approx(
                    expected, rel=1e-4, abs=1e-3 if expected.dtype == "f2" else 1e-4
                )
    assert decided > 50
    assert [port.name for port in done.inputs] == list(fed[0])
    assert {port.name: (port.dtype, port.shape) for port in done.outputs} == {
        name: (each.dtype, each.shape[1:]) for name, each in outputs.items()
    }


def is_clear(probabilities: np.ndarray, name: str, actions: gym.Space[Any]) -> bool:
    """Whether no two alternatives of a choice are so nearly as likely that rounding decides."""
    space = actions
    for key in name.split(".")[1:]:
        space = space[int(key) if isinstance(space, S.Tuple) else key]
    if isinstance(space, S.Box):  # of integers
        sizes = np.ravel(space.high.astype(int) - space.low + 1)
    elif isinstance(space, S.MultiBinary):
        sizes = [2] * space.n
    else:
        sizes = np.ravel(space.nvec if isinstance(space, S.MultiDiscrete) else space.n)
    choices = np.split(probabilities, np.cumsum(sizes)[:-1])
    assert [each.sum() for each in choices] == pytest.approx([1.0] * len(choices), abs=1e-5)
    return all(len(each) < 2 or np.diff(np.sort(each)[-2:])[0] > 1e-4 for each in choices)


class Says(nn.Module):
    """The same parameters for every observation, whose first number is the value."""

    def __init__(self, *parameters: float):
        super().__init__()
        self.parameters_said = nn.Parameter(torch.tensor(parameters))

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.parameters_said.expand(len(obs), -1), obs[:, 0]


def own(body: nn.Module, actions: gym.Space[Any]) -> Agent:
    return Agent(wrap(body, BOX, actions, Network()), BOX, actions)


def test_mean_and_deviation_are_in_the_environments_unit_and_only_the_action_is_clipped(tmp_path):
    box = S.Box(np.array([0, 10, -np.inf], np.float32), np.array([4, 20, np.inf], np.float32))
    file = own(Says(0.5, -3.0, 7.0, 0.0, -1.0, 1.0), box).export(tmp_path / "own.onnx").file
    outputs = asked(file, [{"obs": np.array([0.25, 0, 0], np.float32)}] * 3)
    assert outputs["mean"] == pytest.approx(np.array([[3, 0, 7]] * 3))
    assert np.exp(outputs["log_std"]) == pytest.approx(np.array([[2, 5 / np.e, np.e]] * 3))
    assert outputs["action"] == pytest.approx(np.array([[3, 10, 7]] * 3))
    assert outputs["value"] == pytest.approx([0.25] * 3)


@pytest.mark.parametrize("observations", [BOX, pytest.param(IMAGE, marks=pytest.mark.slow)])
def test_what_trained_in_bfloat16_computes_in_float32(observations, tmp_path):
    coarse = agent(observations, S.Discrete(3), precision="bfloat16")
    fine = agent(observations, S.Discrete(3))
    file = coarse.export(tmp_path / "coarse.onnx").file
    observations.seed(1)
    for observation in [observations.sample() for _ in range(20)]:
        outputs = asked(file, [{"obs": observation}])
        for one, error in ((fine, 1e-5), (coarse, 0.05)):
            probabilities, value = one.distribution(observation)
            assert outputs["probabilities"][0] == pytest.approx(probabilities, abs=error)
            assert outputs["value"][0] == pytest.approx(value, rel=error, abs=error)
    assert coarse.network.precision == torch.bfloat16


class Forgetful(nn.Module):
    """Names its parts as the file's outputs are named, and is still in train mode."""

    def __init__(self):
        super().__init__()
        self.value, self.mean, self.dropout = nn.Linear(3, 1), nn.Linear(3, 4), nn.Dropout(0.5)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = self.dropout(obs - obs.mean(1, keepdim=True))
        return self.mean(seen), self.value(seen).squeeze(-1)


def test_a_custom_network_is_exported_as_it_evaluates_and_left_as_it_is(tmp_path):
    body = Forgetful()
    exported = own(body, S.Box(-1, 1, (2,)))
    body.train()
    file = exported.export(tmp_path / "own.onnx").file
    assert body.training
    x = np.array([[0.1, 0.2, 0.6], [1, 0, 0]], np.float32)
    body.eval()
    with torch.no_grad():
        parameters, value = body(torch.from_numpy(x))
    outputs = asked(file, [{"obs": row} for row in x])
    assert outputs["mean"] == pytest.approx(parameters[:, :2].numpy(), abs=1e-6)
    assert outputs["value"] == pytest.approx(value.numpy(), abs=1e-6)


class Branches(nn.Module):
    """Looks at its numbers in Python, which no graph can hold."""

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return obs[:, :2] if obs.sum() > 0 else -obs[:, :2], obs[:, 0]


def test_a_network_that_no_graph_can_hold_is_one_line_and_no_file(tmp_path):
    with pytest.raises(UsageError, match=r"^network: it cannot be exported to ONNX: .+") as caught:
        own(Branches(), S.Discrete(2)).export(tmp_path / "own.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_computes_something_else_is_not_written_and_the_old_one_stays(tmp_path, monkeypatch):
    file = tmp_path / "one.onnx"
    file.write_text("old")
    convert, other = room._converted, own(Says(0.0, 2.0), S.Discrete(2))

    def of_another(policy: Any, *given: Any) -> bytes:
        return convert(room.Policy(other.network, policy.actions), *given)

    monkeypatch.setattr(room, "_converted", of_another)
    with pytest.raises(TroupeError, match=r"one.onnx is not written: in onnxruntime 'action' differs .* by 1$"):
        own(Says(2.0, 0.0), S.Discrete(2)).export(file)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("one.onnx", "old")]


@pytest.fixture(scope="module")
def doubling(tmp_path_factory) -> Path:
    """A file with x -> 2 x in float32, n -> n + 1 in int64."""
    file = tmp_path_factory.mktemp("doubling") / "doubling.onnx"
    text = """<ir_version: 10, opset_import: ["": 18]>
    doubling (float[batch] x, int64[batch] n) => (float[batch] value, int64[batch] action) <int64 one = {1}>
    { value = Add(x, x)  action = Add(n, one) }"""
    onnx.save(onnx.parser.parse_model(text), file)
    return file


def test_numbers_may_differ_by_rounding_whole_ones_not_at_all_and_actions_only_where_they_are_tied(doubling):
    x, n = np.array([1.0, -np.inf, 1000], np.float32), np.array([1, 2, 10**6])
    all_decided, right = np.ones(3, bool), {"value": 2 * x, "action": n + 1}

    def compared(decided: np.ndarray = all_decided, **changed: np.ndarray) -> str:
        return difference(doubling, {"x": x, "n": n}, right | changed, decided)

    assert compared() == ""
    assert compared(value=2 * x + np.float32(0.1)) == ""
    assert compared(value=2 * x + np.float32(0.3)) == "'value' differs from the policy's by 0.3"
    assert compared(value=2 * x.astype(np.float64)) == "'value' is float32 (3,), of the policy float64 (3,)"
    assert compared(value=2 * x[:, None]) == "'value' is float32 (3,), of the policy float32 (3, 1)"
    assert compared(value=np.array([2, np.inf, 2000], np.float32)) == "'value' differs from the policy's by inf"
    assert compared(value=np.array([2, -np.inf, np.nan], np.float32)) == "'value' differs from the policy's by nan"
    wrong = n + np.array([1, 1, 2])
    assert compared(action=wrong) == "'action' differs from the policy's by 1"
    assert compared(np.array([True, True, False]), action=wrong) == ""


def test_two_leaves_of_one_name_are_refused(tmp_path):
    twice = S.Dict({"a.b": BOX, "a": S.Dict({"b": BOX})})
    with pytest.raises(UsageError, match=r"two parts of the space would both be called 'obs.a.b' in the file"):
        agent(twice, S.Discrete(2)).export(tmp_path / "one.onnx")


@pytest.mark.parametrize(
    ("path", "message"),
    [("one.pt", r"cannot write .*one.pt: its name must end in .onnx$"), ("no/one.onnx", "there is no folder .*no$")],
)
def test_a_path_that_cannot_be_written_is_named(path, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        agent(BOX, S.Discrete(2)).export(tmp_path / path)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    settings = {"actor.count": 1, "actor.environments": 2, "evaluation.final_episodes": 2, "stop.target": "none"}
    folder = tmp_path_factory.mktemp("export") / "short"
    return troupe.train("CartPole-v1", steps=200, run_dir=folder, settings=settings, display="silent").path


@pytest.fixture(scope="module")
def printed(run) -> str:
    """What the command prints, in a folder of its own beside the run."""
    (run.parent / "here").mkdir()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(run.parent / "here"), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert (cli.run(["export", str(run), "pole.onnx"]), err.getvalue()) == (0, "")
    return out.getvalue()


def test_the_command_prints_what_goes_in_and_out(printed):
    lines = printed.splitlines()
    assert lines[0] == "wrote pole.onnx; its inputs and outputs, for N observations at a time:"
    assert [line.split() for line in lines[1:8]] == [
        [],
        ["name", "type", "shape"],
        ["input", "obs", "float32", "[N,", "4]"],
        ["output", "action", "int64", "[N]"],
        ["output", "probabilities", "float32", "[N,", "2]"],
        ["output", "value", "float32", "[N]"],
        [],
    ]


def test_the_printed_example_runs_as_it_is_printed(printed, run):
    example = printed[printed.index("import numpy") :]
    assert len(example.splitlines()) == 5
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=run.parent / "here",
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, "")
    action, value = done.stdout.split()
    one = troupe.load(run)
    assert int(action) == one.act(np.zeros(4))
    assert float(value) == pytest.approx(one.distribution(np.zeros(4))[1], abs=1e-4)


@pytest.mark.parametrize("kind", [slow("everything nested, masked by the info"), "masked in the observation"])
def test_examples_run_whatever_the_spaces(kind, exported, capsys):
    example = exported(kind)[1].example
    assert "np.bool" not in example, "which NumPy 1.24 to 1.26 does not have"
    exec(example, {})
    assert capsys.readouterr().out


def test_the_file_says_where_it_comes_from_and_nothing_of_the_computer(printed, run):
    file = run.parent / "here" / "pole.onnx"
    assert [each.name for each in file.parent.iterdir()] == ["pole.onnx"]
    model = onnx.load(file)
    about = {each.key: each.value for each in model.metadata_props}
    assert (about["run"], about["environment"], about["troupe"]) == ("short", "CartPole-v1", version("troupe-rl"))
    assert json.loads(about["action_space"]) == {"type": "Discrete", "n": 2, "start": 0}
    assert json.loads(about["observation_space"])["shape"] == [4]
    assert [(each.domain, each.version) for each in model.opset_import] == [("", OPSET)] == [("", 18)]
    assert b".py" not in file.read_bytes()
    assert str(run.parent).encode() not in file.read_bytes()


def test_without_the_packages_the_command_names_them_before_torch_is_loaded(run, tmp_path):
    program = f"""
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in ("onnx", "onnxruntime") else find(name, *more)
from troupe import cli
status = cli.run(["export", {str(run)!r}, "pole.onnx"])
assert not {{"torch", "gymnasium", "numpy"}} & set(sys.modules)
sys.exit(status)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 2
    packages = "'onnx>=1.17' 'onnxruntime>=1.20' 'onnxscript>=0.7' 'torch>=2.9'"
    assert done.stderr == f"troupe: onnx, onnxruntime are not installed: pip install {packages}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nowhere pole.onnx", "troupe: no run directory 'nowhere'\n"),
        ("{run} pole.pt", "troupe: cannot write pole.pt: its name must end in .onnx\n"),
    ],
)
def test_a_wrong_word_is_one_line(words, message, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["export", *words.format(run=run).split()]) == 2
    assert capsys.readouterr().err == message
    assert list(tmp_path.iterdir()) == []


REMEMBERING: dict[str, tuple[str, dict[str, Any]]] = {
    "an LSTM": ("numbers, choices counted from 5", {"core": "lstm"}),
    "a GRU": ("numbers, choices counted from 5", {"core": "gru"}),
    "reads a choice": ("numbers, choices counted from 5", {"core": "lstm", "core_inputs": True}),
    "reads a Box": ("a choice, a Box", {"core": "gru", "core_inputs": True}),
    "reads half a number": ("an image, channels first, a small Box", {"core": "gru", "core_inputs": True}),
    "reads all, masked": ("everything nested, masked by the info", {"core": "lstm", "core_inputs": True}),
}


@pytest.mark.parametrize("kind", slow_unless(["reads a Box"], REMEMBERING))
def test_with_memory_it_plays_as_the_agent_does_state_in_and_state_out(kind, exported):
    """Three environments side by side, whose episodes end at different steps."""
    spaces, settings = REMEMBERING[kind]
    observations, actions, masked = KINDS[spaces]
    (one, done), rng = exported(spaces, core_units=6, **settings), np.random.default_rng(3)
    session = onnxruntime.InferenceSession(done.file)
    players, first = [one.session() for _ in range(3)], np.ones(3, bool)
    last = {port.name: np.zeros((3, *port.shape), port.dtype) for port in done.inputs}
    observations.seed(7)
    for _ in range(20):
        seen = [observations.sample() for _ in range(3)]
        masks = [mask_of(actions, rng) if masked else None for _ in range(3)]
        reward = rng.normal(size=3).astype(np.float32)
        fed = {"first": first, "last_reward": reward, **({"action_mask": np.stack(masks)} if masked else {})}
        for row in zip(*(leaves(observations, each, "obs").items() for each in seen), strict=True):
            fed[row[0][0]] = np.stack([value for _, value in row])
        answer = session.run(None, {name: (last | fed)[name] for name in last})
        outputs = {port.name: value for port, value in zip(done.outputs, answer, strict=True)}
        for i, player in enumerate(players):
            if first[i]:
                player.reset()
            expected = player.act(seen[i], mask=masks[i], reward=reward[i])
            for name, value in leaves(actions, expected, "action").items():
                assert outputs[name][i] == pytest.approx(value, rel=1e-3, abs=1e-3)
        last["state"], first = outputs["next_state"], rng.random(3) < 0.2
        for name in last:
            if name.startswith("last_action"):
                leaf = name.removeprefix("last_action")
                last[name] = outputs.get(f"mean{leaf}", outputs[f"action{leaf}"])
    assert np.abs(last["state"]).max() > 0.1


def test_inputs_and_outputs_of_a_recurrent_policys_file(exported):
    spaces, settings = REMEMBERING["reads a Box"]
    _, done = exported(spaces, core_units=6, **settings)
    assert [f"{port.name} {port.dtype} {port.batch}" for port in done.inputs] == [
        "obs int64 [N]", "state float32 [N, 6]", "first bool [N]", "last_action float32 [N, 2]",
        "last_reward float32 [N]",
    ]  # fmt: skip
    assert [port.name for port in done.outputs] == ["action", "mean", "log_std", "value", "next_state"]


@pytest.mark.parametrize("kind", ["an LSTM", "reads all, masked"])
@pytest.mark.slow
def test_examples_with_memory_run(kind, exported, capsys):
    spaces, settings = REMEMBERING[kind]
    _, done = exported(spaces, core_units=6, **settings)
    assert len(done.example.splitlines()) == 5
    assert "np.bool" not in done.example, "which NumPy 1.24 to 1.26 does not have"
    exec(done.example, {})
    assert capsys.readouterr().out
