import pytest

from profiler.gpu.snapshot import Frame
from profiler.gpu.stacks import origin

pytestmark = pytest.mark.quick

SITE = "/usr/lib/python3/site-packages/torch/"
EMPTY = Frame("??", 0, "at::_ops::empty_strided::redispatch(c10::DispatchKeySet, c10::ArrayRef<long>)")
MM = Frame("??", 0, "at::_ops::mm::call(at::Tensor const&, at::Tensor const&)")
NODE = Frame("??", 0, "torch::autograd::generated::AddmmBackward0::apply(std::vector<at::Tensor>&&)")
ACCUMULATE = Frame("??", 0, "torch::autograd::AccumulateGrad::apply(std::vector<at::Tensor>&&)")
LINEAR = Frame(SITE + "nn/functional.py", 2000, "linear")
USER = Frame("/home/u/model.py", 81, "attention")


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ((EMPTY, MM, LINEAR, USER), "mm, model.py:81 attention"),
        ((EMPTY, MM, NODE), "mm, AddmmBackward0"),
        ((EMPTY, ACCUMULATE), "empty_strided, AccumulateGrad"),
        ((LINEAR, USER, Frame("/home/u/train.py", 3, "main")), "model.py:81 attention"),
        ((MM,), "mm"),
        ((LINEAR,), "no recorded frame"),
        ((), "no recorded frame"),
    ],
)
def test_the_operation_that_wanted_the_memory_and_who_called_it(frames, words):
    assert origin(frames) == words
