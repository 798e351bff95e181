"""The bounds that predictions keep on a recording, by quantity: they never loosen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.files import write_atomically
from profiler.reference.accuracy import spread

if TYPE_CHECKING:
    import pandas as pd

_STEPS = 1000  # bounds are rounded up to a thousandth of a percent


@dataclass(frozen=True)
class Bound:
    """The largest difference allowed, in percent of the truth, to each side."""

    over_percent: float
    under_percent: float


def read_bounds(path: Path) -> dict[str, Bound]:
    """Bounds by quantity; none if there is no such file."""
    if not path.exists():
        return {}
    return {quantity: Bound(**bound) for quantity, bound in json.loads(path.read_text()).items()}


def observed_bounds(found: pd.DataFrame) -> dict[str, Bound]:
    """The tightest bounds that the differences of one source keep."""
    table = spread(found, ["quantity"])
    return {
        row.quantity: Bound(_rounded_up(row.worst_over), _rounded_up(-row.worst_under))
        for row in table.itertuples()
    }


def _rounded_up(percent: float) -> float:
    return ceil(percent * _STEPS) / _STEPS


def broken(found: pd.DataFrame, bounds: Mapping[str, Bound]) -> pd.DataFrame:
    """The differences beyond their quantity's bound; one of a quantity without one is not among them."""
    over = found["quantity"].map({quantity: bound.over_percent for quantity, bound in bounds.items()})
    under = found["quantity"].map({quantity: bound.under_percent for quantity, bound in bounds.items()})
    percent = found["difference_percent"]
    return found[(percent > over) | (percent < -under)]


def tightened(old: Mapping[str, Bound], observed: Mapping[str, Bound]) -> dict[str, Bound]:
    """The smaller of both, side by side: a bound never loosens. A new quantity enters as observed."""
    return {
        quantity: Bound(
            min(bound.over_percent, observed.get(quantity, bound).over_percent),
            min(bound.under_percent, observed.get(quantity, bound).under_percent),
        )
        for quantity, bound in {**observed, **old}.items()
    }


def write_bounds(path: Path, bounds: Mapping[str, Bound]) -> None:
    """Write bounds as JSON, sorted."""
    plain = {
        quantity: {"over_percent": bound.over_percent, "under_percent": bound.under_percent}
        for quantity, bound in sorted(bounds.items())
    }
    text = json.dumps(plain, indent=2) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))
