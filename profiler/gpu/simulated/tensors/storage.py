"""Plain tensors whose storage is a number: the address that the allocator model gave.

A storage is imported through DLPack, the one public door by which pure Python hands PyTorch a pointer
together with a deleter (ATen/DLConvertor.cpp, `fromDLPack`). PyTorch calls the deleter when the last owner
of the storage lets go, in C++ too (a saved variable of the autograd graph), so a death is known at the very
moment it happens. The pointer is never read: every operation on the device is answered from metadata.
"""

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch

from profiler.gpu.allocator import DeviceOutOfMemory
from profiler.gpu.kernels.scratch import Scratch

_EXTENSION_DEVICE = 12  # kDLExtDev, which ATen maps to PrivateUse1

_INT, _UINT, _FLOAT, _BFLOAT, _COMPLEX, _BOOL = 0, 1, 2, 4, 5, 6
_DLPACK_TYPES: dict[torch.dtype, tuple[int, int]] = {
    torch.float32: (_FLOAT, 32),
    torch.float16: (_FLOAT, 16),
    torch.bfloat16: (_BFLOAT, 16),
    torch.float64: (_FLOAT, 64),
    torch.bool: (_BOOL, 8),
    torch.uint8: (_UINT, 8),
    torch.uint16: (_UINT, 16),
    torch.uint32: (_UINT, 32),
    torch.uint64: (_UINT, 64),
    torch.int8: (_INT, 8),
    torch.int16: (_INT, 16),
    torch.int32: (_INT, 32),
    torch.int64: (_INT, 64),
    torch.complex32: (_COMPLEX, 32),
    torch.complex64: (_COMPLEX, 64),
    torch.complex128: (_COMPLEX, 128),
}


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    )


class _ManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)

_one_byte = bytearray(1)


class _Owner(np.ndarray):
    """Dies with the storage: NumPy's DLPack deleter drops it, under the interpreter lock and with errors
    set aside.

    It is the deleter, not a Python callback through ctypes, because storages also die while an exception
    unwinds.
    """

    address: int
    died: Callable[[int], None]

    def __del__(self) -> None:
        if self.address:
            self.died(self.address)


def tensor_at(
    address: int,
    shape: Sequence[int],
    strides: Sequence[int],
    dtype: torch.dtype,
    died: Callable[[int], None],
) -> torch.Tensor:
    """A plain tensor of the PrivateUse1 device over `address`; `died(address)` is called when its storage
    dies.

    Address 0 means an empty storage, whose death is not reported.
    """
    rank = len(shape)
    # NumPy makes the structure, with room for this many dimensions; what it says is then replaced.
    owner = _Owner(tuple(shape), np.uint8, _one_byte, 0, (0,) * rank)
    owner.address, owner.died = address, died
    capsule = owner.__dlpack__()
    managed = _ManagedTensor.from_address(_capsule_pointer(capsule, b"dltensor"))
    inner = managed.tensor
    inner.data = address
    inner.device.kind, inner.device.index = _EXTENSION_DEVICE, 0
    inner.dtype.code, inner.dtype.bits = _DLPACK_TYPES.get(dtype) or (_UINT, dtype.itemsize * 8)
    if rank:
        inner.strides = inner.shape + 8 * rank
        (ctypes.c_int64 * rank).from_address(inner.strides)[:] = list(strides)
    tensor = torch._C._from_dlpack(capsule)
    return tensor if dtype in _DLPACK_TYPES else tensor.view(dtype)


def span_bytes(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> int:
    """Bytes from the first to past the last element (ATen/EmptyTensor.cpp, `computeStorageNbytes`)."""
    last = 0
    for size, stride in zip(shape, strides, strict=True):
        if size == 0:
            return 0
        last += (size - 1) * stride
    return (last + 1) * itemsize


class CudaOutOfMemory(DeviceOutOfMemory, torch.OutOfMemoryError):
    """The allocator's error under the name by which CUDA programs catch it."""


class Observer(Protocol):
    """Hears of every block handed out and taken back, in the order of the device."""

    def allocated(self, address: int, size_bytes: int, requested_bytes: int, op: str) -> None: ...

    def freed(self, address: int) -> None: ...

    def refused(self, requested_bytes: int, op: str) -> None:
        """There is no room for a request: the device is about to raise."""


class Allocator(Protocol):
    """What the device needs of a model of the caching allocator."""

    def malloc(self, size_bytes: int, stream: int = 0) -> int: ...

    def free(self, address: int) -> None: ...

    def block_size(self, address: int) -> int: ...


class DeviceMemory:
    """The memory of one simulated device: hands out tensors and temporaries, reports each birth and death."""

    def __init__(
        self, allocator: Allocator, observer: Observer, forget: Callable[[int], None] = lambda address: None
    ) -> None:
        self._allocator = allocator
        self._observer = observer
        self._forget = forget
        self._open = True
        # A death can come in the middle of a malloc (the garbage collector runs anywhere): it waits for
        # its turn.
        self._deaths: deque[int] = deque()
        self._lock = threading.Lock()

    def tensor(
        self, shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype, op: str
    ) -> torch.Tensor:
        """A new tensor in a block of its own. Raises CudaOutOfMemory as the allocator does."""
        requested_bytes = span_bytes(shape, strides, dtype.itemsize)
        address = self.malloc(requested_bytes, op) if requested_bytes else 0
        return tensor_at(address, shape, strides, dtype, self.free)

    def malloc(self, requested_bytes: int, op: str) -> int:
        """A block without a tensor: the temporary of a kernel. The caller frees it."""
        with self._lock:
            try:
                address = self._allocator.malloc(requested_bytes, 0)
            except DeviceOutOfMemory as error:
                self._observer.refused(requested_bytes, op)
                raise CudaOutOfMemory(
                    error.requested_bytes, error.reserved_bytes, error.allocated_bytes, error.capacity_bytes
                ) from None
            self._observer.allocated(address, self._allocator.block_size(address), requested_bytes, op)
        self._settle_deaths()
        return address

    @contextmanager
    def scratch(self, wanted: Sequence[Scratch], op: str) -> Iterator[None]:
        """Blocks that a kernel takes for itself: freed at the end of their stage, of the block, or never."""
        held: list[tuple[float, int]] = []  # the last stage of each, and its address
        stage = 0
        try:
            for scratch in wanted:
                if scratch.stage != stage:
                    stage = scratch.stage
                    self._free_before(stage, held)
                address = self.malloc(scratch.size_bytes, f"{op}:{scratch.name}")
                if scratch.lifetime != "process":
                    held.append((scratch.last_stage, address))
            self._free_before(float("inf"), held)
            yield
        finally:
            for _, address in reversed(held):
                self.free(address)

    def _free_before(self, stage: float, held: list[tuple[float, int]]) -> None:
        """Free what ends before this stage: what ends first, and of one end the youngest."""
        over = [pair for pair in held if pair[0] < stage]
        held[:] = [pair for pair in held if pair[0] >= stage]
        over.reverse()
        for _, address in sorted(over, key=lambda pair: pair[0]):
            self.free(address)

    def free(self, address: int) -> None:
        """Give a block back. After `close` it does nothing: the device is gone."""
        self._deaths.append(address)
        self._settle_deaths()

    def close(self) -> None:
        """Stop reporting: tensors that outlive the device die in silence."""
        self._open = False

    def _settle_deaths(self) -> None:
        while self._deaths and self._lock.acquire(blocking=False):
            try:
                while self._deaths:
                    address = self._deaths.popleft()
                    self._forget(address)
                    if self._open:
                        self._allocator.free(address)
                        self._observer.freed(address)
            finally:
                self._lock.release()
