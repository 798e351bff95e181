"""Being told of each call of a module: what hooks of torch do, without what they change.

Global module hooks make every module take the slow way through `_call_impl`, and torch.compile traces them.
`Module.__call__` is replaced instead, by a function that torch.compile takes for torch's own: it is named as
what it replaces, which TorchDynamo looks at (`eval_frame.py`, `_fn.__name__`), and its code says that it is a
file of torch.nn, whose frames TorchDynamo does not compile (`trace_rules.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from profiler.gpu.patched import patched

_AS_TORCH = str(Path(torch.nn.__file__).parent / "modules" / "<call>")


@contextmanager
def told_of_module_calls(
    enter: Callable[[torch.nn.Module, tuple[Any, ...], dict[str, Any]], None],
    leave: Callable[[torch.nn.Module], None],
) -> Iterator[None]:
    """Inside, a call has `enter(module, args, kwargs)` before it, on its thread, and `leave(module)` after.

    `leave` runs for a call that raised too; not where `enter` did.
    """
    call = torch.nn.Module.__call__

    def call_module(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        enter(module, args, kwargs)
        try:
            return call(module, *args, **kwargs)
        finally:
            leave(module)

    call_module.__code__ = call_module.__code__.replace(co_filename=_AS_TORCH)
    call_module.__name__ = "_wrapped_call_impl"
    with patched([(torch.nn.Module, "__call__", call_module)]):
        yield
