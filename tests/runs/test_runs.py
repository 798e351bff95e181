import pytest

from profiler.device import CPU, Device
from profiler.errors import ProfilerError
from profiler.records.table import frame
from profiler.runs.execute import run_on
from profiler.runs.rows import experiment_rows, run_rows
from profiler.runs.run_settings import RunSettings
from profiler.workload import Workload

MIB = 2**20


def measured(workload, limit_bytes=None, on_phase=lambda index: None):
    rows = frame(experiment_rows("test", workload, Device(CPU), RunSettings(limit_bytes), on_phase))
    return rows[rows["source"] == "measured"]


def test_a_run_tells_its_phases_as_they_begin_and_says_where_it_was():
    begun = []
    rows = measured(Workload("mlp-tiny", 4), on_phase=begun.append)
    assert begun == list(range(9))
    assert rows["phase_index"].tolist() == begun
    for column in ("device_name", "torch_version", "transformers_version", "platform", "recorded_at"):
        assert rows[column].notna().all(), column
    assert (rows["device"] == "cpu").all()


def test_a_run_that_does_not_fit_is_recorded_with_its_phase_and_what_went_before():
    # The MLP's parameters take 144 MiB; its first step needs as much again for the gradients.
    rows = measured(Workload("mlp", 64), limit_bytes=230 * MIB)
    assert rows["outcome"].tolist() == ["ok", "ok", "out_of_memory"]
    assert rows["phase"].tolist() == ["model_loaded", "forward", "backward"]
    assert rows["parameters_bytes"].iloc[0] == 4 * 37_801_994
    assert "memory" in rows["detail"].iloc[-1]


def test_a_model_that_does_not_even_load_is_recorded():
    rows = measured(Workload("mlp", 64), limit_bytes=100 * MIB)
    assert rows["outcome"].tolist() == ["out_of_memory"]
    assert rows["phase"].tolist() == ["model_loaded"]


def test_pythons_own_out_of_memory_says_nothing_and_is_recorded(monkeypatch):
    from profiler.training import step as training_step

    def refuse(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(training_step, "train", refuse)
    (row,) = run_rows(run_on(Workload("mlp-tiny", 4), Device(CPU)), "measured")
    assert (row["outcome"], row["phase"], row["detail"]) == ("out_of_memory", "model_loaded", "MemoryError")


def test_a_failure_that_is_not_of_memory_is_one_line():
    # Position embeddings of GPT-2 end at 1024.
    with pytest.raises(ProfilerError, match="gpt2-tiny reads at most 1024 tokens"):
        measured(Workload("gpt2-tiny", 1, 1025))
