"""Which live tensors are parameters, gradients, optimizer states, inputs or the loss, by address."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from profiler.training.models import constants_in, tensors_in
from profiler.training.step import TrainingState

_ORDINARY = (torch.Tensor, torch.nn.Parameter)


def labels(state: TrainingState, device: torch.device) -> dict[int, str]:
    """Category by storage address of what the training loop holds on `device`; see Owned."""
    return Owned(state, device).labels


class Owned:
    """What the training loop holds on `device` now, by storage address. Keeps no tensor.

    Attributes:
        labels: categories. A storage under two headings (a batch that is also saved for backward) keeps the
            first in the order parameters, gradients, optimizer states (and the loss scale), inputs (batch,
            buffers and scales of quantized weights), activations (the loss).
        modules: the module's path of each parameter, gradient and optimizer state.
    """

    def __init__(self, state: TrainingState, device: torch.device) -> None:
        self.labels: dict[int, str] = {}
        self.modules: dict[int, str] = {}
        parameters = list(state.named_parameters())
        addresses: dict[int, tuple[tuple[int, ...], torch.Tensor]] = {}  # by the number of the tensor
        for held, category in _held(state, [parameter for _, parameter in parameters]):
            found = _addresses(held, device.type)
            addresses[id(held)] = found, held
            for address in found:
                self.labels.setdefault(address, category)
        states = {id(parameter): kept for each in state.optimizers for parameter, kept in each.state.items()}
        for path, parameter in parameters:
            module = path.rpartition(".")[0] or path
            kept = states.get(id(parameter), {}).values()
            for number in (id(parameter), id(parameter.grad), *map(id, kept)):
                for address in addresses[number][0] if number in addresses else ():
                    self.modules.setdefault(address, module)


def _addresses(held: torch.Tensor, device_type: str) -> tuple[int, ...]:
    """Of the storages on a device of that type that have its bytes."""
    if type(held) in _ORDINARY and held.layout == torch.strided and torch._C._has_storage(held):
        # The way of almost all.
        return (held.untyped_storage().data_ptr(),) if held.device.type == device_type else ()
    return tuple(
        tensor.untyped_storage().data_ptr()
        for tensor in _plain(held)
        if tensor.device.type == device_type and torch._C._has_storage(tensor)
    )


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
    parameters = [parameter for _, parameter in state.named_parameters()]
    for tensor in (part for held, _ in _held(state, parameters) for part in _plain(held)):
        if tensor.device.type == device.type:
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return found


def _held(
    state: TrainingState, parameters: Sequence[torch.nn.Parameter]
) -> Iterator[tuple[torch.Tensor, str]]:
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
