"""What a user wants to train, from the words on the command line to a module and its batches.

A target is one of

- a model of profiler.training.models: `gpt2`
- a function that returns a torch.nn.Module: `train.py:make_model` or `package.module:make_model`. Its file
  may also define `make_batch(batch, length, device)`, which returns a tensor or a tuple, list or dict of
  tensors (given to the model as one argument, positions, or keywords), and `compute_loss(model, batch)`.
  Without `compute_loss` the model's call must return the loss, or something with a `loss`. Without
  `make_batch` the inputs are guessed from the model's first layer, see profiler.training.guessed_inputs.
- a configuration of transformers: a class such as `LlamaConfig` (its defaults are a real model's), or a
  `config.json`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from profiler.errors import ProfilerError
from profiler.trace.events import Allocation
from profiler.training import models
from profiler.training.guessed_inputs import guess
from profiler.training.sequence_limit import longest_sequence
from profiler.training.transformers_models import load_config, model_of, task_batch
from profiler.training.unwritten_weights import weights_left_unwritten
from profiler.workload import Workload

if TYPE_CHECKING:
    import torch

    from profiler.runs.prediction import Simulation


@dataclass(frozen=True)
class Target:
    """Plain data that any process can load.

    Attributes:
        name: as the user wrote it.
        settings: fields of a transformers configuration to set, as (name, value) pairs.
    """

    name: str
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def file(self) -> Path | None:
        """The user's file, where the target names one."""
        path = self.name.rpartition(":")[0] if ":" in self.name else ""
        return Path(path) if path.endswith(".py") else None


def register(target: Target) -> str:
    """Load the target, make it a model of profiler.training.models; returns what was assumed, or "".

    The model built to look at it takes no memory, however large it is: its weights are not written.

    Raises ProfilerError for a target that does not exist or does not return a module, and whatever the
    user's own code raises.
    """
    with weights_left_unwritten():
        model, assumed = _load(target)
    models.MODELS[target.name] = model
    return assumed


def prepare(target: Target, workload: Workload) -> tuple[str, int]:
    """Register the target and look at its model: what was assumed, or "", and the number of parameters.

    Raises ProfilerError as `register` does, and where `workload.length` is more than the model can read.
    """
    assumed = register(target)
    model = models.build_model(workload, initialize=False)
    longest = longest_sequence(model)
    makes_its_own_batches = ":" in target.name and not assumed  # what the length is, is then its own affair
    if longest is not None and workload.length > longest and not makes_its_own_batches:
        raise ProfilerError(f"{target.name} reads at most {longest} tokens, not --length {workload.length}")
    return assumed, sum(parameter.numel() for parameter in model.parameters())


def with_own_paths(simulation: Simulation, target: Target) -> Simulation:
    """The simulation with modules called as in the user's own model, which `register` puts inside another."""
    if ":" not in target.name:
        return simulation
    entries = [
        replace(entry, where=entry.where._replace(module=_own_path(entry.where.module)))
        if isinstance(entry, Allocation) and entry.where is not None
        else entry
        for entry in simulation.entries
    ]
    return replace(simulation, entries=entries)


def _own_path(module: str) -> str:
    names = {_WRAPPER: "(the loss)", "model": "(the model itself)"}
    return names.get(module, module.removeprefix("model."))


def _load(target: Target) -> tuple[models.Model, str]:
    name = target.name
    if name in models.MODELS:
        if target.settings:
            raise ProfilerError(f"--set is for transformers configurations; {name} is a model of its own")
        return models.MODELS[name], ""
    if name.endswith(".json") or (name.endswith("Config") and name.isidentifier()):
        return _from_config(target)
    if ":" in name:
        return _from_factory(target)
    if name.endswith(".py"):
        raise ProfilerError(f"{name} names no function; write it as in {name}:make_model")
    if Path(name).suffix or "/" in name:
        raise ProfilerError(f"{name} does not exist")
    close = difflib.get_close_matches(name, models.MODELS, n=3, cutoff=0.4)
    raise ProfilerError(
        f"unknown model {name!r}" + (f" (close: {', '.join(close)})" if close else "") + "; give one of "
        f"{', '.join(models.MODELS)}, a function as in train.py:make_model, or a transformers configuration "
        "as in LlamaConfig or config.json"
    )


def _from_config(target: Target) -> tuple[models.Model, str]:
    config, model_class = load_config(target.name, dict(target.settings))
    batch, assumed = task_batch(config, model_class)

    def build(workload: Workload, settings: dict[str, Any]) -> torch.nn.Module:
        return model_of(config, model_class, workload.attention)

    def make_batch(workload: Workload, settings: dict[str, Any], device: torch.device) -> models.Batch:
        return batch(workload.batch, workload.length, device)

    layers = layers_of(build(Workload(target.name, 1), {}))
    family = models.ModelFamily(build, make_batch, layers, "")
    return models.Model(family, {}, ""), f"{model_class.__name__}, {assumed}"


def _from_factory(target: Target) -> tuple[models.Model, str]:
    import torch

    location, _, attribute = target.name.rpartition(":")
    source = _import(location)
    factory = getattr(source, attribute, None)
    if not callable(factory):
        functions = [n for n, v in vars(source).items() if callable(v) and not n.startswith("_")]
        close = difflib.get_close_matches(attribute, functions, n=3, cutoff=0.3) or functions[:5]
        raise ProfilerError(f"{location} has no function {attribute!r}; it has {', '.join(close) or 'none'}")
    example = factory()
    if not isinstance(example, torch.nn.Module):
        raise ProfilerError(
            f"{target.name} returned {type(example).__name__}; it must return a torch.nn.Module"
        )
    make_batch = getattr(source, "make_batch", None)
    compute_loss = getattr(source, "compute_loss", None)
    assumed = ""
    if make_batch is None:
        make_batch, guessed_loss, assumed = guess(example)
        compute_loss = compute_loss or guessed_loss
    layers = f"model.{layers_of(example)}" if layers_of(example) else ""
    del example

    def build(workload: Workload, settings: dict[str, Any]) -> torch.nn.Module:
        if workload.checkpointing != "none" and not layers:
            raise ProfilerError(f"{target.name} has no list of equal layers to checkpoint")
        return _trained(factory(), compute_loss or _own_loss)

    def flat_batch(workload: Workload, settings: dict[str, Any], device: torch.device) -> models.Batch:
        return _flatten(make_batch(workload.batch, workload.length, device))

    return models.Model(models.ModelFamily(build, flat_batch, layers, ""), {}, ""), assumed


def layers_of(model: torch.nn.Module) -> str:
    """The path of the list of equal layers with the most parameters (what checkpointing cuts), or ""."""
    import torch

    most, path = 0, ""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList | torch.nn.Sequential):
            children = list(module.children())
            size = sum(parameter.numel() for parameter in module.parameters())
            if len(children) > 1 and len({type(child) for child in children}) == 1 and size > most:
                most, path = size, name
    return path


def _import(location: str) -> ModuleType:
    """The module at a path or of a dotted name; errors of its own code pass through."""
    if location.endswith(".py"):
        path = Path(location)
        if not path.is_file():
            raise ProfilerError(f"{location} does not exist")
        sys.path.insert(0, str(path.parent.resolve()))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        return module
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(location)
    except ModuleNotFoundError as error:
        if error.name and location.startswith(error.name):
            raise ProfilerError(
                f"no module {error.name!r}; run where it can be imported, or give a path"
            ) from None
        raise


def _trained(model: torch.nn.Module, loss: Callable[[Any, Any], torch.Tensor]) -> torch.nn.Module:
    """A module whose call takes a flat batch as keywords and returns the loss."""
    import torch

    class Trained(torch.nn.Module):
        """The user's model, as `model`, with the user's loss."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, **batch: torch.Tensor) -> torch.Tensor:
            value = loss(self.model, _restore(batch))
            if not isinstance(value, torch.Tensor) or value.numel() != 1:
                shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
                raise ProfilerError(
                    f"the loss is not a number but {shape}; let the model return its loss, or define "
                    "compute_loss(model, batch) beside it"
                )
            return value

    return Trained().train()


_WRAPPER = "Trained"  # what the class above is called in module paths

# A batch travels as a dict of tensors; these two names say that it was one tensor or a tuple.
_ALONE, _POSITION = "(alone)", "(position {})"


def _flatten(batch: Any) -> dict[str, torch.Tensor]:
    import torch

    if isinstance(batch, torch.Tensor):
        flat: dict[str, Any] = {_ALONE: batch}
    elif isinstance(batch, tuple | list):
        flat = {_POSITION.format(index): value for index, value in enumerate(batch)}
    elif isinstance(batch, dict):
        flat = dict(batch)
    else:
        flat = {}
    if not flat or not all(isinstance(value, torch.Tensor) for value in flat.values()):
        raise ProfilerError("make_batch must return a tensor, or a tuple, list or dict of tensors")
    return flat


def _restore(batch: dict[str, torch.Tensor]) -> Any:
    if _ALONE in batch:
        return batch[_ALONE]
    if _POSITION.format(0) in batch:
        return tuple(batch.values())
    return batch


def call(model: torch.nn.Module, batch: Any) -> Any:
    """The model called with a batch: keywords of a dict, positions of a tuple, or one argument."""
    if isinstance(batch, dict):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple) else model(batch)


def _own_loss(model: torch.nn.Module, batch: Any) -> Any:
    """What the model's call returns, or the `loss` in it."""
    output = call(model, batch)
    if isinstance(output, dict) and "loss" in output:
        return output["loss"]
    return getattr(output, "loss", output)
