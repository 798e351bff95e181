"""Published steps of FanBB2333/FakeGPU, re-run on the virtual GPU.

    python tests/benchmarks/leaderboard/fakegpu.py FOLDER --packages PACKAGES

FOLDER holds `fakegpu_rows_shared.csv`. Writes results/leaderboard/fakegpu.csv, docs/leaderboard_fakegpu.md.
Rows whose program is not here (other methods, several ranks, single operators) are named on the page.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

from profiler.errors import ProfilerError
from profiler.files import write_atomically
from profiler.gpu.cards import GPUS
from profiler.gpu.virtual.card_file import VirtualGPUs
from profiler.gpu.virtual.installation import Installation, find_torch
from profiler.gpu.virtual.launch import environment

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PROGRAM = HERE / "fakegpu_program.py"
CARDS = {"RTX PRO 5000 72GB Blackwell": "RTX-PRO-5000-72GB", "GeForce RTX 3090 Ti": "RTX-3090-Ti"}
METHODS = {"full": "full", "LoRA r8": "lora"}


def words_of(row: dict[str, str]) -> list[str] | None:
    """What the program is started with, or None where it does not know the row."""
    if row["parallel"] != "single" or row["scope"] != "train_step" or row["method"] not in METHODS:
        return None
    size = row["model"].removeprefix("Qwen3.5-").split()[0]
    return [size, METHODS[row["method"]], row["seq"], row["grad_checkpointing"]]


def peak_bytes(card: str, words: list[str], installation: Installation, packages: Path) -> int:
    """Raises ProfilerError where the program fails."""
    with tempfile.TemporaryDirectory() as name:
        inherited = os.environ | {"PYTHONPATH": str(packages)}
        variables = environment(VirtualGPUs(GPUS[card]), Path(name), installation, inherited=inherited)
        done = subprocess.run(
            [sys.executable, str(PROGRAM), *words], env=variables, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise ProfilerError(done.stderr.strip().rsplit("\n", 1)[-1])
    return json.loads(done.stdout.strip().rsplit("\n", 1)[-1])["allocated_bytes"]


def write_results(
    rows: list[dict[str, str]], peaks: dict[str, int], not_run: list[str], version: str
) -> None:
    results = [f"{case},{peak}" for case, peak in peaks.items()]
    text = "\n".join(["case_id,allocated_bytes", *results]) + "\n"
    path = ROOT / "results" / "leaderboard" / "fakegpu.csv"
    write_atomically(path, lambda temporary: temporary.write_text(text))
    lines = []
    within = 0
    for row in rows:
        if row["case_id"] not in peaks:
            continue
        peak, measured = peaks[row["case_id"]], int(row["measured_bytes"])
        exact = int(row["measured_bytes_min"]) <= peak <= int(row["measured_bytes_max"])
        within += exact
        theirs = row["static_err_pct"] or row["fakecuda_err_pct"]
        lines.append(
            f"| {row['case_id']} | {row['torch']} | {row['measured_gib_printed']} | {peak / 2**30:.4f} | "
            f"{100 * (peak - measured) / measured:+.3f} | {'yes' if exact else 'no'} | {theirs} |"
        )
    page = (HERE / "leaderboard_fakegpu.md").read_text()
    page = page.format(
        within=within,
        rows=len(lines),
        version=version,
        table="\n".join(lines),
        not_run=", ".join(f"`{case}`" for case in not_run),
    )
    write_atomically(ROOT / "docs" / "leaderboard_fakegpu.md", lambda temporary: temporary.write_text(page))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--packages", type=Path, required=True, help="folder with torch, transformers, peft")
    arguments = parser.parse_args()
    try:
        with (arguments.folder / "fakegpu_rows_shared.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        packages = arguments.packages.resolve()
        installation = find_torch((packages,))
        known = {row["case_id"]: words for row in rows if (words := words_of(row))}
        cards = {row["case_id"]: CARDS[row["gpu"]] for row in rows if row["case_id"] in known}
        peaks = {
            case: peak_bytes(cards[case], words, installation, packages)
            for case, words in tqdm(known.items(), unit="row")
        }
        not_run = [row["case_id"] for row in rows if row["case_id"] not in known]
        write_results(rows, peaks, not_run, installation.version)
    except (ProfilerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
