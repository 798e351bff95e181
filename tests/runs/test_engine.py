"""Which engine stands for a GPU that is not there, and what is said of the choice."""

import pytest

from profiler.cli import main
from profiler.device import SIMULATED, VIRTUAL
from profiler.errors import ProfilerError
from profiler.gpu.cards import find_gpu
from profiler.runs import engine

T4 = find_gpu("T4")
WHY = "torch 2.14.1+cpu is no CUDA build; the simulated GPU is used instead"


@pytest.fixture
def no_cuda_build(monkeypatch):
    def refuse():
        raise ProfilerError(WHY)

    monkeypatch.setattr(engine, "virtual_server", refuse)
    engine.why_not_virtual.cache_clear()
    yield
    engine.why_not_virtual.cache_clear()


@pytest.fixture
def cuda_build(monkeypatch):
    monkeypatch.setattr(engine, "virtual_server", lambda: None)
    engine.why_not_virtual.cache_clear()
    yield
    engine.why_not_virtual.cache_clear()


def test_virtual_where_it_can_be_had_unless_the_other_is_asked_for(cuda_build):
    assert engine.device_for(T4).kind == VIRTUAL
    assert engine.device_for(T4, SIMULATED).kind == SIMULATED


def test_simulated_where_it_cannot_and_asking_for_it_is_one_line(no_cuda_build, capsys):
    assert engine.device_for(T4).kind == SIMULATED
    with pytest.raises(ProfilerError, match="no CUDA build"):
        engine.device_for(T4, VIRTUAL)
    assert main(["predict", "mlp-tiny", "--gpu", "T4", "--engine", "virtual"]) == 1
    assert capsys.readouterr().err == f"profiler: {WHY}\n"


def test_it_is_said_why_a_gpu_is_simulated_but_not_to_who_has_asked_for_that(no_cuda_build, capsys):
    assert main(["predict", "mlp-tiny", "--gpu", "T4"]) == 0
    shown = capsys.readouterr().out
    assert "on a simulated T4" in shown
    assert WHY in shown
    assert main(["predict", "mlp-tiny", "--gpu", "T4", "--engine", "simulated"]) == 0
    assert WHY not in capsys.readouterr().out


def test_an_engine_that_there_is_not():
    with pytest.raises(ProfilerError, match="unknown engine 'real'; known: virtual, simulated"):
        engine.device_for(T4, "real")


@pytest.mark.parametrize("asked", [None, SIMULATED, VIRTUAL])
def test_an_older_torch_is_one_line_with_the_way_out(monkeypatch, capsys, asked):
    monkeypatch.setattr(engine.metadata, "version", lambda name: "2.6.0+cu124")
    words = ["--engine", asked] if asked else []
    assert main(["predict", "mlp-tiny", "--batch", "1", *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("profiler: torch 2.6.0+cu124 is older than 2.11, which this needs: ")
    assert "profiler on GPU -- python train.py" in error
    assert error.count("\n") == 1
