import contextlib

import pytest
import torch

from profiler.errors import ProfilerError
from profiler.trace.phase import phases
from profiler.training.built_in import MODELS
from profiler.training.models import build_model, make_batch
from profiler.training.step import train
from profiler.workload import Workload


class Listener:
    """Notes the phases, and the gradients as they are when the optimizer is about to step."""

    def __init__(self):
        self.phases, self.gradients = [], []

    @contextlib.contextmanager
    def phase(self, phase, state):
        self.phases.append(phase)
        if phase.name == "optimizer_step":
            self.gradients.append([p.grad.clone() for _, p in state.named_parameters()])
        yield


def listen(workload):
    listener = Listener()
    train(workload, torch.device("cpu"), listener)
    return listener


def test_two_steps_have_nine_phases_in_order():
    assert [str(phase) for phase in phases(Workload("mlp-tiny", 4))] == [
        "model_loaded",
        "step 1 forward",
        "step 1 backward",
        "step 1 optimizer_step",
        "step 1 zero_grad",
        "step 2 forward",
        "step 2 backward",
        "step 2 optimizer_step",
        "step 2 zero_grad",
    ]


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_train_goes_through_the_phases_it_announces(micro_batches):
    workload = Workload("mlp-tiny", 4, micro_batches=micro_batches)
    assert listen(workload).phases == phases(workload)


def test_the_seed_decides_the_run():
    first, same, other = (listen(Workload("mlp-tiny", 4, seed=seed)).gradients[1] for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not torch.equal(first[0], other[0])


def test_micro_batches_average_their_gradients():
    workload = Workload("mlp-tiny", 4, micro_batches=2)
    torch.manual_seed(workload.seed)
    model = build_model(workload)
    gradients = []
    for _ in range(2):
        batch = make_batch(workload, torch.device("cpu"))
        gradients.append(torch.autograd.grad(model(**batch), list(model.parameters())))
    expected = [(a + b) / 2 for a, b in zip(*gradients, strict=True)]
    for actual, wanted in zip(listen(workload).gradients[0], expected, strict=True):
        torch.testing.assert_close(actual, wanted)


def test_layouts_have_the_same_numbers_in_another_order():
    plain, last = (
        make_batch(Workload("resnet-tiny", 2, 32, memory_format=layout), torch.device("cpu"))["pixel_values"]
        for layout in ("contiguous_format", "channels_last")
    )
    assert plain.stride() == (3 * 32 * 32, 32 * 32, 32, 1)
    assert last.stride() == (3 * 32 * 32, 1, 3 * 32, 3)
    model = build_model(Workload("resnet-tiny", 2, 32, memory_format="channels_last"))
    weights = [parameter for parameter in model.parameters() if parameter.dim() == 4]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_a_layout_of_images_is_refused_for_text():
    with pytest.raises(ProfilerError, match="layout of images"):
        build_model(Workload("gpt2-tiny", 2, 32, memory_format="channels_last"))


@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith("-tiny")])
def test_every_tiny_model_trains(name):
    gradients = listen(Workload(name, 2, 32)).gradients[1]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)
