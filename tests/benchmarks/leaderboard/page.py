"""docs/leaderboard.md and its picture."""

from pathlib import Path

import matplotlib
import numpy as np
from picture import draw
from rows import PEERS, Row, Setting
from run_row import Answer
from scores import ESTIMATORS, OURS, Judged, judge, score

from profiler.files import write_atomically
from profiler.units import MIB

HERE = Path(__file__).parent


def write_page(rows: list[Row], answers: dict[Setting, Answer], docs: Path) -> None:
    """Write docs/leaderboard.md from leaderboard.md beside this file, and docs/images/leaderboard.png."""
    matplotlib.use("Agg")
    judged = judge(rows, answers)
    picture = docs / "images" / "leaderboard.png"
    write_atomically(picture, lambda temporary: draw(judged, temporary))
    text = (HERE / "leaderboard.md").read_text()
    libraries = {row.row.setting.card: row.answer.libraries_bytes for row in judged}
    text = text.format(
        rows=len(rows),
        without_answer=len(rows) - len(judged),
        libraries=", ".join(f"{card} {size / MIB:.0f} MiB" for card, size in sorted(libraries.items())),
        scores=_scores(judged),
        folders=_folders(judged),
        families=_families(judged),
        far=_far(judged),
        every_row=_every_row(judged),
    )
    page = docs / "leaderboard.md"
    write_atomically(page, lambda temporary: temporary.write_text(text))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:+.1f}"


def _scores(judged: list[Judged]) -> str:
    lines = [
        "| estimator | rows | median | 90th percentile | largest | 3 % too low | right on memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ESTIMATORS:
        one = score(judged, name)
        lines.append(
            f"| {name} | {one.rows} | {one.median:.1%} | {one.ninth_decile:.1%} | {one.most:.1%} | "
            f"{one.too_low} | {one.verdicts_right} of {one.verdicts} |"
        )
    return "\n".join(lines)


def _folders(judged: list[Judged]) -> str:
    groups: dict[tuple[str, str], list[float]] = {}
    for row in judged:
        if OURS in row.errors:
            groups.setdefault((row.row.folder, row.row.setting.card), []).append(row.errors[OURS])
    lines = [
        "| their folder | card | rows | least | median | most | median absolute |",
        "|---|---|---|---|---|---|---|",
    ]
    for (folder, card), errors in sorted(groups.items()):
        lines.append(
            f"| {folder} | {card} | {len(errors)} | {_percent(min(errors))} | "
            f"{_percent(float(np.median(errors)))} | {_percent(max(errors))} | "
            f"{100 * np.median(np.abs(errors)):.1f} |"
        )
    return "\n".join(lines)


def _families(judged: list[Judged]) -> str:
    models = sorted({row.row.setting.model for row in judged}, key=str.casefold)
    lines = [
        "| model | rows | least | median | most | xMem, median absolute | ours, median absolute |",
        "|---|---|---|---|---|---|---|",
    ]
    for model in models:
        here = [row for row in judged if row.row.setting.model == model]
        ours = [row.errors[OURS] for row in here if OURS in row.errors]
        theirs = [abs(row.errors["xMem"]) for row in here if "xMem" in row.errors]
        if not ours:
            continue
        lines.append(
            f"| {model} | {len(ours)} | {_percent(min(ours))} | {_percent(float(np.median(ours)))} | "
            f"{_percent(max(ours))} | {100 * np.median(theirs):.1f} | {100 * np.median(np.abs(ours)):.1f} |"
        )
    return "\n".join(lines)


def _far(judged: list[Judged]) -> str:
    """Rows that ours puts more than 3 % too low, and wrong verdicts, by name."""
    lines = [
        f"- {_name(row)}: {_percent(row.errors[OURS])} %" for row in judged if row.errors.get(OURS, 0) < -0.03
    ]
    for row in judged:
        if row.says_out_of_memory[OURS] != row.row.out_of_memory:
            said = "ran out of memory here, not there" if row.answer.out_of_memory else "ran here, not there"
            lines.append(f"- {_name(row)}: {said}")
    return "\n".join(lines) or "None."


def _name(row: Judged) -> str:
    s = row.row.setting
    return f"{s.model}, {s.optimizer}, batch {s.batch}, zero_grad mode {s.zero_grad_mode}, {s.card}"


def _every_row(judged: list[Judged]) -> str:
    lines = [
        "| model, optimizer, batch, zero_grad mode, card | measured MiB | reserved MiB | ours MiB | ours % | "
        + " | ".join(f"{name} %" for name in PEERS)
        + " |",
        "|---" * (5 + len(PEERS)) + "|",
    ]
    for row in sorted(judged, key=_name):
        measured = "out of memory" if row.row.out_of_memory else f"{row.row.measured_bytes / MIB:.0f}"
        ours = row.answer
        said = "out of memory" if ours.out_of_memory else f"{ours.nvml_less_first_bytes / MIB:.0f}"
        errors = [_percent(row.errors.get(name)) for name in ESTIMATORS]
        lines.append(
            f"| {_name(row)} | {measured} | {ours.reserved_bytes / MIB:.0f} | {said} | "
            + " | ".join(errors)
            + " |"
        )
    return "\n".join(lines)
