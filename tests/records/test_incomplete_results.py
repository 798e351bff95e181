"""Results in which a run has no end (out of memory, no simulation), or was run more than once."""

import pytest

from experiments.optimizers import state_bars
from profiler.cli import main
from profiler.files import write_table
from profiler.records import table as records

ABOUT = {"model": "gpt2", "layers": 0, "batch": 1, "length": 64, "seed": 0, "recorded_at": "2026-01-01"}
GPU = {"device": "a100", "device_name": "A100"}
CPU = {"device": "cpu", "device_name": "some processor"}


def optimizer_run(optimizer, states_bytes, sources, **where):
    """The last step of 100 fp32 parameters, whose update needs 40 bytes more."""
    row = {
        **ABOUT,
        **where,
        "run_key": f"{optimizer}-{where['device']}",
        "workload": f"gpt2, {optimizer}",
        "optimizer": optimizer,
        "optimizer_implementation": "default",
        "outcome": "ok",
        "phase_index": 3,
        "step": 2,
        "phase": "optimizer_step",
        "micro_batch": 0,
        "parameters_bytes": 400,
        "optimizer_states_bytes": states_bytes,
        "allocated_bytes": 400 + states_bytes,
        "peak_allocated_bytes": 440 + states_bytes,
    }
    return [{**row, "source": source} for source in sources]


def skipped(rows):
    """The same run where its simulation was not possible."""
    formula = [row for row in rows if row["source"] == "formula"]
    kept = ("run_key", "workload", "optimizer", "optimizer_implementation", "device", "device_name")
    about = {name: rows[0][name] for name in kept}
    no_row = {**ABOUT, **about, "source": "simulation", "phase_index": 0, "outcome": "skipped"}
    return [*formula, {**no_row, "detail": "RuntimeError: no managed memory [here]"}]


@pytest.fixture
def rows():
    paged = optimizer_run("paged_adamw8bit", 200, ["simulation", "formula"], **GPU)
    return [
        *optimizer_run("adam", 800, ["measured", "formula"], **CPU),
        *optimizer_run("adamw8bit", 250, ["measured", "formula"], **CPU),
        *optimizer_run("paged_adamw8bit", 200, ["measured", "formula"], **CPU),
        *optimizer_run("adam", 800, ["simulation", "formula"], **GPU),
        *optimizer_run("adamw8bit", 250, ["simulation", "formula"], **GPU),
        *skipped(paged),
    ]


def test_an_optimizer_without_a_simulation_has_an_empty_row(rows):
    gpu, cpu = state_bars(records.frame(rows)).axes
    assert [text.get_text() for text in cpu.texts[:3]] == ["8.00", "2.50", "2.00"]
    assert [text.get_text() for text in gpu.texts[:3]] == ["8.00", "2.50", "not run"]


def test_show_says_which_runs_have_no_end(rows, tmp_path, capsys):
    failed = {**rows[0], "run_key": "more", "outcome": "out_of_memory", "detail": "no room"}
    records.append(tmp_path / "records.parquet", [*rows, failed])
    assert main(["show", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "out of memory: gpt2, adam, measured on cpu, in step 2 optimizer_step" in lines
    assert (
        "skipped: gpt2, paged_adamw8bit, simulated on a100: RuntimeError: no managed memory [here]" in lines
    )


def test_a_figure_that_lacks_a_run_does_not_stop_the_other_experiments(monkeypatch, tmp_path, capsys):
    from types import SimpleNamespace

    from experiments import catalog
    from profiler.device import CPU
    from profiler.runs import provenance, rows
    from profiler.workload import Workload

    workload = Workload("mlp-tiny", 4)
    drawn = []

    def figures(found):
        done = found[found["outcome"] == "ok"].set_index("source")
        drawn.append(int(done.loc["measured", "peak_allocated_bytes"]))
        return {}

    def run(name, workload, device, *how):
        if device.kind != CPU:
            return []
        outcome = "out_of_memory" if name == "first" else "ok"
        key = rows.run_key(workload, CPU, provenance.provenance(device))
        about = {"run_key": key, "device": CPU}
        row = {"phase_index": 0, "step": 0, "phase": "model_loaded", "micro_batch": 0, "outcome": outcome}
        measured = {"source": "measured", "allocated_bytes": 5, "peak_allocated_bytes": 7}
        return [{"workload": str(workload), **about, **row, **measured, "recorded_at": "2026-01-01"}]

    module = SimpleNamespace(QUESTION="", workloads=lambda size, device: [workload], figures=figures)
    monkeypatch.setattr(catalog, "WORKLOADS", {"first": module, "second": module})
    monkeypatch.setattr(rows, "experiment_rows", run)
    command = ["run", "first", "second", "--device", "cpu", "--results", str(tmp_path)]
    assert main(command) == 1
    said = capsys.readouterr()
    assert drawn == [7]
    assert len(said.err.splitlines()) == 1
    assert "not all figures drawn of first" in said.err
    assert f"out of memory: {workload}, measured on cpu, in model_loaded" in said.out


def test_a_workload_run_again_under_another_name_is_shown_as_it_was_last(rows, tmp_path, capsys):
    """Another version of torch, say, makes another run_key; the formula may have changed meanwhile, too."""
    before = [{**row, "run_key": "old", "recorded_at": "2025-12-31"} for row in rows[:2]]
    before[1]["allocated_bytes"] += 1
    records.append(tmp_path / "records.parquet", [*rows, *before])
    assert main(["show", str(tmp_path), "--workload", "gpt2, adam"]) == 0
    assert "2 of 2 measured phase levels are what formula says to the byte" in capsys.readouterr().out


def test_the_page_of_results_has_measured_and_simulated_runs_and_no_traces(rows, tmp_path):
    records.append(tmp_path / "records.parquet", rows)
    write_table(tmp_path / "traces" / "one.parquet", records.frame(rows))
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    assert text.count("<h2") == 1
    assert "runs: 5 rows" in text
    assert "<td>gpt2, adam</td><td>measured, cpu</td><td>step 2 optimizer step</td>" in text
    assert "<td>gpt2, adam</td><td>simulated, a100</td>" in text
    assert "skipped: gpt2, paged_adamw8bit, simulated on a100" in text
    assert "simulation off by" not in text  # nothing was both measured and simulated
