"""Running statistics: numbers with mean 0 and deviation 1, whatever the environment's units."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

LIMIT = 10.0  # deviations beyond which a number tells no more
LEAST_DEVIATION = 1e-4  # of numbers that hardly change: they are not blown up to noise


class Normalizer(nn.Module):
    """(x - mean) / deviation, held within 10; as it is until statistics come.

    Mean and scale are parameters that no gradient reaches. So they lie in the same vector as the weights:
    whoever pulls or saves these has those that belong to them, and none of it changes in an evaluation.
    The sums they follow from are kept by the master, the one place where they are updated.
    """

    def __init__(self, features: int):
        super().__init__()
        self.features = features
        self.mean = nn.Parameter(torch.zeros(features), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(features), requires_grad=False)

    def forward(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        return ((x - self.mean) * self.scale).clamp(-LIMIT, LIMIT)


class Moments:
    """How many numbers there were, their sum and the sum of their squares, in D columns: `sums` [3, D].

    Sums can be added in any order, so that what several have counted is exactly what one would have.
    In float64, of numbers that came as float32, the difference of the two sums loses nothing that matters.
    """

    def __init__(self, sums: Float[Tensor, "3 D"]):
        self.sums = sums

    @classmethod
    def none(cls, columns: int) -> "Moments":
        return cls(torch.zeros(3, columns, dtype=torch.float64))

    def add(self, rows: Float[Tensor, "N D"], columns: slice = slice(None)) -> None:
        """Rows that are not finite are left out: nobody could ever take them back."""
        exact = rows.double()
        exact = exact[exact.isfinite().all(1)]
        count = torch.full((exact.shape[1],), len(exact), dtype=torch.float64, device=exact.device)
        counted = torch.stack([count, exact.sum(0), exact.square().sum(0)])
        self.sums[:, columns] += counted.cpu()

    def mean(self) -> Float[Tensor, " D"]:
        return self.sums[1] / self.sums[0].clamp(min=1)

    def deviation(self) -> Float[Tensor, " D"]:
        """1 where nothing has been counted."""
        spread = self.sums[2] / self.sums[0].clamp(min=1) - self.mean().square()
        return spread.clamp(min=0).sqrt().where(self.sums[0] > 0, 1.0)
