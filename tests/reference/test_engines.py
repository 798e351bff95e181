"""Both engines side by side: they agree for the installed torch, and a rule broken on purpose is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiler.device import SIMULATED, Device
from profiler.gpu import kernels
from profiler.gpu.allocator import caching_allocator
from profiler.gpu.cards import find_gpu
from profiler.gpu.kernels import Scratch
from profiler.reference.archive import Archive
from profiler.reference.engines import Agreement, agreement, compare_engines, record_on_virtual_gpu
from profiler.reference.probes import COLUMNS, Probe, requests_of_probes
from profiler.reference.suite import Case
from profiler.runs.rows import completed, simulation_rows
from tests.gpu.replay.test_wrong_rules import EXPANDABLE_RULES, MIB, PLAIN_RULES
from tests.support.virtual_gpu import installed_torch, needed


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """The quick runs and probes on a virtual A100, with the installed torch."""
    needed(installed_torch())
    return record_on_virtual_gpu(find_gpu("A100-40GB"), "quick", tmp_path_factory.mktemp("virtual"))


def test_the_rules_are_those_of_the_installed_torch(recording: Archive, tmp_path: Path) -> None:
    found = compare_engines(recording, tmp_path)
    assert found.holds, (found.changes, found.otherwise)
    assert found.runs == len(recording.cases) >= 10
    assert found.probes >= 25
    convolutional = [case for case in recording.cases.values() if case.workload.model[:3] in ("res", "vit")]
    assert found.same_allocated >= found.runs - len(convolutional)
    assert {change.operation for change in found.changes} <= {"cudnn_convolution", "convolution_backward", "convolution"}


def simulated_here(recording: Archive, cases: dict[str, Case], traces: Path, probes: list[Probe]) -> Agreement:
    """The comparison, with simulations in this process, whose rules a test may have broken."""
    import pandas as pd

    assert recording.gpu is not None
    device, rows = Device(SIMULATED, recording.gpu), []
    for key, case in cases.items():
        new = simulation_rows(case.workload, device, case.settings, traces / f"{key}.parquet")
        rows += completed(new, "reference", case.workload, "", {}, key, str(case))
    chosen = Archive(recording.folder, recording.about, recording.gpu, cases, recording.records)
    asked = pd.DataFrame(requests_of_probes(probes, device), columns=list(COLUMNS))
    return agreement(chosen, pd.DataFrame(rows), traces, asked)


LONGER = ("gpt2-tiny, batch 16",)


def cases_with(recording: Archive, *words: str) -> dict[str, Case]:
    found = {key: case for key, case in recording.cases.items() if any(word in str(case) for word in words)}
    assert found
    return found


@pytest.mark.parametrize(
    ("rule", "wrong", "operation"),
    [
        ("cumsum", lambda *args, **kwargs: (), "cumsum"),
        ("efficient_attention_backward", lambda **kwargs: (Scratch("workspace", 512),), "_efficient_attention_backward"),
        ("embedding_dense_backward", lambda *args, **kwargs: (), "embedding_dense_backward"),
        ("cublas_workspace", lambda *args, **kwargs: (), "mm"),
    ],
)
def test_a_wrong_kernel_is_named(recording, tmp_path, monkeypatch, rule, wrong, operation):
    monkeypatch.setattr(kernels, rule, wrong)
    words = ("gpt2-tiny, batch 16", "llama-tiny, batch 2 × 64, adam, bf16, efficient")
    found = simulated_here(recording, cases_with(recording, *words), tmp_path, [])
    assert not found.holds
    assert operation in {change.operation for change in found.changes}


CONSTANTS = [
    ("SMALL_SIZE_BYTES", MIB // 2),
    ("SMALL_SIZE_BYTES", 2 * MIB),
    ("SMALL_SEGMENT_BYTES", 4 * MIB),
    ("MIN_LARGE_ALLOCATION_BYTES", 8 * MIB),
    ("MIN_LARGE_ALLOCATION_BYTES", 14 * MIB),
    ("ROUND_LARGE_BYTES", 1 * MIB),
    ("ROUND_LARGE_BYTES", 4 * MIB),
]
