"""Number formats of training: what is kept in 32 and what in 16 bits.

| precision   | weights | gradients | Adam's states | master copy | activations          | loss scaling |
|-------------|---------|-----------|---------------|-------------|----------------------|--------------|
| fp32        | 4 B     | 4 B       | 8 B           |             | 4 B                  |              |
| amp_bf16    | 4 B     | 4 B       | 8 B           |             | mostly 2 B, see below|              |
| amp_fp16    | 4 B     | 4 B       | 8 B           |             | mostly 2 B, see below| GradScaler   |
| bf16        | 2 B     | 2 B       | 4 B           |             | 2 B                  |              |
| fp16_master | 2 B     | 2 B       | 8 B           | 4 B         | 2 B                  | GradScaler   |

Autocast (amp_*) leaves the weights in fp32 and casts each one that a matrix product uses, once a forward
pass; the copies are saved for the backward pass, 2 more bytes a weight until then
(aten/src/ATen/autocast_mode.cpp, cached_cast). The layout with a master copy is that of Micikevicius et al.
2017 ("Mixed Precision Training", section 3.1): 2 + 2 + 4 + 4 + 4 = 16 B a parameter with Adam.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from profiler.workload import Workload

# The default, 65536, overflows fp16 in the first steps, and a step that overflows is skipped. From here the
# first step counts.
INITIAL_LOSS_SCALE = 1024.0


def dtype_of(name: str) -> str:
    """Name of the torch dtype of weights and inputs in the precision of that name."""
    return {"bf16": "bfloat16", "fp16_master": "float16"}.get(name, "float32")


@contextmanager
def default_dtype(name: str) -> Iterator[None]:
    """New floating-point tensors have the dtype of that precision's weights."""

    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype_of(name)))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def autocast(workload: Workload, device_type: str) -> AbstractContextManager[Any]:
    """The context of the forward pass."""

    if workload.precision not in ("amp_bf16", "amp_fp16"):
        return nullcontext()
    return torch.autocast(device_type, torch.bfloat16 if workload.precision == "amp_bf16" else torch.float16)


def make_scaler(workload: Workload, device_type: str) -> torch.amp.GradScaler:
    """The loss scaler of the fp16 precisions; for the others one that does nothing."""
    enabled = workload.precision in ("amp_fp16", "fp16_master")
    return torch.amp.GradScaler(device_type, init_scale=INITIAL_LOSS_SCALE, enabled=enabled)


class MasterWeights(torch.optim.Optimizer):
    """An optimizer of 16-bit parameters that updates its own fp32 copy and rounds it into them.

    The step makes an fp32 copy of all gradients, unscales it, lets `make_inner`'s optimizer step on the
    master copy, and writes the result back (Micikevicius et al. 2017, figure 1).
    States: `master`, the fp32 copy, and those of the inner optimizer under its own names.
    """

    # GradScaler then hands over `grad_scale` and `found_inf` instead of unscaling the 16-bit gradients
    # in place, which it refuses (torch/amp/grad_scaler.py).
    _step_supports_amp_scaling = True

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        make_inner: Callable[[list[torch.Tensor]], torch.optim.Optimizer],
    ) -> None:
        super().__init__(list(parameters), {})
        self.masters = [p.detach().float() for p in self._parameters()]
        self.inner = make_inner(self.masters)
        for parameter, master in zip(self._parameters(), self.masters, strict=True):
            self.state[parameter]["master"] = master

    def _parameters(self) -> list[torch.Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update, unless a gradient overflowed."""
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None and found_inf.item():
            return
        scale = getattr(self, "grad_scale", None)
        for parameter, master in zip(self._parameters(), self.masters, strict=True):
            if parameter.grad is not None:
                master.grad = parameter.grad.float()
                if scale is not None:
                    master.grad.div_(scale)
        self.inner.step()
        for parameter, master in zip(self._parameters(), self.masters, strict=True):
            parameter.copy_(master)
            master.grad = None
            self.state[parameter].update(self.inner.state[master])
