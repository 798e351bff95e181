"""The pages and the exports, against bytes known by hand, a real browser, and PyTorch's own reader."""

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
from profiler.cli import main
from profiler.device import SIMULATED, Device
from profiler.gpu.cards import find_gpu
from profiler.gpu.replay import replay
from profiler.gpu.snapshot import load_snapshot
from profiler.runs.user_loop import run_loop_on
from profiler.trace.load import load
from profiler.views.memory_viz import memory_viz
from profiler.views.pages.run import run_page
from tests.benchmarks.large_snapshots import write
from tests.support.browser import browser, find_browser

MIB = 2**20


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of an MLP whose 37,801,994 parameters take 144.2 MiB, and whose activations of 4096 samples
    are 64 MiB each."""
    folder = tmp_path_factory.mktemp("report")
    words = [
        "mlp",
        "--batch",
        "4096",
        "-o",
        "report.html",
        "--memory-viz",
        "viz.pickle",
        "--trace",
        "trace.json",
        "--save",
        "run.parquet",
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
    assert done.stdout.split() == ["report.html", "viz.pickle", "trace.json", "run.parquet"]
    return folder


class _Balanced(HTMLParser):
    """Fails on a tag that closes what is not open."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "li"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(text):
    """The page's tags, all closed; it asks for nothing outside of itself."""
    page = _Balanced()
    page.feed(text)
    assert page.open == []
    for _, attributes in page.seen:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    return page


def test_the_page_is_whole_and_its_numbers_are_the_runs(files):
    text = (files / "report.html").read_text()
    page = parsed(text)
    assert [tag for tag, _ in page.seen].count("tr") >= 1 + 9  # nine phases and their head
    # The weights, and Adam's two moments of each.
    assert re.search(r'parameters</td><td class="number">144.20 MiB', text)
    assert re.search(r'optimizer states</td><td class="number">288.4\d MiB', text)
    # The formula says how, and by what source.
    formula = re.sub(r"<[^>]+>", " ", text.partition("<h2>Formula</h2>")[2])
    assert "4 B × 37,801,994 parameters" in formula
    assert "torch/optim/adam.py" in formula


def test_a_run_and_a_snapshot_become_pages_too(files, capsys):
    for name in ("run.parquet", "viz.pickle"):
        out = files / f"{name}.html"
        assert main(["report", str(files / name), "-o", str(out)]) == 0
        text = out.read_text()
        parsed(text)
        assert re.search(r'optimizer states</td><td class="number">288.4\d MiB', text)
    (files / "plain.pickle").write_bytes(pickle.dumps(without_our_frames(files / "viz.pickle"), protocol=4))
    assert main(["report", str(files / "plain.pickle"), "-o", str(out)]) == 0
    text = out.read_text()
    assert "freed within the recording" in text  # a recording of torch names no owners
    assert ">optimizer states<" not in text
    assert main(["report", str(files / "run.parquet"), "--batch", "2", "-o", str(out)]) == 1
    assert "for a run that is predicted now" in capsys.readouterr().err


def test_a_saved_run_is_exported_and_saved_as_it_was_when_it_was_simulated(files):
    again = {
        name: files / f"again-{name}" for name in ("viz.pickle", "trace.json", "run.parquet", "page.html")
    }
    viz, trace, run, page = again.values()
    written = ["--memory-viz", viz, "--trace", trace, "--save", run, "-o", page]
    assert main(["report", str(files / "run.parquet"), *map(str, written)]) == 0
    assert pickle.loads(viz.read_bytes()) == pickle.loads((files / "viz.pickle").read_bytes())
    assert json.loads(trace.read_text()) == json.loads((files / "trace.json").read_text())
    assert "of the 39.39 GiB of A100-40GB" in page.read_text()


def without_our_frames(path):
    snapshot = pickle.loads(path.read_bytes())
    for event in snapshot["device_traces"][0]:
        event["frames"] = [frame for frame in event["frames"] if frame["filename"].endswith(".py")]
    return snapshot


def test_a_folder_of_results_becomes_one_page(tmp_path, capsys):
    folder = Path(profiler.__file__).parents[1] / "results" / "cpu"
    out = tmp_path / "results.html"
    assert main(["report", str(folder), "-o", str(out)]) == 0
    text = out.read_text()
    page = parsed(text)
    experiments = [path for path in folder.iterdir() if path.is_dir()]
    assert text.count("<h2") == len(experiments)
    assert text.count("<img") == len({path.with_suffix("") for path in folder.rglob("*.png")})
    assert "does the textbook formula say so?" in text
    assert len([tag for tag, _ in page.seen if tag == "details"]) >= len(experiments)

    (tmp_path / "empty").mkdir()
    assert main(["report", str(tmp_path / "empty")]) == 1
    assert "no results in" in capsys.readouterr().err


needs_browser = pytest.mark.skipif(find_browser() is None, reason="no chromium or chrome on the PATH")

# The window's coordinates of the middle of the first activation's band, where the first forward ends.
_FIRST_ACTIVATION = """(() => {
  const svg = document.getElementById("timeline"), box = svg.getBoundingClientRect();
  const scale = box.width / svg.viewBox.baseVal.width;
  const end = +svg.querySelectorAll("line.phase")[1].getAttribute("x1");
  const band = svg.querySelector('polygon[fill="#56B4E9"]').getAttribute("points");
  const ys = band.split(" ").map(p => p.split(",").map(Number)).filter(p => p[0] === end).map(p => p[1]);
  return [box.left + end * scale, box.top + (Math.max(...ys) - 3) * scale];
})()"""


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_pointer_over_a_block_is_told_its_category_module_and_line(files, tmp_path, scheme):
    with browser(tmp_path) as tab:
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        tab.open(files / "report.html")
        assert tab.evaluate("document.getElementById('tooltip').hidden") is True
        x, y = tab.evaluate(_FIRST_ACTIVATION)
        tab.move_pointer(x, y)
        said = tab.evaluate("document.getElementById('tooltip').innerText")
        # What ReLU gives is the first thing kept for the backward pass: 4096 samples of 4096 floats.
        assert said.startswith("activations 64.00 MiB\n")
        for words in (
            "layers.0.1",
            "built_in.py:76 forward",
            "aten::",
            "born in step 1 forward, freed in step 1",
        ):
            assert words in said
        assert tab.evaluate("document.getElementById('block').getAttribute('points').length") > 0
        tab.move_pointer(2, 2)
        assert tab.evaluate("document.getElementById('tooltip').hidden") is True
        paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
        assert tab.requests() == []
        assert tab.errors() == []


@needs_browser
def test_a_click_lists_what_is_alive_there_and_it_adds_up(files, tmp_path):
    run = load(files / "run.parquet")
    with browser(tmp_path) as tab:
        tab.open(files / "report.html")
        x, y = tab.evaluate(_FIRST_ACTIVATION)
        for kind in ("mousePressed", "mouseReleased"):
            tab.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        said = tab.evaluate("document.getElementById('alive').innerText")
        for words in ("Alive here, in step 1 forward", "by category", "by module", "by line", "144.20 MiB"):
            assert words in said
        positions = tab.evaluate("data.positions")
        for at in range(0, len(positions), 7):
            parts = f"Object.entries(aliveAt({at})).map(([kind, sizes]) => [kind, Object.fromEntries(sizes)])"
            found = tab.evaluate(f"Object.fromEntries({parts})")
            alive = {name.replace("_", " "): size for name, size in run.by_category(positions[at]).items()}
            assert found["category"] == alive
            assert found["line"] == run.by_line(positions[at])
            assert found["module"] == {s.name: s.size_bytes for s in run.by_module(positions[at])}
        assert tab.errors() == []


def test_the_formula_is_laid_over_the_picture(files):
    text = (files / "report.html").read_text()
    data = json.loads(re.search(r"const data = (.*);\n", text)[1])
    # Before the first step there are the weights alone; then gradients, and states from the optimizer on.
    assert data["predicted"]["model_loaded"] == 4 * 37_801_994
    assert text.count('<line class="bound"') == len(data["phases"]) == 9
    assert "the formula, at least" in text


@needs_browser
def test_a_page_of_100_000_events_moves_smoothly(tmp_path):
    write(tmp_path / "large.pickle", 100_000, own_stacks=False, seed=1)
    (tmp_path / "page.html").write_text(run_page(load(tmp_path / "large.pickle")))
    with browser(tmp_path / "profile") as tab:
        tab.open(tmp_path / "page.html")
        took = tab.evaluate("""(() => {
          const box = svg.getBoundingClientRect(), took = [];
          for (let i = 0; i < 200; i++) {
            const [x, y] = [0.1 + 0.8 * ((i * 37) % 200) / 200, ((i * 71) % 200) / 200];
            const event = {clientX: box.left + box.width * x, clientY: box.top + box.height * y};
            const start = performance.now();
            show(event); svg.getBBox();
            took.push(performance.now() - start);
          }
          return took.sort((a, b) => a - b);
        })()""")
        wrong = tab.evaluate(
            "data.positions.filter((_, at) => Object.values(aliveAt(at)).some("
            "sizes => [...sizes.values()].reduce((a, b) => a + b, 0) !== data.allocated[at])).length"
        )
    assert wrong == 0
    assert took[len(took) // 2] < 16.7  # of a frame, in milliseconds, of which it takes one
    assert (tmp_path / "page.html").stat().st_size < 4_000_000


def test_pytorchs_own_reader_takes_the_snapshot(files):
    from torch.cuda import _memory_viz

    with (files / "viz.pickle").open("rb") as file:
        snapshot = pickle.load(file)
    trace = snapshot["device_traces"][0]
    alive = 0
    for event in trace:
        alive += {"alloc": 1, "free_completed": -1}.get(event["action"], 0) * event["size"]
        assert alive >= 0
    blocks = [block for segment in snapshot["segments"] for block in segment["blocks"]]
    held = [block for block in blocks if block["state"] == "active_allocated"]
    assert sum(block["requested_size"] for block in held) == alive
    # After the last zero_grad: the weights and Adam's two moments, three times two layers of 64 MiB.
    assert sum(block["requested_size"] == 4096 * 4096 * 4 for block in held) == 6
    assert all(block["frames"] for block in held)
    taken = {"segment_alloc": 1, "segment_free": -1}
    reserved = sum(taken.get(event["action"], 0) * event["size"] for event in trace)
    assert reserved == sum(segment["total_size"] for segment in snapshot["segments"])

    summary = _memory_viz.segsum(snapshot)  # it asserts that blocks fill their segments
    assert f"segments: {len(snapshot['segments'])}\n" in summary
    assert _memory_viz.trace(snapshot).count(":64.0MiB]") >= 6
    assert "cudaMalloc(" in _memory_viz.trace(snapshot)
    for page in (
        _memory_viz.trace_plot(snapshot),
        _memory_viz.trace_plot(snapshot, plot_segments=True),
        _memory_viz.segment_plot(snapshot),
    ):
        assert len(page) > 10_000


def test_the_allocator_model_gives_every_address_of_the_snapshot(files):
    (found,) = replay(load_snapshot(files / "viz.pickle"))
    assert found.verdict == "exact"
    assert found.allocations > 100


def test_emptying_the_cache_is_in_the_snapshot(tmp_path, capsys):
    """64 MiB freed, given back, and taken again: two segments of that size, one of them freed."""
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def main(device):\n"
        "    model = torch.nn.Linear(8, 8).to(device)\n"
        "    optimizer = torch.optim.SGD(model.parameters(), 0.1)\n"
        "    for _ in range(2):\n"
        "        kept = torch.empty(4096, 4096, device=device)\n"
        "        model(torch.ones(8, 8, device=device)).sum().backward()\n"
        "        optimizer.step()\n"
        "        optimizer.zero_grad()\n"
        "        del kept\n"
        "        torch.cuda.empty_cache()\n"
        "    model(torch.ones(8, 8, device=device)).sum().backward()\n"
    )
    simulation = run_loop_on(f"{tmp_path / 'mine.py'}:main", Device(SIMULATED, find_gpu("A100-40GB")))
    (trace,) = memory_viz(simulation)["device_traces"]
    of_64_mib = [event["action"] for event in trace if event["size"] == 64 * MIB]
    assert of_64_mib.count("segment_alloc") == of_64_mib.count("segment_free") == 2


def test_the_trace_counts_what_the_run_had(files):
    events = json.loads((files / "trace.json").read_text())["traceEvents"]
    phases = [event["name"] for event in events if event["ph"] == "X"]
    assert phases[:4] == ["model_loaded", "step 1 forward", "step 1 backward", "step 1 optimizer_step"]
    allocated = [e["args"] for e in events if e["ph"] == "C" and e["name"] == "allocated bytes"]
    reserved = [e["args"]["reserved"] for e in events if e["ph"] == "C" and e["name"] == "reserved bytes"]
    assert max(values["parameters"] for values in allocated) == 4 * 37_801_994
    assert all(sum(a.values()) <= r for a, r in zip(allocated, reserved, strict=True))
