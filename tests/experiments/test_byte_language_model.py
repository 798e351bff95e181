"""The shared network and data: arithmetic against plain torch, and what training starts from."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from experiments.numbers import byte_language_model
from experiments.numbers.byte_language_model import (
    ByteLanguageModel,
    Windows,
    evaluate,
    loss_of,
    prose,
    source_code,
)


def test_in_fp32_the_model_is_plain_torch() -> None:
    model = ByteLanguageModel(seed=1)
    contexts, _ = Windows(prose().training, seed=0, device="cpu").draw(5)
    plain = model.output(torch.tanh(model.hidden(model.embedding(contexts).flatten(1))))
    assert torch.allclose(model(contexts), plain, atol=1e-6)


def test_in_fp16_every_gradient_is_an_fp16_number() -> None:
    model = ByteLanguageModel(seed=1, compute_dtype=torch.float16)
    contexts, following = Windows(prose().training, seed=0, device="cpu").draw(64)
    loss_of(model(contexts), following).backward()
    for weight in model.parameters():
        assert weight.dtype == torch.float32
        assert weight.grad is not None
        assert torch.equal(weight.grad, weight.grad.half().float())
        # fp16 holds whole multiples of its smallest subnormal, 2^-24.
        assert torch.equal((weight.grad * 2.0**24).frac(), torch.zeros_like(weight.grad))


def test_an_untrained_model_guesses_evenly() -> None:
    loss, accuracy = evaluate(ByteLanguageModel(seed=0), source_code().validation, "cpu")
    assert loss == pytest.approx(math.log(256), abs=0.2)
    assert accuracy < 0.1


def test_windows_are_consecutive_bytes_of_the_text_and_follow_the_seed() -> None:
    text = torch.arange(256, dtype=torch.uint8)
    contexts, following = Windows(text, seed=7, device="cpu").draw(100)
    assert torch.equal(contexts, contexts[:, :1] + torch.arange(12))
    assert torch.equal(following, contexts[:, -1] + 1)
    again, _ = Windows(text, seed=7, device="cpu").draw(100)
    other, _ = Windows(text, seed=8, device="cpu").draw(100)
    assert torch.equal(contexts, again)
    assert not torch.equal(contexts, other)


def test_the_text_is_python_source_and_english() -> None:
    code, text = source_code(), prose()
    assert len(code.training) > 2_000_000
    assert len(text.training) > 200_000
    assert b"def __init__(self" in bytes(code.training.tolist())
    assert b"The following" in bytes(text.training.tolist())


def test_an_interpreter_without_sources_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_language_model.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match=r"ships its \.py files"):
        source_code()


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = ByteLanguageModel(seed=1), ByteLanguageModel(seed=1)
    assert torch.equal(torch.rand(3), expected)
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(F.mse_loss(one, two) == 0 for one, two in pairs)
