"""The picture of ranks: bars as long as what the ranks need."""

import pytest

from profiler.units import GIB
from profiler.views.figures.ranks import rank_bars
from profiler.views.figures.style import use_style

pytestmark = pytest.mark.quick


def group(ranks, reserved_gib, **shares_gib):
    return {
        "words": "0-2" if len(ranks) == 3 else str(ranks[0]),
        "ranks": ranks,
        "phase": "step 1 backward",
        "peak_reserved_bytes": int(reserved_gib * GIB),
        "peak_allocated_bytes": int(sum(shares_gib.values()) * GIB),
        "shares": {name: int(size * GIB) for name, size in shares_gib.items()},
    }


GROUPS = [
    group([3], 60, parameters=20, gradients=10, ddp_buckets=10, of_a_later_version=4),
    group([0, 1, 2], 40, parameters=20, gradients=10),
]


def test_each_category_is_a_stretch_of_its_bar_and_reserved_is_around_it():
    use_style()
    figure = rank_bars(GROUPS, "H100-80GB", 80 * GIB, "train.py")
    (axes,) = figure.axes
    widths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in axes.containers}
    assert widths == {
        "parameters": [20, 20],
        "gradients": [10, 10],
        "ddp buckets": [10, 0],
        "of a later version": [4, 0],
        "reserved": [60, 40],
    }
    ends = {bars.get_label(): [bar.get_x() + bar.get_width() for bar in bars] for bars in axes.containers}
    assert ends["of a later version"] == [44, 30]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rank 3", "ranks 0-2"]
    assert figure.get_suptitle().startswith("Rank 3 is the fullest: 75 % of its card, 50 % more")


def test_equal_ranks_are_one_bar_and_a_card_far_away_is_not_drawn():
    use_style()
    figure = rank_bars(GROUPS[1:], "B200", 180 * GIB, "train.py")
    assert figure.get_suptitle().startswith("All 3 ranks need the same: 22 % of its card")
    assert figure.axes[0].get_xlim()[1] < 60
