"""A user's own code: loaded as Python would load it beside itself, and put away when it has been used."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from profiler.errors import ProfilerError
from profiler.gpu.simulated.tensors.unsupported import DEVICE_TYPE, ON_THE_VIRTUAL_GPU, UnsupportedOperation

_OWN_FOLDER = f"{Path(__file__).parents[1]}/"
_BUILT_IN_MODELS = str(Path(__file__).with_name("built_in.py"))
_TORCH_FOLDER = f"{Path(torch.__file__).parent}/"
_STANDARD_FOLDERS = tuple({f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib")})
_PACKAGE_FOLDERS = tuple({f"{sysconfig.get_path(name)}/" for name in ("purelib", "platlib")})
# What torch says where a tensor of the simulated device meets a kernel that it has not.
_NO_KERNEL = (DEVICE_TYPE, "TensorWrapper")


class UserCode:
    """A Python file, or a module that can be imported from the current folder.

    While it is in use, its folder is the first on sys.path, its modules are in sys.modules and sys.argv has
    its name alone, as if it ran by itself. Afterwards all three are as before; what was imported from other
    folders stays.
    """

    def __init__(self, location: str) -> None:
        """Raises ProfilerError where there is no file "path/to/file.py" (a module is looked for later)."""
        self.location = location
        self.path = Path(location) if location.endswith(".py") else None
        if self.path is not None and not self.path.is_file():
            raise ProfilerError(f"{location} does not exist")
        self._folder = str(self.path.resolve().parent if self.path else Path.cwd())
        self._modules: dict[str, ModuleType] = {}  # its own, while it is not in use
        self._module: ModuleType | None = None
        self._users = 0

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Where its code runs. May be entered again inside."""
        self._users += 1
        if self._users > 1:
            try:
                yield
            finally:
                self._users -= 1
            return
        path, argv, before = list(sys.path), sys.argv, dict(sys.modules)
        sys.path.insert(0, self._folder)
        sys.argv = [self.location]
        sys.modules.update(self._modules)
        try:
            yield
        finally:
            self._users -= 1
            sys.path[:], sys.argv = path, argv
            self._modules = {
                name: module
                for name, module in list(sys.modules.items())
                if module is not before.get(name) and self._is_own(module)
            }
            for name in self._modules:
                del sys.modules[name]
                if name in before:
                    sys.modules[name] = before[name]

    def module(self) -> ModuleType:
        """The module itself, run when it is first asked for, in use.

        Raises ProfilerError where there is no such module, and whatever the code raises.
        """
        if self._module is None:
            self._module = self._from_file(self.path) if self.path else self._imported()
        return self._module

    def function(self, name: str) -> Callable[..., Any]:
        """The function of that name; raises ProfilerError that names those there are."""
        module = self.module()
        found: Callable[..., Any] | None = getattr(module, name, None)
        if callable(found):
            return found
        functions = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        close = difflib.get_close_matches(name, functions, n=3, cutoff=0.3) or functions[:5]
        raise ProfilerError(f"{self.location} has no function {name!r}; it has {', '.join(close) or 'none'}")

    def import_libraries(self) -> None:
        """Import what the file imports from installed packages, at its top or inside its functions.

        Libraries look for a GPU and its own libraries when they are imported: before a simulated GPU is open
        they find what there is. What cannot be imported is left for the program to find out.
        """
        if self.path is None:
            return
        with suppress(SyntaxError, ValueError):
            for node in ast.walk(ast.parse(self.path.read_bytes())):
                if isinstance(node, ast.Import):
                    names: list[tuple[str, tuple[str, ...]]] = [(alias.name, ()) for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names = [(node.module, tuple(alias.name for alias in node.names))]
                else:
                    continue
                for name, attributes in names:
                    if _is_installed(name.partition(".")[0]):
                        with suppress(Exception):
                            __import__(name, fromlist=attributes)

    def _from_file(self, path: Path) -> ModuleType:
        """Run under the file's own name, as a program beside it would import it."""
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)
        spec.loader.exec_module(module)
        return module

    def _imported(self) -> ModuleType:
        try:
            return importlib.import_module(self.location)
        except ModuleNotFoundError as error:
            if error.name and f"{self.location}.".startswith(f"{error.name}."):
                raise ProfilerError(
                    f"no module {error.name!r}; run where it can be imported, or give a path"
                ) from None
            raise

    def _is_own(self, module: ModuleType) -> bool:
        """Whether the module lies in the code's folder, and not in an environment or this package there."""
        file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), None)
        if not isinstance(file, str):
            return False
        inside = os.path.realpath(file).startswith(f"{self._folder}{os.sep}")
        return inside and not file.startswith((_OWN_FOLDER, *_STANDARD_FOLDERS, *_PACKAGE_FOLDERS))


def split_reference(reference: str) -> tuple[str, str]:
    """The file or module and the function of "train.py:main"; raises ProfilerError where one is missing."""
    location, _, function = reference.rpartition(":")
    if not location or not function:
        raise ProfilerError(f"{reference} names no function; write it as in train.py:main")
    return location, function


def call_with_device(function: Callable[..., Any], device: torch.device, name: str) -> None:
    """Call a training function as Python would: with nothing, or with the device if it must be given one.

    Defaulted arguments keep their defaults. That it ends with `sys.exit(0)` is an end like any other.
    Raises ProfilerError where it must be given more.
    """
    required = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if len(required) > 1:
        names = ", ".join(parameter.name for parameter in required)
        raise ProfilerError(f"{name} must be given {names}; write a function that takes nothing, or a device")
    by_name = {p.name: device for p in required if p.kind is p.KEYWORD_ONLY}
    try:
        function(*([device] if required and not by_name else []), **by_name)
    except SystemExit as end:
        if end.code:
            raise


@contextmanager
def errors_in_one_line(name: str) -> Iterator[None]:
    """Whatever is raised inside is a ProfilerError after it, one line that begins with `name`."""
    try:
        yield
    except ProfilerError:
        raise
    except (Exception, SystemExit) as error:
        raise ProfilerError(f"{name}: {in_one_line(error)}") from error


def in_one_line(error: BaseException) -> str:
    """The error's kind, its first line, and the innermost line outside torch and this package."""
    words = str(error).splitlines()
    said = words[0] if words else ""
    if isinstance(error, UnsupportedOperation):
        return f"cannot be simulated: {said}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {said} ({short_path(error.filename)}:{error.lineno})"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if is_user_code(f.filename)]
    place = f" ({short_path(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    if isinstance(error, NotImplementedError) and any(word in said for word in _NO_KERNEL):
        return f"cannot be simulated: {said.split('. ')[0]}{place}; {ON_THE_VIRTUAL_GPU}"
    return f"{type(error).__name__}: {said}{place}"


def is_user_code(filename: str) -> bool:
    """Whether the file is neither torch's, nor Python's own, nor this package's (but for its models)."""
    if filename == _BUILT_IN_MODELS:
        return True
    if filename.startswith(("<", _OWN_FOLDER, _TORCH_FOLDER)):
        return False
    return not filename.startswith(_STANDARD_FOLDERS) or filename.startswith(_PACKAGE_FOLDERS)


def short_path(filename: str) -> str:
    """The file relative to the longest folder of `sys.path` (or the current one) that it is in."""
    folders = _resolved(os.getcwd(), *sys.path)
    longest = max((f for f in folders if filename.startswith(f)), key=len, default="")
    return filename[len(longest) :]


@lru_cache(maxsize=8)
def _resolved(current: str, *entries: str) -> tuple[str, ...]:
    """The folders of `sys.path`, and the current one, which relative entries are in."""
    return tuple(f"{Path(entry or current).resolve()}/" for entry in ("", *entries))


def _is_installed(name: str) -> bool:
    """Whether a package of that name is in the environment's folder of packages."""
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(name)
        return spec is not None and (spec.origin or "").startswith(_PACKAGE_FOLDERS)
    return False
