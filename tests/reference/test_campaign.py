"""Archive: what a campaign writes, what it does not do again, and what is not memory's fault."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from profiler.device import Device, device_called
from profiler.errors import ProfilerError
from profiler.reference import campaign
from profiler.reference.archive import read_recording
from profiler.reference.campaign import Campaign, record_suite
from profiler.trace.ledger import account
from tests.support.rehearsed import CASES, dies


def keys_of(recording):
    return {str(case): key for key, case in recording.cases.items()}


def rows_of(recording, case):
    records = recording.records
    return records[records["run_key"] == keys_of(recording)[str(case)]]


def test_a_run_that_ends_has_a_row_a_phase_with_allocated_and_reserved(rehearsal):
    rows = rows_of(rehearsal[0], CASES[0])
    assert rows["outcome"].tolist() == ["ok"] * 9  # loading, and two steps of four phases
    assert rows["source"].unique().tolist() == ["measured"]
    # Parameters of 64-256-256-10 with biases, in blocks of 512 bytes: 64 KiB + 1 KiB + 256 KiB + 1 KiB +
    # 10 KiB + 512 B; they come from one small segment of 2 MiB.
    assert rows["allocated_bytes"].iloc[0] == (64 + 1 + 256 + 1 + 10) * 1024 + 512
    assert rows["reserved_bytes"].iloc[0] == 2 << 20


def test_running_out_of_memory_is_data_with_its_phase(rehearsal):
    rows = rows_of(rehearsal[0], CASES[2])
    # 2 MiB of tensors and the forward thread's cuBLAS workspace fit; that of the backward's thread does not.
    assert rows["outcome"].tolist() == ["ok", "ok", "out_of_memory"]
    assert (rows["phase"].iloc[-1], rows["step"].iloc[-1]) == ("backward", 1)


def test_a_run_that_cannot_be_is_skipped_with_the_reason(rehearsal):
    (row,) = rows_of(rehearsal[0], CASES[3]).to_dict("records")
    assert row["outcome"] == "skipped"
    assert "No available kernel" in row["detail"]


def test_the_trace_holds_the_same_run_as_the_records(rehearsal):
    recording = rehearsal[0]
    rows = rows_of(recording, CASES[1])
    accounts = account(recording.trace(keys_of(recording)[str(CASES[1])]))
    assert [a.end_bytes for a in accounts] == rows["allocated_bytes"].tolist()
    assert [a.peak_bytes for a in accounts] == rows["peak_allocated_bytes"].tolist()
    assert accounts[-1].end["parameters"] == rows["parameters_bytes"].iloc[-1]


def test_about_says_which_device_and_which_cases(rehearsal):
    about = json.loads((rehearsal[0].folder / "about.json").read_text())
    assert about["device_name"] == "simulated H100-80GB"
    assert about["gpu"]["sms"] == 132
    assert len(about["cases"]) == len(CASES)


def test_what_has_been_recorded_is_not_run_again(rehearsal, monkeypatch):
    _, summary, to = rehearsal
    assert (summary.recorded, summary.total, summary.time_was_over) == (4, 4, False)
    monkeypatch.setattr(campaign, "cases", lambda size: CASES)
    told = []
    record_suite(to, told.append)
    assert [progress.name for progress in told] == 2 * [str(CASES[3])]  # a skipped run may work another day
    assert [progress.outcome for progress in told] == ["", "skipped"]


def test_probes_of_the_small_size_do_not_count_for_the_full_one(rehearsal):
    to = rehearsal[2]
    assert campaign._Recorder(to).probes_done()
    assert not campaign._Recorder(replace(to, size="full")).probes_done()


def test_probes_that_die_do_not_stop_the_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "cases", lambda size: CASES[:1])
    monkeypatch.setattr(campaign.probes, "requests_of_probes", dies)
    told = []
    summary = record_suite(Campaign(device_called("H100"), tmp_path, "small"), told.append)
    assert [(progress.name, progress.outcome) for progress in told[1::2]] == [
        ("kernel probes", "skipped"),
        (str(CASES[0]), "ok"),
    ]
    assert (summary.recorded, summary.time_was_over) == (1, False)
    assert read_recording(summary.folder).probes().empty


@pytest.mark.parametrize("name", ["about.json", "records.parquet", "probes.parquet"])
def test_a_damaged_file_is_named_and_left_alone(rehearsal, tmp_path, name):
    _, summary, to = rehearsal
    folder = tmp_path / summary.folder.relative_to(to.results)
    shutil.copytree(summary.folder, folder)
    (folder / name).write_bytes(b"{half")
    with pytest.raises(ProfilerError, match=f"{name} is not .*readable"):
        record_suite(replace(to, results=tmp_path))
    assert (folder / name).read_bytes() == b"{half"


def test_a_full_disk_is_one_line_and_keeps_what_was_there(rehearsal, tmp_path, monkeypatch):
    _, summary, to = rehearsal
    folder = tmp_path / summary.folder.relative_to(to.results)
    shutil.copytree(summary.folder, folder)
    before = (folder / "records.parquet").read_bytes()

    def fail(self, path, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pd.DataFrame, "to_parquet", fail)
    monkeypatch.setattr(campaign, "cases", lambda size: CASES)
    with pytest.raises(ProfilerError, match=r"No space left on device.* is kept"):
        record_suite(replace(to, results=tmp_path))
    assert (folder / "records.parquet").read_bytes() == before


def test_no_run_starts_when_the_time_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "cases", lambda size: CASES)
    summary = record_suite(Campaign(device_called("H100"), tmp_path, minutes=0.0))
    assert (summary.recorded, summary.time_was_over) == (0, True)


def test_a_rehearsal_may_not_write_among_results():
    with pytest.raises(ProfilerError, match="no measurement"):
        record_suite(Campaign(device_called("H100"), Path("results"), "small"))


def test_an_environment_that_changes_allocations_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    with pytest.raises(ProfilerError, match="unset PYTORCH_ALLOC_CONF"):
        record_suite(Campaign(device_called("H100"), tmp_path, "small"))


def test_without_a_gpu_it_says_so_in_one_line(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ProfilerError, match=r"^torch finds no CUDA device here; .* rehearses without$"):
        record_suite(Campaign(Device("cuda"), tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_device_that_is_none_is_refused():
    with pytest.raises(ProfilerError, match="name of a GPU"):
        device_called("abacus")
