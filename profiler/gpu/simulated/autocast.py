"""Autocast as on CUDA, with its cache of cast weights (ATen/autocast_mode.cpp and autocast_mode.h)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from profiler.gpu.simulated.tensors.unsupported import DEVICE_TYPE


def _names(text: str) -> list[str]:
    return text.split()


LOWER_PRECISION = _names("""
_convolution.deprecated _convolution conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d.input
conv_transpose3d.input convolution prelu addmm addmv addr matmul einsum mm mv linalg_vecdot linear addbmm
baddbmm bmm chain_matmul linalg_multi_dot _thnn_fused_lstm_cell _thnn_fused_gru_cell lstm_cell gru_cell
rnn_tanh_cell rnn_relu_cell _scaled_dot_product_flash_attention scaled_dot_product_attention cudnn_convolution
cudnn_convolution_transpose
""")

FLOAT32 = _names("""
acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow.Tensor_Scalar
pow.Tensor_Tensor pow.Scalar softplus layer_norm native_layer_norm rms_norm group_norm frobenius_norm.dim
nuclear_norm nuclear_norm.dim cosine_similarity poisson_nll_loss cosine_embedding_loss nll_loss nll_loss2d
hinge_embedding_loss kl_div l1_loss smooth_l1_loss huber_loss mse_loss margin_ranking_loss
multilabel_margin_loss soft_margin_loss triplet_margin_loss multi_margin_loss
binary_cross_entropy_with_logits dist pdist cdist renorm logsumexp upsample_nearest1d
_upsample_nearest_exact1d upsample_nearest2d _upsample_nearest_exact2d upsample_nearest3d
_upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d _upsample_bilinear2d_aa upsample_trilinear3d
upsample_bicubic2d _upsample_bicubic2d_aa linalg_matrix_sqrth
""")

# The output type is an argument: set to float32 where the caller gave none.
FLOAT32_OUTPUT = _names("""
prod prod.dim_int softmax.int log_softmax.int cumprod cumsum linalg_vector_norm linalg_matrix_norm
linalg_matrix_norm.str_ord sum sum.dim_IntList
""")

# Redispatched to the overload that takes the output type as its last argument.
FLOAT32_APPENDED = {"norm.Scalar": "norm.ScalarOpt_dtype", "norm.ScalarOpt_dim": "norm.ScalarOpt_dim_dtype"}

WIDEST = _names("addcdiv addcmul atan2 bilinear cross dot vdot grid_sampler index_put tensordot scatter_add")

_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)  # type: ignore[attr-defined]

# Cast weights by the id of their tensor, kept until the outermost autocast region ends (`cached_casts`).
_cast_weights: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}


def clear_cache() -> None:
    """Drop the cast weights, as `torch.clear_autocast_cache` does."""
    _cast_weights.clear()


def _is_eligible(value: torch.Tensor) -> bool:
    return value.device.type == DEVICE_TYPE and value.is_floating_point() and value.dtype != torch.float64


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """`cached_cast`: leaves in float32 that need a gradient are cast once per region."""
    if isinstance(value, list | tuple):
        return [_cast(item, dtype) for item in value]
    if not isinstance(value, torch.Tensor) or not _is_eligible(value) or value.dtype == dtype:
        return value
    can_cache = (
        dtype == torch.get_autocast_dtype(DEVICE_TYPE)
        and value.dtype == torch.float32
        and value.requires_grad
        and value.is_leaf
        and not value._is_view()
        and torch.is_autocast_cache_enabled()
        and not torch.is_inference_mode_enabled()
    )
    if not can_cache:
        return value.to(dtype)
    found = _cast_weights.get(id(value))
    if found is None:
        found = _cast_weights[id(value)] = (value, value.to(dtype))
    return found[1]


def _tensors(values: Any) -> list[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, list | tuple):
        return [tensor for value in values for tensor in _tensors(value)]
    return []


def _run_in(target: Callable[[tuple[Any, ...]], torch.dtype], op: Any, *args: Any, **kwargs: Any) -> Any:
    """Cast and run. The compiled kernels (GCC) cast their arguments from the last to the first, and drop the
    casts from the first to the last; the elements of a list are cast and dropped in its order.
    """
    with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST), torch._C.DisableTorchFunction():
        dtype = target((*args, *kwargs.values()))
        keywords = {name: _cast(kwargs[name], dtype) for name in reversed(kwargs)}
        cast = [_cast(argument, dtype) for argument in reversed(args)][::-1]
        result = op(*cast, **keywords)
        _drop(cast)
        return result


def _drop(values: list[Any]) -> None:
    for position, value in enumerate(values):
        values[position] = None
        if isinstance(value, list):
            _drop(value)


def _run_with_float32_output(position: int, op: Any, *args: Any, **kwargs: Any) -> Any:
    """`fp32_set_opt_dtype`: inputs stay, the result is float32 unless the caller chose its type."""
    with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST), torch._C.DisableTorchFunction():
        chosen = kwargs.get("dtype") or (args[position] if len(args) > position else None)
        if chosen is None and _is_eligible(args[0]):
            args = args[:position]
            kwargs["dtype"] = torch.float32
        return op(*args, **kwargs)


def _run_appended(plain: Any, typed: Any, *args: Any) -> Any:
    with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST), torch._C.DisableTorchFunction():
        if not _is_eligible(args[0]):
            return plain(*args)
        defaults = [argument.default_value for argument in plain._schema.arguments[len(args) :]]
        return typed(*args, *defaults, dtype=torch.float32)


def _lower(values: tuple[Any, ...]) -> torch.dtype:
    return torch.get_autocast_dtype(DEVICE_TYPE)


def _float32(values: tuple[Any, ...]) -> torch.dtype:
    return torch.float32


def _widest(values: tuple[Any, ...]) -> torch.dtype:
    """`prioritize`: float32 if any operand is, else the autocast type."""
    eligible = [t for t in _tensors(values) if _is_eligible(t)]
    return torch.float32 if any(t.dtype == torch.float32 for t in eligible) else _lower(values)


def _overload(name: str) -> Any:
    base, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, base), overload or "default")


def _casts_on_cuda(name: str) -> bool:
    """Whether the installed torch has the op, and on its list: torch 2.11 does not cast `rms_norm`."""
    exists = hasattr(torch.ops.aten, name.partition(".")[0])
    return exists and torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "AutocastCUDA")


def _refuse(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError(
        "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to autocast: use"
        " binary_cross_entropy_with_logits or BCEWithLogitsLoss"
    )


def register_autocast() -> list[torch.library.Library]:
    """Register the autocast kernels for the device; the returned libraries keep them alive."""
    fallback = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    fallback.fallback(torch.library.fallthrough_kernel)
    library = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
    for names, target in ((LOWER_PRECISION, _lower), (FLOAT32, _float32), (WIDEST, _widest)):
        for name in names:
            if _casts_on_cuda(name):
                library.impl(name, partial(_run_in, target, _overload(name)))
    for name in FLOAT32_OUTPUT:
        op = _overload(name)
        position = next(i for i, argument in enumerate(op._schema.arguments) if argument.name == "dtype")
        library.impl(name, partial(_run_with_float32_output, position, op))
    for name, typed in FLOAT32_APPENDED.items():
        library.impl(name, partial(_run_appended, _overload(name), _overload(typed)))
    library.impl("binary_cross_entropy", _refuse)
    return [fallback, library]
