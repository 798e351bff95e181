"""What a user may name, and what is said when it is wrong."""

import json
import resource
from argparse import Namespace

import pytest
import torch

from profiler.errors import ProfilerError
from profiler.training import models
from profiler.training.models import build_model, examine
from profiler.training.own_models import layers_of
from profiler.training.step import compute_loss
from profiler.training.unwritten_weights import weights_left_unwritten
from profiler.verbs.options import settings_from
from profiler.workload import Workload

CPU = torch.device("cpu")
SCRIPT = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*[nn.Linear(6, 6) for _ in range(3)])
    def forward(self, x, y):
        return ((self.blocks(x) - y) ** 2).mean()

def net():
    return Net()

def picture():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))

def number():
    return 3

def make_batch(batch, length, device):
    return torch.ones(batch, 6, device=device), torch.zeros(batch, 6, device=device)
"""


def loss_of(workload: Workload) -> torch.Tensor:
    return compute_loss(models.build_model(workload), models.make_batch(workload, CPU), workload, "cpu")


def write(tmp_path, text, name="user_script.py"):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_a_function_with_its_own_batch_gives_a_loss_and_its_layers_can_be_checkpointed(tmp_path):
    workload = Workload(write(tmp_path, SCRIPT) + ":net", 5)
    assert examine(workload) == ("", 3 * (6 * 6 + 6))
    assert loss_of(workload).shape == ()
    assert layers_of(build_model(workload)) == "blocks"


def test_without_make_batch_the_first_layer_says_what_goes_in(tmp_path):
    name = write(tmp_path, SCRIPT.replace("make_batch", "other_name"), "picture_script.py") + ":picture"
    workload = Workload(name, 2, 16)
    assert "images of 3 channels" in examine(workload)[0]
    assert models.make_batch(workload, CPU).shape == (2, 3, 16, 16)
    assert loss_of(workload).shape == ()


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        ({}, "absent", "has no function 'absent'"),
        ({}, "number", "returned int; it must return a torch.nn.Module"),
        ({".mean()": ""}, "net", "the loss is not a number but (2, 6)"),
        (
            {"return torch.ones(batch, 6, device=device), torch.zeros": "return 3, torch.zeros"},
            "net",
            "must return a tensor",
        ),
    ],
)
def test_a_wrong_function_is_said_in_words(tmp_path, change, name, words):
    text = SCRIPT
    for old, new in change.items():
        text = text.replace(old, new)
    target = write(tmp_path, text, f"wrong_{abs(hash(words))}.py") + f":{name}"
    with pytest.raises(ProfilerError) as caught:
        loss_of(Workload(target, 2))
    assert words in str(caught.value)


def test_names_that_do_not_exist_are_said_with_what_is_near():
    with pytest.raises(ProfilerError, match="close: gpt2"):
        examine(Workload("gpt3", 1))
    with pytest.raises(ProfilerError, match=r"nowhere\.py does not exist"):
        examine(Workload("nowhere.py:f", 1))
    with pytest.raises(ProfilerError, match="no module 'no_such_module'"):
        examine(Workload("no_such_module:f", 1))
    with pytest.raises(ProfilerError, match="has no NoSuchConfig"):
        examine(Workload("NoSuchConfig", 1))
    with pytest.raises(ProfilerError, match="has no setting n_layrs"):
        examine(Workload("GPT2Config", 1, settings={"n_layrs": 2}))


TINY = {
    "GPT2Config": {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 99},
    "BertConfig": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 99},
    "LlamaConfig": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 99},
    "T5Config": {"d_model": 32, "num_layers": 2, "num_heads": 2, "d_kv": 16, "vocab_size": 99},
    "ViTConfig": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32},
    "ResNetConfig": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
}
EXPECTED = {
    "GPT2Config": ("GPT2LMHeadModel", "transformer.h"),
    "BertConfig": ("BertForMaskedLM", "bert.encoder.layer"),
    "LlamaConfig": ("LlamaForCausalLM", "model.layers"),
    "T5Config": ("T5ForConditionalGeneration", "decoder.block"),
    "ViTConfig": ("ViTForImageClassification", "vit.layers"),
    "ResNetConfig": ("ResNetForImageClassification", "resnet.encoder.stages"),
}


@pytest.mark.parametrize("name", TINY)
def test_a_configuration_of_transformers_trains_its_usual_task(name):
    length = 32 if name in ("ViTConfig", "ResNetConfig") else 7
    workload = Workload(name, 2, length, settings=TINY[name])
    model_class, layers = EXPECTED[name]
    assert examine(workload)[0].startswith(model_class)
    assert layers_of(build_model(workload)) == layers
    assert loss_of(workload).shape == ()


def test_a_config_file_names_its_own_architecture(tmp_path):
    values = {
        "model_type": "bert",
        "architectures": ["BertLMHeadModel"],
        "is_decoder": True,
        **TINY["BertConfig"],
    }
    path = write(tmp_path, json.dumps(values), "config.json")
    assert examine(Workload(path, 1, 4))[0].startswith("BertLMHeadModel")
    with pytest.raises(ProfilerError, match="no model_type"):
        examine(Workload(write(tmp_path, "{}", "other.json"), 1))


def test_tokens_need_a_length():
    with pytest.raises(ProfilerError, match="give --length, the tokens of a sequence, at most 1024"):
        loss_of(Workload("GPT2Config", 2, settings=TINY["GPT2Config"]))


def test_settings_are_read_as_json_where_they_are():
    said = settings_from(Namespace(set=["a=3", "b=true", "c=gelu", "d=[1, 2]"]))
    assert said == {"a": 3, "b": True, "c": "gelu", "d": [1, 2]}
    workload = Workload("LlamaConfig", 1, settings=said)
    assert workload.setting_values() == said
    with pytest.raises(ProfilerError, match="NAME=VALUE"):
        settings_from(Namespace(set=["a"]))


def test_a_model_larger_than_the_machine_is_built_in_no_memory():
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with weights_left_unwritten():
        layers = [torch.nn.Linear(16384, 16384, bias=False) for _ in range(8)]  # 1 GiB each
        halves = torch.randn(1 << 14, 1 << 14), torch.zeros(1 << 28), torch.full((1 << 28,), 1.0)
        small = torch.full((4,), 2.0)
    assert sum(layer.weight.numel() for layer in layers) == 2**31
    assert [tensor.numel() for tensor in halves] == [2**28] * 3
    assert small.tolist() == [2.0] * 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 100 * 1024
