"""docs/leaderboard.md against the committed answers: its rows, and the headline that follows from them."""

import csv
import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
ROW = re.compile(
    r"^\| (?P<model>\S+), (?P<optimizer>\w+), batch (?P<batch>\d+), zero_grad mode (?P<zero_grad_mode>\d), "
    r"(?P<card>[\w-]+) \| (?P<measured>[^|]+) \| (?P<reserved>\d+) \| (?P<ours>[^|]+) \| (?P<error>[^|]*) \|",
    re.MULTILINE,
)
NAMES = ("model", "optimizer", "batch", "zero_grad_mode", "card")


def test_the_page_says_what_was_answered():
    with (ROOT / "results" / "leaderboard" / "xmem.csv").open(newline="") as file:
        answers = {tuple(row[name] for name in NAMES): row for row in csv.DictReader(file)}
    page = (ROOT / "docs" / "leaderboard.md").read_text()
    rows = list(ROW.finditer(page))
    assert len(rows) == 130
    assert {tuple(row[name] for name in NAMES) for row in rows} == set(answers)
    errors = []
    for row in rows:
        answer = answers[tuple(row[name] for name in NAMES)]
        reserved, libraries = int(answer["reserved_bytes"]), int(answer["libraries_bytes"])
        assert int(row["reserved"]) == round(reserved / 2**20)
        if answer["out_of_memory"] == "True":
            assert row["ours"] == "out of memory"
            continue
        ours = reserved + libraries
        assert int(row["ours"]) == round(ours / 2**20)
        if row["measured"] != "out of memory":
            measured = int(row["measured"]) * 2**20  # NVML's readings are whole MiB
            errors.append(ours / measured - 1)
            assert float(row["error"]) == float(f"{100 * errors[-1]:.1f}")
    sizes = np.abs(errors)
    headline = [np.median(sizes), np.percentile(sizes, 90), sizes.max()]
    words = " | ".join(f"{100 * each:.1f}%" for each in headline)
    assert f"| virtual GPU | {len(errors)} | {words} | {sum(e < -0.03 for e in errors)} |" in page
