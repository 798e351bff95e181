"""A recording through the model of the allocator, and files that are none."""

import os
import pickle

import pytest

from profiler.cli import main

START = 0x7F0000000000


def snapshot(path, *requests, shift=0):
    """A recording of requests one after the other in one small segment; `shift` misplaces the last."""
    segment_bytes, blocks, events, address = 2 << 20, [], [], START
    events.append(
        {"action": "segment_alloc", "addr": START, "size": segment_bytes, "stream": 0, "frames": []}
    )
    for i, size in enumerate(requests):
        if i == len(requests) - 1 and shift:
            blocks.append({"address": address, "size": shift, "requested_size": 0, "state": "inactive"})
            address += shift
        rounded = -(-size // 512) * 512
        blocks.append(
            {"address": address, "size": rounded, "requested_size": size, "state": "active_allocated"}
        )
        frames = [{"filename": "/u/model.py", "line": 10 + i, "name": "forward"}]
        events.append({"action": "alloc", "addr": address, "size": size, "stream": 0, "frames": frames})
        address += rounded
    rest = START + segment_bytes - address
    blocks.append({"address": address, "size": rest, "requested_size": 0, "state": "inactive"})
    segment = {
        "device": 0,
        "address": START,
        "total_size": segment_bytes,
        "stream": 0,
        "segment_type": "small",
        "blocks": blocks,
    }
    path.write_bytes(pickle.dumps({"segments": [segment], "device_traces": [events]}))
    return str(path)


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
