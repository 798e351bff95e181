import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from profiler.cli import main
from profiler.records.table import read
from profiler.runs import rows


def test_help_answers_at_once_without_torch():
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "profiler", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.perf_counter() - started < 2
    assert "usage: profiler" in done.stdout
    assert not any(name in done.stderr for name in ("torch", "pandas", "matplotlib"))


def test_help_has_every_verb_in_one_of_four_groups_and_each_verb_explains_itself(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    groups = [line.rstrip(":") for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    assert groups == ["options", "your model", "files", "experiments", "reference"]
    verbs = [line.split()[0] for line in text[text.index("your model:") :].splitlines() if line[:2] == "  "]
    files = (Path(__file__).parents[1] / "profiler" / "verbs").glob("[!_]*.py")
    assert sorted(verbs) == sorted({path.stem.replace("_", "-") for path in files} - {"options"})
    for verb in verbs:
        with pytest.raises(SystemExit) as ended:
            main([verb, "--help"])
        assert ended.value.code == 0
        assert f"usage: profiler {verb}" in capsys.readouterr().out


def test_list_names_each_experiment_with_its_question(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("naive_step ") and line.endswith("?") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "naive_stepp"], "did you mean naive_step?"),
        (["run", "naive_step", "--limit", "lots"], "'lots' is not a size"),
        (["show", "/nonexistent"], "does not exist"),
    ],
)
def test_mistakes_get_one_line_and_a_nonzero_exit(capsys, arguments, words):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1


def test_asking_for_a_gpu_that_is_not_there(capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["run", "naive_step", "--device", "cuda"]) == 1
    assert "no CUDA device" in capsys.readouterr().err


def test_a_corrupt_record_file_stops_the_run_before_it_starts(tmp_path, capsys):
    folder = tmp_path / "cpu-small" / "activation_scaling"
    folder.mkdir(parents=True)
    (folder / "records.parquet").write_bytes(b"garbage")
    words = ["--device", "cpu", "--size", "small", "--results", str(tmp_path)]
    assert main(["run", "activation_scaling", *words]) == 1
    assert "is not a readable Parquet file" in capsys.readouterr().err
    assert (folder / "records.parquet").read_bytes() == b"garbage"


def test_a_results_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "results").write_text("a file where the folder should be")
    arguments = ["--device", "cpu", "--size", "small", "--results", str(tmp_path / "results")]
    assert main(["run", "activation_scaling", *arguments]) == 1
    assert "cannot write to" in capsys.readouterr().err


def test_a_killed_run_continues_where_it_was_and_predicts_again_without_measuring(
    tmp_path, monkeypatch, capsys
):
    words = ["run", "gradient_accumulation", "--device", "cpu", "--size", "small", "--results", str(tmp_path)]
    command = [sys.executable, "-m", "profiler", *words]
    path = tmp_path / "cpu-small" / "gradient_accumulation" / "records.parquet"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    kept = pd.read_parquet(path)
    finished = kept["run_key"].nunique()
    assert 1 <= finished < 10

    assert main(words) == 0
    assert f"{finished} of 10 runs recorded already" in capsys.readouterr().out
    everything = pd.read_parquet(path)
    assert everything["run_key"].nunique() == 10  # 5 measured, 5 on a GPU that is not there
    pd.testing.assert_frame_equal(everything.head(len(kept)), kept)
    assert (path.parent / "gpt2-tiny.png").stat().st_size > 10_000

    assert main(["show", str(tmp_path)]) == 0

    run = rows.run_in_fresh_process

    def refuse(workload, device, *how):
        assert not device.is_here, "measured again"
        return run(workload, device, *how)

    monkeypatch.setattr(rows, "run_in_fresh_process", refuse)
    assert main([*words, "--repredict"]) == 0
    after = read(path)
    sources = [(after["source"] == name).sum() for name in ("measured", "formula", "textbook", "simulation")]
    before = [
        (everything["source"] == name).sum() for name in ("measured", "formula", "textbook", "simulation")
    ]
    assert sources == [before[0], *(2 * count for count in before[1:])]
