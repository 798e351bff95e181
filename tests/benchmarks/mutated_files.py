"""Thousands of files damaged at random, of every kind, read by every verb: how they end, and the slowest.

Run from the repository root:

    python tests/benchmarks/mutated_files.py [FILES OF A KIND] [FIRST SEED]

Each verb runs in a fork of this process with 2 GiB more memory and ten seconds. Anything but a result or one
line is printed with its seed, and the exit code is 1.
"""

import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.support.limited import run
from tests.support.mutations import KINDS, Bench


def main(arguments):
    files = int(arguments[0]) if arguments else 2000
    first = int(arguments[1]) if arguments[1:] else 0
    endings, slowest, bad = Counter(), 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), random.Random(0))
        for seed in range(first, first + files):
            for kind in KINDS:
                commands = bench.commands(kind, random.Random(f"{kind} {seed}"))
                command = commands[seed % len(commands)]
                ended = run(command)
                endings[f"{kind}: {ended.kind}"] += 1
                slowest = max(slowest, ended.seconds)
                if ended.kind not in ("ok", "one line"):
                    bad += 1
                    print(f"{kind} {seed}: {command[0]}: {ended.kind}\n{ended.error[-1500:]}")
    for words, count in sorted(endings.items()):
        print(f"{count:>6} {words}")
    print(f"slowest: {slowest:.1f} s; {bad / max(1, endings.total()):.2%} neither a result nor one line")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
