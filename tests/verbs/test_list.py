"""The experiments by name, wherever the command is given, and what is said where there are none."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments import catalog
from profiler.cli import main
from profiler.verbs import list as listing
from profiler.workload import Workload

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parents[2]


def test_every_file_of_the_folder_with_a_question_is_in_the_catalog(capsys):
    files = [path for path in (ROOT / "experiments").rglob("*.py") if "\nQUESTION = " in path.read_text()]
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(path.stem for path in files)
    assert all(line.endswith("?") for line in lines)


def test_every_experiment_asks_for_workloads_in_both_sizes_on_every_device():
    for name, experiment in catalog.WORKLOADS.items():
        small, full = (experiment.workloads(size, "cpu") for size in ("small", "full"))
        assert small, name
        assert len(full) >= len(small), name
        assert set(small) <= set(experiment.workloads("small", "absent")), name
    on_a_gpu = catalog.WORKLOADS["combined"].workloads("full", "cuda")
    assert {workload.model for workload in on_a_gpu} == {"bert-large", "llama-1b"}
    assert all(isinstance(workload, Workload) for workload in on_a_gpu)


def test_a_folder_of_the_users_own_called_experiments_changes_nothing(tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").write_text("raise RuntimeError('not the project's')")
    command = "import sys; sys.path.insert(1, sys.argv.pop()); from profiler.cli import main; main(['list'])"
    done = subprocess.run(
        [sys.executable, "-c", command, str(ROOT)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("naive_step ")


def test_an_installed_package_has_no_experiments_and_says_so_in_a_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(listing, "_CHECKOUT", tmp_path)
    for arguments in (["list"], ["run", "naive_step"]):
        assert main(arguments) == 1
        said = capsys.readouterr().err
        assert said == (
            "profiler: no experiments here: they come with a checkout of the project, not a package\n"
        )
