"""The word for a run is that of the engine that ran: measured, virtual or simulated."""

import shutil

import pytest

from experiments.activation_scaling import batch_sweep
from profiler.cli import main
from profiler.records import table as records
from profiler.records.comparison import side_by_side
from profiler.records.select import how_known
from profiler.views.figures.panels import views
from profiler.views.pages.results import results_page

A100 = "NVIDIA A100-SXM4-40GB"


def rows(key, sources, device_name):
    """The forward passes of a BERT with two batches, with what a formula says of them."""
    about = {"experiment": "x", "model": "bert-tiny", "layers": 0, "length": 64, "seed": 0, "micro_batch": 1}
    about |= {"attention": "sdpa", "optimizer": "sgd", "outcome": "ok", "phase_index": 1, "step": 1}
    about |= {"phase": "forward", "recorded_at": "2026-01-01", "device_name": device_name, "device": key}
    return [
        {
            **about,
            "run_key": f"{batch}-{key}",
            "workload": f"bert-tiny, {batch}",
            "batch": batch,
            "source": source,
            "allocated_bytes": 2000 * batch,
            "peak_allocated_bytes": 2000 * batch,
            "activations_bytes": 1000 * batch,
        }
        for batch in (1, 2)
        for source in (*sources, "formula")
    ]


CASES = [
    (("measured",), "some processor", ["measured"]),
    (("measured", "simulation"), A100, ["measured", "simulated"]),
    (("simulation",), "A100-40GB", ["simulated"]),
    (("simulation",), f"virtual {A100}", ["virtual"]),  # beside the CPU
    (("measured", "simulation"), f"virtual {A100}", ["virtual", "simulated"]),  # profiler run --virtual
]


@pytest.mark.parametrize(("sources", "device_name", "words"), CASES)
def test_every_view_says_what_gave_a_run(sources, device_name, words, tmp_path, capsys):
    found = records.frame(rows("a100", sources, device_name))
    assert how_known(found).tolist()[: len(words) + 1] == [*words, "formula"]

    place = device_name.removeprefix("virtual ")
    titles = [f"{word} on {place}" if word == "measured" else f"{word} {place}" for word in words]
    assert [view.words for view in views(found)] == titles
    panels = batch_sweep(found, {}).axes
    assert [axes.get_legend_handles_labels()[1] for axes in panels] == [["formula", word] for word in words]

    engines = side_by_side(found)["simulation_engine"].dropna().tolist()
    assert engines == [word for word in words[-1:] if "simulation" in sources for _ in (1, 2)]

    records.append(tmp_path / "records.parquet", rows("a100", sources, device_name))
    assert main(["show", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for word in words:
        assert f"2 of 2 {word} phase levels are what formula says to the byte" in said
        assert f"bert-tiny, 1, {word} on a100" in said
    assert f"{words[0]}, a100" in results_page(tmp_path, {})


def test_what_is_recorded_is_drawn_again_and_nothing_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("profiler.runs.rows.experiment_rows", lambda *_: pytest.fail("a run"))
    folder = tmp_path / "results" / "activation_checkpointing"
    shutil.copytree("results/cpu/activation_checkpointing", folder)
    drawn = [folder / "depth.png", folder / "depth.svg", folder / "comparison.csv"]
    before = (folder / "records.parquet").read_bytes()
    for path in drawn:
        path.write_text("old")
    assert main(["run", "--redraw", str(folder.parent)]) == 0
    assert str(folder / "depth.png") in capsys.readouterr().out
    assert drawn[0].stat().st_size > 10_000
    assert "two timings" in (svg := drawn[1].read_text())
    assert "virtual NVIDIA A100-SXM4-40GB" in svg
    # 28 runs of 9 phases on the CPU, and as many on the GPU.
    assert len(drawn[2].read_text().splitlines()) == 1 + 2 * 28 * 9
    assert (folder / "records.parquet").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "nothing recorded in"),
        (["--size", "small"], "--size is for a run"),
        (["naive_stepp"], "unknown experiment 'naive_stepp'; did you mean naive_step?"),
    ],
)
def test_drawing_again_what_is_not_there_is_one_line(tmp_path, capsys, more, words):
    assert main(["run", *more, "--redraw", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
