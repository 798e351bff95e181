"""The suite as data: what it covers, and that each case has a key of its own and survives JSON."""

import json

import pytest

from profiler.reference.probe_operations import OPERATIONS
from profiler.reference.probes import probes
from profiler.reference.suite import EXPANDABLE_SEGMENTS, Case, cases
from profiler.workload import CHECKPOINTING, EIGHT_BIT_PLAIN, OPTIMIZERS, PRECISIONS, Workload


@pytest.mark.parametrize("size", ["small", "full"])
def test_every_axis_is_covered(size):
    found = cases(size)
    workloads = [case.workload for case in found]
    assert {w.optimizer for w in workloads} == set(OPTIMIZERS) - set(EIGHT_BIT_PLAIN)
    assert {w.precision for w in workloads} == set(PRECISIONS)
    assert {w.checkpointing for w in workloads} == set(CHECKPOINTING)
    assert {w.attention for w in workloads} == {"sdpa", "eager"}
    assert {w.optimizer_implementation for w in workloads} == {"default", "foreach", "fused", "forloop"}
    assert {case.attention_kernel for case in found} == {"", "math", "efficient", "flash", "cudnn"}
    assert {case.allocator_settings for case in found} == {"", EXPANDABLE_SEGMENTS}
    assert any(w.micro_batches > 1 for w in workloads)
    assert any(case.limit_bytes for case in found)


@pytest.mark.parametrize("model", ["gpt2-tiny", "gpt2", "resnet50", "bert-large"])
def test_sweeps_have_five_points(model):
    found = [case.workload for case in cases("full") if case.workload.model == model]
    most = max(found, key=lambda w: sum(w.length == v.length for v in found))
    assert len({w.batch for w in found if w.length == most.length}) >= 5
    assert len({w.length for w in found}) >= 5


def test_keys_are_unique_and_a_case_without_additions_has_its_workloads_key():
    found = cases("full")
    assert len({case.key for case in found}) == len(found)
    workload = Workload("mlp-tiny", 32)
    assert Case(workload).key == workload.key != Case(workload, EXPANDABLE_SEGMENTS).key


def test_a_case_survives_json():
    for case in cases("full"):
        assert Case.from_dict(json.loads(json.dumps(case.to_dict()))) == case


def test_the_small_suite_is_in_the_full_one():
    assert set(cases("small")) < set(cases("full"))


def test_each_operation_is_probed():
    assert {probe.operation for probe in probes("full")} == set(OPERATIONS)
    assert len(set(probes("full"))) == len(probes("full"))
