"""Which device memory holds known values.

An entry belongs to one storage and holds for as long as that storage lives: memory that the allocator gives
to the next tensor is not known, whatever was there. Every operation that writes a tensor goes through
`write` or `forget`.
"""

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from .host import extent_bytes

TRUE = ""  # the assumption behind a value that needs none


class _Storage:
    """The known byte ranges of one storage, and the assumption that they rest on."""

    __slots__ = ("assumption", "floats", "identity", "spans", "weak")

    def __init__(self, storage: torch.UntypedStorage):
        self.weak = StorageWeakRef(storage)  # keeps the identity from being given to another storage
        self.identity = storage._cdata
        self.spans: list[tuple[int, int]] = []
        self.assumption = TRUE
        self.floats = False  # more than one

    def without(self, start: int, end: int) -> list[tuple[int, int]]:
        rest = []
        for first, last in self.spans:
            if first < min(last, start):
                rest.append((first, min(last, start)))
            if max(first, end) < last:
                rest.append((max(first, end), last))
        return rest


def _storage_address(tensor: torch.Tensor) -> int:
    return int(tensor.data_ptr() - tensor.storage_offset() * tensor.element_size())


class KnownMemory:
    """Known values by the address of their storage."""

    def __init__(self) -> None:
        self._storages: dict[int, _Storage] = {}
        self._clean_at = 4096

    def _storage(self, tensor: torch.Tensor) -> _Storage | None:
        storage = self._storages.get(_storage_address(tensor))
        if storage is not None and storage.identity != tensor.untyped_storage()._cdata:
            return None
        return storage

    def assumption(self, tensor: torch.Tensor) -> str | None:
        """None where a value of `tensor` is not known; else what it rests on, TRUE where it is simply
        true.
        """
        if not tensor.is_cuda:
            return TRUE
        storage = self._storage(tensor)
        if storage is not None and tensor.numel():
            start = tensor.data_ptr()
            end = start + extent_bytes(tensor)
            if any(first <= start and end <= last for first, last in storage.spans):
                return storage.assumption
        return None if tensor.numel() else TRUE

    def write(self, tensor: torch.Tensor, assumption: str = TRUE) -> None:
        """All of `tensor` has been written with known values. With gaps between its elements, only what was
        known around them stays known."""
        if not tensor.numel():
            return
        storage = self._storage(tensor)
        start, bytes_ = tensor.data_ptr(), extent_bytes(tensor)
        whole = tensor.untyped_storage()
        if storage is None:
            self._clean()
            storage = self._storages[_storage_address(tensor)] = _Storage(whole)
        if bytes_ == whole.nbytes() == tensor.numel() * tensor.element_size():
            storage.spans = [(start, start + bytes_)]
        elif bytes_ == tensor.numel() * tensor.element_size():
            touching = [(f, e) for f, e in storage.spans if f <= start + bytes_ and start <= e]
            apart = [span for span in storage.spans if span not in touching]
            joined = (
                min([start, *(f for f, _ in touching)]),
                max([start + bytes_, *(e for _, e in touching)]),
            )
            storage.spans = [*apart, joined]
        storage.floats |= tensor.is_floating_point() and tensor.numel() > 1
        if bytes_ == whole.nbytes():
            storage.assumption = assumption
        else:
            storage.assumption = storage.assumption or assumption

    def forget(self, tensor: torch.Tensor) -> None:
        """`tensor` has been written with values that are not computed."""
        storage = self._storages.get(_storage_address(tensor))
        if storage is None:
            return
        if tensor.numel():
            start = tensor.data_ptr()
            storage.spans = storage.without(start, start + extent_bytes(tensor))
        if not storage.spans:
            self._storages.pop(_storage_address(tensor), None)

    def forget_floats(self) -> None:
        """A backward pass has run, whose kernels are not followed and which adds to gradients in place.

        A single float stays known: a scale, a counter of steps.
        """
        self._storages = {a: s for a, s in list(self._storages.items()) if not s.floats}

    def _clean(self) -> None:
        """Drop what belongs to storages that are gone, each time their number has doubled."""
        if len(self._storages) < self._clean_at:
            return
        self._storages = {a: s for a, s in list(self._storages.items()) if not s.weak.expired()}
        self._clean_at = max(4096, 2 * len(self._storages))
