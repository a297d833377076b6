"""Environments: from an id, a file or a callable to a batch of environments stepped together."""

from troupe.environments.checks.quiet import quiet_gymnasium
from troupe.environments.lookup.find import find, of_run, report_changes, settle
from troupe.environments.source import Backend, EnvironmentSource, name_of
from troupe.environments.stepping.vector import EnvironmentFailed, VectorEnvironment
