"""The search, against programs whose largest batch is known by arithmetic or by trying every one."""

from collections.abc import Callable

import pytest

from profiler.advice.largest_batch import MOST_SIMULATIONS, largest_batch
from profiler.errors import ProfilerError
from profiler.gpu.allocator import AllocatorSettings, CachingAllocator, DeviceOutOfMemory
from profiler.gpu.cards import UNLIMITED_BYTES
from profiler.trace import ledger
from profiler.trace.events import Allocation, Free, Mark
from profiler.trace.phase import FORWARD, Phase
from profiler.trace.requests import at_batch, fit_in, requests_of, same_order
from profiler.trace.run import OutOfMemory, PhaseMeasurement, Run
from profiler.workload import LARGEST_BATCH, Workload
from tests.support.runs import run_of

MIB = 2**20
LIMIT = 1000 * MIB
FIRST = Phase(1, FORWARD)


def world(program: Callable[[int], list[int]], limit_bytes: int = LIMIT):
    """A simulate function for a program: its requests (n bytes; -n frees the n-th) for a batch.

    The device is the caching allocator; a run that does not fit ends at the request that it has no room for.
    """
    calls: list[int] = []

    def simulate(batch: int, limited: bool) -> Run:
        calls.append(batch)
        memory = limit_bytes if limited else UNLIMITED_BYTES
        allocator, addresses, stopped = CachingAllocator(memory), [0], None
        entries = []
        try:
            for request in program(batch):
                if request < 0:
                    allocator.free(addresses[-request])
                    entries.append(Free(addresses[-request]))
                else:
                    addresses.append(allocator.malloc(request))
                    entries.append(Allocation(addresses[-1], request, request))
        except DeviceOutOfMemory as error:
            stopped = OutOfMemory(FIRST, str(error), None)
        account = ledger.account([*entries, Mark(FIRST, {})])[0]
        phase = PhaseMeasurement(account, memory_stats=allocator.memory_stats())
        return run_of(entries, phases=(phase,), workload=Workload("mlp", batch), out_of_memory=stopped)

    return simulate, calls


# Sizes are even numbers of MiB at the limits: segments of large requests are multiples of 2 MiB.
CASES = {
    # 100 MiB + 2 MiB a sample into 1000 MiB: 450 samples take it all.
    "one line": (lambda b: [100 * MIB, 2 * MIB * b], 450),
    # The optimizer's 800 MiB hide the forward's 14 MiB a sample until batch 58; 71 × 14 = 994.
    "the peak moves": (lambda b: [800 * MIB, -1, 14 * MIB * b], 71),
    # Segments of 6 MiB a sample stay cached and are of no use for requests of 8: both would need 14 b, and
    # 71 fit. When memory is short the first are given back: 125 × 8 = 1000.
    "retries help": (lambda b: [6 * MIB * b, -1, 8 * MIB * b], 125),
    "one sample": (lambda b: [600 * MIB * b], 1),
    "not even one": (lambda b: [1200 * MIB + 2 * MIB * b], 0),
    # b + b²/400 MiB <= 1000: 463 + 535.9 = 998.9, 464 + 538.2 = 1002.2, in segments of 2 MiB.
    "a curve": (lambda b: [MIB * b + MIB * b * b // 400], 463),
    # 1 KiB a sample: 1,024,000 of them.
    "a million": (lambda b: [1024 * b], 1_024_000),
    # Scratch space for batches that are no multiple of 4: runs differ in the order of their requests.
    # 100 + 20 + 2 b: 440; of the multiples of 4 100 + 2 b: 448 fits too, but 441 does not.
    "another order": (lambda b: [100 * MIB, *([20 * MIB, -2] if b % 4 else []), 2 * MIB * b], None),
}


@pytest.mark.parametrize("first", [1, 8, 64, 500])
@pytest.mark.parametrize("case", CASES)
def test_the_largest_batch_fits_and_one_more_does_not(case, first):
    program, expected = CASES[case]
    simulate, calls = world(program)
    start = simulate(first, False)
    calls.clear()
    found = largest_batch(simulate, LIMIT, start)
    assert found.exact
    assert found.simulations == len(calls) <= MOST_SIMULATIONS
    if expected is not None:
        assert found.fits == expected
        assert found.too_large == expected + 1
    else:
        assert simulate(found.fits, True).fits
        assert not simulate(found.fits + 1, True).fits


@pytest.mark.parametrize("seed", range(20))
def test_of_random_programs_every_smaller_batch_was_tried(seed):
    """Blocks of random sizes, some freed again at random moments, against the allocator at each batch."""
    import random

    chance = random.Random(seed)
    shape = [(chance.randrange(20 * MIB), chance.randrange(3 * MIB)) for _ in range(30)]
    frees = {place: chance.randrange(place + 1) for place in chance.sample(range(30), 18)}

    def program(batch):
        requests, freed = [], set()
        for place, (constant, slope) in enumerate(shape):
            requests.append(constant + slope * batch)
            if place in frees and frees[place] not in freed:
                freed.add(frees[place])
                requests.append(-1 - frees[place])
        return requests

    simulate, _ = world(program)
    found = largest_batch(simulate, LIMIT, simulate(4, False))
    assert found.exact
    fits = [batch for batch in range(1, 200) if fit_in(program(batch), LIMIT, AllocatorSettings())]
    assert found.fits in (0, *fits)
    assert not set(range(found.fits + 1, found.fits + 8)) & set(fits)
    assert found.simulations <= 6


def test_affine_programs_take_three_simulations():
    """One more batch to know the slope, and the two that prove the answer."""
    simulate, calls = world(lambda b: [100 * MIB, 2 * MIB * b])
    largest_batch(simulate, LIMIT, simulate(300, False))
    assert calls[0] == 300
    assert calls[2:] == [450, 451]


def test_when_the_simulations_run_out_the_answer_is_a_bracket():
    program, expected = CASES["a curve"]
    simulate, calls = world(program)
    found = largest_batch(simulate, LIMIT, simulate(1, False), most=3)
    assert not found.exact
    assert found.simulations == len(calls) - 1 == 3
    assert found.fits <= expected < found.too_large


def test_a_search_that_met_no_batch_too_large_knows_no_largest_one():
    """One more simulation than the first, of a program that needs little: nothing is known above it."""
    program, expected = CASES["a million"]
    simulate, _ = world(program)
    found = largest_batch(simulate, LIMIT, simulate(1, False), most=1)
    assert found.fits < expected
    assert found.too_large is None
    assert not found.exact


def test_a_batch_that_cannot_be_simulated_ends_the_search_with_its_reason():
    simulate, _ = world(lambda b: [100 * MIB, 2 * MIB * b])

    def fragile(batch, limited):
        if batch > 20:
            raise ProfilerError("values of the device")
        return simulate(batch, limited)

    found = largest_batch(fragile, LIMIT, simulate(2, False))
    assert not found.exact
    assert found.fits < 20
    assert found.too_large is None
    assert found.stopped == "values of the device"


def test_a_batch_that_costs_nothing_stops_at_the_bound():
    simulate, _ = world(lambda b: [MIB])
    found = largest_batch(simulate, LIMIT, simulate(1, False))
    assert found.fits == LARGEST_BATCH
    assert found.too_large is None
    assert found.exact


# --- requests ------------------------------------------------------------------------------------------


def test_entries_become_requests_and_frees_by_number():
    entries = [
        Allocation(7, 512, 100),
        Allocation(8, 512, 200),
        Free(7),
        Free(99),
        Allocation(7, 512, 300),
        Free(7),
    ]
    assert list(requests_of(entries)) == [100, 200, -1, 300, -3]


def test_requests_of_another_batch_lie_on_the_line():
    first, second = (4, [1000, 40, -2, 12]), (10, [1000, 100, -2, 0])
    assert same_order(first[1], second[1])
    assert at_batch(7, first, second) == [1000, 70, -2, 6]
    assert at_batch(1, first, second) == [1000, 10, -2, 18]
    assert at_batch(100, first, second) == [1000, 1000, -2, 0]  # less than nothing is nothing
    assert not same_order([1, -1, 2], [1, 2, -1])
    assert not same_order([1, -1], [1, -1, 2])
