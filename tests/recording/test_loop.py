"""A user's own loop, recorded: the numbers are those of its tensors."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import profiler
from profiler.errors import ProfilerError
from profiler.trace.load import load
from profiler.trace.moments import by_module

# Two layers of 256 × 256 without bias, batch 32: everything in float32.
WEIGHTS = 2 * 256 * 256 * 4
HIDDEN = 32 * 256 * 4


def make(device):
    model = nn.Sequential(nn.Linear(256, 256, bias=False), nn.ReLU(), nn.Linear(256, 256, bias=False)).to(
        device
    )
    return model, torch.optim.Adam(model.parameters(), foreach=False)


def loop(model, optimizer, device, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(torch.ones(32, 256, device=device)).sum()
        loss.backward()
        optimizer.step()


def by_phase(table, step):
    return table[table["step"] == step].set_index("phase")


def check_second_step(table):
    rows = by_phase(table, 2)
    assert list(rows.index)[:3] == ["forward", "backward", "optimizer_step"]
    assert (rows["parameters_bytes"] == WEIGHTS).all()
    assert rows.loc["backward", "gradients_bytes"] == WEIGHTS
    # Two moments of each weight, and a step count of 4 bytes each on the host or the device.
    assert 0 <= rows.loc["optimizer_step", "optimizer_states_bytes"] - 2 * WEIGHTS <= 8
    # Saved for backward: the input, and ReLU's output, which is the second layer's input too.
    assert rows.loc["forward", "inputs_bytes"] + rows.loc["forward", "activations_bytes"] >= 2 * HIDDEN


def test_a_loop_on_the_cpu_whose_phases_are_found():
    model, optimizer = make("cpu")
    loop(model, optimizer, "cpu", 1)  # states exist before: they count from the start
    optimizer.zero_grad()
    with profiler.record(model, optimizer) as recording:
        loop(model, optimizer, "cpu", 2)
    table = recording.table()
    check_second_step(table)
    assert table["reserved_bytes"].isna().all()
    before = table.iloc[0]
    assert before["parameters_bytes"] == WEIGHTS
    assert before["optimizer_states_bytes"] == 2 * WEIGHTS + 8


def test_named_phases_take_the_place_of_found_ones():
    model, optimizer = make("cpu")
    with profiler.record(model, optimizer) as recording:
        for _ in range(2):
            with recording.phase("load"):
                batch = torch.ones(32, 256)
            with recording.phase("forward"):
                loss = model(batch).sum()
            with recording.phase("backward"):
                loss.backward()
            with recording.phase("optimizer_step"):
                optimizer.step()
                optimizer.zero_grad()
    table = recording.table()
    assert table["phase"].tolist() == ["model_loaded", *["load", "forward", "backward", "optimizer_step"] * 2]
    assert by_phase(table, 1).loc["backward", "gradients_bytes"] == WEIGHTS
    assert by_phase(table, 2).loc["optimizer_step", "gradients_bytes"] == 0


def test_the_tables_wait_for_the_end_and_keep_what_came_before_an_error():
    model, optimizer = make("cpu")
    with pytest.raises(ZeroDivisionError), profiler.record(model, optimizer) as recording:  # noqa: PT012
        model(torch.ones(32, 256)).sum().backward()
        with pytest.raises(ProfilerError, match="still open"):
            recording.table()
        _ = 1 / 0
    assert recording.table()["phase"].tolist()[:3] == ["model_loaded", "forward", "backward"]


def test_the_summary_and_the_notebook_table_say_the_peak():
    model, optimizer = make("cpu")
    with profiler.record(model, optimizer) as recording:
        loop(model, optimizer, "cpu", 1)
    assert "step 1 optimizer_step" in recording.summary()
    assert "peak: " in str(recording)
    html = recording._repr_html_()
    assert html.count("<tr>") == 1 + len(recording.table())
    assert "optimizer states 1.00 MiB" in html


def test_a_model_without_parameters_or_on_another_device_is_refused():
    with pytest.raises(ProfilerError, match="no parameters"), profiler.record(nn.ReLU()):
        pass
    with pytest.raises(ProfilerError, match="on 'meta'"), profiler.record(nn.Linear(2, 2, device="meta")):
        pass


SIMULATED = """
import profiler, torch
from tests.recording.test_loop import check_second_step, loop, make
with profiler.simulated_gpu("T4") as device:
    model, optimizer = make(device)
    with profiler.record(model, optimizer) as recording:
        loop(model, optimizer, device, 2)
        print(model(torch.ones(1, 256, device=device)).sum().item())
table = recording.table()
check_second_step(table)
assert (table["peak_reserved_bytes"] >= table["peak_allocated_bytes"]).all()
assert table["workspaces_bytes"].max() > 0
import sys
from pathlib import Path
recording.save(sys.argv[1])
"""


def test_the_same_loop_on_a_simulated_gpu(tmp_path):
    saved = str(tmp_path / "run.parquet")
    done = subprocess.run(
        [sys.executable, "-c", SIMULATED, saved], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2.0\n"
    run = load(Path(saved))
    modules = {share.name for share in by_module(run.entries, run.peak().position)}
    assert {"0", "2"} <= modules  # the two linear layers of the Sequential


LATE = """
import profiler, torch
torch.ones(1, requires_grad=True).sum().backward()
with profiler.simulated_gpu("T4"):
    pass
"""


def test_a_simulated_gpu_that_is_opened_too_late_says_so():
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("profiler.errors.ProfilerError: backward() ran before the simulated GPU existed")
    assert "report a bug" not in done.stderr


def test_importing_profiler_does_not_import_torch():
    code = "import sys, profiler; profiler.record; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


COUNTERS = """
import torch, profiler
with profiler.simulated_gpu("A100-40GB"):
    model = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024) for _ in range(4)]).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(65536, 1024, device="cuda")
    with profiler.record(model, optimizer) as recording:
        for _ in range(2):
            optimizer.zero_grad(set_to_none=True)
            model(x).sum().backward()
            optimizer.step()
            print(torch.cuda.max_memory_allocated())
    print(recording.table()["peak_allocated_bytes"].max(), recording.table()["peak_reserved_bytes"].max())
    print(torch.cuda.max_memory_reserved())
"""


def test_the_programs_own_counters_stay_its_own():
    done = subprocess.run([sys.executable, "-c", COUNTERS], capture_output=True, text=True, check=True)
    first, second, of_phases, reserved = done.stdout.splitlines()
    assert first == second == "1648641024"
    assert of_phases == f"1648641024 {reserved}"


TWICE = """
import sys, torch, profiler
from profiler.errors import ProfilerError
with profiler.simulated_gpu("A100-40GB"):
    model = torch.nn.Linear(256, 256).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(8, 256, device="cuda")
    def train(steps):
        for _ in range(steps):
            model(x).sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    with profiler.record(model, optimizer) as first:
        train(2)
    with profiler.record(model, optimizer) as second:
        train(1)
        try:
            with profiler.record(model, optimizer):
                train(1)
        except ProfilerError as error:
            print(error)
    print(len(first.measurements), len(second.measurements), second.measurements[-1].account.phase)
    print(second.table()["allocated_bytes"].iloc[-1] == torch.cuda.memory_allocated())
    second.save(sys.argv[1])
"""


def test_two_recordings_of_one_simulated_gpu_have_phases_of_their_own(tmp_path):
    saved = str(tmp_path / "second.parquet")
    done = subprocess.run([sys.executable, "-c", TWICE, saved], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said, phases, same = done.stdout.splitlines()
    assert said == "a recording is open already; leave its block first"
    assert phases == "9 5 step 1 zero_grad"  # the model; then four a step, with gradients that stay
    assert same == "True"
    assert load(Path(saved)).peak().allocated_bytes > 0


def test_a_recording_on_the_cpu_writes_nothing_to_stderr():
    """There torch.profiler's library says that it starts, and that it found no GPU."""
    code = "import profiler, torch\nwith profiler.record(torch.nn.Linear(4, 4)): pass"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_inside_the_users_own_profiler_the_cpu_says_that_there_can_be_one():
    model = torch.nn.Linear(4, 4)
    with (
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]),
        pytest.raises(ProfilerError, match=r"torch\.profiler is on"),
        profiler.record(model),
    ):
        pass
