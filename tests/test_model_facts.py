import pytest
import torch

from profiler.model_facts import count, saved_tensors
from profiler.workload import Workload


@pytest.mark.parametrize(
    ("model", "length", "parameters"),
    [
        # Published counts: Radford et al. 2019 as in the released checkpoint, torchvision's resnet50 and
        # vit_b_16, Llama-3.2-1B's model card.
        ("gpt2", 16, 124_439_808),
        ("resnet50", 64, 25_557_032),
        ("vit-b16", 224, 86_567_656),
        ("llama-1b", 16, 1_235_814_400),
        # 1024·4096+4096 + 2·(4096²+4096) + 4096·10+10
        ("mlp", 0, 37_801_994),
    ],
)
def test_parameter_counts_are_the_published_ones(model, length, parameters):
    assert count(Workload(model, 1, length)).total_parameter_bytes == 4 * parameters


def test_inputs_are_one_micro_batch():
    # Token ids and labels are one tensor of 64-bit integers.
    assert count(Workload("gpt2-tiny", 3, 50)).input_bytes == 3 * 50 * 8


def test_a_storage_saved_twice_counts_once_and_is_listed_twice():
    x = torch.randn(10, requires_grad=True)
    y = x.exp()  # saves its result
    z = y * y  # saves y for both factors
    saved = list(saved_tensors(z.sum()))
    assert len(saved) == 3
    assert len({t.untyped_storage().data_ptr() for t in saved}) == 1


def test_custom_functions_are_seen():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            return 2 * x * gradient

    x = torch.randn(3, requires_grad=True)
    (saved,) = saved_tensors(Square.apply(x))
    assert saved.data_ptr() == x.data_ptr()
