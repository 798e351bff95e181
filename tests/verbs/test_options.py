"""What a target cannot take is an error of one line, and one spelling has one meaning in every verb."""

import argparse
import ast
import json
import re
from pathlib import Path

import pytest

from profiler.cli import _parser, main

SCRIPT = """
import torch
from torch import nn

def make_model():
    return nn.Linear(1024, 1024, bias=False)

def make_batch(batch, length, device):
    return torch.zeros(batch, 1024, device=device)

def compute_loss(model, batch):
    return model(batch).sum()

def train(steps=1):
    model = make_model().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(steps):
        compute_loss(model, make_batch(64, 0, "cuda")).backward()
        optimizer.step()
        optimizer.zero_grad()
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "own_program.py"
    path.write_text(SCRIPT)
    return str(path)


def as_json(capsys, *arguments):
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_factory_in_a_file_and_in_a_module_is_the_same_model_for_every_verb(capsys, script, monkeypatch):
    monkeypatch.chdir(script.removesuffix("own_program.py"))
    how = ("--batch", "64", "--optimizer", "sgd", "--gpu", "A100-40GB")
    peaks = {
        as_json(capsys, "predict", name, *how)["peak"]["allocated_bytes"]
        for name in (f"{script}:make_model", "own_program:make_model")
    }
    fits = as_json(capsys, "fit", f"{script}:make_model", *how, "--no-largest", "--no-techniques")
    loop = as_json(capsys, "predict", "--loop", f"{script}:train", "--gpu", "A100-40GB")
    # Weight and gradient of 4 MiB, input and output of 64 × 1024 floats, and what cuBLAS takes: 8.125 MiB
    # once in the forward pass, and once more on the thread of the backward pass.
    (peak,) = peaks
    assert peak == fits["peak_allocated_bytes"]
    mib = 1 << 20
    assert peak - 2 * 8519680 - 8 * mib in range(mib)
    # The loop of the same two steps takes the same of the GPU, but for what its own way of writing keeps.
    assert loop["peak"]["allocated_bytes"] - 2 * 8519680 - 8 * mib in range(mib)


def test_a_larger_batch_is_heeded(capsys, script):
    small, large = (
        as_json(capsys, "predict", f"{script}:make_model", "--batch", batch)["peak"]["allocated_bytes"]
        for batch in ("64", "4096")
    )
    assert large > small + 4032 * 1024 * 4  # the inputs alone


@pytest.mark.parametrize("verb", ["predict", "explain", "report"])
@pytest.mark.parametrize(
    "option", ["--batch 8", "--length 8", "--optimizer sgd", "--seed 0", "--precision bf16", "--set a=1"]
)
def test_a_loop_takes_no_option_of_a_model(capsys, tmp_path, script, verb, option):
    before = {"explain": [str(_recording(tmp_path))]}.get(verb, [])
    assert main([verb, *before, "--loop", f"{script}:train", *option.split()]) == 1
    name = option.split()[0]
    assert capsys.readouterr().err == (
        f"profiler: {name} is for a model; {script}:train decides that itself\n"
    )


@pytest.mark.parametrize("verb", ["predict", "fit", "techniques", "report"])
@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        ("{script}:make_model", "--attention eager", "decides its attention itself; leave --attention out"),
        ("{script}:make_model", "--layers 3", "is fixed; leave layers at 0"),
        ("{script}:make_model", "--set n_layer=3", "--set is for transformers configurations"),
        ("{script}:make_model", "--memory-format channels_last", "is a layout of images"),
        ("{script}:make_model", "--checkpointing sqrt", "has no list of equal layers to checkpoint"),
        ("{script}:train", "--batch 8", "must return a torch.nn.Module"),
        ("mlp-tiny", "--length 8", "has inputs of one size; leave --length out"),
        ("mlp-tiny", "--attention eager", "decides its attention itself"),
        ("gpt2-tiny", "--length 8 --set n_layer=3", "--set is for transformers configurations"),
        ("GPT2Config", "--length 8 --layers 3", "is fixed; leave layers at 0"),
        ("GPT2Config", "--length 8 --set n_layrs=3", "has no setting n_layrs"),
    ],
)
def test_a_model_that_cannot_heed_an_option_says_so(capsys, script, verb, target, options, words):
    text = SCRIPT.replace("model = make_model().cuda()", "return 3")
    with open(script, "w") as file:
        file.write(text)
    assert main([verb, target.format(script=script), *options.split()]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("function", ["make_model", "make_batch"])
def test_a_loop_that_trains_nothing_on_the_gpu_is_no_peak_of_0_bytes(capsys, script, function):
    assert main(["predict", "--loop", f"{script}:{function}"]) == 1
    error = capsys.readouterr().err
    words = {"make_model": "allocated nothing on cuda", "make_batch": "must be given batch, length, device"}
    assert words[function] in error
    assert len(error.splitlines()) == 1


def test_an_optimizer_beside_a_factory_is_not_passed_over(capsys, script):
    with open(script, "a") as file:
        file.write("\ndef make_optimizer(model):\n    return torch.optim.SGD(model.parameters())\n")
    assert main(["predict", f"{script}:make_model"]) == 1
    error = capsys.readouterr().err
    assert "make_optimizer in" in error
    assert "choose --optimizer, or give your whole training function as --loop" in error


@pytest.mark.parametrize(
    "option", ["--batch 2", "--gpu T4", "--allocator-settings expandable_segments:True", "--set a=1"]
)
def test_a_file_to_report_on_takes_no_option_of_a_simulation(capsys, tmp_path, option):
    recording = _recording(tmp_path)
    assert main(["report", str(recording), *option.split(), "-o", str(tmp_path / "page.html")]) == 1
    name = option.split()[0]
    words = f"profiler: {name} is for a run that is predicted now, not for {recording}\n"
    assert capsys.readouterr().err == words
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("arguments", ["--loop {script}:train gpt2", ""])
def test_a_model_or_a_loop_and_not_both_or_none(capsys, script, arguments):
    for verb in ("predict", "report"):
        with pytest.raises(SystemExit) as ended:
            main([verb, *arguments.format(script=script).split()])
        assert ended.value.code == 2


def test_a_page_over_all_recordings_takes_no_option_of_one(capsys, tmp_path):
    page = ["--page", str(tmp_path / "p")]
    for option in (["--workload", "x"], ["--output", "x"], ["--tighten", "x"]):
        assert main(["compare-reference", str(tmp_path), *page, *option]) == 1
        assert f"{option[0]} is for one recording" in capsys.readouterr().err
    for option in (["--output", "x"], ["--tighten", "x"]):
        assert main(["compare-reference", str(tmp_path), "--workload", "x", *option]) == 1
        assert f"{option[0]} is for all runs of a recording" in capsys.readouterr().err


def _recording(folder):
    """A snapshot of one allocation."""
    import pickle

    event = {"action": "alloc", "addr": 4096, "size": 512, "stream": 0, "frames": []}
    path = folder / "snapshot.pickle"
    path.write_bytes(pickle.dumps({"segments": [], "device_traces": [[event]]}))
    return path


ROOT = Path(__file__).resolve().parents[2]
_NAMED = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_COMMAND = re.compile(r"profiler ([a-z-]+)((?: +(?!-- )[^`\n|;]+?)*?)(?: -- |`|\n|\||;|$)")
# Of pytest (profiler.integrations.pytest_plugin), torchrun and the linker.
_OF_OTHERS = {"--memory-baseline", "--memory-tolerance", "--memory-baseline-update", "--nproc-per-node"}
_OF_OTHERS |= {"--version-script"}


def _verbs():
    """The options of each verb."""
    (verbs,) = (action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    return {
        name: {o for a in verb._actions for o in a.option_strings} for name, verb in verbs.choices.items()
    }


def _texts(path):
    """What a module says: its texts, docstrings included."""
    return [
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_an_option_that_is_named_anywhere_exists():
    known = set().union(*_verbs().values(), _OF_OTHERS, {"--version"})
    pages = ROOT / "profiler" / "views" / "pages"  # their styles have such words too
    modules = [path for path in (ROOT / "profiler").rglob("*.py") if path.parent != pages]
    named = {(path.name, word) for path in modules for t in _texts(path) for word in _NAMED.findall(t)}
    assert len(named) > 60
    assert {pair for pair in named if pair[1] not in known} == set()


def test_a_command_in_the_documentation_has_options_of_its_verb():
    verbs, commands = _verbs(), []
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for verb, words in _COMMAND.findall(path.read_text().replace("\\\n", " ")):
            if verb in verbs:
                commands.append((path.name, verb, [o for o in _NAMED.findall(words) if o not in verbs[verb]]))
    assert len(commands) > 40
    assert [command for command in commands if command[2]] == []
