"""Checkpoints by name have the parameters that their files have; encoders and decoders are both there."""

import pytest

from profiler import simulate
from profiler.errors import ProfilerError
from profiler.gpu.cards import GPUS
from profiler.training.own_models import own_model
from profiler.training.transformers_models import CHECKPOINTS
from profiler.training.unwritten_weights import weights_left_unwritten
from profiler.workload import Workload

# Of the files of each checkpoint (safetensors' own count on its page), tied weights once.
PARAMETERS = {
    "openai-community/gpt2": 124_439_808,
    "openai-community/gpt2-xl": 1_557_611_200,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "google-t5/t5-small": 60_506_624,
    "google-t5/t5-base": 222_903_552,
    "openai/whisper-tiny": 37_760_640,
    "openai/whisper-small": 241_734_912,
    "openai/clip-vit-base-patch32": 151_277_313,
    "google/vit-base-patch16-224": 86_567_656,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_checkpoint_has_its_parameters(name):
    assert name in CHECKPOINTS
    workload = Workload(name, 1)
    with weights_left_unwritten():
        model = own_model(workload).family.build(workload, {})
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("WhisperConfig", {"encoder", "decoder"}),
        ("T5Config", {"encoder", "decoder"}),
        ("CLIPConfig", {"text_model", "vision_model"}),
    ],
)
def test_a_class_is_built_as_people_train_it(name, modules):
    run = simulate(Workload(name, 2, 8, steps=1), GPUS["A100-40GB"])
    parts = {part for share in run.by_module() for part in share.name.split(".")}
    assert run.fits
    assert modules <= parts


def test_an_unknown_checkpoint_names_those_there_are():
    with pytest.raises(ProfilerError, match=r"known are .*Qwen/Qwen3-8B"):
        own_model(Workload("Qwen/Qwen3-80B", 1, 8))
