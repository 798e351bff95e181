"""Rows of FanBB2333/FakeGPU: one training step of Qwen3.5 (text), from the description of the published runs.

Run as a script with the torch, transformers and peft of the rows (it imports nothing of this project):

    python fakegpu_program.py SIZE METHOD TOKENS CHECKPOINTING [SHARDED]

SIZE is 0.8B or 2B, METHOD full or lora, CHECKPOINTING yes or no, SHARDED fsdp1 or fsdp2 where the environment
is that of a rank. Prints a line of JSON: the largest peak allocated of forward, backward and optimizer step,
in bytes.
"""

import json
import sys

import torch
import transformers
from peft import LoraConfig, get_peft_model

SHAPES = {
    "0.8B": {"hidden_size": 1024, "intermediate_size": 3584},
    "2B": {"hidden_size": 2048, "intermediate_size": 6144},
}
VOCABULARY = 248320


def make_model(size: str, method: str, checkpointing: bool) -> torch.nn.Module:
    """In bfloat16 on the CPU, adapters in float32."""
    config = transformers.Qwen3_5TextConfig(
        **SHAPES[size],
        num_hidden_layers=24,
        num_attention_heads=8,
        num_key_value_heads=2,
        linear_num_value_heads=16,
        tie_word_embeddings=True,
        use_cache=False,
        dtype="bfloat16",
        attn_implementation="sdpa",
    )
    torch.set_default_dtype(torch.bfloat16)
    with transformers.initialization.no_init_weights():
        model = transformers.Qwen3_5ForCausalLM(config)
    model.tie_weights()
    torch.set_default_dtype(torch.float32)
    if method == "lora":
        if checkpointing:
            model.enable_input_require_grads()
        model = get_peft_model(
            model, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear")
        )
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def sharded(model: torch.nn.Module, by: str) -> torch.nn.Module:
    """A unit a decoder layer and the root, as the published runs have it."""
    torch.cuda.set_device(0)
    torch.distributed.init_process_group("nccl")
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 24)
    if by == "fsdp2":
        from torch.distributed.fsdp import fully_shard

        model.to("cuda")
        for layer in layers:
            fully_shard(layer)
        # said of the root too, which would otherwise stay gathered from its forward to its backward pass
        return fully_shard(model, reshard_after_forward=True)
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    return FullyShardedDataParallel(
        model,
        auto_wrap_policy=ModuleWrapPolicy({type(layers[0])}),
        device_id=0,
        backward_prefetch=None,
        forward_prefetch=False,
        limit_all_gathers=True,
        use_orig_params=False,
    )


def run(size: str, method: str, tokens: int, checkpointing: bool, by: str = "") -> dict[str, int | bool]:
    """One step; the peak is counted anew in each phase, transfers left out."""
    model = make_model(size, method, checkpointing)
    model = sharded(model, by) if by else model.to("cuda")
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-5, foreach=False)
    ids = torch.randint(100, VOCABULARY, (1, tokens))
    labels = ids.clone()
    labels[:, : tokens // 2] = -100
    positions = torch.arange(tokens).expand(3, 1, tokens)
    ids, labels, positions = ids.to("cuda"), labels.to("cuda"), positions.to("cuda")
    peaks = []

    def count() -> None:
        torch.cuda.synchronize()
        peaks.append(torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()

    torch.cuda.reset_peak_memory_stats()
    outputs = model(input_ids=ids, labels=labels, position_ids=positions)
    count()
    outputs.loss.backward()
    count()
    optimizer.step()
    count()
    return {
        "allocated_bytes": max(peaks),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
        "trainable_parameters": sum(p.numel() for p in trainable),
        "out_of_memory": False,
        "phases": peaks,
    }


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "yes", *sys.argv[5:])))
