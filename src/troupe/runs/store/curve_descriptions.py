"""The names of stages, and what each curve in TensorBoard is, in a line beside its name. docs/metrics.md has more."""

_TRAINING = "return of the training episodes (exploring actors) that ended since the last report"
_EVALUATION = "return of the evaluation episodes of the newest weights"
_BY_TAG = {
    "episode/training_return": f"Mean {_TRAINING}.",
    "episode/training_return_min": f"Lowest {_TRAINING}.",
    "episode/training_return_max": f"Highest {_TRAINING}.",
    "episode/training_return_of_latest_100": "Mean return of the latest training episodes, at most 100.",
    "episode/training_return_per_1000_steps": "Rewards of each 1,000 steps, while no episode has ended.",
    "episode/training_episodes": "Training episodes that have ended so far.",
    "episode/training_length": "Mean length, in steps, of the training episodes that ended.",
    "episode/evaluation_return": f"Mean {_EVALUATION}.",
    "episode/evaluation_return_min": f"Lowest {_EVALUATION}.",
    "episode/evaluation_return_max": f"Highest {_EVALUATION}.",
    "episode/final_evaluation_return": "Mean return of the final evaluation, of the best weights.",
    "loss/policy_loss": "The policy's term of the loss, unweighted.",
    "loss/value_loss": "The value's term of the loss, unweighted.",
    "loss/bonus": "Mean bonus for novel observations, normalised.",
    "loss/bonus_value_loss": "The loss of the value of the bonuses.",
    "update/explained_variance": "1 - Var(target - V) / Var(target): at most 1; below 0 V is worse than a constant.",
    "update/gradient_norm": "Mean norm of the gradients, before clipping.",
    "update/learning_rate": "Of the next update.",
    "update/skipped_updates": "Updates so far that were refused because their gradient was not finite.",
    "policy/entropy": "Of the policy, in nats.",
    "policy/approx_kl": "KL divergence, in nats, of the policy that learns from the one that acted.",
    "policy/clip_fraction": "Share of the rows whose probability ratio is clipped.",
    "policy/epsilon": "Probability of a uniformly random action.",
    "time/training_seconds": "Seconds of training so far, without evaluations.",
    "time/steps_per_s": "Environment steps in a second of training.",
    "time/updates_per_s": "Updates of the weights, one for each minibatch, in a second of training.",
    "update/updates": "Updates of the weights so far: one for each minibatch.",
    "queue/queue_depth": "Rollouts that wait to be learned from.",
    "queue/lag_mean": "Versions of the weights (one a batch) between acting and learning: mean over steps.",
    "queue/lag_max": "Versions of the weights (one a batch) between acting and learning: the most.",
    "queue/stale": "Rollouts so far that were older than learner.max_lag, or from before a rollback.",
    "queue/restarts": "Actors so far that were replaced because they hung or died.",
    "queue/failures": "Environments so far that were made anew because they raised an error.",
}
STAGE_NAMES = {"preempted": "no free core", "turn": "waiting for a turn", "other": "unaccounted"}
_STAGES = {
    "env": "stepping the environments",
    "env_wait": "waiting for the environments' own sleep, simulator or device",
    "act": "computing actions",
    "predict": "computing actions for all actors",
    "learn": "computing losses, gradients and updates",
    "wait": "waiting for another part of the run",
    "delay": "the sleep of env.delay_seconds",
    "average": "waiting for other learners and averaging gradients with them",
    "turn": "waiting for its turn, as one thread computes at a time",
    "preempted": "waiting for a core, as other threads, of this run or of other programs, have them all",
    "other": "what is in no other stage, mostly moving data",
}


def stage_name(stage: str) -> str:
    """As displays have it; the tags of curves with underscores."""
    return STAGE_NAMES.get(stage, stage.replace("_", " "))


def description(tag: str) -> str:
    """ "" for what a loss or a callback of the user's adds."""
    group, _, name = tag.partition("/")
    if group == "time" and name.startswith("fraction/"):
        _, part, stage = name.split("/")
        words = {stage_name(each): words for each, words in _STAGES.items()}
        on = words.get(stage.replace("_", " "), stage)
        return f"Fraction of its time, from 0 to 1, that the {part} spends on {on}."
    if group == "queue" and name.startswith("numbers/"):
        return f"How many {name.partition('/')[2]} there are."
    return _BY_TAG.get(tag, "")
