"""What a user wants to train that is not built in, from the words on the command line to a Model.

It is one of

- a function that returns a torch.nn.Module: `train.py:make_model` or `package.module:make_model`. Its file
  may also define `make_batch(batch, length, device)`, which returns a tensor or a tuple, list or dict of
  tensors (given to the model as one argument, positions, or keywords), and `compute_loss(model, batch)`.
  Without `compute_loss` the model's call must return the loss, or something with a `loss`. Without
  `make_batch` the inputs are guessed from the model's first layer, see profiler.training.guessed_inputs.
- a configuration of transformers: a class such as `LlamaConfig` (whose defaults need not be a real model's),
  a `config.json`, or the name of a well-known checkpoint (profiler.training.transformers_models).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from profiler.errors import ProfilerError
from profiler.training.built_in import MODELS, Batch, Model, ModelFamily
from profiler.training.guessed_inputs import guess
from profiler.training.transformers_models import CHECKPOINTS, load_config, model_of, task_batch
from profiler.training.unwritten_weights import materialise, weights_left_unwritten
from profiler.training.user_code import UserCode, split_reference
from profiler.workload import Workload

_MATERIALISED = "weights built on the meta device are given memory, tied ones once"


def own_model(workload: Workload) -> Model:
    """The model that the workload names. The one built to look at it takes no memory, however large it is.

    Raises ProfilerError for a name that is nothing or does not return a module, and whatever the user's own
    code raises.
    """
    name = workload.model
    if name in CHECKPOINTS or name.endswith(".json") or (name.endswith("Config") and name.isidentifier()):
        return _from_config(name, workload.settings, _changed(name))
    if ":" in name:
        if workload.settings:
            raise ProfilerError(f"--set is for transformers configurations; {name} is a function")
        code = code_of(name)
        assert code is not None
        return _from_factory(name, code)
    if name.endswith(".py"):
        raise ProfilerError(f"{name} names no function; write it as in {name}:make_model")
    if name.count("/") == 1 and not Path(name).suffix and not Path(name).exists():
        close = difflib.get_close_matches(name, CHECKPOINTS, n=3, cutoff=0.4) or sorted(CHECKPOINTS)
        raise ProfilerError(
            f"no checkpoint {name} is known here; known are {', '.join(close)}; give its config.json, or its "
            "class and --set"
        )
    if Path(name).suffix or "/" in name:
        raise ProfilerError(f"{name} does not exist")
    close = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.4)
    raise ProfilerError(
        f"unknown model {name!r}" + (f" (close: {', '.join(close)})" if close else "") + "; give one of "
        f"{', '.join(MODELS)}, a function as in train.py:make_model, or a transformers configuration "
        "as in LlamaConfig or config.json"
    )


def code_of(name: str) -> UserCode | None:
    """The user's code in which a model's function is; None for a name without one."""
    if ":" not in name:
        return None
    location, _ = split_reference(name)
    return _code_at(location, _changed(location))


@cache
def _code_at(location: str, changed: int) -> UserCode:
    return UserCode(location)


def _changed(location: str) -> int:
    """When the file was last written, 0 for what is none: code is loaded anew after a change."""
    path = Path(location)
    return path.stat().st_mtime_ns if path.is_file() else 0


@cache
def _from_config(name: str, settings: tuple[tuple[str, str], ...], changed: int) -> Model:
    given = Workload(name, 1, settings=settings).setting_values()
    config, model_class = load_config(name, given)
    batch, assumed = task_batch(config, model_class)

    def build(workload: Workload, settings: dict[str, Any]) -> torch.nn.Module:
        return model_of(config, model_class, workload.attention)

    def make_batch(workload: Workload, settings: dict[str, Any], device: torch.device) -> Batch:
        return batch(workload.batch, workload.length, device)

    return Model(ModelFamily(build, make_batch, None, ""), {}, "", f"{model_class.__name__}, {assumed}")


@cache
def _from_factory(name: str, code: UserCode) -> Model:
    with code.in_use(), weights_left_unwritten():
        factory = code.function(split_reference(name)[1])
        example = factory()
        if not isinstance(example, torch.nn.Module):
            raise ProfilerError(
                f"{name} returned {type(example).__name__}; it must return a torch.nn.Module; "
                "a whole training function is given as --loop"
            )
        source = code.module()
        make_batch, compute_loss = (getattr(source, f, None) for f in ("make_batch", "compute_loss"))
        if hasattr(source, "make_optimizer"):
            raise ProfilerError(
                f"make_optimizer in {code.location} would not be used beside a model: take it out and choose "
                "--optimizer, or give your whole training function as --loop"
            )
        assumed = [_MATERIALISED] if materialise(example) else []
        if make_batch is None:
            make_batch, guessed_loss, inputs = guess(example)
            compute_loss = compute_loss or guessed_loss
            assumed.append(inputs)
        del example

    def build(workload: Workload, settings: dict[str, Any]) -> torch.nn.Module:
        with code.in_use():
            module: torch.nn.Module = factory()
            materialise(module)
            return module.train()

    def batch(workload: Workload, settings: dict[str, Any], device: torch.device) -> Batch:
        with code.in_use():
            return _checked_batch(make_batch(workload.batch, workload.length, device))

    def loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        with code.in_use():
            return _checked_loss((compute_loss or _own_loss)(model, batch))

    family = ModelFamily(build, batch, None, "", attention=False, loss=loss)
    return Model(family, {}, "", "; ".join(assumed), code)


def layers_of(model: torch.nn.Module) -> str:
    """The path of the list of equal layers with the most parameters (what checkpointing cuts), or ""."""
    most, path = 0, ""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList | torch.nn.Sequential):
            children = list(module.children())
            size = sum(parameter.numel() for parameter in module.parameters())
            if len(children) > 1 and len({type(child) for child in children}) == 1 and size > most:
                most, path = size, name
    return path


def call_with(model: Callable[..., Any], batch: Batch) -> Any:
    """The model called with a batch: keywords of a dict, positions of a tuple or list, or one argument."""
    if isinstance(batch, dict):
        return model(**batch)
    return model(batch) if isinstance(batch, torch.Tensor) else model(*batch)


def _own_loss(model: torch.nn.Module, batch: Batch) -> Any:
    """What the model's call returns, or the `loss` in it."""
    output = call_with(model, batch)
    if isinstance(output, dict) and "loss" in output:
        return output["loss"]
    return getattr(output, "loss", output)


def _checked_loss(value: Any) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise ProfilerError(
            f"the loss is not a number but {shape}; let the model return its loss, or define "
            "compute_loss(model, batch) beside it"
        )
    return value


def _checked_batch(batch: Any) -> Batch:
    held = batch.values() if isinstance(batch, dict) else batch
    tensors = [batch] if isinstance(batch, torch.Tensor) else held
    if not isinstance(batch, torch.Tensor | dict | tuple | list) or not all(
        isinstance(tensor, torch.Tensor) for tensor in tensors
    ):
        raise ProfilerError("make_batch must return a tensor, or a tuple, list or dict of tensors")
    return batch
