"""NCCL's stand-in under the real ProcessGroupNCCL: values between processes, a lone rank, an ended peer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from profiler.gpu.virtual.card_file import VirtualGPUs
from profiler.units import MIB
from tests.support.virtual_gpu import answer, installed_torch, needed, one, run_python

H100 = replace(one("H100-80GB"), context_bytes=500 * MIB, nccl_bytes=100 * MIB)

COLLECTIVES = """
import os, torch, torch.distributed as dist
dist.init_process_group("nccl")
rank, ranks = dist.get_rank(), dist.get_world_size()
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
def of(*values, dtype=torch.int64):
    return torch.tensor(values, dtype=dtype).cuda()
def same(got, *expected):
    assert got.cpu().tolist() == list(expected), (rank, got.cpu(), expected)
x = of(rank + 1)
dist.all_reduce(x)
same(x, ranks * (ranks + 1) // 2)
for operation, expected in ((dist.ReduceOp.MAX, ranks - 1), (dist.ReduceOp.MIN, 0)):
    x = of(rank)
    dist.all_reduce(x, op=operation)
    same(x, expected)
x = of(rank + 0.5, dtype=torch.float32)
dist.all_reduce(x, op=dist.ReduceOp.AVG)
same(x, ranks / 2)
gathered = torch.empty(2 * ranks, dtype=torch.int64, device="cuda")
dist.all_gather_into_tensor(gathered, of(rank, 7))
same(gathered, *(value for other in range(ranks) for value in (other, 7)))
part = torch.empty(1, dtype=torch.int64, device="cuda")
dist.reduce_scatter_tensor(part, of(*range(ranks)))
same(part, rank * ranks)
swapped = torch.empty(ranks, dtype=torch.int64, device="cuda")
dist.all_to_all_single(swapped, of(*(10 * rank + other for other in range(ranks))))
same(swapped, *(10 * other + rank for other in range(ranks)))
scattered = torch.empty(1, dtype=torch.int64, device="cuda")
dist.scatter(scattered, [of(100 + other) for other in range(ranks)] if rank == 1 else None, src=1)
same(scattered, 100 + rank)
objects = [None] * ranks
dist.all_gather_object(objects, {"rank": rank})
assert [o["rank"] for o in objects] == list(range(ranks))
told = of(rank)
dist.broadcast(told, src=ranks - 1)
same(told, ranks - 1)
# Around a ring, receiving asked for first: nobody may wait before it has sent.
received = torch.zeros(1, dtype=torch.int64, device="cuda")
sent = of(rank)
waits = dist.batch_isend_irecv([dist.P2POp(dist.irecv, received, (rank - 1) % ranks),
                                dist.P2POp(dist.isend, sent, (rank + 1) % ranks)])
for wait in waits:
    wait.wait()
same(received, (rank - 1) % ranks)
# Two groups, used by the ranks in opposite orders on streams of their own.
groups = [dist.new_group(list(range(ranks))) for _ in range(2)]
values = [of(1), of(2)]
for i in (0, 1) if rank % 2 else (1, 0):
    values[i] = (values[i], dist.all_reduce(values[i], group=groups[i], async_op=True))
for value, work in values:
    work.wait()
same(values[0][0], ranks)
same(values[1][0], 2 * ranks)
large = torch.empty(64 << 20, device="cuda")
dist.all_reduce(large)
dist.barrier()
torch.cuda.synchronize()
dist.destroy_process_group()
print("whole", flush=True)
"""


def torchrun(tmp_path: Path, code: str, gpus: VirtualGPUs, ranks: int):
    script = tmp_path / "script.py"
    script.write_text(code)
    arguments = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), str(script)]
    return run_python(arguments, gpus, needed(installed_torch()), OMP_NUM_THREADS="1")


def test_small_payloads_go_between_the_ranks(tmp_path: Path) -> None:
    done, journal = torchrun(tmp_path, COLLECTIVES, replace(H100, devices=3), 3)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("whole") == 3
    assert journal.not_modelled == {}
    # Each rank: the context, three communicators (of all, which the ring uses too, and of two groups), the
    # tensor of 256 MiB and a small segment
    assert set(journal.peak_bytes.values()) == {(500 + 3 * 100 + 256 + 2) * MIB}


DIES = """
import os, sys, torch, torch.distributed as dist
dist.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
x = torch.tensor([1]).cuda()
dist.all_reduce(x)
x.item()
if dist.get_rank() == 1:
    os._exit(0)
dist.all_reduce(x)
x.item()
print("not reached")
"""


def test_an_ended_peer_is_an_error_and_no_hang(tmp_path: Path) -> None:
    done, _ = torchrun(tmp_path, DIES, replace(H100, devices=2), 2)
    assert done.returncode != 0
    assert "not reached" not in done.stdout
    assert "NCCL rank 1 of 2 ended before rank 0 had its part of a collective" in done.stderr


LONE = """
import json, torch, torch.distributed as dist
store = dist.HashStore()
dist.init_process_group("nccl", store=store, rank=0, world_size=100)
def of(*values):
    return torch.tensor(values).cuda()
total, most, all_of, part = of(3), of(3), torch.empty(200, dtype=torch.int64, device="cuda"), of(0)
dist.all_reduce(total)
dist.all_reduce(most, op=dist.ReduceOp.MAX)
dist.all_gather_into_tensor(all_of, of(4, 5))
dist.reduce_scatter_tensor(part, of(*range(6, 106)))
print(json.dumps([total.item(), most.item(), sorted(set(all_of.cpu().tolist())), part.item()]))
"""


def test_a_lone_rank_takes_the_others_to_be_as_itself() -> None:
    lone = replace(H100, lone_rank=True)
    assert answer(LONE, lone, needed(installed_torch())) == [300, 3, [4, 5], 600]


SIDE_STREAM = """
import json, torch
side = torch.cuda.Stream()
block = torch.empty(30 << 20, dtype=torch.uint8, device="cuda")
block.record_stream(side)
del block
again = torch.empty(30 << 20, dtype=torch.uint8, device="cuda")
waiting = torch.cuda.memory_reserved()
del again
torch.cuda.synchronize()
more = [torch.empty(30 << 20, dtype=torch.uint8, device="cuda") for _ in range(2)]
print(json.dumps([waiting >> 20, torch.cuda.memory_reserved() >> 20]))
"""


def test_a_block_that_another_stream_used_comes_back_at_once_or_after_a_synchronize() -> None:
    installation = needed(installed_torch())
    assert answer(SIDE_STREAM, H100, installation) == [30, 60]
    assert answer(SIDE_STREAM, replace(H100, events_wait=True), installation) == [60, 60]
