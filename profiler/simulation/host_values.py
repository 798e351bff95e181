"""Values of small integer and boolean tensors, kept on the host.

Masks, positions and labels decide shapes and branches ("is the padding mask all ones?"), so programs read
them back. They are computed on the CPU beside the simulated operation; everything in floating point stays
without values.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch._ops import OpOverload

from profiler.simulation.outputs import DEVICE_TYPE, call

# Beyond this a tensor is data, not control: its values are unknown.
_LARGEST_STORAGE_BYTES = 4 << 20


def _is_integral(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex)


class HostValues:
    """What is known of the device's storages: address -> bytes, or None where a value could not be
    followed.
    """

    def __init__(self) -> None:
        self._bytes: dict[int, torch.Tensor | None] = {}

    def forget(self, address: int) -> None:
        """The storage at `address` is gone."""
        self._bytes.pop(address, None)

    def of(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """A CPU view of the values of a device tensor, or None if unknown. A fresh block reads as zeros."""
        if not _is_integral(tensor.dtype):
            return None
        storage = tensor.untyped_storage()
        size_bytes = storage.nbytes()
        if size_bytes > _LARGEST_STORAGE_BYTES:
            return None
        if size_bytes == 0:
            return torch.empty(tensor.shape, dtype=tensor.dtype)
        address = storage.data_ptr()
        if address not in self._bytes:
            self._bytes[address] = torch.zeros(size_bytes, dtype=torch.uint8)
        known = self._bytes[address]
        if known is None:
            return None
        return known.view(tensor.dtype).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def compute(self, op: OpOverload, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The result of `op` on the CPU. Raises KeyError where a value is unknown."""
        return call(
            op, [self._on_host(a) for a in args], {name: self._on_host(a) for name, a in kwargs.items()}
        )

    def follow(self, op: OpOverload, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
        """Give the integer outputs of `op` their values, or mark them unknown."""
        outputs = result if isinstance(result, tuple | list) else (result,)
        followed = [
            out for out in outputs if isinstance(out, torch.Tensor) and out.device.type == DEVICE_TYPE
        ]
        if not followed or any(not _is_integral(out.dtype) for out in followed):
            return
        if any("Generator" in str(argument.type) for argument in op._schema.arguments):
            return  # random integers: any value serves
        try:
            values = self.compute(op, args, kwargs)
        except (KeyError, NotImplementedError):
            for out in followed:
                self._mark_unknown(out)
            return
        if any(result.alias_info is not None for result in op._schema.returns):
            return  # written in place, through the views
        for out, value in zip(
            outputs, values if isinstance(values, tuple | list) else (values,), strict=True
        ):
            self.write(out, value)

    def write(self, tensor: torch.Tensor, values: torch.Tensor | None) -> None:
        """Store the values of an integer tensor; None makes them unknown."""
        place = self.of(tensor)
        if place is not None and values is not None:
            place.copy_(values)
        elif _is_integral(tensor.dtype):
            self._mark_unknown(tensor)

    def _mark_unknown(self, tensor: torch.Tensor) -> None:
        address = tensor.untyped_storage().data_ptr()
        if address:
            self._bytes[address] = None

    def _on_host(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if value.device.type != DEVICE_TYPE:
                return value
            known = self.of(value)
            if known is None:
                raise KeyError("unknown value")
            return known
        if isinstance(value, list | tuple):
            return [self._on_host(item) for item in value]
        if isinstance(value, torch.device):
            return torch.device("cpu")
        return value
