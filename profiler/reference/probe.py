"""One kernel probe: an operation by name, and what it is asked of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Probe:
    """One of profiler.reference.probe_operations on operands of a shape (see its docstring) and a dtype.

    `option` is an attention kernel, a layout of images (a name of torch's), or empty.
    """

    operation: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    option: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Operation, shape, dtype and option as the table of probes has them."""
        return self.operation, "×".join(map(str, self.shape)), self.dtype, self.option

    def __str__(self) -> str:
        return " ".join(word for word in self.key if word)
