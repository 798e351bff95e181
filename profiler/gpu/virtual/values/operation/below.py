"""The kernel below an override: how an operation's own CUDA kernel is called from what stands before it.

torch.library.get_kernel (torch 2.10 and later) gives the kernel that is registered for the dispatch key CUDA,
so that the override takes its place there. Before, a kernel that is overridden is lost: the override stands
at BackendSelect instead, a key that every call passes, below autograd and above all backends, and where
PyTorch has kernels for a few factory functions alone; from there it redispatches. Calls for other backends
pass it, too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch

from .signature import Signature

Kernel = Callable[..., object]  # takes the dispatch keys, then what the operation takes

_DIRECT = hasattr(torch.library, "get_kernel")
KEY = "CUDA" if _DIRECT else "BackendSelect"
_CUDA = torch._C.DispatchKey.CUDA
_below = torch._C._dispatch_keyset_full_after(torch._C.DispatchKey.BackendSelect)

# A key that PyTorch itself never uses: no tensor has it and no kernel stands there. A thread that includes it
# passes it with every call, between autograd and Python's modes.
THREAD_KEY_NAME = "Fake"
_THREAD_KEY = cast(torch._C.DispatchKey, torch._C._parse_dispatch_key(THREAD_KEY_NAME))
_below_threads = torch._C._dispatch_keyset_full_after(_THREAD_KEY)


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


def for_thread(override: Kernel, operation: torch._ops.OpOverload) -> Kernel:
    """What stands at the key of threads: `override` where the CUDA kernel would run, else the call itself.

    While torch.compile traces, the keys that it is given are those of the whole call, as Python's dispatcher
    goes through them one by one: those above, which the call has passed, would bring it here again.
    """
    signature = Signature(operation)

    def run(keys: torch.DispatchKeySet, *arguments: object, **keywords: object) -> object:
        rest = keys & _below_threads
        try:
            if not rest.has(torch._C.DispatchKey.Python) and (
                (rest & _below).highestPriorityTypeId() == _CUDA or _makes_on_cuda(keywords)
            ):
                return override(rest, *arguments, **keywords)
            return operation.redispatch(rest, *signature.with_numbers(arguments), **keywords)
        except BaseException:
            del arguments, keywords
            raise

    def _makes_on_cuda(keywords: dict[str, object]) -> bool:
        return not signature.takes_tensors and getattr(keywords.get("device"), "type", "") == "cuda"

    return run


def operations_in_python_pass_by() -> None:
    """Operations made of Python (torch.ops.higher_order) have no kernel at the threads' key and need none."""
    for operation in torch._ops._higher_order_ops.values():
        operation.fallthrough(_THREAD_KEY)
    torch._ops._HIGHER_ORDER_OP_DEFAULT_FALLTHROUGH_DISPATCH_KEYS.append(_THREAD_KEY)


@contextmanager
def thread_followed(followed: bool) -> Iterator[None]:
    """Inside, this thread passes the key or does not; a backward pass begun here inherits it."""
    before = thread_is_followed()
    torch._C._dispatch_tls_set_dispatch_key_included(_THREAD_KEY, followed)
    try:
        yield
    finally:
        torch._C._dispatch_tls_set_dispatch_key_included(_THREAD_KEY, before)


def thread_is_followed() -> bool:
    """Whether this thread passes the key."""
    return bool(torch._C._dispatch_tls_is_dispatch_key_included(_THREAD_KEY))
