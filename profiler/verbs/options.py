"""Options that verbs share: a workload, the GPU that is not there, the engine that stands for it."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import Any

from profiler.device import ENGINES, SIMULATED, VIRTUAL, Device
from profiler.errors import ProfilerError
from profiler.formula.terms import ModelFacts
from profiler.gpu.allocator.settings import AllocatorSettings
from profiler.gpu.cards import DEFAULT_GPU, GPU, find_gpu
from profiler.trace.run import CHANGES_MEMORY, Run
from profiler.views import screen
from profiler.workload import (
    ATTENTION,
    CHECKPOINTING,
    IMPLEMENTATIONS,
    MEMORY_FORMATS,
    OPTIMIZERS,
    PRECISIONS,
    Workload,
)

DOES_NOT_FIT = 3  # exit code of a run that the GPU has no room for

_WORDS = {
    "batch": "samples in a micro-batch",
    "length": "tokens of a sequence, or pixels of an image's side; 0 where the model knows",
    "optimizer": f"one of {', '.join(OPTIMIZERS)}; of the 8-bit ones those in _plain have embeddings'"
    " states in 8 bits too, the others in 32 as transformers' Trainer",
    "attention": " or ".join(ATTENTION),
    "micro_batches": "forward and backward passes before an optimizer step",
    "steps": "optimizer steps; the second is the steady state",
    "seed": "of weights and data",
    "optimizer_implementation": f"one of {', '.join(IMPLEMENTATIONS)}",
    "precision": f"one of {', '.join(PRECISIONS)}",
    "checkpointing": f"what is computed again: one of {', '.join(CHECKPOINTING)}",
    "layers": "depth of a built-in model; 0 for its own",
    "memory_format": f"of images and convolutions: one of {', '.join(MEMORY_FORMATS)}",
}

PREDICTION_OPTIONS = (*_WORDS, "gpu", "engine", "allocator_settings", "set")


def add_virtual(parser: argparse.ArgumentParser) -> None:
    """The virtual GPU to measure on, in place of a device that is here."""
    parser.add_argument(
        "--virtual",
        metavar="GPU",
        help="measure on a virtual GPU of that name: the CUDA build of torch, on a card that is not there",
    )


def again_virtually(options: argparse.Namespace) -> int:
    """The exit code of the same command on its virtual GPU. Raises ProfilerError where none can be had."""
    from profiler.runs.virtually import again_on_virtual_gpu

    words, at = list(options.words), 0
    while at < len(words):  # --virtual GPU or --virtual=GPU, --device too
        name, given, _ = words[at].partition("=")
        if name in ("--virtual", "--device"):
            del words[at : at + (1 if given else 2)]
        else:
            at += 1
    return again_on_virtual_gpu([*words, "--device", "cuda"], find_gpu(options.virtual))


def add_engine(parser: argparse.ArgumentParser) -> None:
    """What stands for a GPU that is not there."""
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        help="what stands for the GPU: the CUDA build of torch on a virtual one, or a simulated one;"
        " default: virtual where the machine allows it",
    )


def add_prediction_options(parser: argparse.ArgumentParser) -> None:
    """The GPU and what stands for it, its allocator, and every field of a workload but its model; none has a
    value unless given.
    """
    parser.add_argument(
        "--gpu",
        help=f"a GPU's name, a size such as 24GiB, or a file that describes one (card.toml);"
        f" default: {DEFAULT_GPU}",
    )
    add_engine(parser)
    parser.add_argument(
        "--allocator-settings", metavar="SETTINGS", help="as PYTORCH_ALLOC_CONF has them; default: none"
    )
    for field in fields(Workload):
        if field.name in _WORDS:
            default = 1 if field.default is MISSING else field.default
            parser.add_argument(
                _option(field.name),
                type=type(default),
                metavar="N" if isinstance(default, int) else "NAME",
                help=f"{_WORDS[field.name]}; default: {default}",
            )


def workload_from(options: argparse.Namespace) -> Workload:
    """The workload that the options say. Raises ProfilerError for values that can never run."""
    said = {name: getattr(options, name) for name in _WORDS if getattr(options, name) is not None}
    return Workload(**{"model": options.model, "batch": 1, "settings": settings_from(options), **said})


MODEL = (
    "a model's name, FILE.py:FUNCTION or MODULE:FUNCTION returning a module, or a transformers configuration "
    "(class, config.json, or a well-known checkpoint such as Qwen/Qwen3-8B)"
)


def add_loop(either: argparse._MutuallyExclusiveGroup) -> None:
    """A training function of the user's, in place of a model."""
    either.add_argument(
        "--loop",
        metavar="FILE.py:FUNCTION",
        help="your own training loop, in place of a model: a function that trains on cuda, called as it is",
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Settings of a transformers configuration."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of a transformers configuration",
    )


def settings_from(options: argparse.Namespace) -> dict[str, Any]:
    """`--set NAME=VALUE` words by name, values read as JSON where they are, else as text."""
    values: dict[str, Any] = {}
    for word in options.set:
        name, separator, text = word.partition("=")
        if not separator or not name:
            raise ProfilerError(f"--set takes NAME=VALUE, not {word!r}")
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            values[name] = text
    return values


def predicted(options: argparse.Namespace) -> Run:
    """The workload, or the user's loop, that the options name, on their GPU and engine.

    Raises ProfilerError for what does not exist or cannot be run there, and for an option of a workload
    beside a loop, which decides all of that itself.
    """
    from profiler.runs.execute import run_in_fresh_process, run_on
    from profiler.runs.run_settings import RunSettings
    from profiler.runs.user_loop import run_loop

    settings = allocator_settings(options)
    if options.loop:
        refuse(options, (*_WORDS, "set"), f"is for a model; {options.loop} decides that itself")
        return run_loop(options.loop, device_from(options), settings)
    workload, device = workload_from(options), device_from(options)
    run = run_in_fresh_process if device.kind == VIRTUAL else run_on
    return run(workload, device, RunSettings(allocator_settings=settings))


def device_from(options: argparse.Namespace) -> Device:
    """What stands for the GPU that the options say."""
    from profiler.runs.engine import device_for

    return device_for(find_gpu(gpu_name(options)), options.engine)


def say_what_it_rests_on(run: Run, asked: str | None) -> None:
    """What a run's figures rest on; and why it is a simulation, where none was asked for."""
    from profiler.runs.engine import why_not_virtual

    instead = (why_not_virtual(),) if run.device.kind == SIMULATED and asked is None else ()
    for line in (*run.rests_on, *instead):
        style = "yellow" if line.endswith(CHANGES_MEMORY) else "dim"
        screen.console().print(line, style=style, soft_wrap=True)


def facts(workload: Workload, gpu: GPU) -> ModelFacts:
    """What the formula counts, with the kernels of `gpu`; raises ProfilerError, one line, where it cannot."""
    from profiler.formula.facts import count_on_gpu
    from profiler.training.user_code import errors_in_one_line

    with errors_in_one_line(f"no formula of {workload.model}"):
        return count_on_gpu(workload, gpu)


def count_and_name(text: str) -> tuple[int, str]:
    """How many GPUs of which name: "8xA100-80GB" is (8, "A100-80GB")."""
    several = re.fullmatch(r"(\d{1,6})x(.+)", text)
    return (int(several[1]), several[2]) if several else (1, text)


def gpu_name(options: argparse.Namespace) -> str:
    """The GPU's name as given, or the default."""
    return options.gpu or DEFAULT_GPU


def allocator_settings(options: argparse.Namespace) -> str:
    """The settings as given, "" for none; raises ProfilerError for what PyTorch would refuse."""
    text: str = options.allocator_settings or ""
    AllocatorSettings.parse(text)
    return text


def refuse(options: argparse.Namespace, names: Iterable[str], why: str) -> None:
    """Raise ProfilerError, "OPTION: why", if one of the options was given: none is ever ignored."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value is not False and value != []:
            raise ProfilerError(f"{_option(name)} {why}")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Which device of a snapshot."""
    parser.add_argument(
        "--device",
        type=whole_number,
        metavar="N",
        help="of a snapshot; default: all, or the busiest",
    )


def whole_number(text: str) -> int:
    """How many; argparse makes one line of the error."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
