"""One run from start to end: build the parts, watch them, stop in order, judge, save."""

import copy
import math
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
from torch import Tensor, nn

from troupe import config as configuration
from troupe import safe_files
from troupe.agent import Agent, needs_network, origin, put_weights
from troupe.algorithm.schedules import LinearSchedule
from troupe.config import TrainConfig, TroupeError, UsageError, one_line, printable, reason
from troupe.environments import EnvironmentSource, name_of, of_run, quiet_gymnasium, settle, spaces
from troupe.networks.custom import NetworkMaker
from troupe.networks.flat import named
from troupe.networks.user_encoder import encoder_of_run
from troupe.preparation import fit
from troupe.run import Outcome, Run, outcome_text, stop_by_signal
from troupe.runs.evaluate.collapse_handler import Rescue
from troupe.runs.evaluate.evaluation import BorrowingEvaluator, Evaluator, most_steps
from troupe.runs.evaluate.judge import Judge
from troupe.runs.evaluate.scores import Scores
from troupe.runs.evaluate.watched import WatchedEvaluator
from troupe.runs.report.display import Display, Mode
from troupe.runs.report.labels import read_measured
from troupe.runs.report.reporter import Reporter
from troupe.runs.report.view import Limits
from troupe.runs.store import checkpoint
from troupe.runs.store import compatibility as older
from troupe.runs.store.directory import RunDirectory, check_free, check_named, peak_memory_mb, versions
from troupe.runs.store.metrics import Row, to_json
from troupe.runs.store.writer import RunWriter
from troupe.runtime.assembly import assemble
from troupe.runtime.execution.interruption import LOOK_SECONDS, on_signal, run_interruptible
from troupe.runtime.execution.placements import placement_of
from troupe.runtime.execution.process_launch import NO_PROCESSES, may_have_processes
from troupe.runtime.execution.supervisor import Failure, Supervisor
from troupe.runtime.initial_network import first_network
from troupe.runtime.journal import FILE as JOURNAL
from troupe.runtime.journal import Journal
from troupe.runtime.learning import annealing, choices
from troupe.runtime.progress import Clock, Counts, Episode, Progress
from troupe.runtime.topologies import Serial
from troupe.text import format_return
from troupe.torch_threads import one_torch_thread

EnvironmentMaker = Callable[..., gym.Env[Any, Any]]
_CLOSE_SECONDS = 10.0  # for environments to close
_SAVING = "saving"  # the part that fails where the last checkpoint cannot be written
_START_SECONDS = 20.0  # for the first actors to be ready, on top of the limit on time, which does not count this yet


@quiet_gymnasium()
def train(
    env: str | EnvironmentMaker,
    *,
    preset: str = "appo",
    seed: int = 0,
    steps: int | None = None,
    seconds: float | None = None,
    target: float | Literal["auto", "none"] | None = None,
    network: nn.Module | NetworkMaker | None = None,
    loss: Callable[..., Any] | None = None,
    optimizer: Callable[..., Any] | None = None,
    run_dir: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    tuned: bool = True,
    display: Mode = "auto",
) -> Run:
    """Trains an agent and returns the run.

    `env` is an id, `path/to/file.py:factory` or a callable that makes one environment. `network` is a
    module that maps observations [N, ...] to (logits [N, A], values [N]), or a callable that makes one
    from the two spaces. `settings` maps dotted names to values ("learner.epochs": 8); `steps`,
    `seconds` and `target` are short for those of `stop`; `loss` and `optimizer` are callables in place of those that
    "loss.kind" and "learner.optimizer" name (docs/extending.md). `env_kwargs` are arguments of the environment or
    its factory, as they are; in `settings` they are "env.kwargs.NAME", and text is read by its signature.

    `display` "auto" shows progress on a terminal and in a notebook and is silent elsewhere; "plain" writes lines,
    "quiet" only what happened in the end, "silent" nothing.

    Raises UsageError before anything starts, TroupeError when the run fails; both say why in a line. A signal
    ends the run in order, and is then raised as KeyboardInterrupt (Ctrl-C) or SystemExit (SIGTERM,
    SIGHUP) with the run as the exception's `run`.
    """
    check_named(run_dir)
    short = {"seed": seed, "stop.steps": steps, "stop.seconds": seconds, "stop.target": target}
    said = choices.named(settings or {}, loss, optimizer)
    said |= {name: value for name, value in short.items() if value is not None}
    asked, source = settle(configuration.resolve(name_of(env), preset, said, tuned=tuned), env, env_kwargs)
    asked = choices.settle(asked)
    config, fitting = fit(asked, source, network, [name for name, _ in configuration.flatten(said)])
    measured = configuration.differing(asked, config)
    if run_dir is not None:
        check_free(Path(run_dir))
    session = _Session(config, source, network, display, fitting=fitting, measured=measured)
    with RunDirectory.new(config, run_dir) as directory:
        return session.run(directory)


@quiet_gymnasium()
def resume(
    run: str | Path,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    target: float | str | None = None,
    on_collapse: str | None = None,
    anneal_steps: int | Literal["auto"] | None = None,
    env: EnvironmentMaker | None = None,
    network: nn.Module | NetworkMaker | None = None,
    loss: Callable[..., Any] | None = None,
    optimizer: Callable[..., Any] | None = None,
    display: Mode = "auto",
) -> Run:
    """Goes on with a run where its newest whole checkpoint stands, to its own limits or to new ones.

    One that was killed before its first checkpoint starts over from its config.toml. Raises what `train`
    raises; UsageError also where another process trains there.

    `steps` and `seconds` are totals that include what the run has already made. `target` (a return, "auto" or "none"),
    `on_collapse`, "report" or "rollback", and `anneal_steps` (0: a constant learning rate; "auto": down to a quarter
    at the limit on steps) take the place of what the run was told before.
    """
    place = Path(run)
    checkpoint.read_config(place)  # says what is wrong where this is no run directory
    with RunDirectory(place) as directory:  # nobody else may write there from before it is read
        changes = {"stop.steps": steps, "stop.seconds": seconds, "stop.target": target}
        changes |= {"collapse.answer": on_collapse, "learner.anneal_steps": anneal_steps}
        changes = choices.named(changes, loss, optimizer)
        return _resumed(place, changes, env, network, display).run(directory)


def _resumed(
    place: Path,
    changes: Mapping[str, Any],
    env: EnvironmentMaker | None,
    network: nn.Module | NetworkMaker | None,
    display: Mode,
) -> "_Session":
    before = checkpoint.read_config(place)
    encoder_of_run(place, before)  # refuses code that lies in the run directory
    config = configuration.replace(before, {name: value for name, value in changes.items() if value is not None})
    choices.check_code(place, config)
    if not checkpoint.newest_first(place):
        return _begun_anew(place, config, env, network, display)
    with Display(display) as shown:
        saved = checkpoint.load(place, shown.event)
    done = saved.state["counts"]["steps"], saved.state["seconds"]
    if (0 < config.stop.steps <= done[0]) or (0 < config.stop.seconds <= done[1]):
        raise UsageError(
            f"'{place}' has already run {done[0]:,} steps and {done[1]:.0f} s, up to its limit; "
            "raise the limit with --steps or --time"
        )
    if saved.state["custom_network"] and network is None:
        raise needs_network(place)
    given = changes["learner.anneal_steps"] is not None
    schedule = annealing.resumed(saved.state, before, config, given=given)
    return _Session(config, of_run(place, config.env, env), network, display, (place, saved), schedule=schedule)


def _begun_anew(
    place: Path,
    config: TrainConfig,
    env: EnvironmentMaker | None,
    network: nn.Module | NetworkMaker | None,
    display: Mode,
) -> "_Session":
    """A run that was killed before its first checkpoint, from the start."""
    (place / JOURNAL).unlink(missing_ok=True)  # of rollouts that the new run does not make
    session = _Session(config, of_run(place, config.env, env), network, display)
    session.tell(f"'{place}' has no checkpoint yet: starting over from its config.toml")
    return session


class _Session:
    """A run under way: its parts, its clock, its judge and its directory."""

    def __init__(
        self,
        config: TrainConfig,
        source: EnvironmentSource,
        network: nn.Module | NetworkMaker | None,
        display: Mode,
        resumed: tuple[Path, checkpoint.Checkpoint] | None = None,
        fitting: Sequence[str] = (),
        measured: Sequence[str] = (),
        schedule: LinearSchedule | None = None,
    ):
        self._began = time.perf_counter()
        source.check(config.env)
        self._config, self._source, self._fitting = config, source, fitting
        self._custom_network = network is not None
        self._display = Display(display)
        place, saved = resumed or (Path(), None)
        self._measured = read_measured(place) if saved else list(measured)
        state: Mapping[str, Any] = saved.state if saved else {"counts": {}, "seconds": 0.0, "version": 0, "resumes": -1}
        self._resumed = saved is not None
        lost = _lost(config, source, saved) if saved else None
        # A run whose streams are not put back draws new ones: it must not play the same episodes again.
        self._resumes = state["resumes"] + (not saved or lost is not None)
        self._network, parts_seed, judge_seed = first_network(network, source, config, self._resumes)
        if saved:
            put_weights(place, saved.model, self._network)
        progress = Progress(Counts(**state["counts"]))
        self._journal = Journal() if config.record and not saved else None
        self._parts = assemble(
            config, source, self._network, parts_seed, progress, state["version"], self._journal, schedule
        )
        if lost:
            progress.notices.append(lost)
        if not may_have_processes() and not config.traits.serial and not source.is_native(config.env):
            progress.notices.append(f"actors play in threads: {NO_PROCESSES}")
        if saved and config.record:
            progress.notices.append("not recorded from here on: troupe replay goes up to where the run was stopped")
        if saved:
            self._parts.master.load(older.optimizer_state(saved.optimizer, self._network))
            self._parts.restore_novelty(saved.novelty)
            if saved.streams and lost is None and isinstance(self._parts, Serial):
                progress.restore(progress.counts, [Episode(*each) for each in saved.streams["recent"]])
                progress.notices += self._parts.restore(saved.streams)
        self._supervisor = Supervisor(self._parts.gate, self._parts.wake)
        self._clock = Clock(state["seconds"])
        self._outcome: Outcome | None = None
        self._signal = 0
        self._checkpoint_due = False  # whatever the clock says
        self._rows: deque[Row] = deque()  # written by learners, read by the main thread
        self._target = _target(config, source)
        most, lender = most_steps(config.evaluation, source), self._parts.lender()
        make = partial(
            Evaluator, source, config.env, config.evaluation.episodes, config.evaluation.final_episodes, max_steps=most
        )
        watched = partial(
            WatchedEvaluator,
            environment=source.id,
            hang_seconds=config.actor.hang_seconds,
            notice=self._evaluation_hangs,
        )
        lent: Callable[[], AbstractContextManager[None]] = nullcontext
        try:
            self._evaluator = watched(make)
        except UsageError:
            if lender is None:
                self._parts.close()
                raise
            self._evaluator, lent = watched(partial(BorrowingEvaluator, lender.lend(), most)), lender.lent
        self._judge = Judge(
            config.evaluation, self._target, self._network, self._evaluator, judge_seed,
            self._parts.gate, self._clock, self._rows.append, self._interrupted, self._heed, progress.recent_returns,
            limit_seconds=config.stop.seconds, exact=config.traits.serial,
            lent=lent,
        )  # fmt: skip
        self._rescue = Rescue(config, self._parts, self._rows.append)
        if saved:
            self._judge.restore(saved.best, state)
        if "rescue" in state:
            self._rescue.restore(state["rescue"])

    def tell(self, text: str) -> None:
        """Says something when the run begins."""
        self._parts.progress.notices.append(text)

    def run(self, directory: RunDirectory) -> Run:
        """Trains to the end, whatever that end is; what was learned is saved before an error is raised."""
        self._directory = directory
        with ExitStack() as stack:
            stack.enter_context(self._display)
            writer = RunWriter(directory, self._config, self._journal, self._display.event)
            self._writer = stack.enter_context(writer)
            if self._resumed:
                writer.metrics.resume(self._parts.progress.counts.steps, self._clock.seconds)
            stack.enter_context(on_signal(self._interrupt))
            stack.enter_context(one_torch_thread())
            raised: BaseException | None = None
            try:
                self._display.start(self._introduction())
                self._watch()
            except BaseException as error:  # whatever it is, what was learned is saved first
                if not (self._signal and isinstance(error, KeyboardInterrupt)):  # a second signal ends the waiting only
                    raised = error
                    self._supervisor.fail("the main thread", error)
            try:
                done = self._finish()
            except TroupeError:
                if raised is not None and not isinstance(raised, Exception):
                    raise raised  # noqa: B904  # to exit, or by an interrupt
                raise
        if done.signal:
            raise stop_by_signal(done)
        return done

    def _watch(self) -> None:
        """Starts the parts, reports and saves while they work, and brings them to rest."""
        parts = self._parts
        reporter = Reporter(parts, self._clock.seconds)
        with self._supervisor:
            parts.start(self._supervisor, self._after_batch)
            began = shown = saved = self._clock.seconds
            self._wait_for_actors()
            reporter.begin()
            self._clock.start()
            while not self._supervisor.wait(LOOK_SECONDS):
                self._writer.write_journal()
                parts.look_after(self._supervisor, self._after_batch)
                seconds = self._clock.seconds
                if self._signal:
                    self._end("interrupted")
                elif self._config.stop.seconds and seconds >= self._config.stop.seconds:
                    self._end("time")  # learners that starve never come to see it themselves
                if seconds - shown >= min(2.0, max(0.05, (seconds - began) / 50)):
                    shown = seconds
                    self._show(reporter.report(seconds))
                due = self._checkpoint_due or seconds - saved >= self._config.checkpoint.every_seconds
                if due and self._save_while_running():
                    saved, self._checkpoint_due = seconds, False
            self._clock.stop()
        if self._journal and not self._supervisor.stop(patience_seconds=0.0):
            self._journal.end(parts.master.vector)
        self._writer.write_journal()
        self._show(reporter.report(self._clock.seconds))

    def _wait_for_actors(self) -> None:
        """Until those in processes are all ready to play: training time begins then."""
        ready, limit, began = self._parts.ready, self._config.stop.seconds, time.monotonic()
        most = max(0.0, limit - self._clock.seconds) + _START_SECONDS if limit else math.inf
        while not (ready.open or self._supervisor.wait(0.0)):
            ready.wait_for(LOOK_SECONDS)
            if self._signal:
                self._end("interrupted")
            elif time.monotonic() - began > most:
                self.tell(
                    f"after {most:.0f} s the actors are still making and resetting their environments: the run ends"
                )
                self._end("time")

    def _after_batch(self) -> None:
        """Called by the learners, one at a time, with the weights at rest."""
        steps, stop = self._parts.progress.counts.steps, self._config.stop
        self._rescue.look_at_the_start()
        if self._judge.after_batch(self._parts.master, steps):
            self._end("solved")
        elif stop.steps and steps >= stop.steps:
            self._end("steps")
        elif stop.seconds and self._clock.seconds >= stop.seconds:
            self._end("time")

    def _heed(self, scores: Scores, steps: int, best: Tensor) -> None:
        """Called by the judge, while everything stands still."""
        self._rescue.heed(scores, steps, self._clock.seconds, best, self._judge.best_steps)

    def _evaluation_hangs(self, notice: str) -> None:
        """Called by the thread that evaluates. Whatever blocks the environment may yet end the run as well."""
        self._parts.progress.notices.append(notice)
        self._checkpoint_due = True

    def _end(self, outcome: Outcome) -> None:
        self._outcome = self._outcome or outcome
        self._supervisor.end()

    def _interrupt(self, number: int) -> None:
        # Nothing more: a signal may come while this very thread holds a lock that ending takes.
        self._signal = number

    def _show(self, report: Row) -> None:
        while self._parts.progress.notices:
            self._display.event(self._parts.progress.notices.popleft())
        while self._parts.progress.news:
            self._display.news(self._parts.progress.news.popleft())
        limits = Limits(self._config.stop.steps, self._config.stop.seconds, self._target)
        while self._rows:
            row = self._rows.popleft()
            self._writer.metrics.write(row)
            self._display.report(row, limits)
        self._writer.metrics.write(report)
        self._display.report(report, limits)

    def _save_while_running(self) -> bool:
        """False while an evaluation holds the weights: then it is tried again."""
        if not self._parts.master.lock.acquire(timeout=LOOK_SECONDS):
            return False
        try:
            taken = self._checkpoint()
        finally:
            self._parts.master.lock.release()
        self._writer.try_to_save(taken)
        return True

    def _save(self) -> Path:
        """The last checkpoint. Whoever still holds the lock is stuck in an evaluation: the weights are at rest."""
        held = self._parts.master.lock.acquire(timeout=LOOK_SECONDS)
        try:
            taken = self._checkpoint()
        finally:
            if held:
                self._parts.master.lock.release()
        return self._writer.save(taken)

    @property
    def _place(self) -> Path:
        return self._directory.path

    def _checkpoint(self) -> checkpoint.Checkpoint:
        """A copy of this moment."""
        snapshot = self._parts.snapshot()
        model = {name: tensor.clone() for name, tensor in self._network.state_dict().items()}
        model |= named(self._network, snapshot.weights)
        recent = [[episode.total, episode.length] for episode in snapshot.recent]
        return checkpoint.Checkpoint(
            model=model,
            best=model | self._judge.best(snapshot.eval_weights),
            optimizer=snapshot.optimizer,
            state={
                "counts": asdict(snapshot.counts),
                "seconds": self._clock.seconds,
                "version": snapshot.version,
                "resumes": self._resumes,  # those that drew new streams
                **self._judge.state(),
                "rescue": self._rescue.state(),
                "annealing": annealing.state_of(self._parts.schedule),
                "custom_network": self._custom_network,
                "observation_space": spaces.describe(self._source.observation_space),
                "action_space": spaces.describe(self._source.action_space),
                "masked": self._source.masked,
            },
            streams=snapshot.streams and snapshot.streams | {"recent": recent},
            novelty=snapshot.novelty,
        )

    def _finish(self) -> Run:
        """Saves, judges the best weights, and writes the summary and the picture."""
        self._clock.stop()
        stuck = self._supervisor.stop(patience_seconds=LOOK_SECONDS)  # who was waited for, and is still busy
        self._parts.rewind()
        if self._signal:
            self._outcome = self._outcome or "interrupted"
        counts, failure = self._parts.progress.counts, self._supervisor.failure
        saved, scores, picture = None, None, None
        try:
            try:
                saved = self._save()
            except KeyboardInterrupt:  # a second signal came in the middle of it
                saved = self._save()
            if stuck:
                self._display.event(f"still busy when the run ended, and left behind: {', '.join(stuck)}")
            if not failure and not self._signal:
                newest = self._parts.master.eval_weights
                with self._waiting():
                    if self._judge.look_again(newest, counts.steps):
                        saved = self._save()
                    scores = self._judge.last(newest, counts.steps)
        except (Exception, SystemExit) as error:
            failure = failure or Failure("the final evaluation" if saved else _SAVING, error)
        while self._rows:
            self._writer.metrics.write(self._rows.popleft())
        with self._waiting():
            self._close(stuck)
        while self._parts.progress.notices:
            self._display.event(self._parts.progress.notices.popleft())
        if failure:
            raise self._failed(failure, saved) from failure.error
        outcome = self._outcome
        assert outcome is not None
        assert saved is not None
        try:
            self._write_summary(outcome, scores)
            with self._waiting():
                picture = self._draw() if scores else None
        except (OSError, TroupeError) as error:
            raise TroupeError(
                f"'{self._place}' cannot be written to the end: {reason(error)}; weights saved in {saved}"
            ) from error
        self._display.result(self._result(outcome, scores, saved, picture))
        network = copy.deepcopy(self._network).cpu()
        network.load_state_dict(self._network.state_dict() | self._judge.best(self._parts.master.eval_weights))
        agent = Agent(
            network.eval(),
            self._source.observation_space,
            self._source.action_space,
            greedy=self._config.evaluation.greedy,
            about=origin(self._place, self._config),
        )
        return Run(self._place, outcome, scores, counts.steps, counts.updates, self._clock.seconds, agent, self._signal)

    def _failed(self, failure: Failure, saved: Path | None) -> TroupeError:
        """Writes down what happened, as far as the disk lets it, and says it in a line."""
        trace, where = "".join(traceback.format_exception(failure.error)), "--debug shows where"
        with suppress(OSError):
            checkpoint.write_durably(self._place / "error.txt", printable(trace).encode())
            where = f"traceback in {self._place / 'error.txt'}"
        with suppress(OSError):
            self._write_summary("failed", None)
        older = checkpoint.newest_first(self._place)
        kept = f"weights saved in {saved}" if saved else f"newest checkpoint: {older[0] if older else 'none'}"
        why = reason(failure.error) if failure.part == _SAVING else one_line(failure.error)
        return TroupeError(f"{failure.part} failed: {why} ({where}; {kept})")

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """What a second signal ends, and nothing more: what is left to be written and said is."""
        try:
            yield
        except KeyboardInterrupt:
            if not self._signal:
                raise

    def _interrupted(self) -> bool:
        return self._signal != 0

    def _close(self, stuck: Sequence[str]) -> None:
        """Closes the environments, but those of parts that are stuck, however the run ended.

        The run is saved, and what goes wrong here takes nothing from it. After a signal they have a second.
        """
        deadline = time.monotonic() + _CLOSE_SECONDS

        def close() -> bool:
            try:
                self._evaluator.close()
            finally:
                if not stuck:
                    self._parts.close()
            return True

        try:
            if not run_interruptible(close, lambda: self._interrupted() or time.monotonic() > deadline):
                self._display.event(f"environment {self._source.id}: close() has not returned, and is left behind")
        except Exception as error:
            self._display.event(f"environment {self._source.id}: close raised {one_line(error)}")

    def _draw(self) -> Path | None:
        """The picture of the run; None where no episode has ended."""
        from troupe.runs.report.plots import plot_runs

        picture = safe_files.folder(self._place / "plots") / "learning.png"
        try:
            plot_runs([self._place], picture)
        except UsageError:
            return None
        return picture

    def _write_summary(self, outcome: str, scores: Scores | None) -> None:
        counts, seconds = self._parts.progress.counts, self._clock.seconds
        summary = {
            "outcome": outcome,
            "environment": self._source.id,
            "preset": self._config.preset,
            "tuned": self._config.tuned,
            "seed": self._config.seed,
            "measured": self._measured,  # settings that a measurement on this machine decided
            "target": self._target,
            "evaluation": scores.summary() if scores else None,
            **asdict(counts),
            "best_steps": self._judge.best_steps,
            **self._rescue.summary(),
            "training_seconds": round(seconds, 3),
            "total_seconds": round(time.perf_counter() - self._began, 3),
            "steps_per_s": round(counts.steps / max(seconds, 1e-9), 1),
            "peak_memory_mb": peak_memory_mb(),
            "versions": versions(),
        }
        checkpoint.write_durably(self._place / "summary.json", to_json(summary, indent=2))

    def _introduction(self) -> list[str]:
        config, stop = self._config, self._config.stop
        tuned = f", tuned for {self._source.id} (--untuned ignores these settings)" if config.tuned else ""
        limits = [
            f"a return of {self._target:g}" if self._target is not None else "",
            f"{stop.steps:,} steps" if stop.steps else "",
            f"{stop.seconds:g} s of training" if stop.seconds else "",
        ]
        place = placement_of(config, self._source).plural
        if self._source.unsendable and config.actor.place == "auto" and place == "threads":
            place += f" (the environment cannot be sent to processes: {self._source.unsendable})"
        resumed = f", resumed at step {self._parts.progress.counts.steps:,}" if self._resumed else ""
        notes = [f"  {line}" for line in (*self._source.notices, *self._fitting)]
        if self._source.masked:
            notes.append(f"  actions as the {self._source.masked}'s {spaces.MASK} allows")
        if described := annealing.described(self._parts.schedule, config, self._parts.progress.counts.steps):
            notes.append(f"  {described}")
        return [
            f"{self._source.id}: preset {config.preset}{tuned}, seed {config.seed}{resumed}",
            f"  {self._parts.describe(place)}",
            *notes,
            f"  until {' or '.join(filter(None, limits)) or 'Ctrl-C'}; run directory {self._place}",
        ]

    def _first_batch(self) -> str:
        """What the first update waits for."""
        steps, environments = self._config.actor.rollout_shape
        rollouts = self._parts.rollouts_in_batch
        return (
            f"the first update needs {rollouts * steps * environments:,} steps "
            "(actor.rollout_steps x actor.environments x learner.rollouts)"
        )

    def _result(self, outcome: Outcome, scores: Scores | None, saved: Path, picture: Path | None) -> list[str]:
        counts, seconds = self._parts.progress.counts, self._clock.seconds
        spent = (
            f"{counts.steps:,} steps and {counts.episodes:,} episodes in {seconds:.1f} s of training "
            f"({counts.steps / max(seconds, 1e-9):,.0f} steps/s)"
        )
        if counts.skipped_updates:
            made = counts.updates + counts.skipped_updates
            spent += f"; {counts.skipped_updates:,} of {made:,} updates were skipped: their gradients were not finite"
        unlearned = [] if counts.updates else [f"  nothing was learned: {self._first_batch()}"]
        if outcome == "interrupted":
            resumed = f"  to continue: troupe resume {self._place}"
            return [f"interrupted after {spent}", *unlearned, f"  checkpoint {saved}", resumed]
        reached = outcome_text(outcome)
        if scores is None:
            what = "interrupted in the final evaluation" if self._signal else "the final evaluation was given up"
            return [
                f"{reached}, and {what} after {spent}",
                *unlearned,
                f"  checkpoint {saved}",
                f"  to evaluate it: troupe evaluate {self._place}",
            ]
        if scores.unfinished == len(scores.returns):
            return [
                f"{reached}: no evaluation episode ended in the time there was, {len(scores.returns)} were begun "
                f"(return {format_return(scores.mean)} in their first {scores.lengths.mean():.0f} steps)",
                f"  {spent}",
                *unlearned,
                f"  checkpoint {saved}",
                f"  to evaluate it: troupe evaluate {self._place}",
            ]
        cut = scores.remarks
        if scores.asked > len(scores.returns):
            cut += f"; there was no time for all {scores.asked}: troupe evaluate plays them"
        return [
            f"{reached}: mean evaluation return {format_return(scores.mean)} "
            f"(min {scores.returns.min():g}, max {scores.returns.max():g}) "
            f"over {len(scores.returns)} {'greedy' if scores.greedy else 'stochastic'} evaluation episodes{cut}",
            f"  {spent}",
            *unlearned,
            f"  picture {picture or 'none: no episode ended while training'}",
            f"  watch:  troupe watch {self._place}",
        ]


def _lost(config: TrainConfig, source: EnvironmentSource, saved: checkpoint.Checkpoint) -> str | None:
    """Why a run cannot go on with the streams it had; None where it can, and "" where nobody expects it to."""
    if not config.traits.serial:
        return ""
    if not source.is_restorable(config.env):
        why = f"env.backend {config.env.backend} has no way to put environments back where they were"
    elif saved.streams is None:
        why = "its checkpoint is not of a serial run that could be put back where it was"
    elif saved.streams["shape"] != [config.actor.environments, config.actor.window_steps]:
        why = "actor.environments or actor.window_steps has been changed"
    else:
        return None
    return f"it goes on with new episodes and random streams, so not as it would have without a stop: {why}"


def _target(config: TrainConfig, source: EnvironmentSource) -> float | None:
    if config.stop.target == "auto":
        return source.reward_threshold
    return None if config.stop.target == "none" else float(config.stop.target)
