"""Both engines side by side: they agree for the installed torch, and a rule broken on purpose is noticed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from profiler.device import SIMULATED, Device
from profiler.gpu import kernels
from profiler.gpu.allocator import caching_allocator
from profiler.gpu.cards import find_gpu
from profiler.gpu.kernels import Scratch
from profiler.reference.archive import Archive, read_recording
from profiler.reference.engines import (
    NOT_MODELLED,
    Agreement,
    agreement,
    compare_engines,
    record_on_virtual_gpu,
)
from profiler.runs.provenance import provenance
from profiler.runs.rows import completed, simulation_rows
from tests.gpu.replay.test_wrong_rules import EXPANDABLE_RULES, PLAIN_RULES, WRONG_CONSTANTS
from tests.support.virtual_gpu import installed_torch, needed

RECORDED = Path(__file__).parents[2] / "results" / "virtual-nvidia-a100-sxm4-40gb"
PLAIN = (
    "gpt2-tiny, batch 16 × 256, adam",
    "gpt2, batch 2 × 64, adam",
    "gpt2, batch 4 × 256, adam, 3072 MiB allowed",
)
UNSEEN_IN_THE_RUN = ("maps whole segments", "compares mapped sizes")
EXPANDABLE = ("gpt2, batch 4 × 256, adam, expandable_segments:True",)


def test_the_rules_are_those_of_the_installed_torch(tmp_path: Path) -> None:
    """The quick runs and probes, recorded now on a virtual A100."""
    needed(installed_torch())
    recording = record_on_virtual_gpu(find_gpu("A100-40GB"), "quick", tmp_path / "virtual")
    found = compare_engines(recording, tmp_path / "traces")
    assert found.holds, (found.changes, found.otherwise)
    assert found.runs == len(recording.cases) >= 10
    assert found.probes >= 25
    with_convolutions = [c for c in recording.cases.values() if c.workload.model[:3] in ("res", "vit")]
    assert found.same_reserved >= found.runs - len(with_convolutions) - 1
    assert {change.operation for change in found.changes} <= set(NOT_MODELLED)


@pytest.fixture(scope="module")
def recorded() -> Archive:
    """The committed recording of a virtual A100, whose torch must be the installed one."""
    recording = read_recording(RECORDED)
    theirs, ours = recording.about["torch_version"], provenance(Device("cpu"))["torch_version"]
    if theirs.split("+")[0] != ours.split("+")[0]:
        pytest.skip(f"recorded with torch {theirs}, installed is {ours}")
    return recording


def simulated_here(recording: Archive, words: tuple[str, ...], traces: Path) -> Agreement:
    """The comparison, with simulations in this process, whose rules a test may have broken."""
    assert recording.gpu is not None
    device = Device(SIMULATED, recording.gpu)
    cases = {key: case for key, case in recording.cases.items() if str(case) in words}
    assert len(cases) == len(words)
    rows: list[dict[str, Any]] = []
    for key, case in cases.items():
        new = simulation_rows(case.workload, device, case.settings, traces / f"{key}.parquet")
        rows += completed(new, "reference", case.workload, "", {}, key, str(case))
    chosen = Archive(recording.folder, recording.about, recording.gpu, cases, recording.records)
    return agreement(chosen, pd.DataFrame(rows), traces, recording.probes())


def test_a_simulation_is_the_recording_to_the_byte(recorded: Archive, tmp_path: Path) -> None:
    found = simulated_here(recorded, PLAIN + EXPANDABLE, tmp_path)
    assert found.holds
    assert (found.runs, found.same_requests, found.same_allocated, found.same_reserved) == (3, 3, 3, 3)


def is_noticed(recording: Archive, words: tuple[str, ...], traces: Path) -> bool:
    """Whether one of these runs shows that a rule is wrong, the shortest first."""
    return any(not simulated_here(recording, (each,), traces).holds for each in words)


@pytest.mark.parametrize(
    ("rule", "wrong", "operation"),
    [
        ("cumsum", lambda *args, **kwargs: (), "to_dtype"),  # a mask, converted first
        ("embedding_dense_backward", lambda *args, **kwargs: (), "embedding_dense_backward"),
        (
            "efficient_attention_backward",
            lambda **kwargs: (Scratch("workspace", 512),),
            "_scaled_dot_product_efficient_attention_backward",
        ),
    ],
)
def test_a_wrong_rule_of_a_kernel_is_named(
    recorded: Archive,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rule: str,
    wrong: Callable[..., tuple[Scratch, ...]],
    operation: str,
) -> None:
    monkeypatch.setattr(kernels, rule, wrong)
    found = simulated_here(recorded, (PLAIN[0], "llama-tiny, batch 2 × 64, adam"), tmp_path)
    assert not found.holds
    assert operation in {change.operation for change in found.changes}


# No run of the reference returns segments and then goes on: that rule is for recorded traces to hold.
@pytest.mark.parametrize("name", [name for name in PLAIN_RULES if name != "keeps cached segments"])
def test_a_wrong_rule_of_the_allocator_is_noticed(recorded, tmp_path, monkeypatch, name) -> None:
    monkeypatch.setattr(*PLAIN_RULES[name])
    assert is_noticed(recorded, PLAIN, tmp_path)


# The one run with expandable segments comes out alike under two more: recorded traces hold those too.
@pytest.mark.parametrize(
    "name",
    [name for name in EXPANDABLE_RULES if name not in PLAIN_RULES and name not in UNSEEN_IN_THE_RUN],
)
def test_a_wrong_rule_for_expandable_segments_is_noticed(recorded, tmp_path, monkeypatch, name) -> None:
    monkeypatch.setattr(*EXPANDABLE_RULES[name])
    assert is_noticed(recorded, EXPANDABLE, tmp_path)


@pytest.mark.parametrize(("constant", "value"), WRONG_CONSTANTS)
def test_a_wrong_constant_of_the_allocator_is_noticed(
    recorded, tmp_path, monkeypatch, constant, value
) -> None:
    monkeypatch.setattr(caching_allocator, constant, value)
    assert is_noticed(recorded, PLAIN, tmp_path)
