"""A training task from a transformers configuration: the model class, and random batches for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from profiler.errors import ProfilerError

# A configuration may serve several tasks: the first of these that it has (BERT also has a causal head).
_TASKS = (
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
    "MODEL_FOR_MASKED_LM_MAPPING",
    "MODEL_FOR_CAUSAL_LM_MAPPING",
)


def load_config(name: str, settings: dict[str, Any]) -> tuple[Any, Any]:
    """The configuration (a class of transformers, or a JSON file) and the model class it trains.

    The key-value cache is off, as in transformers' own Trainer. Raises ProfilerError for names and files that
    transformers does not know.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    values: dict[str, Any] = {}
    if name.endswith(".json"):
        values = _read(Path(name))
        config_class = _class_of_type(name, values)
    else:
        config_class = getattr(transformers, name, None)
        if config_class is None:
            raise ProfilerError(f"transformers {transformers.__version__} has no {name}")
    unknown = [key for key in settings if not hasattr(config_class(), key)]
    if unknown:
        raise ProfilerError(f"{config_class.__name__} has no setting {', '.join(unknown)}")
    config = config_class(**{**values, **settings})
    if hasattr(config, "use_cache"):
        config.use_cache = False
    if getattr(config, "is_encoder_decoder", False):  # checkpoints of T5 state it, its class does not
        for token in ("pad_token_id", "decoder_start_token_id"):
            if getattr(config, token, None) is None:
                setattr(config, token, 0)
    return config, _model_class(config, values.get("architectures"))


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise ProfilerError(f"cannot read {path}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise ProfilerError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict) or "model_type" not in values:
        raise ProfilerError(f"{path} has no model_type; a transformers config.json has one")
    return values


def _class_of_type(name: str, values: dict[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING

    if values["model_type"] not in CONFIG_MAPPING:
        raise ProfilerError(f"{name}: transformers does not know the model_type {values['model_type']!r}")
    return CONFIG_MAPPING[values["model_type"]]


def _model_class(config: Any, architectures: list[str] | None) -> Any:
    import transformers
    from transformers.models.auto import modeling_auto

    for architecture in architectures or ():
        if hasattr(transformers, architecture):
            return getattr(transformers, architecture)
    for task in _TASKS:
        mapping = getattr(modeling_auto, task)
        if type(config) in mapping:
            return mapping[type(config)]
    raise ProfilerError(
        f"{type(config).__name__} has no language-model or image-classification head; write a function that "
        "returns the model, as in train.py:make_model"
    )


def model_of(config: Any, model_class: Any, attention: str) -> torch.nn.Module:
    """A model in training mode with random weights; attention "sdpa" leaves transformers its choice."""
    if attention != "sdpa":
        config._attn_implementation = attention
    model: torch.nn.Module = model_class(config)
    return model.train()


def task_batch(
    config: Any, model_class: Any
) -> tuple[Callable[[int, int, Any], dict[str, torch.Tensor]], str]:
    """How to make a batch of random data with labels, and what it is in words.

    Raises ProfilerError for a model that has neither tokens nor images, or no loss of its own.
    """

    name = model_class.__name__
    if name.endswith("ForImageClassification"):
        own = getattr(config, "image_size", None) or 224
        channels = getattr(config, "num_channels", 3)

        def images(batch: int, length: int, device: torch.device) -> dict[str, torch.Tensor]:
            side = length or own
            labels = torch.randint(0, config.num_labels, (batch,), device=device)
            return {"pixel_values": torch.randn(batch, channels, side, side, device=device), "labels": labels}

        return images, f"random images of {own} pixels a side"
    if name.endswith(("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration")) and hasattr(
        config, "vocab_size"
    ):
        longest = getattr(config, "max_position_embeddings", None)

        def tokens(batch: int, length: int, device: torch.device) -> dict[str, torch.Tensor]:
            if length < 1:
                limit = f", at most {longest}" if longest else ""
                raise ProfilerError(f"{name} reads tokens: give --length, the tokens of a sequence{limit}")
            ids = torch.randint(0, config.vocab_size, (batch, length), device=device)
            return {"input_ids": ids, "labels": ids}

        both = " for encoder and decoder alike" if getattr(config, "is_encoder_decoder", False) else ""
        return tokens, f"random tokens with a label each, no padding{both}"
    raise ProfilerError(
        f"no batch is known for {name}; define make_batch(batch, length, device) beside the model"
    )
