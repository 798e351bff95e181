"""A CUDA kernel, and after it the values that it would have written."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from . import assumptions
from .host import ASSUMED_BYTES, FLOATS, INTEGER_BYTES, on_host, zero
from .known import TRUE
from .operation.below import Kernel
from .operation.evaluate import OnTheCpu, all_tensors, computable, is_float
from .operation.signature import Signature
from .process import journal, known

# In-place operations that do not read what they overwrite.
ONLY_WRITE = {
    "fill_", "zero_", "random_", "uniform_", "normal_", "exponential_", "bernoulli_", "cauchy_",
    "log_normal_", "geometric_"
}  # fmt: skip


class PlainCpu:
    """Operations on the CPU as they are: no autograd, no default device or other mode of the program."""

    def __enter__(self) -> None:
        self._function, self._autograd = (
            torch._C.DisableTorchFunction(),
            torch._C._AutoDispatchBelowAutograd(),
        )
        self._function.__enter__()
        self._autograd.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._autograd.__exit__(*error)
        self._function.__exit__(*error)


def returning(operation: torch._ops.OpOverload, kernel: Kernel) -> Kernel:
    """A kernel that returns new tensors."""
    signature = Signature(operation)

    def run(keys: torch.DispatchKeySet, *arguments: object, **keywords: object) -> object:
        try:
            arguments = signature.with_numbers(arguments)
            seed = signature.seed(arguments, keywords)
            result = kernel(keys, *arguments, **keywords)
        except BaseException:
            del arguments, keywords  # the traceback of an out of memory keeps no tensor alive
            raise
        if isinstance(result, torch.Tensor) and _is_large(result):
            return result  # the way of almost all
        results = all_tensors(result)
        if _worth_following(results, arguments, keywords):
            with PlainCpu():
                call = OnTheCpu(operation, arguments, keywords, known, seed=seed)
                _settle(signature, call, signature.by_name(arguments, keywords), results, call.results)
        return result

    return run


def writing(operation: torch._ops.OpOverload, kernel: Kernel) -> Kernel:
    """A kernel that writes tensors it is given: in place, or as `out=`."""
    signature = Signature(operation)
    only_writes = signature.name in ONLY_WRITE

    def run(keys: torch.DispatchKeySet, *arguments: Any, **keywords: object) -> object:
        call: OnTheCpu | None = None
        zeroes = False
        written: Sequence[torch.Tensor] = ()
        unread: Sequence[torch.Tensor] = ()
        try:
            arguments = signature.with_numbers(arguments)
            if signature.in_place and _is_large(arguments[0]):
                result = kernel(keys, *arguments, **keywords)  # the way of almost all
                known.forget(arguments[0])
                return result
            written, outs = signature.written(arguments, keywords)
            unread = written if only_writes else outs
            if _worth_following(written, arguments, keywords, unread):
                zeroes = _zeroes(signature, arguments, keywords)
                if not zeroes:
                    seed = signature.seed(arguments, keywords)
                    with PlainCpu():
                        call = OnTheCpu(operation, arguments, keywords, known, written, unread, seed)
            result = kernel(keys, *arguments, **keywords)
        except BaseException:
            del arguments, keywords, written, unread, call
            raise
        if zeroes:
            with PlainCpu():
                _zero(signature, written)
        elif call is None:
            _forget(written)
        else:
            with PlainCpu():
                by_name = signature.by_name(arguments, keywords)
                _settle(signature, call, by_name, written, lambda: call.results(written))
        return result

    return run


inside_collective = threading.local()


def collective(operation: torch._ops.OpOverload, kernel: Kernel) -> Kernel:
    """A collective of torch.distributed, whose small payloads the stand-in of NCCL carries.

    What it writes is known where what it was given is; integers that are received are what was sent.
    """
    receives = operation._schema.name.partition("::")[2].startswith(("recv", "scatter", "broadcast"))

    def run(keys: torch.DispatchKeySet, *arguments: object, **keywords: object) -> object:
        tensors = all_tensors([arguments, list(keywords.values())])
        before = [known.assumption(tensor) for tensor in tensors]
        inside_collective.here = True  # copies through its flat buffers are what memory holds
        try:
            result = kernel(keys, *arguments, **keywords)
        finally:
            inside_collective.here = False
        given = [assumption for assumption in before if assumption is not None]
        carried = all(computable(t) and (not receives or not is_float(t)) for t in tensors)
        for tensor in tensors:
            if carried and (given or receives):
                known.write(tensor, max(given, default=TRUE))
            else:
                known.forget(tensor)
        return result

    return run


def _is_large(tensor: Any) -> bool:
    """Whether it holds floats, more than are computed."""
    return is_float(tensor) and tensor.numel() > FLOATS


def _worth_following(
    outputs: Sequence[torch.Tensor],
    arguments: tuple,
    keywords: dict[str, object],
    unread: Sequence[torch.Tensor] = (),
) -> bool:
    """Whether a value of `outputs` may become known: an integer or boolean one; floats where all that is
    read is.
    """
    floats = False
    for output in outputs:
        if computable(output):
            if not is_float(output):
                return True
            floats = True
    if not floats:
        return False
    skipped = {id(t) for t in unread}
    for tensor in all_tensors([arguments, list(keywords.values())]):
        if id(tensor) not in skipped and not (computable(tensor) and known.assumption(tensor) is not None):
            return False
    return True


def _settle(
    signature: Signature,
    call: OnTheCpu,
    arguments: dict[str, object],
    outputs: Sequence[torch.Tensor],
    compute: Callable[[], list[torch.Tensor]],
) -> None:
    """Write to `outputs` what is known, else what can be assumed; the rest is no longer known."""
    followed = [t for t in outputs if computable(t)]
    if torch.cuda.is_current_stream_capturing():
        followed = []  # the kernels of a graph run at each replay, where nothing is followed
    choice = None if call.all_known else assumptions.choice(signature.name, arguments)
    if not call.all_known:
        limit_bytes = ASSUMED_BYTES if choice is None else INTEGER_BYTES
        followed = [t for t in followed if not is_float(t) and t.numel() * t.element_size() <= limit_bytes]
    kept = {id(t) for t in followed}
    _forget([tensor for tensor in outputs if id(tensor) not in kept])
    if not followed:
        return
    try:
        asks = call.assumption == assumptions.AS_IF_ONE and signature.name in assumptions.NOTHING_WRONG
        if call.all_known and not asks:
            _write(outputs, compute(), kept, call.assumption)
        elif choice is not None:
            _choose(followed, choice)
        elif signature.pointwise:
            _write(outputs, compute(), kept, assumptions.AS_IF_ONE)
        else:
            for output in followed:
                known.write(output, assumptions.whole(signature.name, on_host(output)))
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        _not_followed(signature, outputs, error)


def _zeroes(signature: Signature, arguments: tuple, keywords: dict[str, object]) -> bool:
    """Whether all that is written is zero: nothing is computed then, and what reads as zero stays unwritten.

    The states of an 8-bit optimizer are as large as the model.
    """
    if signature.name != "fill_":
        return signature.name == "zero_"
    value = signature.by_name(arguments, keywords).get("value")
    return type(value) in (int, bool) and not value


def _zero(signature: Signature, outputs: Sequence[torch.Tensor]) -> None:
    try:
        for output in outputs:
            if computable(output) and not torch.cuda.is_current_stream_capturing():
                zero(output)
                known.write(output)
            else:
                known.forget(output)
    except RuntimeError as error:
        _not_followed(signature, outputs, error)


def _not_followed(signature: Signature, outputs: Sequence[torch.Tensor], error: Exception) -> None:
    _forget(outputs)
    journal.not_followed(signature.name, (str(error) or type(error).__name__).splitlines()[0])


def _forget(outputs: Sequence[torch.Tensor]) -> None:
    for output in outputs:
        known.forget(output)


def _choose(outputs: Sequence[torch.Tensor], choice: assumptions.Choice) -> None:
    for output in outputs:
        if output.dtype == torch.int64:
            known.write(output, choice.spread(on_host(output)))
        else:
            known.forget(output)


def _write(
    outputs: Sequence[torch.Tensor], values: list[torch.Tensor], kept: set[int], assumption: str
) -> None:
    if [v.shape for v in values] != [o.shape for o in outputs]:
        raise RuntimeError("the CPU's result has another shape")
    for output, value in zip(outputs, values, strict=True):
        if id(output) in kept:
            on_host(output).copy_(value)
            known.write(output, assumption)
