import dataclasses
import json

import pytest

from profiler.errors import ProfilerError
from profiler.workload import Workload

pytestmark = pytest.mark.quick


def test_equal_workloads_share_a_key_and_any_difference_changes_it():
    base = Workload("gpt2", 4, 256)
    assert base.key == Workload(model="gpt2", batch=4, length=256, optimizer="adam").key
    others = [
        dataclasses.replace(base, **change)
        for change in (
            {"batch": 5},
            {"length": 128},
            {"optimizer": "sgd"},
            {"attention": "eager"},
            {"seed": 1},
            {"optimizer_implementation": "foreach"},
            {"precision": "bf16"},
            {"checkpointing": "sqrt"},
            {"layers": 3},
            {"memory_format": "channels_last"},
            {"settings": {"n_layer": 2}},
            {"settings": {"n_layer": 3}},
        )
    ]
    assert len({workload.key for workload in [base, *others]}) == 13


def test_key_ignores_fields_at_their_default_so_that_new_fields_keep_old_keys():
    # The digest of {"batch": 4, "length": 256, "model": "gpt2"}, computed with sha256sum.
    assert Workload("gpt2", 4, 256).key == "c0842818ac32"


def test_settings_make_another_workload_that_can_be_a_key_and_comes_back_from_plain_values():
    values = {"n_layer": 2, "rope": {"factor": 2.0}, "names": ["a", None], "bias": True}
    workload = Workload("GPT2Config", 4, 256, settings=values)
    assert workload.setting_values() == values
    assert Workload(**json.loads(json.dumps(workload.to_dict()))) == workload
    again = dataclasses.replace(workload, batch=8)
    assert again.setting_values() == values
    assert (
        len({workload, again, Workload("GPT2Config", 4, 256, settings=dict(reversed(values.items())))}) == 2
    )
    assert str(workload).startswith(
        'GPT2Config(bias=true, n_layer=2, names=["a", null], rope={"factor": 2.0})'
    )
    assert "settings" not in Workload("gpt2", 4, 256).to_dict()
    with pytest.raises(ProfilerError, match="settings must be plain values"):
        Workload("GPT2Config", 4, settings={"n_layer": object()})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"batch": 0}, "batch"),
        ({"micro_batches": 0}, "micro_batches"),
        ({"steps": 0}, "steps"),
        ({"length": -1}, "length"),
        ({"batch": 10**30}, "batch must be at most 10,000,000"),
        ({"length": 10**9}, "length must be at most"),
        ({"steps": 100_000}, "at most 1,000, not 100,000"),
        ({"steps": 2, "micro_batches": 501}, "micro_batches"),
        ({"optimizer": "adamm"}, "adamm"),
        ({"attention": "flash"}, "flash"),
        ({"layers": -1}, "layers"),
        ({"precision": "fp8"}, "fp8"),
        ({"checkpointing": "all"}, "all"),
        ({"memory_format": "nhwc"}, "nhwc"),
        ({"optimizer": "adamw8bit", "optimizer_implementation": "fused"}, "one implementation"),
        ({"optimizer": "adafactor", "optimizer_implementation": "fused"}, "foreach or forloop"),
        ({"optimizer": "adamw8bit", "precision": "fp16_master"}, "fp16_master"),
    ],
)
def test_impossible_values_are_refused_by_name(change, word):
    with pytest.raises(ProfilerError, match=word):
        dataclasses.replace(Workload("gpt2", 4, 256), **change)
