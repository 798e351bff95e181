"""The published rows: what ran, what was measured, what other estimators said."""

import csv
from dataclasses import dataclass
from pathlib import Path

from profiler.errors import ProfilerError

CARDS = {"RTX 3060": "RTX-3060-12GB", "RTX 4060": "RTX-4060-8GB", "A100-SXM4-40GB": "A100-40GB"}
PEERS = {
    "xMem": "xmem_bytes",
    "DNNMem": "dnnmem_bytes",
    "LLMem": "llmem_bytes",
    "SchedTune": "schedtune_bytes",
}


@dataclass(frozen=True)
class Setting:
    """What a row's program is started with. memory_bytes: what the row's card had in all."""

    model: str
    optimizer: str
    batch: int
    zero_grad_mode: int
    card: str
    memory_bytes: int


@dataclass(frozen=True)
class Row:
    """measured_bytes: the largest NVML reading less the first; a lower bound where memory ran out.
    peers: what each estimator answered, without those that answered nothing. folder: of the authors' results,
    which seem to come from several set-ups.
    """

    setting: Setting
    measured_bytes: int
    out_of_memory: bool
    peers: dict[str, int]
    folder: str


def read_rows(path: Path) -> list[Row]:
    """Raises ProfilerError where the file cannot be read."""
    try:
        with path.open(newline="") as file:
            return [_row(row) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError) as error:
        raise ProfilerError(f"cannot read {path}: {error}; name the folder that has the rows") from error


def _row(row: dict[str, str]) -> Row:
    setting = Setting(
        row["model"],
        row["optimizer"],
        int(row["batch"]),
        int(row["zero_grad_mode"] or 0),
        CARDS[row["gpu"]],
        int(row["gpu_total_bytes"]),
    )
    peers = {name: int(row[column]) for name, column in PEERS.items() if row[column]}
    folder = "/".join(row["path_in_repo"].split("/")[2:-3])
    return Row(setting, int(row["measured_nvml_delta_bytes"]), row["real_oom"] == "true", peers, folder)
