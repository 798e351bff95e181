"""Rows of Stone-ResearchLife/xMem: their training loop, from the description of the published runs.

Run as a script with the torch, torchvision and transformers of the rows (it imports nothing of this project):

    echo "MODEL OPTIMIZER BATCH ZERO_GRAD_MODE" | python xmem_program.py

Runs each line in a process of its own and prints a line of JSON for it: peak allocated and reserved in bytes,
and whether memory ran out. Four iterations;
outputs, loss and batch of an iteration live until the next has made its own. Batches of text are 128 tokens
long, the most that the row's data has.
"""

import json
import os
import sys

import torch
import torchvision
import transformers
from transformers.modeling_utils import no_init_weights

ITERATIONS = 4
TOKENS = 128
IMAGE = (3, 86, 86)
LEARNING_RATE = 0.001

# The published configurations, where they differ from the class's defaults.
TEXT_MODELS = {
    "EleutherAI/gpt-neo-125M": (
        "GPTNeoForCausalLM",
        {
            "hidden_size": 768,
            "num_layers": 12,
            "num_heads": 12,
            "attention_types": [[["global", "local"], 6]],
        },
    ),
    "facebook/opt-125m": ("OPTForCausalLM", {"vocab_size": 50272}),
    "facebook/opt-350m": (
        "OPTForCausalLM",
        {
            "vocab_size": 50272,
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "ffn_dim": 4096,
            "num_attention_heads": 16,
            "word_embed_proj_dim": 512,
            "do_layer_norm_before": False,
        },
    ),
    "cerebras/Cerebras-GPT-111M": (
        "GPT2LMHeadModel",
        {
            "n_layer": 10,
            "n_inner": 3072,
            "n_positions": 2048,
            "activation_function": "gelu",
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
        },
    ),
    "T5-small": ("T5ForConditionalGeneration", {"decoder_start_token_id": 0}),
    "t5-base": (
        "T5ForConditionalGeneration",
        {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12, "decoder_start_token_id": 0},
    ),
    "distilbert/distilgpt2": ("GPT2LMHeadModel", {"n_layer": 6}),
    "openai-community/gpt2": ("GPT2LMHeadModel", {}),
    "Qwen/Qwen3-4B": (
        "Qwen3ForCausalLM",
        {
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 40960,
            "tie_word_embeddings": True,
        },
    ),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": (
        "Qwen2ForCausalLM",
        {
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "max_position_embeddings": 131072,
        },
    ),
    "google/gemma-2-2b-it": ("Gemma2ForCausalLM", {}),
    "meta-llama/Llama-3.2-3B-Instruct": (
        "LlamaForCausalLM",
        {
            "vocab_size": 128256,
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_hidden_layers": 28,
            "num_attention_heads": 24,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 131072,
            "tie_word_embeddings": True,
        },
    ),
}
# torchvision's constructor and the number of classes.
IMAGE_MODELS = {
    "VGG16": ("vgg16", 1000),
    "VGG19": ("vgg19", 1000),
    "ResNet101": ("resnet101", 1000),
    "ResNet152": ("resnet152", 1000),
    "MobileNetV2": ("mobilenet_v2", 1000),
    "ConvNeXtTiny": ("convnext_tiny", 1000),
    "ConvNeXtBase": ("convnext_base", 1000),
    "RegNetX400MF": ("regnet_x_400mf", 1000),
    "RegNetY400MF": ("regnet_y_400mf", 1000),
    "MobeNetV3Small": ("mobilenet_v3_small", 10),
    "MobeNetV3Large": ("mobilenet_v3_large", 10),
    "MnasNet": ("mnasnet1_0", 10),
}


def text_model(name: str) -> torch.nn.Module:
    """A model of transformers with parameters that nobody wrote: values do not change memory."""
    class_name, settings = TEXT_MODELS[name]
    model_class = getattr(transformers, class_name)
    with no_init_weights():
        model = model_class(model_class.config_class(**settings))
    model.tie_weights()  # left out without initial values
    return model


def image_model(name: str) -> torch.nn.Module:
    constructor, classes = IMAGE_MODELS[name]
    return getattr(torchvision.models, constructor)(weights=None, num_classes=classes)


def make_optimizer(name: str, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """With the loop's learning rate, otherwise as the library sets it."""
    return getattr(torch.optim, name)(parameters, lr=LEARNING_RATE)


def train_text(model: torch.nn.Module, optimizer_name: str, batch: int, mode: int) -> None:
    model.train()
    optimizer = make_optimizer(optimizer_name, list(model.parameters()))
    model.to("cuda")
    for _ in range(ITERATIONS):
        if mode == 0:
            optimizer.zero_grad()
        ids = torch.zeros(batch, TOKENS, dtype=torch.int64)
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
        inputs = {name: tensor.to("cuda") for name, tensor in given.items()}
        outputs = model(**inputs)
        loss = outputs.loss
        if mode == 1:
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if mode == 2:
            optimizer.zero_grad()


def train_images(model: torch.nn.Module, optimizer_name: str, batch: int, mode: int) -> None:
    model.to("cuda").train()
    optimizer = make_optimizer(optimizer_name, list(model.parameters()))
    criterion = torch.nn.CrossEntropyLoss()
    for _ in range(ITERATIONS):
        if mode == 0:
            optimizer.zero_grad()
        inputs = torch.zeros(batch, *IMAGE).to("cuda")
        labels = torch.zeros(batch, dtype=torch.int64).to("cuda")
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        if mode == 1:
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        _kept = torch.max(outputs, 1)  # as by the loop
        if mode == 2:
            optimizer.zero_grad()


def run(model_name: str, optimizer_name: str, batch: int, mode: int) -> dict[str, int | bool]:
    """Train, and say the peaks of the allocator."""
    out_of_memory = False
    try:
        if model_name in IMAGE_MODELS:
            train_images(image_model(model_name), optimizer_name, batch, mode)
        else:
            train_text(text_model(model_name), optimizer_name, batch, mode)
    except torch.OutOfMemoryError:
        out_of_memory = True
    torch.cuda.synchronize()
    return {
        "allocated_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
        "out_of_memory": out_of_memory,
    }


def run_in_child(words: list[str]) -> None:
    """Run one row in a process of its own: a copy of this one, which has imported all and used no GPU."""
    child = os.fork()
    if not child:
        said: dict[str, int | bool | str]
        try:
            said = dict(run(words[0], words[1], int(words[2]), int(words[3])))
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(said), flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        print(json.dumps({"error": f"the process ended with status {status}"}), flush=True)


if __name__ == "__main__":
    for line in sys.stdin:
        run_in_child(line.split())
