"""The report and the exports of one small simulated run, against the run and against PyTorch's own reader."""

import json
import os
import pickle
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import profiler

MIB = 2**20


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """report.html, viz.pickle and trace.json of the MLP whose 37,801,994 parameters take 144.2 MiB."""
    folder = tmp_path_factory.mktemp("report")
    words = [
        "mlp",
        "--batch",
        "64",
        "-o",
        "report.html",
        "--memory-viz",
        "viz.pickle",
        "--trace",
        "trace.json",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "profiler", "report", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(profiler.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["report.html", "viz.pickle", "trace.json"]
    return folder


class _Balanced(HTMLParser):
    """Fails on a tag that closes what is not open."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_asks_the_network_for_nothing(files):
    text = (files / "report.html").read_text()
    page = _Balanced()
    page.feed(text)
    assert page.open == []
    assert not any(name in ("src", "href") for _, attributes in page.seen for name in attributes)
    assert "http" not in text
    assert [tag for tag, _ in page.seen].count("tr") >= 1 + 9  # nine phases and their head
    # Parameters, gradients, Adam's two moments and one foreach temporary: five times the weights.
    assert "At the peak" in text
    assert re.search(r"parameters</td><td class=\"number\">144.20 MiB", text)
    assert re.search(r"optimizer states</td><td class=\"number\">288.4\d MiB", text)


def test_what_is_said_under_the_pointer_is_the_run(files):
    text = (files / "report.html").read_text()
    points = json.loads(re.search(r"const points = (\[.*?\]), svg", text)[1])
    assert [point["x"] for point in points] == sorted(point["x"] for point in points)
    said = " ".join(point["text"] for point in points)
    for word in ("step 1 forward", "step 2 optimizer_step", "layers.0", "models.py:"):
        assert word in said


def test_pytorchs_own_reader_takes_the_snapshot(files):
    from torch.cuda import _memory_viz

    with (files / "viz.pickle").open("rb") as file:
        snapshot = pickle.load(file)
    alive = 0
    for event in snapshot["device_traces"][0]:
        alive += {"alloc": 1, "free_completed": -1}.get(event["action"], 0) * event["size"]
        assert alive >= 0
    assert _memory_viz.trace(snapshot).count(":64.0MiB]") >= 2  # the two large layers' weights
    assert len(_memory_viz.trace_plot(snapshot)) > 10_000
    sizes = [event["size"] for event in snapshot["device_traces"][0] if event["action"] == "alloc"]
    assert sizes.count(4096 * 4096 * 4) >= 2  # the two large layers' weights


def test_the_trace_counts_what_the_run_had(files):
    events = json.loads((files / "trace.json").read_text())["traceEvents"]
    phases = [event["name"] for event in events if event["ph"] == "X"]
    assert phases[:4] == ["model_loaded", "step 1 forward", "step 1 backward", "step 1 optimizer_step"]
    allocated = [e["args"] for e in events if e["ph"] == "C" and e["name"] == "allocated bytes"]
    reserved = [e["args"]["reserved"] for e in events if e["ph"] == "C" and e["name"] == "reserved bytes"]
    assert max(values["parameters"] for values in allocated) == 4 * 37_801_994
    assert all(sum(a.values()) <= r for a, r in zip(allocated, reserved, strict=True))
