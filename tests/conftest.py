"""One thread a process, and the simulated device before the first backward, when autograd starts its threads.

Tests run in as many processes as there are cores; with a thread a core in each, and in the programs that they
start, they wait for each other most of the time.
"""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded

import pytest

from profiler.device import ENGINES, VIRTUAL
from profiler.gpu.simulated.device import register
from profiler.runs.engine import why_not_virtual

register()


@pytest.fixture(autouse=True, scope="module")
def _what_is_loaded_is_not_looked_through():
    """Each phase of a recorded step collects garbage: seconds a test, of all that pytest and torch loaded."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=ENGINES)
def engine(request):
    """Each way to have a GPU that is not there: the test is to find the same on both."""
    if request.param == VIRTUAL and why_not_virtual():
        pytest.skip(why_not_virtual())
    return request.param
