"""The stand-ins, compiled once for an installed torch.

Each library becomes one shared object with the SONAME, the symbols and the version nodes that torch's own
libraries ask for. Functions that nobody wrote get a default, a weak symbol, which a written one replaces.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from profiler.errors import ProfilerError
from profiler.gpu.virtual.elf import Needs, read_needs
from profiler.gpu.virtual.installation import Installation
from profiler.gpu.virtual.libraries import LIBRARIES, Library, library_of
from profiler.gpu.virtual.private_cache import cached, default_cache

_HERE = Path(__file__).parent
_SOURCES = _HERE / "stand_ins"
_NAMES = _HERE / "public_names"
_CORE = "libvirtual_gpu.so"
EVENTS = "libvirtual_gpu_events.so"
_DRIVER, _LINKED = "libcuda.so.1", "libcuda.so"  # -lcuda finds the second, as Triton 3.2 asks for the driver
_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
_LIBRARIES = ("-ldl", "-lpthread")


def stand_ins(installation: Installation, cache: Path | None = None) -> tuple[Path, ...]:
    """The stand-ins for that torch in the order of preloading, all in one folder; compiled if need be.

    Beside them lies what a compiler links with as the driver (-lcuda), which is not preloaded.

    Raises ProfilerError if there is no C compiler, if it fails, or if the cache is not private.
    """

    def make(folder: Path) -> list[str]:
        names = compile_all(installation, folder)
        shutil.copyfile(folder / _DRIVER, folder / _LINKED)
        return [*names, _LINKED]

    made = cached(cache or default_cache(), _key(installation), make)
    return tuple(path for path in made if path.name != _LINKED)


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


def compile_all(installation: Installation, folder: Path, options: tuple[str, ...] = ()) -> list[str]:
    """Compile every stand-in into `folder`, with further options for the compiler; gives their names.

    Raises ProfilerError if there is no compiler or if it fails.
    """
    cc = (
        compiler(),
        *_FLAGS,
        *options,
        f"-I{_SOURCES}",
        "-shared",
        f"-DCUDA_MAJOR={installation.cuda_major}",
    )
    wanted = _wanted([read_needs(path) for path in installation.libraries])
    _run(cc, f"-Wl,-soname,{_CORE}", "-o", str(folder / _CORE), *_sources("core"), *_LIBRARIES)
    _run(cc, f"-Wl,-soname,{EVENTS}", "-o", str(folder / EVENTS), *_sources("events"), *_LIBRARIES)
    with (
        tempfile.TemporaryDirectory(prefix="virtual_gpu.") as scratch,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        jobs = [
            pool.submit(_compile, cc, soname, symbols, folder, Path(scratch))
            for soname, symbols in wanted.items()
        ]
        for job in jobs:
            job.result()
    return [_CORE, EVENTS, *wanted]


def _key(installation: Installation) -> str:
    """A name for what is compiled: it changes with torch's libraries and with the sources."""
    digest = hashlib.sha256()
    for path in installation.libraries:
        status = path.stat()
        digest.update(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}\n".encode())
    ours = [*_SOURCES.rglob("*.[ch]"), *_NAMES.glob("*.txt"), _HERE / "compile.py", _HERE / "libraries.py"]
    for path in sorted(ours):
        digest.update(path.relative_to(_HERE).as_posix().encode() + b"\0" + path.read_bytes())
    return f"torch-{re.sub(r'[^0-9a-z.]', '-', installation.version)}-{digest.hexdigest()[:24]}"


def _wanted(needs: list[Needs]) -> dict[str, dict[str, str]]:
    """For each SONAME, the symbols to export and the version of each ("" for none)."""
    sonames = {name for need in needs for name in need.libraries}
    sonames |= {library.always for library in LIBRARIES if library.always}
    symbols = [symbol for need in needs for symbol in need.symbols]
    wanted = {}
    for soname in sorted(sonames):
        library = library_of(soname)
        if library is None:
            continue
        asked = {symbol.name: symbol.version for symbol in symbols if symbol.library == soname}
        for symbol in symbols:
            if not symbol.version and re.match(library.symbols, symbol.name):
                asked.setdefault(symbol.name, "")
        version = next((version for version in asked.values() if version), "")
        public = (_NAMES / f"{library.name}.txt").read_text().split()
        wanted[soname] = {**dict.fromkeys(public, version), **asked}
    return wanted


def _sources(name: str) -> list[str]:
    """The C files of a library: one of its name, or all in a folder of its name."""
    return [str(path) for path in sorted([*_SOURCES.rglob(f"{name}.c"), *_SOURCES.rglob(f"{name}/**/*.c")])]


def _compile(cc: tuple[str, ...], soname: str, symbols: dict[str, str], folder: Path, scratch: Path) -> None:
    library = library_of(soname)
    assert library is not None
    unwritten = scratch / f"{library.name}_defaults.c"
    unwritten.write_text(defaults(library, symbols))
    script = scratch / f"{library.name}.map"
    script.write_text(_version_script(symbols))
    versions = [f"-Wl,--version-script={script}"] if any(symbols.values()) else []
    core = ["-Wl,-rpath,$ORIGIN", f"-L{folder}", f"-l:{_CORE}"]
    _run(
        cc,
        f"-Wl,-soname,{soname}",
        *("-o", str(folder / soname), str(unwritten), *_sources(library.name)),
        *versions,
        *core,
        *_LIBRARIES,
    )


def defaults(library: Library, symbols: dict[str, str]) -> str:
    """C source with a weak function for each symbol."""
    lines = [
        '#include "common.h"',
        "#define DEFAULT API __attribute__((weak))",
        "#define NOT_WRITTEN(name, result) "
        "DEFAULT long name(void) { JOURNAL(NOT_MODELLED, #name); return result; }",
        "#define NO_MEMORY(name, result) DEFAULT long name(void) "
        '{ JOURNAL(HARMLESS, #name ": not answered; it takes no memory"); return result; }',
        "#define WITHOUT_EFFECT(name) DEFAULT long name(void) { return 0; }",
        '#define TEXT(name) DEFAULT const char *name(void) { return "unknown"; }',
    ]
    for name in sorted(symbols):
        if re.search(r"(Error|Status|Result)(String|Name)$", name):
            lines.append(f"TEXT({name})")
        elif re.fullmatch(library.without_effect, name):
            lines.append(f"WITHOUT_EFFECT({name})")
        else:
            result = 0 if re.fullmatch(library.succeeds, name) else library.not_supported
            kind = "NO_MEMORY" if re.fullmatch(library.harmless, name) else "NOT_WRITTEN"
            lines.append(f"{kind}({name}, {result})")
    return "\n".join(lines) + "\n"


def _version_script(symbols: dict[str, str]) -> str:
    versions = sorted({version for version in symbols.values() if version})
    named = {version: [name for name in sorted(symbols) if symbols[name] == version] for version in versions}
    return "".join(f"{version} {{ global: {'; '.join(names)}; }};\n" for version, names in named.items())


def _run(command: tuple[str, ...], *arguments: str) -> None:
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise ProfilerError(f"{command[0]} cannot compile the virtual GPU: {(lines or ['no message'])[0]}")
