"""What every Python process of a program on the virtual GPU loads, and how it gets there.

`on_path` holds a sitecustomize module alone and is put first on PYTHONPATH, so Python loads it in the
program, its data loaders, ranks and subprocesses. It changes nothing until the program imports torch; then it
loads the packages named in PROFILER_VIRTUAL_INSIDE from their folders, under names of their own (the profiler
itself is never imported into the program, whose modules may have any name), and calls `install()` of each.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

ON_PATH = Path(__file__).parent / "on_path"
VALUES = Path(__file__).parents[1] / "values"


def variables_for(
    inherited: Mapping[str, str],
    journal_folder: Path,
    packages: Sequence[Path] = (VALUES,),
    routing: str | None = None,
) -> dict[str, str]:
    """The variables that load `packages` into every Python process, over those that are `inherited`.

    routing: how tokens choose experts where the router's numbers are not computed: "balanced" (None: as
    `inherited` has it, or so), "worst" (every token the same experts) or the share of each expert
    ("0.5,0.25,0.25").
    """
    path = inherited.get("PYTHONPATH")
    return {
        "PYTHONPATH": str(ON_PATH) + (os.pathsep + path if path else ""),
        "PROFILER_VIRTUAL_INSIDE": os.pathsep.join(map(str, packages)),
        "PROFILER_VIRTUAL_READS": str(journal_folder),
        "PROFILER_VIRTUAL_ROUTING": routing or inherited.get("PROFILER_VIRTUAL_ROUTING") or "balanced",
    }


def flag_that_hides(command: Sequence[str]) -> str | None:
    """The option of Python in `command` that keeps it from loading anything: -I, -E or -S, else None."""
    for i, word in enumerate(command):
        if not Path(word).name.startswith("python"):
            continue
        for option in command[i + 1 :]:
            if not option.startswith("-") or option.startswith("--"):
                break
            for letter in option[1:]:
                if letter in "cmWX":  # what follows is its value, or the program
                    break
                if letter in "IES":
                    return f"-{letter}"
            if option[1:2] in ("c", "m"):
                break
    return None
