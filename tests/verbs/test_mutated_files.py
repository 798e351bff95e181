"""Files damaged at random: every verb ends with a result or with one line, in time and in bounded memory.

A few dozen files a kind with fixed seeds; tests/benchmarks/mutated_files.py runs thousands.
"""

import random

import pytest

from tests.support.limited import run
from tests.support.mutations import KINDS, Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("mutated"), random.Random(0))


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        *((kind, seed) for kind in KINDS for seed in range(8)),
        ("snapshot", 51057),  # a segment is returned to the driver while a block in it is held, then freed
    ],
)
def test_a_damaged_file_is_a_result_or_one_line(bench, kind, seed):
    for command in bench.commands(kind, random.Random(f"{kind} {seed}")):
        ended = run(command)
        assert ended.kind in ("ok", "one line"), f"{command}\n{ended.error[-3000:]}"
