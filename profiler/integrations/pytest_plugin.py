"""Memory of training steps as tests, without a GPU.

    @pytest.mark.memory_limit("12 GiB", device="A100-40GB")
    def test_training_fits(memory_step):
        memory_step(make_model, batch=8, length=512)

`memory_step` simulates a training step in a fresh process and fails the test where the step takes more of the
device than the mark allows, or than `--memory-baseline FILE` says it did before. It imports nothing heavy
until it is used.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from profiler.advice import baseline as baselines
from profiler.advice.baseline import Peak
from profiler.errors import ProfilerError
from profiler.gpu.cards import DEFAULT_GPU
from profiler.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from profiler.trace.run import Run

_BASELINE = pytest.StashKey["_Baseline"]()
_PROPERTY = "memory_peak"  # of a test's report: its key and its new peak, as JSON


def pytest_addoption(parser: pytest.Parser) -> None:
    """The plugin's options."""
    group = parser.getgroup("memory", "memory of training steps (profiler)")
    group.addoption(
        "--memory-baseline",
        metavar="FILE",
        help="JSON of each test's peak; a test whose peak grew fails, a new one is added",
    )
    group.addoption(
        "--memory-tolerance",
        type=float,
        default=1.0,
        metavar="PERCENT",
        help="how much a peak may grow over the baseline; default: 1",
    )
    group.addoption(
        "--memory-baseline-update",
        action="store_true",
        help="take the peaks of this run as the new baseline",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark and read the baseline."""
    config.addinivalue_line(
        "markers",
        'memory_limit(size, device="A100-40GB", engine=None): memory_step may take so much of the device, as '
        'in "12 GiB"',
    )
    file = config.getoption("--memory-baseline")
    if file is None:
        if config.getoption("--memory-baseline-update"):
            raise pytest.UsageError("--memory-baseline-update needs --memory-baseline FILE")
        return
    try:
        config.stash[_BASELINE] = _Baseline(config, Path(file))
    except ProfilerError as error:
        raise pytest.UsageError(str(error)) from None
    if not hasattr(config, "workerinput"):  # xdist's workers only run tests
        config.pluginmanager.register(_Collector(Path(file)))


class _Collector:
    """The new peaks of all tests, whichever process ran them: their reports bring them to this one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.new: dict[str, Peak] = {}
        self.said = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a test's peaks; a test has three reports, all with the properties known by then."""
        for name, value in report.user_properties:
            if name == _PROPERTY:
                test, peak = json.loads(str(value))
                self.new[test] = Peak(**peak)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the baseline if it changed."""
        if not self.new:
            return
        peaks = "1 peak" if len(self.new) == 1 else f"{len(self.new)} peaks"
        try:
            baselines.add_to_baseline(self.path, self.new)
            self.said = f"memory baseline: {peaks} written to {self.path}"
        except ProfilerError as error:
            self.said = f"memory baseline: {peaks} not written: {error}"
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what became of the baseline."""
        if self.said:
            terminalreporter.write_line(self.said)


class _Baseline:
    """The peaks of before, and which of this session's take their place."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self.tolerance_percent: float = config.getoption("--memory-tolerance")
        self.update: bool = config.getoption("--memory-baseline-update")
        self.old = baselines.read_baseline(path)

    def takes(self, test: str) -> bool:
        """Whether the test's peak becomes the baseline's."""
        return self.update or test not in self.old

    def check(self, test: str, peak: Peak) -> str:
        """What is wrong with a peak, or ""."""
        if self.takes(test):
            return ""
        old = self.old[test]
        words = baselines.grown(old, peak, self.tolerance_percent)
        if not words:
            return ""
        details = (baselines.contributors(peak), baselines.changes_since(old, peak))
        return "\n".join((words, *details, "  if this is wanted: --memory-baseline-update"))


@pytest.fixture
def memory_step(request: pytest.FixtureRequest) -> Callable[..., Run]:
    """`memory_step(target, batch, length=0, **workload)`: run a training step and hold it to its limit.

    Args (of the function it gives):
        target: what `profiler fit` takes (a model's name, "file.py:function", a transformers configuration),
            or a function at the top level of its file that returns a module. `make_batch` and `compute_loss`
            beside that function are used, as `profiler fit` does.
        batch, length, **workload: fields of profiler.workload.Workload.

    Returns the run, with every phase's bytes. Fails the test where the limit of its mark, or the
    baseline's peak, is passed, or where the step cannot be run.
    """
    mark = request.node.get_closest_marker("memory_limit")
    device, engine, limit_bytes = _limit(mark)
    baseline = request.config.stash.get(_BASELINE, None)
    calls = 0

    def step(target: str | Callable[[], Any], batch: int, length: int = 0, **workload: Any) -> Run:
        nonlocal calls
        calls += 1
        run = _run(_name(target), device, engine, {"batch": batch, "length": length, **workload})
        peak = Peak.of(run, device)
        if limit_bytes is not None and run.needed_bytes > limit_bytes:
            over = run.needed_bytes - limit_bytes
            pytest.fail(
                f"the step takes {format_bytes(run.needed_bytes)}, {format_bytes(over)} more than the "
                f"limit of {format_bytes(limit_bytes)}\n{baselines.contributors(peak)}"
                + _since(baseline, _key(request, calls), peak),
                pytrace=False,
            )
        if baseline is not None:
            key = _key(request, calls)
            if baseline.takes(key):
                request.node.user_properties.append((_PROPERTY, json.dumps([key, asdict(peak)])))
            if problem := baseline.check(key, peak):
                pytest.fail(problem, pytrace=False)
        return run

    return step


def _limit(mark: pytest.Mark | None) -> tuple[str, str | None, int | None]:
    """The device, the engine and the limit that a mark states."""
    if mark is None:
        return DEFAULT_GPU, None, None
    known = mark.kwargs.keys() <= {"device", "engine"}
    if len(mark.args) != 1 or not isinstance(mark.args[0], str) or not known:
        raise pytest.UsageError(
            'memory_limit takes a size, and a device and an engine if need be, as in ("12 GiB", device="T4")'
        )
    try:
        device, engine = mark.kwargs.get("device", DEFAULT_GPU), mark.kwargs.get("engine")
        return device, engine, parse_bytes(mark.args[0])
    except ProfilerError as error:
        raise pytest.UsageError(f"memory_limit: {error}") from None


def _name(target: str | Callable[[], Any]) -> str:
    if isinstance(target, str):
        return target
    name, file = getattr(target, "__qualname__", ""), inspect.getsourcefile(target)
    if file is None or not name.isidentifier():
        raise ProfilerError(
            f"memory_step runs in a fresh process and needs a function at the top level of a file, not {name}"
        )
    return f"{file}:{name}"


def _key(request: pytest.FixtureRequest, call: int) -> str:
    test = str(request.node.nodeid)
    return test if call == 1 else f"{test} (step {call})"


def _since(baseline: _Baseline | None, test: str, peak: Peak) -> str:
    old = baseline.old.get(test) if baseline is not None else None
    return f"\n{baselines.changes_since(old, peak)}" if old is not None else ""


def _run(target: str, device: str, engine: str | None, fields: dict[str, Any]) -> Run:
    from profiler.gpu.cards import find_gpu
    from profiler.runs.engine import device_for
    from profiler.runs.execute import run_in_fresh_process
    from profiler.workload import Workload

    try:
        return run_in_fresh_process(Workload(model=target, **fields), device_for(find_gpu(device), engine))
    except ProfilerError as error:
        problem = str(error)
    pytest.fail(f"cannot be run: {problem}", pytrace=False)
