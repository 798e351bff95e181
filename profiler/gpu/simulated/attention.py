"""Scaled dot product attention by the kernel that CUDA would choose.

The rules are those of ATen/native/transformers/cuda/sdp_utils.cpp; the steps around the kernels those of
ATen/native/transformers/attention.cpp (`scaled_dot_product_attention`).
"""

import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.attention import SDPBackend

from profiler.gpu import kernels
from profiler.gpu.cards import GPU
from profiler.gpu.kernels import Scratch

aten = torch.ops.aten

HALF_TYPES = (torch.float16, torch.bfloat16)
# cuDNN attention comes first on Hopper and data-centre Blackwell, with cuDNN after 9.15
# (`check_prefer_cudnn_attention`).
_CUDNN_FIRST_MAJORS = (9, 10)


@dataclass(frozen=True)
class AttentionCall:
    """What the choice of the kernel depends on. Shapes are (batch, heads, length, head size)."""

    query: tuple[int, ...]
    key: tuple[int, ...]
    value: tuple[int, ...]
    dtype: torch.dtype
    has_mask: bool
    mask_requires_grad: bool
    is_causal: bool
    dropout_p: float
    requires_grad: bool
    enable_gqa: bool
    last_strides_are_one: bool


def choose_backend(
    call: AttentionCall, capability: tuple[int, int], torch_version: tuple[int, int] = (2, 14)
) -> SDPBackend:
    """The first usable kernel in CUDA's order; the user's `sdpa_kernel(...)` and enable flags are obeyed."""
    usable: dict[SDPBackend, Callable[[AttentionCall, tuple[int, int]], bool]] = {
        SDPBackend.CUDNN_ATTENTION: _cudnn_can_run,
        SDPBackend.FLASH_ATTENTION: _flash_can_run,
        SDPBackend.EFFICIENT_ATTENTION: _efficient_can_run,
        SDPBackend.MATH: lambda call, capability: torch._C._get_math_sdp_enabled(),
    }
    if torch_version >= (2, 13) and call.key[1:2] == call.value[1:2] == (1,):
        call = replace(call, enable_gqa=True)  # one head of keys is grouped queries, asked for or not
    for backend in _priority(capability):
        grouped = call.query[1:2] != call.key[1:2]
        if grouped and backend == SDPBackend.EFFICIENT_ATTENTION and torch_version < (2, 13):
            continue  # it takes grouped queries since 2.13
        if backend in usable and usable[backend](call, capability):
            return backend
    raise RuntimeError("No available kernel. Aborting execution.")


def _priority(capability: tuple[int, int]) -> list[SDPBackend]:
    order = [SDPBackend(int(value)) for value in torch._C._get_sdp_priority_order()]
    deprioritized = os.environ.get("TORCH_CUDNN_SDPA_DEPRIORITIZED") == "1"
    if order[0] == SDPBackend.FLASH_ATTENTION and capability[0] in _CUDNN_FIRST_MAJORS and not deprioritized:
        order.remove(SDPBackend.CUDNN_ATTENTION)
        order.insert(0, SDPBackend.CUDNN_ATTENTION)
    return order


def _shapes_fit(call: AttentionCall, supports_gqa: bool) -> bool:
    """Four dimensions, equal batches; equal heads, or grouped ones where the kernel knows how."""
    if not len(call.query) == len(call.key) == len(call.value) == 4:
        return False
    if not call.query[0] == call.key[0] == call.value[0]:
        return False
    if not call.query[1] == call.key[1] == call.value[1]:
        grouped = call.enable_gqa and call.query[1] % call.key[1] == 0 and call.key[1] == call.value[1]
        if not (supports_gqa and grouped):
            return False
    return 0 not in (*call.query, *call.key)


def _flash_can_run(call: AttentionCall, capability: tuple[int, int]) -> bool:
    head_size = call.query[-1]
    if not torch._C._get_flash_sdp_enabled() or not (8, 0) <= capability <= (12, 1):
        return False
    if call.dtype not in HALF_TYPES or call.has_mask or not _shapes_fit(call, supports_gqa=True):
        return False
    if not (head_size == call.key[-1] == call.value[-1] and head_size <= 256 and call.last_strides_are_one):
        return False
    if call.is_causal and call.query[2] != call.key[2]:
        return False
    if call.requires_grad and capability in ((8, 6), (8, 9), (12, 0), (12, 1)):
        return not (192 < head_size <= 224 or (head_size > 224 and call.dropout_p > 0))
    return True


def _efficient_can_run(call: AttentionCall, capability: tuple[int, int]) -> bool:
    if not torch._C._get_mem_efficient_sdp_enabled() or not (5, 0) <= capability <= (12, 1):
        return False
    types = (torch.float16, torch.float32) if capability < (8, 0) else (*HALF_TYPES, torch.float32)
    if call.dtype not in types or not _shapes_fit(call, supports_gqa=True) or not call.last_strides_are_one:
        return False
    if call.query[-1] != call.key[-1]:
        return False
    alignment = _gemm_alignment(call.dtype, capability)
    return call.query[-1] % alignment == 0 and call.value[-1] % alignment == 0


def _gemm_alignment(dtype: torch.dtype, capability: tuple[int, int]) -> int:
    """`minimum_gemm_alignment`: 16 bytes for tensor cores, one element otherwise."""
    tensor_cores = capability >= (8, 0) or (capability >= (7, 0) and dtype in HALF_TYPES)
    if not tensor_cores:
        return 1
    if dtype in HALF_TYPES:
        return 8
    return 4 if capability >= (8, 0) else 1


def _cudnn_can_run(call: AttentionCall, capability: tuple[int, int]) -> bool:
    if not torch._C._get_cudnn_sdp_enabled() or not (8, 0) <= capability <= (12, 1):
        return False
    if torch.are_deterministic_algorithms_enabled() or call.mask_requires_grad:
        return False
    if call.dtype not in HALF_TYPES or not _shapes_fit(call, supports_gqa=True):
        return False
    if call.dropout_p * 16 % 1:
        return False  # cuDNN knows sixteenths
    largest = 256 if capability[0] == 9 else 128
    sizes = (call.query[-1], call.value[-1])
    return call.key[2] != 1 and all(size % 8 == 0 and size <= largest for size in sizes)


def by_chosen_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    capability: tuple[int, int],
    torch_version: tuple[int, int],
) -> torch.Tensor:
    """The composite as CUDA runs it: every step is a visible operation with its own gradient."""
    inputs = (query, key, value)
    requires_grad = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    mask_requires_grad = attn_mask is not None and attn_mask.requires_grad
    call = AttentionCall(
        tuple(query.shape),
        tuple(key.shape),
        tuple(value.shape),
        query.dtype,
        attn_mask is not None,
        mask_requires_grad,
        is_causal,
        dropout_p,
        requires_grad,
        enable_gqa,
        all(t.stride(-1) == 1 for t in inputs),
    )
    backend = choose_backend(call, capability, torch_version)
    if backend == SDPBackend.FLASH_ATTENTION:
        return _flash(query, key, value, dropout_p, is_causal, scale)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = _additive(attn_mask, query.dtype)
    if backend == SDPBackend.CUDNN_ATTENTION:
        return aten._scaled_dot_product_cudnn_attention(
            query, key, value, attn_mask, requires_grad, dropout_p, is_causal, False, scale=scale
        )[0]
    if backend == SDPBackend.EFFICIENT_ATTENTION:
        if attn_mask is not None:
            attn_mask = _aligned(attn_mask).expand(*query.shape[:3], key.shape[2])
        return aten._scaled_dot_product_efficient_attention(
            query,
            key,
            value,
            attn_mask,
            requires_grad or mask_requires_grad,
            dropout_p,
            is_causal,
            scale=scale,
        )[0]
    return aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
    )[0]


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
) -> torch.Tensor:
    """Head sizes are padded to a multiple of 8 by visible operations (`pad_last_dim<8>`)."""
    head_size = query.shape[-1]
    missing = -head_size % 8
    if missing:
        query, key, value = (aten.constant_pad_nd(t, [0, missing]) for t in (query, key, value))
    scale = 1 / math.sqrt(head_size) if scale is None else scale
    out = aten._scaled_dot_product_flash_attention(
        query, key, value, dropout_p, is_causal, False, scale=scale
    )[0]
    return out[..., :head_size] if missing else out


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`convert_boolean_attn_mask`."""
    return aten.where(mask, 0.0, aten.scalar_tensor(-math.inf, dtype=dtype, device=mask.device))


def _aligned(mask: torch.Tensor) -> torch.Tensor:
    """`preprocess_mask`: rows start at multiples of 8 elements, by a padded copy where they do not."""
    strides = mask.stride()
    aligned = strides[-1] == 1 and all(s % 8 == 0 for s in strides[:-1] if s > 1)
    length = mask.shape[-1]
    if aligned and (len(strides) < 2 or length % 8 == 0 or strides[-2] == 0):
        return mask
    return aten.constant_pad_nd(mask, [0, 8 - length % 8])[..., :length]


# --- what the kernels allocate beside their outputs ------------------------------------------------------


def _attention_sizes(arguments: dict[str, Any]) -> dict[str, int]:
    query, key = arguments["query"], arguments["key"]
    batch, heads, query_length, head_dim = query.shape
    return {
        "batch": batch,
        "heads": heads,
        "query_length": query_length,
        "key_length": key.shape[2],
        "head_dim": head_dim,
    }


def _is_dense_by_length(tensor: torch.Tensor) -> bool:
    """Contiguous in [batch, length, heads, head size] order."""
    return tensor.transpose(1, 2).is_contiguous()


def flash_scratch(
    arguments: dict[str, Any], described: Any, gpu: GPU, version: tuple[int, int]
) -> tuple[Scratch, ...]:
    """What flash attention allocates beside its outputs; a rule of profiler.gpu.simulated.kernel_bindings."""
    return kernels.flash_attention_forward(
        **_attention_sizes(arguments),
        kv_heads=arguments["key"].shape[1],
        gpu=gpu,
        dropout=arguments["dropout_p"],
    )


def flash_backward_scratch(
    arguments: dict[str, Any], described: Any, gpu: GPU, version: tuple[int, int]
) -> tuple[Scratch, ...]:
    """The same of its backward pass."""
    return kernels.flash_attention_backward(
        **_attention_sizes(arguments),
        kv_heads=arguments["key"].shape[1],
        element_bytes=arguments["query"].element_size(),
        gpu=gpu,
        grad_output_contiguous=_is_dense_by_length(arguments["grad_out"]),
        output_contiguous=_is_dense_by_length(arguments["out"]),
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


def efficient_scratch(
    arguments: dict[str, Any], described: Any, gpu: GPU, version: tuple[int, int]
) -> tuple[Scratch, ...]:
    """What memory-efficient attention allocates beside its outputs."""
    query, value = arguments["query"], arguments["value"]
    return kernels.efficient_attention_forward(
        batch=query.shape[0],
        heads=query.shape[1],
        query_length=query.shape[2],
        value_dim=value.shape[3],
        element_bytes=query.element_size(),
    )


def efficient_backward_scratch(
    arguments: dict[str, Any], described: Any, gpu: GPU, version: tuple[int, int]
) -> tuple[Scratch, ...]:
    """The same of its backward pass."""
    if gpu.capability < (7, 5):
        warnings.warn(
            f"{gpu.name}: workspace of efficient attention's backward unknown, taken as 0", stacklevel=2
        )
        return ()
    return kernels.efficient_attention_backward(
        **_attention_sizes(arguments),
        kv_heads=arguments["key"].shape[1],
        value_dim=arguments["value"].shape[3],
        element_bytes=arguments["query"].element_size(),
        gpu=gpu,
        dropout=arguments["dropout_p"] > 0,
        grad_output_contiguous=_is_dense_by_length(arguments["grad_out_"]),
    )


def cudnn_scratch(
    arguments: dict[str, Any], described: Any, gpu: GPU, version: tuple[int, int]
) -> tuple[Scratch, ...]:
    """The workspace of cuDNN's attention."""
    return kernels.cudnn_attention_forward(gpu)


def cudnn_backward_scratch(
    arguments: dict[str, Any], described: Any, gpu: GPU, version: tuple[int, int]
) -> tuple[Scratch, ...]:
    """The same of its backward pass."""
    return kernels.cudnn_attention_backward(
        **_attention_sizes(arguments),
        kv_heads=arguments["key"].shape[1],
        value_dim=arguments["value"].shape[3],
        element_bytes=arguments["query"].element_size(),
        gpu=gpu,
    )
