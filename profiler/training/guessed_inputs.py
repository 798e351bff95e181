"""Inputs for a model that comes without `make_batch`: one rule, told to the user each time it is used.

The first layer with weights decides: a Conv2d takes images of `length` × `length` pixels (224 if not given),
an Embedding takes `length` tokens, a Linear takes vectors. Without a loss, cross entropy over the last
dimension of the output (the second of an image model's) against random targets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from profiler.errors import ProfilerError

MakeBatch = Callable[[int, int, "torch.device"], Any]
Loss = Callable[[Any, Any], Any]


def guess(model: torch.nn.Module) -> tuple[MakeBatch, Loss | None, str]:
    """How to make a batch for `model`, its loss (None: the model returns it itself), and both in words.

    Raises ProfilerError where the first layer is none of the three kinds.
    """

    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "model_type"):
        from profiler.training.transformers_models import task_batch

        batch, words = task_batch(config, type(_inside(model)))
        return batch, None, f"inputs guessed: {words}"
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            channels = layer.in_channels
            return (
                _images(channels),
                _class_loss,
                f"inputs guessed: images of {channels} channels; cross entropy",
            )
        if isinstance(layer, nn.Embedding):
            count = layer.num_embeddings
            return _tokens(count), _token_loss, f"inputs guessed: tokens below {count}; cross entropy"
        if isinstance(layer, nn.Linear):
            width = layer.in_features
            return _vectors(width), _class_loss, f"inputs guessed: vectors of {width}; cross entropy"
    raise ProfilerError(
        f"cannot guess the inputs of {type(model).__name__}; "
        "define make_batch(batch, length, device) beside it"
    )


def _inside(model: torch.nn.Module) -> torch.nn.Module:
    """The model of transformers that a wrapper such as PEFT's calls: the outermost that is one."""
    from transformers import PreTrainedModel

    return next((module for module in model.modules() if isinstance(module, PreTrainedModel)), model)


def _images(channels: int) -> MakeBatch:
    def make_batch(batch: int, length: int, device: torch.device) -> torch.Tensor:
        pixels = length or 224
        return torch.randn(batch, channels, pixels, pixels, device=device)

    return make_batch


def _tokens(count: int) -> MakeBatch:
    def make_batch(batch: int, length: int, device: torch.device) -> torch.Tensor:
        if length < 1:
            raise ProfilerError("the model reads tokens: give --length, the tokens of a sequence")
        return torch.randint(0, count, (batch, length), device=device)

    return make_batch


def _vectors(width: int) -> MakeBatch:
    def make_batch(batch: int, length: int, device: torch.device) -> torch.Tensor:
        shape = (batch, length, width) if length else (batch, width)
        return torch.randn(shape, device=device)

    return make_batch


def _class_loss(model: Any, batch: torch.Tensor) -> torch.Tensor:
    output = _tensor(model(batch))
    if output.dim() == 3:  # a vector a position
        output = output.flatten(0, 1)
    targets = torch.randint(0, output.shape[1], (output.shape[0], *output.shape[2:]), device=output.device)
    return torch.nn.functional.cross_entropy(output, targets)


def _token_loss(model: Any, batch: torch.Tensor) -> torch.Tensor:
    output = _tensor(model(batch)).flatten(0, -2)
    targets = torch.randint(0, output.shape[-1], output.shape[:-1], device=output.device)
    return torch.nn.functional.cross_entropy(output, targets)


def _tensor(output: Any) -> Any:
    """The tensor of an output that a loss can be taken of."""

    if not isinstance(output, torch.Tensor) or output.dim() < 2:
        raise ProfilerError(
            f"no loss can be guessed for an output of type {type(output).__name__}; "
            "define compute_loss(model, batch)"
        )
    return output


def longest_sequence(model: torch.nn.Module) -> int | None:
    """The tokens that the smallest table of positions has room for; None without one.

    A table is an Embedding with such a name: `wpe`, `embed_positions`, `position_embeddings`. Some rows of it
    are never a token's: those up to the padding's, after which RoBERTa begins to count (transformers,
    create_position_ids_from_input_ids), and the `offset` of OPT's and BART's tables. Rotary, relative and
    computed positions (Llama, T5) have no table and no such limit.

    On a GPU a position beyond the table stops the kernel; one that is not there looks nothing up and would go
    on.
    """
    tables = [
        module.num_embeddings - getattr(module, "offset", 0) - _up_to_padding(module)
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding) and _is_position(path.rpartition(".")[2])
    ]
    return min(tables, default=None)


def _up_to_padding(table: torch.nn.Embedding) -> int:
    return 0 if table.padding_idx is None else table.padding_idx + 1


def _is_position(name: str) -> bool:
    return name == "wpe" or ("pos" in name and "rel" not in name)
