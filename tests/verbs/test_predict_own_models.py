"""Models of a user's own that hold more than plain weights on the CPU: on both engines, end to end."""

import json

import pytest

from profiler.cli import main
from profiler.device import SIMULATED, VIRTUAL
from profiler.runs.engine import why_not_virtual

WIDTH, DEPTH, RANK, CLASSES = 1024, 2, 8, 10
QLORA = f"""
import torch
from torch import nn
import bitsandbytes as bnb

class Adapted(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = bnb.nn.Linear4bit(
            {WIDTH}, {WIDTH}, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
        )
        self.down = nn.Linear({WIDTH}, {RANK}, bias=False, dtype=torch.bfloat16)
        self.up = nn.Linear({RANK}, {WIDTH}, bias=False, dtype=torch.bfloat16)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))

def make_model():
    head = nn.Linear({WIDTH}, {CLASSES}, bias=False, dtype=torch.bfloat16)
    return nn.Sequential(*(Adapted() for _ in range({DEPTH})), head)

def make_batch(batch, length, device):
    return torch.randn(batch, {WIDTH}, device=device, dtype=torch.bfloat16)

def compute_loss(model, batch):
    return model(batch).float().sum()
"""


def predict(capsys, engine, *arguments):
    code = main(["predict", *arguments, "--engine", engine, "--json"])
    assert code == 0
    return json.loads(capsys.readouterr().out)


def test_four_bit_weights_with_trained_adapters(capsys, tmp_path):
    """More rows than CUDA's kernel for few of them takes, so that both engines dequantize, then multiply."""
    program = tmp_path / "four_bits.py"
    program.write_text(QLORA)
    arguments = (f"{program}:make_model", "--batch", "2048", "--optimizer", "adamw")
    simulated = predict(capsys, SIMULATED, *arguments)
    base, trained = WIDTH * WIDTH, DEPTH * 2 * RANK * WIDTH + CLASSES * WIDTH
    at_peak = simulated["peak"]["categories"]
    assert at_peak["parameters"] == DEPTH * base // 2 + 2 * trained
    assert at_peak["optimizer_states"] == 2 * 2 * trained
    # Scales of 64 weights each in 8 bits, of those one in 32 bits for 256, an offset, the values of 4 bits,
    # and those of 8 bits: the first two for every weight, the tables too.
    scales = DEPTH * (base // 64 + 4 * base // 64 // 256 + 4 + 4 * 16 + 4 * 256)
    loaded = simulated["phases"][0]
    assert loaded["formula_bytes"] == at_peak["parameters"] + scales
    for phase in simulated["phases"]:
        assert phase["formula_peak_bytes"] <= phase["peak_allocated_bytes"]
    if why_not_virtual():
        pytest.skip(why_not_virtual())
    virtual = predict(capsys, VIRTUAL, *arguments)
    assert virtual["phases"] == simulated["phases"]
    assert virtual["peak"]["categories"] == at_peak


META = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(1000, 64)
        self.head = nn.Linear(64, 1000, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("positions", torch.arange(128))

    def forward(self, tokens):
        return self.head(self.embedding(tokens + 0 * self.positions[: tokens.shape[1]]))

def make_model():
    with torch.device("meta"):
        return Tied()
"""


def test_what_is_built_on_meta_is_given_memory_once(capsys, engine, tmp_path):
    program = tmp_path / "on_meta.py"
    program.write_text(META)
    report = predict(capsys, engine, f"{program}:make_model", "--batch", "2", "--length", "16")
    assert report["parameters"] == 64_000  # tied
    assert report["assumed"].startswith("weights built on the meta device are given memory, tied ones once")
    loaded = report["phases"][0]
    assert loaded["allocated_bytes"] == loaded["formula_bytes"] == 4 * 64_000 + 8 * 128


def test_a_model_that_the_formula_cannot_count_has_the_engines_answer(capsys, tmp_path):
    """It asks for compiled kernels, which a simulated GPU does not have."""
    if why_not_virtual():
        pytest.skip(why_not_virtual())
    program = tmp_path / "reads.py"
    program.write_text("""
import torch

class Reads(torch.nn.Linear):
    def forward(self, x):
        torch.cuda.CUDAGraph()
        return super().forward(x)

def make_model():
    return Reads(8, 8)
""")
    report = predict(capsys, VIRTUAL, f"{program}:make_model", "--batch", "2")
    assert report["peak"]["allocated_bytes"] > 0
    assert report["formula"] == []
    assert "no formula of" in report["no_formula"]
    assert "cannot be simulated: torch.cuda.CUDAGraph" in report["no_formula"]
    assert "reads.py:6" in report["no_formula"]


BUILT_ON_CUDA = """
import torch

class Drawn(torch.nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator(device="cuda").manual_seed(3)
        self.weight = torch.nn.Parameter(torch.randn(64, 256, generator=generator, device="cuda"))
        torch.nn.init.normal_(self.weight, generator=generator)

    def forward(self, x):
        return x @ self.weight

def make_model():
    return Drawn()

def make_batch(batch, length, device):
    return torch.randn(batch, 64, device=device)

def compute_loss(model, batch):
    return model(batch).sum()
"""


def test_a_model_that_is_built_on_the_gpu_with_its_generator(capsys, engine, tmp_path):
    program = tmp_path / "built_on_cuda.py"
    program.write_text(BUILT_ON_CUDA)
    report = predict(capsys, engine, f"{program}:make_model", "--batch", "2")
    assert report["phases"][0]["allocated_bytes"] == report["phases"][0]["formula_bytes"] == 4 * 64 * 256


WRAPPED = """
import torch
from transformers import GPT2Config, GPT2LMHeadModel

class Wrapper(torch.nn.Module):
    def __init__(self, base_model):
        super().__init__()
        self.base_model = base_model
        self.config = base_model.config

    def forward(self, *args, **kwargs):
        return self.base_model(*args, **kwargs)

def base():
    return GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=1, n_head=2, vocab_size=128, n_positions=32))

def wrapped():
    model = base()
    model.requires_grad_(False)
    model.lm_head = torch.nn.Linear(64, 128, bias=False)
    return Wrapper(model)

def adapted():
    from peft import LoraConfig, get_peft_model

    return get_peft_model(base(), LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))
"""


@pytest.mark.parametrize(("function", "trained"), [("wrapped", 64 * 128), ("adapted", 4 * (64 + 3 * 64))])
def test_a_wrapper_of_transformers_is_fed_as_what_it_wraps(capsys, engine, tmp_path, function, trained):
    if function == "adapted":
        pytest.importorskip("peft")
    program = tmp_path / "wraps.py"
    program.write_text(WRAPPED)
    report = predict(capsys, engine, f"{program}:{function}", "--batch", "2", "--length", "8")
    assert report["assumed"] == "inputs guessed: random tokens with a label each, no padding"
    states = {phase["phase"]: phase["formula_bytes"] for phase in report["phases"]}
    gained = states["step 1 zero_grad"] - states["model_loaded"]
    assert gained == 2 * 4 * trained  # Adam's two states of what is trained
