"""Fresh processes: what comes back, how they die, and that they end with their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from profiler.errors import ProfilerError
from profiler.runs.processes import Died, each_in_fresh_process, in_fresh_process, threads_side_by_side

ROOT = Path(__file__).parents[2]


def _square(number):
    print("this goes to the log")
    return number**2, os.getpid()


def _three_phases(on_phase):
    for phase in range(3):
        on_phase(phase)
    return "done"


def _refuse(words):
    raise ProfilerError(words)


def _fail():
    raise LookupError("what the library says")


def _die(number):
    os.kill(os.getpid(), number)


def _sleep(seconds):
    time.sleep(seconds)


def _variables():
    return os.environ.get("PYTHONSAFEPATH"), os.environ.get("SAID_BY_THE_TEST")


def test_the_result_comes_from_a_process_of_its_own_and_nothing_is_printed(capfd):
    square, pid = in_fresh_process(_square, 7, name="the test")
    assert square == 49
    assert pid != os.getpid()
    assert capfd.readouterr() == ("", "")


def test_progress_comes_back_in_order():
    told = []
    assert in_fresh_process(_three_phases, name="the test", on_phase=told.append) == "done"
    assert told == [0, 1, 2]


def test_an_error_of_ours_comes_back_as_it_is_and_another_as_its_last_line():
    with pytest.raises(ProfilerError, match=r"^mend this$"):
        in_fresh_process(_refuse, "mend this", name="the test")
    with pytest.raises(Died, match=r"the test failed: LookupError: what the library says \(exit code 1\)"):
        in_fresh_process(_fail, name="the test")


def test_the_signal_that_ended_a_process_is_told():
    with pytest.raises(Died, match="killed by the operating system") as killed:
        in_fresh_process(_die, signal.SIGKILL, name="the test")
    assert killed.value.killed
    with pytest.raises(Died) as died:
        in_fresh_process(_die, signal.SIGTERM, name="the test")
    assert (died.value.killed, died.value.signal) == (False, signal.SIGTERM)


def test_a_process_that_says_nothing_is_ended():
    with pytest.raises(ProfilerError, match="the test said nothing for 1 s and was ended"):
        in_fresh_process(_sleep, 60, name="the test", timeout_seconds=1.0)


def test_the_environment_is_the_parents_and_what_is_added():
    before = os.environ.get("PYTHONSAFEPATH")
    assert in_fresh_process(_variables, name="the test") == (before, None)
    added = {"SAID_BY_THE_TEST": "yes"}
    assert in_fresh_process(_variables, name="the test", environment=added) == (before, "yes")
    assert os.environ.get("PYTHONSAFEPATH") == before
    assert "SAID_BY_THE_TEST" not in os.environ


def test_jobs_come_back_in_their_order():
    results = list(each_in_fresh_process(_square, [(n,) for n in range(5)], "the test", 2))
    assert [square for square, _ in results] == [0, 1, 4, 9, 16]
    assert len({pid for _, pid in results}) == 5


def test_an_error_in_the_block_ends_the_processes_of_its_threads():
    started = time.perf_counter()
    begun = []

    def interrupted():
        with threads_side_by_side(1) as threads:
            begun.append(threads.submit(in_fresh_process, _sleep, 60, name="the test"))
            time.sleep(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(ProfilerError, match="stopped"):
        begun[0].result()
    assert time.perf_counter() - started < 20


def _sleep_and_tell(path):
    Path(path).write_text(str(os.getpid()))
    time.sleep(60)


PARENT = """
import sys
from profiler.runs.processes import in_fresh_process
from tests.runs.test_processes import _sleep_and_tell
in_fresh_process(_sleep_and_tell, sys.argv[1], name="the test")
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_ends_with_its_parent(tmp_path, number):
    script, told = tmp_path / "parent.py", tmp_path / "pid"
    script.write_text(PARENT)  # without a guard: it is not run again in the process
    parent = subprocess.Popen([sys.executable, script, told], env=_environment(), stderr=subprocess.DEVNULL)
    child = _read(told)
    parent.send_signal(number)
    assert parent.wait(timeout=20) != 0
    for _ in range(100):
        if _has_ended(child):
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail(f"process {child} outlived its parent")


def _read(path):
    for _ in range(600):
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.1)
    pytest.fail("the process did not start")


def _has_ended(pid):
    """Ended, whether or not anybody has asked how (a zombie)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


COMMAND = "import sys; from profiler.__main__ import command; sys.exit(command())"
PRESSED_TWICE = """
import os, signal, sys
class Press:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[-1]:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Press())
"""
PLANTED = ("torch", "transformers", "numpy", "random", "profiler", "socket", "multiprocessing", "signal")


def test_nothing_in_the_current_folder_is_imported(tmp_path):
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "profiler-command"  # as an installed command: its own folder comes first
    command.write_text(COMMAND)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in PLANTED:
        (folder / f"{name}.py").write_text(
            f"open({str(tmp_path / 'executed')!r}, 'a').write({name + ' '!r})\nraise SystemExit('planted')\n"
        )
    words = ["fit", "gpt2-tiny", "--batch", "2", "--length", "32", "--gpu", "T4"]
    words += ["--no-techniques", "--no-largest"]
    ran = subprocess.run(
        [sys.executable, command, *words],
        cwd=folder,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert not (tmp_path / "executed").exists(), (tmp_path / "executed").read_text()
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("FITS")


@pytest.mark.parametrize("module", ["profiler.cli", "argparse", "rich.progress", "profiler.views.screen"])
def test_ctrl_c_twice_while_the_command_is_imported_is_one_line(tmp_path, module):
    (tmp_path / "sitecustomize.py").write_text(PRESSED_TWICE)
    (tmp_path / "command").write_text(COMMAND)
    done = subprocess.run(
        [sys.executable, tmp_path / "command", "fit", module],
        env={**_environment(), "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.strip() == "profiler: stopped; what had finished is kept"
    assert (done.returncode, done.stdout) == (130, "")


@pytest.mark.parametrize("after_seconds", [1.5, 12])  # while libraries are imported; while simulations go on
def test_ctrl_c_twice_is_one_line_within_a_second(tmp_path, after_seconds):
    command = tmp_path / "command"
    command.write_text(COMMAND)
    words = ["fit", "gpt2", "--batch", "8", "--length", "512", "--gpu", "A100-40GB"]
    with (tmp_path / "output").open("w+") as output, (tmp_path / "errors").open("w+") as errors:
        running = subprocess.Popen(
            [sys.executable, command, *words],
            env=_environment(),
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        time.sleep(after_seconds)
        assert running.poll() is None
        pressed = time.perf_counter()
        for _ in range(2):  # as a terminal does: to all of its processes
            os.killpg(running.pid, signal.SIGINT)
            time.sleep(0.1)
        code = running.wait(timeout=30)
        assert time.perf_counter() - pressed < 3  # a second where the machine has nothing else to do
        output.seek(0), errors.seek(0)
        assert errors.read().strip() == "profiler: stopped; what had finished is kept"
        assert (code, output.read()) == (130, "")
