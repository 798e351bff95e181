"""Optimizer states against hand computations, against real optimizers, and their order by size."""

import warnings
from math import ceil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.formula.optimizer_states import state_bytes, state_terms
from profiler.formula.terms import Parameter
from profiler.training.optimizers import make_optimizer
from profiler.workload import (
    EIGHT_BIT_AS_TRAINER,
    EIGHT_BIT_OPTIMIZERS,
    OPTIMIZERS,
    PLAIN_OPTIMIZERS,
    Workload,
)

SHAPES = st.lists(st.integers(1, 200), min_size=1, max_size=4).map(tuple)


class Odd(torch.nn.Module):
    """Vectors, a scalar-like tensor, tensors below 4,096 elements, and sizes that are no multiple of 256."""

    def __init__(self):
        super().__init__()
        shapes = [(1,), (7,), (4095,), (4096,), (4097,), (63, 65), (64, 64), (3, 5, 7, 11), (129, 257)]
        self.tensors = torch.nn.ParameterList([torch.randn(shape) for shape in shapes])


class Convolution(torch.nn.Module):
    """A four-dimensional weight with more columns than rows, and normalization's vectors."""

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(17, 31, (3, 5))
        self.normalization = torch.nn.BatchNorm2d(31)


class Tied(torch.nn.Module):
    """An embedding whose table is also the output layer's weight, and a second embedding."""

    def __init__(self):
        super().__init__()
        self.tokens = torch.nn.Embedding(301, 33)
        self.positions = torch.nn.Embedding(130, 33)
        self.hidden = torch.nn.Linear(33, 131)
        self.head = torch.nn.Linear(33, 301, bias=False)
        self.head.weight = self.tokens.weight


def parameters_of(model):
    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    return [Parameter(tuple(p.shape), p.element_size(), id(p) in tables) for p in model.parameters()]


def real_state_bytes(workload, model):
    """What a real optimizer holds after two steps: each storage once, host scalars included."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bitsandbytes: no paging on the CPU
        optimizer = make_optimizer(workload, model)
        for _ in range(2):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
    storages = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    }
    return sum(storages.values())


@pytest.mark.parametrize("model", [Odd, Convolution, Tied])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_states_are_what_a_real_optimizer_holds(optimizer, model):
    workload, module = Workload("mlp", 1, optimizer=optimizer), model()
    predicted = sum(term.size_bytes for term in state_terms(workload, parameters_of(module), "cpu"))
    maps_bytes = 0
    if optimizer in EIGHT_BIT_OPTIMIZERS and any(
        p.elements >= 4096 and not (p.embedding and optimizer in EIGHT_BIT_AS_TRAINER)
        for p in parameters_of(module)
    ):
        maps_bytes = 2048  # on the CPU they are there from the start: initial_terms
    assert real_state_bytes(workload, module) == predicted + maps_bytes


@pytest.mark.parametrize("implementation", ["forloop", "foreach", "fused"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
def test_the_implementation_does_not_change_the_states(optimizer, implementation):
    workload = Workload("mlp", 1, optimizer=optimizer, optimizer_implementation=implementation)
    predicted = sum(term.size_bytes for term in state_terms(workload, parameters_of(Tied()), "cpu"))
    assert real_state_bytes(workload, Tied()) == predicted


def test_by_hand():
    matrix, vector = Parameter((100, 300)), Parameter((300,))
    small, table = Parameter((63, 65)), Parameter((100, 300), embedding=True)
    assert state_bytes("adam", matrix) == 2 * 4 * 30_000
    assert state_bytes("adafactor", matrix) == 4 * (100 + 300)
    assert state_bytes("adafactor", vector) == 4 * 300
    assert state_bytes("adafactor", Parameter((2, 3, 5, 7))) == 4 * 2 * 3 * (5 + 7)
    assert state_bytes("adafactor_transformers", matrix) == 4 * (100 + 300) + 4  # and its RMS
    assert state_bytes("adafactor_transformers_momentum", vector) == 4 * (300 + 300) + 4
    # 30,000 values in 118 blocks of 256, each with two fp32 scales.
    assert state_bytes("adam8bit", matrix) == 2 * 30_000 + 2 * 4 * 118
    assert state_bytes("adam8bit", small) == 8 * 4095
    assert state_bytes("adam8bit", table) == 8 * 30_000
    assert state_bytes("adam8bit_plain", table) == state_bytes("adam8bit", matrix)


def test_paged_states_of_large_tensors_are_outside_the_allocator_on_cuda():
    parameters = [Parameter((400, 250)), Parameter((100, 300))]  # 100,000 elements are paged, 30,000 are not
    workload = Workload("mlp", 1, optimizer="paged_adamw8bit")
    total = sum(term.size_bytes for term in state_terms(workload, parameters, "cuda"))
    assert total == 2 * 30_000 + 8 * (ceil(100_000 / 256) + ceil(30_000 / 256)) + 2048


def test_adams_step_counters_are_on_the_device_only_if_fused():
    parameters = [Parameter((10,))] * 3
    for implementation, expected in (("foreach", 240), ("fused", 252)):
        workload = Workload("mlp", 1, optimizer="adam", optimizer_implementation=implementation)
        assert sum(term.size_bytes for term in state_terms(workload, parameters, "cuda")) == expected


@given(SHAPES, st.booleans())
@settings(max_examples=200, deadline=None)
def test_8_bit_states_never_exceed_32_bit_ones(shape, embedding):
    parameter = Parameter(shape, 4, embedding)
    assert state_bytes("adam8bit", parameter) <= state_bytes("adam", parameter)


@given(SHAPES)
@settings(max_examples=200, deadline=None)
def test_factoring_never_keeps_more_than_twice_the_tensor_and_less_for_real_matrices(shape):
    factored, full = state_bytes("adafactor", Parameter(shape)), Parameter(shape).size_bytes
    assert factored <= 2 * full
    if len(shape) > 1 and min(shape[-2:]) >= 2:
        assert factored <= full


def test_every_optimizer_has_a_rule_and_changes_the_weights():
    torch.manual_seed(0)  # two clipped steps of Adafactor may undo each other on a single element
    for name in OPTIMIZERS:
        model = Odd()
        before = [p.detach().clone() for p in model.parameters()]
        real_state_bytes(Workload("mlp", 1, optimizer=name), model)
        changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
        assert all(changed), name


@pytest.mark.parametrize("optimizer", PLAIN_OPTIMIZERS)
def test_master_weights_follow_the_fp32_run_and_round_into_16_bits(optimizer):
    torch.manual_seed(0)
    half = torch.nn.Linear(33, 65).half()
    single = torch.nn.Linear(33, 65)
    single.load_state_dict({name: value.float() for name, value in half.state_dict().items()})
    gradients = [torch.randn_like(p) for p in half.parameters()]
    kept = make_optimizer(Workload("mlp", 1, optimizer=optimizer, precision="fp16_master"), half)
    plain = make_optimizer(Workload("mlp", 1, optimizer=optimizer), single)
    for _ in range(3):
        for a, b, gradient in zip(half.parameters(), single.parameters(), gradients, strict=True):
            a.grad, b.grad = gradient.clone(), gradient.float()
        kept.step()
        plain.step()
    for a, b in zip(half.parameters(), single.parameters(), strict=True):
        assert torch.equal(a, b.half())
        assert torch.equal(kept.state[a]["master"], b)
