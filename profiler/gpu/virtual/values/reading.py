"""Kernels through which the host reads device memory, and those that find the size of their result there."""

import functools
import threading
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import torch

from . import answers, assumptions
from .following import PlainCpu, inside_collective
from .host import ASSUMED_BYTES, COPIED_BYTES, INTEGER_BYTES, on_host
from .known import TRUE
from .operation.below import Kernel
from .operation.evaluate import is_float
from .process import journal, known

_scalars = assumptions.Scalars()
_copying = threading.local()  # a copy to the host may be made of two: a cast on the device, then the copy

Wrapper = Callable[[torch._ops.OpOverload, Kernel], Kernel]


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _copyable(tensor: torch.Tensor) -> bool:
    """Whether a tensor is small enough to be copied, which takes less than computing it."""
    if is_float(tensor):
        return _bytes(tensor) <= COPIED_BYTES and not tensor.is_conj() and not tensor.is_neg()
    return _bytes(tensor) <= INTEGER_BYTES


def _record(operation: str, tensor: torch.Tensor, assumption: str, gives_a_size: bool = False) -> None:
    dtype = str(tensor.dtype).removeprefix("torch.")
    whole_number = not is_float(tensor) and tensor.dtype != torch.bool
    journal.read(operation, dtype, assumption, gives_a_size or whole_number)


def item(operation: torch._ops.OpOverload, kernel: Kernel) -> Kernel:
    """`.item()`, and all that ends there: `bool(t)`, `int(t)`, `if t`, printing."""

    def run(keys: torch.DispatchKeySet, tensor: torch.Tensor) -> object:
        answer = answers.taken()
        if answer is not None:
            return answer
        assumption = known.assumption(tensor)
        if assumption is None:
            assumption = assumptions.words(tensor.dtype, 1)
            with PlainCpu():
                on_host(tensor).fill_(_scalars.next(tensor.dtype))
            known.write(tensor, assumption)  # so that it reads the same again
        if assumption != TRUE:
            _record("item", tensor, assumption)
        return kernel(keys, tensor)

    return run


def read_all_of_uint64() -> None:
    """Let `.item()` give unsigned numbers above int64 where torch hands none to kernels in Python.

    torch 2.6 puts every number that passes a boxed call into an int64 (ATen/core/ivalue.h).
    """
    largest = torch.full((8,), 255, dtype=torch.uint8, device="cpu").view(torch.uint64)
    try:
        torch.ops.aten._local_scalar_dense(largest)
    except RuntimeError:
        as_it_is = torch.Tensor.item

        @functools.wraps(as_it_is)
        def item_of(tensor: torch.Tensor) -> Any:
            if tensor.dtype != torch.uint64:
                return as_it_is(tensor)
            return int(as_it_is(tensor.view(torch.int64))) % 2**64

        torch.Tensor.item = item_of  # type: ignore[assignment, method-assign]


def copy(operation: torch._ops.OpOverload, kernel: Kernel) -> Kernel:
    """`copy_` between host and device and within the device: `.cpu()`, `.cuda()`, `.to()`, `.clone()`,
    `.tolist()`.
    """

    def run(keys: torch.DispatchKeySet, to: torch.Tensor, source: torch.Tensor, *rest: object) -> object:
        if getattr(inside_collective, "here", False):
            return kernel(keys, to, source, *rest)
        to_the_host = source.is_cuda and not to.is_cuda
        if not to_the_host and not _copyable(to):  # the way of almost all
            try:
                result = kernel(keys, to, source, *rest)
            except BaseException:
                del to, source
                raise
            known.forget(to)
            return result
        assumption = known.assumption(source)
        outermost = to_the_host and not getattr(_copying, "to_the_host", False)
        if outermost:
            _copying.to_the_host = True
            if assumption != TRUE:
                _record(
                    "copy to the host", source, assumption or assumptions.words(source.dtype, source.numel())
                )
        try:
            result = kernel(keys, to, source, *rest)
        except BaseException:
            del to, source
            raise
        finally:
            if outermost:
                _copying.to_the_host = False
        if not to_the_host or outermost:
            with PlainCpu():
                (_to_the_host if to_the_host else _to_the_device)(to, source, assumption)
        return result

    return run


def _to_the_host(to: torch.Tensor, source: torch.Tensor, assumption: str | None) -> None:
    if assumption is not None:
        if _copyable(source):
            to.copy_(on_host(source))
    elif to.numel() == 1:
        value = torch.full(source.shape, _scalars.next(source.dtype), dtype=source.dtype, device="cpu")
        on_host(source).copy_(value)
        known.write(source, assumptions.words(source.dtype, 1))
        to.copy_(value)
    elif _bytes(to) <= COPIED_BYTES or not to.is_pinned():
        to.fill_(assumptions.stand_in(source.dtype))


def _to_the_device(to: torch.Tensor, source: torch.Tensor, assumption: str | None) -> None:
    if not _copyable(to) or torch.cuda.is_current_stream_capturing():
        known.forget(to)
    elif assumption is not None and _copyable(source):
        memcpy = to.dtype == source.dtype and to.is_contiguous() and source.is_contiguous()
        if not memcpy or _bytes(to) > COPIED_BYTES:  # else the stand-in has copied it
            on_host(to).copy_(on_host(source) if source.is_cuda else source)
        known.write(to, assumption)
    elif not is_float(to) and _bytes(to) <= ASSUMED_BYTES:
        on_host(to).fill_(assumptions.stand_in(source.dtype))
        known.write(to, assumptions.AS_IF_ONE)
    else:
        known.forget(to)


def copy_many(operation: torch._ops.OpOverload, kernel: Kernel) -> Kernel:
    """`_foreach_copy_`. Where a tensor of the host is among them, it is made of single copies, followed
    before.
    """

    def run(
        keys: torch.DispatchKeySet, to: Sequence[torch.Tensor], source: Sequence[torch.Tensor], *rest: object
    ) -> object:
        before = [known.assumption(tensor) for tensor in source]
        result = kernel(keys, to, source, *rest)
        with PlainCpu():
            for one, other, assumption in zip(to, source, before, strict=True):
                if one.is_cuda and other.is_cuda:
                    _to_the_device(one, other, assumption)
        return result

    return run


def sized(count: Callable[[torch.Tensor, list[torch.Tensor]], int]) -> Wrapper:
    """A kernel whose result has a size that lies in device memory: PyTorch reads it there before it
    allocates.

    count: the number that it reads, from the input on the CPU and the CPU's results. Where the input is not
    known, every element counts.
    """

    def wrapper(operation: torch._ops.OpOverload, kernel: Kernel) -> Kernel:
        name = operation._schema.name.partition("::")[2]

        def run(
            keys: torch.DispatchKeySet, tensor: torch.Tensor, *arguments: object, **keywords: object
        ) -> object:
            assumption = known.assumption(tensor) if _copyable(tensor) else None
            read, values = tensor.numel(), []
            if assumption is not None:
                out = {
                    name: torch.empty(0, dtype=value.dtype, device="cpu")
                    for name, value in keywords.items()
                    if name == "out" and isinstance(value, torch.Tensor)
                }
                with PlainCpu():
                    here = on_host(tensor)
                    values = _each(operation(here, *arguments, **(keywords | out)))
                    read = count(here, values)
            if assumption != TRUE:
                _record(name, tensor, assumption or assumptions.LARGEST, gives_a_size=True)
            with answers.next_read_gives(read):
                result = kernel(keys, tensor, *arguments, **keywords)
            with PlainCpu():
                for output, value in zip(_each(result), values or repeat(None), strict=False):
                    if isinstance(output, torch.Tensor):
                        _write(output, value, assumption)
            return result

        return run

    return wrapper


def _each(result: object) -> list:
    return list(result) if isinstance(result, (list, tuple)) else [result]


def _write(output: torch.Tensor, value: torch.Tensor | None, assumption: str | None) -> None:
    if value is None or assumption is None or output.shape != value.shape or not _copyable(output):
        known.forget(output)
        return
    on_host(output).copy_(value)
    known.write(output, assumption)


def equal(operation: torch._ops.OpOverload, kernel: Kernel) -> Kernel:
    """`torch.equal`, whose kernel reads the result of a comparison that it makes without the dispatcher."""

    def run(keys: torch.DispatchKeySet, one: torch.Tensor, other: torch.Tensor) -> object:
        rests_on = [known.assumption(tensor) if _copyable(tensor) else None for tensor in (one, other)]
        unknown = [text for text in rests_on if text != TRUE]
        alike = True
        if None not in rests_on and one.shape == other.shape:
            with PlainCpu():
                alike = torch.equal(on_host(one), on_host(other))
        if unknown and not one.is_set_to(other):
            _record("equal", one, unknown[0] or "true")
        with answers.next_read_gives(alike):
            return kernel(keys, one, other)

    return run


def _nonzero(here: torch.Tensor, values: list[torch.Tensor]) -> int:
    return int(torch.count_nonzero(here))


def _distinct(here: torch.Tensor, values: list[torch.Tensor]) -> int:
    if here.dtype == torch.bool and len(values) > 1:  # the kernel for booleans counts those that are true
        return _nonzero(here, values)
    return values[0].shape[0]


def healthy_scale(operation: torch._ops.OpOverload, kernel: Kernel) -> Kernel:
    """The gradient scaler's check: `found_inf` keeps the zero that it was given, as gradients are finite."""

    def run(
        keys: torch.DispatchKeySet, gradients: Sequence[torch.Tensor], found_inf: torch.Tensor, *rest: object
    ) -> object:
        assumption = known.assumption(found_inf)
        result = kernel(keys, gradients, found_inf, *rest)
        for gradient in gradients:
            known.forget(gradient)
        if assumption is not None:
            known.write(found_inf, assumptions.FINITE)
        return result

    return run


WRAPPERS: dict[str, Wrapper] = {
    "_local_scalar_dense": item,
    "copy_": copy,
    "_foreach_copy_": copy_many,
    "equal": equal,
    "nonzero": sized(_nonzero),
    "_unique": sized(_distinct),
    "_unique2": sized(_distinct),
    "unique_dim": sized(_distinct),
    "unique_consecutive": sized(_distinct),
    "unique_dim_consecutive": sized(_distinct),
    "_amp_foreach_non_finite_check_and_unscale_": healthy_scale,
}
