"""The journal of the stand-ins, read from bytes written here as struct record says."""

import struct

from profiler.gpu.virtual.journal import Kind, read_journal


def record(count: int, kind: int, text: str) -> bytes:
    return struct.pack("<Qi116s", count, kind, text.encode())


def test_processes_are_added_up(tmp_path):
    header = record(17, 0, "virtual GPU journal 1")
    first = header + record(900, 3, "device 0") + record(2, 1, "cudaFoo") + record(5, 2, "a rule")
    first += record(1, 4, "cudaBar: it takes no memory")
    second = record(18, 0, "virtual GPU journal 1") + record(0, 0, "") + record(3, 1, "cudaFoo")
    (tmp_path / "17.journal").write_bytes(first + bytes(128 * 100))
    (tmp_path / "18.journal").write_bytes(second + b"half of a record")
    (tmp_path / "19.journal").write_bytes(b"something else")
    journal = read_journal(tmp_path)
    assert journal.not_modelled == {"cudaFoo": 5}
    assert journal.assumed == {"a rule": 5}
    assert journal.harmless == {"cudaBar: it takes no memory": 1}
    assert journal.peak_bytes == {(17, 0): 900}
    assert {(entry.pid, entry.kind) for entry in journal.entries} == {
        (17, Kind.NOT_MODELLED),
        (17, Kind.ASSUMED),
        (17, Kind.HARMLESS),
        (18, Kind.NOT_MODELLED),
    }


def test_no_journal_is_an_empty_one(tmp_path):
    assert read_journal(tmp_path).entries == ()
