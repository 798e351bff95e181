"""The kernel below an override: how an operation's own CUDA kernel is called from what stands before it.

torch.library.get_kernel (torch 2.10 and later) gives the kernel that is registered for the dispatch key CUDA,
so that the override takes its place there. Before, a kernel that is overridden is lost: the override stands
at BackendSelect instead, a key that every call passes, below autograd and above all backends, and where
PyTorch has kernels for a few factory functions alone; from there it redispatches. Calls for other backends
pass it, too.
"""

from collections.abc import Callable

import torch

from .signature import Signature

Kernel = Callable[..., object]  # takes the dispatch keys, then what the operation takes

_DIRECT = hasattr(torch.library, "get_kernel")
KEY = "CUDA" if _DIRECT else "BackendSelect"
_CUDA = torch._C.DispatchKey.CUDA
_below = torch._C._dispatch_keyset_full_after(torch._C.DispatchKey.BackendSelect)


def kernel_of(full_name: str, operation: torch._ops.OpOverload) -> Kernel | None:
    """What runs where nothing is overridden; None where the operation cannot be overridden."""
    if _DIRECT:
        return torch.library.get_kernel(full_name, "CUDA").call_boxed
    if torch._C._dispatch_has_kernel_for_dispatch_key(full_name, KEY):
        return None
    signature = Signature(operation)

    def run(keys: torch.DispatchKeySet, *arguments: object, **keywords: object) -> object:
        return operation.redispatch(keys & _below, *signature.with_numbers(arguments), **keywords)

    return run


def for_cuda(override: Kernel, kernel: Kernel) -> Kernel:
    """`override` where the CUDA kernel would run, `kernel` elsewhere."""
    if _DIRECT:
        return override

    def run(keys: torch.DispatchKeySet, *arguments: object, **keywords: object) -> object:
        wanted = (keys & _below).highestPriorityTypeId() == _CUDA
        try:
            return (override if wanted else kernel)(keys, *arguments, **keywords)
        except BaseException:
            del arguments, keywords  # the traceback of an out of memory keeps no tensor alive
            raise

    return run
