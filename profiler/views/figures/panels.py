"""What a figure shows side by side: runs on a GPU that is here, on one that is not, and on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiler.device import CPU, SIMULATED, VIRTUAL
from profiler.records.select import how_known

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class View:
    """The runs of one device by one source of truth.

    Attributes:
        source: "measured" or "simulation".
        known: how: "measured", "virtual" or "simulated".
        records: rows of `source`, and of the formulas for the same runs.
        words: how and where, as in "measured on the CPU".
        out_of_memory: run key -> the phase in which the run ended; `records` has those before it.
    """

    source: str
    known: str
    records: pd.DataFrame
    words: str
    out_of_memory: Mapping[str, str]

    @property
    def on_cpu(self) -> bool:
        """Whether the device is the CPU."""
        return bool(self.records["device"].iloc[0] == CPU)

    @property
    def truth(self) -> pd.DataFrame:
        """The rows of the source."""
        return self.by(self.source)

    def by(self, source: str) -> pd.DataFrame:
        """The rows of one source."""
        return self.records[self.records["source"] == source]


def views(records: pd.DataFrame) -> list[View]:
    """GPUs first, which people train on, the measured before the others; then the CPU.

    Args:
        records: rows of profiler.records.table, of any sources and devices.
    """
    found = []
    records = records.assign(known=how_known(records))
    ended, failed = (records[records["outcome"] == outcome] for outcome in ("ok", "out_of_memory"))
    for source in ("measured", "simulation"):
        for device in ended.loc[ended["source"] == source, "device"].unique():
            rows = ended[(ended["device"] == device) & ended["source"].isin([source, "formula", "textbook"])]
            rows = rows[rows["run_key"].isin(rows.loc[rows["source"] == source, "run_key"])]
            last = failed[(failed["device"] == device) & (failed["source"] == source)]
            ends = dict(zip(last["run_key"], last["phase"], strict=True))
            first = rows[rows["source"] == source].iloc[0]
            found.append(View(source, str(first["known"]), rows, _words(first), ends))
    return sorted(found, key=lambda view: view.on_cpu)


def of_the_first(shown: Sequence[View]) -> str:
    """The first view's words, for a headline whose figures are its alone; "" where no other is shown."""
    return f" ({shown[0].words})" if len(shown) > 1 else ""


def _words(row: pd.Series) -> str:
    name = str(row["device_name"])
    if row["known"] in (VIRTUAL, SIMULATED):
        return f"{row['known']} {name.removeprefix('virtual ')}"
    return "measured on the CPU" if row["device"] == CPU else f"measured on {name}"
