"""What a predictor says nothing of is set aside by name, and nothing else is."""

import pandas as pd

from profiler.records.comparison import set_aside


def test_what_is_set_aside_is_named_and_the_rest_stays():
    compared = pd.DataFrame(
        {
            "difference_bytes": [-512, -600, 0],
            "workspaces_difference_bytes": [-512, -512, 0],
            "rounding_difference_bytes": [0, 0, 0],
            "gradients_difference_bytes": [0, -88, 0],
        }
    )
    left, named = set_aside(compared, ["workspaces", "rounding"])
    assert left.tolist() == [0, -88, 0]
    assert named == ["workspaces"]
