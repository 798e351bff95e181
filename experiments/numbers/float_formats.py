"""What a number format can hold, read from real tensors bit by bit: range, spacing, what a sum swallows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from profiler.views.figures.style import BLUE, GREEN, INK, MUTED, ORANGE, RED, SKY, raised, use_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUESTION = "Which numbers can fp32, fp16, bf16 and fp8 hold, and when does a sum swallow its smaller part?"

LAYOUT_VALUES = (0.1, 1.0, -2.5, 448.0)
LARGEST_K = 26
COUNTED = range(2046, 2057)


@dataclass(frozen=True)
class FloatFormat:
    """One sign bit, then `exponent_bits`, then `significand_bits` (the leading 1 is not stored).

    `has_infinity` is False for e4m3fn, which spends the top exponent on numbers and keeps one pattern for NaN
    (Micikevicius et al., "FP8 Formats for Deep Learning", 2022, table 1). The others follow IEEE 754.
    """

    name: str
    dtype: torch.dtype
    bits_dtype: torch.dtype
    exponent_bits: int
    significand_bits: int
    has_infinity: bool = True

    @property
    def bits(self) -> int:
        return 1 + self.exponent_bits + self.significand_bits

    @property
    def bias(self) -> int:
        return 2 ** (self.exponent_bits - 1) - 1


FORMATS = (
    FloatFormat("fp32", torch.float32, torch.int32, 8, 23),
    FloatFormat("fp16", torch.float16, torch.int16, 5, 10),
    FloatFormat("bf16", torch.bfloat16, torch.int16, 8, 7),
    FloatFormat("fp8 e4m3", torch.float8_e4m3fn, torch.uint8, 4, 3, has_infinity=False),
    FloatFormat("fp8 e5m2", torch.float8_e5m2, torch.uint8, 5, 2),
)


def pattern_of(number_format: FloatFormat, value: float) -> int:
    """The bits that a tensor of this format stores for `value`, as a whole number."""
    stored = torch.tensor([value], dtype=torch.float32).to(number_format.dtype)
    return int(stored.view(number_format.bits_dtype).item()) & (2**number_format.bits - 1)


def value_of(number_format: FloatFormat, pattern: int) -> float:
    """The number that torch reads from these bits."""
    signed = pattern - 2**number_format.bits if pattern >= 2 ** (number_format.bits - 1) else pattern
    whole = pattern if number_format.bits_dtype is torch.uint8 else signed
    return float(
        torch.tensor([whole], dtype=number_format.bits_dtype).view(number_format.dtype).double().item()
    )


def fields(number_format: FloatFormat, pattern: int) -> tuple[int, int, int]:
    """Sign, exponent field and significand field of a bit pattern."""
    significand = pattern & (2**number_format.significand_bits - 1)
    exponent = (pattern >> number_format.significand_bits) & (2**number_format.exponent_bits - 1)
    return pattern >> (number_format.bits - 1), exponent, significand


def decoded(number_format: FloatFormat, pattern: int) -> float:
    """The number by IEEE 754's rule: (-1)^s x 1.m x 2^(e - bias), and (-1)^s x 0.m x 2^(1 - bias) for e = 0.

    Only for patterns of numbers: not for infinity and NaN.
    """
    sign, exponent, significand = fields(number_format, pattern)
    fraction = significand / 2**number_format.significand_bits
    if exponent == 0:
        magnitude = fraction * 2.0 ** (1 - number_format.bias)
    else:
        magnitude = (1 + fraction) * 2.0 ** (exponent - number_format.bias)
    return -magnitude if sign else magnitude


def added(number_format: FloatFormat, first: float, second: float) -> float:
    """first + second, with every number stored in this format.

    fp8 has no arithmetic of its own in torch: its sum is made in fp32 and rounded.
    """
    left, right = (torch.tensor(value).to(number_format.dtype) for value in (first, second))
    total: Tensor
    if number_format.bits == 8:
        total = (left.float() + right.float()).to(number_format.dtype)
    else:
        total = left + right
    return float(total.double().item())


def tables(size: str, device: str, progress: Callable[[str], None] | None = None) -> dict[str, pd.DataFrame]:
    """Read the formats from tensors; the same for both sizes and on every device (bits are bits).

    layout: format, value (asked for), stored, pattern (0b and every bit, as text), sign, exponent_field,
    significand_field, decoded (by bit arithmetic), relative_error.
    limits: format, bits, exponent_bits, significand_bits, then largest, smallest_normal, spacing_at_one as
    torch.finfo says, the same and smallest_subnormal `_from_bits`, and `agrees`.
    swamping: format, k, total (1 + 2^-k as stored), changed. From k = 10 on e4m3 cannot hold 2^-k itself,
    long after the sum stopped changing; e5m2 from 17 on.
    rounding: format, exact (a whole number), stored.
    """
    return {"layout": _layout(), "limits": _limits(), "swamping": _swamping(), "rounding": _rounding()}


def _layout() -> pd.DataFrame:
    rows = []
    for number_format in FORMATS:
        for value in LAYOUT_VALUES:
            pattern = pattern_of(number_format, value)
            stored = value_of(number_format, pattern)
            sign, exponent, significand = fields(number_format, pattern)
            rows.append(
                {
                    "format": number_format.name,
                    "value": value,
                    "stored": stored,
                    "pattern": f"0b{pattern:0{number_format.bits}b}",
                    "sign": sign,
                    "exponent_field": exponent,
                    "significand_field": significand,
                    "decoded": decoded(number_format, pattern),
                    "relative_error": abs(stored - value) / abs(value),
                }
            )
    return pd.DataFrame(rows)


def _limits() -> pd.DataFrame:
    rows = []
    for number_format in FORMATS:
        info = torch.finfo(number_format.dtype)
        first_normal = 1 << number_format.significand_bits
        top = (2**number_format.exponent_bits - 1) << number_format.significand_bits
        # The pattern just below infinity; e4m3fn has none, so the one just below its NaN (all ones).
        largest = top - 1 if number_format.has_infinity else top + 2**number_format.significand_bits - 2
        one = number_format.bias << number_format.significand_bits
        row = {
            "format": number_format.name,
            "bits": number_format.bits,
            "exponent_bits": number_format.exponent_bits,
            "significand_bits": number_format.significand_bits,
            "largest": info.max,
            "smallest_normal": info.smallest_normal,
            "spacing_at_one": info.eps,
            "largest_from_bits": decoded(number_format, largest),
            "smallest_normal_from_bits": decoded(number_format, first_normal),
            "spacing_at_one_from_bits": decoded(number_format, one + 1) - decoded(number_format, one),
            "smallest_subnormal_from_bits": decoded(number_format, 1),
        }
        by_rule = (
            row["largest_from_bits"],
            row["smallest_normal_from_bits"],
            row["spacing_at_one_from_bits"],
        )
        by_torch = (info.max, info.smallest_normal, info.eps)
        row["agrees"] = by_rule == by_torch and decoded(number_format, 1) == value_of(number_format, 1)
        rows.append(row)
    return pd.DataFrame(rows)


def _swamping() -> pd.DataFrame:
    rows = []
    for number_format in FORMATS:
        for k in range(LARGEST_K + 1):
            total = added(number_format, 1.0, 2.0**-k)
            rows.append({"format": number_format.name, "k": k, "total": total, "changed": total != 1.0})
    return pd.DataFrame(rows)


def _rounding() -> pd.DataFrame:
    fp16 = FORMATS[1]
    return pd.DataFrame(
        [
            {"format": fp16.name, "exact": n, "stored": value_of(fp16, pattern_of(fp16, float(n)))}
            for n in COUNTED
        ]
    )


def figures(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """`bits`: the fields of 0.1; `range`: what each format spans; `swamping`: which sums change; `rounding`:
    whole numbers around 2048 in fp16."""
    use_style()
    return {
        "bits": _draw_bits(tables["layout"]),
        "range": _draw_range(tables["limits"]),
        "swamping": _draw_swamping(tables["swamping"]),
        "rounding": _draw_rounding(tables["rounding"]),
    }


def _bare(axes: Axes) -> None:
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_bits(layout: pd.DataFrame) -> Figure:
    import matplotlib.pyplot as plt

    chosen = layout[layout["value"] == 0.1]
    figure, axes = plt.subplots(figsize=(10, 5.2))
    exponent_bits = {number_format.name: number_format.exponent_bits for number_format in FORMATS}
    for row, (_, entry) in enumerate(chosen.iterrows()):
        exponents = exponent_bits[entry["format"]]
        pattern = entry["pattern"].removeprefix("0b")
        for place, bit in enumerate(pattern):
            colour = RED if place == 0 else ORANGE if place <= exponents else SKY
            axes.add_patch(plt.Rectangle((place, row - 0.3), 0.94, 0.6, color=colour, lw=0))
            axes.text(place + 0.47, row, bit, ha="center", va="center", fontsize=11, family="monospace")
        error = np.format_float_positional(
            100 * entry["relative_error"], precision=1, fractional=False, trim="-"
        )
        note = f"{entry['stored']:.9g}   off by {error} %"
        bits = len(pattern)
        if bits > 16:
            axes.text(bits, row + 0.55, note, ha="right", va="center")
        else:
            axes.text(bits + 0.4, row, note, ha="left", va="center")
    axes.set(xlim=(0, 32), ylim=(len(chosen) - 0.5, -1.1), xticks=[])
    axes.set_yticks(range(len(chosen)), chosen["format"])
    axes.tick_params(length=0, labelsize=13)
    for x, text, colour in (
        (0, "sign", RED),
        (3.2, "exponent: range", ORANGE),
        (12, "significand: precision", SKY),
    ):
        axes.add_patch(plt.Rectangle((x, -0.95), 0.6, 0.35, color=colour, lw=0))
        axes.text(x + 0.8, -0.77, text, va="center")
    axes.set_title("Fewer bits: bf16 keeps fp32's range, fp16 keeps more digits")
    axes.set_xlabel("the number 0.1, bit by bit as each format stores it")
    _bare(axes)
    return figure


def _draw_range(limits: pd.DataFrame) -> Figure:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4.6))
    for row, (_, entry) in enumerate(limits.iterrows()):
        low, normal, high = (
            float(np.log2(entry[column]))
            for column in ("smallest_subnormal_from_bits", "smallest_normal", "largest")
        )
        largest = f"{entry['largest']:.0f}" if entry["largest"] < 1e6 else f"{entry['largest']:.1e}"
        axes.barh(row, high - normal, left=normal, color=BLUE, height=0.5)
        axes.barh(row, normal - low, left=low, color=SKY, height=0.5)
        axes.text(low - 2, row, raised(2, round(low)), ha="right", va="center", fontsize=13)
        axes.text(high + 2, row, largest, ha="left", va="center", fontsize=13)
    axes.axvline(0, color=INK, lw=1, ls=":")
    axes.set_yticks(range(len(limits)), limits["format"])
    axes.invert_yaxis()
    axes.set_xlim(-172, 172)
    axes.set_xticks(range(-150, 151, 50), [raised(2, k) if k else "1" for k in range(-150, 151, 50)])
    axes.set_title("fp16 spans 40 powers of two, fp32 and bf16 over 260")
    axes.set_xlabel("size of a number; light: subnormal, with fewer and fewer digits; below it: zero")
    axes.tick_params(axis="y", length=0, labelsize=13)
    axes.grid(axis="y", visible=False)
    return figure


def _draw_swamping(swamping: pd.DataFrame) -> Figure:
    import matplotlib.pyplot as plt

    names = [number_format.name for number_format in FORMATS]
    figure, axes = plt.subplots(figsize=(10, 4.4))
    axes.barh(names, LARGEST_K + 1, left=-0.5, height=0.7, color="#e6e6e6")
    for entry in swamping[swamping["changed"]].to_dict("records"):
        row = names.index(entry["format"])
        axes.add_patch(plt.Rectangle((entry["k"] - 0.46, row - 0.35), 0.92, 0.7, color=GREEN, lw=0))
    for row, name in enumerate(names):
        last = int(swamping[(swamping["format"] == name) & swamping["changed"]]["k"].max())
        lost = "lost" if last + 1 > LARGEST_K - 3 else f"lost from 1/{2 ** (last + 1)} on"
        axes.text(last + 0.8, row, lost, va="center", color=INK, fontsize=12)
    axes.set(xlim=(-0.6, LARGEST_K + 0.6), ylim=(len(names) - 0.5, -0.6))
    axes.set_yticks(range(len(names)), names)
    ticks = list(range(0, LARGEST_K + 1, 4))
    axes.set_xticks(ticks, [raised(2, -k) if k else "1" for k in ticks])
    axes.set_title("fp16 swallows what is 2048 times smaller, bf16 already at 256")
    axes.set_xlabel("x, the number added to 1;   green: 1 + x differs from 1,   grey: the sum is still 1")
    axes.tick_params(length=0, labelsize=13)
    _bare(axes)
    return figure


def _draw_rounding(rounding: pd.DataFrame) -> Figure:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4.2))
    for entry in rounding.to_dict("records"):
        kept = entry["exact"] == entry["stored"]
        colour = BLUE if kept else RED
        axes.annotate(
            "",
            (entry["stored"], 0.12),
            (entry["exact"], 0.88),
            arrowprops={"arrowstyle": "-|>", "color": colour},
        )
        axes.text(entry["exact"], 1.0, str(entry["exact"]), ha="center", color=colour, fontsize=13)
    for stored in sorted(set(rounding["stored"])):
        axes.text(stored, 0.0, f"{stored:.0f}", ha="center", va="center", color=INK, fontsize=13)
    axes.set(xlim=(2044.2, 2056.8), ylim=(-0.15, 1.2), xticks=[])
    axes.set_yticks([0.0, 1.03], ["stored\nin fp16", "exact"])
    axes.tick_params(length=0, labelsize=13)
    axes.set_title("Above 2048 fp16 holds even numbers only: 2048 + 1 = 2048")
    axes.set_xlabel(
        "a tie goes to the neighbour whose last bit is 0: 2049 goes down, 2051 goes up", color=MUTED
    )
    _bare(axes)
    return figure
