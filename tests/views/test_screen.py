"""What reaches a terminal, a pipe, and a place that knows ASCII only."""

import io
import os
import pickle
import random
import subprocess
import sys

import pytest

from profiler.device import CPU, Device
from profiler.trace.difference import difference
from profiler.trace.events import Allocation, Mark, Place
from profiler.trace.phase import Phase
from profiler.trace.run import Run
from profiler.views import screen
from profiler.views.figures import style
from profiler.views.figures.difference import draw
from profiler.views.figures.timeline import timeline
from tests.support.mutations import snapshot

HOSTILE = (
    *("[red]layer", "[/head]", "[bold]x[/bold]", "a[1]", ":smile:"),
    *("\x1b]0;owned\x07", "x\r\x1b[2Ky", "\u202etxt"),
)


def printed(terminal: bool, what) -> str:
    console = screen.console()
    console.file = io.StringIO()
    console._force_terminal = terminal
    console.print(what)
    return console.file.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("words", HOSTILE)
def test_a_name_from_outside_is_shown_as_it_is_wherever_it_is_printed(words, terminal):
    table = screen.table(words, screen.number(words), title=words)
    table.add_row(words, words)
    for what, times in ((words, 1), (screen.styled((words, "bold")), 1), (table, 5)):
        text = printed(terminal, what)
        assert text.count(screen.plain(words)) == times
        for sequence in ("\x1b]", "\x1b[2K", "\r", "\x07", "\u202e"):
            assert sequence not in text


def test_plain_keeps_all_that_is_seen():
    assert screen.plain("Größe × 2 → 3\n\tλ") == "Größe × 2 → 3\n\tλ"
    assert screen.plain("\x1b[31m\x00\x9b") == "\\x1b[31m\\x00\\x9b"


def test_words_are_folded_and_never_cut_off():
    long = "module." * 60
    table = screen.table("name", screen.number("bytes"))
    table.add_row(long, "1 B")
    text = printed(False, table)
    assert "…" not in text
    assert "".join(c for c in text if c in "module.").count("module.") == 60


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "profiler", *arguments],
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_output_in_ascii_replaces_what_it_lacks(tmp_path):
    done = run("predict", "gpt2-tiny", "--length", "8", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert b"batch 1 x 8" in done.stdout
    assert max(done.stdout) < 128


def test_a_folder_that_is_not_text_can_be_named_in_an_error(tmp_path):
    folder = os.fsencode(tmp_path) + b"/\xff[red]"
    done = run("show", folder)
    assert done.returncode == 1
    assert b"[red] does not exist" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_nobody_reading_is_no_traceback():
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "profiler", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_dollar_signs_in_names_are_drawn_as_they_are(tmp_path):
    """In matplotlib what stands between two of them is a formula, and most are none."""
    places = ["$h$.mlp", "cost $\\frac{1}{2", "a$b$c_{d$", "_^$$"]
    entries = [
        Allocation(512 * (i + 1), 512, 500, f"op {place}", "", Place(place, f"{place}.py:1 f"))
        for i, place in enumerate(places)
    ]
    before = Run(Device(CPU), "$x$ of $y", [*entries[:2], Mark(Phase(1, "forward"), {})])
    after = Run(Device(CPU), "$x$ of $y", [*entries, Mark(Phase(1, "$forward"), {})])
    style.use_style()
    draw(difference(before, after), "$before$ → $after", tmp_path / "a.svg")
    (_, drawn) = style.save(timeline(after), tmp_path, "timeline")
    text = (tmp_path / "a.svg").read_text() + drawn.read_text()
    for name in ("$before$ → $after", "a$b$c_{d$", "_^$$", "$x$ of $y on the CPU"):
        assert f"<!-- {name}" in text


@pytest.mark.parametrize("verb", ["replay", "report", "diff", "show"])
def test_every_verb_speaks_ascii_and_to_a_closed_pipe(tmp_path, verb):
    path = tmp_path / "größe [red].pickle"
    data = snapshot(random.Random(0))
    data["device_traces"][0][0]["frames"] = [{"filename": "größe.py", "line": 1, "name": "日本\x1b[2J"}]
    path.write_bytes(pickle.dumps(data))
    words = {
        "report": ["report", str(path), "-o", str(tmp_path / "ö.html")],
        "diff": ["diff", str(path), str(path)],
        "show": ["show", str(tmp_path)],
    }.get(verb, [verb, str(path)])
    for environment in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}):
        done = run(*words, PYTHONUTF8="0", **environment)
        assert done.returncode in (0, 1), done.stderr
        assert b"Traceback" not in done.stderr
        assert max(done.stdout + done.stderr) < 128
        assert b"\x1b[2J" not in done.stdout
    closed = subprocess.Popen(
        [sys.executable, "-u", "-m", "profiler", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    closed.stdout.close()
    assert b"Traceback" not in closed.stderr.read()
    assert closed.wait() in (1, 141)
