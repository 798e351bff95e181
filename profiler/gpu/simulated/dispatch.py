"""Every operation of the simulated device: output metadata, new blocks, nothing computed.

Operations reach this module below autograd and autocast, through the boxed fallback of the PrivateUse1
dispatch key, on plain tensors. PyTorch's own C++ autograd runs above it unchanged: gradients are
accumulated in place, stolen and freed exactly when they are on a real device.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload

from profiler.gpu.kernels.scratch import Scratch
from profiler.gpu.simulated.tensors.assumed import AssumedReads
from profiler.gpu.simulated.tensors.host_values import HostValues
from profiler.gpu.simulated.tensors.layouts import Metadata
from profiler.gpu.simulated.tensors.outputs import (
    PLACEMENTS,
    Placement,
    arguments_of,
    describe,
    describe_outputs,
)
from profiler.gpu.simulated.tensors.storage import DeviceMemory
from profiler.gpu.simulated.tensors.unsupported import DEVICE_TYPE, UnsupportedOperation
from profiler.gpu.virtual.values.assumptions import AS_IF_ONE

CPU_KERNEL = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)


@dataclass(frozen=True)
class Machine:
    """The open device: its memory, what the host knows or assumes of its values, and its kernels' scratch."""

    memory: DeviceMemory
    values: HostValues
    reads: AssumedReads | None
    capability: tuple[int, int]
    torch_version: tuple[int, int]
    scratch_of: Callable[[OpOverload, Sequence[Any], dict[str, Any], Any], tuple[Scratch, ...]]


# One at a time: the PrivateUse1 slot of PyTorch is unique to the process.
_open: Machine | None = None


def machine(op: str) -> Machine:
    """The open device, for an operation. Raises UnsupportedOperation where none is."""
    if _open is None:
        raise UnsupportedOperation(
            op, "the simulated GPU is closed: keep device work inside `simulated_gpu(...)`"
        )
    return _open


@contextmanager
def opened(device: Machine) -> Iterator[None]:
    """Inside, operations run on this one. Raises RuntimeError where another is open."""
    global _open  # noqa: PLW0603
    if _open is not None:
        raise RuntimeError("a simulated GPU is already open in this process")
    _open = device
    try:
        yield
    finally:
        device.memory.close()
        _open = None


@dataclass(frozen=True)
class _Plan:
    """How to run an operation, read off its schema."""

    name: str
    is_view: bool
    only_values: bool
    # per return: name and position of the argument that it is, or None for a new tensor
    returns: tuple[tuple[str, int] | None, ...]
    placement: Placement | None  # None: it depends on the arguments
    # names and positions of the arguments that it writes
    written: tuple[tuple[str, int], ...]
    is_random: bool


# Batch norm updates them, which its schema does not tell.
_RUNNING_STATISTICS = ("running_mean", "running_var")

_plans: dict[OpOverload, _Plan] = {}


def _plan(op: OpOverload) -> _Plan:
    schema = op._schema
    returns: list[tuple[str, int] | None] = []
    is_view = False
    for value in schema.returns:
        target = None
        if value.alias_info is not None:
            is_view = is_view or not value.alias_info.is_write
            for position, argument in enumerate(schema.arguments):
                alias = argument.alias_info
                if alias is not None and alias.before_set & value.alias_info.before_set:
                    target = (argument.name, position)
        returns.append(target)
    only_values = bool(schema.returns) and all("Tensor" not in str(value.type) for value in schema.returns)
    written = [
        (argument.name, position)
        for position, argument in enumerate(schema.arguments)
        if (argument.alias_info is not None and argument.alias_info.is_write)
        or argument.name in _RUNNING_STATISTICS
    ]
    return _Plan(
        schema.name,
        is_view,
        only_values,
        tuple(returns),
        None if op in PLACEMENTS else Placement(tuple(range(len(returns)))),
        tuple(written),
        any("Generator" in str(argument.type) for argument in schema.arguments),
    )


def new_tensor(described: Metadata, op: str) -> torch.Tensor:
    """A tensor of the described layout in a block of its own."""
    shape, strides, dtype = described
    return machine(op).memory.tensor(shape, strides, dtype, op)


def run_operation(op: OpOverload, *args: Any, **kwargs: Any) -> Any:
    """The kernel of every operation without one of its own."""
    with torch._C.DisableTorchFunction():
        plan = _plans.get(op)
        if plan is None:
            plan = _plans[op] = _plan(op)
        if plan.is_view:
            # View kernels only make another TensorImpl over the same storage: the CPU's serve any device.
            return op.redispatch(CPU_KERNEL, *args, **kwargs)
        if plan.only_values:
            return _read(op, plan, args, kwargs)
        try:
            described = describe_outputs(op, args, kwargs)
        except UnsupportedOperation:
            # What returns nothing writes in place (the fused optimizers): there is nothing to describe.
            described = describe(_read(op, plan, args, kwargs)) if plan.returns else ()
        result = _allocate(op, plan, described, args, kwargs)
        values, written = machine(plan.name).values, _written(plan, args, kwargs)
        values.follow(op, args, kwargs, result, written, plan.is_random)
        return result


def _read(op: OpOverload, plan: _Plan, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The result of an operation whose outcome depends on values, where the host knows them."""
    values, reads = machine(plan.name).values, machine(plan.name).reads
    try:
        result = values.compute(op, args, kwargs)
    except KeyError:
        if reads is not None:
            with suppress(KeyError):
                return reads.answer(op, args, kwargs)
        raise UnsupportedOperation(
            plan.name, "it needs values of the device; a simulated GPU holds none"
        ) from None
    if reads is not None and values.rests_on_assumption:
        reads.note(plan.name.removeprefix("aten::").replace("_local_scalar_dense", "item"), AS_IF_ONE)
    return result


def _written(plan: _Plan, args: Sequence[Any], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The device tensors that the operation changes."""
    found: list[torch.Tensor] = []
    for name, position in plan.written:
        value = args[position] if position < len(args) else kwargs.get(name)
        values = value if isinstance(value, list | tuple) else (value,)
        found += [each for each in values if isinstance(each, torch.Tensor)]
    return [tensor for tensor in found if tensor.device.type == DEVICE_TYPE]


def _allocate(
    op: OpOverload, plan: _Plan, described: Any, args: Sequence[Any], kwargs: dict[str, Any]
) -> Any:
    """The outputs of one kernel, with the blocks that it takes for itself around them."""
    device = machine(plan.name)
    scratch = device.scratch_of(op, args, kwargs, described)
    placement = plan.placement or PLACEMENTS[op](arguments_of(op, args, kwargs), device.torch_version)
    items = (described,) if len(plan.returns) == 1 else described

    def outputs(positions: Sequence[int]) -> dict[int, Any]:
        return {p: _give(plan, p, items[p], p in placement.host, args, kwargs) for p in positions}

    if not scratch:
        return _returned(plan, outputs(placement.order))
    memory = device.memory
    first = placement.before_scratch or len(plan.returns)
    with memory.scratch([s for s in scratch if s.before_outputs], plan.name):
        early = outputs(placement.order[:first])
        with memory.scratch([s for s in scratch if not s.before_outputs], plan.name):
            late = outputs(placement.order[first:])
    return _returned(plan, {**early, **late})


def _returned(plan: _Plan, values: dict[int, Any]) -> Any:
    if len(plan.returns) < 2:
        return values.get(0)
    return tuple(values[position] for position in range(len(plan.returns)))


def _give(
    plan: _Plan, position: int, described: Any, on_host: bool, args: Sequence[Any], kwargs: dict[str, Any]
) -> Any:
    """One return value: a written argument, new tensors, or a plain value."""
    target = plan.returns[position]
    if target is not None:
        name, place = target
        argument = args[place] if place < len(args) else kwargs[name]
        if isinstance(argument, torch.Tensor) and argument.shape != described[0]:
            resize(argument, described[0], described[1], plan.name)
            machine(plan.name).values.note_fresh(argument)
        return argument
    if isinstance(described, list):
        return [new_tensor(item, plan.name) for item in described]
    if not isinstance(described, tuple):
        return described
    if on_host:
        return torch.zeros(described[0], dtype=described[2])
    return new_tensor(described, plan.name)


def resize(tensor: torch.Tensor, shape: Sequence[int], strides: Sequence[int], op: str) -> None:
    """Give `tensor` a new storage of the given layout (cuda/Resize.cpp, `resize_bytes_cuda`:
    allocate, copy, free).
    """
    fresh = machine(op).memory.tensor(shape, strides, tensor.dtype, op)
    torch.ops.aten.set_.source_Storage_storage_offset.redispatch(
        CPU_KERNEL, tensor, fresh.untyped_storage(), 0, list(shape), list(strides)
    )
