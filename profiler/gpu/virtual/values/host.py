"""A tensor of the CPU over the memory of a CUDA tensor: on the virtual GPU, device memory is host memory."""

import ctypes

import torch

# Up to which size values are followed: small enough to cost little, large enough for ids and masks.
INTEGER_BYTES = 16 << 20  # an integer or boolean tensor
FLOATS = 1 << 14  # elements of a floating-point tensor that is computed
COPIED_BYTES = 4 << 20  # a tensor that is only copied; the stand-ins copy as much (stand_ins/core/contents.c)
ASSUMED_BYTES = 1 << 20  # an integer or boolean result of values that are not computed


def extent_bytes(tensor: torch.Tensor) -> int:
    """Bytes from the first element of a tensor with elements to the end of its last, gaps included."""
    if tensor.is_contiguous():
        return tensor.numel() * tensor.element_size()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


def _stand_in(name: str, *arguments: type) -> "ctypes._NamedFuncPointer | None":
    """A function of the preloaded stand-ins, with the types of its arguments; None where there are none."""
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function.argtypes = arguments
    return function


_wait_for_data = _stand_in("vgpu_wait_for_data", ctypes.c_void_p)  # stand_ins/core/streams/pending.c
_fill = _stand_in("vgpu_memory_fill", ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)  # core/contents.c


def zero(tensor: torch.Tensor) -> None:
    """Zero the elements of a tensor; pages that were never written stay so, where there are no gaps."""
    bytes_ = tensor.numel() * tensor.element_size()
    if _fill is None or not bytes_ or extent_bytes(tensor) != bytes_:
        on_host(tensor).zero_()
    else:
        _wait_for_what_comes(tensor)
        _fill(tensor.data_ptr(), 0, bytes_)


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    """The same elements as a CPU tensor of the same shape and strides; shares the memory, does not own it.

    What the current stream waits for, from another rank, has come by then. Raises RuntimeError if that rank
    has ended.
    """
    if not tensor.numel():
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    _wait_for_what_comes(tensor)
    memory = (ctypes.c_char * extent_bytes(tensor)).from_address(tensor.data_ptr())
    flat = torch.frombuffer(memory, dtype=torch.uint8).view(tensor.dtype)
    return flat.as_strided(tensor.shape, tensor.stride())


def _wait_for_what_comes(tensor: torch.Tensor) -> None:
    if _wait_for_data is not None and tensor.is_cuda:
        stream = torch._C._cuda_getCurrentRawStream(tensor.get_device())
        if _wait_for_data(stream):
            raise RuntimeError("a rank has ended whose part of a collective is waited for")
