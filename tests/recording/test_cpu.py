"""The CPU recorder against byte counts made by hand."""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from profiler.recording.cpu import CpuRecorder
from profiler.trace.phase import FORWARD, Phase
from profiler.training.step import TrainingState, train
from profiler.workload import Workload


def record(workload):
    with CpuRecorder() as recorder:
        train(workload, torch.device("cpu"), recorder)
    return [measurement.account for measurement in recorder.measurements()]


def test_mlp_with_adam_byte_by_byte():
    # Weights 64·256 + 256·256 + 256·10 and biases 256 + 256 + 10, six tensors.
    parameters = 4 * (64 * 256 + 256 * 256 + 256 * 10 + 256 + 256 + 10)
    inputs = 32 * 64 * 4 + 32 * 8
    activations = 32 * (256 + 256 + 10) * 4 + 4 + 4  # ReLU outputs, log-probabilities, weight, loss
    states = 2 * parameters + 6 * 4
    accounts = record(Workload("mlp-tiny", 32))
    assert [a.end_bytes for a in accounts] == [
        parameters,
        parameters + inputs + activations,
        2 * parameters + inputs + 4,
        2 * parameters + states + inputs + 4,
        parameters + states,
        parameters + states + inputs + activations,
        2 * parameters + states + inputs + 4,
        2 * parameters + states + inputs + 4,
        parameters + states,
    ]
    forward = accounts[1].end
    assert (forward["parameters"], forward["inputs"], forward["activations"]) == (
        parameters,
        inputs,
        activations,
    )
    assert accounts[-1].end["optimizer_states"] == states


def test_mlp_backward_peak_by_hand():
    # The last kernels of the backward pass make the first layer's gradients: by then all gradients exist,
    # the saved activations are gone, and what is left of the pass is the gradient of the first layer's
    # output, [32, 256]; the loss and its total weight are scalars of 4 bytes.
    parameters = 4 * (64 * 256 + 256 * 256 + 256 * 10 + 256 + 256 + 10)
    inputs = 32 * 64 * 4 + 32 * 8
    backward = record(Workload("mlp-tiny", 32))[2]
    assert backward.peak_bytes == 2 * parameters + inputs + 4 + 4 + 32 * 256 * 4


@pytest.mark.parametrize("model", ["resnet-tiny", "vit-tiny", "gpt2-tiny", "bert-tiny", "llama-tiny"])
def test_every_byte_of_every_model_has_an_owner(model):
    for account in record(Workload(model, 2, 32)):
        assert account.end["unattributed"] == 0
        assert sum(account.end.values()) == account.end_bytes
        assert sum(account.peak.values()) == account.peak_bytes


def _backward_peak(mode):
    """Peak of a backward pass whose gradient of `h` is the sum of three, under a dispatch mode or none."""
    with CpuRecorder() as recorder:
        state = TrainingState()
        x = torch.zeros(1000, requires_grad=True)
        with recorder.phase(Phase(1, FORWARD, 1), state):
            h = x.clone()
            y = (h.neg() + h.neg() + h.neg()).sum()
        with recorder.phase(Phase(1, "backward", 1), state), mode:
            y.backward()
    return recorder.measurements()[1].account


class Watch(TorchDispatchMode):
    """A mode that does nothing but be there."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def test_recording_leaves_gradient_accumulation_in_place():
    # Of two vectors of 4000 bytes to be added, in place needs both and out of place a third.
    plain = _backward_peak(contextlib.nullcontext())
    under_mode = _backward_peak(Watch())
    assert under_mode.peak_bytes - plain.peak_bytes == 4000


def test_a_phase_that_raises_is_still_measured():
    phase = Phase(1, FORWARD, 1)
    recorder = CpuRecorder()
    with contextlib.suppress(ValueError), recorder, recorder.phase(phase, TrainingState()):
        kept = torch.zeros(100)
        raise ValueError
    (measurement,) = recorder.measurements()
    assert measurement.account.end_bytes == kept.numel() * 4


def test_seconds_exclude_the_reading():
    with CpuRecorder() as recorder, recorder.phase(Phase(1, FORWARD, 1), TrainingState()):
        pass
    (measurement,) = recorder.measurements()
    assert 0 <= measurement.seconds < 0.1
    assert measurement.reading_seconds > 0
    assert measurement.device_used_bytes > 10 * 2**20  # a process with torch in it is larger
