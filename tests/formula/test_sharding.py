"""What one rank holds, against numbers worked out by hand and against tables of the papers."""

from __future__ import annotations

import pytest

from profiler.formula.sharding import (
    FSDP2,
    ddp_buckets,
    ddp_terms,
    fsdp2_backward_terms,
    fsdp2_lasting_terms,
    pipeline_micro_batches,
    shard_elements,
    shard_rows,
    tensor_parallel_elements,
    zero_redundancy_elements,
    zero_terms,
)
from profiler.formula.terms import Parameter, total_bytes
from profiler.units import MIB


@pytest.mark.parametrize(
    ("ranks", "gigabytes"),
    # ZeRO's table 1, 7.5 billion parameters: stages 1, 2 and 3
    [(1, (120, 120, 120)), (4, (52.5, 41.3, 30)), (64, (31.4, 16.6, 1.88)), (1024, (30.1, 15.1, 0.12))],
)
def test_zero_as_in_its_paper(ranks: int, gigabytes: tuple[float, ...]) -> None:
    for stage, expected in enumerate(gigabytes, 1):
        found = total_bytes(zero_terms(7_500_000_000, ranks, stage)) / 1e9
        assert found == pytest.approx(expected, abs=0.5 if expected > 10 else 0.01)
    assert total_bytes(zero_terms(7_500_000_000, ranks, 0)) == 16 * 7_500_000_000


def test_a_share_is_rounded_up() -> None:
    assert [term.size_bytes for term in zero_terms(10, 4, 3)] == [2 * 3, 2 * 3, 12 * 3]


def test_buckets_fill_from_the_last_parameter_on() -> None:
    layer = Parameter((1024, 1536))  # 6 MiB
    bias = Parameter((1024,))
    assert layer.size_bytes == 6 * MIB
    # The last 6 MiB are over the first bucket's limit of 1 MiB; 24 are under 25, so that five make the next
    assert ddp_buckets([layer] * 8) == (6 * MIB, 30 * MIB, 12 * MIB)
    # A small one closes no bucket and goes with its neighbour
    assert ddp_buckets([layer, bias]) == (6 * MIB + 4096,)
    assert ddp_buckets([Parameter((1024, 1536), trainable=False), bias]) == (4096,)
    assert total_bytes(ddp_terms([layer] * 8)) == 48 * MIB
    assert ddp_terms([layer] * 8, bucket_views=True) == ()


def test_zero_redundancy_gives_whole_tensors_to_whom_has_least() -> None:
    sizes = [Parameter((size,)) for size in (5, 4, 3, 3, 1)]
    # 5 to the first, 4 to the second, 3 to the third; 3 to the third (3 + 3), 1 to the second (4 + 1)
    assert [zero_redundancy_elements(sizes, 3, rank) for rank in range(3)] == [5, 5, 6]
    assert zero_redundancy_elements(sizes, 100, 99) == 0


def test_rows_of_a_rank_are_those_of_chunk() -> None:
    torch = pytest.importorskip("torch")
    for rows in (1, 7, 8, 1000, 1024):
        for ranks in (1, 3, 8, 1000):
            chunks = [len(chunk) for chunk in torch.arange(rows).chunk(ranks)]
            expected = chunks + [0] * (ranks - len(chunks))
            assert [shard_rows(rows, ranks, rank) for rank in range(ranks)] == expected
    assert shard_elements(Parameter((10, 3)), 4) == 9
    assert shard_elements(Parameter((10, 3)), 4, 3) == 3


def test_fsdp2_in_mixed_precision_by_hand() -> None:
    unit = (Parameter((100, 10)), Parameter((100,)))
    model = FSDP2((unit, unit, unit), (Parameter((40, 10)),), ranks=8, parameter_bytes=2, reduce_bytes=4)
    # 100 rows in 8 parts: 13 of 10 and 13 of 1; 40 rows: 5 of 10
    padded = 3 * (130 + 13) + 50
    assert [term.size_bytes for term in fsdp2_lasting_terms(model)] == [4 * padded, 4 * padded, 8 * padded]
    # The last rank has the 9 rows that are left
    last = FSDP2(model.units, model.root, 8, rank=7)
    assert fsdp2_lasting_terms(last)[2].size_bytes == 8 * (3 * (90 + 9) + 50)
    gathered = 8 * (130 + 13)
    sizes = {term.category: term.size_bytes for term in fsdp2_backward_terms(model)}
    assert sizes == {
        "unsharded_parameters": 2 * (gathered + 400),
        "unsharded_gradients": 2 * gathered,
        "all_gather_buffers": 2 * gathered,
        "reduce_scatter_buffers": 4 * gathered,
    }


def test_what_ranks_gather_does_not_depend_on_how_many_they_are() -> None:
    units = tuple((Parameter((4096, 64)),) for _ in range(5))
    beyond = [total_bytes(fsdp2_backward_terms(FSDP2(units, (), ranks))) for ranks in (2, 64, 4096)]
    assert beyond == [4 * MIB] * 3  # four times a unit of 1 MiB
    lasting = [total_bytes(fsdp2_lasting_terms(FSDP2(units, (), ranks))) for ranks in (1, 2, 4096)]
    assert lasting == [16 * 5 * 4096 * 64, 16 * 5 * 2048 * 64, 16 * 5 * 64]


def test_tensor_and_pipeline_parallelism() -> None:
    layer = Parameter((4096, 1024))
    assert tensor_parallel_elements(layer, 8, 0) == tensor_parallel_elements(layer, 8, 1) == 512 * 1024
    assert tensor_parallel_elements(layer, 8, None) == 4096 * 1024
    assert tensor_parallel_elements(Parameter((10, 2)), 4, 0) == 6
    # 1F1B on 4 stages: the first holds 4 micro-batches, the last 1; never more than there are
    assert [pipeline_micro_batches(4, stage, 8) for stage in range(4)] == [4, 3, 2, 1]
    assert pipeline_micro_batches(4, 0, 2) == 2
