"""Programs that others stated in public with the bytes they measured, in words of our own.

Each prints what its author printed; docs/field_cases.md lays it beside what was reported.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

MIB = 2**20


def _say(name, **values):
    print(name, *(f"{key}={value}" for key, value in values.items()), flush=True)


def linear_that_leaks():
    """pytorch/pytorch#95668: a layer of one weight leaves 8,519,680 B behind, cuBLAS's workspace (A10G)."""

    def forward():
        nn.Linear(1, 1, device="cuda")(torch.randn(1, 1, device="cuda"))

    forward()
    _say("linear_that_leaks", left_bytes=torch.cuda.memory_allocated())


def wide_mlp():
    """tamera-lanham/mlab, a notebook: 8.00 GiB with the weights and after forward, 16.00 after backward."""
    sizes = [16, 2**5, 2**10, 2**20, 2**10, 2**5, 16]
    x, y = torch.randn(16, device="cuda"), torch.randn(16, device="cuda")
    model = nn.Sequential(*[nn.Linear(a, b, False, "cuda") for a, b in pairwise(sizes)])
    loaded = torch.cuda.memory_allocated()
    loss = F.mse_loss(model(x), y)
    forward = torch.cuda.memory_allocated()
    loss.backward()
    levels = (loaded, forward, torch.cuda.memory_allocated())
    _say("wide_mlp", gib=[f"{level / 2**30:.2f}" for level in levels])


def used_and_peaked():
    """pytorch/pytorch#15985, stas00's check: used and peaked 0/1024, 256/512 and 0/512 MiB."""

    def block():
        return torch.ones((2**13, 2**13), device="cuda")

    def two_of_which_one_stays():
        kept, other = block(), block()
        del other
        return kept

    def measured(allocate):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        kept = allocate()
        used, peak = torch.cuda.memory_allocated() - before, torch.cuda.max_memory_allocated() - before
        del kept
        return f"{used // MIB}/{peak // MIB}"

    def several(count):
        for each in [block() for _ in range(count)]:
            del each

    cases = (lambda: several(4), two_of_which_one_stays, lambda: several(2))
    _say("used_and_peaked", mib=[measured(case) for case in cases])


def litgpt_cross_entropy(chunk=0):
    """Lightning-AI/litgpt#2311, T4, 2 x 2048 tokens of 32,000: 2097 MB at the peak."""
    logits = torch.randn(2, 2048, 32000, device="cuda", requires_grad=True)
    targets = torch.randint(0, 32000, (2, 2048), device="cuda")
    rows, wanted = logits.reshape(-1, 32000), targets.reshape(-1)
    if chunk:
        parts = zip(rows.split(chunk), wanted.split(chunk), strict=True)
        losses = [F.cross_entropy(row, want, reduction="none") for row, want in parts]
        loss = torch.cat(losses).sum() / wanted.numel()
    else:
        loss = F.cross_entropy(rows, wanted)
    loss.backward()
    _say("litgpt_cross_entropy", chunk=chunk, peak_mb=torch.cuda.max_memory_allocated() // 10**6)


def litgpt_cross_entropy_in_chunks():
    """The same, 128 rows at a time: about 1580 MB."""
    litgpt_cross_entropy(128)


def attention_in_half_precision():
    """pytorch/pytorch#139612: with mathematics alone 3898.94 MB of the device in 2.6, 2360.94 in 2.1."""
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    q, k, v = (
        torch.randn(1, 32, 4096, 128, device="cuda", dtype=torch.half, requires_grad=True) for _ in "qkv"
    )
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        F.scaled_dot_product_attention(q, k, v)
    _say("attention_in_half_precision", reserved_mib=torch.cuda.max_memory_reserved() / MIB)


def distances():
    """pytorch/pytorch#37754: 4 x 6890 to 4 x 8690 points of 1000, backward included, fit a GPU of 16 GB."""
    a = torch.randn(4, 6890, 1000, device="cuda", requires_grad=True)
    b = torch.randn(4, 8690, 1000, device="cuda", requires_grad=True)
    torch.cdist(a, b).sum().backward()
    _say("distances", peak_gib=torch.cuda.max_memory_allocated() / 2**30)


def largest_of_three():
    """pytorch/pytorch#63869: the largest of three in 3.4 GiB did not fit a card of 24 GiB (2021)."""
    a = torch.rand(1200, 1000, 3, 256).cuda()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    a.max(dim=2)
    _say("largest_of_three", more_gib=(torch.cuda.max_memory_allocated() - before) / 2**30)


def megatron_attention():
    """NVIDIA/Megatron-LM#965, A100-80GB, Phi-3 at 4096: +2048, +1024, +1536 and +24 MB."""
    heads, length, width = 32, 4096, 96
    query, key, value = (
        torch.randn(heads, length, width, device="cuda", dtype=torch.bfloat16) for _ in "qkv"
    )
    for each in (query, key, value):
        each.requires_grad_()
    torch.bmm(query, key.transpose(1, 2))  # cuBLAS has its workspace
    levels = [torch.cuda.memory_allocated()]
    buffer = torch.empty(heads, length, length, device="cuda", dtype=torch.bfloat16)
    scores = torch.baddbmm(buffer, query, key.transpose(1, 2), beta=0.0, alpha=width**-0.5)
    levels.append(torch.cuda.memory_allocated())
    chosen = scores.softmax(-1)
    levels.append(torch.cuda.memory_allocated())
    dropped = F.dropout(chosen, 0.1)
    levels.append(torch.cuda.memory_allocated())
    context = torch.bmm(dropped, value)
    levels.append(torch.cuda.memory_allocated())
    more = [(b - a) / MIB for a, b in pairwise(levels)]
    _say("megatron_attention", more_mib=more, context=tuple(context.shape))


def xformers_vanilla():
    """facebookresearch/xformers#267, plain attention by shape: MB at most, inputs and forward pass.

    cuBLAS's workspace is not counted: PyTorch did not allocate it then.
    """

    def measured(rows, length, width):
        torch.ones(2, 2, 2, device="cuda") @ torch.ones(2, 2, 2, device="cuda")
        workspace = torch.cuda.memory_allocated()
        q, k, v = (torch.rand(rows, length, width, device="cuda") for _ in "qkv")
        torch.cuda.reset_peak_memory_stats()
        (q * width**-0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        return (torch.cuda.max_memory_allocated() - workspace) / MIB

    shapes = ((1, 128, 16), (1, 512, 16), (1, 512, 32), (1, 1024, 16), (1, 1024, 32))
    _say("xformers_vanilla", mib={shape: measured(*shape) for shape in shapes})


def growing_tensors():
    """facebookresearch/maskrcnn-benchmark#182, torch 1.0: 4.70, 12.45, 20.08 ... MiB at most."""
    peaks = []
    for i in range(10):
        kept = torch.rand(1000, 1000, i + 1, device="cuda")
        peaks.append(round(torch.cuda.max_memory_allocated() / MIB, 3))
    del kept
    _say("growing_tensors", peaks_mib=peaks)


def bert_large(batch=4, accumulate=1):
    """Hugging Face's guide to one GPU: BERT-large, 512 tokens, Adam, batch 4: 14949 MB of the device."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        attn_implementation="eager",
    )
    model = BertForSequenceClassification(config).cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    ids = torch.randint(100, 30000, (batch, 512), device="cuda")
    labels = torch.randint(0, 2, (batch,), device="cuda")
    for _ in range(2):
        for _ in range(accumulate):
            (model(input_ids=ids, labels=labels).loss / accumulate).backward()
        optimizer.step()
        optimizer.zero_grad()
    free, total = torch.cuda.mem_get_info()
    _say(
        "bert_large",
        batch=batch,
        reserved_mib=torch.cuda.max_memory_reserved() / MIB,
        device_mib=(total - free) / MIB,
    )


def bert_large_accumulating():
    """The same, four micro-batches of one: 8681 MB."""
    bert_large(1, 4)
