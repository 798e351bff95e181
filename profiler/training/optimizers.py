"""The optimizers: how each is built, and the exact bytes of the state that it keeps.

Rules are per parameter tensor, since several optimizers treat vectors, small tensors and embeddings apart.
What a step needs on top, for as long as it runs, is in profiler.formula.optimizer_temporaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from profiler.device import VIRTUAL, Device
from profiler.gpu.patched import patched
from profiler.training import precision
from profiler.training.sharding import sharded_optimizer
from profiler.workload import (
    EIGHT_BIT_AS_TRAINER,
    EIGHT_BIT_OPTIMIZERS,
    PLAIN_OPTIMIZERS,
    TRANSFORMERS_OPTIMIZERS,
    Sharding,
    Workload,
)


def make_optimizer(
    workload: Workload, model: torch.nn.Module, sharding: Sharding | None = None
) -> torch.optim.Optimizer:
    """The workload's optimizer over the model's trainable parameters.

    Raises ProfilerError for one that ranks cannot share.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if sharding is not None:
        return sharded_optimizer(workload, parameters, lambda own: _plain(workload, own), sharding)
    if workload.precision == "fp16_master":
        return precision.MasterWeights(parameters, lambda masters: _plain(workload, masters))
    if workload.optimizer in PLAIN_OPTIMIZERS:
        return _plain(workload, parameters)
    if workload.optimizer in TRANSFORMERS_OPTIMIZERS:
        return _transformers_adafactor(workload, parameters)
    return _eight_bit(workload, model, parameters)


def import_library(workload: Workload, device: Device) -> None:
    """Import what the optimizer comes from: an import makes a few tensors of its own.

    bitsandbytes asks, as it is imported, for two functions to be compiled that serve devices for which it has
    no kernels, and torch then imports its compiler: two seconds that a run on the virtual GPU does without.
    """
    if workload.optimizer in EIGHT_BIT_OPTIMIZERS:
        uncompiled = [(torch, "compile", lambda function, **options: function)]
        with patched(uncompiled if device.kind == VIRTUAL else []):
            import bitsandbytes  # noqa: F401
    if workload.optimizer in TRANSFORMERS_OPTIMIZERS:
        import transformers.optimization  # noqa: F401


def _plain(workload: Workload, parameters: Sequence[torch.Tensor]) -> torch.optim.Optimizer:
    options: dict[str, Any] = {}
    implementation = workload.optimizer_implementation
    if implementation == "forloop":
        options = {"foreach": False}
    elif implementation != "default":
        options = {implementation: True}
    match workload.optimizer:
        case "sgd":
            return torch.optim.SGD(parameters, lr=1e-3, **options)
        case "momentum":
            return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, **options)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=1e-4, **options)
        case "adafactor":
            return torch.optim.Adafactor(parameters, lr=1e-3, **options)
        case _:
            return torch.optim.Adam(parameters, lr=1e-4, **options)


def _transformers_adafactor(workload: Workload, parameters: list[Any]) -> torch.optim.Optimizer:
    from transformers.optimization import Adafactor

    beta1 = 0.9 if workload.optimizer.endswith("momentum") else None
    # Those of transformers' Trainer: a fixed learning rate.
    fixed = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
    optimizer: torch.optim.Optimizer = Adafactor(parameters, lr=1e-3, beta1=beta1, **fixed)
    return optimizer


def _eight_bit(workload: Workload, model: torch.nn.Module, parameters: list[Any]) -> torch.optim.Optimizer:
    import bitsandbytes

    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    manager.initialize()  # overrides of an earlier model go by the ids of its parameters
    for module in model.modules() if workload.optimizer in EIGHT_BIT_AS_TRAINER else ():
        if isinstance(module, torch.nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})
    classes = {"adam8bit": "Adam8bit", "adamw8bit": "AdamW8bit", "paged_adamw8bit": "PagedAdamW8bit"}
    optimizer: torch.optim.Optimizer = getattr(
        bitsandbytes.optim, classes[workload.optimizer.removesuffix("_plain")]
    )(parameters, lr=1e-4)
    return optimizer
