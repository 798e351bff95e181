"""The experiments there are: one module each in the folder `experiments`, found by its file.

A module has QUESTION, one line, and one of two pairs of functions:

- `workloads(size)`, a list of Workload to measure and predict, and `figures(records)`, pictures of the
  resulting rows; `workloads(size, device_type)` where the device decides what is worth running, and
  `simulated_workloads(size)` for those that beside a CPU only a simulated GPU runs;
- `tables(size, device, progress)`, data frames by name, and `figures(tables)`, pictures of them; it tells
  `progress` in a few words what it is doing.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from profiler.errors import ProfilerError
from profiler.workload import Workload


def questions() -> dict[str, str]:
    """The question of each experiment by name; read from the files, without importing them."""
    found = {}
    for path in _files():
        question = _question(path)
        if question is not None:
            found[path.stem] = question
    return found


def load(name: str) -> ModuleType:
    """The module of an experiment; raises ProfilerError if there is none of that name."""
    known = questions()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
        raise ProfilerError(f"unknown experiment {name!r}{hint}")
    folders = {path.stem: path.parent.name for path in _files()}
    package = "experiments.numbers" if folders[name] == "numbers" else "experiments"
    return importlib.import_module(f"{package}.{name}")


def workloads(experiment: ModuleType, size: str, device_type: str) -> list[Workload]:
    """What an experiment runs in a size ("small" or "full") on a device ("cpu" or "cuda")."""
    asks_for_device = "device_type" in inspect.signature(experiment.workloads).parameters
    chosen: list[Workload] = experiment.workloads(size, *([device_type] if asks_for_device else []))
    return chosen


def simulated_workloads(experiment: ModuleType, size: str) -> list[Workload]:
    """What an experiment run on the CPU only simulates, beyond what it measures."""
    chosen: list[Workload] = getattr(experiment, "simulated_workloads", lambda size: [])(size)
    return chosen


def _files() -> list[Path]:
    folder = _folder()
    return sorted([*folder.glob("*.py"), *folder.glob("numbers/*.py")])


def _folder() -> Path:
    spec = find_spec("experiments")
    if spec is None or not spec.submodule_search_locations:
        raise ProfilerError("no experiments here: run from a checkout of the project (pip install -e .)")
    return Path(next(iter(spec.submodule_search_locations)))


def _question(path: Path) -> str | None:
    """The value of the module's QUESTION, if it has one."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "QUESTION":
            return str(ast.literal_eval(node.value))
    return None
