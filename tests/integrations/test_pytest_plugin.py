"""The pytest plugin, in a pytest of its own."""

import json
import os
import re
from pathlib import Path

import pytest

import profiler
from profiler.advice import baseline as baselines
from profiler.advice.baseline import Peak
from profiler.errors import ProfilerError
from profiler.gpu.virtual.private_cache import default_cache

pytest_plugins = "pytester"
MIB = 2**20
CACHE = default_cache().parents[1]  # a test has a home of its own: the virtual GPU would be compiled anew

# 4 layers of 512 × 512 in float32 are 4 MiB; with Adam at least 16.
USER = """
import pytest, torch
from torch import nn

WIDTH = 512

def make_model():
    return nn.Sequential(*[nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4)])

def make_batch(batch, length, device):
    return torch.ones(batch, WIDTH, device=device)

def compute_loss(model, batch):
    return model(batch).sum()

{mark}
def test_step(memory_step):
    run = memory_step(make_model, batch=2)
    assert run.parameters == 4 * WIDTH * WIDTH
"""


def run(pytester: pytest.Pytester, *words: str) -> pytest.RunResult:
    os.environ["PYTHONPATH"] = str(Path(profiler.__file__).parents[1])
    return pytester.runpytest_inprocess(
        "-p", "no:everybyte", "-p", "profiler.integrations.pytest_plugin", *words
    )


@pytest.fixture(autouse=True)
def environment_as_before(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE))


def test_a_step_within_its_limit_passes_and_one_beyond_names_what_it_is_made_of(pytester):
    pytester.makepyfile(
        test_within=USER.format(mark='@pytest.mark.memory_limit("64MB", device="T4")'),
        test_beyond=USER.format(mark='@pytest.mark.memory_limit("16 MiB", device="4090")'),
    )
    result = run(pytester, "--strict-markers")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["the step takes * more than the limit of 16.00 MiB", "*by category: *optimizer states 8.00 MiB*"]
    )
    result.stdout.fnmatch_lines(["*by module: 0 *, 3 *"])
    assert "Traceback" not in result.stdout.str()


def test_a_baseline_is_begun_kept_and_noticed(pytester):
    path = pytester.makepyfile(test_user=USER.format(mark=""))
    begun = run(pytester, "--memory-baseline", "memory.json")
    begun.assert_outcomes(passed=1)
    begun.stdout.fnmatch_lines(["memory baseline: 1 peak written to memory.json"])
    kept = json.loads((pytester.path / "memory.json").read_text())
    assert list(kept["peaks"]) == ["test_user.py::test_step"]
    assert kept["peaks"]["test_user.py::test_step"]["categories"]["parameters"] == 4 * MIB
    assert kept["peaks"]["test_user.py::test_step"]["workload"] == "test_user.py:make_model, batch 2, adam"
    before = (pytester.path / "memory.json").read_bytes()

    path.write_text(path.read_text().replace("WIDTH = 512", "WIDTH = 1024"))  # 12 MiB more of parameters
    grown = run(pytester, "--memory-baseline", "memory.json")
    grown.assert_outcomes(failed=1)
    grown.stdout.fnmatch_lines(
        [
            "the reserved peak grew by * 1 % is allowed*",
            "  categories since the baseline: optimizer states +24.00 MiB, *",
            "  modules since the baseline: * 3 +12.00 MiB, (forward) *, reserved and not allocated: *",
        ]
    )
    assert (pytester.path / "memory.json").read_bytes() == before

    run(pytester, "--memory-baseline", "memory.json", "--memory-baseline-update").assert_outcomes(passed=1)
    assert json.loads((pytester.path / "memory.json").read_text()) != json.loads(before)


def test_tests_in_several_processes_put_all_their_peaks_into_the_baseline(pytester):
    for name in ("one", "two"):
        pytester.makepyfile(**{f"test_{name}": USER.format(mark="")})
    result = run(pytester, "-n", "2", "--dist", "loadfile", "--memory-baseline", "memory.json")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["memory baseline: 2 peaks written to memory.json"])
    kept = json.loads((pytester.path / "memory.json").read_text())["peaks"]
    assert list(kept) == ["test_one.py::test_step", "test_two.py::test_step"]
    assert {peak["categories"]["parameters"] for peak in kept.values()} == {4 * MIB}


def test_sessions_at_once_lose_no_peak_of_the_other(tmp_path):
    path = tmp_path / "memory.json"
    baselines.add_to_baseline(path, {"a": peak(1)})
    baselines.add_to_baseline(path, {"b": peak(2)})  # read before "a" was written or after it: both stay
    assert baselines.read_baseline(path) == {"a": peak(1), "b": peak(2)}


@pytest.mark.parametrize(
    "content", ["", "[]", '{"version": 1}', "[" * 100_000, '{"version": 1, "peaks": [1]}']
)
def test_what_is_no_baseline_is_one_line(tmp_path, content):
    (tmp_path / "memory.json").write_text(content)
    for path in (tmp_path / "memory.json", tmp_path):
        with pytest.raises(ProfilerError, match="baseline") as caught:
            baselines.read_baseline(path)
        assert "\n" not in str(caught.value)


def test_what_cannot_be_simulated_fails_with_the_users_line(pytester):
    pytester.makepyfile(
        test_user=USER.format(mark="").replace("return model(batch).sum()", "return model(batch).summ()")
    )
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["cannot be run: *summ*test_user.py:13*"])


def test_a_wrong_mark_or_baseline_is_a_usage_error(pytester):
    pytester.makepyfile(test_user=USER.format(mark='@pytest.mark.memory_limit("lots")'))
    assert "'lots' is not a size" in run(pytester).stdout.str()
    (pytester.path / "broken.json").write_text("[]")
    broken = run(pytester, "--memory-baseline", "broken.json")
    assert "is not a memory baseline" in broken.stderr.str()
    assert broken.ret == pytest.ExitCode.USAGE_ERROR


def peak(reserved_mib: int, modules: dict[str, int] | None = None, **categories: int) -> Peak:
    sizes = {name: size * MIB for name, size in categories.items()}
    parts = {name: size * MIB for name, size in (modules or {}).items()}
    return Peak("T4-16GB", "mlp", reserved_mib * MIB, sum(sizes.values()), "step 1 backward", sizes, parts)


def test_the_tolerance_is_of_the_reserved_peak():
    old = peak(100, parameters=40, activations=50)
    assert baselines.grown(old, peak(101), 1.0) == ""
    assert "grew by 2.00 MiB (2.0 %, 1 % is allowed)" in baselines.grown(old, peak(102), 1.0)
    assert baselines.grown(old, peak(50), 0.0) == ""


def test_changes_are_told_largest_first():
    old, new = (
        peak(100, parameters=40, activations=50),
        peak(130, parameters=41, activations=20, gradients=40),
    )
    words = baselines.changes_since(old, new)
    assert "gradients +40.00 MiB (new), activations -30.00 MiB, parameters +1.00 MiB" in words
    assert baselines.changes_since(old, old) == "  nothing else changed since the baseline"


def terms(line: str) -> list[float]:
    """The sizes in a line of parts, in MiB."""
    sizes = re.findall(r"[ +](-?[\d.]+) (B|MiB)", line.partition(":")[2])
    return [float(size) * (unit == "MiB") for size, unit in sizes]


def test_the_parts_add_up_to_what_the_reserved_peak_is_and_grew_by():
    old_modules = {f"layers.{i}": 5 + i for i in range(9)}  # 81
    new_modules = {**{f"layers.{i}": 6 + 2 * i for i in range(9)}, "head": 7}  # 133
    old = peak(100, old_modules, parameters=40, activations=30, workspaces=11)
    new = peak(137, new_modules, parameters=41, activations=22, gradients=50, inputs=3, workspaces=17)
    words = "\n".join((baselines.contributors(new), baselines.changes_since(old, new)))
    lines = dict(line.strip().split(":", 1) for line in words.splitlines())
    assert sum(terms(f":{lines['by category']}")) == 137
    assert sum(terms(f":{lines['by module']}")) == 137
    assert sum(terms(f":{lines['categories since the baseline']}")) == 37
    assert sum(terms(f":{lines['modules since the baseline']}")) == 37
    # Of ten modules the five that moved most are named; the others moved by 5 + 4 + 3 + 2 + 1, in one.
    assert "5 more: +15.00 MiB" in lines["modules since the baseline"]
    assert "inputs +3.00 MiB (new)" in lines["categories since the baseline"]
    assert lines["categories since the baseline"].endswith("reserved and not allocated: -15.00 MiB")


def test_a_peak_that_grew_by_holes_alone_says_so():
    old, new = peak(100, parameters=40), peak(120, parameters=40)
    assert "categories since the baseline: reserved and not allocated: +20.00 MiB" in baselines.changes_since(
        old, new
    )


def test_a_baseline_comes_back_as_it_was_written(tmp_path):
    peaks = {"a": peak(1, parameters=1), "b": peak(2)}
    baselines.write_baseline(tmp_path / "file.json", peaks)
    assert baselines.read_baseline(tmp_path / "file.json") == peaks
    assert baselines.read_baseline(tmp_path / "none.json") == {}
    (tmp_path / "file.json").write_text('{"version": 9, "peaks": {}}')
    with pytest.raises(ProfilerError, match="version 9"):
        baselines.read_baseline(tmp_path / "file.json")
