"""Which live tensors are parameters, gradients, optimizer states, inputs or the loss, by address."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from profiler.training.models import constants_in, tensors_in
from profiler.training.step import TrainingState


def labels(state: TrainingState, device: torch.device) -> dict[int, str]:
    """Category by storage address of what the training loop holds on `device`.

    A storage under two headings (a batch that is also saved for backward) keeps the first in the order
    parameters, gradients, optimizer states (and the loss scale), inputs (batch, buffers and scales of
    quantized weights), activations (the loss).
    Holds no tensor when it returns.
    """
    found: dict[int, str] = {}
    for held, category in _held(state):
        for tensor in _plain(held):
            if tensor.device.type == device.type and torch._C._has_storage(tensor):
                found.setdefault(tensor.untyped_storage().data_ptr(), category)
    return found


def _plain(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The tensors that have its bytes: of a DTensor this rank's part, of a wrapper (torchao's float8 weights,
    quantized ones) those inside, as torch.utils._python_dispatch names them; of a sparse one its values and
    indices; of a lazy module's parameter nothing yet; else itself.
    """
    if torch.nn.parameter.is_lazy(tensor):
        return
    if tensor.layout == torch.sparse_coo:
        yield from (tensor._values(), tensor._indices())
        return
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        inside = getattr(tensor, name)
        if isinstance(inside, torch.Tensor):  # a DTensor names its mesh too
            yield from _plain(inside)


def storages(state: TrainingState, device: torch.device) -> dict[int, int]:
    """Size in bytes by storage address of what the training loop holds on `device`."""
    found: dict[int, int] = {}
    for tensor in (part for held, _ in _held(state) for part in _plain(held)):
        if tensor.device.type == device.type:
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return found


def _held(state: TrainingState) -> Iterator[tuple[torch.Tensor, str]]:
    parameters = [parameter for _, parameter in state.named_parameters()]
    yield from ((parameter, "parameters") for parameter in parameters)
    yield from ((p.grad, "gradients") for p in parameters if p.grad is not None)
    for optimizer in state.optimizers:
        for values in optimizer.state.values():
            yield from ((v, "optimizer_states") for v in values.values() if isinstance(v, torch.Tensor))
        maps = getattr(optimizer, "name2qmap", {})  # bitsandbytes' quantization maps
        yield from ((tensor, "optimizer_states") for tensor in maps.values())
    if state.scaler is not None and state.scaler.is_enabled():
        scale = (state.scaler._scale, state.scaler._growth_tracker)
        yield from ((tensor, "optimizer_states") for tensor in scale if tensor is not None)
    if state.batch is not None:
        yield from ((tensor, "inputs") for tensor in tensors_in(state.batch))
    for module in state.modules:
        yield from ((buffer, "inputs") for buffer in constants_in(module))
    if state.loss is not None:
        yield state.loss, "activations"


def parameter_modules(state: TrainingState, device: torch.device) -> dict[int, str]:
    """The module's path by storage address, of each parameter, gradient and optimizer state on `device`."""
    found: dict[int, str] = {}
    states = {parameter: values for each in state.optimizers for parameter, values in each.state.items()}
    for path, parameter in state.named_parameters():
        kept = (v for v in states.get(parameter, {}).values() if isinstance(v, torch.Tensor))
        for held in (parameter, parameter.grad, *kept):
            for tensor in _plain(held) if held is not None else ():
                if tensor.device.type == device.type and torch._C._has_storage(tensor):
                    found.setdefault(tensor.untyped_storage().data_ptr(), path.rpartition(".")[0] or path)
    return found
