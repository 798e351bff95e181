"""Attributes of others, replaced for a while and put back."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

Patch = tuple[Any, str, Any]  # owner, name, what stands in its place


@contextmanager
def patched(patches: Iterable[Patch]) -> Iterator[None]:
    """Inside, each owner has the replacement under that name; after it, what it had before."""
    originals: list[Patch] = []
    try:
        for owner, name, replacement in patches:
            originals.append((owner, name, getattr(owner, name)))
            setattr(owner, name, replacement)
        yield
    finally:
        for owner, name, original in reversed(originals):
            setattr(owner, name, original)
