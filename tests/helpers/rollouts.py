"""The contract of rollouts."""

from troupe.runtime.data.rollout import FIELDS, INITIAL, Rollout


def check(rollout: Rollout) -> None:
    """Raises ValueError, naming the field, where a rollout breaks the contract."""
    t, b = rollout.reward.shape
    for name in FIELDS:
        rows: tuple[int, ...] = (b,) if name in INITIAL else (t + 1, b) if name in ("obs", "first") else (t, b)
        shape = getattr(rollout, name).shape
        if shape[: len(rows)] != rows:
            raise ValueError(f"rollout.{name} has shape {shape}, expected {rows} first")
    ended = rollout.terminated | rollout.truncated
    if (ended & ~rollout.valid).any():
        raise ValueError("rollout.valid is false on a row that ends an episode; only reset rows are invalid")
    if rollout.reward[~rollout.valid].any():
        raise ValueError("rollout.reward is not 0 on a reset row")
    if (rollout.horizon == 1).all():
        if (ended[:-1] & rollout.valid[1:]).any():
            raise ValueError("rollout.valid is true on the row after an episode's end; it must be the reset row")
        if (rollout.first[1:] != ~rollout.valid).any():
            raise ValueError("rollout.first must be true exactly after a reset row")
    if rollout.action.dtype.kind == "i" and (rollout.behaviour_log_prob > 1e-6).any():  # a density may be above 1
        raise ValueError("rollout.behaviour_log_prob is above 0: not the logarithm of a probability")
