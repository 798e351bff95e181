"""What a campaign wrote, read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.errors import ProfilerError, first_line
from profiler.gpu.cards import GPU
from profiler.records import table as records
from profiler.records.select import last_of_each_run
from profiler.reference.suite import Case
from profiler.trace.events import Entry
from profiler.trace.load import read_run

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Archive:
    """The measured runs of one folder, each as it was recorded last.

    Attributes:
        folder: where it lies.
        about: the device, its provenance, and the time that the recording took.
        gpu: the GPU that was recorded, as it described itself; None for a recording on a CPU.
        cases: what ran, by run key; runs with a record only.
        records: rows of profiler.records.table, source "measured".
    """

    folder: Path
    about: dict[str, Any]
    gpu: GPU | None
    cases: dict[str, Case]
    records: pd.DataFrame

    def trace(self, run_key: str) -> Sequence[Entry] | None:
        """Every allocation and free of a run; None for a run that has no trace (killed, or skipped)."""
        path = self.folder / "traces" / f"{run_key}.parquet"
        return read_run(path).entries if path.exists() else None

    def probes(self) -> pd.DataFrame:
        """The kernel probes (profiler.reference.probes.COLUMNS); no rows if none were recorded."""
        return read_probes(self.folder)


def read_recording(folder: Path) -> Archive:
    """The recording in `folder`, or in the folder "reference" below it.

    Raises ProfilerError if there is none.
    """
    if not (folder / "about.json").exists() and (folder / "reference").is_dir():
        folder = folder / "reference"
    path = folder / "about.json"
    if not path.exists() or not (folder / "records.parquet").exists():
        raise ProfilerError(f"{folder} holds no reference recording; `profiler record-reference` makes one")
    about = read_about(folder)
    found = last_of_each_run(records.read(folder / "records.parquet"))
    described = about.pop("cases", {})
    gpu = about.pop("gpu", None)
    cases = {key: Case.from_dict(described[key]) for key in found["run_key"].unique() if key in described}
    return Archive(
        folder,
        about,
        _described_gpu(gpu, path) if gpu else None,
        cases,
        found,
    )


def _described_gpu(described: dict[str, Any], path: Path) -> GPU:
    try:
        return GPU(**{**described, "capability": tuple(described["capability"])})
    except (TypeError, KeyError):
        raise ProfilerError(
            f"{path} does not describe its GPU as this version does; move the folder away and record again"
        ) from None


def read_about(folder: Path) -> dict[str, Any]:
    """What about.json in `folder` says.

    Raises ProfilerError if it is damaged.
    """
    path = folder / "about.json"
    try:
        about: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ProfilerError(
            f"{path} is not readable ({error}); move the folder away and record again"
        ) from error
    return about


def read_probes(folder: Path) -> pd.DataFrame:
    """The kernel probes recorded in `folder`; no rows if there are none.

    Raises ProfilerError if their file is damaged.
    """
    import pandas as pd
    import pyarrow as pa

    path = folder / "probes.parquet"
    if not path.exists():
        return pd.DataFrame()
    try:
        return pd.read_parquet(path)
    except (pa.ArrowException, OSError) as error:
        raise ProfilerError(
            f"{path} is not a readable Parquet file ({first_line(error)}); move it away"
        ) from error


def gpu_recordings(results: Path) -> list[Path]:
    """The folders of recordings on real GPUs below a results folder."""
    found = (path.parent for path in sorted(results.glob("*/reference/about.json")))
    return [folder for folder in found if _is_real_gpu(folder)]


def _is_real_gpu(folder: Path) -> bool:
    about = read_about(folder)
    return about["gpu"] is not None and not about["device"].startswith("simulated")
