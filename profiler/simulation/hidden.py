"""Allocations inside CUDA kernels that no tensor shows, bound to the operations that make them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class HiddenAllocations:
    pass


@contextmanager
def around(machine: Any, op: Any, args: Sequence[Any], kwargs: Any) -> Iterator[None]:
    yield
