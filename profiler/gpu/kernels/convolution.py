"""Workspace of cuDNN convolutions: a bound, since the size cannot be derived."""


def cudnn_convolution_workspace_bound_bytes(free_device_bytes: int, largest_cached_block_bytes: int) -> int:
    """Most bytes that one cuDNN convolution may take as workspace (forward or backward).

    Source: cudnn/Conv_v8.cpp. The size is what the chosen plan reports, and the plan depends on
    cuDNN, card, shape, dtype, layout and, with torch.backends.cudnn.benchmark, on timing; plans that
    want more than the larger of the free device memory and the largest cached block are not tried.
    The workspace is allocated around each execution and freed after it. Traces of one network show
    4 MiB and 128 MiB workspaces (45 allocations). A table measured per configuration is the only
    way to a value.
    """
    return max(free_device_bytes, largest_cached_block_bytes)
