"""Loaded by Python at its start: once the program has imported torch, install what follows it."""

import importlib.machinery
import importlib.util
import os
import sys
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))


class _AfterTorch:
    """A finder that finds nothing itself: it lets the others find torch, and acts once torch has loaded."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        try:
            spec: Any = importlib.util.find_spec("torch")
        finally:
            sys.meta_path.insert(0, self)
        if spec is None or not hasattr(spec.loader, "exec_module"):
            return spec
        loader, load = spec.loader, spec.loader.exec_module

        def load_and_install(module: Any) -> None:
            load(module)
            del loader.exec_module  # the loader is as it was
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            _install()

        loader.exec_module = load_and_install
        return spec


def _install() -> None:
    for folder in os.environ["PROFILER_VIRTUAL_INSIDE"].split(os.pathsep):
        name = "_profiler_virtual_" + os.path.basename(folder)
        spec: Any = importlib.util.spec_from_file_location(
            name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
        )
        package = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
        package.install()


def _run_the_next_sitecustomize() -> None:
    """Python loads one module of this name; the environment's or the program's own is the next on the
    path.
    """
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = sys.modules["sitecustomize"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != _HERE]
if os.environ.get("PROFILER_VIRTUAL_INSIDE"):
    sys.meta_path.insert(0, _AfterTorch())
_run_the_next_sitecustomize()
