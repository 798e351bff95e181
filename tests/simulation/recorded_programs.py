"""The programs behind recorded traces, and what is known of each run.

Each program is written from what its trace shows, the lines and the sizes of the first allocations, and
from the settings that its authors published; it starts on an empty device. A program yields where the
recording began and where it ended.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from recorded_plain_transformer import InPlaceAdamW, PlainTransformer
from recorded_plain_transformer import cross_entropy as plain_cross_entropy
from recorded_transformer import Transformer, cross_entropy
from torch import Tensor, nn

from profiler.allocator import AllocatorSettings

VOCABULARY = 10_000
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


def transformer(
    size: str, length: int, device: torch.device, gathers_positions: bool = False
) -> Transformer:
    width, layers, heads, hidden = SIZES[size]
    return Transformer(VOCABULARY, length, width, layers, heads, hidden, gathers_positions).to(device)


def tokens(batch: int, length: int, device: torch.device) -> Tensor:
    return torch.zeros(batch, length, dtype=torch.long, device=device)


def forward(
    device: torch.device, length: int, half: bool, grad: bool, holds_targets: bool
) -> Iterator[None]:
    """Forward passes whose logits die at once; with `grad` the graph is built as well."""
    model = transformer("xl", length, device)
    ids = tokens(4, length, device)
    targets = tokens(4, length, device) if holds_targets else None

    def step() -> None:
        with torch.set_grad_enabled(grad):
            with precision(half):
                logits = model(ids)
            del logits

    for _ in range(5):
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

    for _ in range(5):
        step()
    yield
    step()
    yield


def forward_with_loss(device: torch.device, length: int, half: bool, grad: bool) -> Iterator[None]:
    """Forward and loss, both kept until the next step replaces them; the cache emptied before recording."""
    model = transformer("large", length, device, gathers_positions=True)
    ids, targets = tokens(1, length, device), tokens(1, length, device)

    def steps() -> Iterator[None]:
        for step in range(6):
            if step == 5:
                torch.cuda.empty_cache()
                yield
            with precision(half), torch.set_grad_enabled(grad):
                model.zero_grad()
                logits = model(ids)
                loss = nn.functional.cross_entropy(logits.view(-1, VOCABULARY), targets.view(-1))
        yield
        del loss

    return steps()


def accumulated_gradients(device: torch.device) -> Iterator[None]:
    """Forward, loss and backward without an optimizer; gradients are never cleared."""
    model = transformer("small", 256, device)
    ids, targets = tokens(32, 256, device), tokens(32, 256, device)
    for step in range(6):
        if step == 5:
            yield
        logits = model(ids)
        loss = cross_entropy(logits, targets)
        loss.backward()
    yield
    del logits


def first_step(device: torch.device, stages: Sequence[tuple[str, int]]) -> Iterator[None]:
    """The first forward or training step of a new model, without warm-up. Several stages run one after
    the other in one process, and the last is recorded.
    """
    for stage, length in stages[:-1]:
        for _ in _first_step(device, stage, length):
            pass
    yield from _first_step(device, *stages[-1])


def _first_step(device: torch.device, stage: str, length: int) -> Iterator[None]:
    width, layers, heads, hidden = SIZES["xl"]
    with device:
        model = PlainTransformer(VOCABULARY, length, width, layers, heads, hidden)
    optimizer = InPlaceAdamW(model.parameters())
    ids = tokens(4, length, device)
    yield
    torch.cuda.empty_cache()
    logits = model(ids)
    if stage == "fullstep":
        loss = plain_cross_entropy(logits, ids)
        loss.backward()
        optimizer.step()
    yield


def _kkaitlyn() -> Iterator[Trace]:
    stages = [(stage, length) for stage in ("forward", "fullstep") for length in (128, 256, 512)]
    for count, (stage, length) in enumerate(stages, 1):
        yield Trace(
            f"kkaitlyn111+cs336-a2-systems/memory_files__memory_ctx{length}_{stage}_.*",
            f"2.7B, 4 x {length}, first {stage}" + (f", after {count - 1} others" if count > 1 else ""),
            "H100-80GB",
            (2, 6),
            partial(first_step, stages=stages[:count]),
        )
    yield Trace(
        "kkaitlyn111+cs336-a2-systems/memory_files__memory_ctx128_fullstep.*",
        "2.7B, 4 x 128, first fullstep",
        "H100-80GB",
        (2, 6),
        partial(first_step, stages=[("fullstep", 128)]),
    )


def _hyperion() -> Iterator[Trace]:
    for length in (128, 256, 512):
        for grad in (False, True):
            for half in (False, True):
                stage = "fw_with_grad" if grad else "fw"
                yield Trace(
                    "Hyperion-shuo+assignment2-systems/*_large_cl"
                    f"{length}_{stage}{'_bf16' if half else ''}.*",
                    f"large, 1 x {length}, {stage}",
                    "A10-24GB",
                    (2, 6),
                    partial(forward_with_loss, length=length, half=half, grad=grad),
                )


def _others() -> Iterator[Trace]:
    expandable = AllocatorSettings.parse("expandable_segments:True")
    for length, kind, grad in (
        (128, "float32", False), (2048, "float32", False), (512, "float32", True), (512, "bfloat16", True)):
        yield Trace(
            f"bolongcheng+assignment2-systems/*_xl_fwd_cl{length}_dtypetorch.{kind}.*",
            f"xl, 4 x {length}, forward",
            "A100-80GB",
            (2, 11),
            partial(forward, length=length, half=kind == "bfloat16", grad=grad, holds_targets=False),
            expandable,
        )
    yield Trace(
        "MAGMA27+assignment2-systems/memory_snapshot.*", "small, 32 x 256, forward and backward",
        "RTX-4090", (2, 11), accumulated_gradients)


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
                    else partial(forward, length=length, half=half, grad=False, holds_targets=True),
                )
TRACES = (*_linyun(), *_hyperion(), *_others(), *_kkaitlyn())
