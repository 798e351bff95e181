"""One operation on the CPU, over the values that device memory holds, for what its CUDA kernel has
allocated.
"""

from collections.abc import Callable, Sequence

import torch

from ..assumptions import stand_in
from ..host import FLOATS, INTEGER_BYTES, on_host
from ..known import TRUE, KnownMemory


def is_float(tensor: torch.Tensor) -> bool:
    """Whether the tensor holds floating-point or complex numbers."""
    return tensor.is_floating_point() or tensor.is_complex()


def computable(tensor: torch.Tensor) -> bool:
    """Whether a tensor is small enough, and plain enough, to be computed."""
    if is_float(tensor):
        return tensor.numel() <= FLOATS and not tensor.is_conj() and not tensor.is_neg()
    return tensor.numel() * tensor.element_size() <= INTEGER_BYTES


def all_tensors(value: object, found: list[torch.Tensor] | None = None) -> list[torch.Tensor]:
    """The tensors among arguments or results, in order."""
    found = [] if found is None else found
    if isinstance(value, torch.Tensor):
        found.append(value)
    elif isinstance(value, (list, tuple)):
        for element in value:
            all_tensors(element, found)
    return found


def map_arguments(value: object, convert: Callable[[object], object]) -> object:
    """Arguments with every element of the lists in them converted."""
    if isinstance(value, (list, tuple)):
        return [map_arguments(element, convert) for element in value]
    return convert(value)


class OnTheCpu:
    """A call of an operation, its arguments taken to the CPU; made before the CUDA kernel writes any of them.

    written: what the operation writes; only_written: those among them that it does not read. A tensor whose
    values are not known takes part as its stand-in (assumptions.py).
    """

    def __init__(
        self,
        operation: Callable[..., object],
        arguments: Sequence[object],
        keywords: dict[str, object],
        known: KnownMemory,
        written: Sequence[torch.Tensor] = (),
        only_written: Sequence[torch.Tensor] = (),
        seed: int | None = None,
    ):
        self._operation = operation
        self._written_storages = {t.untyped_storage()._cdata for t in written}
        self._only_written = {id(t) for t in only_written}
        self._here: dict[int, torch.Tensor] = {}
        self._known = known
        self.assumption = TRUE
        self.all_known = True
        self._arguments = map_arguments(arguments, self._take)
        self._keywords = {name: map_arguments(value, self._take) for name, value in keywords.items()}
        if seed is not None:
            self._keywords["generator"] = torch.Generator(device="cpu").manual_seed(seed)

    def _take(self, value: object) -> object:
        if isinstance(value, torch.device):
            return torch.device("cpu")
        if isinstance(value, torch.Generator):
            return None
        if isinstance(value, torch.Tensor) and value.is_cuda:
            if id(value) not in self._here:
                self._here[id(value)] = self._tensor_here(value)
            return self._here[id(value)]
        return value

    def _tensor_here(self, tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) in self._only_written:
            return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        assumption = self._known.assumption(tensor) if computable(tensor) else None
        if assumption is None:
            self.all_known = False
            one = torch.full((), stand_in(tensor.dtype), dtype=tensor.dtype, device="cpu").expand(
                tensor.shape
            )
            return one.clone() if tensor.untyped_storage()._cdata in self._written_storages else one
        self.assumption = self.assumption or assumption
        here = on_host(tensor)
        return here.clone() if tensor.untyped_storage()._cdata in self._written_storages else here

    def results(self, written: Sequence[torch.Tensor] = ()) -> list[torch.Tensor]:
        """What the operation returns on the CPU; for one that writes, what it wrote for each of `written`.

        Where the CPU has no kernel for whole numbers (histc), they are computed as doubles.
        """
        try:
            returned = self._operation(*self._arguments, **self._keywords)  # type: ignore[misc]
        except RuntimeError as error:  # NotImplementedError is one; older versions raise it plain
            if written or "not implemented" not in str(error):
                raise
            keywords = {name: map_arguments(value, _as_double) for name, value in self._keywords.items()}
            returned = self._operation(*map_arguments(self._arguments, _as_double), **keywords)  # type: ignore[misc]
        return [self._here[id(t)] for t in written] if written else all_tensors(returned)


def _as_double(value: object) -> object:
    return value.double() if isinstance(value, torch.Tensor) and not value.is_complex() else value
