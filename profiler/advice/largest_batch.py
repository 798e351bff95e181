"""The largest batch that fits, from a handful of simulations.

Two simulations tell the requests of any batch (profiler.trace.requests), and the allocator model then tells
at once which is the largest that fits. That is a prediction: it is proved by simulation at the limit itself,
with the retries of a real allocator, where the batch fits and one more does not. Where it was wrong, what was
simulated is nearer to the limit than before and gives a better one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, count
from math import log

from profiler.errors import ProfilerError
from profiler.gpu.allocator import AllocatorSettings
from profiler.trace.requests import Requests, at_batch, fit_in, same_order
from profiler.trace.run import Run
from profiler.workload import LARGEST_BATCH

MOST_SIMULATIONS = 12

_NEAR = 0.5  # of a batch: near enough to what was simulated for a prediction to be put to the proof
_BEYOND = 8

Simulate = Callable[[int, bool], Run]


@dataclass(frozen=True)
class LargestBatch:
    """The outcome of a search.

    Attributes:
        fits: the largest batch known to fit, 0 if not even batch 1 does.
        too_large: the smallest batch known not to fit; None if none is, as where LARGEST_BATCH fits.
        run: the simulation of `fits`, None if there is none.
        simulations: how many it took.
        stopped: why the search ended early, where a batch on its way could not be simulated.
    """

    fits: int
    too_large: int | None
    run: Run | None
    simulations: int
    stopped: str = ""

    @property
    def exact(self) -> bool:
        """Whether one sample more is known not to fit (or the search's own bound was reached)."""
        return not self.stopped and (self.fits >= LARGEST_BATCH or self.too_large == self.fits + 1)


def largest_batch(
    simulate: Simulate,
    limit_bytes: int,
    first: Run,
    settings: AllocatorSettings | None = None,
    most: int = MOST_SIMULATIONS,
) -> LargestBatch:
    """Search for the largest batch whose run stays within `limit_bytes`.

    Args:
        simulate: (batch, limited) -> the run; limited to `limit_bytes`, or with memory without limit.
        limit_bytes: what the allocator may take.
        first: the unlimited simulation of some batch, where the search begins.
        settings: of the allocator.
        most: simulations it may take; when they run out the answer is a bracket (`exact` is False).
    """
    search = _Search(simulate, limit_bytes, settings or AllocatorSettings(), most)
    search.learn(first)
    stopped = ""
    while search.left > 0 and search.too_large - search.fits > 1 and not stopped:
        try:
            search.step()
        except ProfilerError as error:
            stopped = str(error)
    return LargestBatch(
        fits=search.fits,
        too_large=None if search.too_large > LARGEST_BATCH else search.too_large,
        run=search.run,
        simulations=most - search.left,
        stopped=stopped,
    )


class _Search:
    """What is known so far about which batches fit."""

    def __init__(self, simulate: Simulate, limit_bytes: int, settings: AllocatorSettings, most: int) -> None:
        self.simulate = simulate
        self.limit_bytes = limit_bytes
        self.settings = settings
        self.left = most
        self.known: dict[int, Run] = {}  # batch -> a run that came to its end
        self.fits, self.too_large = 0, LARGEST_BATCH + 1
        self.run: Run | None = None

    def step(self) -> None:
        """Spend one simulation, or two where a prediction was too high."""
        guess = self.predict()
        if guess is None:
            self.probe(self.untried(), limited=False)
        elif guess <= self.fits:
            self.probe(self.fits + 1, limited=True)
        elif min(abs(batch - guess) for batch in self.known) > guess * _NEAR:
            self.probe(guess, limited=False)
        else:
            self.probe(guess, limited=True)
            if self.fits < guess and guess not in self.known and self.left > 0:
                self.probe(guess, limited=False)

    def probe(self, batch: int, limited: bool) -> None:
        """Simulate a batch, with the retries of the real memory or with memory without limit."""
        self.left -= 1
        run = self.simulate(batch, limited)
        if run.fits:
            self.learn(run)
        else:
            self.too_large = min(self.too_large, batch)

    def learn(self, run: Run) -> None:
        """Take in a run that came to its end; an unlimited one may prove that no retry can make it fit."""
        assert run.workload is not None
        batch = run.workload.batch
        self.known[batch] = run
        if run.needed_bytes <= self.limit_bytes and batch > self.fits:
            self.fits, self.run = batch, run
        elif run.peak_allocated_bytes > self.limit_bytes:
            self.too_large = min(self.too_large, batch)

    def predict(self) -> int | None:
        """The largest batch between the known bounds whose requests fit, as two known runs foretell them.

        None where no two known runs make their requests in the same order.
        """
        nearest = sorted(self.known, key=self.distance)
        for pair in sorted(combinations(range(len(nearest)), 2), key=sum):
            low, high = (nearest[place] for place in pair)
            before, after = self.known[low].requests, self.known[high].requests
            if same_order(before, after):
                return self.largest_foretold((low, before), (high, after))
        return None

    def largest_foretold(self, first: tuple[int, Requests], second: tuple[int, Requests]) -> int:
        """The prediction from two batches and the requests of each.

        Fragmentation is not monotone: a few batches beyond the first that does not fit are looked at too.
        """

        def foretold(batch: int) -> bool:
            return fit_in(at_batch(batch, first, second), self.limit_bytes, self.settings)

        fits, too_large = self.fits, self.too_large
        while too_large - fits > 1:
            middle = (fits + too_large) // 2
            if foretold(middle):
                fits = middle
            else:
                too_large = middle
        beyond = range(too_large + 1, min(too_large + _BEYOND, self.too_large))
        return max([fits, *filter(foretold, beyond)])

    def untried(self) -> int:
        """A batch to simulate for its requests: where the limit would be if all memory were the samples'."""
        nearest = min(self.known, key=self.distance)
        needed_bytes = self.known[nearest].needed_bytes
        guess = min(max(nearest * self.limit_bytes // needed_bytes, self.fits + 1), self.too_large - 1)
        around = (batch for shift in count() for batch in (guess - shift, guess + shift))
        return next(batch for batch in around if batch > 0 and batch not in self.known)

    def distance(self, batch: int) -> float:
        """How far a batch's need of memory is from the limit, as a factor's logarithm."""
        return abs(log(self.known[batch].needed_bytes / self.limit_bytes))
