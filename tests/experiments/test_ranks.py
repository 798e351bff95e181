"""Data parallelism and sharding: the formula and the virtual GPU say the same, to the byte."""

from __future__ import annotations

import pytest

from experiments import data_parallel, sharding
from experiments.ranks.measure import measure
from tests.support.virtual_gpu import installed_torch, needed


@pytest.mark.parametrize("ranks", [1, 1024])
def test_fsdp2_as_predicted(ranks: int) -> None:
    needed(installed_torch())
    measured = measure("fsdp2", ranks)
    assert sharding.predicted_of_fsdp2(ranks) == (measured.lasting_bytes, measured.backward_bytes)


@pytest.mark.parametrize(("way", "ranks"), [("ddp", 8), ("ddp_views", 8), ("zero1", 3)])
def test_data_parallelism_as_predicted(way: str, ranks: int) -> None:
    needed(installed_torch())
    assert data_parallel.predicted_between_steps(way, ranks) == measure(way, ranks).lasting_bytes
