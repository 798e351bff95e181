"""Names of devices at the border of Python: those that go in, those that come out."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from profiler.gpu.simulated.tensors.unsupported import DEVICE_TYPE

_SIMULATED = f"{DEVICE_TYPE}:0"
_NAMES_OF_DEVICES = (torch.device, str)
CUDA = torch.device("cuda", 0)


def to_simulated(value: Any) -> Any:
    """`value`, or the simulated device where it names CUDA's. Raises RuntimeError for a second GPU."""
    if isinstance(value, torch.device):
        if value.type != "cuda":
            return value
        index = value.index
    elif isinstance(value, str):
        if value != "cuda" and not value.startswith("cuda:"):
            return value
        index = torch.device(value).index
    else:
        return value
    if index not in (None, 0):
        raise RuntimeError(f"CUDA error: invalid device ordinal {index}; one GPU is simulated")
    return _SIMULATED


def _device_of(value: Any) -> Any:
    return to_simulated(f"cuda:{value}" if isinstance(value, int) and not isinstance(value, bool) else value)


def _to_cuda(
    tensor: torch.Tensor, device: Any = None, non_blocking: bool = False, **options: Any
) -> torch.Tensor:
    return tensor.to(
        _SIMULATED if device is None else _device_of(device), non_blocking=non_blocking, **options
    )


def _to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if args and isinstance(args[0], int):
        args = (_device_of(args[0]), *args[1:])
    return tensor.to(*args, **kwargs)


def _device(tensor: torch.Tensor) -> torch.device:
    device = tensor.device
    return CUDA if device.type == DEVICE_TYPE else device


def _is_cuda(tensor: torch.Tensor) -> bool:
    return tensor.device.type == DEVICE_TYPE


def _repr(tensor: torch.Tensor, **options: Any) -> str:
    if tensor.device.type != DEVICE_TYPE:
        return repr(tensor)
    return f"tensor(<simulated>, size={tuple(tensor.shape)}, device='cuda:0', dtype={tensor.dtype})"


def _set_data(tensor: torch.Tensor, data: torch.Tensor) -> None:
    """`parameter.data = moved`, by which modules move: between host and device the tensors change places."""
    if tensor.device.type == data.device.type:
        tensor.data = data
    else:
        torch.utils.swap_tensors(tensor, _as_kind_of(tensor, data))


def _as_kind_of(tensor: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    """`data` with the class of `tensor`, a parameter's of a library too, and all that is written on it."""
    if torch.nn.parameter.is_lazy(tensor):  # of a lazy module, without a shape yet
        return type(tensor)(tensor.requires_grad, data.device, data.dtype)  # type: ignore[call-arg,arg-type]
    if type(tensor) is torch.Tensor:
        return data
    trained = tensor.requires_grad and (data.is_floating_point() or data.is_complex())
    same: torch.Tensor = torch.Tensor._make_subclass(type(tensor), data, trained)
    same.__dict__.update(tensor.__dict__)
    return same


_compatible = torch._has_compatible_shallow_copy_type


def may_set_data(tensor: torch.Tensor, data: torch.Tensor) -> bool:
    """Also between the host and CUDA: that is how the parameters of a moved module stay the same objects."""
    return {tensor.device.type, data.device.type} == {"cpu", "cuda"} or _compatible(tensor, data)


def _set_item(tensor: torch.Tensor, index: Any, value: Any) -> None:
    """python_variable_indexing.cpp, `THPVariable_setitem`: a number is a tensor of the host for CUDA, and one
    of the device for devices that it does not know.
    """
    if isinstance(value, bool | int | float | complex) and tensor.device.type == DEVICE_TYPE:
        value = torch.tensor(value, dtype=tensor.dtype)
    tensor[index] = value


_REPLACED: dict[Any, Callable[..., Any]] = {
    torch.Tensor.cuda: _to_cuda,
    torch.Tensor.to: _to,
    torch.Tensor.__repr__: _repr,
    torch.Tensor.__setitem__: _set_item,
    torch.Tensor.data.__set__: _set_data,  # type: ignore[attr-defined]
    torch.Tensor.device.__get__: _device,
    torch.Tensor.is_cuda.__get__: _is_cuda,  # type: ignore[attr-defined]
    torch.Tensor.pin_memory: lambda tensor, device=None: tensor,  # host memory only
    torch.Tensor.is_pinned: lambda tensor, device=None: False,
    torch.Tensor.record_stream: lambda tensor, stream: None,  # one stream
}


class CudaNames(TorchFunctionMode):
    """Names of devices, translated in both directions."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        for argument in args:  # nearly every call has none: no copy of the arguments is made
            if isinstance(argument, _NAMES_OF_DEVICES):
                args = tuple([to_simulated(a) for a in args])
                break
        if kwargs:
            kwargs = {
                name: _device_of(value) if name == "device" else to_simulated(value)
                for name, value in kwargs.items()
            }
        replaced = _REPLACED.get(func)
        return (replaced or func)(*args, **(kwargs or {}))
