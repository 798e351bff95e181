"""Who is said to have allocated: modules and lines, forward and backward."""

import gc
import inspect
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint

from profiler import simulate
from profiler.gpu.cards import GPUS
from profiler.gpu.simulated.device import simulated_gpu
from profiler.recording.owners import Owned
from profiler.recording.places import Attribution
from profiler.recording.simulated import SimulatedRecorder
from profiler.trace.events import Allocation, Free
from profiler.trace.phase import Phase
from profiler.training.step import TrainingState, train
from profiler.workload import Workload
from tests.support.recorded.blocks import Ledger

A100 = GPUS["A100-40GB"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 128)
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, x):
        h = self.first(x)
        for block in self.blocks:
            h = h + block(h)
        return h.sum()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(128, 128)

    def forward(self, x):
        y = self.linear(x)
        return y.sigmoid()


class Checkpointed(Net):
    use_reentrant = False

    def forward(self, x):
        h = self.first(x)
        for block in self.blocks:
            h = checkpoint(block, h, use_reentrant=self.use_reentrant)
        return h.sum()


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x + x

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


def line_of(function, text):
    """The line of `function` that contains `text`, as the attribution says it."""
    lines, start = inspect.getsourcelines(function)
    (number,) = (start + i for i, line in enumerate(lines) if text in line)
    return f"{Path(__file__).name}:{number} {function.__name__}"


def record(run):
    """The allocations of `run(device)` as (op, module, line), hidden ones left out."""
    recorder = SimulatedRecorder(A100)
    with recorder:
        run(recorder.device)
    found = [e for e in recorder.entries if isinstance(e, Allocation)]
    named = [(e.op.removeprefix("aten::"), e.where.module, e.where.line.rpartition("/")[2]) for e in found]
    return [entry for entry in named if ":" not in entry[0]]


def test_forward_and_backward_name_the_module_and_its_line():
    def run(device):
        model = Net().to(device)
        x = torch.zeros(4, 64, device=device)
        model(x).backward()

    found = record(run)
    first = line_of(Net.forward, "self.first(x)")
    second = line_of(Block.forward, "self.linear(x)")
    sigmoid = line_of(Block.forward, "y.sigmoid()")
    assert [entry for entry in found if entry[0] in ("addmm", "sigmoid")] == [
        ("addmm", "first", first),
        ("addmm", "blocks.0.linear", second),
        ("sigmoid", "blocks.0", sigmoid),
        ("addmm", "blocks.1.linear", second),
        ("sigmoid", "blocks.1", sigmoid),
    ]
    # Gradient of the input and of the weight; the first layer's input needs none.
    assert [entry for entry in found if entry[0] in ("mm", "sigmoid_backward")] == [
        ("sigmoid_backward", "blocks.1", sigmoid),
        ("mm", "blocks.1.linear", second),
        ("mm", "blocks.1.linear", second),
        ("sigmoid_backward", "blocks.0", sigmoid),
        ("mm", "blocks.0.linear", second),
        ("mm", "blocks.0.linear", second),
        ("mm", "first", first),
    ]
    assert ("sum", "Net", line_of(Net.forward, "h.sum()")) in found


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_recomputed_forward_and_its_backward(use_reentrant):
    def run(device):
        model = Checkpointed().to(device)
        model.use_reentrant = use_reentrant
        model(torch.zeros(4, 64, device=device)).backward()

    found = record(run)
    linear, sigmoid = line_of(Block.forward, "self.linear(x)"), line_of(Block.forward, "y.sigmoid()")
    recomputed = [entry for entry in found if entry[0] == "addmm"][3:]
    assert recomputed == [("addmm", "blocks.1.linear", linear), ("addmm", "blocks.0.linear", linear)]
    backward = [entry for entry in found if entry[0] == "sigmoid_backward"]
    assert backward == [("sigmoid_backward", "blocks.1", sigmoid), ("sigmoid_backward", "blocks.0", sigmoid)]
    assert {entry[1] for entry in found if entry[0] == "mm"} == {
        "blocks.0.linear",
        "blocks.1.linear",
        "first",
    }


def test_a_backward_written_in_python_has_its_own_line():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(1000))

        def forward(self):
            return Doubled.apply(self.scale).sum()

    found = record(lambda device: Model().to(device)().backward())
    assert ("add", "Model", line_of(Doubled.forward, "x + x")) in found
    assert ("mul", "Model", line_of(Doubled.backward, "grad * 2")) in found


def test_parameters_and_states_belong_to_their_modules():
    recorder = SimulatedRecorder(A100)
    with recorder:
        state = TrainingState()
        with recorder.phase(Phase(0, "model_loaded"), state):
            model = Net().to(recorder.device)
            state.modules = (model,)
        with recorder.phase(Phase(1, "optimizer_step"), state):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            state.optimizers = (optimizer,)
            model(torch.zeros(4, 64, device=recorder.device)).backward()
            optimizer.step()
    sizes = [
        (e.where.module, e.requested_bytes)
        for e in recorder.entries
        if isinstance(e, Allocation) and e.op == "aten::empty_strided"
    ]
    weight_bytes, bias_bytes = 128 * 64 * 4, 128 * 4
    assert sizes[:2] == [("first", weight_bytes), ("first", bias_bytes)]
    # The parameter, and its momentum: a clone of the gradient.
    assert sizes.count(("first", weight_bytes)) == 2
    assert sizes.count(("blocks.1.linear", 128 * 128 * 4)) == 2


def test_attribution_changes_no_lifetime():
    ledger = Ledger()
    workload = Workload("gpt2-tiny", 2, 16)
    recorder = SimulatedRecorder(A100)
    with recorder:
        train(workload, recorder.device, recorder, initialize=False)
    sizes, live = [], {}
    for entry in recorder.entries:
        if isinstance(entry, Allocation):
            live[entry.address] = entry.requested_bytes
            sizes.append(entry.requested_bytes)
        elif isinstance(entry, Free):
            sizes.append(-live.pop(entry.address))

    class Silent:
        def phase(self, phase, state):
            return Collected()

    with simulated_gpu(A100, observer=ledger) as device:
        train(workload, device, Silent(), initialize=False)
    assert len(sizes) > 500
    assert sizes == ledger.events


class Collected:
    """The recorder collects at the end of each phase; without that, cycles die later."""

    def __enter__(self):
        pass

    def __exit__(self, *error):
        gc.collect()


def test_nothing_of_the_program_is_held():
    recorder = SimulatedRecorder(A100)
    with recorder:
        model = Net().to(recorder.device)
        loss = model(torch.zeros(4, 64, device=recorder.device))
        loss.backward()
        model_alive, graph_alive = weakref.ref(model), weakref.ref(loss)
        del model, loss
        gc.collect()
        assert model_alive() is None
        assert graph_alive() is None


def test_a_module_that_raises_does_not_stay_on_the_stack():
    class Failing(nn.Module):
        def forward(self, x):
            raise ValueError("no")

    def run(device):
        model = nn.Sequential(nn.Linear(8, 8), Failing()).to(device)
        with pytest.raises(ValueError, match="no"):
            model(torch.zeros(2, 8, device=device))
        torch.zeros(3, device=device)

    assert record(run)[-1][:2] == ("empty", "")


PARTS = """
from torch import nn, zeros

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 1)

def make_batch(batch, length, device):
    return zeros(batch, 8, device=device)

def compute_loss(model, batch):
    return model.head(model.encoder(batch)).sum()
"""


def test_a_models_parts_have_their_paths_in_it_where_the_loss_calls_them_one_by_one(tmp_path):
    (tmp_path / "parts.py").write_text(PARTS)
    simulation = simulate(
        Workload(f"{tmp_path / 'parts.py'}:Net", 4, optimizer="sgd"), A100, engine="simulated"
    )
    places = {entry.where for entry in simulation.entries if isinstance(entry, Allocation) and entry.where}
    assert {"encoder.0", "encoder.1", "head"} <= {place.module for place in places}
    assert "0" not in {place.module for place in places}
    assert any(place.line == "parts.py:13 compute_loss" for place in places)


def test_a_module_is_compiled_in_one_graph_while_it_is_watched():
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with Attribution():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert compiled(torch.ones(3, 4)).shape == (3, 4)


def test_the_tensors_inside_a_wrapper_are_its_parameter():
    parts = torch.zeros(4, 4), torch.zeros(4, 4)
    module = nn.Module()
    module.inner = nn.Module()
    module.inner.weight = nn.Parameter(TwoTensor(*parts))
    addresses = {part.untyped_storage().data_ptr() for part in parts}
    state, device = TrainingState((module,)), torch.device("cpu")
    assert Owned(state, device).labels == dict.fromkeys(addresses, "parameters")
    assert Owned(state, device).modules == dict.fromkeys(addresses, "inner")
