"""CUDA kernels wrapped: the kernel itself runs first, then the CPU computes what it would have written.

The wrapper is registered below autograd (`below`): no mode is active, no path chosen by autograd or a
composite operation changes, and the allocations are those of PyTorch's own kernel. Every kernel that writes
memory it is given is wrapped, and of the others all but those that return nothing but floats.
"""

import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import checkpoint

from . import following, reading
from .operation import below
from .operation.below import Kernel
from .process import known

# They write nothing, or what they write is no value.
NOT_WRAPPED = {
    "empty", "empty_strided", "_efficientzerotensor", "resize_", "resize_as_", "set_", "record_stream",
    "is_set_to",
    "_assert_async", "_fused_sdp_choice", "_use_cudnn_ctc_loss", "_use_miopen_ctc_loss",
    "_cudnn_init_dropout_state",
}  # fmt: skip

# Parts of the names of kernels whose results are floats, whatever they are given in training.
FLOATING_PARTS = (
    "backward", "conv", "cudnn", "miopen", "attention", "norm", "pool", "softmax", "addmm", "addmv",
    "baddbmm", "addbmm",
    "fft", "linalg", "grid_sampler", "upsample", "pixel", "loss", "cross_entropy", "thnn", "dropout",
    "embedding", "glu",
    "gelu", "silu", "mish", "elu", "relu", "sigmoid", "hardtanh", "softplus", "softshrink", "hardshrink",
    "special_", "_mm",
    "sparse", "nested", "jagged", "quantize", "cholesky", "cdist", "pdist", "pad1d", "pad2d", "pad3d",
    "col2im", "im2col",
)  # fmt: skip
FLOATING = {
    "mm", "bmm", "dot", "vdot", "acos", "acosh", "asin", "asinh", "atan", "atanh", "atan2", "cos", "cosh",
    "sin", "sinh", "tan",
    "tanh", "erf", "erfc", "erfinv", "exp", "exp2", "expm1", "log", "log10", "log1p", "log2", "rsqrt",
    "sqrt", "lgamma",
    "digamma", "lerp", "addcdiv", "addcmul", "var", "std", "var_mean", "std_mean", "geqrf", "ormqr",
}  # fmt: skip

# What is wrapped in a backward pass too: what the host reads, and what it decides.
ALWAYS = set(reading.WRAPPERS) - {"copy_"}

# The kernel of `2 ** x` calls it with a number that lies on the GPU, which Python is not given.
_NOT_WRAPPED = {"pow.Tensor_Tensor_out"}

_wrapped: list[tuple[str, Kernel, torch._ops.OpOverload]] = []  # those of forward passes only
_overrides: dict[torch._ops.OpOverload, Kernel | None] = {}  # all of them, None: as it is


def wrap_all() -> None:
    """Wrap the kernels of this process. Called when it first uses the GPU; once.

    `copy_` is one function for all devices that launches kernels itself.
    """
    if _always:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions say of one operation that it is overridden
        _wrap_all()


def _wrap_all() -> None:
    libraries = {name: torch.library.Library(name, "IMPL") for name in ("aten", "c10d")}
    _always.extend(libraries.values())
    for full_name in [*torch._C._dispatch_get_registrations_for_dispatch_key("CUDA"), "aten::copy_"]:
        namespace, _, name = full_name.partition("::")
        packet, _, overload = name.partition(".")
        if namespace not in libraries or not hasattr(getattr(torch.ops, namespace), packet):
            continue
        operation = getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")
        if namespace == "c10d":
            wrapper: Any = following.collective
        else:
            wrapper = reading.WRAPPERS.get(packet) or _wrapper(operation._schema, packet)
        if wrapper is None or name in _NOT_WRAPPED:
            continue
        kernel = below.kernel_of(full_name, operation)
        if kernel is None:
            continue
        override = _overrides[operation] = wrapper(operation, kernel)
        wrapped = below.for_cuda(override, kernel)
        if packet in ALWAYS or namespace == "c10d":
            libraries[namespace].impl(name, wrapped, below.KEY, with_keyset=True)
        else:
            _wrapped.append((name, wrapped, operation))
    reading.read_all_of_uint64()
    forward_passes.start()


def override_of(operation: torch._ops.OpOverload) -> Kernel | None:
    """Of any operation, also one that is made of others, whose kernels are not wrapped at the time."""
    if operation not in _overrides:

        def whole(keys: torch.DispatchKeySet, *arguments: object, **keywords: object) -> object:
            return operation(*arguments, **keywords)

        namespace, _, name = operation._schema.name.partition("::")
        wrapper = _wrapper(operation._schema, name) if namespace == "aten" else None
        _overrides[operation] = wrapper(operation, whole) if wrapper is not None else None
    return _overrides[operation]


class _ForwardPasses:
    """Which kernels are wrapped now: all, or in a backward pass those of ALWAYS.

    A tensor that passes through Python gets an object there, which counts as one more user of it; autograd
    adds gradients in place, and takes them over uncopied, only where there is no other
    (torch/csrc/autograd/input_buffer.cpp, accumulate_grad.h). So in a backward pass the kernels run as they
    are, but where a checkpoint computes a forward pass again, in the backward of a function of the program's
    own, which is Python, and in its hooks (`hooks`).
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._pauses = 0
        self._library: Any = None
        self._of_threads: list[Any] = []

    def start(self) -> None:
        """Wrap them, and follow the backward passes of this process."""
        self._pause(0)
        for module in (torch.autograd, torch.autograd.graph):
            module._engine_run_backward = self._unfollowed(torch.autograd.graph._engine_run_backward)  # type: ignore[attr-defined]
        own = torch.autograd.function.BackwardCFunction
        own.apply = self._followed_of_program(own.apply)  # type: ignore[method-assign]
        frame, function = checkpoint._CheckpointFrame, checkpoint.CheckpointFunction
        initialize, forward = frame.__init__, function.forward

        def initialize_frame(frame: Any, recompute: Callable[..., Any], *rest: Any, **keywords: Any) -> None:
            initialize(frame, self._followed_again(recompute), *rest, **keywords)

        def forward_of(ctx: Any, run: Callable[..., Any], *rest: Any) -> Any:
            result = forward(ctx, run, *rest)
            ctx.run_function = self._followed_again(run)
            return result

        frame.__init__ = initialize_frame  # type: ignore[method-assign, assignment]
        function.forward = staticmethod(forward_of)  # type: ignore[method-assign]

    @property
    def followed(self) -> bool:
        """Whether this thread's calls are followed now."""
        return self._library is not None or below.thread_is_followed()

    def _pause(self, by: int) -> None:
        with self._lock:
            self._pauses += by
            if self._pauses > 0 and self._library is not None:
                self._library.reset()
                self._library = None
            elif self._pauses <= 0 and self._library is None:
                known.forget_floats()
                # torch.library.Library would take five times as long for each.
                self._library = torch._C._dispatch_library("IMPL", "aten", "")
                for name, wrapped, _ in _wrapped:
                    self._library.impl(name, below.KEY, wrapped, True)

    def _unfollowed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A backward pass."""

        @functools.wraps(function)
        def run(*arguments: Any, **keywords: Any) -> Any:
            self._pause(1)
            try:
                with below.thread_followed(False):
                    return function(*arguments, **keywords)
            finally:
                self._pause(-1)
                if below.thread_is_followed():  # a function that is followed began it
                    known.forget_floats()

        return run

    def _followed_again(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that a backward pass calls, for each layer perhaps: wrapping all takes too long."""

        @functools.wraps(function)
        def run(*arguments: Any, **keywords: Any) -> Any:
            if _traced():
                with below.thread_followed(False):
                    return function(*arguments, **keywords)
            if self.followed:
                return function(*arguments, **keywords)
            known.forget_floats()
            self.stand_at_thread_key()
            with below.thread_followed(True):
                return function(*arguments, **keywords)

        return run

    def _followed_of_program(self, apply: Callable[..., Any]) -> Callable[..., Any]:
        """The backward of a function of the program's own; not of PyTorch's, as of what torch.compile made,
        which it compiles there.
        """
        followed = self._followed_again(apply)

        @functools.wraps(apply)
        def run(node: Any, *gradients: Any) -> Any:
            of_torch = node._forward_cls.__module__.partition(".")[0] == "torch"
            return (apply if of_torch else followed)(node, *gradients)

        return run

    def stand_at_thread_key(self) -> None:
        """Wrap the kernels once more, for threads that pass that key."""
        with self._lock:
            if self._of_threads:
                return
            self._of_threads = [
                torch._C._dispatch_library("IMPL", namespace, below.THREAD_KEY_NAME)
                for namespace in ("_", "aten")
            ]
            self._of_threads[0].fallback_fallthrough()
            below.operations_in_python_pass_by()
            for name, _, operation in _wrapped:
                override = _overrides[operation]
                assert override is not None
                wrapped = below.for_thread(override, operation)
                self._of_threads[1].impl(name, below.THREAD_KEY_NAME, wrapped, True)


def _traced() -> bool:
    """Whether what runs is written down and computes nothing, as torch.compile traces a backward pass."""
    modes = torch._C._TorchDispatchModeKey
    return any(torch._C._get_dispatch_mode(mode) for mode in (modes.PROXY, modes.FUNCTIONAL, modes.FAKE))


forward_passes = _ForwardPasses()
_always: list[torch.library.Library] = []  # holds what is wrapped for good


def _wrapper(
    schema: torch.FunctionSchema, name: str
) -> Callable[[torch._ops.OpOverload, Kernel], Kernel] | None:
    written = [argument.alias_info for argument in schema.arguments if argument.alias_info]
    if name in NOT_WRAPPED or any(not alias.is_write for alias in written):
        return None  # the second: views
    if written:
        return following.writing
    if name.startswith("_foreach_") or name in FLOATING or any(part in name for part in FLOATING_PARTS):
        return None
    return following.returning
