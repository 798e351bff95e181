"""What a program took on a virtual GPU, on screen: verdict, phases, and what was alive at the peak."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from profiler.units import format_bytes
from profiler.views import screen

FITS = "fits"  # the verdict of a process that came to its end, or to where it was stopped
_PARTS_SHOWN = 12
_STEPS_SHOWN = 2


def show_program(report: dict[str, Any], every_phase: bool, console: Console) -> None:
    """Print what `profiler on --json` has as data; of many phases and ranks some, unless `every_phase`."""
    for other in report["other_processes"]:
        console.print(
            f"process {other['pid']} took {format_bytes(other['peak_device_used_bytes'])} of GPU"
            f" {other['device']}, a virtual {report['gpu']}, context included, and nothing by PyTorch's"
            " caching allocator (cudaMallocAsync? another library?): it has no phases and no owners",
            style="yellow",
            soft_wrap=True,
        )
    if not report["processes"] and not report["other_processes"]:
        console.print(f"No process of this program used the virtual {report['gpu']}.", style="yellow")
    if report["ranks"]:
        console.print(screen.rank_table(report["ranks"]))
    for process in _to_show(report, every_phase):
        console.print()
        _show_process(process, report, every_phase, console)
    for read in report["read_back"][:_PARTS_SHOWN]:
        words = f"{read['words']} ({read['count']}; {read['assumption']})"
        style = "yellow" if read["changes_memory"] else "dim"
        console.print(words + (", which can change memory" if style == "yellow" else ""), style=style)
    for key in ("not_modelled", "assumed", "without_effect_on_memory"):
        title, calls = key.replace("_", " "), report[key]
        if calls:
            words = ", ".join(f"{name} ({count})" for name, count in calls.items())
            console.print(f"{title}: {words}", style="dim", soft_wrap=True)


def _show_process(process: dict[str, Any], report: dict[str, Any], all_: bool, console: Console) -> None:
    capacity = report["gpu_bytes"]
    failed = process["out_of_memory"]
    name = f"rank {process['rank']}" if process["rank"] else f"process {process['pid']}"
    console.print(
        screen.styled(
            (process["verdict"], f"bold {'green' if process['verdict'] == FITS else 'yellow'}"),
            f"  {name} on GPU {process['device']}, a virtual {report['gpu']}"
            f" ({format_bytes(capacity)}): peak ",
            (format_bytes(process["peak_allocated_bytes"]), "bold"),
            f" allocated, {format_bytes(process['peak_reserved_bytes'])} reserved,"
            f" about {format_bytes(process['device_used_bytes'])} device-used"
            f" ({format_bytes(process['device_used_low_bytes'])} to"
            f" {format_bytes(process['device_used_high_bytes'])})",
        ),
        soft_wrap=True,
    )
    for words in filter(None, (process["ended"], process["note"])):
        console.print(f"  {words}", soft_wrap=True)
    for request in failed[:1]:
        place = ", ".join(word for word in (request["op"], request["module"], request["line"]) if word)
        console.print(
            f"  in {request['phase']}: asked for {format_bytes(request['requested_bytes'])} with"
            f" {format_bytes(request['allocated_bytes'])} allocated and"
            f" {format_bytes(request['reserved_bytes'])} reserved; {place}"
            + (f" ({len(failed)} refusals in all)" if len(failed) > 1 else ""),
            soft_wrap=True,
        )
    peak, free = process["peak"], process["peak"]["holes"]
    console.print(
        f"  peak in {peak['phase']}, made by {peak['made_by'] or 'what was there before'};"
        f" {format_bytes(peak['fragmentation_bytes'])} reserved and not allocated then: {free['count']} holes"
        f" in {free['segments']} segments, the largest {format_bytes(free['largest_bytes'])}",
        soft_wrap=True,
    )
    console.print(_phase_table(process, all_))
    total = process["peak_allocated_bytes"]
    for what in ("categories", "modules", "lines"):
        console.print(_share_table(what, peak[what], total))


def _to_show(report: dict[str, Any], every: bool) -> list[dict[str, Any]]:
    """The processes, of several ranks the fullest one alone."""
    processes: list[dict[str, Any]] = report["processes"]
    if every or not report["ranks"]:
        return processes
    fullest = str(report["ranks"][0]["rank"])
    return [process for process in processes if process["rank"] in ("", fullest)]


def _phase_table(process: dict[str, Any], every_phase: bool) -> Table:
    numbers = ("allocated", "peak allocated", "peak reserved")
    table = screen.table("phase", *(screen.number(name) for name in numbers))
    phases = process["phases"]
    last = max((phase["step"] for phase in phases), default=0)
    shown = [
        phase
        for phase in phases
        if every_phase
        or phase["step"] <= _STEPS_SHOWN
        or phase["step"] == last
        or phase["phase"] == process["peak"]["phase"]
    ]
    for phase in shown:
        keys = ("allocated_bytes", "peak_allocated_bytes", "peak_reserved_bytes")
        table.add_row(phase["phase"], *(format_bytes(phase[key]) for key in keys))
    if len(shown) < len(phases):
        table.caption = f"{len(phases) - len(shown)} more phases; --all prints them"
    return table


def _share_table(name: str, shares: dict[str, int], total_bytes: int) -> Table:
    table = screen.table(f"{name} at the peak", *(screen.number(column) for column in ("bytes", "%")))
    sizes = sorted(shares.items(), key=lambda share: -share[1])
    shown, rest = sizes[:_PARTS_SHOWN], sizes[_PARTS_SHOWN:]
    if rest:
        shown.append((f"{len(rest)} more", sum(size for _, size in rest)))
    for label, size_bytes in shown:
        share = f"{100 * size_bytes / total_bytes:.1f}" if total_bytes else ""
        table.add_row(label or "(no line)", format_bytes(size_bytes), share)
    return table
