"""Closed forms held against the paper's own numbers, hand counts, and the autograd graph."""

import pytest

from profiler.formula.closed_form import bert_activation_bytes, transformer_layer_activation_bytes
from profiler.formula.facts import count
from profiler.workload import Workload
from tests.support.closed_forms import bert_checkpointed_activation_bytes, mlp_activation_bytes


def test_korthikanti_formula_in_16_bit():
    # s·b·h·(34 + 5·a·s/h) with GPT-3's s = 2048, b = 1, h = 12288, a = 96: 34 + 5·96·2048/12288 = 114.
    assert transformer_layer_activation_bytes(1, 2048, 12288, 96) == 2048 * 12288 * 114


def test_fused_attention_has_no_term_in_the_square_of_the_length():
    def fused(length):
        return transformer_layer_activation_bytes(2, length, 64, 4, fused_attention=True)

    assert fused(256) == 4 * fused(64)


def test_mlp_by_hand():
    # Two hidden layers of 256 and 10 classes, 32 samples: 32 × (256 + 256 + 10) × 4 + one scalar.
    assert mlp_activation_bytes(32, [64, 256, 256, 10]) == 66_820


@pytest.mark.parametrize("batch", [1, 7, 32])
def test_mlp_closed_form_is_what_the_graph_saves(batch):
    facts = count(Workload("mlp-tiny", batch))
    assert facts.saved_bytes == mlp_activation_bytes(batch, [64, 256, 256, 10])


@pytest.mark.parametrize(("batch", "length"), [(2, 64), (3, 128), (1, 32), (5, 512)])
def test_bert_closed_form_is_what_the_graph_saves(batch, length):
    facts = count(Workload("bert-tiny", batch, length, attention="eager"))
    assert facts.saved_bytes == bert_activation_bytes(batch, length, 64, 4, 2, 1000)


def test_bert_large_closed_form_is_what_the_graph_saves():
    facts = count(Workload("bert-large", 2, 128, attention="eager"))
    assert facts.saved_bytes == bert_activation_bytes(2, 128, 1024, 16, 24, 30522)


@pytest.mark.parametrize(
    ("layers", "checkpointing", "segments"), [(5, "every_layer", 5), (9, "sqrt", 3), (7, "sqrt", 3)]
)
def test_checkpointed_bert_closed_form_is_what_the_checkpoints_keep(layers, checkpointing, segments):
    facts = count(Workload("bert-tiny", 3, 64, attention="eager", checkpointing=checkpointing, layers=layers))
    assert facts.saved_bytes == bert_checkpointed_activation_bytes(3, 64, 64, layers, 1000, segments)
