"""Published rows of measured training, re-run on the virtual GPU.

    python tests/benchmarks/leaderboard FOLDER --packages PACKAGES

FOLDER holds `xmem_rows_shared.csv` (by default $PROFILER_GROUNDTRUTH/published). Each row's program runs in a
process of its own, with the packages of `--packages`; rows that results/leaderboard already has are not run
again (--again: all). Writes the results as CSV, and docs/leaderboard.md with its picture.
"""

import argparse
import csv
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from page import write_page
from rows import Row, Setting, read_rows
from run_row import Answer, run_settings
from tqdm import tqdm

from profiler.errors import ProfilerError
from profiler.files import write_atomically
from profiler.gpu.virtual.installation import Installation, find_torch

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "results" / "leaderboard" / "xmem.csv"
COLUMNS = ("model", "optimizer", "batch", "zero_grad_mode", "card")


def read_answers(path: Path) -> dict[Setting, Answer]:
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {
            Setting(
                row["model"],
                row["optimizer"],
                int(row["batch"]),
                int(row["zero_grad_mode"]),
                row["card"],
                int(row["memory_bytes"]),
            ): Answer(
                int(row["allocated_bytes"]),
                int(row["reserved_bytes"]),
                int(row["libraries_bytes"]),
                row["out_of_memory"] == "True",
            )
            for row in csv.DictReader(file)
        }


def write_answers(answers: dict[Setting, Answer], path: Path) -> None:
    lines = [
        "model,optimizer,batch,zero_grad_mode,card,memory_bytes,"
        "allocated_bytes,reserved_bytes,libraries_bytes,out_of_memory"
    ]
    for s, a in sorted(answers.items(), key=lambda item: str(item[0])):
        lines.append(
            f"{s.model},{s.optimizer},{s.batch},{s.zero_grad_mode},{s.card},{s.memory_bytes},"
            f"{a.allocated_bytes},{a.reserved_bytes},{a.libraries_bytes},{a.out_of_memory}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


def answer_all(
    rows: list[Row], installation: Installation, packages: Path, known: dict[Setting, Answer], workers: int
) -> dict[Setting, Answer]:
    """The answer of each row's setting; those that are not known run, and are written as they come."""
    answers = dict(known)
    wanted = list(dict.fromkeys(row.setting for row in rows if row.setting not in known))
    by_card = [[s for s in wanted if s.card == card] for card in sorted({s.card for s in wanted})]
    shares = [share for one in by_card for share in (one[i::workers] for i in range(workers)) if share]
    writing = threading.Lock()
    with tqdm(total=len(wanted), unit="row", file=sys.stderr) as bar:

        def run_share(share: list[Setting]) -> None:
            for setting, answer in run_settings(share, installation, packages):
                with writing:
                    bar.update()
                    if answer:
                        answers[setting] = answer
                        write_answers(answers, RESULTS)

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(run_share, shares))
    return answers


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=None)
    parser.add_argument(
        "--packages",
        type=Path,
        required=True,
        help="folder with the rows' torch, torchvision and transformers (docs/leaderboard.md says how)",
    )
    parser.add_argument("--again", action="store_true", help="run all rows, also those with a result")
    parser.add_argument("--workers", type=int, default=2, help="rows at a time (default: %(default)s)")
    parser.add_argument("--only", default="", help="only models whose name has this text")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(os.environ.get("PROFILER_GROUNDTRUTH", "")) / "published"
    try:
        rows = read_rows(folder / "xmem_rows_shared.csv")
        chosen = [row for row in rows if arguments.only in row.setting.model]
        known = {} if arguments.again else read_answers(RESULTS)
        packages = arguments.packages.resolve()
        installation = find_torch((packages,))
        answers = answer_all(chosen, installation, packages, known, arguments.workers)
        write_page(rows, answers, ROOT / "docs")
    except ProfilerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
