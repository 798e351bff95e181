"""What grew between two runs as Markdown, for the comment of a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from profiler.trace.difference import Difference
from profiler.trace.run import Run
from profiler.units import format_bytes
from profiler.views.screen import plain

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$@])")


def difference_page(before: Run, after: Run, found: Difference, warnings: Sequence[str], top: int) -> str:
    """Both peaks, and what they are made of by category, module and line; at most `top` parts of each."""
    grown = found.difference_bytes
    share = f", {100 * grown / found.before.allocated_bytes:+.1f} %" if found.before.allocated_bytes else ""
    lines = [
        f"### GPU memory: peak allocated {signed(grown)}{share}",
        "",
        *_rows(("", "before", "after", "difference"), _peaks(before, after, found)),
        "",
        f"before: {_text(side(before))}; after: {_text(side(after))}",
        *(f"\n**{_text(warning)}**" for warning in warnings),
    ]
    for name, parts in (("category", found.categories), ("module", found.modules), ("line", found.lines)):
        changed = [part for part in parts if part.difference_bytes]
        if not changed:
            continue
        rest = [*changed[top:], *(part for part in parts if not part.difference_bytes)]
        rows = [
            _row(part.name.replace("_", " "), part.before_bytes, part.after_bytes) for part in changed[:top]
        ]
        if rest:
            rows.append(
                _row("the rest", *(sum(getattr(p, f"{w}_bytes") for p in rest) for w in ("before", "after")))
            )
        head = (f"by {name} at the peak", "before", "after", "difference")
        lines += ["", "<details><summary>" + head[0] + "</summary>", "", *_rows(head, rows), "", "</details>"]
    return "\n".join(lines)


def side(run: Run) -> str:
    """What ran, and where."""
    return f"{run.name or 'an unnamed run'} on {run.device}"


def signed(size_bytes: int) -> str:
    """As in "+1.50 MiB" or "-12 B"; "0 B" has no sign."""
    return ("+" if size_bytes > 0 else "") + format_bytes(size_bytes)


def _peaks(before: Run, after: Run, found: Difference) -> list[tuple[str, ...]]:
    rows = [_row("peak allocated", found.before.allocated_bytes, found.after.allocated_bytes)]
    reserved = (before.peak_reserved_bytes, after.peak_reserved_bytes)
    if reserved[0] is not None and reserved[1] is not None:
        rows.append(_row("peak reserved", reserved[0], reserved[1]))
    return rows


def _row(name: str, before_bytes: int, after_bytes: int) -> tuple[str, ...]:
    sizes = (format_bytes(before_bytes), format_bytes(after_bytes), signed(after_bytes - before_bytes))
    return (_text(name), *sizes)


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---", *["---:"] * (len(head) - 1)], *rows)]


def _text(words: str) -> str:
    """Words from outside, shown as they are."""
    return _SPECIAL.sub(r"\\\1", plain(words).replace("\n", " "))
