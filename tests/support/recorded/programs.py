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
from torch import Tensor, nn

from profiler.gpu.allocator import AllocatorSettings
from tests.support.recorded.plain_transformer import InPlaceAdamW, PlainTransformer
from tests.support.recorded.plain_transformer import cross_entropy as plain_cross_entropy
from tests.support.recorded.transformer import AdamW, Transformer, cross_entropy

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


def transformer(size: str, length: int, device: torch.device, gathers_positions: bool = False) -> Transformer:
    width, layers, heads, hidden = SIZES[size]
    return Transformer(VOCABULARY, length, width, layers, heads, hidden, gathers_positions).to(device)


def tokens(batch: int, length: int, device: torch.device) -> Tensor:
    return torch.zeros(batch, length, dtype=torch.long, device=device)


def forward(device: torch.device, length: int, half: bool, grad: bool, holds_targets: bool) -> Iterator[None]:
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


def full_step(device: torch.device, length: int, half: bool) -> Iterator[None]:
    """Training with torch.optim.AdamW and the built-in cross entropy."""
    model = transformer("xl", length, device)
    ids, targets = tokens(4, length, device), tokens(4, length, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision(half):
            logits = model(ids)
        loss = nn.functional.cross_entropy(logits.float().reshape(-1, VOCABULARY), targets.reshape(-1))
        loss.backward()
        optimizer.step()

    for _ in range(5):
        step()
    yield
    step()
    yield


def medium(device: torch.device, length: int, half: bool, trains: bool) -> Iterator[None]:
    """Training with plain tensor code for the loss and AdamW, or inference; the logits stay until the end.
    All batches exist from the start.
    """
    model = transformer("medium", length, device)
    batches = [(tokens(4, length, device), tokens(4, length, device) if trains else None) for _ in range(6)]
    optimizer = AdamW(model.parameters())
    for step, (ids, targets) in enumerate(batches):
        if trains:
            optimizer.zero_grad()
        logits = loss = None
        if step == 5:
            yield
        with torch.inference_mode(not trains), precision(half):
            logits = model(ids)
            loss = cross_entropy(logits, targets) if trains else None
        if trains:
            loss.backward()
            optimizer.step()
        else:
            logits = None
    yield
    del logits


def forward_with_loss(device: torch.device, length: int, half: bool, grad: bool) -> Iterator[None]:
    """Forward and loss, both kept until the next step replaces them; the cache is emptied before
    recording.
    """
    model = transformer("large", length, device, gathers_positions=True)
    ids, targets = tokens(1, length, device), tokens(1, length, device)
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


def _medium() -> Iterator[Trace]:
    for length in (128, 256, 512, 1024):
        for stage, half in (("training", length >= 512), ("inference", length == 512)):
            yield Trace(
                f"Wedsonlin+assignment2-systems/*medium_{length}_{stage}_*",
                f"medium, 4 x {length}, {stage}",
                "A100-80GB",
                (2, 11),
                partial(medium, length=length, half=half, trains=stage == "training"),
            )


def _xl() -> Iterator[Trace]:
    folder = "LINYUNLinYun+CS336-assignment2-systems"
    for length in (128, 512, 1024, 2048):
        for half in (False, True):
            # At length 128 there are recordings of several versions of the program: one without, one
            # with the graph (the frees in the trace tell).
            name = f"{folder}/*__xl_ctx{length}_forward_{'bf16' if half else 'none'}"
            files = {f"{name}.*": False}
            if length == 128:
                files = {f"{name}.e1139f57*": False, f"{name}.3333ec24*": True}
                if not half:
                    files = {f"{name}.972da1f1*": False, f"{name}.9a386054*": True}
            for file, grad in files.items():
                yield Trace(
                    file,
                    f"xl, 4 x {length}, forward {'with' if grad else 'without'} graph",
                    "RTX-PRO-6000-96GB",
                    (2, 11),
                    partial(forward, length=length, half=half, grad=grad, holds_targets=True),
                )
            if length <= 512:
                yield Trace(
                    f"{folder}/*__xl_ctx{length}_full_step_{'bf16' if half else 'none'}.*",
                    f"xl, 4 x {length}, AdamW step",
                    "RTX-PRO-6000-96GB",
                    (2, 11),
                    partial(full_step, length=length, half=half),
                )


def _expandable() -> Iterator[Trace]:
    for length, kind, grad in (
        (128, "float32", False),
        (512, "float32", True),
        (512, "bfloat16", True),
        (2048, "float32", False),
    ):
        yield Trace(
            f"bolongcheng+assignment2-systems/*_xl_fwd_cl{length}_dtypetorch.{kind}.*",
            f"xl, 4 x {length}, forward {'with' if grad else 'without'} graph",
            "A100-80GB",
            (2, 11),
            partial(forward, length=length, half=kind == "bfloat16", grad=grad, holds_targets=False),
            AllocatorSettings.parse("expandable_segments:True"),
        )


def _large() -> Iterator[Trace]:
    for length in (128, 256, 512):
        for grad in (False, True):
            for half in (False, True):
                name = f"large_cl{length}_fw{'_with_grad' if grad else ''}{'_bf16' if half else ''}"
                yield Trace(
                    f"Hyperion-shuo+assignment2-systems/*_{name}.*",
                    f"large, 1 x {length}, forward and loss {'with' if grad else 'without'} graph",
                    "A10-24GB",
                    (2, 6),
                    partial(forward_with_loss, length=length, half=half, grad=grad),
                )


def _first_steps() -> Iterator[Trace]:
    folder = "kkaitlyn111+cs336-a2-systems"
    stages = [(stage, length) for stage in ("forward", "fullstep") for length in (128, 256, 512)]
    for count, (stage, length) in enumerate(stages, 1):
        yield Trace(
            f"{folder}/memory_files__memory_ctx{length}_{stage}_.*",
            f"xl, 4 x {length}, first {'forward' if stage == 'forward' else 'AdamW step'}"
            + (f", in a process that ran {count - 1} before" if count > 1 else ""),
            "H100-80GB",
            (2, 6),
            partial(first_step, stages=stages[:count]),
        )
    yield Trace(
        f"{folder}/memory_files__memory_ctx128_fullstep.*",
        "xl, 4 x 128, first AdamW step",
        "H100-80GB",
        (2, 6),
        partial(first_step, stages=[("fullstep", 128)]),
    )


TRACES = (
    *_medium(),
    *_large(),
    *_xl(),
    *_expandable(),
    Trace(
        "MAGMA27+assignment2-systems/memory_snapshot.*",
        "small, 32 x 256, forward, loss and backward",
        "RTX-4090",
        (2, 11),
        accumulated_gradients,
    ),
    *_first_steps(),
)
