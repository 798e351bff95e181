"""The experiment at a size that trains in seconds; shares and bytes against numbers worked out apart."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.numbers import master_weights
from experiments.numbers.byte_language_model import ByteLanguageModel, Windows, evaluate, prose
from experiments.numbers.fine_tuning import fine_tune
from experiments.numbers.master_weights import ARMS, Size


@pytest.fixture(scope="module")
def tables() -> Iterator[dict[str, pd.DataFrame]]:
    with pytest.MonkeyPatch.context() as patch:
        tiny = Size(seeds=2, pretraining_steps=150, steps=100, learning_rates=(1e-5, 1e-3))
        patch.setitem(master_weights.SIZES, "small", tiny)
        yield master_weights.tables("small", "cpu")


def test_at_a_small_learning_rate_only_master_weights_train(tables: dict[str, pd.DataFrame]) -> None:
    summary = tables["summary"].query("learning_rate == 1e-5").set_index("arm")
    assert summary.loc["fp16 + fp32 master", "gain"] == pytest.approx(summary.loc["fp32", "gain"], rel=0.05)
    for arm in ("fp16 only", "bf16 only"):
        assert summary.loc[arm, "gain"] < 0.5 * summary.loc["fp32", "gain"]
        assert summary.loc[arm, "gap"] > 3 * summary.loc[arm, "gap_spread"]
        assert summary.loc[arm, "lost_share"] > 0.8
    assert summary.loc["fp16 + fp32 master", "lost_share"] < 0.02


def test_at_a_large_learning_rate_fp16_weights_train_as_well(tables: dict[str, pd.DataFrame]) -> None:
    summary = tables["summary"].query("learning_rate == 1e-3").set_index("arm")
    assert summary.loc["fp16 only", "gain"] > 0.9 * summary.loc["fp32", "gain"]
    assert summary.loc["fp16 only", "lost_share"] < 0.3


@pytest.mark.parametrize(("name", "significand_bits"), [("fp16 only", 10), ("bf16 only", 7)])
def test_the_share_lost_in_one_step_follows_from_the_spacing_of_the_weights(
    name: str, significand_bits: int
) -> None:
    # Adam's first step moves every weight by the learning rate, whatever its gradient (if far above eps).
    # That is lost where it is under half the format's spacing at the weight: 2^(floor(log2 |w|) - bits - 1).
    learning_rate = 1.5e-5
    start = ByteLanguageModel(seed=3)
    arm = next(arm for arm in ARMS if arm.name == name)
    run = fine_tune(start, arm, prose(), learning_rate=learning_rate, steps=1, seed=0, device="cpu")
    # Of the embedding only the bytes of one batch are updated: leave its 6 % of the weights out here.
    weights = torch.cat(
        [p.detach().flatten() for n, p in start.named_parameters() if "embedding" not in n]
    ).numpy()
    half_spacing = 2.0 ** (np.floor(np.log2(np.abs(weights))) - significand_bits - 1)
    assert run.lost_share == pytest.approx((learning_rate < half_spacing).mean(), abs=0.03)


def test_master_weights_by_hand_are_what_autocast_does() -> None:
    # fp32 parameters, rounded inside the model, under torch's Adam and without a loss scale: the same run.
    start = ByteLanguageModel(seed=3)
    arm = next(arm for arm in ARMS if arm.keeps_master)
    text = prose()
    run = fine_tune(start, arm, text, learning_rate=1e-3, steps=50, seed=0, device="cpu")
    model = ByteLanguageModel(seed=3, compute_dtype=torch.float16)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    windows = Windows(text.training, seed=0, device="cpu")
    for _ in range(50):
        contexts, following = windows.draw(64)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(contexts).float(), following).backward()
        optimizer.step()
    loss, _ = evaluate(model, text.validation, "cpu")
    assert run.points[0]["loss"] > loss + 1
    assert run.points[-1]["loss"] == pytest.approx(loss, abs=0.01)


def test_bytes_per_parameter(tables: dict[str, pd.DataFrame]) -> None:
    memory = tables["memory"].set_index("arm")
    columns = ["weights", "gradients", "optimizer_states", "master_weights", "total"]
    assert list(memory.loc["fp32", columns]) == [4, 4, 8, 0, 16]
    assert list(memory.loc["fp16 + fp32 master", columns]) == [2, 2, 8, 4, 16]
    assert list(memory.loc["bf16 only", columns]) == [2, 2, 8, 0, 12]


def test_adam_in_fp16_throughout_divides_by_zero_at_once(tables: dict[str, pd.DataFrame]) -> None:
    # 0.001 g^2 is under 2^-25 for |g| < 0.0054, and eps = 1e-8 is zero in fp16: the first update is g / 0.
    # bf16 has the range for both.
    naive = tables["adam_in_16_bit"].set_index("dtype")
    assert naive.loc["float16", "first_bad_step"] == 1
    assert np.isnan(naive.loc["bfloat16", "first_bad_step"])
    assert list(naive["bytes_per_parameter"]) == [8, 8]


def test_ratios_shift_with_the_learning_rate(tables: dict[str, pd.DataFrame]) -> None:
    ratios = tables["ratios"]
    means = {}
    for rate, mine in ratios.groupby("learning_rate"):
        assert mine["share"].sum() == pytest.approx(1)
        means[rate] = (mine["log2_ratio"] * mine["share"]).sum()
    # A hundred times the learning rate is 6.6 powers of two; gradients and weights differ a little by then.
    assert means[1e-3] - means[1e-5] == pytest.approx(np.log2(100), abs=1.0)


def test_figures_redraw_from_stored_tables(tables: dict[str, pd.DataFrame]) -> None:
    stored = {name: pd.read_csv(io.StringIO(table.to_csv(index=False))) for name, table in tables.items()}
    drawn = master_weights.figures(stored)
    assert set(drawn) == {"curves", "learning_rates", "ratios", "memory"}
    assert "fp16 only" in " ".join(text.get_text() for text in drawn["curves"].axes[0].texts)
