"""`profiler compare-engines`: which operation another torch runs otherwise than the rules say."""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.gpu.cards import DEFAULT_GPU, find_gpu
from profiler.units import format_bytes
from profiler.views import screen

if TYPE_CHECKING:
    from rich.console import Console

    from profiler.reference.engines import Agreement, Disagreement

SUMMARY = "which operation the installed torch runs otherwise than the rules say"
DESCRIPTION = (
    "Run models and kernel probes of the reference on a virtual GPU, where the CUDA code of the installed "
    "torch decides every allocation, and on the simulated one, whose kernels are rules. Prints what only one "
    "of them asks for. Exit code 4 if a rule is wrong for this torch."
)
EXAMPLES = "example: profiler compare-engines --gpu H100-80GB --size full"
_RUNS_SHOWN = 3


def add_options(parser: ArgumentParser) -> None:
    """Which GPU, and how much of the reference."""
    parser.add_argument("--gpu", default=DEFAULT_GPU, metavar="GPU", help=f"default: {DEFAULT_GPU}")
    parser.add_argument(
        "--size",
        choices=["quick", "small", "full"],
        default="quick",
        help="minutes, or an hour; default: quick",
    )


def run(options: Namespace) -> int:
    """Record, simulate, compare, print.

    Raises ProfilerError where no virtual GPU can be had (a CUDA build of torch and a C compiler are needed).
    """
    from profiler.reference.engines import compare_engines, record_on_virtual_gpu

    console = screen.console()
    with tempfile.TemporaryDirectory(prefix="profiler-engines-") as name:
        folder = Path(name)
        recording = record_on_virtual_gpu(find_gpu(options.gpu), options.size, folder / "virtual")
        with console.status("simulating") as status:

            def tell(key: str) -> None:
                status.update(screen.styled(f"simulated {recording.cases[key]}"))

            found = compare_engines(recording, folder / "traces", tell)
    _print(found, console)
    return 0 if found.holds else 4


def _print(found: Agreement, console: Console) -> None:
    numbers = (screen.number(name) for name in ("times", "runs or probes"))
    table = screen.table("operation", "only on the", "each", *numbers, "where")
    grouped: dict[tuple[str, str], list[Disagreement]] = {}
    for change in found.changes:
        grouped.setdefault((change.operation, change.engine), []).append(change)
    for (operation, engine), changes in grouped.items():
        where = list(dict.fromkeys(name for change in changes for name in change.where))
        sizes = sorted({change.size_bytes for change in changes})
        more = f" and {len(where) - _RUNS_SHOWN} more" if len(where) > _RUNS_SHOWN else ""
        table.add_row(
            operation if changes[0].is_modelled else f"{operation} (not modelled)",
            engine,
            " to ".join(format_bytes(size) for size in dict.fromkeys((sizes[0], sizes[-1]))),
            str(sum(change.times for change in changes)),
            str(len(where)),
            screen.styled(", ".join(where[:_RUNS_SHOWN]) + more),
        )
    if found.changes:
        console.print(table)
    for words in found.otherwise:
        console.print(words, soft_wrap=True)
    console.print(
        f"torch {found.torch_version}: the same requests in {found.same_requests} of {found.runs} runs and "
        f"{found.same_probes} of {found.probes} probes; the same peak allocated in {found.same_allocated} "
        f"runs, reserved in {found.same_reserved}",
        soft_wrap=True,
    )
    if not found.holds:
        wrong = {change.operation for change in found.changes if change.is_modelled}
        console.print(f"other than the rules say: {', '.join(sorted(wrong)) or 'peaks'}", style="yellow")
