"""What each rank needed: ranks alike together, and what torch.distributed holds by its use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from profiler.distributed.ranks import RankMemory, alike
from profiler.units import MIB
from tests.support.virtual_gpu import REPOSITORY, installed_torch, needed


def of(rank: int, reserved_bytes: int, **shares: int) -> RankMemory:
    return RankMemory(rank, 0, sum(shares.values()), reserved_bytes, "step 2 backward", shares)


def test_ranks_alike_are_together_and_the_fullest_first() -> None:
    ranks = [of(rank, 10, parameters=4) for rank in (0, 1, 2, 5)] + [of(3, 10, parameters=5), of(4, 20)]
    groups = alike(ranks)
    assert [(str(group), group.ranks) for group in groups] == [
        ("4", (4,)),
        ("3", (3,)),
        ("0-2, 5", (0, 1, 2, 5)),
    ]
    assert alike([]) == ()


STEP = """
import os, torch, torch.distributed as dist
if not dist.is_initialized(): dist.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
model = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024, bias=False) for _ in range(4)))
WRAP
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(2):
    model(torch.zeros(1, 1024, device="cuda")).sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
"""
SPAWN = """
import os, torch
def rank(number):
    os.environ["LOCAL_RANK"] = str(number)
    store = torch.distributed.FileStore("store", 2)
    torch.distributed.init_process_group("nccl", store=store, rank=number, world_size=2)
    exec(STEP)
if __name__ == "__main__":
    torch.multiprocessing.spawn(rank, nprocs=2)
"""
DDP = "model = torch.nn.parallel.DistributedDataParallel(model.cuda())"
FSDP2 = """from torch.distributed.fsdp import fully_shard
for layer in model: fully_shard(layer)
fully_shard(model)"""


def report(tmp_path: Path, *words: str) -> dict:
    """What `profiler on WORDS`, one of which is --json, says, in a process whose folder is `tmp_path`."""
    needed(installed_torch())
    done = subprocess.run(
        [sys.executable, "-m", "profiler", "on", *words],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def run(tmp_path: Path, wrap: str, options: str, by_the_program: bool = False) -> dict:
    """The report of `profiler on` for STEP, whose four layers have 4 MiB each."""
    code = STEP.replace("WRAP", wrap)
    script = tmp_path / "script.py"
    script.write_text(SPAWN.replace("STEP", repr(code)) if by_the_program else code)
    return report(tmp_path, *options.split(), "--json", "--", sys.executable, str(script))


def test_buckets_of_ddp_beside_gradients(tmp_path: Path) -> None:
    """Of ranks that the program starts itself, which only the process group numbers."""
    said = run(tmp_path, DDP, "2xH100-80GB", by_the_program=True)
    (group,) = said["ranks"]
    assert group["ranks"] == [0, 1]
    assert group["shares"]["parameters"] == 16 * MIB
    assert group["shares"]["gradients"] == 16 * MIB
    assert group["shares"]["ddp_buckets"] == 16 * MIB
    # NCCL: 24 channels of rings and as much of trees, 12 MiB each (NVIDIA/nccl#964: 544 and 688 MiB)
    (process, _) = (process for process in said["processes"] if process["rank"])
    assert process["peak"]["categories"] == group["shares"]
    beside = process["device_used_bytes"] - process["peak_reserved_bytes"]
    assert beside > 576 * MIB


def test_shards_and_what_is_gathered_of_a_lone_rank(tmp_path: Path) -> None:
    said = run(tmp_path, FSDP2, "H100-80GB --rank 5 --world-size 64")
    assert said["ranks"] == []  # of one rank there is nothing to put together
    (process,) = said["processes"]
    assert process["rank"] == "5"
    ends = {phase["phase"]: phase["allocated_bytes"] for phase in said["processes"][0]["phases"]}
    # Shards and their gradients, 16 rows of 4 KiB each, and two workspaces of cuBLAS on Hopper
    assert ends["step 2 zero_grad"] == 2 * 4 * 16 * 4096 + 2 * 32 * MIB


def test_rank_and_world_size_go_together(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "profiler", "on", "H100-80GB", "--rank", "1", "--", "true"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        1,
        "profiler: --rank and --world-size go together: rank R of N, from 0\n",
    )


STAGES = """
import os, torch, torch.distributed as dist
dist.init_process_group("nccl")
rank, last = dist.get_rank(), dist.get_world_size() - 1
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
size = 1024 * (2 if rank == last else 1)
model = torch.nn.Linear(1024, size, bias=False).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x = torch.zeros(1, 1024, device="cuda")
for _ in range(2):
    if rank > 0:
        dist.recv(x, rank - 1)
    y = model(x)
    if rank < last:
        dist.send(torch.zeros(1, 1024, device="cuda"), rank + 1)
    y.sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
"""


def test_the_ranks_that_differ_are_asked_for_and_the_fullest_is_named(tmp_path: Path) -> None:
    """Of four stages the last one's layer is twice as wide: 8 MiB and not 4."""
    script, picture, page = tmp_path / "stages.py", tmp_path / "ranks.svg", tmp_path / "page.html"
    script.write_text(STAGES)
    words = ["H100-80GB", "--rank", "3,0-1", "--world-size", "4", "--ranks", str(picture)]
    words += ["--report", str(page), "--json", "--", sys.executable, str(script)]
    groups = report(tmp_path, *words)["ranks"]
    assert [group["ranks"] for group in groups] == [[3], [0, 1]]
    assert [group["shares"]["parameters"] for group in groups] == [8 * MIB, 4 * MIB]
    assert "Rank 3 is the fullest" in picture.read_text()
    assert "<h2>Ranks</h2><figure>" in page.read_text()
