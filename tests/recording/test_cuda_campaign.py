"""The whole reference campaign as on a GPU, recorded by the CUDA recorder from the simulated one."""

from dataclasses import asdict

import pytest

from profiler.device import CPU, Device
from profiler.gpu.allocator import AllocatorSettings
from profiler.gpu.cards import GPUS
from profiler.reference import accuracy, campaign
from profiler.reference.archive import read_recording
from profiler.reference.campaign import Campaign
from profiler.reference.predictions import predict, predict_probes
from profiler.reference.suite import EXPANDABLE_SEGMENTS, Case
from profiler.reference.unmatched import compare_probes, residual
from profiler.runs.execute import run_on
from profiler.runs.provenance import provenance
from profiler.trace.load import read_run
from profiler.workload import Workload
from tests.support.cuda_on_simulation import cuda_with_history

H100 = GPUS["H100-80GB"]
CASES = [
    Case(Workload("gpt2-tiny", 2, 64, precision="amp_bf16"), attention_kernel="flash"),
    Case(Workload("bert-tiny", 2, 64, "sgd", micro_batches=2), EXPANDABLE_SEGMENTS),
    Case(Workload("resnet-tiny", 3, 45, memory_format="channels_last")),
    Case(Workload("mlp-tiny", 32), limit_bytes=34 << 20),
]


def in_this_process(workload, device, settings):
    with cuda_with_history(H100, AllocatorSettings.parse(settings.allocator_settings)):
        return run_on(workload, device, settings)


def probes_in_this_process(function, *arguments, name, timeout_seconds):
    with cuda_with_history(H100):
        return function(*arguments)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    about = {"device": "pretend-h100", **provenance(Device(CPU)), "gpu": asdict(H100), "free_bytes": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(campaign, "ask_device", lambda device: about)
        patch.setattr(campaign, "cases", lambda size: CASES)
        patch.setattr(campaign, "run_in_fresh_process", in_this_process)
        patch.setattr(campaign, "in_fresh_process", probes_in_this_process)
        summary = campaign.record_suite(Campaign(Device("cuda"), tmp_path_factory.mktemp("results"), "small"))
    assert (summary.recorded, summary.total) == (4, 4)
    return read_recording(summary.folder)


def test_what_the_cuda_recorder_wrote_is_what_the_simulation_says(recording, tmp_path):
    predicted = predict(recording, list(recording.cases), tmp_path)
    errors = accuracy.differences(recording.records, predicted)
    simulated = errors[errors["source"] == "simulation"]
    # Nine phases, 13 with two micro-batches, nine, and the two that ended before memory ran out.
    assert simulated["quantity"].value_counts()["reserved"] == 9 + 13 + 9 + 2
    assert simulated.loc[simulated["difference_bytes"] != 0, ["workload", "phase", "quantity"]].empty
    for key in recording.cases:
        found = residual(recording.trace(key), read_run(tmp_path / f"{key}.parquet").entries)
        assert found.explanation.aligned == found.explanation.first_total == found.explanation.second_total
        assert all(entry.op for entry in recording.trace(key) if hasattr(entry, "op"))


def test_running_out_of_memory_is_recorded_with_its_phase(recording):
    (row,) = recording.records.query("outcome == 'out_of_memory'").to_dict("records")
    assert (row["step"], row["phase"]) == (1, "backward")
    assert "CUDA out of memory" in row["detail"]


def test_probes_recorded_on_cuda_are_those_of_the_rules(recording):
    compared = compare_probes(recording.probes(), predict_probes(recording))
    assert len(compared) == 27
    assert compared["exact"].all()
