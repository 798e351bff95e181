"""The stand-ins, compiled once for an installed torch, in a cache that is private to the user.

Each library becomes one shared object with the SONAME, the symbols and the version nodes that torch's own
libraries ask for. Functions that nobody wrote get a default, a weak symbol, which a written one replaces.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from profiler.errors import ProfilerError
from profiler.gpu.virtual.elf import read_needs
from profiler.gpu.virtual.installation import Installation
from profiler.gpu.virtual.libraries import LIBRARIES, Library, library_of

_HERE = Path(__file__).parent
_SOURCES = _HERE / "stand_ins"
_NAMES = _HERE / "public_names"
_CORE = "libvirtual_gpu.so"
_MANIFEST = "manifest.json"
_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-fPIC", "-fvisibility=hidden", "-shared", "-Wall", "-Wextra")
_LARGEST_FILE_BYTES = 64 << 20


@dataclass(frozen=True)
class StandIns:
    """The compiled stand-ins: the core first, then a library for each SONAME, all in one folder."""

    folder: Path
    libraries: tuple[Path, ...]


def stand_ins(installation: Installation, cache: Path | None = None) -> StandIns:
    """The stand-ins for that torch, compiled if the cache has none, checked before they are given out.

    Several processes may ask at once: each compiles into a folder of its own, and the first to be done gives
    it its name. Raises ProfilerError if no C compiler is there, if it fails, or if the cache is not private.
    """
    cache = cache or default_cache()
    folder = cache / _key(installation)
    _make_private(cache)
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=cache, prefix=".building.") as name:
            building = Path(name) / "stand_ins"
            building.mkdir(mode=0o700)
            _compile_all(installation, building)
            try:
                building.rename(folder)
            except OSError:
                if not folder.exists():  # otherwise another process was first
                    raise
    return _checked(folder)


def default_cache() -> Path:
    """$XDG_CACHE_HOME/everybyte/virtual_gpu, below ~/.cache if that is not set."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "everybyte" / "virtual_gpu"


def compiler() -> str:
    """The system's C compiler: $CC, cc, gcc or clang. Raises ProfilerError if there is none."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise ProfilerError(
        "the virtual GPU compiles its libraries once and finds no C compiler; install one (cc, gcc or clang),"
        " or use the simulated GPU"
    )


def _key(installation: Installation) -> str:
    """A name for what is compiled: it changes with torch's libraries and with the sources."""
    digest = hashlib.sha256()
    for path in installation.libraries:
        status = path.stat()
        digest.update(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}\n".encode())
    for path in sorted([*_SOURCES.rglob("*.[ch]"), *_NAMES.glob("*.txt"), *_HERE.glob("*.py")]):
        digest.update(path.relative_to(_HERE).as_posix().encode() + b"\0" + path.read_bytes())
    return f"torch-{re.sub(r'[^0-9a-z.]', '-', installation.version)}-{digest.hexdigest()[:24]}"


def _make_private(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ProfilerError(
            f"cannot make the cache {cache} ({error.strerror}); set XDG_CACHE_HOME"
        ) from error
    _check_owner(cache)


def _check_owner(path: Path) -> None:
    """Raise ProfilerError unless `path` is the user's, no link, and nobody else may write it."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise ProfilerError(f"{path} may be written by others than you; remove it and run again")


def _checked(folder: Path) -> StandIns:
    """What stands in the cache, if it is as it was compiled. Raises ProfilerError if not."""
    changed = ProfilerError(f"{folder} is not as it was compiled; remove it and run again")
    _check_owner(folder)
    manifest = folder / _MANIFEST
    try:
        _check_owner(manifest)
        hashes = json.loads(manifest.read_text())
        names = list(hashes)
        for name, expected in hashes.items():
            path = folder / name
            _check_owner(path)
            if path.parent != folder or path.stat().st_size > _LARGEST_FILE_BYTES or _hash(path) != expected:
                raise changed
    except (OSError, ValueError, AttributeError) as error:
        raise changed from error
    if {path.name for path in folder.iterdir()} != {*names, _MANIFEST}:
        raise changed
    return StandIns(folder, tuple(folder / name for name in names))


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _compile_all(installation: Installation, folder: Path) -> None:
    cc = compiler()
    wanted = _wanted(installation)
    _run(
        [
            cc,
            *_FLAGS,
            f"-Wl,-soname,{_CORE}",
            "-o",
            str(folder / _CORE),
            *_sources("core"),
            "-ldl",
            "-lpthread",
        ]
    )
    with (
        tempfile.TemporaryDirectory(prefix="virtual_gpu.") as scratch,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for _ in pool.map(
            lambda item: _compile(cc, installation, *item, folder, Path(scratch)), wanted.items()
        ):
            pass
    names = [_CORE, *sorted(wanted)]
    manifest = folder / _MANIFEST
    manifest.write_text(json.dumps({name: _hash(folder / name) for name in names}, indent=1))
    for path in folder.iterdir():
        path.chmod(0o600)


def _wanted(installation: Installation) -> dict[str, dict[str, str]]:
    """For each SONAME, the symbols and the version that each is asked for under ("" for none)."""
    needs = [read_needs(path) for path in installation.libraries]
    sonames = {name for need in needs for name in need.libraries} | {
        lib.always for lib in LIBRARIES if lib.always
    }
    wanted: dict[str, dict[str, str]] = {}
    for soname in sorted(sonames):
        library = library_of(soname)
        if library is None:
            continue
        symbols = [symbol for need in needs for symbol in need.symbols]
        asked = {symbol.name: symbol.version for symbol in symbols if symbol.library == soname}
        for symbol in symbols:
            if not symbol.version and re.match(library.symbols, symbol.name):
                asked.setdefault(symbol.name, "")
        version = next((version for version in asked.values() if version), "")
        public = (_NAMES / f"{library.name}.txt").read_text().split()
        wanted[soname] = {**dict.fromkeys(public, version), **asked}
    return wanted


def _sources(name: str) -> list[str]:
    single = _SOURCES / f"{name}.c"
    return [str(path) for path in ([single] if single.is_file() else sorted((_SOURCES / name).glob("*.c")))]


def _compile(
    cc: str, installation: Installation, soname: str, symbols: dict[str, str], folder: Path, scratch: Path
) -> None:
    library = library_of(soname)
    assert library is not None
    defaults = scratch / f"{library.name}_defaults.c"
    defaults.write_text(_defaults(library, symbols))
    script = scratch / f"{library.name}.map"
    script.write_text(_version_script(symbols))
    versions = [f"-Wl,--version-script={script}"] if any(symbols.values()) else []
    linked = [*versions, "-Wl,-rpath,$ORIGIN", f"-L{folder}", f"-l:{_CORE}", "-ldl", "-lpthread"]
    options = [*_FLAGS, f"-DCUDA_MAJOR={installation.cuda_major}", f"-I{_SOURCES}", f"-Wl,-soname,{soname}"]
    _run([cc, *options, "-o", str(folder / soname), str(defaults), *_sources(library.name), *linked])


def _defaults(library: Library, symbols: dict[str, str]) -> str:
    """C source with a weak function for each symbol."""
    lines = [
        '#include "common.h"',
        "#define DEFAULT API __attribute__((weak))",
        "#define NOT_WRITTEN(name, result) "
        "DEFAULT long name(void) { JOURNAL(NOT_MODELLED, #name); return result; }",
        "#define WITHOUT_EFFECT(name) DEFAULT long name(void) { return 0; }",
        '#define TEXT(name) DEFAULT const char *name(void) { return "unknown"; }',
    ]
    for name in sorted(symbols):
        if re.search(r"(Error|Status|Result)(String|Name)$", name):
            lines.append(f"TEXT({name})")
        elif re.fullmatch(library.without_effect, name):
            lines.append(f"WITHOUT_EFFECT({name})")
        else:
            lines.append(f"NOT_WRITTEN({name}, {library.result})")
    return "\n".join(lines) + "\n"


def _version_script(symbols: dict[str, str]) -> str:
    versions = sorted({version for version in symbols.values() if version})
    named = {version: [name for name in sorted(symbols) if symbols[name] == version] for version in versions}
    return "".join(f"{version} {{ global: {'; '.join(names)}; }};\n" for version, names in named.items())


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise ProfilerError(f"{command[0]} cannot compile the virtual GPU: {(lines or ['no message'])[0]}")
