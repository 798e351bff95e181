"""One rank of many: unmodified scripts, and shards whose sizes are worked out by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from profiler.distributed.lone_rank import LoneRank, ranks_in
from profiler.distributed.store import LoneRankStore
from profiler.errors import ProfilerError
from profiler.gpu.virtual.installation import Installation
from profiler.units import MIB
from tests.support.virtual_gpu import REPOSITORY, installed_torch, needed, one, run_python, torch_of_version


def test_the_store_answers_torchs_own_client() -> None:
    distributed = pytest.importorskip("torch.distributed")
    with LoneRankStore() as store:
        client = distributed.TCPStore("127.0.0.1", store.port, 7, False, timeout=timedelta(seconds=20))
        client.set("mine", "value")
        assert client.get("mine") == b"value"
        assert client.add("count", 3) == 3
        assert client.add("count", -1) == 2
        assert client.check(["mine"])
        assert not client.check(["mine", "others"])
        client.wait(["others"], timedelta(seconds=1))  # it is there as soon as it is waited for
        assert len(client.get("others")) == 128
        assert client.compare_set("mine", "value", "new") == b"new"
        client.append("mine", "er")
        assert client.multi_get(["mine", "count"]) == [b"newer", b"2"]
        assert client.delete_key("mine")
        assert not client.delete_key("mine")
        assert store.answered == {"/others"}


def test_what_a_rank_is_told() -> None:
    told = LoneRank(rank=21, world_size=64, devices=8).environment(port=1)
    assert (told["RANK"], told["LOCAL_RANK"], told["GROUP_RANK"]) == ("21", "5", "2")
    assert (told["WORLD_SIZE"], told["LOCAL_WORLD_SIZE"], told["GROUP_WORLD_SIZE"]) == ("64", "8", "8")
    for rank, world_size in ((8, 8), (-1, 8), (0, 4097)):
        with pytest.raises(ProfilerError):
            LoneRank(rank, world_size)


def test_ranks_are_named_as_pages_are() -> None:
    assert ranks_in("3") == [3]
    assert ranks_in("7, 0,3-5,4") == [0, 3, 4, 5, 7]
    for wrong in ("", "a", "1,", "5-3", "-1", "4096", "1-5000"):
        with pytest.raises(ProfilerError, match="--rank is a rank below 4096"):
            ranks_in(wrong)


SHARDED = """
import json, os, torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
dist.init_process_group()
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
with torch.device("meta"):
    layers = [torch.nn.Linear(1024, 1024, bias=False) for _ in range(3)]
model = torch.nn.Sequential(*layers)
for layer in layers:
    fully_shard(layer)
fully_shard(model)
model.to_empty(device="cuda")
sharded = torch.cuda.memory_allocated()
optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
for _ in range(2):
    model(torch.zeros(1, 1024, device="cuda")).sum().backward()
    optimizer.step()
del _
torch.cuda.synchronize()
print(json.dumps([sharded, sum(state["exp_avg"].to_local().nbytes for state in optimizer.state.values()),
                  dist.get_rank(), dist.get_world_size()]))
"""


@pytest.mark.parametrize(
    ("rank", "world_size", "rows"),
    [
        (0, 1, 1024),
        (3, 8, 128),
        (1023, 1024, 1),
        # In 1,000 parts, as torch.chunk makes them: 512 of 2 rows, and the others have none
        (511, 1000, 2),
        (999, 1000, 0),
    ],
)
def test_a_rank_holds_its_rows(rank: int, world_size: int, rows: int, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SHARDED)
    gpus = replace(one("H100-80GB"), context_bytes=500 * MIB, lone_rank=True)
    with LoneRankStore() as store:
        told = LoneRank(rank, world_size).environment(store.port)
        done, _ = run_python([os.fspath(script)], gpus, needed(installed_torch()), **told)
    assert done.returncode == 0, done.stderr[-3000:]
    # A row has 1024 numbers of 4 bytes; FSDP2 pads the shards of all ranks to that of the first
    padded = -(-1024 // world_size) * 4096
    assert json.loads(done.stdout.splitlines()[-1]) == [3 * padded, 3 * rows * 4096, rank, world_size]


ON_THE_CPU = """
import json, torch, torch.distributed as dist
dist.init_process_group("cpu:gloo,cuda:nccl")
gloo = dist.new_group([0, 1, 2], backend="gloo")
def added(group, *how):
    value = torch.tensor([2.0, 3.0])
    dist.all_reduce(value, *how, group=group)
    return value.tolist()
def parts(count):
    return [torch.zeros(1, dtype=torch.int64) for _ in range(count)]
own, gathered, at_root, objects, sent = torch.tensor([7]), parts(4), parts(3), [None] * 3, ["mine"]
dist.all_gather(gathered, own)
dist.gather(own, at_root, dst=1, group=gloo)
dist.all_gather_object(objects, {"rank": 1}, group=gloo)
dist.broadcast_object_list(sent, src=0)
dist.scatter(own, [torch.tensor([n]) for n in (4, 5, 6)], src=1, group=gloo)
dist.barrier(group=gloo)
dist.monitored_barrier(group=gloo)
print(json.dumps([added(None), added(gloo), added(gloo, dist.ReduceOp.MAX), torch.cat(gathered).tolist(),
                  torch.cat(at_root).tolist(), objects, sent, own.item()]))
"""


@pytest.mark.parametrize(
    "torch", [installed_torch, partial(torch_of_version, (2, 6))], ids=["installed", "2.6"]
)
def test_nobody_is_waited_for_on_the_cpu(torch: Callable[[], Installation | str], tmp_path: Path) -> None:
    """Rank 1 of 4, and of 3 in a group of its own: a sum is so many times its value, a gather repeats it."""
    script = tmp_path / "script.py"
    script.write_text(ON_THE_CPU)
    path = os.pathsep.join([str(needed(torch()).folder.parent), str(REPOSITORY)])
    command = ["on", "H100-80GB", "--rank", "1", "--world-size", "4", "--", sys.executable, str(script)]
    done = subprocess.run(
        [sys.executable, "-m", "profiler", *command],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[0]) == [
        [8.0, 12.0],
        [6.0, 9.0],
        [2.0, 3.0],
        [7, 7, 7, 7],
        [7, 7, 7],
        [{"rank": 1}] * 3,
        ["mine"],
        5,
    ]
    assert "objects that another rank sends to a lone rank" in " ".join(done.stdout.split())
