"""A sweep of 1,000 cells, killed twice and resumed: seconds, and that nothing is lost or answered twice.

    python tests/benchmarks/sweep.py [CELLS]

The ratio is the time of the three sittings to that of as many simulations one after the other, of which a few
are timed.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from profiler.advice.grid import read_grid
from profiler.advice.sweep import answer

ROOT = Path(__file__).parents[2]
GRID = """
model = "gpt2-tiny"
batch = {batches}
length = [16, 32, 64, 128]
optimizer = ["adam", "sgd"]
precision = ["fp32", "amp_bf16"]
gpu = ["A100-40GB", "RTX-4090"]
"""
A_BATCH = 32  # cells
ALONE = 8


def written(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}


def main(cells):
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        batches = list(range(1, -(-cells // A_BATCH) + 1))
        (here / "grid.toml").write_text(GRID.format(batches=batches))
        asked = read_grid(here / "grid.toml").cells
        folder, kept, seconds = here / "grid", {}, 0.0
        command = [sys.executable, "-m", "profiler", "sweep", "grid.toml"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        for share in (0.3, 0.6, None):
            began = time.perf_counter()
            process = subprocess.Popen(command, cwd=here, env=environment)
            while process.poll() is None and (share is None or len(written(folder)) < share * len(asked)):
                time.sleep(0.2)
            if share is not None:
                process.send_signal(signal.SIGKILL)
            process.wait()
            seconds += time.perf_counter() - began
            now = written(folder)
            assert kept.items() <= now.items(), "a cell was answered twice"
            kept = now
        assert {f"{cell.key}.parquet" for cell in asked} == kept.keys(), "a cell is lost"
        answer(asked[0])  # the server starts
        began = time.perf_counter()
        for cell in asked[:ALONE]:
            answer(cell)
        alone = (time.perf_counter() - began) / ALONE * len(asked)
        print(f"{len(asked):,} cells in {seconds:.0f} s; alone {alone:.0f} s: {seconds / alone:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
