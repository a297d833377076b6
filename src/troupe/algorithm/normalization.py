"""Running statistics, which scale numbers to mean 0 and standard deviation 1, whatever the environment's units."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

LIMIT = 10.0  # normalised numbers are clipped to this many standard deviations
LEAST_STD = 1e-12  # numbers that vary by less are treated as constant,
_ROUNDING = {torch.float32: 2.0**-21, torch.float64: 2.0**-50}  # as are those that vary by less, relative to their mean


class Normalizer(nn.Module):
    """(x - mean) / standard deviation, clipped to +-10; until there are statistics, x clipped to +-10.

    Mean and scale are parameters without gradient, so they are part of the vector of weights: they are pulled and
    saved with the weights that they belong to, and no evaluation changes them. The master keeps and updates the
    moments that they are computed from.

    Numbers such as seconds since 1970 differ in digits that float32 does not have. With `exact`, x is float64, the
    rounding error of the float32 mean is kept in a second parameter (`mean_rest`), and x - mean is computed in float64.
    """

    def __init__(self, features: int, *, exact: bool = False):
        super().__init__()
        self.features, self.exact = features, exact
        self.mean = nn.Parameter(torch.zeros(features), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(features), requires_grad=False)
        self.mean_rest: nn.Parameter | None = None
        if exact:
            self.mean_rest = nn.Parameter(torch.zeros(features), requires_grad=False)

    def forward(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        return ((x - self.whole_mean) * self.scale).clamp(-LIMIT, LIMIT).float()

    @property
    def whole_mean(self) -> Float[Tensor, " D"]:
        return self.mean if self.mean_rest is None else self.mean.double() + self.mean_rest.double()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        if self.exact:  # runs of earlier versions have no second part
            state_dict.setdefault(f"{prefix}mean_rest", torch.zeros(self.features))
        super()._load_from_state_dict(state_dict, prefix, *others)


def least_std(mean: Float[Tensor, " D"], precision: torch.dtype) -> Float[Tensor, " D"]:
    """The smallest standard deviation that numbers of that precision around `mean` do not get by rounding alone."""
    return (mean.abs() * _ROUNDING[precision]).clamp(min=LEAST_STD)


class RunningMoments:
    """Count, mean, and sum of squared differences from the mean, of D columns: `parts` [3, D], float64.

    Batches and other statistics are merged by the formulas of Chan, Golub & LeVeque 1983: a sum of squares less the
    square of a mean would lose all digits of numbers that are large and close together.
    """

    def __init__(self, parts: Float[Tensor, "3 D"]):
        self.parts = parts

    @classmethod
    def empty(cls, columns: int) -> "RunningMoments":
        return cls(torch.zeros(3, columns, dtype=torch.float64))

    @classmethod
    def of_sums(cls, sums: Float[Tensor, "3 D"]) -> "RunningMoments":
        """From counts, sums and sums of squares, which runs of earlier versions hold."""
        count, total, squares = sums
        mean = total / count.clamp(min=1)
        return cls(torch.stack([count, mean, (squares - count * mean.square()).clamp(min=0)]))

    @classmethod
    def merged(cls, several: Float[Tensor, "W 3 D"]) -> "RunningMoments":
        """The moments of all numbers of W statistics, as a copy."""
        if len(several) == 1:
            return cls(several[0].clone())
        counts, means, squares = several.unbind(1)
        count, first = counts.sum(0), means[0]
        mean = first + (counts * (means - first)).sum(0) / count.clamp(min=1)
        return cls(torch.stack([count, mean, (squares + counts * (means - mean).square()).sum(0)]))

    def add(self, rows: Float[Tensor, "N D"], columns: slice = slice(None)) -> None:
        """Rows that are not finite are skipped: their effect could never be undone."""
        exact = rows.double()
        exact = exact[exact.isfinite().all(1)]
        if not len(exact):
            return
        mean = exact.mean(0)
        counts = torch.full_like(mean, len(exact))
        batch = torch.stack([counts, mean, (exact - mean).square().sum(0)]).cpu()
        self.parts[:, columns] = RunningMoments.merged(torch.stack([self.parts[:, columns], batch])).parts

    def mean(self) -> Float[Tensor, " D"]:
        return self.parts[1]

    def std(self) -> Float[Tensor, " D"]:
        """The standard deviation; 1 where nothing has been counted."""
        count = self.parts[0]
        return (self.parts[2] / count.clamp(min=1)).sqrt().where(count > 0, 1.0)
