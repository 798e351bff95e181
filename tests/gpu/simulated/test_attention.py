"""Which attention kernel CUDA runs, and what it keeps for backward."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from profiler.gpu.simulated.attention import AttentionCall, choose_backend

AMPERE, ADA, HOPPER, TURING, BLACKWELL, VOLTA = (8, 0), (8, 9), (9, 0), (7, 5), (12, 0), (7, 0)
SHAPE = (2, 8, 256, 64)
PLAIN = AttentionCall(SHAPE, SHAPE, SHAPE, torch.bfloat16, False, False, False, 0.0, True, False, True)
FLASH, EFFICIENT = SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION
MATH, CUDNN = SDPBackend.MATH, SDPBackend.CUDNN_ATTENTION


def sized(head_size, **changes):
    shape = (2, 8, 256, head_size)
    return replace(PLAIN, query=shape, key=shape, value=shape, **changes)


@pytest.mark.parametrize(
    ("call", "capability", "expected"),
    [
        (PLAIN, AMPERE, FLASH),
        (PLAIN, BLACKWELL, FLASH),
        (PLAIN, HOPPER, CUDNN),
        (replace(PLAIN, dtype=torch.float16), TURING, EFFICIENT),
        (PLAIN, TURING, MATH),  # no bfloat16 kernels before Ampere
        (replace(PLAIN, dtype=torch.float32), HOPPER, EFFICIENT),
        (replace(PLAIN, dtype=torch.float32), VOLTA, EFFICIENT),
        (replace(PLAIN, dtype=torch.float64), AMPERE, MATH),
        (replace(PLAIN, has_mask=True), AMPERE, EFFICIENT),
        (replace(PLAIN, has_mask=True), HOPPER, CUDNN),
        (sized(320), AMPERE, EFFICIENT),  # flash ends at 256
        (sized(256), HOPPER, CUDNN),
        (sized(60), AMPERE, FLASH),  # padded to 64 by the caller
        (sized(60, dtype=torch.float32), AMPERE, EFFICIENT),
        (sized(62, dtype=torch.float32), AMPERE, MATH),  # 16-byte rows
        (sized(60, has_mask=True), AMPERE, MATH),
        (sized(208), ADA, EFFICIENT),  # small shared memory: no backward for 192 < D <= 224
        (sized(208), AMPERE, FLASH),
        (replace(PLAIN, key=(2, 2, 256, 64), value=(2, 2, 256, 64), enable_gqa=True), AMPERE, FLASH),
        (replace(PLAIN, is_causal=True, key=(2, 8, 128, 64), value=(2, 8, 128, 64)), AMPERE, EFFICIENT),
        (replace(PLAIN, last_strides_are_one=False), AMPERE, MATH),
    ],
)
def test_choice(call, capability, expected):
    assert choose_backend(call, capability) == expected


def test_the_users_choice_is_obeyed():
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        assert choose_backend(PLAIN, HOPPER) == EFFICIENT
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), pytest.raises(RuntimeError, match="No available kernel"):
        choose_backend(replace(PLAIN, has_mask=True), AMPERE)


B, H, S, D = 2, 8, 256, 64


def inputs(device, dtype, length=S):
    return [torch.empty(B, H, length, D, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]


def test_flash_keeps_its_output_the_logsumexp_and_the_random_state(cuda, ledger):
    q, k, v = inputs(cuda, torch.bfloat16, 2048)  # enough query blocks that keys are not split
    ledger.clear()
    out = scaled_dot_product_attention(q, k, v, is_causal=True)
    assert ledger.events == [B * H * 2048 * D * 2, 4 * B * H * 2048, 16, 8]
    assert out.shape == (B, H, 2048, D)


def test_flash_backward_accumulates_the_query_gradient_in_float32(cuda, ledger):
    q, k, v = inputs(cuda, torch.bfloat16, 2048)
    out = scaled_dot_product_attention(q, k, v, is_causal=True)
    grad = torch.empty_like(out)
    ledger.clear()
    out.backward(grad)
    assert "aten::_scaled_dot_product_flash_attention_backward:query gradient accumulator" in ledger.ops
    assert ledger.events.count(B * 2048 * H * D * 4) == 1
    assert [q.grad.shape, k.grad.shape, v.grad.shape] == [q.shape] * 3


def test_efficient_keeps_its_output_and_an_aligned_logsumexp(cuda, ledger):
    q, k, v = inputs(cuda, torch.float32, 100)
    ledger.clear()
    scaled_dot_product_attention(q, k, v)
    # two empty seeds; the output; 100 rounded up to 32s
    assert ledger.events[:4] == [8, 8, B * H * 100 * D * 4, 4 * B * H * 128]


def test_efficient_keeps_its_seeds_on_the_host_where_there_is_dropout(cuda, ledger):
    q, k, v = inputs(cuda, torch.float32, 100)
    ledger.clear()
    scaled_dot_product_attention(q, k, v, dropout_p=0.1)
    assert ledger.events[:2] == [B * H * 100 * D * 4, 4 * B * H * 128]


def test_a_boolean_mask_becomes_additive_in_the_type_of_the_query(cuda, ledger):
    q, k, v = inputs(cuda, torch.bfloat16)
    mask = torch.ones(B, 1, S, S, dtype=torch.bool, device=cuda)
    ledger.clear()
    scaled_dot_product_attention(q, k, v, attn_mask=mask)
    # -inf and 0 as scalars on the device; where(mask, 0, -inf); the scalars die; seeds; output; logsumexp
    assert ledger.events[:9] == [2, 2, 2 * B * S * S, -2, -2, 8, 8, 2 * B * H * S * D, 4 * B * H * S]


def test_math_upcasts_and_holds_the_scores(cuda, ledger):
    q, k, v = inputs(cuda, torch.float64)
    ledger.clear()
    with sdpa_kernel(SDPBackend.MATH):
        scaled_dot_product_attention(q, k, v)
    assert 8 * B * H * S * S in ledger.events
