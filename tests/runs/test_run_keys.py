"""Run keys never change: a run that is recorded under one need not be run again."""

from pathlib import Path

import pandas as pd
import pytest

from profiler.runs.rows import run_key
from profiler.workload import Workload

pytestmark = pytest.mark.quick

RECORDED = sorted((Path(__file__).parents[2] / "results" / "cpu").glob("*/records.parquet"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.parent.name)
def test_the_key_of_each_recorded_run_is_that_of_its_workload_device_and_versions(path):
    table = pd.read_parquet(path).drop_duplicates("run_key")
    assert len(table) > 0
    names = [name for name in Workload.__dataclass_fields__ if name in table]
    for row in table.to_dict("records"):
        workload = Workload(**{name: row[name] for name in names if not pd.isna(row[name])})
        assert run_key(workload, row["device"], row) == row["run_key"]


def test_there_are_recorded_runs():
    assert len(RECORDED) > 4
