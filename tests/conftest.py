"""The simulated device exists before the first backward of the process, when autograd starts its threads."""

import pytest

from profiler.device import ENGINES, VIRTUAL
from profiler.gpu.simulated.device import register
from profiler.runs.engine import why_not_virtual

register()


@pytest.fixture(params=ENGINES)
def engine(request):
    """Each way to have a GPU that is not there: the test is to find the same on both."""
    if request.param == VIRTUAL and why_not_virtual():
        pytest.skip(why_not_virtual())
    return request.param
