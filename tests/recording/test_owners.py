"""Tensors without a storage of their own: a lazy module's parameter, and a sparse gradient."""

import torch
from torch import nn

from profiler.recording.owners import Owned
from profiler.training.step import TrainingState

CPU = torch.device("cpu")


def test_a_lazy_parameter_owns_nothing_yet():
    lazy, plain = nn.LazyLinear(4, bias=False), nn.Linear(2, 2, bias=False)
    state = TrainingState((lazy, plain))
    address = plain.weight.untyped_storage().data_ptr()
    assert Owned(state, CPU).labels == {address: "parameters"}
    assert Owned(state, CPU).modules == {address: "weight"}


def test_a_sparse_gradient_is_its_values_and_indices():
    table = nn.Embedding(10, 4, sparse=True)
    table(torch.tensor([1, 2])).sum().backward()
    parts = {
        part.untyped_storage().data_ptr()
        for part in (table.weight.grad._values(), table.weight.grad._indices())
    }
    found = Owned(TrainingState((table,)), CPU).labels
    assert {address for address, category in found.items() if category == "gradients"} == parts
