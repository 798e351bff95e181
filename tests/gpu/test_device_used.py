"""Device memory outside the allocator, against what others measured."""

import pytest

from profiler.gpu.cards import GPUS
from profiler.gpu.device_used import (
    DeviceTerm,
    device_used_terms,
    in_total,
    kept_by_the_driver,
    nccl_connection_bytes,
    nccl_term,
    process_terms,
)
from profiler.units import GIB, MIB


def whole(card: str) -> DeviceTerm:
    return in_total(process_terms(GPUS[card]))


@pytest.mark.parametrize("card", GPUS)
def test_every_card_has_a_range_in_order(card: str) -> None:
    for term in (*process_terms(GPUS[card], eager_modules=True), kept_by_the_driver(GPUS[card])):
        assert 0 < term.low_bytes <= term.typical_bytes <= term.high_bytes
        assert term.source
    assert 100 * MIB < whole(card).typical_bytes < GIB


@pytest.mark.parametrize(
    ("card", "process_gib", "allocated_gib", "unallocated_mib"),
    [
        # Published messages that the table does not hold: a T4 that two other processes share, and a
        # RTX 4090 D (the 4090's chip with 114 multiprocessors).
        ("T4-16GB", 7.92, 4.78, 3072.0),
        ("RTX-4090", 22.84, 20.69, 1792.0),
    ],
)
def test_a_message_is_within_the_range(card, process_gib, allocated_gib, unallocated_mib) -> None:
    left_bytes = (process_gib - allocated_gib) * GIB - unallocated_mib * MIB
    rounding_bytes = 0.011 * GIB
    assert whole(card).low_bytes - rounding_bytes <= left_bytes <= whole(card).high_bytes + rounding_bytes


def test_the_context_alone_on_a_card_without_messages() -> None:
    # A CUDA program on an A30 found 23928 of 24163 MiB free.
    context, _ = process_terms(GPUS["A30-24GB"])
    assert context.low_bytes <= (24163 - 23928) * MIB <= context.high_bytes


@pytest.mark.parametrize(
    ("card", "measured_mib"),
    [
        # A context and nothing else: invoke-ai/InvokeAI#9413, unslothai/unsloth-zoo#1053 (by nvidia-smi),
        # stas00/ml-engineering (0.47 GiB by cudaMemGetInfo, torch 2.1.1).
        ("RTX-3090", 256),
        ("RTX-6000-Ada-48GB", 426),
        ("A100-80GB", 481),
    ],
)
def test_the_context_alone(card: str, measured_mib: int) -> None:
    context, _ = process_terms(GPUS[card])
    assert context.name == "CUDA context"
    assert context.low_bytes <= measured_mib * MIB <= context.high_bytes
    assert context.typical_bytes == pytest.approx(measured_mib * MIB, rel=0.1)


def test_typical_is_the_median_of_the_messages() -> None:
    # RTX 4090: 386.3, 438.4, 448.5, 475.7 and 483.2 MiB; the third is (22.58 - 22.05) GiB - 94.18 MiB.
    assert whole("RTX-4090").typical_bytes == pytest.approx(0.53 * GIB - 94.18 * MIB, abs=2)
    # A card without messages has those of the nearest one.
    assert whole("RTX-6000-Ada-48GB") == whole("RTX-4090")
    assert whole("RTX-3060-12GB").typical_bytes == whole("RTX-3090").typical_bytes
    # The context grows with the multiprocessors: 28 of 82 leave so much less at least.
    assert whole("RTX-3060-12GB").low_bytes == pytest.approx(whole("RTX-3090").low_bytes * 28 / 82, rel=1e-6)
    assert whole("RTX-3060-12GB").high_bytes == whole("RTX-3090").high_bytes


def test_eager_loading_adds_what_was_measured() -> None:
    *_, eager = process_terms(GPUS["A100-80GB"], eager_modules=True)
    assert eager.low_bytes == 379_584_512  # pytorch/pytorch#86509: 666,632,192 - 287,047,680
    assert eager.high_bytes == pytest.approx((0.92 - 0.47) * GIB)  # stas00/ml-engineering
    assert eager.low_bytes < eager.typical_bytes < eager.high_bytes


def test_the_driver_keeps_what_nvidia_smi_shows_more_than_the_runtime() -> None:
    # H100: nvidia-smi 81559 MiB, deviceQuery 81079.25 MiB.
    assert kept_by_the_driver(GPUS["H100-80GB"]).typical_bytes == 81559 * MIB - 85_017_755_648


def test_a_connection_of_nccl_is_two_allocations_of_known_size() -> None:
    # NVIDIA/nccl#1685, NCCL_DEBUG_SUBSYS=ALLOC: buffers of 10485760 and of 2097152 bytes.
    assert nccl_connection_bytes() == 10_485_760 + 2_097_152
    # NCCL_BUFFSIZE=8 MiB: 4 MiB more to receive.
    assert nccl_connection_bytes(8 * MIB) == 14_680_064 + 2_097_152


@pytest.mark.parametrize(("ranks", "measured_mib"), [(2, 544), (4, 688)])
def test_communicators_on_four_a100(ranks: int, measured_mib: int) -> None:
    # NVIDIA/nccl#964: an all_reduce of 4 MB in each group of GPUs.
    term = nccl_term(ranks)
    assert term.low_bytes <= measured_mib * MIB <= term.high_bytes
    assert term.typical_bytes == pytest.approx(measured_mib * MIB, rel=0.2)


def test_all_to_all_of_eight_h100() -> None:
    # NVIDIA/nccl#1685: 1.06 GB before the first all_to_all, 4.34 GB after.
    more_bytes = nccl_term(8, all_to_all=True).typical_bytes - nccl_term(8).typical_bytes
    assert more_bytes == pytest.approx(3.28e9, rel=0.2)
    assert nccl_term(8, all_to_all=True).high_bytes > 3.28e9


def test_communicators_add_up_and_one_rank_needs_none() -> None:
    assert nccl_term(8, communicators=3).typical_bytes == 3 * nccl_term(8).typical_bytes
    assert nccl_term(1).typical_bytes == 0
    assert nccl_term(8, nvlink=False).typical_bytes < nccl_term(8).low_bytes


def test_what_nvidia_smi_shows_holds_all_terms() -> None:
    gpu, reserved_bytes = GPUS["A100-40GB"], 20 * GIB
    total = in_total(device_used_terms(gpu, reserved_bytes, nccl_term(4)))
    parts = reserved_bytes + whole("A100-40GB").typical_bytes + nccl_term(4).typical_bytes
    assert total.typical_bytes == parts
    assert reserved_bytes < total.low_bytes < parts < total.high_bytes


def test_in_total_adds_each_end() -> None:
    parts = (DeviceTerm("a", 1, 2, 3, "x"), DeviceTerm("b", 10, 20, 30, "y"))
    assert in_total(parts, "both") == DeviceTerm("both", 11, 22, 33, "x; y")
