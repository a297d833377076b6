"""The configuration of a run: its settings, by name (values), in layers and in files, and which exclude each other.

Nothing here imports torch or Gymnasium, so that a wrong name is reported at once.
"""

from troupe.config.errors import TroupeError, UsageError, did_you_mean, one_line, plain_words, printable, reason
from troupe.config.evaluation import Checkpoint, Collapse, Evaluation, Stop
from troupe.config.files import from_toml, read_settings, settings_in, to_toml
from troupe.config.layers import Preset, Tuned, Verified, load_preset, presets, resolve
from troupe.config.protocols import protocol_of
from troupe.config.python_arguments import Mode, checked
from troupe.config.settings import (
    Actor,
    Adjust,
    Environment,
    Exploration,
    Inference,
    Learner,
    Loss,
    Network,
    Novelty,
    Queue,
    TrainConfig,
)
from troupe.config.suggestions import likely, suggest
from troupe.config.topologies import Topology
from troupe.config.values import (
    PASSED,
    Field,
    build,
    by_name,
    check_name,
    check_option,
    check_value,
    differing,
    fields,
    flatten,
    named_callables,
    replace,
    seconds,
    value_of,
    whole_number,
)
