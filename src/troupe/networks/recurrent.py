"""Recurrence: an LSTM or GRU between encoder and heads, one step at a time or over a whole rollout."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from troupe.config import Network
from troupe.environments.actions import Actions

# Overhead of a call and of each of its steps, in units of the time of one row, forward and backward (128 units, one
# core). LSTM: 0.45 ms for a call, 7 us for a row. GRU: 0.16 ms for a step, which is many calls in PyTorch, 5 us for a
# row.
_LSTM, _GRU = (64, 0), (0, 32)


class RecurrentState(NamedTuple):
    """What a recurrent policy reads besides observations, for one row of B environments or T of them.

    Where `resets` is true, a row begins an episode: state, last action and last reward, which belong to the previous
    episode, are then ignored.
    """

    state: Float[Tensor, "B S"]  # before the first row
    resets: Bool[Tensor, "*rows B"]
    last_action: Shaped[Tensor, "*shape"]  # [*rows, B, ...] as in a rollout: the action before each row
    last_reward: Float[Tensor, "*rows B"]  # the raw reward of that action

    def to(self, device: torch.device) -> "RecurrentState":
        return RecurrentState(*(each.to(device, non_blocking=True) for each in self))

    def columns(self, chosen: slice) -> "RecurrentState":
        """The part of the `chosen` environments, for [T, B] rows."""
        return RecurrentState(self.state[chosen], *(each[:, chosen] for each in self[1:]))


class Core(nn.Module):
    """PyTorch's LSTM or GRU with one layer. The state is one row of numbers: h and c side by side for an LSTM."""

    def __init__(self, features: int, actions: Actions, config: Network):
        super().__init__()
        self.last_step = LastStepFeatures(actions) if config.core_inputs else None
        inputs = features + (self.last_step.features if self.last_step else 0)
        self.features = config.core_units
        self.lstm = config.core == "lstm"
        self.rnn = (nn.LSTM if self.lstm else nn.GRU)(inputs, self.features)
        self.state_size = (2 if self.lstm else 1) * self.features
        self._initialize()

    def forward(
        self, features: Float[Tensor, "N F"], state: RecurrentState
    ) -> tuple[Float[Tensor, "N units"], Float[Tensor, "B S"] | None]:
        """One step and the next state if `state` has one row; all N = T B rows, and None, if it has T.

        Computed in float32 whatever the encoder's precision: errors of the state accumulate over a whole episode.
        """
        kind = features.device.type
        with torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext():
            inputs, resets = features.to(state.state.dtype), state.resets
            if self.last_step is not None:
                inputs = torch.cat([inputs, self.last_step(state).flatten(0, resets.ndim - 1)], -1)
            if resets.ndim == 1:
                return self.step(inputs, state.state, resets)
            return self.unroll(inputs.reshape(*resets.shape, -1), state.state, resets).flatten(0, 1), None

    def step(
        self, features: Float[Tensor, "B F"], state: Float[Tensor, "B S"], resets: Bool[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B units"], Float[Tensor, "B S"]]:
        """One step by the cell function, which takes half as long as the sequence module does for one step."""
        state = state.masked_fill(resets.unsqueeze(1), 0.0)
        weights = self.rnn.all_weights[0]
        if not self.lstm:
            hidden = torch.gru_cell(features, state, *weights)
            return hidden, hidden
        hidden, cell = torch.lstm_cell(features, state.chunk(2, 1), *weights)
        return hidden, torch.cat([hidden, cell], 1)

    def unroll(
        self, features: Float[Tensor, "T B F"], state: Float[Tensor, "B S"], resets: Bool[Tensor, "T B"]
    ) -> Float[Tensor, "T B units"]:
        """The same as T calls of `step`, in one call if no episode begins inside the rollout, else in a few.

        Episode starts cut a column into independent sequences. Sequences of similar length are computed as one batch,
        whichever column they come from, padded by rows whose outputs are dropped; the grouping minimises the cost.
        """
        starts = resets.cpu().numpy()
        state = state.masked_fill(resets[0].unsqueeze(1), 0.0)
        if not starts[1:].any():
            return self._run(features, state)
        environments = features.shape[1]
        features, empty = features.flatten(0, 1), torch.zeros_like(state[:1])
        outputs, output_row, done = [], np.empty(starts.size, np.int64), 0
        for rows, inside, column in _sequences(starts, *(_LSTM if self.lstm else _GRU)):
            # Sequences at the beginning of the rollout start from its state, others from zeros.
            known = torch.from_numpy(np.where(rows[0] < environments, column, environments)).to(state.device)
            run = self._run(features[torch.from_numpy(rows).to(features.device)], torch.cat([state, empty])[known])
            outputs.append(run.flatten(0, 1))
            output_row[rows[inside]] = done + np.flatnonzero(inside)
            done += rows.size
        return torch.cat(outputs)[torch.from_numpy(output_row.reshape(starts.shape)).to(features.device)]

    def _run(self, features: Float[Tensor, "T B F"], state: Float[Tensor, "B S"]) -> Float[Tensor, "T B units"]:
        state = state.unsqueeze(0)
        parts = tuple(part.contiguous() for part in state.chunk(2, 2)) if self.lstm else state
        output: Tensor = self.rnn(features, parts)[0]
        return output

    @torch.no_grad()
    def _initialize(self) -> None:
        """Orthogonal weights for each gate; biases 0, but 1 for the LSTM's forget gate (Jozefowicz et al. 2015)."""
        for name, weight in self.rnn.named_parameters():
            if name.startswith("bias"):
                weight.zero_()
                continue
            for gate in weight.chunk(len(weight) // self.features):
                nn.init.orthogonal_(gate)
        if self.lstm:
            self.rnn.get_parameter("bias_ih_l0").chunk(4)[1].fill_(1.0)  # the forget gate's


class LastStepFeatures:
    """The last action and reward as inputs of a core.

    Discrete actions are one-hot, those of a Box as sampled (before clipping), rewards are sign(r) log(1 + |r|).
    """

    def __init__(self, actions: Actions):
        self._actions = actions
        self.features = sum(part.choices or part.width for part in actions.parts) + 1

    def __call__(self, state: RecurrentState) -> Float[Tensor, "*rows B features"]:
        rows = state.last_action.unsqueeze(-1) if self._actions.single else state.last_action
        columns = rows.split_with_sizes([part.width for part in self._actions.parts], -1)
        parts = [
            nn.functional.one_hot(column.squeeze(-1).long(), part.choices).float() if part.choices else column.float()
            for part, column in zip(self._actions.parts, columns, strict=True)
        ]
        reward = state.last_reward.sign() * state.last_reward.abs().log1p()
        return torch.cat([*parts, reward.unsqueeze(-1)], -1).masked_fill(state.resets.unsqueeze(-1), 0.0)


def _sequences(starts: np.ndarray, call: int, step: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The sequences of [T, B] rows, in groups of similar length, longest first.

    Yields for each group of n sequences, the longest with L rows: the indices t B + b [L, n] of their rows, whether
    each is inside its sequence [L, n], and the column b [n] of each sequence.
    """
    steps, environments = starts.shape
    starts = starts.copy()
    starts[0] = True
    column, start = np.nonzero(starts.T)
    length = np.diff(np.append(column * steps + start, starts.size))
    order = np.argsort(-length, kind="stable")
    column, start, length = column[order], start[order], length[order]
    for group in grouped(length, call, step):
        t = np.arange(length[group][0])[:, None]
        rows = np.minimum(start[group] + t, steps - 1) * environments + column[group]
        yield rows, t < length[group], column[group]


def grouped(length: np.ndarray, call: int, step: int) -> Iterator[slice]:
    """The cheapest grouping of sequences, which come longest first: a group is one call, padded to its longest one."""
    count = len(length)
    cost = np.zeros(count + 1)  # of all sequences from this one on
    end = np.zeros(count, np.int64)  # of the group that begins with this one
    for begin in range(count - 1, -1, -1):
        costs = call + length[begin] * (step + np.arange(1, count - begin + 1)) + cost[begin + 1 :]
        end[begin], cost[begin] = begin + 1 + costs.argmin(), costs.min()
    begin = 0
    while begin < count:
        yield slice(begin, end[begin])
        begin = end[begin]
