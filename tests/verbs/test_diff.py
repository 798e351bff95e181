"""What `profiler diff` says of its two sides, in Markdown too, and its exit code."""

import json

import pytest

from profiler import simulate
from profiler.cli import main
from profiler.gpu.cards import GPUS
from profiler.views.markdown import signed
from profiler.workload import Workload


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """mlp-tiny with 8 and 4096 samples on an A100, and with 4096 on an H100 with its larger workspaces."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {}
    for name, batch, gpu in (
        ("small", 8, "A100-40GB"),
        ("large", 4096, "A100-40GB"),
        ("other", 4096, "H100-80GB"),
    ):
        run = simulate(Workload("mlp-tiny", batch), GPUS[gpu], engine="simulated")
        path = folder / f"{name}.parquet"
        run.save(path)
        runs[name] = (path, run)
    return runs


def diff(capsys, saved, before, after, *words):
    code = main(["diff", str(saved[before][0]), str(saved[after][0]), *words])
    return code, capsys.readouterr().out


def test_markdown_has_both_peaks_and_their_parts(saved, capsys):
    code, out = diff(capsys, saved, "small", "large", "--markdown")
    assert code == 0
    lines = out.splitlines()
    small, large = saved["small"][1], saved["large"][1]
    grown = large.peak().allocated_bytes - small.peak().allocated_bytes
    assert grown > 0
    assert lines[0].startswith("### GPU memory: peak allocated ")
    assert signed(grown).replace("+", "") in lines[0]
    reserved = next(line for line in lines if line.startswith("| peak reserved"))
    assert signed(large.peak_reserved_bytes - small.peak_reserved_bytes) in reserved
    for title in ("by category", "by module", "by line"):
        assert any(f"<summary>{title}" in line for line in lines)
    tables = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in tables} == {5}


def test_the_exit_code_says_whether_a_peak_grew_by_more_than_allowed(saved, capsys):
    grown = saved["large"][1].peak().allocated_bytes - saved["small"][1].peak().allocated_bytes
    reserved = saved["large"][1].peak_reserved_bytes - saved["small"][1].peak_reserved_bytes
    most = max(grown, reserved)
    assert diff(capsys, saved, "small", "large")[0] == 0
    assert diff(capsys, saved, "small", "large", "--allow", f"{most}B")[0] == 0
    assert diff(capsys, saved, "small", "large", "--allow", f"{most - 1}B")[0] == 3
    assert diff(capsys, saved, "large", "small", "--allow", "0B", "--markdown")[0] == 0


def test_two_devices_are_named_and_warned_of(saved, capsys):
    _, out = diff(capsys, saved, "large", "other", "--json")
    said = json.loads(out)
    assert said["before_device"] == "a simulated A100-40GB"
    assert said["after_device"] == "a simulated H100-80GB"
    assert len(said["warnings"]) == 1
    _, shown = diff(capsys, saved, "large", "other")
    assert "The two ran on a simulated A100-40GB and a simulated H100-80GB" in shown
    _, same = diff(capsys, saved, "small", "large", "--json")
    assert json.loads(same)["warnings"] == []


def test_names_from_outside_are_text_in_markdown(saved, tmp_path, capsys):
    from dataclasses import replace

    path = tmp_path / "named.parquet"
    replace(saved["small"][1], name="<img src=x> | `a` [b](c)").save(path)
    main(["diff", str(path), str(saved["large"][0]), "--markdown"])
    out = capsys.readouterr().out
    assert "\\<img src=x\\> \\| \\`a\\` \\[b\\]\\(c\\)" in out
