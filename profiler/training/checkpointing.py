"""Activation checkpointing: segments of the model that keep their input and are computed again.

Chen et al. 2016 ("Training Deep Nets with Sublinear Memory Cost"): with a segment every sqrt(n) of n layers,
the kept inputs and the recomputed segment take O(sqrt(n)) each. With a segment a layer, the kept inputs grow
with n but by one tensor a layer only. Selective recomputation (Korthikanti et al. 2022, section 5) keeps what
is dear to compute and small, the matrix products' outputs, and recomputes the rest, above all the score
matrix of an attention that is not fused.
"""

from __future__ import annotations

from functools import partial
from math import ceil, sqrt
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

# The ops whose outputs a selective checkpoint keeps: linear layers, convolutions and fused attention. `bmm`
# is not among them: it makes the score matrix.
_KEPT_OPS = (
    "mm.default",
    "addmm.default",
    "convolution.default",
    "_scaled_dot_product_flash_attention_for_cpu.default",
    "_scaled_dot_product_flash_attention.default",
    "_scaled_dot_product_efficient_attention.default",
    "_scaled_dot_product_cudnn_attention.default",
)


def layers_per_segment(layers: int, checkpointing: str) -> int:
    """How many of `layers` layers one segment takes: about sqrt(layers) of them for "sqrt", else one."""
    return ceil(sqrt(layers)) if checkpointing == "sqrt" else 1


def cut(model: torch.nn.Module, path: str, checkpointing: str) -> torch.nn.Module:
    """Put the layers at `path` (a Sequential or ModuleList) into checkpointed segments; returns the model.

    `checkpointing` is one of profiler.workload.CHECKPOINTING but "none".
    """
    parent_path, _, name = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    layers = list(getattr(parent, name))
    step = layers_per_segment(len(layers), checkpointing)
    groups = [layers[first : first + step] for first in range(0, len(layers), step)]
    segments = [CheckpointedLayers(group, checkpointing == "selective") for group in groups]
    setattr(parent, name, type(getattr(parent, name))(*_as_arguments(getattr(parent, name), segments)))
    return model


def checkpointed_segments(model: torch.nn.Module) -> list[CheckpointedLayers]:
    """The checkpointed segments of a model, in the order of its layers."""
    return [module for module in model.modules() if isinstance(module, CheckpointedLayers)]


def _as_arguments(container: torch.nn.Module, segments: list[CheckpointedLayers]) -> list[Any]:
    """ModuleList takes one list, Sequential its modules."""

    return [segments] if isinstance(container, torch.nn.ModuleList) else segments


class CheckpointedLayers(torch.nn.Module):
    """A segment: consecutive layers, run one after the other under one checkpoint.

    While `recompute` is False, they run without checkpointing.
    """

    def __init__(self, layers: list[torch.nn.Module], selective: bool) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)
        self.recompute = True
        self._options: dict[str, Any] = {"use_reentrant": False}
        if selective:
            self._options["context_fn"] = partial(create_selective_checkpoint_contexts, _kept_ops())

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """What the last of the layers gives; each takes the output of the one before and the same rest."""
        if not self.recompute:
            return self._run(hidden, *args, **kwargs)
        output: torch.Tensor = checkpoint(self._run, hidden, *args, **self._options, **kwargs)
        return output

    def _run(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        for layer in self.layers:
            hidden = layer(hidden, *args, **kwargs)
        return hidden


def _kept_ops() -> list[Any]:
    found = []
    for name in _KEPT_OPS:
        packet, _, overload = name.partition(".")
        if hasattr(torch.ops.aten, packet):
            found.append(getattr(getattr(torch.ops.aten, packet), overload))
    return found
