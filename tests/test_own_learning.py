"""A loss and an optimizer of one's own: from a file, by the command line; and from Python."""

import json
import shutil
import textwrap
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import troupe
from troupe import UsageError
from troupe.algorithm import losses
from troupe.algorithm.losses import Batch, Outputs
from troupe.algorithm.optimizers import Adam
from troupe.config import Learner, Loss, fields, resolve
from troupe.environments import settle
from troupe.environments.backends import BACKENDS
from troupe.networks.user_encoder import ENCODERS
from troupe.runs.replay import replay
from troupe.runs.store import checkpoint
from troupe.runtime.execution.placements import PLACEMENTS
from troupe.runtime.learning.learner import Objective
from troupe.runtime.learning.loss_and_optimizer import LOSSES, OPTIMIZERS, build_loss, optimizer_maker
from troupe.runtime.learning.trial import try_callables

EXAMPLES = Path(__file__).parent.parent / "examples"
FEW = {
    "actor.count": 1, "actor.environments": 2, "actor.rollout_steps": 8, "learner.rollouts": 1, "network.hidden": (8,),
    "evaluation.every_seconds": 0.0, "evaluation.final_episodes": 1, "stop.target": "none", "stop.steps": 100,
}  # fmt: skip
SERIAL = FEW | {"topology": "serial"}
WORKERS = FEW | {
    "topology": "hogwild", "loss.kind": "a3c", "actor.count": 2, "actor.placement": "process", "learner.epochs": 1,
    "learner.minibatches": 1,
}  # fmt: skip


def words(settings: dict[str, Any]) -> str:
    texts = {name: ",".join(map(str, each)) if isinstance(each, tuple) else each for name, each in settings.items()}
    return " ".join(f"--{name} {text}" for name, text in texts.items() if not name.startswith("stop"))


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def learned(run: Path) -> list[dict[str, Any]]:
    """The reports of a time in which something was learned."""
    return [row for row in rows(run) if row.get("approx_kl") is not None]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(run, pytest.fail).model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("custom_loss.py", "custom_optimizer.py"):
        shutil.copy(EXAMPLES / name, tmp_path)
    return tmp_path


def test_a_loss_of_a_file_trains_by_the_command_line_resumes_and_is_not_needed_to_play(run_command, folder, caplog):
    file, run = folder / "custom_loss.py", folder / "run"
    status, _, error = run_command(
        f"train CartPole-v1 {words(SERIAL)} --steps 100 --target none --run-dir {run} --untuned "
        f"--loss.kind {file}:ppo_kl --loss.kwargs.beta 3"
    )
    assert (status, error) == (0, "")
    config = tomllib.loads((run / "config.toml").read_text())
    assert config["loss"]["kind"] == f"{file}:ppo_kl"
    assert config["loss"]["kwargs"] == {"beta": 3.0}
    assert list(config["env"]["files"]) == [str(file)]
    assert learned(run)[0]["penalty"] == pytest.approx(3 * learned(run)[0]["approx_kl"])
    assert run_command(f"resume {run} --steps 200")[0] == 0
    file.write_text(file.read_text().replace("beta * masked_mean", "7 * masked_mean"))
    assert run_command(f"resume {run} --steps 300")[0] == 0
    assert f"{file} has changed since the run began: the run continues with another loss" in caplog.text
    assert learned(run)[-1]["penalty"] == pytest.approx(7 * learned(run)[-1]["approx_kl"])
    file.unlink()
    assert run_command(f"evaluate {run} --episodes 1")[0] == 0
    status, _, error = run_command(f"resume {run} --steps 400")
    gone = f"no file '{file}' to take the loss 'ppo_kl' from; if it moved, pass --loss FILE.py:NAME"
    assert (status, error) == (2, f"troupe: {gone}\n")
    shutil.copy(EXAMPLES / "custom_loss.py", folder / "elsewhere.py")
    assert run_command(f"resume {run} --steps 400 --loss {folder}/elsewhere.py:ppo_kl")[0] == 0
    config = tomllib.loads((run / "config.toml").read_text())
    assert config["loss"]["kind"] == f"{folder}/elsewhere.py:ppo_kl"
    assert f"{folder}/elsewhere.py" in config["env"]["files"]
    assert run_command(f"resume {run} --steps 500")[0] == 0


def test_an_optimizer_of_a_file_trains_and_resumes_exactly(run_command, folder):
    name = f"{folder}/custom_optimizer.py:Lion"
    given = SERIAL | {
        "learner.optimizer": name,
        "learner.optimizer_kwargs.weight_decay": 0.1,
        "learner.anneal_steps": 0,
    }
    whole = f"train CartPole-v1 {words(given)} --target none --untuned --run-dir {folder}/whole --steps 200"
    half = f"train CartPole-v1 {words(given)} --target none --untuned --run-dir {folder}/half --steps 100"
    for command in (whole, half, f"resume {folder}/half --steps 200"):
        assert run_command(command)[0] == 0
    one, other = weights(folder / "whole"), weights(folder / "half")
    assert all(torch.equal(one[each], other[each]) for each in one)
    config = tomllib.loads((folder / "half" / "config.toml").read_text())
    assert config["learner"]["optimizer_kwargs"] == {"weight_decay": 0.1}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            "--loss.kind apo",
            "loss.kind = 'apo': expected one of a3c | impala | appo, path/to/file.py:NAME or module:NAM",
        ),
        ("--learner.optimizer sgd", "learner.optimizer = 'sgd': expected one of adam | rmsprop, path/to/file.py:NAME"),
        ("--loss.kind LOSS:nothing", "custom_loss.py has no callable 'nothing'"),
        ("--loss.kind LOSS:ppo_kl --loss.kwargs.beat 1", "loss custom_loss.py:ppo_kl takes no such argument; did you"),
        ("--loss.kind LOSS:ppo_kl --loss.kwargs.beta much", "loss.kwargs.beta = 'much': expected"),
        ("--loss.kind LOSS:ppo_kl --loss.kwargs.lam 1", "loss.kwargs.lam: it is set by --loss.lam"),
        ("--loss.kwargs.beta 1", "loss.kwargs.beta: loss appo takes no such argument"),
        ("--learner.optimizer_kwargs.decay 0.1", "optimizer adam takes no such argument (it takes beta1, beta2)"),
        ("--loss.kwargs.", "--loss.kwargs.: expected --loss.kwargs.NAME VALUE"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line_before_anything_starts(run_command, folder, given, expected):
    given = given.replace("LOSS", f"{folder}/custom_loss.py")
    status, _, error = run_command(f"train CartPole-v1 {given} --run-dir {folder}/run")
    assert status == 2
    assert expected in error
    assert error.count("\n") == 1
    assert not (folder / "run").exists()


WRONG = """
import torch
def not_tensor(outputs, batch): return 1.0, {}
def no_gradient(outputs, batch): return torch.zeros(()), {}
def rows(outputs, batch): return outputs.value, {}
def alone(outputs, batch): return outputs.value.sum()
def metric(outputs, batch): return outputs.value.sum(), {"name": "text"}
def fails(outputs, batch): return outputs.values.sum(), {}
def leaves(outputs, batch): raise SystemExit(3)
class Without:
    def __init__(self, weights): pass
class Step(Without):
    def step(self, weights, gradient): pass
    def state(self): return {}
class State(Without):
    def step(self, weights, gradient, learning_rate): pass
    def state(self): return {"count": 1}
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("not_tensor", "it must return (a scalar tensor with a gradient, metrics); it gave a float"),
        ("no_gradient", "it must return (a scalar tensor with a gradient, metrics); it gave a tensor without a grad"),
        ("rows", "it must return (a scalar tensor with a gradient, metrics); it gave a tensor of shape (5, 2)"),
        ("alone", "it must return (a scalar tensor with a gradient, metrics); it gave a scalar tensor"),
        ("metric", "its metrics must be a dict of scalar tensors; metrics['name'] is a str"),
        ("fails", "called with a batch of T = 4, B = 2 it raised AttributeError: 'Outputs' object has no attribute"),
        ("leaves", "called with a batch of T = 4, B = 2 it raised sys.exit(3)"),
        ("Without", "tried on 8 weights it raised AttributeError: 'Without' object has no attribute 'state'"),
        ("Step", "tried on 8 weights it raised TypeError: "),
        ("State", "its state() must be a dict of tensors; it gave {'count': 'an int'}"),
    ],
)
def test_a_callable_that_does_not_do_what_it_must_is_refused_before_anything_starts(
    run_command, tmp_path, name, expected
):
    (tmp_path / "own.py").write_text(WRONG)
    what, setting = ("optimizer", "learner.optimizer") if name[0].isupper() else ("loss", "loss.kind")
    given = f"--{setting} {tmp_path}/own.py:{name} --run-dir {tmp_path}/run"
    status, _, error = run_command(f"train CartPole-v1 {words(SERIAL)} {given}")
    assert status == 2
    assert error.startswith(f"troupe: {what} own.py:{name}: {expected}")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("kind", ["a3c", "impala", "appo"])
@pytest.mark.parametrize("coefficient", [0.0, 0.5])
def test_a_loss_that_does_what_it_must_passes_the_trial_and_draws_from_no_stream(env, kind, coefficient):
    def loss(outputs: Any, batch: Any) -> Any:
        torch.rand(3)
        return getattr(losses, kind)(outputs, batch)

    given = {"loss.kind": LOSSES.named(loss), "novelty.coefficient": coefficient}
    config, source = settle(resolve(env, settings=given, tuned=False), env)
    before = torch.get_rng_state()
    try_callables(config, source, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_in_the_run_directory_is_not_executed(run_command, folder):
    run = folder / "run"
    train = f"train CartPole-v1 {words(SERIAL)} --steps 100 --target none --untuned --run-dir {run}"
    assert run_command(f"{train} --loss.kind {folder}/custom_loss.py:ppo_kl")[0] == 0
    (run / "custom_loss.py").write_text("raise SystemExit('executed')")
    config = run / "config.toml"
    config.write_text(config.read_text().replace(f"{folder}/custom_loss.py:", f"{run}/custom_loss.py:"))
    assert troupe.load(run).act([0.0] * 4) in (0, 1)  # nor is it needed
    status, _, error = run_command(f"resume {run} --steps 200")
    assert status == 2
    assert "the loss of" in error
    assert "is code in the run directory itself" in error


def half_impala(outputs: Any, batch: Any, *, share: float = 0.5, lam: float = 1.0) -> Any:
    done = losses.impala(outputs, batch, lam=lam)
    return done.loss * share, {"share": torch.tensor(share), **done.metrics}


def test_the_loss_on_the_page_about_extending_trains_and_the_page_names_every_field(run_command, tmp_path):
    page = (EXAMPLES.parent / "docs" / "extending.md").read_text()
    fields_of = {*Outputs._fields, *Batch._fields}
    assert [name for name in fields_of if f"\n| `{name}` | " not in page] == []
    code = page[page.index("    from troupe.algorithm.returns import") :].partition("\n\n`outputs` is")[0]
    (tmp_path / "own.py").write_text(textwrap.dedent(code))
    given = f"--steps 100 --target none --untuned --loss.kind {tmp_path}/own.py:a2c --run-dir {tmp_path}/run"
    assert run_command(f"train CartPole-v1 {words(SERIAL)} {given}")[::2] == (0, "")
    assert rows(tmp_path / "run")[0]["entropy"] == pytest.approx(0.69, abs=0.01)


def test_callables_from_python_are_given_again_to_resume(tmp_path):
    given = SERIAL | {"loss.kind": half_impala, "loss.kwargs.share": 0.25}
    run = troupe.train("CartPole-v1", settings=given, optimizer=Adam, run_dir=tmp_path / "run", tuned=False)
    assert rows(run.path)[0]["share"] == 0.25
    more = troupe.resume(run.path, steps=200, loss=half_impala, optimizer=Adam)
    assert more.steps >= 200
    config = tomllib.loads((run.path / "config.toml").read_text())
    config_text = (run.path / "config.toml").read_text().replace(config["loss"]["kind"], "python:another")
    (run.path / "config.toml").write_text(config_text)
    with pytest.raises(UsageError, match="the run's loss was the callable another: pass it as loss= in Python"):
        troupe.resume(run.path, steps=300)


def test_a_run_whose_loss_came_from_python_is_resumed_by_command_with_that_of_a_file(tmp_path, run_command, folder):
    run = troupe.train("CartPole-v1", settings=SERIAL, loss=half_impala, run_dir=tmp_path / "run", tuned=False)
    assert run_command(f"resume {run.path} --steps 200 --loss {folder}/custom_loss.py:ppo_kl")[::2] == (0, "")
    assert "penalty" in rows(run.path)[-2]


def test_workers_in_processes_learn_with_callables_of_a_script(tmp_path):
    """They travel with their code; what the optimizer keeps is shared by all workers."""
    beta = 0.5

    class Momentum:
        def __init__(self, weights: torch.Tensor, *, beta: float = beta):
            self.beta, self.velocity = beta, torch.zeros_like(weights)

        def step(self, weights: torch.Tensor, gradient: torch.Tensor, learning_rate: float) -> None:
            self.velocity.mul_(self.beta).add_(gradient)
            weights.sub_(self.velocity, alpha=learning_rate)

        def state(self) -> dict[str, torch.Tensor]:
            return {"velocity": self.velocity}

    given = WORKERS | {"learner.optimizer": Momentum, "loss.kind": lambda outputs, batch: half_impala(outputs, batch)}
    run = troupe.train("CartPole-v1", settings=given, run_dir=tmp_path / "run", tuned=False)
    assert run.updates > 4
    assert rows(run.path)[-2]["share"] == 0.5
    saved = checkpoint.load(run.path, pytest.fail).optimizer
    assert saved["velocity"].any()


def test_a_recorded_run_with_a_loss_of_a_file_is_replayed(folder):
    given = FEW | {"record": True, "actor.placement": "thread", "loss.kind": f"{folder}/custom_loss.py:ppo_kl"}
    run = troupe.train("CartPole-v1", settings=given, run_dir=folder / "run", tuned=False)
    assert replay(run.path).diverged is None


# What a callable is given


def test_arguments_named_as_settings_have_their_values_and_others_those_of_kwargs():
    given: dict[str, Any] = {}

    def loss(outputs: Any, batch: Any, *, lam: float, clip: float = 0.9, beta: float = 1.0, gamma: float = 0.0) -> Any:
        given.update(lam=lam, clip=clip, beta=beta, gamma=gamma)

    build_loss(Loss(kind=LOSSES.named(loss), lam=0.3, clip=0.4, gamma=0.5, kwargs={"beta": 7.0}))(None, None)
    assert given == {"lam": 0.3, "clip": 0.4, "beta": 7.0, "gamma": 0.5}


def test_arguments_named_as_settings_that_are_about_the_loss_have_their_values_from_kwargs():
    """What kind of loss it is, how it is reduced and its own arguments are no concern of the loss itself."""
    given: dict[str, Any] = {}

    def loss(outputs: Any, batch: Any, *, kind: str = "l1", reduction: str = "none", kwargs: int = 0) -> Any:
        given.update(kind=kind, reduction=reduction, kwargs=kwargs)

    build_loss(Loss(kind=LOSSES.named(loss), reduction="sum", kwargs={"kind": "l2"}))(None, None)
    assert given == {"kind": "l2", "reduction": "none", "kwargs": 0}


@pytest.mark.parametrize("kind", ["a3c", "impala", "appo"])
def test_a_built_in_loss_is_given_all_settings_that_it_takes(kind):
    settings = Loss(kind=kind, lam=0.3, rho_clip=1.1, c_clip=1.2, clip=0.4, value_coefficient=0.6)
    bound = build_loss(settings)
    assert isinstance(bound, partial)
    assert all(value == getattr(settings, name) for name, value in bound.keywords.items())
    taken = set(LOSSES.builtin[kind].__kwdefaults__) - {"advantage_ema"}
    assert bound.keywords.keys() == taken


def test_an_entropy_bonus_that_falls_needs_a_loss_that_takes_its_weight():
    kind = LOSSES.named(half_impala)
    with pytest.raises(UsageError, match=r"loss\.entropy_anneal_steps: loss .* takes no entropy_coefficient"):
        Objective.of(Loss(kind=kind, entropy_anneal_steps=1000))


@pytest.mark.parametrize(("name", "state"), [("adam", ["mean", "square", "steps"]), ("rmsprop", ["square"])])
def test_an_optimizer_is_made_by_its_name_and_averaged_where_that_is_asked_for(name, state):
    made = optimizer_maker(Learner(optimizer=name))(torch.zeros(3))
    assert list(made.state()) == state
    averaged = optimizer_maker(Learner(optimizer=name, average_decay=0.9))(torch.zeros(3))
    assert list(averaged.state()) == [*state, "average"]


@pytest.mark.parametrize("choice", [LOSSES, OPTIMIZERS, ENCODERS, BACKENDS, PLACEMENTS], ids=lambda each: each.what)
def test_an_unknown_name_is_refused_with_the_known_ones_and_the_nearest(choice, run_command):
    known = fields()[choice.setting].choices
    status, _, error = run_command(f"train CartPole-v1 --{choice.setting} {known[-1]}x")
    expected = (
        f"{choice.setting} = '{known[-1]}x': expected one of {' | '.join(known)}, path/to/file.py:NAME or module:NAME; "
        f"did you mean {known[-1]}?"
    )
    assert (status, error) == (2, f"troupe: {expected}\n")
    with pytest.raises(UsageError) as caught:
        choice.load(f"{known[-1]}x")
    assert str(caught.value) == expected


def test_callables_of_the_same_name_for_different_settings_are_kept_apart():
    one, other = (lambda: None), (lambda: None)
    assert LOSSES.load(LOSSES.named(one)).value is one
    assert OPTIMIZERS.load(OPTIMIZERS.named(other)).value is other
    assert LOSSES.load(LOSSES.named(one)).value is one


def test_an_optimizer_whose_state_has_a_name_that_is_taken_in_a_checkpoint_is_refused():
    class Takes(Adam):
        def state(self) -> dict[str, torch.Tensor]:
            return {"average": self.mean}

    with pytest.raises(UsageError, match="its state has the name 'average', which is taken"):
        optimizer_maker(Learner(optimizer=OPTIMIZERS.named(Takes)))(torch.zeros(3))
