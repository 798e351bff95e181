"""The summands of a formula."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """One summand: `category` as in profiler.trace.ledger, the bytes, how they come about, who says so."""

    category: str
    size_bytes: int
    expression: str
    source: str


def total_bytes(terms: Iterable[Term]) -> int:
    """What the terms add up to."""
    return sum(term.size_bytes for term in terms)
