"""Suggestions for names that do not exist: a synonym, the last part, or the nearest spelling."""

import difflib
from collections.abc import Collection, Mapping
from types import MappingProxyType

# What other programs and the literature call our settings, those that are changed most often first in each section.
_OTHER_WORDS = {
    "preset": "algo algorithm",
    "seed": "random_seed",
    "device": "gpu cuda",
    "run_dir": "log_dir logdir save_dir out output out_dir output_dir name",
    "watch": "render play",
    "stop.steps": "timesteps total_timesteps total_steps num_timesteps n_timesteps frames num_frames iterations",
    "stop.seconds": "time seconds minutes duration timeout max_time time_limit",
    "stop.target": "goal reward_threshold target_return",
    "actor.count": "actors agents num_agents n_agents workers num_workers n_workers num_actors n_actors processes",
    "actor.environments": "envs num_envs n_envs environments",
    "actor.rollout_steps": "n_steps num_steps t_max rollout_length unroll_length horizon",
    "exploration.epsilon": "eps epsilon",
    "network.hidden": "hidden_size hidden_sizes hidden_units layers net_arch",
    "network.core": "lstm gru rnn recurrent memory",
    "loss.kind": "loss loss_fn objective",
    "loss.gamma": "gamma discount discount_factor",
    "loss.lam": "lambda gae_lambda lmbda",
    "loss.clip": "clip_range clip_coef clip_param ppo_clip",
    "loss.entropy_coefficient": "entropy ent_coef entropy_coef entropy_weight",
    "loss.value_coefficient": "vf_coef value_coef value_loss_coef",
    "learner.learning_rate": "lr learning_rate step_size alpha",
    "learner.rollouts": "batch_size batch",
    "learner.count": "learners num_learners optimizers",
    "learner.optimizer": "optim",
    "learner.epochs": "n_epochs num_epochs update_epochs ppo_epochs",
    "learner.minibatches": "num_minibatches n_minibatches nminibatches minibatch_size",
    "learner.gradient_norm": "norm max_grad_norm grad_norm grad_clip clip_grad",
    "evaluation.every_steps": "eval_freq eval_every eval_interval",
    "evaluation.episodes": "eval_episodes n_eval_episodes",
    "checkpoint.every_seconds": "save_freq save_every save_interval checkpoint_interval",
}
_MEANT = {word: name for name, words in _OTHER_WORDS.items() for word in words.split()}


def suggest(word: str, known: Collection[str], short: Mapping[str, str] = MappingProxyType({})) -> str:
    """'; did you mean x?' for the names in `known` that `word` probably means (`likely`); or nothing."""
    found = likely(word, known, short)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def likely(word: str, known: Collection[str], short: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """The names in `known` that `word` probably means, three at most.

    Names are compared without leading dashes, and with "-" and "_" as the same. `short` has shorter names for some.
    """
    plain = {_plain(name): name for name in known}
    given = _plain(word)
    section, _, leaf = given.rpartition(".")
    meant = next((_MEANT[each] for each in (given, leaf) if each in _MEANT), given)
    beside = f"{section}.{meant.rpartition('.')[2]}"  # --novelty.lr: a section's own setting of that name
    meant = beside if section and beside in plain else meant
    same = [each for each in plain if each.rpartition(".")[2] == given]  # sections have it as a name of their own
    names = [meant] if given not in plain and meant in plain else sorted(same, key=_rank)
    found = [short.get(each, plain[each]) for each in names] or [_nearest(given, plain, short)]
    return [name for name in found if name][:3]


def _rank(name: str) -> int:
    """Position among the settings that are changed most often."""
    known = list(_OTHER_WORDS)
    return known.index(name) if name in known else len(known)


def _nearest(given: str, plain: Mapping[str, str], short: Mapping[str, str]) -> str:
    """The name with the nearest spelling: of the whole; of its last part, where `given` is only that; or of another
    word for it; or ""."""
    last = {name.rpartition(".")[2]: name for name in sorted(plain, key=_rank, reverse=True)}
    last |= {word: name for word, name in _MEANT.items() if name in plain}
    if "." not in given and (near := difflib.get_close_matches(given, last, n=1, cutoff=0.75)):
        return short.get(last[near[0]], plain[last[near[0]]])
    near = difflib.get_close_matches(given, plain, n=1)
    return plain[near[0]] if near else ""


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_").lower()
