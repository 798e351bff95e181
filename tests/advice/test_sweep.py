"""Grids and their cells: what a file asks, that each cell is answered once, and what a dead worker costs."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import dataset

from profiler.advice import cluster as clusters
from profiler.advice.cluster import Cluster, sweep_on
from profiler.advice.fit import Question, fit
from profiler.advice.grid import Cell, read_grid
from profiler.advice.sweep import COLUMNS, answer, answered, read_rows, sweep, write_row
from profiler.cli import main
from profiler.errors import ProfilerError
from profiler.gpu.cards import GPUS
from profiler.workload import Workload

ROOT = Path(__file__).parents[2]
A100 = GPUS["A100-40GB"]
SMALL = Workload("mlp-tiny", 2)


def grid(tmp_path, text):
    path = tmp_path / "grid.toml"
    path.write_text(text)
    return read_grid(path)


# --- what a file asks ------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_of_its_lists(tmp_path):
    asked = grid(
        tmp_path,
        """
        model = "gpt2"
        batch = [1, 2, 4]
        length = 128
        gpu = ["A100-40GB", "H100-80GB"]
        """,
    )
    assert dict(asked.axes) == {"batch": [1, 2, 4], "gpu": ["A100-40GB", "H100-80GB"]}
    assert asked.cells == tuple(
        Cell(Workload("gpt2", batch, 128), GPUS[gpu])
        for batch in (1, 2, 4)
        for gpu in ("A100-40GB", "H100-80GB")
    )
    assert asked.impossible == ()


def test_settings_of_a_configuration_are_axes_and_a_list_in_a_list_is_one_value(tmp_path):
    asked = grid(
        tmp_path,
        """
        model = "ResNetConfig"
        batch = 1
        [settings]
        depths = [[1, 1], [2, 2]]
        num_labels = 5
        """,
    )
    assert [cell.workload.setting_values() for cell in asked.cells] == [
        {"depths": [1, 1], "num_labels": 5},
        {"depths": [2, 2], "num_labels": 5},
    ]


def test_a_combination_that_can_never_run_is_left_out_with_the_reason(tmp_path):
    asked = grid(
        tmp_path,
        """
        model = "gpt2"
        batch = 1
        optimizer = ["adam", "adamw8bit"]
        precision = ["fp32", "fp16_master"]
        """,
    )
    assert len(asked.cells) == 3
    ((combination, reason),) = asked.impossible
    assert combination == "optimizer adamw8bit, precision fp16_master"
    assert "fp16_master works with" in reason


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('model = "gpt2"', "batch is missing"),
        ('model = "gpt2"\nbatch = []', "batch is an empty list"),
        ('model = "gpt2"\nbatch = ["1"]', "batch is a whole number or a list of them, not '1'"),
        ('model = "gpt2"\nbatch = true', "batch is a whole number"),
        ('model = "gpt2"\nbatch = 1\nbatches = 2', "batches is none of"),
        ('model = "gpt2"\nbatch = 1\ngpu = "H2O"', "unknown GPU"),
        ('model = "gpt2"\nbatch = 1\nallocator_settings = "no:sense"', "allocator_settings"),
        ('model = "gpt2"\nbatch = 0', "no combination is possible: batch must be at least 1"),
        ("model = ", "is not TOML"),
        (f'model = "gpt2"\nbatch = {list(range(1, 2001))}\nlength = {list(range(1, 2001))}', "4,000,000"),
    ],
)
def test_what_is_wrong_with_a_grid_is_one_line(tmp_path, text, words):
    with pytest.raises(ProfilerError) as raised:
        grid(tmp_path, text)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_cell_is_another_when_anything_that_decides_its_answer_is(tmp_path):
    model = tmp_path / "train.py"
    model.write_text("def make(): ...")
    cell = Cell(replace(SMALL, model=f"{model}:make"), A100)
    keys = {
        cell.key,
        Cell(replace(cell.workload, batch=3), A100).key,
        Cell(cell.workload, replace(A100, sms=107)).key,
        Cell(cell.workload, A100, "expandable_segments:True").key,
    }
    again = Cell(replace(SMALL, model=f"{model}:make"), replace(A100, source="told by another"))
    assert again.key == cell.key
    model.write_text("def make(): return None")
    keys.add(cell.key)
    assert len(keys) == 5


# --- answers ---------------------------------------------------------------------------------------------


def test_a_row_says_what_fit_says(tmp_path):
    cell = Cell(SMALL, A100)
    unanswered = sweep([cell], tmp_path / "grid")
    assert unanswered == ()
    (row,) = read_rows(tmp_path / "grid", [cell])
    asked = fit(SMALL, A100, Question(with_largest=False, with_techniques=False))
    assert (row["outcome"], row["peak_reserved_bytes"]) == (asked.verdict, asked.taken_bytes)
    assert row["engine"] == asked.run.device.kind
    assert (row["headroom_bytes"], row["parameters"]) == (asked.headroom_bytes, asked.run.parameters)
    peak = [size for name, size in row.items() if name.startswith("peak_") and isinstance(size, int)]
    assert sum(peak) - row["peak_reserved_bytes"] == 2 * row["peak_allocated_bytes"]  # its parts and itself


def test_a_workload_that_cannot_run_is_a_row_with_the_reason():
    row = answer(Cell(replace(SMALL, length=7), A100))
    assert row["outcome"] == "failed"
    assert "leave --length out" in row["detail"]
    assert row["peak_reserved_bytes"] is None


def test_an_executor_of_the_callers_answers_and_what_is_answered_is_not_asked_again(tmp_path):
    cells = [Cell(replace(SMALL, batch=batch), A100) for batch in (1, 2, 3)]
    told = []
    with ProcessPoolExecutor(1) as executor:
        assert sweep(cells[:2], tmp_path, executor, told.append) == ()
        assert sweep(cells, tmp_path, executor, told.append) == ()
    assert sorted(row["batch"] for row in told[:2]) == [1, 2]
    assert [row["batch"] for row in told[2:]] == [3]
    assert answered(tmp_path) == {cell.key for cell in cells}


def test_a_file_that_is_no_row_is_named(tmp_path):
    cell = Cell(SMALL, A100)
    (tmp_path / f"{cell.key}.parquet").write_bytes(b"no Parquet")
    with pytest.raises(ProfilerError, match="no row of a sweep"):
        read_rows(tmp_path, [cell])


MODELS = """
import os, signal, torch

def make():
    return torch.nn.Linear(8, 8)

def make_and_die():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def one_of_three_dies(folder):
    model = folder / "models.py"
    model.write_text(MODELS)
    return [
        Cell(Workload(f"{model}:{name}", batch), A100)
        for batch, name in enumerate(("make", "make_and_die", "make"), start=1)
    ]


def test_a_killed_worker_costs_its_own_cell(tmp_path):
    cells = one_of_three_dies(tmp_path)
    told = []
    unanswered = sweep(cells, tmp_path / "grid", on_answer=told.append, processes=1)
    assert [each.cell for each in unanswered] == [cells[1]]
    assert "killed" in unanswered[0].reason
    assert len(told) == 3
    assert [row["batch"] for row in read_rows(tmp_path / "grid", cells)] == [1, 3]


# --- jobs of a cluster -----------------------------------------------------------------------------------


def test_jobs_share_the_cells_and_one_that_dies_costs_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = tmp_path / "grid"
    cells = one_of_three_dies(tmp_path)
    told = []
    unanswered = sweep_on(Cluster("local", 2, {"timeout_min": 5}), cells, folder, told.append)
    assert [each.cell for each in unanswered] == [cells[1]]
    assert [row["batch"] for row in read_rows(folder, cells)] == [1, 3]
    assert len(told) == 3


class JobsThatDie:
    """An executor whose job answers as many cells as the script says and is then killed."""

    def __init__(self, answers):
        self.answers = list(answers)
        self.shares = []

    def batch(self):
        return nullcontext()

    def submit(self, function, cells, folder):
        self.shares.append([cell.workload.batch for cell in cells])
        for cell in cells[: self.answers.pop(0)]:
            write_row(folder, answer_without_running(cell))
        return self

    job_id = 7

    def done(self):
        return True

    def exception(self):
        return RuntimeError("killed")


def answer_without_running(cell):
    return dict.fromkeys(COLUMNS) | {
        "key": cell.key,
        "batch": cell.workload.batch,
        "outcome": "fits",
    }


@pytest.mark.parametrize(
    ("answers", "shares", "lost"),
    [
        ([2, 2], [[1, 2, 3, 4, 5], [4, 5]], [3]),  # another job goes on behind the cell that killed one
        ([0, 0], [[1, 2, 3, 4, 5], [2, 3, 4, 5]], [1, 2, 3, 4, 5]),  # two that answer nothing: given up
        ([0, 4], [[1, 2, 3, 4, 5], [2, 3, 4, 5]], [1]),
    ],
)
def test_what_is_left_of_a_job_that_died_is_another_jobs(tmp_path, monkeypatch, answers, shares, lost):
    jobs = JobsThatDie(answers)
    monkeypatch.setattr(clusters, "_executor", lambda cluster, folder: jobs)
    monkeypatch.setattr(clusters, "_POLL_SECONDS", 0)
    cells = [Cell(replace(SMALL, batch=batch), A100) for batch in range(1, 6)]
    unanswered = sweep_on(Cluster("local", 1, {}), cells, tmp_path)
    assert jobs.shares == shares
    assert [each.cell.workload.batch for each in unanswered] == lost
    assert len(answered(tmp_path)) == 5 - len(lost)


def test_an_unknown_cluster_or_parameter_is_said(tmp_path):
    with pytest.raises(ProfilerError, match="unknown cluster 'pbs'; known: slurm, local"):
        Cluster("pbs", 1, {})
    with pytest.raises(ProfilerError, match="no jobs on local"):
        sweep_on(Cluster("local", 1, {"minutes": 3}), [Cell(SMALL, A100)], tmp_path)


# --- the verb --------------------------------------------------------------------------------------------


def test_a_sweep_that_is_killed_goes_on_where_it_was(tmp_path):
    """At the end every cell has one row, and none that was there has been written again."""
    (tmp_path / "grid.toml").write_text('model = "mlp-tiny"\nbatch = [1, 2, 3]\noptimizer = ["adam", "sgd"]')
    command = [sys.executable, "-m", "profiler", "sweep", "grid.toml", "--processes", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    folder = tmp_path / "grid"
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    while len(list(folder.glob("*.parquet"))) < 2 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    assert 2 <= len(kept) < 6
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert f"6 cells: 3 batch × 2 optimizer; {len(kept)} answered already" in done.stdout
    assert "6 fits" in done.stdout
    now = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    assert len(now) == 6
    assert kept.items() <= now.items()
    table = dataset.dataset(folder, format="parquet").to_table().to_pandas()
    assert sorted(zip(table["batch"], table["optimizer"], strict=True)) == [
        (batch, optimizer) for batch in range(1, 4) for optimizer in ("adam", "sgd")
    ]
    assert (tmp_path / "grid.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--jobs", "2"], "--jobs is for --cluster"),
        (["--job", "mem_gb=2"], "--job is for --cluster"),
        (["--cluster", "local", "--processes", "2"], "--processes is for processes here"),
        (["--cluster", "local", "--job", "mem_gb"], "--job takes NAME=VALUE"),
        (["--results", "grid.toml"], "cannot write to grid.toml"),
    ],
)
def test_an_option_that_says_nothing_is_refused(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    Path("grid.toml").write_text('model = "mlp-tiny"\nbatch = 1')
    assert main(["sweep", "grid.toml", *words]) == 1
    said = capsys.readouterr()
    assert message in said.err + said.out
    assert not Path("grid").exists()
