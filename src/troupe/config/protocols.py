"""Atari protocols: how games begin, end and take actions. Only scores of one protocol can be compared."""

from collections.abc import Mapping
from typing import Any

from troupe.config.settings import Environment

# nature: Mnih et al. 2015, with the FIRE button that later programs press at the start. v5: as Gymnasium registers
# ALE/...-v5, with the sticky actions and the whole games of Machado et al. 2018.
PROTOCOLS: Mapping[str, Mapping[str, Any]] = {
    "nature": {"sticky": 0.0, "episodic_life": True, "fire_reset": True, "noops": 30, "frame_skip": 4},
    "v5": {"sticky": 0.25, "episodic_life": False, "fire_reset": False, "noops": 0, "frame_skip": 4},
}


def settings_of_protocol(name: object) -> dict[str, Any]:
    """What `env.protocol = name` sets, by dotted names; nothing for an unknown name."""
    values = PROTOCOLS.get(name, {}) if isinstance(name, str) else {}
    return {f"env.{setting}": value for setting, value in values.items()}


def protocol_of(env: Environment) -> str:
    """The protocol of an Atari game, with the settings that differ from it; "" for other environments."""
    if not env.id.rpartition(":")[2].startswith("ALE/"):
        return ""
    values = PROTOCOLS[env.protocol]
    differing = [name for name, value in values.items() if getattr(env, name) != value]
    return ", ".join([env.protocol, *(f"but env.{name} = {getattr(env, name)}" for name in differing)])
