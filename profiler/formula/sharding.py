"""What one of N ranks holds: data parallelism, ZeRO, FSDP2, tensor and pipeline parallelism, as terms.

Bytes of one GPU, in fp32 or mixed precision, activations apart. P: parameters of the whole model, N: ranks.
What a rank holds is whole tensors, so that shares are rounded up as the library does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from profiler.formula.terms import Parameter, Term
from profiler.units import MIB

_ZERO = "Rajbhandari et al. 2020, ZeRO (arXiv 1910.02054), section 3.1 and figure 1"
_BUCKETS = "torch/csrc/distributed/c10d/reducer.cpp, compute_bucket_assignment_by_size"
_SHARDS = "torch/distributed/fsdp/_fully_shard/_fsdp_param.py, FSDPParam._init_sharded_param"
_UNSHARDED = "torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py, unshard and post_backward"
FIRST_BUCKET_BYTES = 1 * MIB  # torch.distributed._DEFAULT_FIRST_BUCKET_BYTES
BUCKET_BYTES = 25 * MIB  # bucket_cap_mb of DistributedDataParallel


def zero_terms(
    parameters: int,
    ranks: int,
    stage: int,
    parameter_bytes: int = 2,
    gradient_bytes: int = 2,
    state_bytes: int = 12,
) -> tuple[Term, ...]:
    """Parameters, gradients and states of one rank of plain data parallelism (stage 0) or ZeRO 1, 2 or 3.

    parameters: P. parameter_bytes, gradient_bytes: of one value as it is computed with. state_bytes: of the
    optimizer for one parameter; of Adam in mixed precision 12, a master weight and two moments of fp32.

    ZeRO's table: (2 + 2 + K)·P, then 2P + 2P + K·P/N, 2P + (2 + K)·P/N, and (2 + 2 + K)·P/N.
    """
    share = ceil(parameters / ranks)

    def term(category: str, each_bytes: int, sharded_from: int) -> Term:
        if stage >= sharded_from:
            text = f"{each_bytes} B × {parameters:,} parameters / {ranks}"
            return Term(category, each_bytes * share, text, f"{_ZERO}: stage {stage}")
        return Term(category, each_bytes * parameters, f"{each_bytes} B × {parameters:,} parameters", _ZERO)

    return (
        term("parameters", parameter_bytes, 3),
        term("gradients", gradient_bytes, 2),
        term("optimizer_states", state_bytes, 1),
    )


def ddp_buckets(
    parameters: Sequence[Parameter],
    first_bytes: int = FIRST_BUCKET_BYTES,
    each_bytes: int = BUCKET_BYTES,
) -> tuple[int, ...]:
    """Bytes of each of DistributedDataParallel's buckets, in the order in which gradients become ready.

    parameters: in the order of `model.parameters()`; the reducer takes them in the reverse, as the backward
    pass reaches them. A bucket is closed as soon as it holds its limit; the first one's is lower.
    """
    buckets: list[int] = []
    held, limit = 0, first_bytes
    for parameter in reversed([one for one in parameters if one.trainable]):
        held += parameter.size_bytes
        if held >= limit:
            buckets.append(held)
            held, limit = 0, each_bytes
    return (*buckets, held) if held else tuple(buckets)


def ddp_terms(parameters: Sequence[Parameter], bucket_views: bool = False) -> tuple[Term, ...]:
    """What DistributedDataParallel adds to one GPU's training: its buckets.

    bucket_views: gradient_as_bucket_view=True: gradients lie in the buckets, which then add nothing.
    """
    buckets = ddp_buckets(parameters)
    if bucket_views:
        return ()
    return (Term("ddp_buckets", sum(buckets), f"all gradients again, in {len(buckets)} buckets", _BUCKETS),)


def zero_redundancy_elements(parameters: Sequence[Parameter], ranks: int, rank: int = 0) -> int:
    """Values whose states a rank of ZeroRedundancyOptimizer keeps: whole tensors, the largest first to whom
    has least (torch/distributed/optim/zero_redundancy_optimizer.py, _partition_parameters).
    """
    held = [0] * ranks
    for elements in sorted((one.elements for one in parameters if one.trainable), reverse=True):
        held[held.index(min(held))] += elements
    return held[rank]


def shard_rows(rows: int, ranks: int, rank: int = 0) -> int:
    """Rows of a tensor's first dimension that a rank has: torch.chunk's, so that the last ranks may have
    none.
    """
    each = ceil(rows / ranks)
    return max(0, min(each, rows - each * rank))


def shard_elements(parameter: Parameter, ranks: int, rank: int = 0) -> int:
    """Values of a parameter that a rank of FSDP2 trains. A number without dimensions has one."""
    rows = parameter.shape[0] if parameter.shape else 1
    return parameter.elements // rows * shard_rows(rows, ranks, rank)


@dataclass(frozen=True)
class FSDP2:
    """How `fully_shard` is used.

    units: the parameters of each module that is sharded by itself, in the order of the forward pass; the
        root's own, which are not in one of these, apart in `root`.
    ranks: N. rank: which of them.
    parameter_bytes, reduce_bytes: of one value as it is computed with (MixedPrecisionPolicy.param_dtype) and
        as gradients are reduced (reduce_dtype).
    moments: values of optimizer state a parameter; two of Adam's.
    """

    units: tuple[tuple[Parameter, ...], ...]
    root: tuple[Parameter, ...]
    ranks: int
    rank: int = 0
    parameter_bytes: int = 4
    reduce_bytes: int = 4
    moments: int = 2

    def padded(self, unit: Sequence[Parameter]) -> int:
        """Values of one rank's shards of a unit: all ranks' are padded to the first's."""
        return sum(shard_elements(parameter, self.ranks) for parameter in unit)

    def whole(self, unit: Sequence[Parameter]) -> int:
        """Values of a unit once it has been gathered, padding included."""
        return self.ranks * self.padded(unit)


def fsdp2_lasting_terms(model: FSDP2) -> tuple[Term, ...]:
    """What a rank holds between two steps: 4 bytes a value of its shards, gradients and moments.

    (4 + 4 + 8)·P/N of fp32 with Adam: ZeRO's third stage, with shards of whole rows.
    """
    everything = [parameter for unit in (model.root, *model.units) for parameter in unit]
    padded = sum(shard_elements(parameter, model.ranks) for parameter in everything)
    own = sum(shard_elements(parameter, model.ranks, model.rank) for parameter in everything)
    expression = f"4 B × {padded:,} values of a {model.ranks}th of each parameter's rows, rounded up"
    return (
        Term("sharded_parameters", 4 * padded, expression, _SHARDS),
        Term("sharded_gradients", 4 * padded, expression, _SHARDS),
        Term("optimizer_states", 4 * model.moments * own, f"{4 * model.moments} B × {own:,} values", _ZERO),
    )


def fsdp2_backward_terms(model: FSDP2) -> tuple[Term, ...]:
    """What a rank holds beyond `fsdp2_lasting_terms` at the peak of its backward pass, activations apart.

    While a unit's backward pass ends: its parameters gathered, those of the next unit on their way
    (prefetched into the buffer of their all-gather), its gradients whole, and the input of the reduce-scatter
    of the unit before, in the type that gradients are reduced in. The root's parameters stay gathered from
    the forward pass on, and its gradients come last. A rank alone gathers nothing: it copies each unit, and
    its peak is when a unit has been put back: its gradients, and the reduction's input and output.
    """
    largest = max((model.whole(unit) for unit in model.units), default=0)
    root = model.whole(model.root)
    each, reduced = model.parameter_bytes, model.reduce_bytes
    if model.ranks == 1:
        return (
            Term("unsharded_parameters", each * root, f"{each} B × {root:,} of the root", _UNSHARDED),
            Term("unsharded_gradients", each * largest, f"{each} B × {largest:,} of a unit", _UNSHARDED),
            Term(
                "reduce_scatter_buffers",
                (reduced + 4) * largest,
                f"({reduced} B in + 4 B out) × {largest:,} of a unit",
                _UNSHARDED,
            ),
        )
    gathered = each * (largest + root)
    terms = [
        Term("unsharded_parameters", gathered, f"{each} B × ({largest:,} of a unit + {root:,})", _UNSHARDED),
        Term("unsharded_gradients", each * largest, f"{each} B × {largest:,} of a unit", _UNSHARDED),
    ]
    if len(model.units) > 1:
        text = f"{each} B × {largest:,} of the next unit"
        terms.append(Term("all_gather_buffers", each * largest, text, _UNSHARDED))
        text = f"{reduced} B × {largest:,} of the unit before"
        terms.append(Term("reduce_scatter_buffers", reduced * largest, text, _UNSHARDED))
    return tuple(terms)


def tensor_parallel_elements(parameter: Parameter, ranks: int, dimension: int | None) -> int:
    """Values of a parameter that one of `ranks` tensor-parallel ranks has.

    dimension: along which it is split: 0 by columns of the linear layer's output, 1 by rows of its input
    (Shoeybi et al. 2019, Megatron-LM, section 3); None: every rank has it whole, as norms.
    """
    if dimension is None:
        return parameter.elements
    size = parameter.shape[dimension]
    return parameter.elements // size * ceil(size / ranks)


def pipeline_micro_batches(stages: int, stage: int, micro_batches: int) -> int:
    """Micro-batches whose activations a stage holds at once in the schedule 1F1B: the first stage's most.

    Narayanan et al. 2021 (arXiv 2104.04473), section 2.2: at most as many as stages lie from it to the end.
    """
    return min(stages - stage, micro_batches)
