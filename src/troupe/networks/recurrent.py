"""Memory: an LSTM or GRU between encoder and heads, one step at a time or all of a rollout at once."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from troupe.config import Network
from troupe.environments.actions import Actions

# What a call costs beside its rows, and each of its steps, in rows, forwards and back (128 units, one core): an LSTM's
# call 0.45 ms, its row 7 us; a GRU's step, of which PyTorch makes many calls, 0.16 ms, its row 5 us.
_LSTM, _GRU = (64, 0), (0, 32)


class Memory(NamedTuple):
    """What a policy with memory reads beside observations, of one row of B environments or (unrolled) of T rows.

    A row that begins an episode finds an empty memory, whatever state it is given; there the action and
    the reward before it, which are another episode's, count for nothing either.
    """

    state: Float[Tensor, "B S"]  # before the first row
    first: Bool[Tensor, "*rows B"]  # whether a row begins an episode
    action: Shaped[Tensor, "*shape"]  # [*rows, B, ...] as in a rollout: what was played before each row
    reward: Float[Tensor, "*rows B"]  # that action's, raw

    def to(self, device: torch.device) -> "Memory":
        return Memory(*(each.to(device, non_blocking=True) for each in self))

    def columns(self, chosen: slice) -> "Memory":
        """Of some of the environments of an unroll."""
        return Memory(self.state[chosen], *(each[:, chosen] for each in self[1:]))


class Core(nn.Module):
    """PyTorch's LSTM or GRU with one layer, whose state is one row of numbers: of an LSTM h and c, side by side."""

    def __init__(self, features: int, actions: Actions, config: Network):
        super().__init__()
        self.before = Before(actions) if config.core_inputs else None
        inputs = features + (self.before.features if self.before else 0)
        self.features = config.core_units
        self.lstm = config.core == "lstm"
        self.rnn = (nn.LSTM if self.lstm else nn.GRU)(inputs, self.features)
        self.state_size = (2 if self.lstm else 1) * self.features
        self._begin()

    def forward(
        self, features: Float[Tensor, "N F"], memory: Memory
    ) -> tuple[Float[Tensor, "N units"], Float[Tensor, "B S"] | None]:
        """One step, and the state after it, where `memory` is of one row; of T rows, N = T B, all of them.

        In float32, whatever the encoder computes in: a state is added to for a whole episode.
        """
        kind = features.device.type
        with torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext():
            seen = features.to(memory.state.dtype)
            if self.before is not None:
                seen = torch.cat([seen, self.before(memory).flatten(0, memory.first.ndim - 1)], -1)
            if memory.first.ndim == 1:
                return self.step(seen, memory.state, memory.first)
            unrolled = self.unroll(seen.reshape(*memory.first.shape, -1), memory.state, memory.first)
            return unrolled.flatten(0, 1), None

    def step(
        self, features: Float[Tensor, "B F"], state: Float[Tensor, "B S"], first: Bool[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B units"], Float[Tensor, "B S"]]:
        """One step by the cell alone: the call that does many takes twice as long for one."""
        state = state.masked_fill(first.unsqueeze(1), 0.0)
        weights = self.rnn.all_weights[0]
        if not self.lstm:
            hidden = torch.gru_cell(features, state, *weights)
            return hidden, hidden
        hidden, cell = torch.lstm_cell(features, state.chunk(2, 1), *weights)
        return hidden, torch.cat([hidden, cell], 1)

    def unroll(
        self, features: Float[Tensor, "T B F"], state: Float[Tensor, "B S"], first: Bool[Tensor, "T B"]
    ) -> Float[Tensor, "T B units"]:
        """The same as T steps: one call where no episode begins inside, else a few.

        Where episodes begin, a column falls apart into sequences that know nothing of each other. Those of like
        length are run side by side, whichever columns they are from; behind the end of a shorter one stand rows of
        others, whose outputs nobody reads. As many calls are made as cost least together.
        """
        begins = first.cpu().numpy()
        state = state.masked_fill(first[0].unsqueeze(1), 0.0)
        if not begins[1:].any():
            return self._run(features, state)
        environments = features.shape[1]
        features, empty = features.flatten(0, 1), torch.zeros_like(state[:1])
        outputs, place, done = [], np.empty(begins.size, np.int64), 0
        for rows, inside, column in _sequences(begins, *(_LSTM if self.lstm else _GRU)):
            # Those that begin where the rollout does go on from its state, others from nothing.
            known = torch.from_numpy(np.where(rows[0] < environments, column, environments)).to(state.device)
            run = self._run(features[torch.from_numpy(rows).to(features.device)], torch.cat([state, empty])[known])
            outputs.append(run.flatten(0, 1))
            place[rows[inside]] = done + np.flatnonzero(inside)
            done += rows.size
        where = torch.from_numpy(place.reshape(begins.shape)).to(features.device)
        return torch.cat(outputs)[where]

    def _run(self, features: Float[Tensor, "T B F"], state: Float[Tensor, "B S"]) -> Float[Tensor, "T B units"]:
        state = state.unsqueeze(0)
        parts = tuple(part.contiguous() for part in state.chunk(2, 2)) if self.lstm else state
        output: Tensor = self.rnn(features, parts)[0]
        return output

    @torch.no_grad()
    def _begin(self) -> None:
        """Orthogonal weights for each gate, no bias; but an LSTM begins by remembering (Jozefowicz et al. 2015)."""
        for name, weight in self.rnn.named_parameters():
            if name.startswith("bias"):
                weight.zero_()
                continue
            for gate in weight.chunk(len(weight) // self.features):
                nn.init.orthogonal_(gate)
        if self.lstm:
            self.rnn.get_parameter("bias_ih_l0").chunk(4)[1].fill_(1.0)  # the forget gate's


class Before:
    """The action and the reward before an observation as numbers, for a core to read with it.

    Choices are a one among zeros, and a Box's numbers as they were drawn. Rewards are sign(r) log(1 + |r|): as raw as
    they are told apart, and never huge.
    """

    def __init__(self, actions: Actions):
        self._actions = actions
        self.features = sum(part.choices or part.width for part in actions.parts) + 1

    def __call__(self, memory: Memory) -> Float[Tensor, "*rows B features"]:
        rows = memory.action.unsqueeze(-1) if self._actions.single else memory.action
        columns = rows.split_with_sizes([part.width for part in self._actions.parts], -1)
        parts = [
            nn.functional.one_hot(column.squeeze(-1).long(), part.choices).float() if part.choices else column.float()
            for part, column in zip(self._actions.parts, columns, strict=True)
        ]
        reward = memory.reward.sign() * memory.reward.abs().log1p()
        return torch.cat([*parts, reward.unsqueeze(-1)], -1).masked_fill(memory.first.unsqueeze(-1), 0.0)


def _sequences(begins: np.ndarray, call: int, step: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The sequences of [T, B] rows, in groups of like length, the longest first.

    For each group of n, the longest of L rows: the rows [L, n] by their number t B + b, which of them are inside
    their sequence, and the column b [n] of each.
    """
    steps, environments = begins.shape
    starts = begins.copy()
    starts[0] = True
    column, start = np.nonzero(starts.T)
    length = np.diff(np.append(column * steps + start, begins.size))
    order = np.argsort(-length, kind="stable")
    column, start, length = column[order], start[order], length[order]
    for group in grouped(length, call, step):
        t = np.arange(length[group][0])[:, None]
        rows = np.minimum(start[group] + t, steps - 1) * environments + column[group]
        yield rows, t < length[group], column[group]


def grouped(length: np.ndarray, call: int, step: int) -> Iterator[slice]:
    """Sequences, the longest first, in those groups that cost least: each a call, and all as long as its longest."""
    count = len(length)
    least, end = np.zeros(count + 1), np.zeros(count, np.int64)  # of all from here on; where the group here ends
    for begin in range(count - 1, -1, -1):
        costs = call + length[begin] * (step + np.arange(1, count - begin + 1)) + least[begin + 1 :]
        end[begin], least[begin] = begin + 1 + costs.argmin(), costs.min()
    begin = 0
    while begin < count:
        yield slice(begin, end[begin])
        begin = end[begin]


def core(features: int, actions: Actions, config: Network) -> Core | None:
    """The memory that the configuration asks for."""
    return None if config.core == "none" else Core(features, actions, config)
