"""Single operations whose peaks others published, as their benchmark runs them.

Each program is built once, then runs forward and backward (or only one of them) ten times; the published
number is the median of `torch.cuda.max_memory_allocated()`.
"""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.llama.modeling_llama import LlamaMLP

from profiler.gpu.cards import GPUS
from profiler.gpu.simulated.device import simulated_gpu

NAMES = {
    "NVIDIA A100-SXM4-80GB": "A100-80GB",
    "NVIDIA H100 80GB HBM3": "H100-80GB",
    "NVIDIA H100 PCIe": "H100-80GB",
    "NVIDIA B200": "B200-180GB",
}
DTYPES = {"torch.float32": torch.float32, "torch.bfloat16": torch.bfloat16}


def cross_entropy(vocabulary, config):
    rows = config["B"] * config["T"]
    logits = torch.randn(rows, vocabulary, requires_grad=True, device="cuda")
    target = torch.randint(vocabulary, (rows, 1), device="cuda").squeeze(1)
    return lambda: nn.CrossEntropyLoss()(logits, target).backward()


def layer_norm(width, config):
    unused, layer = (
        nn.LayerNorm(width).cuda(),
        nn.LayerNorm(width).cuda(),
    )  # the benchmark holds the rival too
    x = torch.randn(config["M"], width, dtype=DTYPES[config["dtype"]], device="cuda")
    grad = torch.randn_like(x)
    x.requires_grad_(True)
    return lambda held=unused: layer(x).backward(grad, retain_graph=True)


def kl_div(vocabulary, config):
    rows = config["B"] * config["T"]
    loss = nn.KLDivLoss(reduction="batchmean")
    x = torch.randn(rows, vocabulary, requires_grad=True, device="cuda").log_softmax(-1)
    target = torch.randn(rows, vocabulary, device="cuda").softmax(-1)
    return lambda: loss(x, target).backward(retain_graph=True)


def gated(length, config):
    names = ("hidden_size", "intermediate_size", "hidden_act")
    dtype = DTYPES[config["dtype"]]
    shape = (config.get("bsz") or config["B"], length, config["hidden_size"])
    x = torch.randn(shape, device="cuda", dtype=dtype, requires_grad=True)
    with torch.device("meta"):  # values would be drawn on the host, for seconds
        mlp = LlamaMLP(transformers.LlamaConfig(**{name: config[name] for name in names}))
    mlp = mlp.to_empty(device="cuda").to(dtype)

    def run():
        y = mlp(x)
        y.backward(torch.randn_like(y), retain_graph=True)

    if config["mode"] == "forward":
        # The benchmark measures forward and backward together first, in the same process: autograd's
        # thread already holds its cuBLAS workspace.
        small = torch.ones(1, 1, device="cuda", requires_grad=True)
        (small @ small).backward()
        return lambda: mlp(x)
    if config["mode"] == "backward":
        y = mlp(x)
        return lambda: y.backward(torch.randn_like(y), retain_graph=True)
    return run


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        dtype = x.dtype
        x = x.to(torch.float32)
        variance = x.pow(2).mean(-1, keepdim=True)
        x = x * torch.rsqrt(variance + 1e-6)
        return self.weight * x.to(dtype)


def rms_norm(width, config):
    unused, layer = RMSNorm(width).cuda(), RMSNorm(width).cuda()
    x = torch.randn(config["M"], width, dtype=DTYPES[config["dtype"]], device="cuda")
    grad = torch.randn_like(x)
    x.requires_grad_(True)
    return lambda held=unused: layer(x).backward(grad, retain_graph=True)


def embedding(vocabulary, config):
    with torch.device("meta"):
        pair = [nn.Embedding(vocabulary, config["D"]) for _ in range(2)]
    unused, layer = (embedding.to_empty(device="cuda") for embedding in pair)
    ids = torch.randint(0, vocabulary, (config["B"], config["T"]), device="cuda")

    def run(held=unused):
        y = layer(ids)
        y.backward(torch.randn_like(y))

    return run


class JensenShannon(nn.Module):
    def __init__(self):
        super().__init__()
        self.divergence = nn.KLDivLoss(reduction="none", log_target=True)

    def forward(self, log_q, log_p):
        log_p, log_q = log_p.view(-1, log_p.size(-1)), log_q.view(-1, log_q.size(-1))
        mixture = torch.lerp(torch.exp(log_q), torch.exp(log_p), 0.5)
        loss = 0.5 * self.divergence(torch.log(mixture), log_p).sum(dim=-1) + 0.5 * self.divergence(
            torch.log(mixture), log_q
        ).sum(dim=-1)
        return (loss / log_q.shape[0]).sum()


def jsd(x, config):
    rows, vocabulary = (x, config["vocab_size"]) if "vocab_size" in config else (config["B"] * config["T"], x)
    loss = JensenShannon()
    q = torch.randn(rows, vocabulary, requires_grad=True, device="cuda").log_softmax(dim=-1)
    p = torch.randn(rows, vocabulary, device="cuda").log_softmax(dim=-1)

    def run():
        y = loss(q, p)
        y.backward(retain_graph=True)

    return run


PROGRAMS = {
    "cross_entropy": cross_entropy,
    "layer_norm": layer_norm,
    "kl_div": kl_div,
    "geglu": gated,
    "swiglu": gated,
    "rms_norm": rms_norm,
    "embedding": embedding,
    "jsd": jsd,
}


@dataclass(frozen=True)
class Row:
    """One published number: `name` and `mode` of the operation, the GPU, `x` and the settings of the run."""

    name: str
    mode: str
    gpu: str
    x: int
    config: dict[str, Any]
    peak_bytes: int


def published(table: Path) -> Iterator[Row]:
    """The rows of plain PyTorch for which there is a program here and whose number is exact."""
    with table.open() as file:
        for row in csv.DictReader(file):
            # Larger peaks were published in float32 MiB, too coarse for one block of 512 bytes.
            exact = float(row["y_value_50"]) < 2**14
            plain = row["kernel_provider"] in ("huggingface", "torch")
            if row["kernel_name"] in PROGRAMS and exact and plain and row["gpu_name"] in NAMES:
                yield Row(
                    row["kernel_name"],
                    row["kernel_operation_mode"],
                    NAMES[row["gpu_name"]],
                    int(row["x_value"]),
                    json.loads(row["extra_benchmark_config_str"]),
                    int(row["bytes_exact"]),
                )


def simulated_peak_bytes(row: Row) -> int:
    """The same number from the simulated GPU."""
    with simulated_gpu(GPUS[row.gpu]):
        run: Callable[[], object] = PROGRAMS[row.name](row.x, row.config | {"mode": row.mode})
        torch.cuda.reset_peak_memory_stats()
        for _ in range(10):
            run()
        peak_bytes = torch.cuda.max_memory_allocated()
        del run
        return peak_bytes
