"""The ranking of techniques on workloads whose peak is known to lie in one phase."""

import pytest

from profiler.advice.savings import savings
from profiler.advice.techniques import applicable
from profiler.cli import main
from profiler.gpu.cards import GPUS
from profiler.workload import Workload

A100 = GPUS["A100-40GB"]


@pytest.fixture(scope="module")
def with_few_tokens():
    """The peak before, and what each technique and pair saves."""
    return savings(Workload("mlp-tiny", 2), A100)


def names(saving):
    return {technique.name for technique in saving.techniques}


def test_with_few_tokens_only_the_optimizer_side_counts(with_few_tokens):
    before, found = with_few_tokens
    assert before.phase.name == "optimizer_step"
    by_name = {next(iter(names(s))): s for s in found if len(s.techniques) == 1}
    # Foreach's denominators, a copy of the 64·256 + 256 + 256² + 256 + 256·10 + 10 weights; fused puts the
    # six step counters on the device.
    assert by_name["fused optimizer"].saved_allocated_bytes == 4 * 85_002 - 4 * 6
    assert by_name["checkpoint every layer"].saved_allocated_bytes == 0
    assert (
        by_name["everything in bfloat16"].saved_allocated_bytes
        > by_name["autocast to bfloat16"].saved_allocated_bytes
    )


def test_with_many_tokens_accumulation_counts_and_the_optimizer_hardly():
    before, found = savings(Workload("gpt2-tiny", 8, 128), A100)
    assert before.phase.name == "backward"
    by_name = {next(iter(names(s))): s for s in found if len(s.techniques) == 1}
    assert by_name["half the micro-batch, twice as many"].saved_allocated_bytes > before.peak_bytes / 3
    assert by_name["8-bit AdamW as in transformers' Trainer"].saved_allocated_bytes < before.peak_bytes / 20
    assert "half the micro-batch, twice as many" in names(found[0])


def test_pairs_change_different_fields_and_are_ranked(with_few_tokens):
    _, found = with_few_tokens
    assert [s.saved_allocated_bytes for s in found] == sorted(
        (s.saved_allocated_bytes for s in found), reverse=True
    )
    for saving in found:
        names_of = [technique.name for technique in saving.techniques]
        assert len(names_of) == len(set(names_of))
        assert sum("8-bit" in name or name in ("Adafactor", "fused optimizer") for name in names_of) < 2


def test_sgd_is_offered_no_other_optimizer_and_one_sample_no_accumulation():
    offered = {technique.name for technique, _ in applicable(Workload("mlp-tiny", 1, optimizer="sgd"))}
    assert offered.isdisjoint({"Adafactor", "half the micro-batch, twice as many"})
    assert not any("8-bit" in name for name in offered)


def test_the_verb_shows_formula_and_simulation_side_by_side(capsys):
    assert main(["techniques", "mlp-tiny", "--batch", "32768", "--optimizer", "sgd", "--pairs", "1"]) == 0
    output = capsys.readouterr().out
    singles, pairs = output.split("Two at once, the best 1")
    (halved,) = [line for line in singles.splitlines() if "half the micro-batch" in line]
    formula, run = (float(word.strip("%")) for word in halved.split("%")[:2])
    # Half of all but weights and gradients, 2 × 4 × 85,002 bytes of 76 MiB; the run has workspaces too.
    assert -50 < formula < -48
    assert formula < run < -40
    assert pairs.count("+") == 1


def test_a_model_of_ones_own_is_ranked_too_without_what_it_cannot_take(tmp_path, monkeypatch, capsys):
    (tmp_path / "train.py").write_text(
        "from torch import nn\n"
        "def make_model():\n"
        "    return nn.Sequential(nn.Linear(64, 256), nn.Linear(256, 8))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["techniques", "train.py:make_model", "--batch", "8", "--pairs", "0"]) == 0
    output = capsys.readouterr().out
    assert "Adafactor" in output
    assert "checkpoint" not in output  # it has no list of equal layers


def test_a_sequence_too_long_is_one_line(capsys):
    assert main(["techniques", "gpt2-tiny", "--batch", "1", "--length", "2000"]) == 1
    assert capsys.readouterr().err == "profiler: gpt2-tiny reads at most 1024 tokens, not --length 2000\n"
