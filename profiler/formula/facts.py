"""What a formula needs to know of a model: counted on tensors that have shapes but no memory.

The forward pass runs under torch's FakeTensorMode, so counting GPT-2 or a Llama takes a second and no
memory, and nothing of it depends on a measured run. Activations are the tensors that the forward pass makes
and that are still alive when it ends, parameters, buffers and inputs excluded. Without checkpointing these
are the tensors that the autograd graph has saved. With it, they are what the checkpoints hold in the graph's
place; asking the graph would make it recompute.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from profiler.formula.terms import ModelFacts, Parameter, RecomputedSegment
from profiler.gpu.cards import GPU, UNLIMITED_BYTES
from profiler.gpu.patched import Patch, patched
from profiler.gpu.simulated.device import simulated_gpu
from profiler.training.built_in import Batch
from profiler.training.checkpointing import checkpointed_segments
from profiler.training.models import build_model, constants_in, make_batch, tensors_in
from profiler.training.step import compute_loss
from profiler.workload import Workload

_ATEN = torch.ops.aten
_NORMALIZATIONS = (_ATEN.native_layer_norm.default, _ATEN.native_batch_norm.default)


def facts_on(gpu: GPU | None, workload: Workload) -> ModelFacts:
    """Counted with the kernels of `gpu`; with the CPU's for None, or where the GPU's cannot be simulated.

    A model of the user's own raises there whatever it raises.
    """
    if gpu is not None:
        with suppress(Exception):
            return count_on_gpu(workload, gpu)
    return count(workload)


def count(workload: Workload) -> ModelFacts:
    """Count what the CPU's kernels keep.

    On a GPU some ops save other tensors, and autocast has other rules: see `count_on_gpu`.
    """
    with FakeTensorMode(), _as_in_a_real_run():
        return count_on(torch.device("cpu"), workload, build_model(workload))


def count_on(device: torch.device, workload: Workload, model: torch.nn.Module) -> ModelFacts:
    """Run one forward pass of the workload's model, which is on `device`, and count.

    A checkpointed model runs a second time with its checkpoints off, to know what each would recompute.
    Nothing must take memory there: the tensors are fake, or the device is simulated.
    """
    batch = make_batch(workload, device)
    kept = _run(workload, model, batch, device.type)
    segments = checkpointed_segments(model)
    for segment in segments:
        segment.recompute = False
    plain = _run(workload, model, batch, device.type) if segments else kept
    nodes = _nodes(plain.graph)
    # On a GPU, numbers stay in host memory.
    numbers_bytes = _storage_bytes(_wrapped_numbers(nodes)) if device.type == "cpu" else 0
    return ModelFacts(
        parameters=tuple(_parameters(model, nodes, plain.first_uses)),
        buffer_bytes=_storage_bytes(constants_in(model)),
        input_bytes=_storage_bytes(tensors_in(batch)),
        saved_bytes=kept.saved_bytes() + numbers_bytes,
        loss_bytes=kept.loss_bytes,
        weight_copy_bytes=kept.weight_copy_bytes(),
        random_state_bytes=len(segments) * torch.get_rng_state().nbytes,
        cast_bytes=kept.cast_bytes,
        loss_forward_bytes=kept.loss_forward_bytes,
        loss_backward_bytes=kept.loss_backward_bytes,
        segments=tuple(_segments(kept, plain, len(segments), _gradient_bytes(model, nodes))),
    )


def count_on_gpu(workload: Workload, gpu: GPU) -> ModelFacts:
    """The facts of `workload` with what the kernels of `gpu` keep for the backward pass.

    A forward pass on a simulated GPU. The CPU's kernels keep other tensors: dropout a mask of the input's
    type instead of one byte an element, attention with dropout its score matrix instead of one statistic a
    row.
    The GPU's memory does not matter: the count is of what the pass would need.
    """
    with simulated_gpu(replace(gpu, memory_bytes=UNLIMITED_BYTES)) as device:
        return count_on(device, workload, build_model(workload, initialize=False).to(device))


@contextmanager
def _as_in_a_real_run() -> Iterator[None]:
    """Keep transformers from doing otherwise than in a real run because fake tensors have no values.

    It looks at values to initialise weights, and to see whether sequences are packed into one row, which
    ours are not; told of fake tensors, it would take the run for an export and materialise a mask.
    """
    from transformers import PreTrainedModel, masking_utils

    patches: list[Patch] = [
        (PreTrainedModel, "initialize_weights", lambda model: None),
        (masking_utils, "find_packed_sequence_indices", lambda position_ids: None),
    ]
    with patched(patches):
        yield


def _parameters(model: torch.nn.Module, nodes: list[Any], first_uses: dict[int, int]) -> Iterator[Parameter]:
    # A parameter's gradients meet in its AccumulateGrad node, one edge a use.
    edges = [
        (id(to.variable), node.name() == "TBackward0")
        for node in nodes
        for to, _ in node.next_functions
        if to is not None and to.name() == "torch::autograd::AccumulateGrad"
    ]
    uses = Counter(address for address, _ in edges)
    transposed = {address for address, is_transposed in edges if is_transposed}
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    for parameter in model.parameters():
        yield Parameter(
            shape=tuple(parameter.shape),
            element_bytes=parameter.element_size(),
            embedding=id(parameter) in embeddings,
            tied=uses[id(parameter)] > 1,
            transposed=id(parameter) in transposed,
            trainable=parameter.requires_grad,
            used=id(parameter) in uses or not parameter.requires_grad,
            first_use=first_uses.get(_storage(parameter), 0),
        )


def _gradient_bytes(model: torch.nn.Module, nodes: list[Any]) -> dict[int, int]:
    """The size of each gradient by its parameter's storage."""
    leaves = {id(node.variable) for node in nodes if node.name() == "torch::autograd::AccumulateGrad"}
    return {_storage(p): p.nbytes for p in model.parameters() if id(p) in leaves}


# --- one forward pass, watched ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Birth:
    """A storage that an op made: when, how large, and whether it is a cast copy of a parameter."""

    position: int
    size_bytes: int
    weight_copy: bool


@dataclass(frozen=True)
class _Forward:
    """What a forward pass left: the births that are still alive, and where its segments began and ended.

    `first_uses` and `last_uses` give for each parameter's storage the positions of the first and the last op
    that read it. Positions count ops. `graph` is the autograd node of the loss.
    """

    survivors: dict[int, _Birth]
    loss_bytes: int
    starts: list[int]
    ends: list[int]
    outputs: list[int]
    output_bytes: list[int]
    first_uses: dict[int, int]
    last_uses: dict[int, int]
    graph: Any
    cast_bytes: int
    loss_forward_bytes: int
    loss_backward_bytes: int

    def saved_bytes(self) -> int:
        return sum(birth.size_bytes for birth in self.survivors.values() if not birth.weight_copy)

    def weight_copy_bytes(self) -> int:
        return sum(birth.size_bytes for birth in self.survivors.values() if birth.weight_copy)


def _run(workload: Workload, model: torch.nn.Module, batch: Batch, device_type: str) -> _Forward:
    watch = _Watch(model, batch, device_type)
    segments = checkpointed_segments(model)
    starts, ends, outputs, output_bytes = [], [], [], []

    def leave(module: object, arguments: object, output: torch.Tensor) -> None:
        ends.append(watch.position)
        outputs.append(_storage(output))
        output_bytes.append(output.untyped_storage().nbytes())

    hooks = [s.register_forward_pre_hook(lambda *_: starts.append(watch.position)) for s in segments]
    hooks += [s.register_forward_hook(leave) for s in segments]
    with watch:
        loss = compute_loss(model, batch, workload, device_type)
    for hook in hooks:
        hook.remove()
    gc.collect()
    survivors = {address: birth for address, (birth, gone) in watch.births.items() if not gone.expired()}
    at_end_bytes = sum(birth.size_bytes for birth in survivors.values())
    cast_bytes = sum(birth.size_bytes for birth, _ in watch.births.values() if birth.weight_copy)
    cached_bytes = cast_bytes - sum(birth.size_bytes for birth in survivors.values() if birth.weight_copy)
    survivors.pop(_storage(loss), None)
    return _Forward(
        survivors,
        loss.untyped_storage().nbytes(),
        starts,
        ends,
        outputs,
        output_bytes,
        watch.first_uses,
        watch.last_uses,
        loss.grad_fn,
        cast_bytes=cast_bytes,
        # The logits beside their log-probabilities; the cached casts, alive too, are told apart.
        loss_forward_bytes=max(0, watch.loss.peak_bytes - at_end_bytes - cached_bytes),
        loss_backward_bytes=watch.loss.backward_bytes(survivors),
    )


@dataclass
class _Loss:
    """A cross entropy, log_softmax and nll_loss (torch/nn/functional.py), as its ops went by.

    Attributes:
        position: of the log_softmax; 0 before it, or without one.
        output_bytes: the log-probabilities.
        into_bytes: what nll_loss took, the log-probabilities or (autocast) their copy in fp32.
        target: the storage of the labels, let go as soon as the loss has been differentiated.
        peak_bytes: the most that was alive since the log_softmax.
    """

    position: int = 0
    output_bytes: int = 0
    into_bytes: int = 0
    target: int = 0
    peak_bytes: int = 0

    def backward_bytes(self, survivors: dict[int, _Birth]) -> int:
        """What its backward pass adds to what is kept: a gradient of what nll_loss took; or, when what was
        made after the log_softmax is gone, the gradients of the log-probabilities and of the logits.
        """
        released = [b.size_bytes for b in survivors.values() if self.position and b.position > self.position]
        released += [survivors[self.target].size_bytes] if self.target in survivors else []
        return max(self.into_bytes, 2 * self.output_bytes - sum(released))


class _Watch(TorchDispatchMode):
    """Notes each storage's birth and each parameter's last use."""

    def __init__(self, model: torch.nn.Module, batch: Batch, device_type: str) -> None:
        super().__init__()
        self.position = 0
        self.births: dict[int, tuple[_Birth, StorageWeakRef]] = {}
        self.first_uses: dict[int, int] = {}
        self.last_uses: dict[int, int] = {}
        self.loss = _Loss()
        self._device_type = device_type
        self._model_device_type = next(model.parameters()).untyped_storage().device.type
        self._parameters = {_storage(p): p.requires_grad for p in model.parameters()}
        self._held = self._parameters.keys() | {
            _storage(t) for t in (*constants_in(model), *tensors_in(batch))
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.position += 1
        used = {_storage(tensor) for tensor in _tensors((args, kwargs))} & self._parameters.keys()
        for address in used:
            self.first_uses.setdefault(address, self.position)
            self.last_uses[address] = self.position
        result = func(*args, **(kwargs or {}))
        # The CPU kernels keep the statistics of 16-bit inputs in the weights' fp32, fake ones in 16 bits
        # (aten/src/ATen/native/layer_norm.cpp, batch_norm.cpp: param_scalar_type).
        mixed = func in _NORMALIZATIONS and args[0].element_size() == 2 and args[2].element_size() == 4
        wider = mixed and self._device_type == "cpu"
        if func is _ATEN._log_softmax.default:
            self.loss = _Loss(self.position, output_bytes=result.nbytes)
        if func is _ATEN.nll_loss_forward.default:
            self.loss.into_bytes, self.loss.target = args[0].nbytes, _storage(args[1])
        # Autocast caches the copies of trainable weights only (autocast_mode.cpp, cached_cast).
        cached = func is _ATEN._to_copy.default and any(self._parameters[address] for address in used)
        for index, tensor in enumerate(_tensors(result)):
            factor = 2 if wider and index else 1
            self._note(tensor, factor, cached)
        if self.loss.position:
            self.loss.peak_bytes = max(self.loss.peak_bytes, self._alive_bytes())
        return result

    def _alive_bytes(self) -> int:
        return sum(birth.size_bytes for birth, gone in self.births.values() if not gone.expired())

    def _note(self, tensor: torch.Tensor, factor: int = 1, weight_copy: bool = False) -> None:
        address, storage = _storage(tensor), tensor.untyped_storage()
        # A GPU's fused attention keeps its seeds on the host.
        if storage.device.type != self._model_device_type:
            return
        if address in self._held or (address in self.births and not self.births[address][1].expired()):
            return
        birth = _Birth(self.position, factor * storage.nbytes(), weight_copy)
        self.births[address] = (birth, StorageWeakRef(storage))


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _segments(
    kept: _Forward, plain: _Forward, segments: int, gradients: dict[int, int]
) -> Iterator[RecomputedSegment]:
    for index in range(segments):
        start, end = plain.starts[index], plain.ends[index]
        inside = [
            birth.size_bytes
            for address, birth in plain.survivors.items()
            if start < birth.position <= end and address != plain.outputs[index]
        ]
        before = [b.size_bytes for b in kept.survivors.values() if b.position <= kept.starts[index]]
        yield RecomputedSegment(
            kept_bytes=sum(before),
            recomputed_bytes=sum(inside),
            output_gradient_bytes=plain.output_bytes[index],
            gradient_bytes=sum(
                gradients.get(address, 0)
                for address, position in kept.last_uses.items()
                if position > kept.ends[index]
            ),
        )


def _nodes(graph: Any) -> list[Any]:
    """The nodes of an autograd graph, from that of the loss down."""
    pending = [graph]
    found: dict[Any, None] = {}
    while pending:
        node = pending.pop()
        if node is not None and node not in found:
            found[node] = None
            pending.extend(next_node for next_node, _ in node.next_functions)
    return list(found)


def _wrapped_numbers(nodes: list[Any]) -> Iterator[torch.Tensor]:
    """Python numbers that autograd's nodes have saved as 8-byte tensors.

    No op makes them, so a dispatch mode does not see them, and no saved-tensor hook is called for them, so
    checkpoints keep them too (torch/csrc/autograd/saved_variable.cpp, is_wrapped_number). The graph must be
    one without hooks: reading a saved tensor calls them.
    """
    for node in nodes:
        for name in dir(node):
            if name.startswith("_saved_"):
                value = getattr(node, name)
                if isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor):
                    yield value


def _storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the tensors' storages, each once."""
    return sum({_storage(t): t.untyped_storage().nbytes() for t in tensors}.values())


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
