"""What stands for a value that is not computed: what a healthy run could have given, and said where it is
read.

Floats stand as 1: finite, positive, safe to divide by. What is compared with them follows: `isnan` is false,
`isfinite` true. What asks whether any or all elements of such a comparison are so hears that nothing is
wrong, so that a program that draws numbers again until all lie within bounds comes to an end. Choices among
numbers that are not computed (topk, argmax, sort) are spread evenly, which is what a router of experts is
trained for; PROFILER_VIRTUAL_ROUTING says otherwise.
"""

import os
from dataclasses import dataclass

import torch

ROUTING = "PROFILER_VIRTUAL_ROUTING"
AS_IF_ONE = "as if each value that is not computed were 1"
LARGEST = "every element counts: the largest result"
FINITE = "no gradient is infinite"

# Operations whose integer result says where among the elements of a dimension the chosen ones lie.
CHOICES = {
    "topk",
    "sort",
    "argmax",
    "argmin",
    "max",
    "min",
    "kthvalue",
    "mode",
    "median",
    "nanmedian",
    "multinomial",
}


def stand_in(dtype: torch.dtype) -> bool | int | float:
    """One element that is not computed."""
    if dtype == torch.bool:
        return False
    return 1.0 if dtype.is_floating_point or dtype.is_complex else 0


class Scalars:
    """Floats that the host reads one at a time, as a loss is: each a little less than the one before."""

    def __init__(self) -> None:
        self.count = 0

    def next(self, dtype: torch.dtype) -> bool | int | float:
        """The next one of this type; that of a float falls from 2 towards 1."""
        if not dtype.is_floating_point:
            return stand_in(dtype)
        self.count += 1
        return 1.0 + 1.0 / self.count


def words(dtype: torch.dtype, elements: int) -> str:
    """What a read of `elements` that are not computed is answered with."""
    if dtype == torch.bool:
        return "false"
    if not dtype.is_floating_point:
        return "0"
    return "a number that falls from 2 towards 1 from read to read" if elements == 1 else "1 for each element"


NOTHING_WRONG = ("all", "any")


def whole(operation: str, out: torch.Tensor) -> str:
    """Write what a result that depends on all elements is taken for; the words for it."""
    if operation in NOTHING_WRONG:
        out.fill_(operation == "all")
        return "as where nothing is wrong: all true, any false"
    out.zero_()
    return "zero"


@dataclass(frozen=True)
class Choice:
    """Choices among `size` elements; those of one row lie along `dimension` of the result, None: one a
    row.
    """

    size: int
    dimension: int | None
    dimensions: int  # of what is chosen from

    def spread(self, out: torch.Tensor) -> str:
        """Write the indices chosen to `out`, int64; the words for the rule."""
        dimension = self.dimension if out.ndim == self.dimensions and out.ndim else None
        rows_last = out.unsqueeze(-1) if dimension is None else out.movedim(dimension, -1)
        chosen = rows_last.shape[-1]
        rows = out.numel() // max(chosen, 1)
        rule = os.environ.get(ROUTING, "balanced")
        column = torch.arange(chosen, device="cpu")
        if rule == "worst":
            indices, words_ = column.expand(rows, chosen), f"every row chooses the same of {self.size}"
        elif rule != "balanced" and rule.count(",") + 1 == self.size:
            indices = _by_shares([float(share) for share in rule.split(",")], rows, chosen)
            words_ = f"rows choose in the shares {rule}"
        else:
            indices = (torch.arange(rows, device="cpu").unsqueeze(1) * chosen + column) % max(self.size, 1)
            words_ = f"rows choose evenly among {self.size}"
        rows_last.copy_(indices.reshape(rows_last.shape))
        return words_


def choice(operation: str, arguments: dict[str, object]) -> Choice | None:
    """What an operation chooses from; None where it chooses nothing."""
    tensor, dimension = arguments.get("self"), arguments.get("dim")
    if operation not in CHOICES or not isinstance(tensor, torch.Tensor):
        return None
    if not isinstance(dimension, int):
        if operation in ("max", "min", "median", "nanmedian"):
            return None  # the value itself, not where it lies
        if operation in ("argmax", "argmin"):
            return Choice(tensor.numel(), None, tensor.ndim)
        dimension = -1
    return Choice(tensor.shape[dimension] if tensor.ndim else 1, dimension, tensor.ndim)


def _by_shares(shares: list[float], rows: int, chosen: int) -> torch.Tensor:
    """[rows, chosen] indices in these shares. No row has an index twice: none is chosen more often than
    there are rows.
    """
    slots = rows * chosen
    counts = [min(rows, int(slots * share / sum(shares))) for share in shares]
    for index in sorted(
        range(len(shares)), key=lambda i: -shares[i]
    ):  # what rounding and that limit left over
        counts[index] += min(rows - counts[index], slots - sum(counts))
    line = [index for index, count in enumerate(counts) for _ in range(count)]
    return torch.tensor(line, device="cpu").reshape(chosen, rows).T
