"""The model of a workload: found by its name, built, fed, and looked at before it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch

from profiler.errors import ProfilerError
from profiler.gpu.cards import GPU, UNLIMITED_BYTES
from profiler.training import checkpointing, precision
from profiler.training.built_in import MODELS, Batch, Model
from profiler.training.guessed_inputs import longest_sequence
from profiler.training.own_models import code_of, layers_of, own_model
from profiler.training.unwritten_weights import weights_left_unwritten
from profiler.training.user_code import errors_in_one_line
from profiler.workload import Workload


def find_model(workload: Workload) -> Model:
    """The built-in model of that name, or the user's own (profiler.training.own_models).

    Raises ProfilerError for a name that is neither, and for settings that it cannot take; whatever a user's
    own code raises passes through.
    """
    if workload.model not in MODELS:
        return own_model(workload)
    if workload.settings:
        raise ProfilerError(
            f"--set is for transformers configurations; {workload.model} is a model of its own"
        )
    return MODELS[workload.model]


@contextmanager
def code_in_use(workload: Workload) -> Iterator[None]:
    """Where the workload's model is built and run: a user's code can import what is beside it."""
    code = None if workload.model in MODELS else code_of(workload.model)
    with code.in_use() if code else nullcontext():
        yield


@contextmanager
def _seeing(workload: Workload, gpu: GPU | None) -> Iterator[None]:
    """Where a user's own code finds `gpu`, simulated and without limit: it may build its model there."""
    code = None if workload.model in MODELS else code_of(workload.model)
    if code is None or gpu is None:
        yield
        return
    from profiler.gpu.simulated.device import simulated_gpu

    code.import_libraries()
    with simulated_gpu(replace(gpu, memory_bytes=UNLIMITED_BYTES)):
        yield


def examine(workload: Workload, gpu: GPU | None = None) -> tuple[str, int]:
    """Look at the workload's model before it runs: what was assumed, or "", and its number of parameters.

    The model built for that takes no memory, however large it is: its weights are not written. `gpu` is one
    that it will be simulated on.

    Raises ProfilerError, one line, for a model that does not exist or cannot be built, for whatever the
    user's own code raises, for a length that the model cannot read, and for fields of the workload that
    the model would not heed.
    """
    assumed, module = looked_at(workload, gpu)
    return assumed, parameters_of(module)


def looked_at(workload: Workload, gpu: GPU | None = None) -> tuple[str, torch.nn.Module]:
    """What was assumed, and the model that was built to look at it; see `examine`."""
    with code_in_use(workload), errors_in_one_line(workload.model), _seeing(workload, gpu):
        model = find_model(workload)
        _check_heeded(workload, model)
        module = build_model(workload, initialize=False)
        longest = longest_sequence(module)
        makes_its_own_batches = model.code is not None and hasattr(model.code.module(), "make_batch")
        if longest is not None and workload.length > longest and not makes_its_own_batches:  # its own affair
            raise ProfilerError(
                f"{workload.model} reads at most {longest} tokens, not --length {workload.length}"
            )
        return model.assumed, module


def parameters_of(module: torch.nn.Module) -> int:
    """How many there are."""
    return sum(parameter.numel() for parameter in module.parameters())


def _check_heeded(workload: Workload, model: Model) -> None:
    """No field is ignored without a word."""
    if workload.attention != "sdpa" and not model.family.attention:
        raise ProfilerError(f"{workload.model} decides its attention itself; leave --attention out")
    if workload.length and workload.model in MODELS and not model.unit:
        raise ProfilerError(f"{workload.model} has inputs of one size; leave --length out")


def build_model(workload: Workload, initialize: bool = True) -> torch.nn.Module:
    """The workload's model in training mode, in its precision, on torch's current default device.

    With `initialize=False` the weights hold whatever their memory holds and none of it is touched: a model
    larger than the machine's memory can be built, to be simulated.

    Raises ProfilerError for a depth or a layout that the model cannot have.
    """
    model = find_model(workload)
    if workload.memory_format != "contiguous_format" and model.unit != "pixels":
        raise ProfilerError(f"{workload.memory_format} is a layout of images; {workload.model} has none")
    settings = dict(model.settings)
    if workload.layers:
        if not model.family.depth:
            raise ProfilerError(f"the depth of {workload.model} is fixed; leave layers at 0")
        settings[model.family.depth] = workload.layers
    writing = nullcontext() if initialize else weights_left_unwritten()
    with precision.default_dtype(workload.precision), writing:
        module = model.family.build(workload, settings)
        if workload.memory_format != "contiguous_format":
            _lay_out(module, getattr(torch, workload.memory_format))
    if workload.checkpointing == "none":
        return module
    path = layers_of(module) if model.family.layers is None else model.family.layers
    if not path:
        raise ProfilerError(f"{workload.model} has no list of equal layers to checkpoint")
    return checkpointing.cut(module, path, workload.checkpointing)


def _lay_out(module: torch.nn.Module, layout: torch.memory_format) -> None:
    """What `module.to(memory_format=layout)` does, which fake tensors refuse."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def make_batch(workload: Workload, device: torch.device) -> Batch:
    """One micro-batch of random data on `device`."""
    model = find_model(workload)
    if model.unit and workload.length < 1:
        raise ProfilerError(f"{workload.model} needs a length of at least 1 ({model.unit})")
    with precision.default_dtype(workload.precision):
        return model.family.batch(workload, model.settings, device)


def named_modules(root: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """As `Module.named_modules`, whose generators hand each module through all levels above it."""
    seen: set[torch.nn.Module] = set()
    pending = [("", root)]
    while pending:
        path, module = pending.pop()
        if module in seen:
            continue
        seen.add(module)
        yield path, module
        before = f"{path}." if path else ""
        children = list(module._modules.items())
        pending += [(before + name, child) for name, child in reversed(children) if child is not None]


_PLAIN = (torch.nn.Parameter, torch.Tensor)


def constants_in(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """The model's buffers, and what a library keeps beside its own kind of parameters: scales of quantized
    weights (bitsandbytes/functional.py, QuantState).
    """
    seen: set[int] = set()
    for _, module in named_modules(model):
        for buffer in module._buffers.values():
            if buffer is not None and id(buffer) not in seen:
                seen.add(id(buffer))
                yield buffer
        for parameter in module._parameters.values():
            if type(parameter) in _PLAIN or parameter is None or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if not type(parameter).__module__.startswith("torch."):  # FSDP's flat parameters hold themselves
                yield from _tensors_on(parameter)


def _tensors_on(holder: object, deep: int = 2) -> Iterator[torch.Tensor]:
    """Those that are attributes of it, and of the plain objects that are."""
    for value in vars(holder).values():
        if isinstance(value, torch.Tensor):
            yield value
        elif (
            deep
            and hasattr(value, "__dict__")
            and not isinstance(value, torch.nn.Module)
            and not callable(value)
        ):
            yield from _tensors_on(value, deep - 1)


def tensors_in(batch: Batch) -> list[torch.Tensor]:
    """The tensors of a batch, whatever holds them."""
    if isinstance(batch, torch.Tensor):
        return [batch]
    return list(batch.values() if isinstance(batch, dict) else batch)
