"""What a program on the virtual GPU reads back, against what arithmetic says, and what is said of the
rest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from profiler.gpu.virtual import launch
from profiler.gpu.virtual.values.reads import ProgramReads, program_reads
from tests.support.virtual_gpu import answer, installed_torch, needed, one, torch_of_version

A100 = one("A100-40GB")
# The kernel below an override is found in another way before 2.10 (values/operation/below.py).
VERSIONS = [
    pytest.param(installed_torch, id="installed"),
    pytest.param(lambda: torch_of_version((2, 6)), id="2.6"),
]


def reads_of(code: str, folder: Path, **variables: str) -> tuple[str, ProgramReads]:
    """What `code`, a file of its own, printed on the virtual GPU, and what it read that was not computed."""
    program = folder / "program.py"
    program.write_text(code)
    card = folder / "card"
    card.mkdir()
    environment = launch.environment(A100, card, needed(installed_torch()), inherited=os.environ | variables)
    done = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, program_reads(card)


@pytest.mark.parametrize("torch", VERSIONS)
def test_integers_and_booleans_are_true(torch):
    code = """
import json, torch
x = torch.arange(10, device="cuda")
even = x % 2 == 0
grid = torch.tensor([[3, 1], [2, 7]], device="cuda")
print(json.dumps([
    even.nonzero().flatten().tolist(), x[even].tolist(), torch.unique(x // 4).tolist(), x.sum().item(),
    grid.sort(dim=1).values.tolist(), torch.cat([grid, grid]).max().item(), x.cumsum(0)[-1].item(),
    torch.where(even, x, -x).tolist(), bool((x >= 0).all()), (x > 5).sum().item(),
    grid.T.contiguous().tolist(),
    torch.full((8,), 255, dtype=torch.uint8, device="cuda").view(torch.uint64).item(),
]))
"""
    assert answer(code, A100, needed(torch())) == [
        [0, 2, 4, 6, 8],
        [0, 2, 4, 6, 8],
        [0, 1, 2],
        45,
        [[1, 3], [2, 7]],
        7,
        45,
        [0, -1, 2, -3, 4, -5, 6, -7, 8, -9],
        True,
        4,
        [[3, 2], [1, 7]],
        2**64 - 1,
    ]


def test_zeros_take_no_memory_of_the_host_and_read_as_zero_where_ones_were():
    code = """
import json, torch
def resident():
    return 4096 * int(open("/proc/self/statm").read().split()[1])
ones = torch.ones(12 << 20, dtype=torch.uint8, device="cuda")  # its values are followed: written
address, total = ones.data_ptr(), ones.sum().item()
del ones
zeros = torch.zeros(12 << 20, dtype=torch.uint8, device="cuda")
block = [zeros.data_ptr() == address, total, zeros.sum().item(), zeros.cpu().any().item()]
weight = torch.nn.Parameter(torch.zeros(1 << 20, device="cuda"))
optimizer = torch.optim.Adam([weight])
def step():
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
step()  # what a first step loads is not counted
before = resident()
large = torch.zeros(1 << 30, dtype=torch.uint8, device="cuda")
followed = [torch.zeros(12 << 20, dtype=torch.uint8, device="cuda") for _ in range(20)]  # as of 8-bit states
weight = torch.nn.Parameter(torch.zeros(64 << 20, device="cuda"))
optimizer = torch.optim.Adam([weight])
step()
state = optimizer.state[weight]
taken = [large.nbytes, state["exp_avg"].nbytes, state["exp_avg_sq"].nbytes, torch.cuda.memory_allocated()]
print(json.dumps([block, taken, resident() - before, [large[0].item(), large[-1].item()]]))
"""
    block, taken, resident_bytes, ends = answer(code, A100, needed(installed_torch()))
    assert block == [True, 12 << 20, 0, False]
    assert taken[:3] == [1 << 30, 256 << 20, 256 << 20]
    assert taken[3] > (1 << 30) + 4 * (256 << 20)
    assert ends == [0, 0]
    # Over 2 GiB of the device; of the host the page tables at most, and what Python took for a few objects.
    assert resident_bytes < 16 << 20


def test_random_integers_are_drawn_and_drawn_again_from_the_same_seed():
    code = """
import json, torch
torch.manual_seed(1)
first = torch.randint(5, 9, (2000,), device="cuda")
order = torch.randperm(100, device="cuda")
torch.manual_seed(1)
again = torch.randint(5, 9, (2000,), device="cuda")
print(json.dumps([sorted(set(first.tolist())), sorted(order.tolist()) == list(range(100)), torch.equal(first,
again)]))
"""
    assert answer(code, A100, needed(installed_torch())) == [[5, 6, 7, 8], True, True]


def test_the_attention_of_a_mask_of_ones_is_the_one_without_a_mask():
    code = """
import json, torch
from transformers import GPT2Config, GPT2LMHeadModel
peaks = []
ones = torch.ones(2, 256, dtype=torch.long, device="cuda")
for mask in (None, None, ones):
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.device("cuda"):
        model = GPT2LMHeadModel(GPT2Config(n_layer=2))
    ids = torch.zeros(2, 256, dtype=torch.long, device="cuda")
    model(input_ids=ids, labels=ids, attention_mask=mask).loss.backward()
    peaks.append(torch.cuda.max_memory_allocated() - before)
    del model, ids
print(json.dumps(peaks))
"""
    _, without, with_ones = answer(code, A100, needed(installed_torch()))  # the first also makes workspaces
    # transformers asks the mask whether it is all ones, and then leaves it away.
    assert with_ones == without


def test_a_loss_that_is_read_is_named_with_its_line_and_a_size_is_a_warning(tmp_path):
    code = """
import torch
x = torch.randn(300, 400, device="cuda", requires_grad=True)
loss = (x @ x.T).sum()
print(loss.item() > 0)
kept = x[x > 0.5]
print(kept.numel())
"""
    out, reads = reads_of(code, tmp_path)
    assert out == f"True\n{300 * 400}\n"  # the largest result is assumed
    sizes, losses = reads.reads
    assert sizes.changes_memory
    assert (Path(sizes.file).name, sizes.line, sizes.operation) == ("program.py", 6, "nonzero")
    assert not losses.changes_memory
    assert str(losses).endswith("program.py:5 print(loss.item() > 0)")
    assert losses.count == 1


def test_training_is_healthy_for_checks_scalers_and_clipping(tmp_path):
    code = """
import torch
model = torch.nn.Linear(200, 200, device="cuda")
optimizer = torch.optim.AdamW(model.parameters())
scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
with torch.autograd.detect_anomaly(check_nan=True):
    for _ in range(3):
        with torch.autocast("cuda", torch.float16):
            loss = model(torch.randn(128, 200, device="cuda")).float().square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
assert not torch.isnan(loss) and torch.isfinite(norm)
print(scaler.get_scale(), all(s["step"].item() == 3 for s in optimizer.state.values()))
"""
    out, _ = reads_of(code, tmp_path)
    assert out.splitlines()[-1] == "1024.0 True"


@pytest.mark.parametrize(("routing", "rows"), [("balanced", [64, 64, 64, 64]), ("worst", [256, 0, 0, 0])])
def test_tokens_choose_experts_as_was_stated(tmp_path, routing, rows):
    code = """
import json, torch
router = torch.nn.Linear(512, 4, device="cuda")
chosen = router(torch.randn(256, 512, device="cuda")).softmax(-1).topk(1).indices.flatten()
print(json.dumps([int((chosen == expert).nonzero().shape[0]) for expert in range(4)]))
"""
    out, reads = reads_of(code, tmp_path, PROFILER_VIRTUAL_ROUTING=routing)
    assert json.loads(out) == rows
    assert any(read.changes_memory for read in reads.reads)


LLAMA = """
from transformers import LlamaConfig, LlamaForCausalLM
config = LlamaConfig(
    hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, vocab_size=999
)
model = LlamaForCausalLM(config).cuda()
loss_of = lambda ids: model(input_ids=ids, labels=ids).loss
"""
ENCODER = """
embed, head = torch.nn.Embedding(999, 128), torch.nn.Linear(128, 999)
encoder = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(128, 4, 256, batch_first=True), 2)
model = torch.nn.Sequential(embed, encoder, head).cuda()
loss_of = lambda ids: torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
"""


@pytest.mark.parametrize(
    ("torch", "model"),
    [
        pytest.param(installed_torch, LLAMA, id="installed"),
        pytest.param(lambda: torch_of_version((2, 6)), ENCODER, id="2.6"),
    ],
)
def test_following_values_changes_no_allocation(tmp_path, torch, model):
    program = f"""
import json, torch
torch.cuda.memory._record_memory_history()
{model}
optimizer = torch.optim.Adam(model.parameters())
for _ in range(2):
    ids = torch.randint(0, 999, (2, 64), device="cuda")
    loss_of(ids).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
events = torch.cuda.memory._snapshot()["device_traces"][0]
print(json.dumps([e["size"] for e in events if e["action"] in ("alloc", "free_completed", "segment_alloc")]))
"""
    installation = needed(torch())
    file = tmp_path / "program.py"
    file.write_text(program)
    sequences = []
    for name in ("followed", "left"):
        card = tmp_path / name
        card.mkdir()
        inherited = {**os.environ, "PYTHONPATH": str(installation.folder.parent)}
        environment = launch.environment(A100, card, installation, inherited=inherited)
        if name == "left":
            environment["PROFILER_VIRTUAL_INSIDE"] = ""
        done = subprocess.run(
            [sys.executable, str(file)], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        sequences.append(json.loads(done.stdout))
    followed, left = sequences
    # What is not followed reads a mask of ones as zeros, so that transformers makes a mask of 4-byte numbers
    # more; nothing else may differ.
    assert len(followed) > 900
    assert [size for size in left if size not in (2 * 64 * 64, 2 * 64 * 64 * 4)] == [
        size for size in followed if size not in (2 * 64 * 64, 2 * 64 * 64 * 4)
    ]


def test_whole_numbers_that_a_backward_of_ones_own_writes_are_true():
    code = """
import torch
from torch._prims.rng_prims import run_and_save_rng_state
from torch._subclasses import FakeTensorMode
count = torch.zeros(3, dtype=torch.int64, device="cuda")

class Counted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2
    @staticmethod
    def backward(ctx, gradient):
        _, step = run_and_save_rng_state(torch.arange, 3, device="cuda")  # an operation made of Python
        count.add_(step)
        with FakeTensorMode():  # as where something is compiled here
            torch.ones(2, device="cuda") * 2.0
        return gradient * 2

x = torch.ones(5, 5, device="cuda", requires_grad=True)
for _ in range(2):
    Counted.apply(x).sum().backward()
print(count.tolist())
"""
    assert answer(code, A100, needed(installed_torch())) == [0, 2, 4]


def test_a_backward_of_ones_own_is_traced():
    code = """
import json, torch
from torch._dispatch.python import enable_python_dispatcher
from torch.fx.experimental.proxy_tensor import make_fx

class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2
    @staticmethod
    def backward(ctx, gradient):
        return gradient / torch.max(torch.abs(gradient)) * 3.0

x = torch.ones(5, 5, device="cuda", requires_grad=True)
with enable_python_dispatcher():  # as in torch.compile
    graph = make_fx(lambda x: torch.autograd.grad(Scaled.apply(x).sum(), x))(x).graph
multiplied = [node for node in graph.nodes if node.target is torch.ops.aten.mul.Tensor]
print(json.dumps([node.args[1] for node in multiplied]))
"""
    assert answer(code, A100, needed(torch_of_version((2, 6)))) == [2, 3.0]  # numbers, as they are


@pytest.mark.parametrize("torch", VERSIONS)
def test_a_histogram_of_whole_numbers_is_counted(torch):
    code = """
import torch
chosen = torch.tensor([0, 2, 2, 3, 2], device="cuda")
print(torch.histc(chosen, bins=4, min=0, max=3).tolist())
"""
    assert answer(code, A100, needed(torch())) == [1, 0, 3, 1]


def test_many_choices_are_spread_as_few_are():
    code = """
import json, torch
scores = torch.randn(1 << 17, 8, device="cuda")
chosen = scores.topk(2).indices
print(json.dumps([int((chosen == expert).sum()) for expert in range(8)]))
"""
    assert answer(code, A100, needed(installed_torch())) == [1 << 15] * 8  # 2 MiB of indices


def test_what_is_saved_to_a_file_is_no_size(tmp_path):
    code = f"""
import torch
torch.save(torch.nn.Linear(200, 200, device="cuda").state_dict(), "{tmp_path}/saved")
"""
    _, reads = reads_of(code, tmp_path)
    assert reads.reads
    assert not any(read.changes_memory for read in reads.reads)


def test_a_number_to_the_power_of_a_tensor():
    code = """
import json, torch
x = torch.arange(4, device="cuda")
with torch.device("cuda"):
    print(json.dumps([(2 ** x).tolist(), (2.0 ** x.float()).tolist(), torch.pow(1, x).tolist()]))
"""
    assert answer(code, A100, needed(installed_torch())) == [[1, 2, 4, 8], [1, 2, 4, 8], [1, 1, 1, 1]]


def test_drawing_until_all_lie_within_bounds_ends():
    """torch 2.14's trunc_normal_ does; bounds below what stands for a number that is not computed."""
    code = """
import json, torch
large, small = torch.empty(512, 512, device="cuda"), torch.empty(50, device="cuda")
for weight in (large, small):
    for bounds in ((-0.2, 0.2), (0.05, 0.06)):
        torch.nn.init.trunc_normal_(weight, 0.0, 0.1, *bounds)
drawn = torch.empty(512, 512, device="cuda").normal_()
while (drawn.abs() > 0.5).any():
    drawn = torch.where(drawn.abs() > 0.5, torch.empty_like(drawn).normal_(), drawn)
print(json.dumps([bool((small <= 0.0601).all()), bool((small > 0.04).all())]))
"""
    assert answer(code, A100, needed(installed_torch())) == [True, True]
