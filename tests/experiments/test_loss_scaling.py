"""Flushing, overflow, back-off and clipping against numbers worked out by hand."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.numbers import loss_scaling
from experiments.numbers.loss_scaling import Size, clipped_step


@pytest.fixture(scope="module")
def tables() -> Iterator[dict[str, pd.DataFrame]]:
    with pytest.MonkeyPatch.context() as patch:
        tiny = Size(pretraining_steps=150, batch=512, training_steps=40, seeds=1, scaler_steps=70)
        patch.setitem(loss_scaling.SIZES, "small", tiny)
        yield loss_scaling.tables("small", "cpu")


@pytest.mark.parametrize("power", [-3, 0, 3])
def test_what_fp16_loses_is_what_lies_below_its_smallest_number(
    tables: dict[str, pd.DataFrame], power: int
) -> None:
    # Half the smallest subnormal is 2^-25: a gradient below 2^(-25 - power) is zero even after scaling.
    # Counted here on fp32 gradients; measured on a step in fp16.
    histogram = tables["histogram"].query("kind == 'activations'")
    below = histogram[histogram["log2_magnitude"] < -25 - power]["count"].sum() / histogram["count"].sum()
    measured = tables["scales"].query(f"kind == 'activations' and scale_log2 == {power}")["zero_share"].item()
    assert below > 0.01
    assert measured == pytest.approx(below, abs=0.02)


def test_both_edges_are_inside_the_sweep(tables: dict[str, pd.DataFrame]) -> None:
    for _, mine in tables["scales"].groupby("kind"):
        ordered = mine.sort_values("scale_log2")
        assert ordered["zero_share"].iloc[0] == 1
        assert ordered["zero_share"].iloc[-1] == 0
        assert (ordered["zero_share"].diff().dropna() <= 0).all()
        assert ordered["overflow_share"].iloc[0] == 0
        assert ordered["overflow_share"].iloc[-1] > 0.1


def test_training_works_inside_the_window_only(tables: dict[str, pd.DataFrame]) -> None:
    training = tables["training"]
    fp32 = training[training["scale_log2"].isna()]["final_loss"].item()
    fp16 = training.dropna(subset="scale_log2").set_index("scale_log2")["final_loss"]
    assert fp16[12] == pytest.approx(fp32, rel=0.01)
    assert fp16[-15] > fp32 + 1
    assert np.isnan(fp16[30])


def test_a_scale_started_too_low_doubles_every_20_steps(tables: dict[str, pd.DataFrame]) -> None:
    low = tables["scaler"].query("start == 'too low'")
    assert list(low["scale"]) == [16.0] * 20 + [32.0] * 20 + [64.0] * 20 + [128.0] * 10
    assert not low["skipped"].any()


def test_a_scale_started_too_high_halves_and_skips_until_it_fits(tables: dict[str, pd.DataFrame]) -> None:
    high = tables["scaler"].query("start == 'too high'").reset_index()
    bad = int((~high["skipped"]).argmax())  # steps before the first good one
    assert bad >= 8
    assert list(high["scale"][: bad + 1]) == [2.0 ** (32 - step) for step in range(bad + 1)]
    # Skipped steps leave the weights as they were.
    assert high["loss"][:bad].std() < 0.1


@pytest.mark.parametrize("start", ["too low", "too high"])
def test_the_whole_trajectory_follows_the_two_rules(tables: dict[str, pd.DataFrame], start: str) -> None:
    mine = tables["scaler"].query("start == @start")
    scale, good = float(mine["scale"].iloc[0]), 0
    for used, skipped in zip(mine["scale"], mine["skipped"], strict=True):
        assert used == scale
        good = 0 if skipped else good + 1
        if skipped:
            scale /= 2
        elif good == 20:
            scale, good = scale * 2, 0


class _Line(torch.nn.Module):
    """A loss whose gradient is the given slope at every place."""

    def __init__(self, slope: tuple[float, ...]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(len(slope)))
        self.slope = torch.tensor(slope)

    def forward(self) -> torch.Tensor:
        return (self.weight * self.slope).sum()


@pytest.mark.parametrize(
    ("slope", "unscale_first", "norm_applied"),
    [
        ((3.0, 4.0), True, 1.0),  # norm 5, clipped to 1
        ((3.0, 4.0), False, 1 / 8),  # norm 40, clipped to 1, divided by 8
        ((0.3, 0.4), True, 0.5),  # norm 0.5, left alone
        ((0.3, 0.4), False, 1 / 8),  # norm 4, clipped to 1 although 0.5 is under the threshold
    ],
)
def test_clipping_before_unscaling_divides_the_threshold_by_the_scale(
    slope: tuple[float, ...], unscale_first: bool, norm_applied: float
) -> None:
    model = _Line(slope)
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    applied = clipped_step(model, model(), optimizer, scaler, unscale_first)
    # clip_grad_norm_ divides by norm + 1e-6
    assert applied == pytest.approx(norm_applied, rel=1e-5)
    assert float(model.weight.detach().norm()) == pytest.approx(2.0 * norm_applied, rel=1e-5)


def test_the_wrong_order_shrinks_a_real_step_by_the_scale(tables: dict[str, pd.DataFrame]) -> None:
    table = tables["clipping"].pivot(index="scale_log2", columns="order", values="norm_applied")
    clipped = tables["clipping"]["norm_before"].clip(upper=1.0).iloc[0]
    assert table["unscale, clip"].to_numpy() == pytest.approx(clipped, rel=0.01)
    big = table[table.index >= 4]  # the scaled gradient is over the threshold for sure
    assert big["clip, unscale"].to_numpy() == pytest.approx(2.0 ** -big.index.to_numpy(dtype=float), rel=0.01)


def test_figures_redraw_from_stored_tables(tables: dict[str, pd.DataFrame]) -> None:
    stored = {name: pd.read_csv(io.StringIO(table.to_csv(index=False))) for name, table in tables.items()}
    drawn = loss_scaling.figures(stored)
    assert set(drawn) == {"gradients", "window", "scaler", "clipping"}
    # Started too high and too low: two lines.
    assert len(drawn["scaler"].axes[0].lines) == 2
