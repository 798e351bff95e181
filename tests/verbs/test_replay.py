"""A recording through the model of the allocator, and files that are none."""

import base64
import gzip
import json
import os
import pickle
from pathlib import Path

import pytest

from profiler.cli import main
from tests.support.traces import snapshot_file

START = 0x7F0000000000


def snapshot(path, *requests, shift=0):
    """A recording of requests one after the other in one small segment; `shift` misplaces the last."""
    blocks = [(-(-size // 512) * 512, size, True) for size in requests]
    if shift:
        blocks.insert(-1, (shift, 0, False))
    return str(snapshot_file(path, *blocks, with_segment=True))


def test_replay_says_whether_it_is_exact(capsys, tmp_path):
    assert main(["replay", snapshot(tmp_path / "good", 100, 600)]) == 0
    assert "2 of 2" in capsys.readouterr().out
    assert main(["replay", snapshot(tmp_path / "bad", 100, 600, shift=1024)]) == 4
    assert "1 of 2" in capsys.readouterr().out


@pytest.mark.parametrize("verb", [["replay"], ["explain", "--against", "mlp-tiny"]])
def test_files_that_are_no_snapshots_get_one_line(capsys, tmp_path, verb):
    empty = tmp_path / "empty"
    empty.write_bytes(pickle.dumps({"segments": [], "device_traces": []}))
    hostile = tmp_path / "hostile"
    hostile.write_bytes(pickle.dumps(os.getcwd))
    for path in (empty, hostile, tmp_path / "missing"):
        assert main([verb[0], str(path), *verb[1:]]) == 1
        error = capsys.readouterr().err
        assert str(path) in error
        assert len(error.splitlines()) == 1


MIB = 1 << 20


def device(number, sizes, base, failed=()):
    """Segments and events of a device that allocates `sizes`, one segment each, then fails."""
    segments, events = [], []
    frames = [{"filename": "train.py", "line": 10 + number, "name": "step"}]
    for index, size in enumerate(sizes):
        address = base + index * (1 << 32)
        block = {"address": address, "size": size, "requested_size": size, "state": "active_allocated"}
        about = {
            "device": number,
            "address": address,
            "total_size": size,
            "stream": 0,
            "segment_type": "large",
        }
        segments.append({**about, "blocks": [block]})
        events.append({"action": "segment_alloc", "addr": address, "size": size, "stream": 0, "frames": []})
        events.append({"action": "alloc", "addr": address, "size": size, "stream": 0, "frames": frames})
    for size, free in failed:
        frames = [{"filename": "train.py", "line": 99, "name": "step"}]
        events.append({"action": "oom", "size": size, "device_free": free, "stream": 0, "frames": frames})
    return segments, events


def written(path, *devices):
    traces = [events for _, events in devices]
    segments = [segment for found, _ in devices for segment in found]
    path.write_bytes(pickle.dumps({"segments": segments, "device_traces": traces}))
    return str(path)


@pytest.fixture
def two_devices(tmp_path):
    first = device(0, [100 * MIB, 200 * MIB], 0x7F0000000000)
    return written(tmp_path / "two.pickle", first, device(1, [200 * MIB], 0x7E0000000000))


@pytest.fixture
def out_of_memory(tmp_path):
    sizes = [100 * MIB, 200 * MIB]
    return written(tmp_path / "oom.pickle", device(0, sizes, START, [(4096 * MIB, 123 * MIB)]))


def test_every_device_is_replayed_or_the_one_that_is_chosen(capsys, two_devices):
    assert main(["replay", two_devices, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["device"], each["verdict"], each["peak_requested_bytes"] // MIB) for each in found] == [
        (0, "exact", 300),
        (1, "exact", 200),
    ]
    assert main(["replay", two_devices, "--device", "1"]) == 0
    assert "300.0 MiB" not in capsys.readouterr().out
    assert main(["replay", two_devices, "--device", "2"]) == 1
    assert "no device 2 in the snapshot; it has 0 to 1" in capsys.readouterr().err


def test_report_and_diff_name_the_device_and_the_others(capsys, two_devices, tmp_path):
    page = tmp_path / "page.html"
    assert main(["report", two_devices, "-o", str(page)]) == 0
    assert "shown is device 0; there is also device 1 (2 events, 200.00 MiB reserved)" in page.read_text()
    assert main(["report", two_devices, "--device", "1", "-o", str(page)]) == 0
    assert "eak 200.00 MiB allocated" in page.read_text()
    assert main(["diff", two_devices, two_devices]) == 0
    assert capsys.readouterr().out.count("shown is device 0") == 2


def test_a_request_that_failed_is_shown_with_what_was_alive(capsys, out_of_memory, tmp_path):
    assert main(["replay", out_of_memory]) == 0
    words = "4.00 GiB asked for by train.py:99 step, 123.00 MiB free"
    assert words in capsys.readouterr().out
    assert main(["replay", out_of_memory, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    failed = {"requested_bytes": 4096 * MIB, "free_bytes": 123 * MIB, "origin": "train.py:99 step"}
    assert found["out_of_memory"] == [failed]
    page = tmp_path / "page.html"
    assert main(["report", out_of_memory, "-o", str(page)]) == 0
    text = page.read_text()
    assert "Out of memory: peak 300.00 MiB allocated" in text
    after = text[text.index("4.00 GiB asked for by train.py:99 step; 123.00 MiB of the device were free") :]
    assert "300.00 MiB allocated here" in after
    assert "train.py:10 step" in after


def test_nothing_to_match_is_not_exact(capsys, tmp_path):
    event = {"action": "snapshot", "addr": 0, "size": 0, "stream": 0, "frames": []}
    path = written(tmp_path / "nothing.pickle", ([], [event]))
    assert main(["replay", path]) == 1
    said = capsys.readouterr()
    assert "exact" not in said.out
    assert "no events" in said.err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html>\n<html></html>", "an HTML page with no snapshot inside"),
        (b"[[-1, 1, 1024, 0]]", "a memory timeline of torch.profiler"),
        (gzip.compress(b"[[-1, 1, 1024, 0]]", mtime=0), "a memory timeline of torch.profiler"),
        (b'{"schemaVersion": 1, "traceEvents": []}', "a Chrome trace of torch.profiler"),
        (b"PAR1....PAR1", "a Parquet file"),
        (b"PK\x03\x04...", "a zip archive, as torch.save writes"),
        (gzip.compress(bytes(1 << 24), mtime=0), "it inflates to zeros"),
    ],
)
def test_another_file_is_called_what_it_is(capsys, tmp_path, content, words):
    path = tmp_path / "file.pickle"
    path.write_bytes(content)
    assert main(["replay", str(path)]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1


def test_the_snapshot_inside_a_page_of_memory_viz_is_opened(capsys, out_of_memory, tmp_path):
    """As torch.cuda._memory_viz._format_viz writes it: padded with zeros, in base64, in JSON."""
    content = Path(out_of_memory).read_bytes()
    inside = base64.b64encode(content + b"\0" * (3 - len(content) % 3)).decode()
    files = json.dumps([{"name": "snapshot.pickle", "base64": inside}])
    page = tmp_path / "page.html"
    page.write_text(f'\n<!DOCTYPE html>\n<script>const local_files = {files}\nadd_local_files("x")</script>')
    assert main(["replay", str(page)]) == 0
    assert "2 of 2" in capsys.readouterr().out
