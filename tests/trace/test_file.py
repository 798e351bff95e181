"""Allocation traces on disk: nothing is lost on the way, and broken files are refused."""

import json
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler import find_gpu, simulate
from profiler.device import SIMULATED, UNKNOWN, Device
from profiler.errors import ProfilerError
from profiler.gpu.device_used import in_total, process_terms
from profiler.trace.events import Allocation, Free, Mark, Place
from profiler.trace.file import COLUMNS
from profiler.trace.ledger import CATEGORIES
from profiler.trace.load import load, read_run
from profiler.trace.phase import FORWARD, MODEL_LOADED, Phase
from profiler.trace.run import Refusal, Run
from profiler.views.memory_viz import memory_viz
from profiler.workload import Workload
from tests.support.runs import run_of

pytestmark = pytest.mark.quick

SIZES = st.integers(0, 2**47)  # bytes, and addresses of today's machines
WORDS = st.text(max_size=8)
CATEGORY = st.sampled_from(CATEGORIES)
PLACES = st.none() | st.builds(Place, WORDS, WORDS)
ENTRIES = st.lists(
    st.builds(Allocation, SIZES, SIZES, SIZES, WORDS, st.just("") | CATEGORY, PLACES)
    | st.builds(Free, SIZES)
    | st.builds(
        Mark, st.builds(Phase, st.integers(0, 9), WORDS, st.integers(0, 9)), st.dictionaries(SIZES, CATEGORY)
    ),
    max_size=30,
)


@settings(max_examples=30, deadline=None)
@given(ENTRIES)
def test_entries_come_back_as_they_were(tmp_path_factory, entries):
    path = tmp_path_factory.mktemp("trace") / "run.parquet"
    run_of(entries).save(path)
    assert read_run(path).entries == entries


def test_a_run_comes_back_whole(tmp_path):
    """A simulated step that runs out of memory: all that its page, its difference and its snapshot need."""
    context_bytes = in_total(process_terms(find_gpu("24 GiB"))).typical_bytes  # of any card given by its size
    gpu = find_gpu(f"{(context_bytes >> 20) + 17} MiB")
    run = simulate(Workload("mlp-tiny", 32, optimizer="sgd"), gpu, "max_split_size_mb:40", "simulated")
    assert run.out_of_memory is not None
    assert run.out_of_memory.request == run.refusals[-1]
    path = tmp_path / "run.parquet"
    run.save(path)
    again = read_run(path)
    lists = {"entries": list, "reserved_bytes": list, "segment_changes": dict, "provenance": dict}
    for field in fields(Run):
        alike = lists.get(field.name, lambda value: value)
        assert alike(getattr(again, field.name)) == alike(getattr(run, field.name)), field.name
    assert again.peaks() == run.peaks()
    assert again.peak_reserved_bytes == run.peak_reserved_bytes == max(run.reserved_bytes) > 0
    assert memory_viz(again) == memory_viz(run)


DAMAGES = {
    "no version": lambda said: said.pop("version"),
    "another version": lambda said: said.update(version=2),
    "no device": lambda said: said.pop("device"),
    "a GPU without memory": lambda said: said["device"]["gpu"].pop("memory_bytes"),
    "a GPU in words": lambda said: said["device"].update(gpu="H100"),
    "a device that there is not": lambda said: said["device"].update(kind="abacus"),
    "memory beyond all": lambda said: said["device"]["gpu"].update(memory_bytes=2**61),
    "a request after the end": lambda said: said["refusals"][0].update(position=9),
    "a name that is none": lambda said: said.update(name=7),
    "a batch in words": lambda said: said["workload"].update(batch="8"),
    "provenance in a list": lambda said: said.update(provenance=[1]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_no_run_has_written_is_one_line(tmp_path, damage):
    path = tmp_path / "run.parquet"
    known = {"workload": Workload("mlp", 8), "refusals": (Refusal(512, "mm", None, -1),)}
    run_of([Allocation(512, 512, 512)], device=Device(SIMULATED, find_gpu("T4")), **known).save(path)
    assert read_run(path).refusals == known["refusals"]
    table = pq.read_table(path)
    (name,) = table.schema.metadata
    said = json.loads(table.schema.metadata[name])
    DAMAGES[damage](said)
    pq.write_table(table.replace_schema_metadata({name: json.dumps(said)}), path)
    with pytest.raises(ProfilerError, match=f"{path} is not a readable trace|unknown") as error:
        read_run(path)
    assert "\n" not in str(error.value)


def test_a_file_of_before_says_what_it_leaves_open(tmp_path):
    path = tmp_path / "run.parquet"
    entries = [Allocation(512, 1024, 1000, "mm"), Mark(Phase(1, FORWARD), {512: "parameters"}), Free(512)]
    run_of(entries[:2], [2048, 2048]).save(path)
    table = pd.read_parquet(path)[list(COLUMNS)]
    table.to_parquet(path, index=False)
    run = load(path)
    assert (run.device, run.entries, run.reserved_bytes) == (Device(UNKNOWN), entries[:2], [])
    assert (run.peak_allocated_bytes, run.peak_reserved_bytes, run.provenance) == (1024, None, {})
    assert "does not say where it ran" in run.note


def test_a_trace_is_small(tmp_path):
    path = tmp_path / "run.parquet"
    entries = []
    for step in range(100):  # the same 100 blocks again and again, as a training loop takes them
        for block in range(100):
            entries.append(Allocation(0x7F0000000000 + block * 512, 512, 500, "aten::mm"))
        entries += [Free(0x7F0000000000 + block * 512) for block in range(100)]
        entries.append(Mark(Phase(step, FORWARD, 1), {}))
    run_of(entries).save(path)
    assert path.stat().st_size < len(entries)  # less than a byte an event


def test_labels_belong_to_their_own_mark(tmp_path):
    path = tmp_path / "run.parquet"
    marks = [
        Mark(Phase(0, MODEL_LOADED), {512: "parameters"}),
        Mark(Phase(1, FORWARD, 1), {512: "parameters", 1024: "inputs"}),
        Mark(Phase(1, "backward", 1), {}),
    ]
    run_of(marks).save(path)
    assert [mark.labels for mark in read_run(path).entries] == [mark.labels for mark in marks]


def test_what_is_no_trace_is_refused(tmp_path):
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 nothing")
    other = Path(__file__).parents[2] / "results/cpu/naive_step/records.parquet"
    for path in (broken, other, tmp_path / "missing.parquet"):
        with pytest.raises(ProfilerError, match="trace"):
            read_run(path)
