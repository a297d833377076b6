"""The configuration of a run: what there is to say (settings), how it is said by name (values), in layers and
in files, and what does not go together (checks).

Nothing in here imports torch or Gymnasium: a wrong word is answered at once.
"""

from troupe.config.errors import TroupeError, UsageError, did_you_mean, one_line, plain_words, printable, reason
from troupe.config.files import from_toml, to_toml
from troupe.config.layers import Preset, Tuned, Verified, load_preset, presets, resolve
from troupe.config.settings import (
    Actor,
    Adjust,
    Checkpoint,
    Collapse,
    Environment,
    Evaluation,
    Exploration,
    Inference,
    Learner,
    Loss,
    Network,
    Novelty,
    Queue,
    Stop,
    TrainConfig,
)
from troupe.config.suggestions import suggest
from troupe.config.topologies import Topology
from troupe.config.values import (
    Field,
    build,
    check_option,
    differing,
    fields,
    flatten,
    named_callables,
    register_choice,
    replace,
    seconds,
    whole_number,
)

__all__ = [
    "Actor",
    "Adjust",
    "Checkpoint",
    "Collapse",
    "Environment",
    "Evaluation",
    "Exploration",
    "Field",
    "Inference",
    "Learner",
    "Loss",
    "Network",
    "Novelty",
    "Preset",
    "Queue",
    "Stop",
    "Topology",
    "TrainConfig",
    "TroupeError",
    "Tuned",
    "UsageError",
    "Verified",
    "build",
    "check_option",
    "did_you_mean",
    "differing",
    "fields",
    "flatten",
    "from_toml",
    "load_preset",
    "named_callables",
    "one_line",
    "plain_words",
    "presets",
    "printable",
    "reason",
    "register_choice",
    "replace",
    "resolve",
    "seconds",
    "suggest",
    "to_toml",
    "whole_number",
]
