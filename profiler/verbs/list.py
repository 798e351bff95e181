"""`profiler list`: the experiments and the questions they answer. They come with a checkout, not a wheel."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from profiler.errors import ProfilerError

SUMMARY = "the experiments and the questions they answer"
DESCRIPTION = "Name the experiments and their questions. They come with a checkout of the project."
EXAMPLES = ""
_CHECKOUT = Path(__file__).resolve().parents[2]


def add_options(parser: ArgumentParser) -> None:
    """None."""


def run(options: Namespace) -> None:
    """A line an experiment. Raises ProfilerError where there are none."""
    for name, question in questions().items():
        print(f"{name:26}{question}")


def questions() -> dict[str, str]:
    """The question of each experiment by name. Raises ProfilerError where there are none."""
    make_importable()
    from experiments import catalog

    return catalog.questions()


def make_importable() -> None:
    """Let `from experiments import catalog` find the folder beside this package, and no other of that name.

    Raises ProfilerError where there is none, as beside an installed package.
    """
    folder = _CHECKOUT / "experiments"
    if not (folder / "catalog.py").is_file():
        raise ProfilerError("no experiments here: they come with a checkout of the project, not a package")
    other = getattr(sys.modules.get("experiments"), "__file__", None)
    if "experiments" in sys.modules and (other is None or Path(other).resolve().parent != folder):
        raise ProfilerError("another package called experiments is imported already; use `profiler run`")
    if str(_CHECKOUT) not in sys.path[:1]:
        sys.path.insert(0, str(_CHECKOUT))
