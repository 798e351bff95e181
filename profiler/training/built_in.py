"""What a model is here, and those that come with the package: random weights, no download."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from profiler.training.user_code import UserCode
from profiler.workload import Workload

# Keywords, positions, or the one argument of a model's call.
Batch = dict[str, torch.Tensor] | tuple[torch.Tensor, ...] | list[torch.Tensor] | torch.Tensor


@dataclass(frozen=True)
class ModelFamily:
    """How to build a model and its training data.

    Attributes:
        build: (workload, settings) -> a module in training mode.
        batch: (workload, settings, device) -> one micro-batch of random data on the device.
        layers: path of attributes to its list of equal layers; "" without one, None: own_models.layers_of.
        depth: the setting that says how many layers; "" if the depth is fixed.
        attention: whether it has an attention that Workload.attention chooses.
        loss: (module, batch) -> the loss; None where the module's call takes the batch as keywords and
            returns the loss, or an object with an attribute `loss`.
    """

    build: Callable[[Workload, dict[str, Any]], torch.nn.Module]
    batch: Callable[[Workload, dict[str, Any], torch.device], Batch]
    layers: str | None
    depth: str
    attention: bool = True
    loss: Callable[[torch.nn.Module, Batch], torch.Tensor] | None = None


@dataclass(frozen=True)
class Model:
    """A family in one size.

    Attributes:
        family: how to build it.
        settings: of the family's configuration.
        unit: what Workload.length counts: "tokens", "pixels", or "" (nothing, or the model's own affair).
        assumed: what was guessed about it, in words, or "".
        code: the user's code that it comes from; None for all others.
    """

    family: ModelFamily
    settings: dict[str, Any]
    unit: str
    assumed: str = ""
    code: UserCode | None = None


# --- multilayer perceptron: small enough to check every byte by hand --------------------------------


class MLP(torch.nn.Module):
    """Linear layers with ReLU between them, and the cross entropy of the last one's outputs."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        hidden = [
            torch.nn.Sequential(torch.nn.Linear(width_in, width_out), torch.nn.ReLU())
            for width_in, width_out in pairwise(widths[:-1])
        ]
        self.layers = torch.nn.Sequential(*hidden, torch.nn.Linear(widths[-2], widths[-1]))

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of the (batch, features) inputs for the (batch,) classes."""
        return torch.nn.functional.cross_entropy(self.layers(inputs), targets)


def _build_mlp(workload: Workload, settings: dict[str, Any]) -> torch.nn.Module:
    return MLP(settings["widths"])


def _mlp_batch(workload: Workload, settings: dict[str, Any], device: torch.device) -> Batch:
    widths = settings["widths"]
    return {
        "inputs": torch.randn(workload.batch, widths[0], device=device),
        "targets": torch.randint(0, widths[-1], (workload.batch,), device=device),
    }


# --- transformers' models ----------------------------------------------------------------------------


def _from_transformers(config_class: str, model_class: str) -> Callable[..., torch.nn.Module]:
    def build(workload: Workload, settings: dict[str, Any]) -> torch.nn.Module:
        import transformers

        transformers.logging.set_verbosity_error()
        config = getattr(transformers, config_class)(**settings)
        if model_class != "ResNetForImageClassification":  # it has no attention to choose
            config._attn_implementation = workload.attention
        return getattr(transformers, model_class)(config).train()

    return build


def _token_batch(workload: Workload, settings: dict[str, Any], device: torch.device) -> Batch:
    tokens = torch.randint(0, settings["vocab_size"], (workload.batch, workload.length), device=device)
    return {"input_ids": tokens, "labels": tokens}


def _image_batch(workload: Workload, settings: dict[str, Any], device: torch.device) -> Batch:
    shape = (workload.batch, 3, workload.length, workload.length)
    layout = getattr(torch, workload.memory_format)
    pixels = torch.empty(shape, device=device, memory_format=layout).normal_()
    labels = torch.randint(0, settings["num_labels"], (workload.batch,), device=device)
    return {"pixel_values": pixels, "labels": labels}


PERCEPTRON = ModelFamily(_build_mlp, _mlp_batch, "layers", "", attention=False)
RESNET = ModelFamily(
    _from_transformers("ResNetConfig", "ResNetForImageClassification"),
    _image_batch,
    "resnet.encoder.stages",
    "",
    attention=False,
)
VIT = ModelFamily(
    _from_transformers("ViTConfig", "ViTForImageClassification"),
    _image_batch,
    "vit.layers",
    "num_hidden_layers",
)
GPT2 = ModelFamily(
    _from_transformers("GPT2Config", "GPT2LMHeadModel"), _token_batch, "transformer.h", "n_layer"
)
BERT = ModelFamily(
    _from_transformers("BertConfig", "BertForMaskedLM"),
    _token_batch,
    "bert.encoder.layer",
    "num_hidden_layers",
)
LLAMA = ModelFamily(
    _from_transformers("LlamaConfig", "LlamaForCausalLM"),
    _token_batch,
    "model.layers",
    "num_hidden_layers",
)

_IMAGE_LABELS = {"num_labels": 1000, "problem_type": "single_label_classification"}
_FEW_LABELS = {"num_labels": 10, "problem_type": "single_label_classification"}

MODELS: dict[str, Model] = {
    "mlp": Model(PERCEPTRON, {"widths": [1024, 4096, 4096, 4096, 10]}, ""),
    "mlp-tiny": Model(PERCEPTRON, {"widths": [64, 256, 256, 10]}, ""),
    # transformers' ResNetConfig defaults are ResNet-50 (He et al. 2015, table 1).
    "resnet50": Model(RESNET, dict(_IMAGE_LABELS), "pixels"),
    "resnet-tiny": Model(
        RESNET,
        {
            "embedding_size": 16,
            "hidden_sizes": [32, 64],
            "depths": [1, 1],
            "layer_type": "basic",
            **_FEW_LABELS,
        },
        "pixels",
    ),
    # ViTConfig defaults are ViT-B/16 (Dosovitskiy et al. 2020, table 1).
    "vit-b16": Model(VIT, {"image_size": 224, **_IMAGE_LABELS}, "pixels"),
    "vit-tiny": Model(
        VIT,
        {
            "image_size": 32,
            "patch_size": 8,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 256,
            **_FEW_LABELS,
        },
        "pixels",
    ),
    # GPT2Config defaults are GPT-2 small, 124M parameters (Radford et al. 2019).
    "gpt2": Model(GPT2, {"vocab_size": 50257, "use_cache": False}, "tokens"),
    "gpt2-tiny": Model(
        GPT2, {"vocab_size": 1000, "n_embd": 64, "n_layer": 2, "n_head": 4, "use_cache": False}, "tokens"
    ),
    "bert-large": Model(
        BERT,
        {
            "vocab_size": 30522,
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
        },
        "tokens",
    ),
    "bert-tiny": Model(
        BERT,
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 256,
        },
        "tokens",
    ),
    # The shape of Llama-3.2-1B.
    "llama-1b": Model(
        LLAMA,
        {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "tie_word_embeddings": True,
            "use_cache": False,
        },
        "tokens",
    ),
    # The shape of Llama 2 7B (Touvron et al. 2023).
    "llama-7b": Model(
        LLAMA,
        {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "use_cache": False,
        },
        "tokens",
    ),
    # The shapes of Llama 3.1 70B and 405B (Dubey et al. 2024, table 3).
    "llama-70b": Model(
        LLAMA,
        {
            "vocab_size": 128256,
            "hidden_size": 8192,
            "intermediate_size": 28672,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "use_cache": False,
        },
        "tokens",
    ),
    "llama-405b": Model(
        LLAMA,
        {
            "vocab_size": 128256,
            "hidden_size": 16384,
            "intermediate_size": 53248,
            "num_hidden_layers": 126,
            "num_attention_heads": 128,
            "num_key_value_heads": 8,
            "use_cache": False,
        },
        "tokens",
    ),
    "llama-tiny": Model(
        LLAMA,
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "use_cache": False,
        },
        "tokens",
    ),
}
