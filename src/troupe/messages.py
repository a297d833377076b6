"""The messages of a run when it begins and when it has ended."""

from collections.abc import Sequence
from pathlib import Path

from troupe import hints
from troupe.config import TrainConfig, load_preset, protocol_of
from troupe.environments import EnvironmentSource, spaces
from troupe.interpreter import lock_turned_on, threads_run_in_parallel
from troupe.run import Outcome, outcome_text
from troupe.runs.evaluate.scores import Scores
from troupe.runs.report.curves import only_return
from troupe.runtime.execution.placements import placement_of
from troupe.runtime.execution.process_launch import NO_PROCESSES, may_have_processes
from troupe.runtime.learning import annealing
from troupe.runtime.topologies import Topology
from troupe.text import counted, format_return

_FEWEST_EPISODES = 20  # with the same return, before that is reported


def introduction(
    config: TrainConfig,
    source: EnvironmentSource,
    topology: Topology,
    target: float | None,
    measured: Sequence[str],
    path: Path,
    *,
    resumed: bool,
) -> list[str]:
    """Environment, preset, topology, limits and run directory. `measured`: what was measured beforehand."""
    stop, steps = config.stop, topology.progress.counts.steps
    found = load_preset(config.preset).tuned_for(source.id) if config.tuned else None
    tuned = ""
    if found:
        kind = "tuned" if found.verified else "with settings, not tuned,"
        tuned = f", {kind} for {source.id} ({hints.either('--untuned', 'tuned=False')} ignores these settings)"
    confirming = counted(config.evaluation.final_episodes, "evaluation episode")
    limits = [
        f"a return of {target:g} (confirmed by {confirming})" if target is not None else "",
        f"{stop.steps:,} steps" if stop.steps else "",
        f"{stop.seconds:g} s of training" if stop.seconds else "",
    ]
    placed = placement_of(config, source).plural
    if topology.cluster:
        placed += f" on {topology.cluster.describe()}"
    for_lack_of_others = placed == "threads" and config.actor.placement == "auto" and not threads_run_in_parallel()
    if for_lack_of_others and source.unsendable:
        placed += f" (the environment cannot be sent to processes: {source.unsendable})"
    notes = [*source.notices, *measured]
    notes += _protocol(config)
    if source.masked:
        notes.append(f"actions as the {source.masked}'s {spaces.MASK} allows")
    if described := annealing.described(topology.schedule, config, steps):
        notes.append(described)
    batch = _batch_steps(config, topology)
    return [
        f"{source.id}: preset {config.preset}{tuned}, seed {config.seed}"
        + (f", resumed at step {steps:,}" if resumed else ""),
        f"  {topology.describe(placed)}, {'at least ' if config.learner.take_all else ''}{batch:,} steps a batch",
        *(f"  {note}" for note in notes),
        f"  until {' or '.join(filter(None, limits)) or 'Ctrl-C'}",
        f"  run directory {path}",
    ]


def first_notices(config: TrainConfig, source: EnvironmentSource, lost: str | None, *, resumed: bool) -> list[str]:
    """What a user may not expect from this run. `lost`: why it does not continue its random streams, if it should."""
    notices = [lost] if lost else []
    wanted = not (config.traits.serial or source.is_native(config.env) or threads_run_in_parallel())
    if wanted and not may_have_processes():
        notices.append(f"actors play in threads: {NO_PROCESSES}")
    if resumed and config.record:
        notices.append("not recorded from here on: troupe replay goes up to where the run was stopped")
    return notices


def lock_notice(config: TrainConfig) -> dict[str, str]:
    """What has turned on the lock of a free-threaded Python, for `Progress.notice_once`; {} if nothing has."""
    what = lock_turned_on()
    if not what or config.traits.serial:
        return {}
    return {
        "lock": f"{what} has turned Python's interpreter lock back on: threads no longer run in parallel, and "
        "actor.placement auto means processes again (docs/free_threading.md)"
    }


def training_report(config: TrainConfig, topology: Topology, seconds: float) -> list[str]:
    """How much was trained and how fast, and what went wrong."""
    counts = topology.progress.counts
    speed = (
        f"{counts.steps:,} steps and {counted(counts.episodes, 'episode')} in {seconds:.1f} s of training "
        f"({counts.steps / max(seconds, 1e-9):,.0f} steps/s)"
    )
    if counts.skipped_updates:
        updates = counts.updates + counts.skipped_updates
        speed += f"; {counts.skipped_updates:,} of {updates:,} updates were skipped: their gradients were not finite"
    dropped = []
    if counts.failures:
        first = f": {error}" if (error := topology.progress.first_failure) else ""
        dropped = [f"{counted(counts.failures, 'episode')} dropped, as the environment failed{first}"]
    if counts.updates:
        return [speed, *dropped, *_protocol(config)]
    learners = f" x {topology.group.size} learners" if topology.group.size > 1 else ""
    return [
        speed,
        *dropped,
        f"nothing was learned: the first update needs {_batch_steps(config, topology):,} steps "
        f"(actor.rollout_steps x actor.environments x learner.rollouts{learners})",
    ]


def _batch_steps(config: TrainConfig, topology: Topology) -> int:
    """The environment steps of a batch, of all learners together."""
    steps, environments = config.actor.rollout_shape
    return topology.rollouts_in_batch * steps * environments * topology.group.size


def result(
    config: TrainConfig,
    outcome: Outcome,
    scores: Scores | None,
    training: Sequence[str],
    path: Path,
    saved: Path,
    picture: Path | None,
    *,
    signalled: bool,
) -> list[str]:
    """The outcome of the run. `training`: the training report; `scores`: None without a final evaluation."""
    spent, *others = training
    if outcome == "interrupted":
        resume = f"to continue: {hints.call('resume', path, config)}"
        others += _nothing_learned(config, path)
        return [f"interrupted after {spent}", *_indented(*others, f"checkpoint {saved}", resume)]
    reached = outcome_text(outcome)
    unevaluated = [f"checkpoint {saved}", f"to evaluate it: {hints.call('evaluate', path, config)}"]
    if scores is None:
        what = "interrupted in the final evaluation" if signalled else "the final evaluation was given up"
        return [f"{reached}, and {what} after {spent}", *_indented(*others, *unevaluated)]
    if scores.unfinished == len(scores.returns):
        begun = f"{len(scores.returns)} {'was' if len(scores.returns) == 1 else 'were'} begun"
        return [
            f"{reached}: no evaluation episode ended in the time there was, {begun} "
            f"(return {format_return(scores.mean)} in their first {scores.lengths.mean():.0f} steps)",
            *_indented(*training, *unevaluated),
        ]
    remarks, kind = scores.remarks, "greedy" if scores.greedy else "stochastic"
    if scores.asked > len(scores.returns):
        remarks += f"; there was no time for all {scores.asked}: {hints.call('evaluate', path, config)} plays them"
    return [
        f"{reached}: mean evaluation return {format_return(scores.mean)} "
        f"(min {scores.returns.min():g}, max {scores.returns.max():g}) "
        f"over {counted(len(scores.returns), f'{kind} episode')}{remarks}",
        *_indented(
            *training,
            *(() if outcome == "solved" else _nothing_learned(config, path)),
            f"picture {picture or 'none: no episode ended while training'}",
            f"watch:  {hints.call('watch', path, config)}",
        ),
    ]


def _nothing_learned(config: TrainConfig, path: Path) -> list[str]:
    """What may help if all episodes had the same return, so that no action was better than another."""
    same = only_return(path, _FEWEST_EPISODES)
    if same is None:
        return []
    helps = "more steps, longer episodes (env.max_steps), or a reward on the way to the goal"
    if config.preset != "appo" or not config.novelty.coefficient:
        options = hints.options("appo", {"novelty.coefficient": 0.5})
        helps = f"the default preset with a bonus for novel observations ({options}), or {helps}"
    return [
        f"no episode ever returned anything but {same:g}, and so there was nothing to learn; what may help: {helps}"
    ]


def _protocol(config: TrainConfig) -> list[str]:
    name = protocol_of(config.env)
    return [f"Atari protocol: {name}"] if name else []


def _indented(*lines: str) -> list[str]:
    return [f"  {line}" for line in lines]
