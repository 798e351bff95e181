"""Values in hooks that run in a backward pass, and that following them changes no allocation."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from profiler.gpu.virtual import launch
from profiler.gpu.virtual.values.reads import program_reads
from tests.support.virtual_gpu import answer, installed_torch, needed, one, torch_of_version

A100 = one("A100-40GB")
HOOKS = """
import json, torch
torch.cuda.memory._record_memory_history()
seen = []
layer = torch.nn.Linear(64, 64)

def hook(gradient):
    count.add_(torch.arange(5, device="cuda").sum())
    seen.append([count.item(), torch.isfinite(gradient).all().item()])
    return gradient * 1

def stepped(parameter):
    seen.append((torch.arange(6, device="cuda") % 2 == 0).nonzero().flatten().tolist())
    optimizer.step()
    parameter.grad = None

def unpacked(saved):
    seen.append(saved[0].sum().item())
    return saved[1]

layer.weight.register_hook(hook)  # before the GPU is used
layer.cuda()
optimizer = torch.optim.SGD(layer.parameters(), 0.1)
count = torch.zeros((), dtype=torch.int64, device="cuda")
layer.weight.register_post_accumulate_grad_hook(stepped)
layer.register_full_backward_hook(lambda *given: seen.append(torch.arange(4, device="cuda").tolist()))
for _ in range(2):
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (torch.arange(3, device="cuda"), t), unpacked):
        loss = (layer(torch.randn(8, 64, device="cuda", requires_grad=True)) ** 2).sum()
    loss.backward()
"""


@pytest.mark.parametrize(
    "torch",
    [
        pytest.param(installed_torch, id="installed"),
        pytest.param(lambda: torch_of_version((2, 6)), id="2.6"),
    ],
)
def test_whole_numbers_are_true_in_hooks(torch):
    seen = answer(HOOKS + "print(json.dumps(seen))", A100, needed(torch()))
    for step, found in enumerate((seen[: len(seen) // 2], seen[len(seen) // 2 :])):
        assert [10 * (step + 1), True] in found
        assert [0, 2, 4] in found
        assert [0, 1, 2, 3] in found
        assert 3 in found


def test_a_read_in_a_hook_is_named_and_no_allocation_is_another(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        HOOKS.replace(
            "return gradient * 1", "return gradient * (1 if gradient.norm().item() else 2)"
        ).replace(".nonzero().flatten()", "")
        + 'events = torch.cuda.memory._snapshot()["device_traces"][0]\n'
        + 'print(json.dumps([[e["action"], e["size"]] for e in events if "segment" not in e["action"]]))\n'
        + "import os, sys; sys.stdout.flush(); os._exit(0)\n"
    )
    events = {}
    for name in ("followed", "left"):
        card = tmp_path / name
        card.mkdir()
        environment = launch.environment(A100, card, needed(installed_torch()), inherited=os.environ)
        if name == "left":
            environment["PROFILER_VIRTUAL_INSIDE"] = ""
        done = subprocess.run(
            [sys.executable, str(program)], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        events[name] = json.loads(done.stdout)
    (read,) = (r for r in program_reads(tmp_path / "followed").reads if "norm" in r.text)
    assert (read.function, read.operation, read.changes_memory) == ("hook", "item", False)
    assert len(events["followed"]) > 100
    assert events["followed"] == events["left"]


def test_no_mode_is_active_where_a_checkpoint_runs_its_function_again():
    code = """
import json, torch
from torch.utils.checkpoint import checkpoint
modes = []
layer = torch.nn.Linear(64, 64).cuda()
def run(x):
    modes.append(torch._C._len_torch_dispatch_stack())
    return layer(x).relu()
checkpoint(run, torch.ones(8, 64, device="cuda"), use_reentrant=False).sum().backward()
print(json.dumps(modes))
"""
    assert answer(code, A100, needed(installed_torch())) == [0, 0]


def test_values_are_true_where_a_checkpoint_runs_its_function_again():
    code = """
import json, torch
from torch.utils.checkpoint import checkpoint
seen = []
layer = torch.nn.Linear(64, 64).cuda()
def run(x):
    falling = torch.arange(3, device="cuda").flip(0)
    lower = torch.tril_indices(3, 3, device="cuda")
    here = torch.arange(4) * 2
    seen.append([falling.tolist(), lower.sum().item(), here.tolist()])
    return layer(x).relu()
for reentrant in (False, True):
    x = torch.ones(8, 64, device="cuda", requires_grad=True)
    for _ in range(2):
        x = checkpoint(run, x, use_reentrant=reentrant)
    x.sum().backward()
print(json.dumps(seen))
"""
    # Rows 0, 1, 1, 2, 2, 2 and columns 0, 0, 1, 0, 1, 2; two forward passes, each again, in two ways
    assert answer(code, A100, needed(installed_torch())) == [[[2, 1, 0], 12, [0, 2, 4, 6]]] * 8
