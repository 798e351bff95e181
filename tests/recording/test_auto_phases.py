"""A training loop that names no phase, on the CPU."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from profiler.recording.auto_phases import auto_phases


class Recorder:
    """Notes each phase, and how many tensors of each kind the state shows at its end."""

    def __init__(self):
        self.phases = []
        self.held = []

    @contextmanager
    def phase(self, phase, state):
        self.phases.append(str(phase))
        yield
        parameters = list(state.model.parameters())
        self.held.append(
            (
                len(parameters),
                sum(p.grad is not None for p in parameters),
                len(state.optimizer.state),
                sorted(tuple(t.shape) for t in state.batch.values()),
            )
        )


def train(loop):
    recorder = Recorder()
    with auto_phases(recorder):
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        loop(model, torch.optim.Adam(model.parameters()))
    return recorder


def plain(model, optimizer):
    for _ in range(2):
        model(torch.ones(3, 4)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


STEPS = [
    f"step {step} {name}"
    for step in (1, 2)
    for name in ("forward", "backward", "optimizer_step", "zero_grad")
]


def test_a_plain_loop():
    assert train(plain).phases == ["model_loaded", *STEPS]


def test_zero_grad_where_a_loop_begins():
    def loop(model, optimizer):
        for _ in range(2):
            optimizer.zero_grad()
            torch.autograd.backward(model(torch.ones(3, 4)).sum())
            optimizer.step()

    assert train(loop).phases == ["model_loaded", *STEPS[:4], *STEPS[4:7]]


def test_zero_grad_between_forward_and_backward_is_no_phase():
    def loop(model, optimizer):
        loss = model(torch.ones(3, 4)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert train(loop).phases == ["model_loaded", *STEPS[:3]]


def test_micro_batches_and_evaluation():
    def loop(model, optimizer):
        for _ in range(2):
            model(torch.ones(3, 4)).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model(torch.ones(3, 4))
            model(torch.ones(3, 4))

    assert train(loop).phases == [
        "model_loaded",
        "step 1 forward",
        "step 1 backward",
        "step 1 forward (micro-batch 2)",
        "step 1 backward (micro-batch 2)",
        "step 1 optimizer_step",
        "step 2 forward",
    ]


def test_the_state_at_the_end_of_each_phase():
    def loop(model, optimizer):
        inputs = torch.ones(3, 4)
        model(input=inputs).sum().backward()
        optimizer.step()
        del inputs
        optimizer.zero_grad()

    recorder = train(loop)
    assert recorder.held == [
        (4, 0, 0, []),  # it ends when the model is called
        (4, 0, 0, [(3, 4)]),
        (4, 4, 0, [(3, 4)]),
        (4, 4, 4, [(3, 4)]),
        (4, 0, 4, []),
    ]


def test_a_model_within_a_model_is_one_forward_and_each_parameter_counts_once():
    def loop(model, optimizer):
        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = model

            def forward(self, x):
                return self.inner(x).sum() + self.inner(x).sum()

        twice = Twice()
        twice(torch.ones(3, 4)).backward()

    recorder = train(loop)
    assert recorder.phases == ["model_loaded", "step 1 forward", "step 1 backward"]
    assert recorder.held[-1][:2] == (4, 4)


def test_everything_is_put_back_when_the_loop_fails():
    before = (nn.Module.__call__, torch.autograd.backward, torch.optim.Optimizer.zero_grad)

    def loop(model, optimizer):
        model(torch.ones(3, 5))

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        train(loop)
    assert (nn.Module.__call__, torch.autograd.backward, torch.optim.Optimizer.zero_grad) == before
    seen = Recorder()
    plain(model := nn.Linear(4, 2), torch.optim.SGD(model.parameters()))
    assert seen.phases == []
