"""Bit patterns and limits against published constants, and against torch's own reading of every pattern."""

from __future__ import annotations

import io
import math

import pandas as pd
import pytest
import torch

from experiments.numbers import float_formats
from experiments.numbers.float_formats import FORMATS, added, decoded, pattern_of, value_of

pytestmark = pytest.mark.quick

BY_NAME = {number_format.name: number_format for number_format in FORMATS}


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    return float_formats.tables("small", "cpu")


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("fp32", 0x3DCCCCCD), ("fp16", 0x2E66), ("bf16", 0x3DCD), ("fp8 e4m3", 0x1D), ("fp8 e5m2", 0x2E)],
)
def test_the_bits_of_one_tenth(name: str, pattern: int) -> None:
    # 0.1 = 1.6 x 2^-4; 1.6 is 1.1001 1001 1001... in binary, rounded to each significand.
    assert pattern_of(BY_NAME[name], 0.1) == pattern


def test_negative_numbers_set_the_top_bit() -> None:
    assert pattern_of(BY_NAME["fp16"], -1.0) == 0xBC00
    assert value_of(BY_NAME["fp16"], 0xBC00) == -1.0
    assert value_of(BY_NAME["fp8 e5m2"], 0xBC) == -1.0


@pytest.mark.parametrize("name", ["fp16", "bf16", "fp8 e4m3", "fp8 e5m2"])
def test_every_finite_pattern_decodes_to_what_torch_reads(name: str) -> None:
    number_format = BY_NAME[name]
    patterns = torch.arange(2**number_format.bits)
    read = patterns.to(number_format.bits_dtype).view(number_format.dtype).double()
    finite = read.isfinite()
    # Infinities and NaN take the whole top exponent, in both signs; e4m3 gives up two patterns only.
    special = 2 if name == "fp8 e4m3" else 2 * 2**number_format.significand_bits
    assert int((~finite).sum()) == special
    mine = [decoded(number_format, int(pattern)) for pattern in patterns[finite]]
    assert mine == read[finite].tolist()


def test_limits_are_the_published_ones(tables: dict[str, pd.DataFrame]) -> None:
    limits = tables["limits"].set_index("format")
    assert limits["agrees"].all()
    expected = {
        "fp32": ((2 - 2**-23) * 2.0**127, 2.0**-126, 2.0**-149, 2.0**-23),
        "fp16": (65504.0, 2.0**-14, 2.0**-24, 2.0**-10),
        "bf16": ((2 - 2**-7) * 2.0**127, 2.0**-126, 2.0**-133, 2.0**-7),
        "fp8 e4m3": (448.0, 2.0**-6, 2.0**-9, 2.0**-3),
        "fp8 e5m2": (57344.0, 2.0**-14, 2.0**-16, 2.0**-2),
    }
    columns = [
        f"{name}_from_bits" for name in ("largest", "smallest_normal", "smallest_subnormal", "spacing_at_one")
    ]
    for name, values in expected.items():
        assert tuple(limits.loc[name, columns]) == values


def test_the_last_addend_that_changes_one(tables: dict[str, pd.DataFrame]) -> None:
    changed = tables["swamping"].query("changed").groupby("format")["k"].max().to_dict()
    assert changed == {"fp32": 23, "fp16": 10, "bf16": 7, "fp8 e4m3": 3, "fp8 e5m2": 2}
    # No gap below it: every larger addend counts too.
    counted = tables["swamping"].groupby("format")["changed"].sum().to_dict()
    assert counted == {name: k + 1 for name, k in changed.items()}


def test_fp16_swallows_a_2048th_and_ties_go_to_even() -> None:
    fp16 = BY_NAME["fp16"]
    assert added(fp16, 2048.0, 1.0) == 2048.0
    assert added(fp16, 2050.0, 1.0) == 2052.0
    assert added(fp16, 1.0, 2.0**-11) == 1.0
    # 1 + 3 x 2^-11 lies between 1 + 2^-10 (odd last bit) and 1 + 2^-9 (even).
    assert added(fp16, 1.0, 3 * 2.0**-11) == 1 + 2.0**-9
    # Just over half a spacing is no tie.
    assert added(fp16, 1.0, 2.0**-11 + 2.0**-20) == 1 + 2.0**-10


def test_whole_numbers_around_2048(tables: dict[str, pd.DataFrame]) -> None:
    stored = dict(zip(tables["rounding"]["exact"], tables["rounding"]["stored"], strict=True))
    assert stored[2047] == 2047
    assert [stored[n] for n in (2049, 2051, 2053, 2055)] == [2048, 2052, 2052, 2056]


def test_a_number_that_fits_every_format_is_stored_exactly(tables: dict[str, pd.DataFrame]) -> None:
    layout = tables["layout"]
    assert (layout["decoded"] == layout["stored"]).all()
    assert (layout[layout["value"] != 0.1]["relative_error"] == 0).all()
    assert (layout[layout["value"] < 0]["sign"] == 1).all()
    assert math.isclose(layout.query("format == 'fp16' and value == 0.1")["relative_error"].item(), 2.0**-12)


def test_figures_redraw_from_stored_tables(tables: dict[str, pd.DataFrame]) -> None:
    stored = {name: pd.read_csv(io.StringIO(table.to_csv(index=False))) for name, table in tables.items()}
    drawn = float_formats.figures(stored)
    assert set(drawn) == {"bits", "range", "swamping", "rounding"}
    bits = {text.get_text() for text in drawn["bits"].axes[0].texts}
    assert {"0", "1"} <= bits
