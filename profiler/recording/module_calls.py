"""Being told of each call of a module: what hooks of torch do, without what they change.

Global module hooks make every module take the slow way through `_call_impl`, and torch.compile traces them.
`Module.__call__` is replaced instead, by a function that torch.compile takes for torch's own: it is named as
what it replaces, which TorchDynamo looks at (`eval_frame.py`, `_fn.__name__`), and its code says that it is a
file of torch.nn, whose frames TorchDynamo does not compile (`trace_rules.py`). What it calls would be: while
the listeners run, TorchDynamo is off. It compares `Module.__call__` with what that was when it was loaded,
and would trace any other: it is told.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch._C._dynamo.eval_frame import set_eval_frame

from profiler.gpu.patched import Patch, patched

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
        compiling = set_eval_frame(None)
        try:
            enter(module, args, kwargs)
        finally:
            set_eval_frame(compiling)
        try:
            return call(module, *args, **kwargs)
        finally:
            compiling = set_eval_frame(None)
            try:
                leave(module)
            finally:
                set_eval_frame(compiling)

    call_module.__code__ = call_module.__code__.replace(co_filename=_AS_TORCH)
    call_module.__name__ = "_wrapped_call_impl"
    with patched([(torch.nn.Module, "__call__", call_module), *_told_to_dynamo(call_module)]):
        yield


def _told_to_dynamo(call_module: Callable[..., Any]) -> list[Patch]:
    name = "unpatched_nn_module_call"
    loaded = (sys.modules.get(f"torch._dynamo.{place}") for place in ("utils", "variables.nn_module"))
    return [(module, name, call_module) for module in loaded if hasattr(module, name)]
