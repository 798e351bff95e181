"""A fresh process with a virtual GPU: nobody else has its card, and what was assumed is told."""

import os
from dataclasses import replace

import pytest
import torch

from profiler.errors import ProfilerError
from profiler.gpu.virtual.card_file import ENVIRONMENT_VARIABLE
from profiler.runs.processes import in_fresh_process
from profiler.runs.virtual_process import in_virtual_process
from profiler.units import MIB
from tests.support.virtual_gpu import installed_torch, needed, one


@pytest.fixture(autouse=True)
def _there_can_be_one():
    needed(installed_torch())


def _card():
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    return torch.cuda.get_device_name(), total_bytes - free_bytes


def _settings():
    torch.empty(1, device="cuda")
    return torch.cuda.memory._snapshot()["allocator_settings"]["expandable_segments"]


def _ask(size_bytes):
    try:
        torch.empty(size_bytes, dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError as error:
        return str(error)
    return ""


def _read_a_loss():
    weight = torch.ones(4096, 4096, device="cuda", requires_grad=True)
    loss = (weight @ weight).sum()
    loss.backward()
    return loss.item(), torch.arange(5, device="cuda").sum().item()


def _refuse():
    raise ProfilerError("mend this")


def _cuda_here():
    return torch.cuda.is_available(), os.environ.get("LD_PRELOAD", "")


def test_each_process_has_the_card_that_was_asked_for_it():
    cards = {
        name: in_virtual_process(_card, gpus=replace(one(name), context_bytes=400 * MIB), name="the test")
        for name in ("T4", "H100-80GB")
    }
    assert [answer.result for answer in cards.values()] == [
        ("Tesla T4", 400 * MIB),
        ("NVIDIA H100 80GB HBM3", 400 * MIB),
    ]


def test_the_allocator_s_settings_are_those_asked_for():
    for settings, expected in (("", False), ("expandable_segments:True", True)):
        found = in_virtual_process(
            _settings, gpus=one("T4"), name="the test", allocator_settings=settings
        ).result
        assert found is expected


def test_no_more_than_the_card_has_can_be_had():
    card = replace(one("T4"), context_bytes=0)
    room = card.gpu.memory_bytes // (2 * MIB) * (2 * MIB)
    ask = [
        in_virtual_process(_ask, size, gpus=card, name="the test").result for size in (room, room + 2 * MIB)
    ]
    assert ask[0] == ""
    assert "CUDA out of memory. Tried to allocate 14." in ask[1]


def test_integers_are_true_and_what_was_read_without_being_computed_is_told():
    answer = in_virtual_process(_read_a_loss, gpus=one("A100-40GB"), name="the test")
    loss, whole = answer.result
    assert whole == 0 + 1 + 2 + 3 + 4
    assert loss > 0
    (read,) = answer.reads.reads
    assert (read.operation, read.text.strip()[:18]) == ("item", "return loss.item()")


def test_an_error_of_ours_comes_back_as_it_is():
    with pytest.raises(ProfilerError, match=r"^mend this$"):
        in_virtual_process(_refuse, gpus=one("T4"), name="the test")


def test_nothing_of_it_is_left_here_or_in_other_processes():
    before = dict(os.environ)
    in_virtual_process(_card, gpus=one("T4"), name="the test")
    assert dict(os.environ) == before
    assert ENVIRONMENT_VARIABLE not in before
    assert in_fresh_process(_cuda_here, name="the test") == (
        torch.cuda.is_available(),
        before.get("LD_PRELOAD", ""),
    )
