"""The largest batch that fits, from as few simulations as possible.

Each phase's allocated peak is nearly a line in the batch (constant terms and terms per sample), and the run's
peak is the highest of these lines; so two simulations tell about where the limit is, whichever phase will be
the highest there. What is reserved lies a little above what is allocated. Every answer is then proved by
simulation at the limit itself, with the retries of a real allocator: the batch fits, and one more does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log

from profiler.simulated_run import SimulatedRun

LARGEST_BATCH = 1 << 20
MOST_SIMULATIONS = 12

_NEAR = 0.1  # of a batch: near enough to believe the lines

Simulate = Callable[[int, bool], SimulatedRun]


@dataclass(frozen=True)
class LargestBatch:
    """The outcome of a search.

    Attributes:
        fits: the largest batch known to fit, 0 if not even batch 1 does.
        too_large: the smallest batch known not to fit; None if LARGEST_BATCH fits.
        run: the simulation of `fits`, None if there is none.
        simulations: how many it took.
    """

    fits: int
    too_large: int | None
    run: SimulatedRun | None
    simulations: int

    @property
    def exact(self) -> bool:
        """Whether one sample more is known not to fit (or the search's own bound was reached)."""
        return self.too_large is None or self.too_large == self.fits + 1


def largest_batch(
    simulate: Simulate, limit_bytes: int, first: SimulatedRun, most: int = MOST_SIMULATIONS
) -> LargestBatch:
    """Search for the largest batch whose run stays within `limit_bytes`.

    Args:
        simulate: (batch, limited) -> the run; limited to `limit_bytes`, or with memory without limit.
        limit_bytes: what the allocator may take.
        first: the unlimited simulation of some batch, where the search begins.
        most: simulations it may take; when they run out the answer is a bracket (`exact` is False).
    """
    search = _Search(simulate, limit_bytes, most)
    search.learn(first)
    batch = first.workload.batch
    if search.too_large == 1:
        return LargestBatch(fits=0, too_large=1, run=None, simulations=0)
    search.probe_unlimited(2 * batch if search.fits or batch == 1 else batch // 2)
    for _ in range(4):  # where the limit is far from what was tried, look there before trusting the lines
        guess = search.extrapolate(with_reserved=True)
        if min(abs(known - guess) for known in search.needs) > guess * _NEAR:
            search.probe_unlimited(guess)
    search.settle()
    return LargestBatch(
        fits=search.fits,
        too_large=None if search.too_large > LARGEST_BATCH else search.too_large,
        run=search.run,
        simulations=most - search.left,
    )


class _Search:
    """What is known so far about which batches fit."""

    def __init__(self, simulate: Simulate, limit_bytes: int, most: int) -> None:
        self.simulate = simulate
        self.limit_bytes = limit_bytes
        self.left = most
        self.needs: dict[int, SimulatedRun] = {}  # batch -> what it takes when memory is no limit
        self.fits, self.too_large = 0, LARGEST_BATCH + 1
        self.run: SimulatedRun | None = None

    def learn(self, run: SimulatedRun) -> None:
        """Take in an unlimited run: it may prove that its batch fits, or that no retry can make it fit."""
        batch = run.workload.batch
        self.needs[batch] = run
        if run.peak_reserved_bytes <= self.limit_bytes:
            self._fits(batch, run)
        elif run.peak.peak_allocated_bytes > self.limit_bytes:
            self.too_large = min(self.too_large, batch)

    def probe_unlimited(self, batch: int) -> None:
        self.left -= 1
        self.learn(self.simulate(batch, False))

    def probe_limited(self, batch: int) -> bool:
        """Whether the batch fits when memory is the limit, retries and all."""
        self.left -= 1
        run = self.simulate(batch, True)
        if run.fits:
            self._fits(batch, run)
        else:
            self.too_large = min(self.too_large, batch)
        return run.fits

    def _fits(self, batch: int, run: SimulatedRun) -> None:
        if batch > self.fits:
            self.fits, self.run = batch, run

    def extrapolate(self, with_reserved: bool) -> int:
        """The batch at which the highest of the phases' lines meets the limit, at least 1.

        The lines are the allocated peaks, which no retry can push below the limit; `with_reserved` raises
        them by the share that the nearest known batch has reserved above them.
        """
        nearest = sorted(self.needs, key=self._distance)
        closest = self.needs[nearest[0]]
        share = closest.peak_reserved_bytes / closest.peak.peak_allocated_bytes if with_reserved else 1.0
        low, high = sorted(nearest[:2])
        meets = LARGEST_BATCH
        for before, after in zip(self.needs[low].phases, self.needs[high].phases, strict=True):
            slope = (after.peak_allocated_bytes - before.peak_allocated_bytes) / (high - low)
            if slope > 0:
                room = self.limit_bytes / share - before.peak_allocated_bytes
                meets = min(meets, low + int(room // slope))
        return max(1, meets)

    def _distance(self, batch: int) -> float:
        return abs(log(self.needs[batch].peak_reserved_bytes / self.limit_bytes))

    def settle(self) -> None:
        """Close in on the limit with limited runs, until one fits and the next does not.

        Steps away from the guess double until the limit is between two known batches, which are then halved.
        """
        guess = self.extrapolate(with_reserved=True)
        hopeless = max(guess, self.extrapolate(with_reserved=False)) + 1
        step = max(1, guess // 64)
        while self.left > 0 and self.too_large - self.fits > 1:
            guess = min(max(guess, self.fits + 1), self.too_large - 1)
            if self.probe_limited(guess):
                bound = min(self.too_large, hopeless) if self.fits < hopeless else self.too_large
                guess = min(self.fits + step, (self.fits + bound + 1) // 2)
            else:
                guess = max(self.too_large - step, (self.fits + self.too_large) // 2)
            step *= 2
