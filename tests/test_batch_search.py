"""The search, against models of memory whose largest batch is known by arithmetic."""

from collections.abc import Callable

import pytest

from profiler.batch_search import LARGEST_BATCH, MOST_SIMULATIONS, largest_batch
from profiler.simulated_run import UNLIMITED_BYTES, SimulatedPhase, SimulatedRun
from profiler.workload import Workload

MIB = 2**20


def world(limit_bytes: int, allocated: Callable[[int], list[int]], overhead: float, retries_recover: float):
    """A simulate function: phases' allocated peaks by batch, reserved above them by a factor `overhead`, of
    which retries can recover the share `retries_recover` when memory is the limit."""
    calls: list[int] = []

    def simulate(batch: int, limited: bool) -> SimulatedRun:
        calls.append(batch)
        peaks = allocated(batch)
        reserved = int(max(peaks) * overhead)
        least = int(max(peaks) * (overhead - (overhead - 1) * retries_recover))
        fits = not limited or least <= limit_bytes
        phases = tuple(
            SimulatedPhase(
                f"phase {i}", 0, peak, 0, min(reserved, limit_bytes) if limited else reserved, {}, "", "", ""
            )
            for i, peak in enumerate(peaks)
        )
        memory = limit_bytes if limited else UNLIMITED_BYTES
        return SimulatedRun(
            Workload("mlp", batch), memory, phases, 0, "" if fits else "out of memory", 0, (), ""
        )

    return simulate, calls


CASES = {
    # 100 MiB + 3 MiB a sample into 1000 MiB: 300 samples take it all.
    "one line": (1000 * MIB, lambda b: [100 * MIB + 3 * MIB * b], 1.0, 0.0, 300),
    # The optimizer's 800 MiB hide the forward's 7 MiB a sample until batch 114; 142 × 7 = 994.
    "the peak moves": (1000 * MIB, lambda b: [800 * MIB, 7 * MIB * b], 1.0, 0.0, 142),
    # A tenth more is reserved: 11 + 11 b <= 1000 gives 89; the retries recover it all: 10 + 10 b gives 99.
    "retries help": (1000 * MIB, lambda b: [10 * MIB * b + 10 * MIB], 1.1, 1.0, 99),
    "one sample": (1000 * MIB, lambda b: [600 * MIB * b], 1.0, 0.0, 1),
    "not even one": (1000 * MIB, lambda b: [1200 * MIB + MIB * b], 1.0, 0.0, 0),
    # b + b²/400 <= 1000: 463 + 535.9 = 998.9, 464 + 538.2 = 1002.2.
    "a curve": (1000 * MIB, lambda b: [MIB * b + MIB * b * b // 400], 1.0, 0.0, 463),
}


@pytest.mark.parametrize("first", [1, 8, 64, 500])
@pytest.mark.parametrize("case", CASES)
def test_the_largest_batch_fits_and_one_more_does_not(case, first):
    limit_bytes, allocated, overhead, recover, expected = CASES[case]
    simulate, calls = world(limit_bytes, allocated, overhead, recover)
    start = simulate(first, False)
    calls.clear()
    found = largest_batch(simulate, limit_bytes, start)
    assert found.fits == expected
    assert found.exact
    assert found.too_large == expected + 1
    assert found.simulations == len(calls) <= MOST_SIMULATIONS


def test_when_the_simulations_run_out_the_answer_is_a_bracket():
    limit_bytes, allocated, overhead, recover, expected = CASES["a curve"]
    simulate, calls = world(limit_bytes, allocated, overhead, recover)
    found = largest_batch(simulate, limit_bytes, simulate(1, False), most=6)
    assert not found.exact
    assert found.simulations == len(calls) - 1 == 6
    assert found.fits <= expected < found.too_large


def test_a_batch_that_costs_nothing_stops_at_the_bound():
    simulate, _ = world(1000 * MIB, lambda b: [MIB], 1.0, 0.0)
    found = largest_batch(simulate, 1000 * MIB, simulate(1, False))
    assert found.fits == LARGEST_BATCH
    assert found.too_large is None
    assert found.exact
