"""The programs behind recorded traces, and what is known of each run.

Each program is written from what its trace shows, the lines and the sizes of the first allocations, and
from the settings that its authors published; it starts on an empty device. A program yields where the
recording began and where it ended.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from recorded_transformer import Transformer
from torch import Tensor, nn

from profiler.allocator import AllocatorSettings

VOCABULARY = 10_000
import os
WARMUPS=int(os.environ.get('W','5'))
SIZES = {  # width, layers, heads, feed-forward
    "small": (768, 12, 12, 3072),
    "medium": (1024, 24, 16, 4096),
    "large": (1280, 36, 20, 5120),
    "xl": (2560, 32, 32, 10240),
}

Program = Callable[[torch.device], Iterator[None]]


@dataclass(frozen=True)
class Trace:
    """One recorded run. `file` is a pattern below the folder of snapshots."""

    file: str
    ran: str
    gpu: str
    torch_version: tuple[int, int]
    program: Program
    settings: AllocatorSettings = field(default_factory=AllocatorSettings)


def precision(half: bool) -> torch.autocast | nullcontext[None]:
    return torch.autocast("cuda", torch.bfloat16) if half else nullcontext()


def transformer(size: str, length: int, device: torch.device) -> Transformer:
    width, layers, heads, hidden = SIZES[size]
    return Transformer(VOCABULARY, length, width, layers, heads, hidden).to(device)


def tokens(batch: int, length: int, device: torch.device) -> Tensor:
    return torch.zeros(batch, length, dtype=torch.long, device=device)


def forward(
    device: torch.device, size: str, length: int, batch: int, half: bool, grad: bool, warmups: int = 5
) -> Iterator[None]:
    """Forward passes whose logits die at once; with `grad` the graph is built as well."""
    model = transformer(size, length, device)
    ids, targets = tokens(batch, length, device), tokens(batch, length, device)

    def step() -> None:
        with torch.set_grad_enabled(grad):
            with precision(half):
                logits = model(ids)
            del logits

    for _ in range(warmups):
        step()
    yield
    step()
    yield
    del targets


def full_step(device: torch.device, size: str, length: int, batch: int, half: bool) -> Iterator[None]:
    """Training with torch.optim.AdamW and the built-in cross entropy."""
    model = transformer(size, length, device)
    ids, targets = tokens(batch, length, device), tokens(batch, length, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision(half):
            logits = model(ids)
        loss = nn.functional.cross_entropy(
            logits.float().reshape(-1, VOCABULARY), targets.reshape(-1)
        )
        loss.backward()
        optimizer.step()

    for _ in range(WARMUPS):
        step()
    yield
    step()
    yield


def _linyun() -> Iterator[Trace]:
    folder = "LINYUNLinYun+CS336-assignment2-systems"
    for length in (128, 512, 1024, 2048):
        for precision_name in ("none", "bf16"):
            for stage in ("forward", "full_step"):
                half = precision_name == "bf16"
                yield Trace(
                    f"{folder}/*__xl_ctx{length}_{stage}_{precision_name}.*",
                    f"xl, 4 x {length}, {stage}",
                    "RTX-PRO-6000-96GB",
                    (2, 11),
                    partial(full_step, size="xl", length=length, batch=4, half=half)
                    if stage == "full_step"
                    else partial(forward, size="xl", length=length, batch=4, half=half, grad=False),
                )
TRACES = tuple(_linyun())
