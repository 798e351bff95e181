"""The runs of the reference: models, optimizers, precisions, techniques, sizes, allocator settings, as data.

The order is by what a run tells: whoever has few minutes of a GPU records the first runs, and goes on later.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from profiler.runs.run_settings import RunSettings
from profiler.units import GIB, MIB
from profiler.workload import OPTIMIZERS_RUN, Workload

EXPANDABLE_SEGMENTS = "expandable_segments:True"
# One of each kind of model, in the size that takes a second on a CPU: model, batch, length.
TINY = (
    ("gpt2-tiny", 2, 64),
    ("mlp-tiny", 32, 0),
    ("bert-tiny", 2, 64),
    ("llama-tiny", 2, 64),
    ("vit-tiny", 4, 32),
    ("resnet-tiny", 4, 32),
)
_TIMEOUT_SECONDS = 180.0  # for one phase: far more than any should take, and a campaign has minutes only


@dataclass(frozen=True)
class Case:
    """One run: a workload, and what of the process it depends on (see RunSettings)."""

    workload: Workload
    allocator_settings: str = ""
    attention_kernel: str = ""
    limit_bytes: int | None = None

    @property
    def key(self) -> str:
        """A short name, the same for the same case; the workload's own where nothing is added to it."""
        added = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "workload" and getattr(self, field.name) != field.default
        }
        if not added:
            return self.workload.key
        said = json.dumps([self.workload.key, added], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:12]

    @property
    def settings(self) -> RunSettings:
        """How this case runs."""
        return RunSettings(self.limit_bytes, self.allocator_settings, self.attention_kernel, _TIMEOUT_SECONDS)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, which `from_dict` reads."""
        return {**dataclasses.asdict(self), "workload": self.workload.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Case:
        """The case of which these are the values."""
        return cls(**{**values, "workload": Workload(**values["workload"])})

    def __str__(self) -> str:
        words = [str(self.workload)]
        if self.attention_kernel:
            words.append(f"{self.attention_kernel} kernel")
        if self.allocator_settings:
            words.append(self.allocator_settings)
        if self.limit_bytes is not None:
            words.append(f"{self.limit_bytes // MIB} MiB allowed")
        return ", ".join(words)


def cases(size: str) -> list[Case]:
    """All runs in order: "quick" has one of each kind, "small" the tiny models, "full" the real ones too."""
    if size == "quick":
        llama = Workload("llama-tiny", 2, 64, precision="bf16")
        kernels = [Case(llama, attention_kernel=kernel) for kernel in ("", "efficient", "math")]
        base = [Case(Workload(*shape)) for shape in TINY]
        longer = Workload("gpt2-tiny", 16, 256)
        return [
            *base,
            *kernels,
            Case(replace(longer, precision="amp_bf16")),
            Case(longer, EXPANDABLE_SEGMENTS),
        ]
    tiny = [
        *(Case(Workload(*shape)) for shape in TINY),
        *_techniques(Workload("gpt2-tiny", 2, 64), 48 * MIB),
        *_attention_kernels(Workload("gpt2-tiny", 2, 64, precision="amp_bf16")),
        *_attention_kernels(Workload("llama-tiny", 2, 64, precision="bf16")),
        *_expandable([Workload("bert-tiny", 2, 64), Workload("resnet-tiny", 4, 32)]),
        *(Case(Workload(*shape, precision=p)) for shape in TINY for p in ("amp_bf16", "amp_fp16")),
        *(Case(Workload(*shape, optimizer=o)) for shape in TINY for o in ("sgd", "momentum")),
        *_channels_last([Workload("resnet-tiny", 4, 32), Workload("vit-tiny", 4, 32)]),
        *(Case(Workload(*shape)) for shape in _ODD_TINY),
        Case(Workload("gpt2-tiny", 16, 256)),  # beyond 3072 tokens the embedding's backward pass sorts them
        *_sweeps(Workload("gpt2-tiny", 2, 64), (1, 2, 4, 8, 16), (16, 32, 64, 128, 256)),
    ]
    if size == "small":
        return _once(tiny)
    gpt2 = Workload("gpt2", 8, 512)
    real = [
        *_techniques(Workload("gpt2", 4, 256), 3 * GIB),
        *_attention_kernels(replace(gpt2, precision="amp_bf16")),
        *_expandable([gpt2, Workload("resnet50", 32, 224), Workload("bert-large", 8, 256)]),
        *_channels_last([Workload("resnet50", 32, 224)]),
        *(Case(Workload(*shape)) for shape in _ODD),
        Case(Workload("gpt2", 256, 1024)),  # more than any GPU has: 400 GiB
        *_sweeps(Workload("gpt2", 2, 256), (1, 2, 4, 8, 16), (64, 128, 256, 512, 1024)),
        *_sweeps(Workload("resnet50", 32, 224), (8, 16, 32, 64, 128), (96, 128, 160, 192, 224)),
        *_sweeps(Workload("vit-b16", 32, 224), (8, 16, 32, 64, 128), ()),
        *(Case(Workload("bert-large", 8, 256, precision=p)) for p in ("amp_bf16", "fp16_master")),
        Case(Workload("bert-large", 8, 256, precision="amp_bf16", checkpointing="every_layer")),
        *_sweeps(
            Workload("bert-large", 8, 256, precision="amp_bf16"), (2, 4, 8, 16, 32), (64, 128, 256, 384, 512)
        ),
        *_attention_kernels(Workload("llama-1b", 2, 1024, precision="bf16", layers=4)),
        Case(Workload("llama-1b", 4, 1024, "adamw8bit", precision="amp_bf16", checkpointing="every_layer")),
        Case(Workload("llama-1b", 4, 1024, "adafactor", precision="bf16")),
        Case(Workload("llama-1b", 1, 1024)),
    ]
    first = [Case(Workload(*shape)) for shape in _REAL]
    first.append(Case(replace(gpt2, precision="amp_bf16")))
    first.append(Case(Workload("llama-1b", 2, 1024, precision="bf16", layers=4)))
    first.append(Case(Workload("resnet50", 32, 224, precision="amp_bf16", memory_format="channels_last")))
    return _once([*first, *tiny, *real])


# Model, batch, length.
_REAL = (
    ("gpt2", 8, 512),
    ("resnet50", 32, 224),
    ("bert-large", 8, 256),
    ("vit-b16", 32, 224),
    ("mlp", 64, 0),
)
_ODD_TINY = (("gpt2-tiny", 3, 77), ("bert-tiny", 5, 61), ("llama-tiny", 1, 129), ("resnet-tiny", 3, 45))
_ODD = (("gpt2", 3, 333), ("bert-large", 3, 197), ("resnet50", 7, 197))


def _techniques(base: Workload, limit_bytes: int) -> Iterator[Case]:
    """One change at a time of an fp32 Adam run, and too little memory for it."""
    yield from (Case(replace(base, precision=p)) for p in ("amp_bf16", "bf16", "fp16_master", "amp_fp16"))
    yield Case(base, limit_bytes=limit_bytes)
    yield from (Case(replace(base, checkpointing=c)) for c in ("every_layer", "sqrt", "selective"))
    yield from (Case(replace(base, optimizer_implementation=i)) for i in ("fused", "forloop", "foreach"))
    yield Case(replace(base, attention="eager"))
    yield Case(replace(base, micro_batches=3))
    yield Case(base, EXPANDABLE_SEGMENTS)
    yield from (Case(replace(base, optimizer=optimizer)) for optimizer in OPTIMIZERS_RUN)
    yield Case(replace(base, optimizer="adafactor", optimizer_implementation="foreach"))
    yield Case(replace(base, optimizer="sgd", optimizer_implementation="fused"))
    yield Case(replace(base, precision="amp_bf16", checkpointing="every_layer", micro_batches=2))
    yield Case(replace(base, precision="amp_bf16", checkpointing="every_layer", optimizer="adamw8bit"))
    yield Case(replace(base, precision="amp_bf16"), EXPANDABLE_SEGMENTS)


def _attention_kernels(base: Workload) -> Iterator[Case]:
    """Torch's own choice of attention, each kernel alone, and eager attention."""
    yield from (Case(base, attention_kernel=kernel) for kernel in ("", "flash", "efficient", "cudnn", "math"))
    yield Case(replace(base, attention="eager"))


def _expandable(bases: list[Workload]) -> Iterator[Case]:
    yield from (Case(base, EXPANDABLE_SEGMENTS) for base in bases)


def _channels_last(bases: list[Workload]) -> Iterator[Case]:
    """Both layouts of images, in fp32 and under autocast."""
    for base in bases:
        yield from (Case(replace(base, precision=p)) for p in ("fp32", "amp_bf16"))
        last = replace(base, memory_format="channels_last")
        yield from (Case(replace(last, precision=p)) for p in ("fp32", "amp_bf16"))


def _sweeps(base: Workload, batches: tuple[int, ...], lengths: tuple[int, ...]) -> Iterator[Case]:
    yield from (Case(replace(base, batch=batch)) for batch in batches)
    yield from (Case(replace(base, length=length)) for length in lengths)


def _once(found: list[Case]) -> list[Case]:
    return list(dict.fromkeys(found))
