"""What grew between two runs, against bytes added up by hand, and the verb on files of every kind."""

import json
import pickle

import pytest

from profiler import simulate
from profiler.cli import main
from profiler.device import Device
from profiler.gpu.cards import GPUS
from profiler.gpu.snapshot import load_snapshot
from profiler.records import table as records
from profiler.trace.difference import Change, changes, difference, without_moved
from profiler.trace.events import Allocation, Free, Mark, Place
from profiler.trace.load import load
from profiler.trace.moments import alive_at, by_line
from profiler.trace.phase import FORWARD, MODEL_LOADED, Phase
from profiler.workload import Workload
from tests.support.groundtruth import needs_snapshots, snapshot_paths
from tests.support.runs import run_of
from tests.support.traces import snapshot_file


def block(address, size_bytes, module, line, requested_bytes=None):
    return Allocation(address, size_bytes, requested_bytes or size_bytes, "aten::mm", "", Place(module, line))


def run(*forward):
    """Weights of 1024 bytes in `linear`, then the blocks of a forward pass that all live to its end."""
    return [
        block(1, 1024, "linear", "train.py:3 make_model"),
        Mark(Phase(0, MODEL_LOADED), {1: "parameters"}),
        *forward,
        Mark(Phase(1, FORWARD, 1), {1: "parameters"}),
    ]


BEFORE = run(
    block(2, 2048, "linear", "model.py:10 forward", 2000),
    block(3, 512, "relu", "model.py:11 forward"),
    block(4, 8192, "", "model.py:30 helper"),
    Free(4),
)
# A line was added above: 10 and 11 are 11 and 12. The activation of 8192 bytes is kept now, a tanh is new,
# the relu is gone, the linear layer's output is twice as large.
AFTER = run(
    block(2, 4096, "linear", "model.py:11 forward", 4000),
    block(5, 8192, "", "model.py:31 helper"),
    block(6, 1536, "tanh", "model.py:12 forward"),
)


def test_the_peaks_and_their_parts_add_up_by_hand():
    found = difference(run_of(BEFORE), run_of(AFTER))
    assert found.before.allocated_bytes == 1024 + 2048 + 512 + 8192 == 11_776
    assert found.after.allocated_bytes == 1024 + 4096 + 8192 + 1536 == 14_848
    assert found.difference_bytes == 3072
    assert {c.name: (c.before_bytes, c.after_bytes) for c in found.categories} == {
        "parameters": (1024, 1024),
        "activations": (2000 + 512, 4000 + 8192 + 1536),
        "temporaries": (8192, 0),
        "rounding": (48, 96),
    }
    assert {c.name: (c.before_bytes, c.after_bytes) for c in found.modules} == {
        "linear": (3072, 5120),
        "relu": (512, 0),
        "tanh": (0, 1536),
        "(forward)": (8192, 8192),
    }
    assert {c.name: c.difference_bytes for c in found.lines} == {
        "train.py:3 make_model": 0,
        "model.py:10 forward": -2048,
        "model.py:11 forward": 4096 - 512,
        "model.py:12 forward": 1536,
        "model.py:31 helper": 0,  # the same bytes in the same function, one line further down
    }
    for parts in (found.categories, found.modules, found.lines):
        assert sum(part.difference_bytes for part in parts) == 3072
        sizes = [abs(part.difference_bytes) for part in parts]
        assert sizes == sorted(sizes, reverse=True)


def test_a_moved_line_keeps_every_byte_and_is_not_mixed_up_with_another_function():
    before = {"a.py:1 f": 10, "a.py:2 f": 10, "a.py:3 g": 10, "b.py:9 f": 10, "a.py:4 f": 7}
    after = {"a.py:5 f": 10, "a.py:6 f": 10, "a.py:4 f": 8}
    renamed, same = without_moved(before, after)
    assert renamed == {"a.py:5 f": 10, "a.py:6 f": 10, "a.py:3 g": 10, "b.py:9 f": 10, "a.py:4 f": 7}
    assert same == after


def test_parts_of_one_side_only_count_from_zero():
    assert changes({"a": 5, "b": 1}, {"b": 1, "c": 9}) == (
        Change("c", 0, 9),
        Change("a", 5, 0),
        Change("b", 1, 1),
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two simulations of an MLP, each as a saved run and as a snapshot of the same bytes."""
    from profiler.views.memory_viz import memory_viz

    folder = tmp_path_factory.mktemp("diff")
    for name, batch in (("a", 64), ("b", 96)):
        simulation = simulate(Workload("mlp-tiny", batch), GPUS["A100-40GB"], engine="simulated")
        simulation.save(folder / f"{name}.parquet")
        (folder / f"{name}.pickle").write_bytes(pickle.dumps(memory_viz(simulation), protocol=4))
    return folder


def as_json(capsys, *words):
    assert main(["diff", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_snapshot_of_a_simulation_says_what_the_saved_run_says(capsys, files):
    """The snapshot holds requests and addresses; its block sizes come from replaying them."""
    saved = as_json(capsys, files / "a.parquet", files / "b.parquet")
    exported = as_json(capsys, files / "a.pickle", files / "b.pickle")
    assert saved["difference_bytes"] > 0
    for key in ("before_bytes", "after_bytes", "lines"):
        assert saved[key] == exported[key]
    named = [[part for part in found["modules"] if part["name"][0] != "("] for found in (saved, exported)]
    assert named[0] == named[1]  # bytes of no module go by the phase, which a snapshot does not have
    mixed = as_json(capsys, files / "a.pickle", files / "a.parquet")
    assert not any(part["difference_bytes"] for part in mixed["modules"])
    # A sample is 64 floats and a label of 8 bytes; there are 32 more of them.
    (inputs,) = (part for part in saved["categories"] if part["name"] == "inputs")
    assert inputs["difference_bytes"] == 32 * (64 * 4 + 8)
    for found in (saved, exported):
        for what in ("categories", "modules", "lines"):
            assert sum(part["difference_bytes"] for part in found[what]) == found["difference_bytes"]


def test_the_verb_prints_the_peaks_first_and_draws(capsys, files, tmp_path):
    picture = tmp_path / "grew.png"
    assert main(["diff", str(files / "a.parquet"), str(files / "b.parquet"), "--output", str(picture)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Peak  ")
    assert out.index("by category") < out.index("by module") < out.index("by line")
    assert picture.stat().st_size > 10_000
    assert main(["diff", str(files / "a.parquet"), str(files / "a.parquet")]) == 0
    assert "Nothing changed at the peak" in capsys.readouterr().out


def recorded_snapshot(path, requests, rounded):
    """What torch records of `requests`, with one block from before the recording."""
    recorded = [(size, request, True) for request, size in zip(requests, rounded, strict=True)]
    return snapshot_file(path, (1024, 1000, False), *recorded)


def test_a_recorded_snapshot_counts_blocks_and_what_was_there_before(tmp_path):
    run = load(recorded_snapshot(tmp_path / "a", (100, 600), (512, 1024)))
    assert run.note == ""
    assert run.peak().allocated_bytes == 1024 + 512 + 1024
    assert run.peak().reserved_bytes == 2 << 20
    other = load(recorded_snapshot(tmp_path / "b", (100, 5000), (512, 5120)))
    found = difference(run, other)
    assert found.difference_bytes == 5120 - 1024
    assert found.lines[0] == Change("model.py:11 forward", 1024, 5120)
    assert sum(part.difference_bytes for part in found.lines) == found.difference_bytes
    assert found.categories == found.modules == ()  # such a recording names neither


def test_a_trace_that_contradicts_its_end_is_counted_by_its_requests(tmp_path):
    """Events lost in the middle: two allocations at one address without a free between them."""
    path = recorded_snapshot(tmp_path / "a", (100,), (512,))
    data = pickle.loads(path.read_bytes())
    (event,) = data["device_traces"][0]
    data["device_traces"][0] = [event, {**event, "addr": event["addr"] + (1 << 30)}, event]
    path.write_bytes(pickle.dumps(data))
    run = load(path)
    assert "rounded up to 512" in run.note
    assert not run.reserved_bytes


@needs_snapshots
@pytest.mark.parametrize("path", snapshot_paths()[::8], ids=lambda path: path.name[:40])
def test_of_recorded_gpus_what_is_left_at_the_end_is_what_was_recorded(path):
    """The entries start before the first event and end with the blocks, and their sizes, of the recording."""
    run = load(path)
    device = max(load_snapshot(path).devices, key=lambda device: (len(device.events), device.reserved_bytes))
    recorded = {
        block.address: block.size_bytes
        for segment in device.segments
        for block in segment.blocks
        if block.state == "active_allocated"
    }
    left = [run.entries[index] for index in alive_at(run.entries, len(run.entries) - 1)]
    assert {entry.address: entry.size_bytes for entry in left} == recorded
    assert sum(by_line(run.entries, run.peak().position).values()) == run.peak().allocated_bytes


# --- folders of records --------------------------------------------------------------------------------


def record(folder, rows):
    shared = {"run_key": "", "seed": 0, "device": "cpu", "outcome": "ok", "recorded_at": "2026-01-01"}
    records.append(
        folder / "records.parquet", [{**shared, **row, "run_key": row["workload"]} for row in rows]
    )
    return folder


def phases(workload, loaded, forward, source="measured", **parts):
    peak_parts = {f"peak_{name}_bytes": size for name, size in parts.items()}
    return [
        {
            "workload": workload,
            "source": source,
            "phase_index": index,
            "step": index,
            "phase": name,
            "micro_batch": index,
            "peak_allocated_bytes": peak,
            **(peak_parts if index else {}),
        }
        for index, (name, peak) in enumerate((("model_loaded", loaded), ("forward", forward)))
    ]


def test_folders_pair_runs_by_workload_and_show_the_largest_change_first(capsys, tmp_path):
    before = record(
        tmp_path / "a",
        [
            *phases("gpt2, batch 1", 100, 300, activations=200, parameters=100),
            *phases("bert, batch 1", 100, 400),
            *phases("same", 10, 20),
            *phases("old", 1, 2),
            *phases("gpt2, batch 1", 1, 1, source="formula"),  # says nothing of what happened
        ],
    )
    after = record(
        tmp_path / "b",
        [
            *phases("bert, batch 1", 100, 390),
            *phases("gpt2, batch 1", 100, 350, activations=260, parameters=90),
            *phases("same", 10, 20),
        ],
    )
    found = as_json(capsys, before, after)
    assert (found["paired"], found["only_before"], found["only_after"]) == (3, ["old"], [])
    assert [run["workload"] for run in found["runs"]] == ["gpt2, batch 1", "bert, batch 1"]
    gpt2 = found["runs"][0]
    assert (gpt2["before_bytes"], gpt2["after_bytes"], gpt2["difference_bytes"]) == (300, 350, 50)
    assert [part["name"] for part in gpt2["phases"]] == ["step 1 forward"]
    assert {part["name"]: part["difference_bytes"] for part in gpt2["categories"]} == {
        "activations": 60,
        "parameters": -10,
    }
    assert main(["diff", str(before), str(after)]) == 0
    out = capsys.readouterr().out
    assert "3 runs in both: 1 with the same peaks, 2 changed" in out
    assert "only before: old" in out


def test_several_devices_in_a_folder_are_paired_each_with_its_own(capsys, tmp_path):
    folders = []
    for name, gpu_peak in (("a", 500), ("b", 540)):
        folder = record(tmp_path / name, phases("bert", 100, 400))
        rows = [{**row, "device": "t4"} for row in phases("bert", 120, gpu_peak, source="simulation")]
        record(folder / "t4", rows)
        folders.append(folder)
    found = as_json(capsys, *folders)
    assert (found["paired"], found["only_before"]) == (2, [])
    (run,) = found["runs"]
    assert (run["workload"], run["before_bytes"], run["after_bytes"]) == ("bert, t4", 500, 540)


def test_a_run_that_no_longer_fits_is_no_run_with_the_same_peaks(capsys, tmp_path):
    loaded, forward = phases("bert", 100, 400)
    before = record(tmp_path / "a", [loaded, forward])
    after = record(
        tmp_path / "b",
        [loaded, {**forward, "outcome": "out_of_memory"}, *phases("bert", 1, 2, source="simulation")],
    )
    found = as_json(capsys, before, after)
    assert (found["paired"], found["runs"]) == (1, [])
    assert (found["out_of_memory_before"], found["out_of_memory_after"]) == ([], ["bert"])
    assert main(["diff", str(before), str(after)]) == 0
    assert "out of memory only after: bert" in capsys.readouterr().out


def test_mistakes_get_one_line(capsys, files, tmp_path):
    hostile = tmp_path / "hostile"
    hostile.write_bytes(pickle.dumps(print))
    garbage = tmp_path / "garbage.parquet"
    garbage.write_bytes(b"PAR1 and nothing")
    (tmp_path / "empty").mkdir()
    other = record(tmp_path / "c", phases("of its own", 1, 2))
    saved = files / "a.parquet"
    for arguments, words in (
        ([saved, tmp_path / "missing"], "missing does not exist"),
        ([saved, hostile], "refused: the pickle asks for builtins.print"),
        ([saved, garbage], "not a readable trace"),
        ([saved, other], "give two of a kind"),
        ([tmp_path / "empty", other], "no records.parquet"),
        ([other, record(tmp_path / "d", phases("another", 1, 2))], "no workload in common"),
        ([saved, saved, "--output", tmp_path / "x.nonsense"], "nonsense"),
        ([other, other, "--output", tmp_path / "x.png"], "not of two folders"),
    ):
        assert main(["diff", *map(str, arguments)]) == 1
        error = capsys.readouterr().err
        assert words in error
        assert len(error.splitlines()) == 1


def test_a_recording_can_be_saved_and_compared(tmp_path):
    import torch

    import profiler

    model = torch.nn.Linear(64, 64)
    for name, batch in (("a", 10), ("b", 30)):
        with profiler.record(model) as recording:
            model(torch.randn(batch, 64)).sum().backward()
            model.zero_grad()
        recording.save(tmp_path / name)
    saved = load(tmp_path / "b")
    assert (saved.device, saved.name, saved.entries) == (Device("cpu"), "Linear", recording.run.entries)
    assert saved.peaks() == recording.run.peaks()
    found = difference(load(tmp_path / "a"), saved)
    assert found.difference_bytes > 0
    assert sum(part.difference_bytes for part in found.lines) == found.difference_bytes
