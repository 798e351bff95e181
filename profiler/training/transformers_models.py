"""A training task from a transformers configuration: the model class, and random batches for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from profiler.errors import ProfilerError

# --- well-known checkpoints by name, without network ---------------------------------------------------

_Settings = dict[str, Any]


def _llama(
    hidden: int, layers: int, heads: int, groups: int, wide: int, words: int, **more: Any
) -> _Settings:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "intermediate_size": wide,
        "vocab_size": words,
        **more,
    }


def _whisper(width: int, layers: int, heads: int) -> _Settings:
    both = {"layers": layers, "attention_heads": heads, "ffn_dim": 4 * width}
    halves = {f"{half}_{name}": n for half in ("encoder", "decoder") for name, n in both.items()}
    return {"d_model": width, **halves}


def _t5(width: int, wide: int, layers: int, heads: int) -> _Settings:
    return {"d_model": width, "d_ff": wide, "num_layers": layers, "num_heads": heads}


_QWEN3, _LONG = {"head_dim": 128}, {"max_position_embeddings": 131072}

# Name -> configuration class, settings; from huggingface.co/NAME/blob/main/config.json.
CHECKPOINTS: dict[str, tuple[str, _Settings]] = {
    "openai-community/gpt2": ("GPT2Config", {}),
    "openai-community/gpt2-medium": ("GPT2Config", {"n_embd": 1024, "n_layer": 24, "n_head": 16}),
    "openai-community/gpt2-xl": ("GPT2Config", {"n_embd": 1600, "n_layer": 48, "n_head": 25}),
    "meta-llama/Llama-2-7b-hf": (
        "LlamaConfig",
        _llama(4096, 32, 32, 32, 11008, 32000, max_position_embeddings=4096),
    ),
    "meta-llama/Llama-3.1-8B": ("LlamaConfig", _llama(4096, 32, 32, 8, 14336, 128256, **_LONG)),
    "meta-llama/Llama-3.2-1B": (
        "LlamaConfig",
        _llama(2048, 16, 32, 8, 8192, 128256, tie_word_embeddings=True, **_LONG),
    ),
    "mistralai/Mistral-7B-v0.1": ("MistralConfig", _llama(4096, 32, 32, 8, 14336, 32000)),
    "Qwen/Qwen2.5-7B": ("Qwen2Config", _llama(3584, 28, 28, 4, 18944, 152064, **_LONG)),
    "Qwen/Qwen3-0.6B": (
        "Qwen3Config",
        _llama(1024, 28, 16, 8, 3072, 151936, tie_word_embeddings=True, **_QWEN3),
    ),
    "Qwen/Qwen3-8B": ("Qwen3Config", _llama(4096, 36, 32, 8, 12288, 151936, **_QWEN3)),
    "google-t5/t5-small": ("T5Config", _t5(512, 2048, 6, 8)),
    "google-t5/t5-base": ("T5Config", _t5(768, 3072, 12, 12)),
    "openai/whisper-tiny": ("WhisperConfig", _whisper(384, 4, 6)),
    "openai/whisper-small": ("WhisperConfig", _whisper(768, 12, 12)),
    "openai/clip-vit-base-patch32": ("CLIPConfig", {}),
    "google/vit-base-patch16-224": ("ViTConfig", {"num_labels": 1000}),
}


# --- a configuration and its model --------------------------------------------------------------------

# A configuration may serve several tasks: the first of these that it has (BERT also has a causal head).
_TASKS = (
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING",
    "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING",  # images and their captions, as CLIP is trained
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
    elif name in CHECKPOINTS:
        class_name, values = CHECKPOINTS[name]
        config_class = getattr(transformers, class_name)
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
    if _is_contrastive(config):  # without it, their call returns no loss
        model.forward = partial(model.forward, return_loss=True)
    return model.train()


_Batches = tuple[Callable[[int, int, Any], dict[str, torch.Tensor]], str]


def _is_contrastive(config: Any) -> bool:
    return (
        hasattr(config, "vision_config")
        and hasattr(config, "text_config")
        and hasattr(config, "projection_dim")
    )


def _images_with_captions(config: Any) -> _Batches:
    side, longest = config.vision_config.image_size, config.text_config.max_position_embeddings
    channels = config.vision_config.num_channels

    def pairs(batch: int, length: int, device: torch.device) -> dict[str, torch.Tensor]:
        ids = torch.randint(0, config.text_config.vocab_size, (batch, length or longest), device=device)
        return {"input_ids": ids, "pixel_values": torch.randn(batch, channels, side, side, device=device)}

    return (
        pairs,
        f"random images of {side} pixels a side, each with a caption of --length tokens or {longest}",
    )


def _speech(config: Any, name: str) -> _Batches:
    frames, longest = 2 * config.max_source_positions, config.max_target_positions

    def speech(batch: int, length: int, device: torch.device) -> dict[str, torch.Tensor]:
        if length < 1:
            raise ProfilerError(f"{name} writes tokens: give --length, at most {longest}")
        features = torch.randn(batch, config.num_mel_bins, frames, device=device)
        labels = torch.randint(0, config.vocab_size, (batch, length), device=device)
        return {"input_features": features, "labels": labels}

    return speech, f"random sound of {frames} frames, with --length tokens of text"


def task_batch(config: Any, model_class: Any) -> _Batches:
    """How to make a batch of random data with labels, and what it is in words.

    Raises ProfilerError for a model that has neither tokens nor images, or no loss of its own.
    """

    name = model_class.__name__
    if _is_contrastive(config):
        return _images_with_captions(config)
    if hasattr(config, "num_mel_bins") and hasattr(config, "max_target_positions"):
        return _speech(config, name)
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
