"""A workload: everything that decides what one training run allocates, as plain data."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from profiler.errors import ProfilerError

PLAIN_OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "adafactor")  # torch.optim
TRANSFORMERS_OPTIMIZERS = ("adafactor_transformers", "adafactor_transformers_momentum")
# bitsandbytes: states of embeddings in 32 bits, as transformers' Trainer has them, or in 8 as all others.
EIGHT_BIT_AS_TRAINER = ("adam8bit", "adamw8bit", "paged_adamw8bit")
EIGHT_BIT_PLAIN = ("adam8bit_plain", "adamw8bit_plain", "paged_adamw8bit_plain")
EIGHT_BIT_OPTIMIZERS = EIGHT_BIT_AS_TRAINER + EIGHT_BIT_PLAIN
OPTIMIZERS = PLAIN_OPTIMIZERS + TRANSFORMERS_OPTIMIZERS + EIGHT_BIT_OPTIMIZERS
# Each once, in experiments and the suite: the 8-bit ones as the Trainer has them.
OPTIMIZERS_RUN = PLAIN_OPTIMIZERS + TRANSFORMERS_OPTIMIZERS + EIGHT_BIT_AS_TRAINER
IMPLEMENTATIONS = ("default", "forloop", "foreach", "fused")
PRECISIONS = ("fp32", "amp_bf16", "amp_fp16", "bf16", "fp16_master")
CHECKPOINTING = ("none", "every_layer", "sqrt", "selective")
ATTENTION = ("sdpa", "eager")
MEMORY_FORMATS = ("contiguous_format", "channels_last")  # names in torch

# How many GPUs share a training step: by torch's own means, or by formula only (DeepSpeed's stages).
DDP, ZERO1, FSDP2, ZERO2, ZERO3 = "ddp", "zero1", "fsdp2", "zero2", "zero3"
SHARDINGS = (DDP, ZERO1, FSDP2, ZERO2, ZERO3)

_CHOICES = {
    "optimizer": OPTIMIZERS,
    "optimizer_implementation": IMPLEMENTATIONS,
    "precision": PRECISIONS,
    "checkpointing": CHECKPOINTING,
    "attention": ATTENTION,
    "memory_format": MEMORY_FORMATS,
}


# More than anybody trains with at once: a count beyond is a slip, and would run for days.
LARGEST_BATCH = 10_000_000
_LARGEST = {"batch": LARGEST_BATCH, "length": 10_000_000, "layers": 10_000}
_MOST_PASSES = 1000


@dataclass(frozen=True)
class Workload:
    """One training run, said in full.

    Attributes:
        model: a name in `profiler.training.built_in.MODELS`, such as "gpt2" or "gpt2-tiny"; a function of
            the user's that returns a module, as "train.py:make_model" or "package.module:make_model"; or a
            transformers configuration, as "LlamaConfig" or the path of a config.json.
        batch: samples in one micro-batch (what is on the device at once).
        length: what a sample's size means to the model: tokens of a sequence, or pixels of an image's
            side; 0 where the model fixes it (the MLP).
        optimizer: one of OPTIMIZERS; of EIGHT_BIT_AS_TRAINER and EIGHT_BIT_PLAIN the one that is meant.
        attention: "sdpa" (fused where the device has it) or "eager" (the score matrix is a tensor).
        micro_batches: forward and backward passes before one optimizer step (gradient accumulation).
        steps: optimizer steps; the second is the steady state.
        seed: of the weights and of the data.
        optimizer_implementation: of torch.optim's optimizers: "default" is what torch picks for the device.
        precision: "fp32"; "amp_bf16" and "amp_fp16" (autocast over fp32 weights, the latter with a
            GradScaler); "bf16" (everything in 16 bits); "fp16_master" (16-bit weights and gradients, and an
            fp32 copy of the weights that the optimizer keeps and updates).
        checkpointing: what the forward pass drops and the backward pass computes again: "none",
            "every_layer", "sqrt" (stretches of about sqrt(layers) layers), or "selective" (every layer, but
            the outputs of matrix products are kept).
        layers: depth of the model; 0 for the model's own.
        memory_format: layout of a network of images and of its convolutions' weights: "contiguous_format"
            (batch × channels × height × width) or "channels_last" (channels innermost).
        settings: fields of a transformers configuration. Given as a mapping of plain values, kept as pairs
            of name and JSON text, so that a workload can be a key; see `setting_values`.
    """

    model: str
    batch: int
    length: int = 0
    optimizer: str = "adam"
    attention: str = "sdpa"
    micro_batches: int = 1
    steps: int = 2
    seed: int = 0
    optimizer_implementation: str = "default"
    precision: str = "fp32"
    checkpointing: str = "none"
    layers: int = 0
    memory_format: str = "contiguous_format"
    settings: Mapping[str, Any] | tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Raise ProfilerError where a value can never run."""
        for name in ("batch", "micro_batches", "steps"):
            if getattr(self, name) < 1:
                raise ProfilerError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("length", "layers"):
            if getattr(self, name) < 0:
                raise ProfilerError(f"{name} must not be negative, not {getattr(self, name)}")
        for name, most in _LARGEST.items():
            if getattr(self, name) > most:
                raise ProfilerError(f"{name} must be at most {most:,}, not {getattr(self, name):,}")
        if self.steps * self.micro_batches > _MOST_PASSES:
            raise ProfilerError(
                f"steps × micro_batches must be at most {_MOST_PASSES:,}, not "
                f"{self.steps * self.micro_batches:,}; from the second step on each takes the same"
            )
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ProfilerError(f"unknown {name} {getattr(self, name)!r}; known: {', '.join(allowed)}")
        self._check_optimizer()
        if isinstance(self.settings, Mapping):
            try:
                pairs = tuple((name, json.dumps(value)) for name, value in sorted(self.settings.items()))
            except TypeError as error:
                raise ProfilerError(f"settings must be plain values by name: {error}") from None
            object.__setattr__(self, "settings", pairs)

    def _check_optimizer(self) -> None:
        implementation = self.optimizer_implementation
        if implementation != "default" and self.optimizer not in PLAIN_OPTIMIZERS:
            raise ProfilerError(f"{self.optimizer} has one implementation only; leave {implementation!r} out")
        if (self.optimizer, implementation) == ("adafactor", "fused"):
            raise ProfilerError("torch.optim.Adafactor has no fused implementation; use foreach or forloop")
        if self.precision == "fp16_master" and self.optimizer not in PLAIN_OPTIMIZERS:
            raise ProfilerError(f"fp16_master works with {', '.join(PLAIN_OPTIMIZERS)}, not {self.optimizer}")

    @property
    def key(self) -> str:
        """A short name that is the same for the same workload, today and after new fields are added.

        Fields at their default do not enter, so that a new field leaves the keys of old records alone.
        """
        said = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.default is dataclasses.MISSING or getattr(self, field.name) != field.default
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]

    def setting_values(self) -> dict[str, Any]:
        """The settings by name, as plain values."""
        return {name: json.loads(text) for name, text in dict(self.settings).items()}

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, in their order; settings only where there are some."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["settings"] = self.setting_values()
        return values if self.settings else {n: v for n, v in values.items() if n != "settings"}

    def __str__(self) -> str:
        size = f"{self.batch} × {self.length}" if self.length else f"{self.batch}"
        settings = ", ".join(f"{name}={text}" for name, text in dict(self.settings).items())
        model = f"{self.model}({settings})" if settings else self.model
        model = f"{model} of {self.layers} layers" if self.layers else model
        words = [model, f"batch {size}", self.optimizer]
        if self.optimizer_implementation != "default":
            words[-1] += f" ({self.optimizer_implementation})"
        if self.attention != "sdpa":
            words.append(f"{self.attention} attention")
        if self.micro_batches > 1:
            words.append(f"{self.micro_batches} micro-batches")
        if self.precision != "fp32":
            words.append(self.precision)
        if self.checkpointing != "none":
            words.append(f"checkpointing {self.checkpointing}")
        if self.memory_format != "contiguous_format":
            words.append(self.memory_format)
        return ", ".join(words)


@dataclass(frozen=True)
class Sharding:
    """How a training step is shared: by one of SHARDINGS, among so many ranks of one GPU each. The batch is a
    rank's own.
    """

    kind: str
    ranks: int

    def __post_init__(self) -> None:
        """Raise ProfilerError for a way that there is not."""
        if self.kind not in SHARDINGS:
            raise ProfilerError(f"unknown --shard {self.kind!r}; known: {', '.join(SHARDINGS)}")
        if self.ranks < 1:
            raise ProfilerError(f"there is at least 1 rank, not {self.ranks}")

    def __str__(self) -> str:
        return f"{self.kind} on {self.ranks} GPUs"
