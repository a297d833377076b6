"""A run under way: builds it, watches it, saves it and brings it to its end."""

import copy
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from troupe import messages
from troupe.agent import Agent
from troupe.algorithm.schedules import Schedule
from troupe.conclusion import EVALUATING, SAVING, close_in_time, draw_picture, failure_of, write_summary
from troupe.config import Mode, TrainConfig, TroupeError, UsageError, reason
from troupe.environments import EnvironmentSource
from troupe.networks.custom import NetworkMaker
from troupe.run import Outcome, Run, limit_reached, stop_by_signal
from troupe.run_output import RunOutput
from troupe.run_state import RunState, why_streams_are_lost
from troupe.runs.callbacks.callback import Callback, Callbacks, Training
from troupe.runs.evaluate.collapse_handler import CollapseHandler
from troupe.runs.evaluate.judge import Judge, Verdict, standstill, target_of
from troupe.runs.evaluate.scores import Scores
from troupe.runs.evaluate.watched import make_evaluator
from troupe.runs.report.curves import rows_until
from troupe.runs.report.display import Display
from troupe.runs.report.labels import read_measured
from troupe.runs.report.reporter import Reporter
from troupe.runs.report.words import limits_of
from troupe.runs.store import weights
from troupe.runs.store.checkpoint import Checkpoint
from troupe.runs.store.directory import RunDirectory
from troupe.runs.store.saved_agent import origin
from troupe.runs.store.writer import RunWriter
from troupe.runtime.assembly import assemble
from troupe.runtime.execution.interruption import POLL_SECONDS, is_interrupt, on_signal
from troupe.runtime.execution.supervisor import Failure, Supervisor
from troupe.runtime.initial_network import first_network
from troupe.runtime.journal import Journal
from troupe.runtime.learning.group import Alone
from troupe.runtime.progress import Clock, Counts, Progress
from troupe.torch_threads import one_torch_thread

_START_SECONDS = 20.0  # for the first actors to be ready, on top of the time limit, which begins only then


class Session:
    """One run of training, which `run` carries out. The main thread watches, and learners call `_after_batch`.
    `measured` names the settings that were chosen by measurement, and `findings` describes what it found."""

    def __init__(
        self,
        config: TrainConfig,
        source: EnvironmentSource,
        network: nn.Module | NetworkMaker | None,
        display: Mode,
        resumed: tuple[Path, Checkpoint] | None = None,
        findings: Sequence[str] = (),
        measured: Sequence[str] = (),
        schedule: Schedule | None = None,
        callbacks: Sequence[Callback] = (),
        group: Alone = Alone(),  # noqa: B008  # it has no state
    ):
        self._began = time.perf_counter()
        source.check(config.env)
        self._config, self._source, self._findings = config, source, findings
        self._display = Display(display)
        path, saved = resumed or (Path(), None)
        self._measured = read_measured(path) if saved else measured
        self._resumed, state = saved is not None, saved.state if saved else None
        lost = why_streams_are_lost(config, source, saved) if saved else None
        # A run whose streams are not restored draws new ones: it must not play the same episodes again.
        resumes = state.resumes + (lost is not None) if state else 0
        self._network, topology_seed, judge_seed = first_network(network, source, config, resumes)
        if saved:
            weights.put(path, saved.model, self._network)
        self._progress = Progress(replace(state.counts) if state else Counts())
        self._journal = Journal() if config.record and not saved else None
        version = state.version if state else 0
        self._topology = assemble(
            config, source, self._network, topology_seed, self._progress, version, self._journal, schedule, group
        )
        self._progress.notices += messages.first_notices(config, source, lost, resumed=self._resumed)
        self._progress.notice_once(messages.lock_notice(config))
        self._supervisor = Supervisor(self._topology.gate, self._topology.wake)
        self._clock = Clock(state.seconds if state else 0.0)
        self._outcome: Outcome | None = None
        self._ending = threading.Lock()  # the main thread and the learners may end the run: the first says how
        self._signal = 0
        self._checkpoint_due = False  # whatever the clock says
        self._target = target_of(config.stop, source)
        where = lambda: self._directory.absolute  # noqa: E731
        view = Training(config, source, self._progress, self._clock, where, self._agent, self._save_soon)
        self._callbacks = Callbacks(callbacks, view, lambda: self._end("callback"), self._supervisor.fail)
        self._output = RunOutput(self._display, self._progress, self._callbacks, limits_of(config, self._target))
        restarts = config.env.on_error == "restart"
        refusal = partial(self._progress.fail, most=config.actor.restarts) if restarts else None
        try:
            self._evaluator, self._lent = make_evaluator(
                config, source, self._topology.lender(), self._evaluation_hangs, refusal
            )
        except UsageError:
            self._topology.close()
            raise
        self._judge = Judge(
            config, self._target, self._network, self._evaluator, judge_seed, self._clock, self._progress,
            self._output.rows.append,
        )  # fmt: skip
        self._collapse = CollapseHandler(config, self._topology, self._output.rows.append)
        self._state = RunState(
            self._topology, self._network, self._judge, self._collapse, source, self._clock,
            resumes=resumes, custom_network=network is not None, measured=self._measured,
        )  # fmt: skip
        if saved:
            self._state.restore(saved, streams=lost is None)

    def notice(self, text: str) -> None:
        """A line for the user, shown by the main thread."""
        self._progress.notices.append(text)

    def run(self, directory: RunDirectory) -> Run:
        """Trains until the run ends, for whatever reason; what was learned is saved before an error is raised."""
        self._directory = directory
        with ExitStack() as stack:
            stack.enter_context(self._display)
            writer = RunWriter(directory, self._config, self._journal, self._display.notice)
            self._writer = stack.enter_context(writer)
            if self._resumed:
                writer.metrics.resume(self._progress.counts.steps, self._clock.seconds)
                self._display.resume(rows_until(self._path, self._progress.counts.steps))
            stack.enter_context(on_signal(self._interrupt))
            stack.enter_context(one_torch_thread())
            raised: BaseException | None = None
            try:
                introduction = messages.introduction(
                    self._config, self._source, self._topology, self._target, self._findings, self._path,
                    resumed=self._resumed,
                )  # fmt: skip
                self._display.start(introduction)
                self._callbacks.on_start()
                limits = self._config.stop, self._progress.counts.steps, self._clock.seconds
                if not (outcome := limit_reached(*limits)):
                    self._watch()
                self._outcome = self._outcome or outcome  # of a resumed run that lacks nothing but its evaluation
            except BaseException as error:  # whatever it is, what was learned is saved first
                if not (self._signal and is_interrupt(error)):  # a second signal ends the waiting only
                    raised = error
                    self._supervisor.fail("the main thread", error)
            try:
                done = self._finish()
            except TroupeError:
                if raised is not None and not isinstance(raised, Exception):
                    raise raised  # noqa: B904  # to exit, or by an interrupt
                raise
        if done.signal:
            raise stop_by_signal(done, self._config)
        return done

    # While it trains

    def _watch(self) -> None:
        """Starts the threads, reports and saves while they work, and stops them."""
        topology = self._topology
        reporter = Reporter(topology, self._clock.seconds)
        with self._supervisor:
            topology.start(self._supervisor, self._after_batch)
            began = shown = saved = self._clock.seconds
            self._wait_for_actors()
            reporter.begin()
            self._clock.start()
            while not self._supervisor.wait(POLL_SECONDS):
                self._writer.write_journal()
                topology.look_after(self._supervisor, self._after_batch)
                seconds = self._clock.seconds
                if self._signal:
                    self._end("interrupted")
                elif self._config.stop.seconds and seconds >= self._config.stop.seconds:
                    self._end("time")  # learners that wait for rollouts would not notice
                if seconds - shown >= min(2.0, max(0.05, (seconds - began) / 50)):
                    shown = seconds
                    self._progress.notice_once(messages.lock_notice(self._config))  # an import may come late
                    self._output.show(self._writer, reporter.report(seconds))
                due = self._checkpoint_due or seconds - saved >= self._config.checkpoint.every_seconds
                if due and self._state.save_while_running(self._writer):
                    saved, self._checkpoint_due = seconds, False
                    self._output.checkpoint(self._writer.saved)
            self._clock.stop()
        if self._journal and not self._supervisor.stop(patience_seconds=0.0):
            self._journal.end(topology.master.vector)
        self._writer.write_journal()
        self._output.show(self._writer, reporter.report(self._clock.seconds))

    def _wait_for_actors(self) -> None:
        """Waits until all actors in processes are ready to play: training time begins then."""
        ready, limit, began = self._topology.ready, self._config.stop.seconds, time.monotonic()
        most = max(0.0, limit - self._clock.seconds) + _START_SECONDS if limit else math.inf
        while not (ready.open or self._supervisor.wait(0.0)):
            ready.wait_for(POLL_SECONDS)
            if self._signal:
                self._end("interrupted")
            elif time.monotonic() - began > most:
                self.notice(
                    f"after {most:.0f} s the actors are still making and resetting their environments: the run ends"
                )
                self._end("time")

    def _after_batch(self) -> None:
        """Called by the learners, one at a time, while the weights do not change."""
        steps = self._progress.counts.steps
        self._collapse.on_batch()
        verdict = self._evaluate(steps) if self._judge.is_due(steps) else None
        if verdict and verdict.confirmed:
            self._end("solved")
        elif limit := limit_reached(self._config.stop, steps, self._clock.seconds):
            self._end(limit)

    def _evaluate(self, steps: int) -> Verdict | None:
        topology = self._topology
        with standstill(self._clock, topology.gate, self._lent):
            verdict = self._judge.evaluate(topology.master.eval_weights, steps, lambda: topology.gate.stopped)
            if verdict:
                self._collapse.on_evaluation(verdict, self._clock.seconds)
        return verdict

    def _evaluation_hangs(self, text: str) -> None:
        """Called by the thread that evaluates. What blocks this environment may block the run as well, so it is
        saved."""
        self.notice(text)
        self._save_soon()

    def _save_soon(self) -> None:
        self._checkpoint_due = True

    def _end(self, outcome: Outcome) -> None:
        with self._ending:
            self._outcome = self._outcome or outcome
        self._supervisor.end()

    def _interrupt(self, number: int) -> None:
        # Nothing more: a signal may come while this very thread holds a lock that ending takes.
        self._signal = number

    def _interrupted(self) -> bool:
        return self._signal != 0

    @property
    def _path(self) -> Path:
        return self._directory.path

    # At the end

    def _finish(self) -> Run:
        """Saves, evaluates the best weights, and writes the summary and the picture."""
        self._clock.stop()
        self._stuck = self._supervisor.stop(patience_seconds=POLL_SECONDS)  # waited for, and still busy
        self._topology.rewind()
        self._outcome = self._outcome or ("interrupted" if self._signal else None)
        counts, failure = self._progress.counts, self._supervisor.failure
        newest, saved, scores, doing = self._topology.master.eval_weights, None, None, SAVING
        try:
            try:
                saved = self._state.save(self._writer)
            except KeyboardInterrupt:  # a second signal came in the middle of it
                saved = self._state.save(self._writer)
            if self._stuck:
                self._display.notice(f"still busy when the run ended, and abandoned: {', '.join(self._stuck)}")
            if not failure and not self._signal:
                with self._waiting():
                    deadline, doing = self._judge.final_deadline(), EVALUATING
                    if self._judge.evaluate_newest(newest, counts.steps, self._interrupted, deadline):
                        doing = SAVING
                        saved, doing = self._state.save(self._writer), EVALUATING
                    scores = self._judge.final_evaluation(newest, counts.steps, self._interrupted, deadline)
        except (Exception, SystemExit) as error:
            failure = failure or Failure(doing, error)
        with self._waiting():
            self._output.end(self._writer, saved)
        failure = failure or self._supervisor.failure  # a callback's
        with self._waiting():
            if wrong := close_in_time(self._close_environments, self._interrupted):
                self._display.notice(f"environment {self._source.id}: {wrong}")
        self._output.show_notices()
        if failure:
            failed = failure_of(self._path, failure, saved)
            with suppress(OSError):
                self._write_summary("failed", None)
            with self._waiting():
                self._callbacks.on_end("failed", None)
            raise failed from failure.error
        assert self._outcome is not None
        assert saved is not None
        self._conclude(self._outcome, scores, saved)
        with self._waiting():
            self._callbacks.on_end(self._outcome, scores)
        if failure := self._supervisor.failure:
            raise failure_of(self._path, failure, saved) from failure.error
        path, seconds, agent = self._directory.absolute, self._clock.seconds, self._agent(best=True)
        return Run(path, self._outcome, scores, counts.steps, counts.updates, seconds, agent, self._signal)

    def _agent(self, best: bool) -> Agent:
        network, source = copy.deepcopy(self._network).cpu(), self._source
        network.load_state_dict(self._network.state_dict() | self._state.weights(self._interrupted, best=best))
        greedy, about = self._config.evaluation.greedy, origin(self._path, self._config)
        spaces = source.observation_space, source.action_space
        return Agent(network.eval(), *spaces, greedy=greedy, about=about, config=self._config)

    def _conclude(self, outcome: Outcome, scores: Scores | None, saved: Path) -> None:
        """Writes the summary, draws the picture and shows the result."""
        picture = None
        try:
            self._write_summary(outcome, scores)
            with self._waiting():
                picture = draw_picture(self._path) if scores else None
        except (OSError, TroupeError) as error:
            raise TroupeError(
                f"'{self._path}' cannot be written to the end: {reason(error)}; weights saved in {saved}"
            ) from error
        training = messages.training_report(self._config, self._topology, self._clock.seconds)
        training += self._topology.cluster.figures.lines() if self._topology.cluster else []
        ended = self._config, outcome, scores, training, self._path, saved, picture
        self._display.result(messages.result(*ended, signalled=self._interrupted()))

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """A second signal ends only what is inside: the rest is still written and shown."""
        try:
            yield
        except BaseException as error:
            if not (self._signal and is_interrupt(error)):
                raise

    def _close_environments(self) -> None:
        try:
            self._evaluator.close()
        finally:
            if not self._stuck:  # whose environments are in use
                self._topology.close()

    def _write_summary(self, outcome: str, scores: Scores | None) -> None:
        write_summary(
            self._path,
            self._config,
            self._progress.counts,
            self._clock.seconds,
            outcome=outcome,
            environment=self._source.id,
            measured=self._measured,
            target=self._target,
            evaluation=scores.summary() if scores else None,
            best_steps=self._judge.best_steps,
            total_seconds=round(time.perf_counter() - self._began, 3),
            **self._collapse.summary(),
        )
