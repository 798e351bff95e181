"""`profiler on`: programs as they are, against numbers worked out by hand and what torch tells them."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from profiler.gpu.snapshot import load_snapshot
from tests.support.virtual_gpu import REPOSITORY, installed_torch, needed, torch_of_version

PROFILER = [sys.executable, "-m", "profiler", "on"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
# PyTorch's cuBLAS workspace below Hopper, one for each thread's handle.
WORKSPACE = (2 * 4096 + 8 * 16) * 1024

# Two weights of 1024 * 1024 floats without bias, 4 MiB each; a batch of 512 * 1024 floats, 2 MiB.
TRAIN = """
import torch
model = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024, bias=False) for _ in range(2))).cuda()
optimizer = torch.optim.Adam(model.parameters(), foreach=False)
for _ in range(3):
    batch = torch.ones(512, 1024, device="cuda")
    model(batch).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
print("own", torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(), flush=True)
"""


@pytest.fixture(autouse=True)
def _cuda_build():
    needed(installed_torch())


def on(
    folder: Path,
    code: str,
    *options: str,
    arguments: tuple[str, ...] = (),
    gpu: str = "A100-40GB",
    environment: dict[str, str] = ENVIRONMENT,
    **how,
):
    """Run the code as a file of `folder`; the completed process, and what --json said."""
    program = folder / "program.py"
    program.write_text(code)
    command = [*PROFILER, gpu, "--json", *options, "--", sys.executable, str(program), *arguments]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=250, check=False, **how
    )
    return done, json.loads(done.stdout[done.stdout.index("{") :])


def test_a_training_program_is_accounted_for_to_the_byte(tmp_path):
    done, said = on(tmp_path, TRAIN)
    assert done.returncode == said["exit_code"] == 0
    (process,) = said["processes"]
    own = re.search(r"own (\d+) (\d+)", done.stderr)
    assert process["peak_allocated_bytes"] == int(own[1])
    assert process["peak_reserved_bytes"] == int(own[2])
    steps = [
        f"step {n} {p}" for n in (1, 2, 3) for p in ("forward", "backward", "optimizer_step", "zero_grad")
    ]
    assert [phase["phase"] for phase in process["phases"]] == ["model_loaded", *steps]
    at_end = {phase["phase"]: phase for phase in process["phases"]}
    weights, batch = 2 * 4 << 20, 2 << 20
    assert at_end["model_loaded"]["allocated_bytes"] == weights + batch
    # The peak's parts: weights, gradients, two moments each. Steps counters of Adam stay on the CPU.
    peak = at_end["step 2 optimizer_step"]["peak_categories"]
    assert peak["parameters"] == peak["gradients"] == weights
    assert peak["optimizer_states"] == 2 * weights
    assert peak["inputs"] == batch
    assert peak["workspaces"] == 2 * WORKSPACE
    # What the second forward keeps: the output of the first layer, which the second's weight needs, and the
    # output itself, which its own name no more holds than the loss does.
    assert at_end["step 2 forward"]["peak_categories"]["activations"] >= batch
    assert {path.name for path in tmp_path.iterdir()} == {"program.py"}


@pytest.mark.parametrize("version", [(2, 6), (2, 11)])
def test_a_program_has_the_torch_that_it_finds_first(tmp_path, version):
    """Older than the torch that the simulated GPU needs."""
    folder = needed(torch_of_version(version)).folder.parent
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}"}
    code = TRAIN + "print('torch', torch.__version__)"
    done, said = on(tmp_path, code, environment=environment)
    assert done.returncode == 0, done.stderr
    assert "torch {}.{}.".format(*version) in done.stderr
    (process,) = said["processes"]
    own = re.search(r"own (\d+) (\d+)", done.stderr)
    assert process["peak_allocated_bytes"] == int(own[1])
    assert process["peak"]["categories"]["optimizer_states"] == 2 * 2 * 4 << 20


def test_a_recording_inside_the_program_says_the_same(tmp_path):
    """Two listeners of one allocator: CUDA's memory history inside, the stand-ins' events outside."""
    code = TRAIN.replace("for _ in range(3):", "for step in range(2):")
    begun = code.replace("for step", "with profiler.record(model, optimizer) as recording:\n  for step")
    recorded = begun.replace("\n    ", "\n        ") + (
        "print([(str(phase.account.phase), phase.allocated_bytes, phase.peak_allocated_bytes,"
        " phase.peak_reserved_bytes, {name: size for name, size in phase.peak.items() if size})"
        " for phase in recording.run.phases])"
    )
    done, said = on(tmp_path, "import profiler" + recorded)
    assert done.returncode == 0, done.stderr
    inside = ast.literal_eval(done.stderr.strip().splitlines()[-1])
    names = ("phase", "allocated_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "peak_categories")
    assert inside == [tuple(each[name] for name in names) for each in said["processes"][0]["phases"]]
    assert len(inside) > 6


def test_modules_and_lines(tmp_path):
    _, said = on(tmp_path, TRAIN, "--save", "run.parquet", "--report", "page.html")
    peak = said["processes"][0]["peak"]
    assert peak["modules"].keys() >= {"0", "1"}
    assert any(line.startswith("program.py:3 ") for line in peak["lines"])
    assert sum(peak["modules"].values()) == said["processes"][0]["peak_allocated_bytes"]
    assert "Who owns each byte" in (tmp_path / "page.html").read_text()
    same = [sys.executable, "-m", "profiler", "diff", "run.parquet", "run.parquet"]
    compared = subprocess.run(
        same, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert "Nothing changed at the peak" in compared.stdout


def test_the_program_is_as_without_us(tmp_path):
    code = """
import os, sys
here = [sys.argv[1:], __name__, os.getcwd(), sys.stdin.read(), sys.path[0], "profiler" in sys.modules]
import torch
torch.zeros(1000, device="cuda")
history = torch.cuda.memory._snapshot()["device_traces"]
here += [len(history[0]) if history else 0, "profiler" in sys.modules]
print("here", here, file=sys.stderr)
sys.exit(7)
"""
    done, said = on(tmp_path, code, arguments=("--json", "--", "x"), input="typed")
    assert done.returncode == said["exit_code"] == 7
    expected = [["--json", "--", "x"], "__main__", str(tmp_path), "typed", str(tmp_path), False, 0, False]
    assert f"here {expected}" in done.stderr


def test_the_programs_own_history_is_whole(tmp_path):
    code = """
import torch
torch.cuda.memory._record_memory_history()
torch.cuda.reset_peak_memory_stats()
kept = [torch.zeros(1 << 20, device="cuda") for _ in range(3)]
actions = [event["action"] for event in torch.cuda.memory._snapshot()["device_traces"][0]]
print("history", actions.count("alloc"), torch.cuda.max_memory_allocated())
"""
    done, _ = on(tmp_path, code)
    assert f"history 3 {3 * 4 << 20}" in done.stderr


@pytest.mark.parametrize("settings", ["", "expandable_segments:True"])
def test_the_snapshot_is_that_of_torch_itself(tmp_path, settings):
    """Event by event and block by block, with a second stream and a cache that is emptied."""
    code = """
import torch
torch.cuda.memory._record_memory_history(max_entries=100_000)
model = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024, bias=False) for _ in range(4))).cuda()
optimizer = torch.optim.Adam(model.parameters())
side = torch.cuda.Stream()
for _ in range(2):
    model(torch.ones(4096, 1024, device="cuda")).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.cuda.stream(side):
        large, small = torch.ones(30 << 20, device="cuda"), torch.ones(300, device="cuda")
    del large
    torch.cuda.empty_cache()
torch.cuda.memory._dump_snapshot("own.pickle")
import os
os._exit(0)  # blocks that end with the interpreter are in ours alone
"""
    environment = {**ENVIRONMENT, "PYTORCH_CUDA_ALLOC_CONF": settings}
    done, said = on(tmp_path, code, "--snapshot", "ours.pickle", environment=environment)
    assert done.returncode == 0, done.stderr
    own, ours = (load_snapshot(tmp_path / f"{name}.pickle").device(0) for name in ("own", "ours"))
    assert len(ours.events) > 150
    assert [_without_stream(e) for e in ours.events] == [_without_stream(e) for e in own.events]
    assert [replace(s, stream=0) for s in ours.segments] == [replace(s, stream=0) for s in own.segments]
    assert {s.stream for s in ours.segments} == {0, 1}
    assert {s.address for s in ours.segments if s.stream} == {s.address for s in own.segments if s.stream}
    (process,) = said["processes"]
    holes = process["peak"]["holes"]
    assert holes["bytes"] == process["peak"]["fragmentation_bytes"]
    assert holes["largest_bytes"] <= holes["bytes"]


def _without_stream(event):
    return event.action, event.address, event.size_bytes, bool(event.stream)


def test_memory_taken_past_the_allocator_is_named(tmp_path):
    code = """
import ctypes, torch
kept = torch.zeros(1 << 20, device="cuda")
runtime, address = ctypes.CDLL(None), ctypes.c_void_p()
runtime.cudaMalloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
for size in (100 << 20, 300 << 20):
    assert not runtime.cudaMalloc(ctypes.byref(address), size)
    runtime.cudaFree(address)
kept = [kept, torch.zeros(100 << 20, dtype=torch.uint8, device="cuda")]
"""
    done, said = on(tmp_path, code, "--snapshot", "ours.pickle")
    assert done.returncode == 0, done.stderr
    (process,) = said["processes"]
    assert process["elsewhere_bytes"] == 300 << 20
    # 4 MiB make a segment of 20 MiB. The program's own lay where the next one might.
    assert process["device_used_low_bytes"] > (300 + 100 + 20) << 20
    segments = load_snapshot(tmp_path / "ours.pickle").device(0).segments
    assert sorted(segment.total_size_bytes >> 20 for segment in segments) == [20, 100]


def test_a_disk_without_room_is_said(tmp_path):
    """The events' file grows by 3 MiB, of 65,536 records: here the first time only."""
    code = """
import resource, torch
kept = torch.zeros(1 << 20, device="cuda")
resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, resource.RLIM_INFINITY))
for _ in range(40_000):
    torch.empty(1, device="cuda")
"""
    done, said = on(tmp_path, code)
    assert done.returncode == 0, done.stderr
    (process,) = said["processes"]
    assert process["note"].startswith("not whole")
    assert process["peak_allocated_bytes"] == (4 << 20) + 512


def test_out_of_memory_is_a_result(tmp_path):
    code = """
import torch
kept = []
while True:
    kept.append(torch.empty(1 << 30, dtype=torch.uint8, device="cuda"))
"""
    done, said = on(tmp_path, code)
    assert done.returncode == 1
    assert "OutOfMemoryError" in done.stderr
    (process,) = said["processes"]
    (refused,) = process["out_of_memory"]
    assert refused["requested_bytes"] == 1 << 30
    assert refused["allocated_bytes"] == process["peak_allocated_bytes"]
    assert refused["allocated_bytes"] % (1 << 30) == 0
    assert refused["line"] == "program.py:5 <module>"
    assert process["ended"].startswith("OutOfMemoryError")
    assert process["verdict"] == "out of memory"


def test_steps_end_it(tmp_path):
    done, said = on(tmp_path, TRAIN.replace("range(3)", "iter(int, 1)"), "--steps", "2")
    assert done.returncode == 0
    (process,) = said["processes"]
    assert (process["ended"], process["verdict"]) == ("stopped after 2 steps", "fits")
    assert "step 2 zero_grad" in [phase["phase"] for phase in process["phases"]]


def test_ctrl_c_ends_it_with_a_result(tmp_path):
    program = tmp_path / "program.py"
    begun = tmp_path / "begun"
    endless = TRAIN.replace("range(3)", "iter(int, 1)")
    program.write_text(
        f"{endless.replace('    optimizer.zero_grad()', '    optimizer.zero_grad(); touch()')}"
    )
    code = program.read_text().replace(
        "import torch\n",
        f"import torch, time, pathlib\ndef touch(): pathlib.Path({str(begun)!r}).touch(); time.sleep(0.1)\n",
        1,
    )
    program.write_text(code)
    command = [*PROFILER, "A100-40GB", "--json", "--", sys.executable, str(program)]
    process = subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not begun.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=100)
    assert process.returncode in (1, 130), errors
    assert "KeyboardInterrupt" in errors
    (found,) = json.loads(output)["processes"]
    assert found["peak_allocated_bytes"] > 4 * (8 << 20)
    assert found["ended"].startswith("KeyboardInterrupt")
    assert found["verdict"] == "ended early"


def test_children_have_the_card_and_workers_that_use_none_say_nothing(tmp_path):
    code = """
import subprocess, sys, torch

class Ones(torch.utils.data.Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return torch.ones(4)

if __name__ == "__main__":
    child = "import torch; kept = torch.zeros(1 << 20, device='cuda')"
    subprocess.run([sys.executable, "-c", child], check=True)
    for batch in torch.utils.data.DataLoader(Ones(), batch_size=2, num_workers=2):
        batch.cuda()
"""
    done, said = on(tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert sorted(process["peak_allocated_bytes"] for process in said["processes"]) == [512, 4 << 20]


def test_modules_called_by_a_forked_worker_are_no_phases(tmp_path):
    code = """
import torch

class Transformed(torch.utils.data.Dataset):
    transform = torch.nn.Linear(4, 4).requires_grad_(False)
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return self.transform(torch.ones(4))

model = torch.nn.Linear(4, 4).cuda()
optimizer = torch.optim.SGD(model.parameters())
for epoch in range(2):
    for batch in torch.utils.data.DataLoader(Transformed(), batch_size=4, num_workers=1):
        model(batch.cuda()).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
"""
    done, said = on(tmp_path, code, "--steps", "3")
    assert done.returncode == 0, done.stderr
    phases = [phase["phase"] for phase in said["processes"][0]["phases"]]
    loop = ("forward", "backward", "optimizer_step", "zero_grad")
    steps = [f"step {step} {name}" for step in (1, 2, 3) for name in loop]
    assert phases == ["model_loaded", *steps, "step 3 after the last phase"]


def test_each_rank_of_torchrun(tmp_path):
    code = """
import os, torch, torch.distributed as dist
dist.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1024, 1024, bias=False).cuda())
optimizer = torch.optim.SGD(model.parameters())
for _ in range(2):
    model(torch.ones(8, 1024, device="cuda")).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
dist.destroy_process_group()
"""
    program = tmp_path / "program.py"
    program.write_text(code)
    ranks = ["-m", "torch.distributed.run", "--nproc-per-node", "2", str(program)]
    command = [*PROFILER, "2xA100-40GB", "--json", "--", sys.executable, *ranks]
    done = subprocess.run(
        command, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout[done.stdout.index("{") :])
    assert [(p["rank"], p["device"]) for p in said["processes"]] == [("0", 0), ("1", 1)]
    for process in said["processes"]:
        last = {phase["phase"]: phase for phase in process["phases"]}["step 2 optimizer_step"]
        assert last["peak_categories"]["parameters"] == 4 << 20


def test_no_command_and_no_such_command_are_one_line(tmp_path):
    for command, words in (([], "no command"), (["--", "no-such-program"], "cannot run no-such-program")):
        done = subprocess.run(
            [*PROFILER, "A100-40GB", *command], env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
