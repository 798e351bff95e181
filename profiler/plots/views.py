"""What a figure shows side by side: runs as they were measured, and as they were simulated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class View:
    """The runs of one device by one source of truth.

    Attributes:
        source: "measured" or "simulation".
        records: rows of `source`, and of the formulas for the same runs.
        words: how and where, as in "measured on the CPU".
    """

    source: str
    records: pd.DataFrame
    words: str

    @property
    def truth(self) -> pd.DataFrame:
        """The rows of the source."""
        return self.by(self.source)

    def by(self, source: str) -> pd.DataFrame:
        """The rows of one source."""
        return self.records[self.records["source"] == source]


def views(records: pd.DataFrame) -> list[View]:
    """Measured runs first, then simulated ones; each in the order of the records. Failed runs are left out.

    Args:
        records: rows of profiler.records, of any sources and devices.
    """
    found = []
    ended = records[records["outcome"] == "ok"]
    for source in ("measured", "simulation"):
        for device in ended.loc[ended["source"] == source, "device"].unique():
            rows = ended[(ended["device"] == device) & ended["source"].isin([source, "formula", "textbook"])]
            runs = rows.loc[rows["source"] == source, "run_key"]
            found.append(View(source, rows[rows["run_key"].isin(runs)], _words(source, rows.iloc[0])))
    return found


def _words(source: str, row: pd.Series) -> str:
    if source == "simulation":
        return f"simulated {row['device_name']}"
    return "measured on the CPU" if row["device"] == "cpu" else f"measured on {row['device_name']}"
