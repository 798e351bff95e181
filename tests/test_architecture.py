"""The house: which room imports which, how large rooms and files are, where torch stands, equal names."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parents[1]
# From the ground up: a room imports from the floors below its own only. Experiments stand beside the house.
FLOORS = (
    ("errors", "version"),
    ("units", "files", "workload"),
    ("gpu",),
    ("device",),
    ("trace",),
    ("training", "records"),
    ("recording", "formula", "views"),
    ("runs", "distributed"),
    ("advice", "reference"),
    ("verbs", "integrations"),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MOST_FILES, MOST_LINES = 12, 400
A_FILE_A_COMMAND = "profiler/verbs"  # as many files as there are commands

# torch stands at the top of the files here; elsewhere it is late, in what a process of its own runs.
TORCH_AT_TOP = (
    "gpu.simulated",
    "gpu.virtual.values",
    "distributed.without_peers",
    "training",
    "recording",
    "formula.facts",
    "runs.servers",
    "reference.probe_operations",
)
TORCH_IS_THERE = "integrations.transformers"  # whoever imports it has imported transformers' Trainer
TORCH_LATE = ("runs", "distributed.without_peers", "integrations", "gpu.virtual", "reference.probes")

# Names that are meant to be alike: what every verb and every experiment has, a probe called as what it
# probes, and the rest, each with its reason.
INTERFACES = {
    "profiler.verbs": {"add_options", "run"},
    "experiments": {"workloads", "figures", "tables", "Size"},
    "profiler.reference.probe_operations": {"sort", "topk", "cumsum", "convolution", "convolution_backward"}
    | {"layer_norm_backward", "group_norm_backward"},
}
ALIKE = {
    "simulated_gpu": "the public one takes a GPU's name and stays open for `record`; the other is the device",
    "table": "of the screen, and of a page",
    "questions": "a verb prints what the catalog knows",
    "install": "of each package that is loaded into a program on the virtual GPU",
    "scaled_dot_product_attention": "torch's own name, for the composite that stands in its place",
}

# --- the rules -----------------------------------------------------------------------------------------


def test_imports_go_down_the_floors():
    upward = {
        (module, other)
        for module, tree in modules().items()
        if module.startswith("profiler.") and module != "profiler.__main__"
        for other in imports(tree)
        if other.split(".")[0] == "profiler" and room(other) != room(module)
        if FLOOR.get(room(other), len(FLOORS)) >= FLOOR[room(module)]  # the package itself is above all
    }
    assert not upward, "these import from their own floor, or from above"


def test_only_the_verbs_that_run_experiments_import_them():
    inside = {
        module
        for module, tree in modules().items()
        if module.startswith("profiler") and any(name.startswith("experiments") for name in imports(tree))
    }
    assert inside <= {"profiler.verbs.run", "profiler.verbs.list"}


def test_no_two_folders_import_each_other():
    graph: dict[str, set[str]] = defaultdict(set)
    for module, tree in modules().items():
        names = {name for name in imports(tree) if name in modules()}
        graph[folder(module)] |= {folder(name) for name in names} - {folder(module)}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_no_files_import_each_other():
    TopologicalSorter(
        {module: {*imports(tree)} & modules().keys() - {module} for module, tree in modules().items()}
    ).prepare()  # raises CycleError


def test_folders_and_files_are_small():
    width: dict[str, int] = defaultdict(int)
    long = set()
    for top in ("profiler", "experiments", "tests"):
        for path in (ROOT / top).rglob("*"):
            if path.suffix in (".py", ".c", ".h") and path.name != "__init__.py":
                width[str(path.parent.relative_to(ROOT))] += 1
                if len(path.read_text().splitlines()) > MOST_LINES:
                    long.add(str(path.relative_to(ROOT)))
    assert not long
    assert not {name for name, files in width.items() if files > MOST_FILES} - {A_FILE_A_COMMAND}


def test_torch_stands_at_the_top_of_its_rooms_and_is_late_in_few_others():
    for module, tree in modules().items():
        if module.startswith("profiler"):
            at_top, everywhere = has_torch(imports(tree, late=False)), has_torch(imports(tree, types=False))
            assert not at_top or is_in(module, TORCH_AT_TOP), f"{module} imports torch at its top"
            late_may_be = is_in(module, TORCH_AT_TOP + TORCH_LATE)
            assert not everywhere or late_may_be, f"{module} imports torch late"


def test_importing_another_room_imports_no_torch():
    for module in modules():
        if module.startswith("profiler") and not is_in(module, (*TORCH_AT_TOP, TORCH_IS_THERE)):
            pending, reached = [module], {module}
            while pending:
                by = pending.pop()
                names = set(imports(modules()[by], late=False))
                assert not has_torch(names), f"importing {module} imports torch, in {by}"
                pending += (names & modules().keys()) - reached
                reached |= names


def test_what_is_loaded_into_a_program_leaves_the_simulated_gpu_out():
    """The program's torch may be older than the simulated GPU allows."""
    pending, reached = ["profiler.recording.inside.program"], set()
    while pending:
        by = pending.pop()
        parts = by.split(".")
        importing = {".".join(parts[:n]) for n in range(1, len(parts) + 1)} & modules().keys() - reached
        reached |= importing
        pending += [name for module in importing for name in imports(modules()[module], late=False)]
    assert "profiler.training.step" in reached
    simulated = {name for name in reached if is_in(name, ("gpu.simulated",))}
    assert {name.rpartition(".")[2] for name in simulated} <= {"simulated", "tensors", "unsupported"}


def test_no_two_public_names_are_alike():
    places: dict[str, list[str]] = defaultdict(list)
    for module, tree in modules().items():
        for node in tree.body if module != "profiler" else ():  # its names are those of the rooms
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    for name, where in places.items():
        others = [module for module in where if not is_of_an_interface(module, name)]
        assert len(others) < 2 or name in ALIKE, f"{name} is in {others}"


def is_of_an_interface(module: str, name: str) -> bool:
    return any(f"{module}.".startswith(f"{part}.") and name in names for part, names in INTERFACES.items())


# --- reading the house -----------------------------------------------------------------------------------


@cache
def modules() -> dict[str, ast.Module]:
    """The syntax of each module of the package and the experiments, by its dotted name."""
    found = {}
    for path in (*(ROOT / "profiler").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = ast.parse(path.read_text())
    return found


def imports(tree: ast.AST, late: bool = True, types: bool = True) -> Iterator[str]:
    """What a module imports by dotted name; without `late` only what its own import does, at once."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in modules() else node.module for name in names)
        elif (late or not isinstance(node, ast.FunctionDef)) and ((types and late) or not is_for_types(node)):
            yield from imports(node, late, types)


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def has_torch(names: Iterable[str]) -> bool:
    return any(name.split(".")[0] == "torch" for name in names)


def room(module: str) -> str:
    """The part of the package that a module belongs to."""
    return [*module.split("."), ""][1]


def folder(module: str) -> str:
    """The folder of a module; one at the top of the package is by itself."""
    is_folder = any(name.startswith(f"{module}.") for name in modules())
    return module if is_folder or module.count(".") < 2 else module.rpartition(".")[0]


def is_in(module: str, rooms: tuple[str, ...]) -> bool:
    return any(f"{module}.".startswith(f"profiler.{name}.") for name in rooms)
