"""What a shared library asks of others, read from its ELF tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection
from elftools.elf.sections import SymbolTableSection

from profiler.errors import ProfilerError


@dataclass(frozen=True)
class Symbol:
    """An undefined symbol; `version` and `library` (a SONAME) are empty where it asks for none."""

    name: str
    version: str
    library: str


@dataclass(frozen=True)
class Needs:
    """The SONAMEs that a library needs, and the symbols that it expects to find in them."""

    libraries: tuple[str, ...]
    symbols: tuple[Symbol, ...]


def read_needs(path: Path) -> Needs:
    """What the library at `path` needs. Raises ProfilerError if it is no ELF file."""
    try:
        with path.open("rb") as file:
            return _needs(ELFFile(file))
    except (ELFError, OSError) as error:
        raise ProfilerError(f"{path} cannot be read as a shared library: {error}") from error


def _needs(elf: ELFFile) -> Needs:
    dynamic = elf.get_section_by_name(".dynamic")
    table = elf.get_section_by_name(".dynsym")
    if not isinstance(dynamic, DynamicSection) or not isinstance(table, SymbolTableSection):
        return Needs((), ())
    libraries = tuple(getattr(tag, "needed") for tag in dynamic.iter_tags("DT_NEEDED"))  # noqa: B009 (untyped)
    versions: dict[int, tuple[str, str]] = {}
    required = elf.get_section_by_name(".gnu.version_r")
    if isinstance(required, GNUVerNeedSection):
        for library, auxiliaries in required.iter_versions():
            for auxiliary in auxiliaries:
                versions[auxiliary["vna_other"]] = (str(auxiliary.name), str(library.name))
    indices = elf.get_section_by_name(".gnu.version")
    symbols = []
    for number, symbol in enumerate(table.iter_symbols()):
        if symbol["st_shndx"] == "SHN_UNDEF" and symbol.name:
            index = indices.get_symbol(number)["ndx"] if isinstance(indices, GNUVerSymSection) else 0
            symbols.append(Symbol(symbol.name, *versions.get(index, ("", ""))))
    return Needs(libraries, tuple(symbols))
