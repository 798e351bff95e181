"""Hooks of the program that run in a backward pass: values are followed in them as in a forward pass.

There the kernels run as they are (kernels._ForwardPasses), but what a hook is given has passed through Python
anyway. While one runs, a mode of its thread alone sees its operations.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)


class _Following(TorchDispatchMode):
    """Every operation on plain CUDA tensors, or that makes one, through its override."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from .kernels import override_of

        override, keywords = override_of(func), kwargs or {}
        if override is not None and _on_cuda(args, keywords):
            return override(_KEYS, *args, **keywords)
        return func(*args, **keywords)


def _on_cuda(arguments: Any, keywords: dict[str, Any]) -> bool:
    from .operation.evaluate import all_tensors

    tensors = all_tensors([arguments, list(keywords.values())])
    if any(t.layout != torch.strided for t in tensors):
        return False
    device = keywords.get("device")
    return any(t.is_cuda for t in tensors) or (device is not None and torch.device(device).type == "cuda")


def _is_of_torch(hook: Any) -> bool:
    while isinstance(hook, functools.partial):
        hook = hook.func
    return str(getattr(hook, "__module__", "")).partition(".")[0] == "torch"


def follow_hooks() -> None:
    """Follow values in the hooks that are registered from now on, when they run in a backward pass.

    Those of tensors and of modules' backward passes, and what unpacks saved tensors. Not those of a graph's
    nodes (`grad_fn.register_hook`), nor PyTorch's own: a checkpoint unpacks by running its function again,
    which would see the mode.
    """

    def following(hook: Callable[..., Any]) -> Callable[..., Any]:
        if _is_of_torch(hook):
            return hook

        @functools.wraps(hook)
        def run(*arguments: Any, **keywords: Any) -> Any:
            if not torch.cuda.is_initialized():
                return hook(*arguments, **keywords)
            from .kernels import forward_passes

            if forward_passes.followed:
                return hook(*arguments, **keywords)
            with _Following():
                return hook(*arguments, **keywords)

        return run

    def followed(register: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(register)
        def run(tensor: torch.Tensor, hook: Callable[..., Any]) -> Any:
            return register(tensor, following(hook))

        return run

    for name in ("register_hook", "register_post_accumulate_grad_hook"):
        setattr(torch.Tensor, name, followed(getattr(torch.Tensor, name)))

    saved, of_module = torch.autograd.graph.saved_tensors_hooks, torch.utils.hooks.BackwardHook
    hooks_of_saved, hooks_of_module = saved.__init__, of_module.__init__

    def of_saved_tensors(self: Any, pack: Callable[..., Any], unpack: Callable[..., Any]) -> None:
        hooks_of_saved(self, pack, following(unpack))

    def of_a_module(self: Any, module: Any, hooks: Any, before: Any) -> None:
        hooks_of_module(self, module, [following(h) for h in hooks], [following(h) for h in before])

    for owner, initialize, whole in (
        (saved, of_saved_tensors, hooks_of_saved),
        (of_module, of_a_module, hooks_of_module),
    ):
        setattr(owner, "__init__", functools.wraps(whole)(initialize))  # noqa: B010 (mypy: a method)
