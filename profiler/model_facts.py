"""What a formula needs to know of a model: counted on tensors that have shapes but no memory.

The forward pass runs under torch's FakeTensorMode, so counting GPT-2 or a Llama takes a second and no
memory, and nothing of it depends on a measured run. Activations are read off the autograd graph: the
tensors that its nodes have saved for the backward pass, each storage once, parameters, buffers and inputs
excluded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from profiler.models import build_model, make_batch
from profiler.training_step import compute_loss

if TYPE_CHECKING:
    import torch

    from profiler.workload import Workload


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of one workload's tensors, for one micro-batch.

    Attributes:
        parameter_bytes: of each parameter tensor, in the order of `model.parameters()` (tied ones once).
        buffer_bytes: all buffers together, not trained and not saved.
        input_bytes: one micro-batch.
        saved_bytes: storages saved for backward at the end of the forward pass.
        loss_bytes: the loss's own storage, unless it is among the saved.
    """

    parameter_bytes: tuple[int, ...]
    buffer_bytes: int
    input_bytes: int
    saved_bytes: int
    loss_bytes: int

    @property
    def total_parameter_bytes(self) -> int:
        """All parameters together."""
        return sum(self.parameter_bytes)


def count(workload: Workload) -> ModelFacts:
    """Build the workload's model without memory, run one forward pass, and count.

    The kernels are those of the CPU; on a GPU some ops save other tensors (dropout its 1-byte mask, fused
    attention its statistics).
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), _as_in_a_real_run():
        model = build_model(workload)
        batch = make_batch(workload, torch.device("cpu"))
        loss = compute_loss(model, batch, workload)
        held = [*model.parameters(), *model.buffers(), *batch.values()]
        seen = {_storage(tensor) for tensor in held}
        saved_bytes = _bytes_not_in(seen, saved_tensors(loss))
        return ModelFacts(
            parameter_bytes=tuple(p.untyped_storage().nbytes() for p in model.parameters()),
            buffer_bytes=_bytes_not_in(set(), model.buffers()),
            input_bytes=_bytes_not_in(set(), batch.values()),
            saved_bytes=saved_bytes,
            loss_bytes=_bytes_not_in(seen, [loss]),
        )


@contextmanager
def _as_in_a_real_run() -> Iterator[None]:
    """Keep transformers from doing otherwise than in a real run because fake tensors have no values.

    It looks at values to initialise weights, and to see whether sequences are packed into one row, which
    ours are not; told of fake tensors, it would take the run for an export and materialise a mask.
    """
    from unittest.mock import patch

    with (
        patch("transformers.PreTrainedModel.initialize_weights"),
        patch("transformers.masking_utils.find_packed_sequence_indices", return_value=None),
    ):
        yield


def saved_tensors(root: torch.Tensor) -> Iterator[torch.Tensor]:
    """The tensors that the autograd graph above `root` keeps for its backward pass, repeats included.

    Reads the nodes' `_saved_*` attributes (torch/csrc/autograd/saved_variable.h) and, for a custom
    torch.autograd.Function, its `saved_tensors`.
    """
    pending: list[Any] = [root.grad_fn]
    visited = set()
    while pending:
        node = pending.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        yield from _saved_by(node)
        pending.extend(next_node for next_node, _ in node.next_functions)


def _saved_by(node: Any) -> Iterator[torch.Tensor]:
    import torch

    names = [name for name in dir(node) if name.startswith("_saved_")]
    values = [getattr(node, name) for name in names] or [getattr(node, "saved_tensors", ())]
    for value in values:
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, torch.Tensor):
                yield item


def _bytes_not_in(seen: set[int], tensors: Any) -> int:
    """Bytes of the storages not yet seen, each once; they are seen from now on."""
    total_bytes = 0
    for tensor in tensors:
        if _storage(tensor) not in seen:
            seen.add(_storage(tensor))
            total_bytes += tensor.untyped_storage().nbytes()
    return total_bytes


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
