"""Hidden device allocations: what CUDA kernels allocate that is no output tensor of an op.

One module per kernel family; every function takes plain numbers and returns `Scratch` records in
allocation order. docs/hidden_allocations.md lists the rules and how far each is confirmed.
"""

from profiler.gpu.kernels.attention import (
    cudnn_attention_backward,
    cudnn_attention_forward,
    efficient_attention_backward,
    efficient_attention_forward,
    flash_attention_backward,
    flash_attention_forward,
)
from profiler.gpu.kernels.blas import cublas_workspace, cublas_workspace_bytes
from profiler.gpu.kernels.foreach import foreach_norm
from profiler.gpu.kernels.indexing import (
    cumsum,
    embedding_dense_backward,
    index_put_accumulate,
    masked_scatter,
    nonzero,
    sort,
    topk,
)
from profiler.gpu.kernels.normalization import (
    batch_norm_channels_last,
    group_norm_backward,
    group_norm_forward,
    layer_norm_backward,
)
from profiler.gpu.kernels.reduction import reduction
from profiler.gpu.kernels.scratch import Scratch, scratches

__all__ = [
    "Scratch",
    "batch_norm_channels_last",
    "cublas_workspace",
    "cublas_workspace_bytes",
    "cudnn_attention_backward",
    "cudnn_attention_forward",
    "cumsum",
    "efficient_attention_backward",
    "efficient_attention_forward",
    "embedding_dense_backward",
    "flash_attention_backward",
    "flash_attention_forward",
    "foreach_norm",
    "group_norm_backward",
    "group_norm_forward",
    "index_put_accumulate",
    "layer_norm_backward",
    "masked_scatter",
    "nonzero",
    "reduction",
    "scratches",
    "sort",
    "topk",
]
