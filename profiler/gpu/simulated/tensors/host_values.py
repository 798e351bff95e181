"""Values of small tensors, kept on the host as long as they are known.

Masks, positions and labels decide shapes and branches ("is the padding mask all ones?"), so programs read
them back. They are computed on the CPU beside the simulated operation. Integers and booleans are followed
from birth. Floating-point values are known only where a program made them of constants, or copied them from
the host (masks of ones, scales); what a parameter has a part in is unknown, and so is whatever comes of it.

Where any value serves, one is taken: random integers are 0, and positions among unknown values (argmax, topk,
sort: the routing of a mixture of experts) are those among equal values.

For a program that looks at what is not computed, small integers and booleans that come of unknown values are
computed as if each of those were 1 (`isnan` is false, `isfinite` true); that they rest on it is remembered.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch._ops import OpOverload

from profiler.gpu.simulated.tensors.outputs import call
from profiler.gpu.simulated.tensors.storage import span_bytes
from profiler.gpu.simulated.tensors.unsupported import DEVICE_TYPE
from profiler.gpu.virtual.values.assumptions import stand_in

# Beyond this a tensor is data, not control: its values are unknown.
_LARGEST_INTEGERS_BYTES = 4 << 20
_LARGEST_FLOATS_BYTES = 256 << 10

# They write every element, whatever was there before; so do the overloads that fill an argument `out`.
_OVERWRITING = frozenset(
    {torch.ops.aten.fill_.Scalar, torch.ops.aten.fill_.Tensor, torch.ops.aten.zero_.default}
)
_NEW = object()

# They return positions among the values of their first argument.
_FINDING = frozenset(
    {
        torch.ops.aten.argmax.default,
        torch.ops.aten.argmin.default,
        torch.ops.aten.max.dim,
        torch.ops.aten.min.dim,
        torch.ops.aten.topk.default,
        torch.ops.aten.sort.default,
        torch.ops.aten.sort.stable,
    }
)


# Of all elements of a tensor, healthy or not.
_WHOLE = {"aten::any": False, "aten::all": True, "aten::_is_any_true": False, "aten::_is_all_true": True}


def _is_integral(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex)


class HostValues:
    """What is known of the device's storages; `assumes`: unknown values too, as if each were 1."""

    def __init__(self, assumes: bool = False) -> None:
        self._assumes = assumes
        self._assuming = False  # in the computation that runs
        self.rests_on_assumption = False  # what `compute` gave last
        self._assumed: set[int] = set()  # addresses of storages whose values rest on an assumption
        # address -> bytes; None where a value could not be followed; or the size of a new storage. Of what is
        # not here, integers are new and floating-point values unknown.
        self._bytes: dict[int, torch.Tensor | int | None] = {}

    def forget(self, address: int) -> None:
        """The storage at `address` is gone."""
        self._bytes.pop(address, None)
        self._assumed.discard(address)

    def note_fresh(self, tensor: torch.Tensor) -> None:
        """The tensor has a new storage of its own: what is written next makes it known."""
        if tensor.dtype.is_floating_point and (address := _address(tensor)):
            self._bytes[address] = span_bytes(tensor.shape, tensor.stride(), tensor.element_size())

    def of(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """A CPU view of the values of a device tensor, or None if unknown. New integers read as zeros."""
        dtype = tensor.dtype
        address = _address(tensor)
        if address == 0:
            return torch.empty(tensor.shape, dtype=dtype)
        known = self._bytes.get(address, _NEW) if _is_integral(dtype) else self._bytes.get(address)
        if known is _NEW:
            size_bytes = tensor.untyped_storage().nbytes()
            if size_bytes > _LARGEST_INTEGERS_BYTES:
                return None
            known = self._bytes[address] = torch.zeros(size_bytes, dtype=torch.uint8)
        if not isinstance(known, torch.Tensor):
            return None
        return known.view(dtype).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def is_assumed(self, tensor: torch.Tensor) -> bool:
        """Whether the values of a device tensor rest on an assumption."""
        return bool(self._assumed) and _address(tensor) in self._assumed

    def assume(self, tensor: torch.Tensor, values: torch.Tensor) -> None:
        """What a program has been told of unknown values, so that it reads the same again."""
        self.note_fresh(tensor)
        self.write(tensor, values)
        self._assumed.add(_address(tensor))

    def compute(
        self, op: OpOverload, args: Sequence[Any], kwargs: dict[str, Any], assuming: bool = False
    ) -> Any:
        """The result of `op` on the CPU. Raises KeyError where a value is unknown; `assuming`, where it is
        too large as well."""
        self._assuming, self.rests_on_assumption = assuming, False
        return call(
            op, [self._on_host(a) for a in args], {name: self._on_host(a) for name, a in kwargs.items()}
        )

    def follow(
        self,
        op: OpOverload,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        result: Any,
        written: Sequence[torch.Tensor],
        is_random: bool,
    ) -> None:
        """Give the outputs of `op` their values, or mark them unknown. `written` are its arguments that it
        changes.
        """
        outputs = _as_tuple(result)
        followed = [out for out in outputs if _is_on_device(out)]
        if not followed and not written:
            return
        if not written and all(map(_is_too_large, followed)):
            self._mark_unknown(followed)  # of small values, but expanded: gigabytes to compute for nothing
            return
        only_integers = all(_is_integral(tensor.dtype) for tensor in (*followed, *written))
        if is_random:  # of random integers any value serves
            self._mark_unknown(tensor for tensor in written if not _is_integral(tensor.dtype))
            return
        if op in _OVERWRITING or op._overloadname.endswith("out"):
            for tensor in written:
                self._before_overwriting(tensor)
        try:
            values = self.compute(op, args, kwargs)
        except (KeyError, NotImplementedError):
            if op in _FINDING and followed:
                self._write_positions(outputs, op, args, kwargs)
            elif not only_integers:
                self._mark_unknown(written)
            elif written or not self._write_assumed(outputs, op, args, kwargs):
                self._mark_unknown(followed)
            return
        except RuntimeError:  # the CPU has no such kernel for these floating-point types
            if only_integers:
                raise
            self._mark_unknown(written)
            return
        self._write_computed(outputs, _as_tuple(values), written)

    def _write_computed(
        self, outputs: Sequence[Any], values: Sequence[Any], written: Sequence[torch.Tensor]
    ) -> None:
        if self.rests_on_assumption:
            self._assumed.update(map(_address, (*filter(_is_on_device, outputs), *written)))
        if written:
            return  # in place, through the views
        for out, value in zip(outputs, values, strict=True):
            if _is_on_device(out):
                self.note_fresh(out)
                # what the CPU keeps for the backward pass, and CUDA does not
                self.write(out, value if out.shape == value.shape else None)

    def _write_assumed(
        self, outputs: Sequence[Any], op: OpOverload, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> bool:
        """Whether the outputs, integers, have got the values that they have where each unknown one is 1."""
        if not self._assumes:
            return False
        try:
            values = _as_tuple(self.compute(op, args, kwargs, assuming=True))
        except (KeyError, NotImplementedError):
            if op._schema.name not in _WHOLE:
                return False
            values = [torch.full(out.shape, _WHOLE[op._schema.name], dtype=out.dtype) for out in outputs]
        if any(out.shape != value.shape for out, value in zip(outputs, values, strict=True)):
            return False  # its size is another assumption (AssumedReads)
        for out, value in zip(outputs, values, strict=True):
            if _is_on_device(out):
                self.write(out, value)
                self._assumed.add(_address(out))
        return True

    def _write_positions(
        self, outputs: Sequence[Any], op: OpOverload, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> None:
        if args[0].numel() * args[0].element_size() > _LARGEST_INTEGERS_BYTES:
            return
        equal = torch.zeros(args[0].shape, dtype=args[0].dtype)
        for out, value in zip(outputs, _as_tuple(op(equal, *args[1:], **kwargs)), strict=True):
            if _is_integral(out.dtype):
                self.write(out, value)
                self._assumed.add(_address(out))

    def write(self, tensor: torch.Tensor, values: torch.Tensor | None) -> None:
        """Store the values of a tensor; None makes them unknown."""
        if values is not None:
            self._before_overwriting(tensor)
        place = self.of(tensor)
        if place is not None and values is not None:
            place.copy_(values)
        else:
            self._mark_unknown([tensor])

    def _before_overwriting(self, tensor: torch.Tensor) -> None:
        """What was unknown in a tensor of integers, or of new floating-point numbers, matters no longer."""
        address = _address(tensor)
        known = self._bytes.get(address)
        if not _is_integral(tensor.dtype):
            if isinstance(known, int) and known <= _LARGEST_FLOATS_BYTES:
                self._bytes[address] = torch.zeros(known, dtype=torch.uint8)
        elif (
            address in self._bytes
            and known is None
            and tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
        ):
            del self._bytes[address]

    def _mark_unknown(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            if address := _address(tensor):
                self._bytes[address] = None

    def _on_host(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if value.device.type != DEVICE_TYPE:
                return value
            known = self.of(value)
            if known is None:
                if not self._assuming or value.numel() * value.element_size() > _LARGEST_FLOATS_BYTES:
                    raise KeyError("unknown value")
                known = torch.full(value.shape, stand_in(value.dtype), dtype=value.dtype)
                self.rests_on_assumption = True
            elif self.is_assumed(value):
                self.rests_on_assumption = True
            return known
        if isinstance(value, list | tuple):
            return [self._on_host(item) for item in value]
        if isinstance(value, torch.device):
            return torch.device("cpu")
        return value


def _is_too_large(tensor: torch.Tensor) -> bool:
    """Whether its values would not be kept."""
    most = _LARGEST_INTEGERS_BYTES if _is_integral(tensor.dtype) else _LARGEST_FLOATS_BYTES
    return span_bytes(tensor.shape, tensor.stride(), tensor.element_size()) > most


def _address(tensor: torch.Tensor) -> int:
    """Of its storage; 0 if the tensor is empty. Asking the storage itself would make a Python object that
    shares in it, and autograd adds in place only to what nobody shares.
    """
    pointer = tensor.data_ptr()
    return pointer - int(tensor.storage_offset()) * tensor.element_size() if pointer else 0


def _as_tuple(result: Any) -> Sequence[Any]:
    return result if isinstance(result, tuple | list) else (result,)


def _is_on_device(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == DEVICE_TYPE
