"""Building a model without writing its weights, so that a big one takes neither time nor memory.

`torch.empty` reserves addresses; the system hands out a page when it is first written (anonymous mmap). A
model whose initialisation is left out therefore takes almost no memory, whatever its size. Small tensors
(tables, masks, schedules) are filled as ever: programs read them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from profiler.units import MIB

SMALLEST_SKIPPED_BYTES = MIB

_FILLS = frozenset(
    {
        "zero_",
        "fill_",
        "normal_",
        "uniform_",
        "random_",
        "bernoulli_",
        "exponential_",
        "log_normal_",
        "cauchy_",
        "geometric_",
        "copy_",
        "erfinv_",
        "mul_",
        "div_",
        "add_",
        "sub_",
        "clamp_",
        "clamp_min_",
        "clamp_max_",
        "masked_fill_",
    }
)
_FACTORIES = frozenset({"zeros", "ones", "full", "rand", "randn"})
_FACTORIES_LIKE = frozenset({"zeros_like", "ones_like", "full_like", "rand_like", "randn_like"})


@contextmanager
def weights_left_unwritten() -> Iterator[None]:
    """Inside, filling a large floating-point tensor on the CPU does nothing: its values are undefined.

    Values then mean nothing, so this is for programs whose memory is of interest and whose numbers are not.
    """
    with _SkipFills():
        yield


def materialise(model: torch.nn.Module) -> bool:
    """Give memory on the CPU to what was built on the meta device; whether anything was.

    As `Module.to_empty`, which would untie what is tied: values are undefined, and those of integers, which
    can be indices, 0. A parameter keeps its class and what is written on it.
    """
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        held: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for tensors in held:
            for name, tensor in tensors.items():
                if tensor is not None and tensor.is_meta:
                    tensors[name] = made[id(tensor)] = made.get(id(tensor), _with_memory(tensor))
    return bool(made)


def _with_memory(tensor: torch.Tensor) -> torch.Tensor:
    plain = tensor.detach().as_subclass(torch.Tensor)
    new = torch.empty_like if tensor.is_floating_point() else torch.zeros_like
    data = new(plain, device="cpu")
    if not isinstance(tensor, torch.nn.Parameter):
        return data
    parameter: torch.Tensor = torch.Tensor._make_subclass(type(tensor), data, tensor.requires_grad)
    parameter.__dict__.update(tensor.__dict__)
    return parameter


class _SkipFills(TorchFunctionMode):
    """Answers fills of large CPU tensors without touching them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _FILLS or getattr(func, "__module__", "") == "torch.nn.init":
            target = args[0] if args else kwargs.get("tensor")
            if _is_large(target):
                return target
        elif name in _FACTORIES:
            empty = _unwritten(name, args, kwargs)
            if empty is not None:
                return empty
        elif name in _FACTORIES_LIKE and args and _is_large(args[0]):
            kwargs.pop("fill_value", None)
            return _empty_like(args[0], kwargs)
        return func(*args, **kwargs)


def _is_large(tensor: Any) -> bool:
    return (
        isinstance(tensor, torch.Tensor)
        and tensor.is_cpu
        and tensor.is_floating_point()
        and tensor.numel() * tensor.element_size() >= SMALLEST_SKIPPED_BYTES
    )


def _empty_like(tensor: Any, kwargs: dict[str, Any]) -> Any:
    return torch.empty_like(tensor, **{k: v for k, v in kwargs.items() if k != "generator"})


def _unwritten(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An empty tensor in place of `torch.<name>(*args)`, or None where that is small or not plain floats.

    The default device may be another than the CPU (a `with torch.device(...)` around the caller): then the
    call is left alone.
    """

    if name == "full":
        size = kwargs.get("size", args[0] if args else None)
    else:
        size = kwargs.get("size", args[0] if len(args) == 1 and not isinstance(args[0], int) else args)
    dtype = kwargs.get("dtype") or torch.get_default_dtype()
    device = torch.device(kwargs.get("device") or torch.get_default_device())
    if (
        size is None
        or kwargs.get("out") is not None
        or device.type != "cpu"
        or not dtype.is_floating_point
        or not all(isinstance(length, int) for length in size)
        or torch.Size(size).numel() * dtype.itemsize < SMALLEST_SKIPPED_BYTES
    ):
        return None
    if name == "full" and kwargs.get("dtype") is None and not isinstance(_fill_value(args, kwargs), float):
        return None  # the fill value decides the dtype
    return torch.empty(size, dtype=dtype, requires_grad=bool(kwargs.get("requires_grad")))


def _fill_value(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return kwargs.get("fill_value", args[1] if len(args) > 1 else None)
