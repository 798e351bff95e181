"""What a file is by its content, and the pickle in it: compressed, or inside a page of memory_viz."""

from __future__ import annotations

import base64
import binascii
import bz2
import gzip
import io
import lzma
import re
import zlib

_LARGEST_BYTES = 2 << 30  # of what a compressed file may hold
_PIECE_BYTES = 1 << 20
_PAGE_DATA = re.compile(rb'"base64"\s*:\s*"')
_OTHERS = (
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, not the file itself: run `git lfs pull`",
    ),
    (b"PAR1", "a Parquet file, not a snapshot: `profiler report` and `profiler diff` read saved runs"),
    (b"PK\x03\x04", "a zip archive, as torch.save writes, not a snapshot"),
    (b"SQLite format 3", "an SQLite database, as Nsight Systems writes, not a snapshot"),
    (b"\x7fELF", "a program, not a snapshot"),
)
_HOW = "record with torch.cuda.memory._record_memory_history() and _dump_snapshot()"


class WrongFile(ValueError):
    """The file is something else than a snapshot; the message says what, and what to do."""


def pickle_in(content: bytes) -> bytes:
    """The pickle that a file is, once inflated or taken out of its page.

    Raises WrongFile for what is known to be something else, and for what is damaged or too large inflated.
    """
    content = _inflated(content)
    start = content[:4096].lstrip()
    if start[:9].lower() == b"<!doctype" or start[:5].lower() in (b"<html", b"<?xml"):
        return _in_page(content)
    for beginning, words in _OTHERS:
        if start.startswith(beginning):
            raise WrongFile(words)
    if start[:1] in b"[{" and start:
        raise WrongFile(_json(start))
    return content


def _inflated(content: bytes) -> bytes:
    for beginning, opened in ((b"\x1f\x8b", gzip.open), (b"\xfd7zXZ\x00", lzma.open), (b"BZh", bz2.open)):
        if content.startswith(beginning):
            try:
                with opened(io.BytesIO(content), "rb") as file:
                    return _at_most(file)
            except (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError) as error:
                if isinstance(error, WrongFile):
                    raise
                raise WrongFile("not a pickle, or truncated (it cannot be inflated)") from None
    return content


def _at_most(file: gzip.GzipFile | lzma.LZMAFile | bz2.BZ2File) -> bytes:
    pieces: list[bytes] = []
    size_bytes = 0
    while piece := file.read(_PIECE_BYTES):
        size_bytes += len(piece)
        if not pieces and not piece.strip(b"\0"):
            raise WrongFile("not a pickle, or truncated (it inflates to zeros)")
        if size_bytes > _LARGEST_BYTES:
            raise WrongFile(f"it inflates to more than {_LARGEST_BYTES >> 30} GiB; inflate it yourself first")
        pieces.append(piece)
    return b"".join(pieces)


def _in_page(content: bytes) -> bytes:
    found = _PAGE_DATA.search(content)
    if found is None:
        raise WrongFile(f"an HTML page with no snapshot inside; {_HOW}")
    try:
        return base64.b64decode(content[found.end() : content.index(b'"', found.end())], validate=True)
    except (binascii.Error, ValueError):
        raise WrongFile("an HTML page whose snapshot is damaged") from None


def _json(start: bytes) -> str:
    if start.startswith(b"{") and (b"traceEvents" in start or b"schemaVersion" in start):
        return f"a Chrome trace of torch.profiler, not a memory snapshot; {_HOW}"
    if re.match(rb"\[\s*\[\s*[-0-9]", start):
        return f"a memory timeline of torch.profiler, which has no blocks or stacks; {_HOW}"
    return f"a JSON file, not a snapshot; {_HOW}"
