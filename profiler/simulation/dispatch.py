"""Every operation of the simulated device: output metadata, new blocks, nothing computed.

Operations reach this module below autograd and autocast, through the boxed fallback of the PrivateUse1 dispatch key,
on plain tensors. PyTorch's own C++ autograd runs above it unchanged: gradients are accumulated in place, stolen
and freed exactly when they are on a real device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch._meta_registrations  # the Meta kernels written in Python
from torch._ops import OpOverload

from profiler.simulation import hidden
from profiler.simulation.errors import UnsupportedOperation
from profiler.simulation.storage import DeviceMemory, span_bytes

DEVICE_TYPE = "simgpu"
_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_META = torch._C.DispatchKeySet(torch._C.DispatchKey.Meta)

# A tensor described: shape, strides, dtype.
Metadata = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
Kernel = Callable[..., Any]


class Machine:
    """What the kernels act on. One device at a time: the PrivateUse1 slot of PyTorch is unique to the process."""

    memory: DeviceMemory | None = None
    hidden: "hidden.HiddenAllocations | None" = None


machine = Machine()


def memory_for(op: str) -> DeviceMemory:
    """The memory of the open device."""
    if machine.memory is None:
        raise UnsupportedOperation(op, "the simulated GPU is closed: keep device work inside `simulated_gpu(...)`")
    return machine.memory


@dataclass(frozen=True)
class _Plan:
    """How to run an operation, read off its schema."""

    op: OpOverload
    name: str
    is_view: bool
    # per return: position or keyword of the argument that it aliases, or None for a new tensor
    returns: tuple[int | str | None, ...]
    returns_values: bool
    written: tuple[tuple[int, str], ...]


_plans: dict[OpOverload, _Plan] = {}
_outputs_of: dict[Any, Any] = {}


def _plan(op: OpOverload) -> _Plan:
    schema = op._schema
    written = tuple(
        (position, argument.name)
        for position, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )
    returns: list[int | str | None] = []
    is_view = returns_values = False
    for value in schema.returns:
        alias = value.alias_info
        target: int | str | None = None
        if alias is not None:
            is_view = is_view or not alias.is_write
            for position, argument in enumerate(schema.arguments):
                if argument.alias_info is not None and argument.alias_info.before_set & alias.before_set:
                    target = argument.name if argument.kwarg_only else position
        returns.append(target)
        returns_values = returns_values or "Tensor" not in str(value.type)
    return _Plan(op, f"{op._schema.name}", is_view, tuple(returns), returns_values, written)


def _key(value: Any) -> Any:
    """A hashable stand-in for an argument that fixes the metadata of the outputs."""
    if isinstance(value, torch.Tensor):
        return (tuple(value.shape), value.stride(), value.dtype, value.device.type)
    if isinstance(value, list | tuple):
        return tuple([_key(item) for item in value])
    return (type(value), value)  # 1, 1.0 and True are equal in Python, not in type promotion


def _on_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        if value.device.type != DEVICE_TYPE:
            return value
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    if isinstance(value, list | tuple):
        return [_on_meta(item) for item in value]
    if isinstance(value, torch.device):
        return torch.device("meta")
    if isinstance(value, torch.Generator):
        return None
    return value


def _describe(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return (tuple(value.shape), value.stride(), value.dtype)
    if isinstance(value, list | tuple):
        return [_describe(item) for item in value]
    return value


def _has_scalar_mix(values: Sequence[Any]) -> bool:
    """Whether a Python number boxed as a tensor may meet a 0-dim tensor: promotion then depends on more than the key."""
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    return any(t.device.type != DEVICE_TYPE for t in tensors) and any(
        t.device.type == DEVICE_TYPE and t.dim() == 0 for t in tensors
    )


def metadata(op: OpOverload, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What `op` returns, as Metadata in the nesting of its returns. Raises UnsupportedOperation without Meta kernel."""
    key: Any = None
    if not _has_scalar_mix(args):
        key = (op, _key(args), _key(tuple(kwargs.items())) if kwargs else ())
        found = _outputs_of.get(key)
        if found is not None:
            return found
    try:
        result = op.redispatch(
            _META, *[_on_meta(a) for a in args], **{name: _on_meta(a) for name, a in kwargs.items()}
        )
    except NotImplementedError as error:
        reason = "its output depends on values, or it has no Meta kernel; a simulated GPU holds no values"
        raise UnsupportedOperation(op._schema.name, reason) from error
    described = _describe(result)
    if key is not None:
        _outputs_of[key] = described
    return described


def new_tensor(described: Metadata, op: str) -> torch.Tensor:
    """A tensor of the described layout in a block of its own."""
    shape, strides, dtype = described
    return memory_for(op).tensor(shape, strides, dtype, op)


def run(op: OpOverload, *args: Any, **kwargs: Any) -> Any:
    """The kernel of every operation without one of its own."""
    with torch._C.DisableTorchFunction():
        plan = _plans.get(op)
        if plan is None:
            plan = _plans[op] = _plan(op)
        if plan.is_view:
            # View kernels only make another TensorImpl over the same storage: the CPU's serve any device.
            return op.redispatch(_CPU, *args, **kwargs)
        if plan.returns_values:
            raise UnsupportedOperation(plan.name, "it reads values of the device; a simulated GPU holds none")
        described = metadata(op, args, kwargs)
        if len(plan.returns) == 1:
            described = (described,)
        if not plan.returns:
            with hidden.around(machine, op, args, kwargs):
                return None
        outputs = [
            _give(plan, target, item, args, kwargs)
            for target, item in zip(plan.returns, described, strict=True)
        ]
        with hidden.around(machine, op, args, kwargs):
            return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _give(plan: _Plan, target: int | str | None, described: Any, args: Sequence[Any], kwargs: Any) -> Any:
    """One return value: a written argument, or new tensors."""
    if target is None:
        if isinstance(described, list):
            return [new_tensor(item, plan.name) for item in described]
        return None if described is None else new_tensor(described, plan.name)
    argument = args[target] if isinstance(target, int) and target < len(args) else None
    if argument is None:
        name = target if isinstance(target, str) else plan.op._schema.arguments[target].name
        argument = kwargs[name]
    if isinstance(argument, torch.Tensor) and argument.shape != described[0]:
        resize(argument, described[0], described[1], plan.name)
    return argument


def resize(tensor: torch.Tensor, shape: Sequence[int], strides: Sequence[int], op: str) -> None:
    """Give `tensor` a new storage of the given layout (Resize.cuh, `resize_bytes_cuda`: allocate, copy, free)."""
    fresh = memory_for(op).tensor(shape, strides, tensor.dtype, op)
    torch.ops.aten.set_.source_Storage_storage_offset.redispatch(
        _CPU, tensor, fresh.untyped_storage(), 0, list(shape), list(strides)
    )
