"""The formula on models drawn at random, with frozen, unused, tied and adapted layers, against simulation.

What it says of a level is the level, and what it says of a peak is never more than the peak; both without
workspaces and rounding, of which it does not speak.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from profiler.formula.facts import count_on_gpu
from profiler.formula.per_phase import phase_terms
from profiler.gpu.cards import GPUS
from profiler.recording.simulated import SimulatedRecorder
from profiler.trace.events import Allocation, Free
from profiler.training import built_in
from profiler.training.step import train
from profiler.workload import PLAIN_OPTIMIZERS, Workload

A100 = GPUS["A100-40GB"]
CLASSES = 7
SCALARS_BYTES = 8  # of a micro-batch's loss, let go a moment before the formula's peak


@dataclass(frozen=True)
class Layer:
    """A linear layer and what follows it; `reuse` applies it once more, where its shape allows.

    `rank`: of a trained adapter beside it (LoRA), 0 for none.
    """

    width: int
    then: str
    frozen: bool
    reuse: bool
    rank: int = 0


LAYERS = st.lists(
    st.builds(
        Layer,
        width=st.sampled_from([16, 48, 130]),
        then=st.sampled_from(["nothing", "relu", "norm", "dropout"]),
        frozen=st.booleans(),
        reuse=st.booleans(),
        rank=st.sampled_from([0, 0, 4]),
    ),
    min_size=1,
    max_size=5,
)


class Drawn(torch.nn.Module):
    """The drawn layers, an unused one if `unused` says its features, and a head with a cross entropy."""

    def __init__(self, plan: list[Layer], unused: int) -> None:
        super().__init__()
        self.plan = plan
        widths = [32, *(layer.width for layer in plan)]
        self.linear = torch.nn.ModuleList(torch.nn.Linear(a, b) for a, b in pairwise(widths))
        self.adapter = torch.nn.ModuleList(
            self.beside(a, layer) for a, layer in zip(widths, plan, strict=False)
        )
        self.then = torch.nn.ModuleList(self.follower(layer) for layer in plan)
        for layer, linear in zip(plan, self.linear, strict=True):
            linear.requires_grad_(not layer.frozen)
        self.unused = torch.nn.Linear(unused, unused) if unused else None
        self.head = torch.nn.Linear(widths[-1], CLASSES)

    def beside(self, features: int, layer: Layer) -> torch.nn.Module:
        if not layer.rank:
            return torch.nn.Identity()
        down = torch.nn.Linear(features, layer.rank, bias=False)
        return torch.nn.Sequential(down, torch.nn.Linear(layer.rank, layer.width, bias=False))

    def follower(self, layer: Layer) -> torch.nn.Module:
        match layer.then:
            case "relu":
                return torch.nn.ReLU()
            case "norm":
                return torch.nn.LayerNorm(layer.width)
            case "dropout":
                return torch.nn.Dropout(0.1)
            case _:
                return torch.nn.Identity()

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        hidden = inputs
        parts = zip(self.plan, self.linear, self.adapter, self.then, strict=True)
        for layer, linear, adapter, then in parts:
            hidden = then(linear(hidden) + adapter(hidden) if layer.rank else linear(hidden))
            if layer.reuse and linear.in_features == linear.out_features:
                hidden = linear(hidden)
        return torch.nn.functional.cross_entropy(self.head(hidden), targets)


def batch(workload, plan, device):
    return {
        "inputs": torch.randn(workload.batch, 32, device=device),
        "targets": torch.randint(0, CLASSES, (workload.batch,), device=device),
    }


@given(
    plan=LAYERS,
    unused=st.sampled_from([0, 64]),
    size=st.integers(1, 40),
    optimizer=st.sampled_from(PLAIN_OPTIMIZERS),
    precision=st.sampled_from(["fp32", "amp_bf16", "bf16", "fp16_master"]),
    micro_batches=st.integers(1, 2),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_levels_are_exact_and_peaks_a_lower_bound(
    monkeypatch, plan, unused, size, optimizer, precision, micro_batches
):
    family = built_in.ModelFamily(lambda workload, _: Drawn(plan, unused), batch, "", "")
    monkeypatch.setitem(built_in.MODELS, "drawn", built_in.Model(family, {}, ""))
    workload = Workload("drawn", size, 0, optimizer, precision=precision, micro_batches=micro_batches)
    formula = phase_terms(workload, count_on_gpu(workload, A100), "cuda")
    recorder = SimulatedRecorder(A100, float_reads=0.0)
    with recorder:
        train(workload, recorder.device, recorder, initialize=False)
    for said, (end_bytes, peak_bytes) in zip(formula, requested(recorder.entries), strict=True):
        assert said.end_bytes == end_bytes, said.phase
        assert said.peak_bytes <= peak_bytes + SCALARS_BYTES, said.phase


def requested(entries) -> list[tuple[int, int]]:
    """For each phase the bytes asked for and not yet freed, workspaces aside: at its end, and the most."""
    phases, alive, now, most = [], {}, 0, 0
    for entry in entries:
        if isinstance(entry, Allocation):
            alive[entry.address] = 0 if entry.category == "workspaces" else entry.requested_bytes
            now += alive[entry.address]
            most = max(most, now)
        elif isinstance(entry, Free):
            now -= alive.pop(entry.address)
        else:
            phases.append((now, most))
            most = now
    return phases
