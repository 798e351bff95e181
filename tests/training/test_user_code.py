"""A user's code, against what Python itself does with the same files in the same folder."""

import subprocess
import sys

import pytest
import torch

import profiler
from profiler.errors import ProfilerError
from profiler.training.user_code import UserCode, call_with_device, errors_in_one_line, split_reference

pytestmark = pytest.mark.quick

CPU = torch.device("cpu")
SCRIPT = """
import sys
import first_neighbour

argv = list(sys.argv)

def late():
    import second_neighbour
    return first_neighbour.NUMBER + second_neighbour.NUMBER
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "program.py").write_text(SCRIPT)
    (tmp_path / "first_neighbour.py").write_text("NUMBER = 1")
    (tmp_path / "second_neighbour.py").write_text("NUMBER = 10")
    return str(tmp_path / "program.py")


def test_neighbours_are_found_at_the_top_and_later_inside_functions_as_python_finds_them(script):
    done = subprocess.run(
        [sys.executable, "-c", "import program; print(program.late())"],
        cwd=script.removesuffix("program.py"),
        capture_output=True,
        text=True,
        check=True,
    )
    code = UserCode(script)
    with code.in_use():
        late = code.function("late")
    with code.in_use():
        assert str(late()) == done.stdout.strip() == "11"


def test_after_use_the_process_is_as_before_and_another_folders_files_of_the_same_names_are_its_own(
    script, tmp_path
):
    other = tmp_path / "other"
    other.mkdir()
    (other / "program.py").write_text(SCRIPT)
    (other / "first_neighbour.py").write_text("NUMBER = 2")
    (other / "second_neighbour.py").write_text("NUMBER = 20")
    path, argv, modules = list(sys.path), list(sys.argv), set(sys.modules)
    codes = [UserCode(script), UserCode(str(other / "program.py"))]
    sums = []
    for code in (*codes, *codes):  # each twice: what was put away comes back
        with code.in_use():
            sums.append(code.function("late")())
    assert sums == [11, 22, 11, 22]
    assert (sys.path, sys.argv) == (path, argv)
    assert not {"program", "first_neighbour", "second_neighbour"} & (set(sys.modules) - modules)


def test_a_program_sees_its_own_arguments_and_not_the_profilers(script, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["profiler", "predict", "--batch", "8"])
    code = UserCode(script)
    with code.in_use():
        assert code.module().argv == [script]
    assert sys.argv == ["profiler", "predict", "--batch", "8"]


def test_an_error_inside_leaves_the_process_as_before(script):
    path, modules = list(sys.path), set(sys.modules)
    code = UserCode(script)
    with pytest.raises(ProfilerError, match="no function 'absent'"), code.in_use():
        code.function("absent")
    assert sys.path == path
    assert set(sys.modules) == modules


def test_an_installed_library_that_the_code_imports_stays_imported(tmp_path):
    (tmp_path / "uses_a_library.py").write_text("def late():\n    from elftools.elf import elffile\n")
    for name in [name for name in sys.modules if name.split(".")[0] == "elftools"]:
        del sys.modules[name]
    code = UserCode(str(tmp_path / "uses_a_library.py"))
    with code.in_use():
        code.import_libraries()  # without running anything of the file
    assert "elftools.elf.elffile" in sys.modules
    assert "uses_a_library" not in sys.modules


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        ("", "nothing"),
        ("device", "device=cpu"),
        ("argv=None", "argv=None"),
        ("amp=False, width=256", "amp=False width=256"),
        ("device, steps=2", "device=cpu steps=2"),
        ("steps=2, *, device", "steps=2 device=cpu"),
        ("*args, **kwargs", "args=() kwargs={}"),
    ],
)
def test_only_an_argument_that_must_be_given_is_given_and_it_is_the_device(signature, expected):
    names = [part.split("=")[0].strip(" *") for part in signature.split(",")]
    said = " ".join(f"{name}={{{name}}}" for name in names if name) or "nothing"
    scope = {}
    exec(f"def function({signature}):\n    heard.append(f'{said}')", scope)
    scope["heard"] = []
    call_with_device(scope["function"], CPU, "train.py:function")
    assert scope["heard"] == [expected]


def test_two_arguments_that_must_be_given_are_said_by_name():
    with pytest.raises(ProfilerError, match=r"train\.py:f must be given model, loader"):
        call_with_device(lambda model, loader: None, CPU, "train.py:f")


def test_ending_with_success_is_an_end_and_with_failure_an_error():
    call_with_device(lambda: sys.exit(0), CPU, "f")
    call_with_device(lambda: sys.exit(None), CPU, "f")
    with pytest.raises(SystemExit):
        call_with_device(lambda: sys.exit("no data"), CPU, "f")


@pytest.mark.parametrize("reference", ["train.py", "train.py:", ":main"])
def test_a_reference_without_a_function_or_a_file_is_one_line(reference):
    with pytest.raises(ProfilerError, match="names no function"):
        split_reference(reference)


def test_a_changed_file_is_loaded_anew(tmp_path):
    from profiler.training.models import examine
    from profiler.workload import Workload

    path = tmp_path / "changing.py"
    text = "from torch import nn\ndef make_model():\n    return nn.Linear({}, 2, bias=False)\n"
    for width in (3, 5):
        path.write_text(text.format(width))
        assert examine(Workload(f"{path}:make_model", 1))[1] == 2 * width


def test_what_the_simulated_gpu_has_no_kernel_for_is_one_line_with_the_way_out():
    """Sparse tensors of its device do not exist."""

    def train():
        with profiler.simulated_gpu("T4"), errors_in_one_line("a.py"):
            embedding = torch.nn.Embedding(100, 8, sparse=True, device="cuda")
            embedding(torch.arange(5, device="cuda")).sum().backward()
            torch.optim.SparseAdam(embedding.parameters()).step()

    with pytest.raises(
        ProfilerError, match=r"^a\.py: cannot be simulated: .*; the virtual GPU runs it: [^\n]*$"
    ):
        train()
