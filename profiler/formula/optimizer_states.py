"""The exact bytes of the state that each optimizer keeps.

Rules are per parameter tensor, since several optimizers treat vectors, small tensors and embeddings apart.
What a step needs on top, for as long as it runs, is in profiler.formula.optimizer_temporaries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import ceil

from profiler.formula.terms import Parameter, Term
from profiler.workload import EIGHT_BIT_AS_TRAINER, EIGHT_BIT_OPTIMIZERS, TRANSFORMERS_OPTIMIZERS, Workload

# bitsandbytes/optim/optimizer.py (0.50): tensors below this many elements keep 32-bit states; one scale for
# each block of 256 values; two maps of 256 fp32 values shared by all tensors; from 100,000 elements on, a
# paged optimizer's states are cudaMallocManaged, which torch's allocator does not see.
SMALL_ELEMENTS = 4096
BLOCK_ELEMENTS = 256
QUANTIZATION_MAPS_BYTES = 2 * 256 * 4
PAGED_ELEMENTS = 100_000

_SCALAR_BYTES = 4
_ADAM = "torch/optim/adam.py (exp_avg, exp_avg_sq; Kingma and Ba 2014)"
_ADAFACTOR = "torch/optim/_adafactor.py (row_var, col_var; Shazeer and Stern 2018)"
_ADAFACTOR_TRANSFORMERS = "transformers/optimization.py, Adafactor (exp_avg_sq_row, exp_avg_sq_col)"
_EIGHT_BIT = "bitsandbytes/optim/optimizer.py, Optimizer2State.init_state (Dettmers et al. 2021)"


def resolved_implementation(workload: Workload, device_type: str) -> str:
    """The implementation that runs: "forloop", "foreach" or "fused".

    By default torch takes foreach on CUDA and the for-loop elsewhere (torch/optim/optimizer.py,
    _default_to_fused_or_foreach), and for Adafactor the for-loop everywhere (torch/optim/_adafactor.py).
    """
    if workload.optimizer_implementation != "default":
        return workload.optimizer_implementation
    if workload.optimizer in ("sgd", "momentum", "adam", "adamw") and device_type == "cuda":
        return "foreach"
    return "forloop"


def stepped_parameters(workload: Workload, parameters: Sequence[Parameter]) -> list[Parameter]:
    """What the optimizer steps on: the parameters that get a gradient, or their fp32 master copies.

    Optimizers skip a parameter whose `.grad` is None, and keep nothing of it.
    """
    trained = [parameter for parameter in parameters if parameter.trained]
    if workload.precision == "fp16_master":
        return [replace(parameter, element_bytes=4) for parameter in trained]
    return trained


def state_bytes(optimizer: str, parameter: Parameter) -> int:
    """Bytes of one parameter's state tensors, step counters and shared maps left out."""
    if optimizer in EIGHT_BIT_OPTIMIZERS:
        if not keeps_8_bit_states(optimizer, parameter):
            return 2 * 4 * parameter.elements
        return 2 * parameter.elements + 2 * 4 * ceil(parameter.elements / BLOCK_ELEMENTS)
    if optimizer in TRANSFORMERS_OPTIMIZERS:
        # 16-bit gradients are cast to fp32 first, and the states take their dtype. `RMS` is a scalar.
        first_moments = parameter.elements if optimizer.endswith("momentum") else 0
        return 4 * (_factored_elements(parameter) + first_moments) + _SCALAR_BYTES
    if optimizer == "adafactor":
        return _factored_elements(parameter) * parameter.element_bytes
    return {"sgd": 0, "momentum": 1, "adam": 2, "adamw": 2}[optimizer] * parameter.size_bytes


def keeps_8_bit_states(optimizer: str, parameter: Parameter) -> bool:
    """Whether that 8-bit optimizer of bitsandbytes really keeps 8 bits for this tensor.

    Small tensors stay in 32 bits; embeddings only by an override that transformers' Trainer registers
    (transformers/trainer.py, GlobalOptimManager) and bitsandbytes recommends.
    """
    overridden = parameter.embedding and optimizer in EIGHT_BIT_AS_TRAINER
    return parameter.elements >= SMALL_ELEMENTS and not overridden


def state_terms(workload: Workload, parameters: Sequence[Parameter], device_type: str) -> Iterator[Term]:
    """All that the optimizer keeps on the device from its first step on, as named terms.

    What is there before the first step is in `initial_terms`.
    """
    optimizer = workload.optimizer
    stepped = stepped_parameters(workload, parameters)
    total_bytes = sum(state_bytes(optimizer, parameter) for parameter in stepped)
    elements = sum(parameter.elements for parameter in stepped)
    if optimizer in ("momentum", "adam", "adamw") and stepped:
        count, source = (1, "torch/optim/sgd.py (momentum_buffer)") if optimizer == "momentum" else (2, _ADAM)
        width = stepped[0].element_bytes
        yield _term(total_bytes, f"{count} × {width} B × {elements:,} states", source)
    elif optimizer in ("adafactor", *TRANSFORMERS_OPTIMIZERS):
        yield from _adafactor_terms(optimizer, stepped)
    elif optimizer in EIGHT_BIT_OPTIMIZERS:
        yield from _eight_bit_terms(optimizer, stepped, device_type)
    yield from _step_counter_terms(workload, len(stepped), device_type)


def initial_terms(workload: Workload, parameters: Sequence[Parameter], device_type: str) -> Iterator[Term]:
    """What the optimizer keeps on the device from its construction on, before its first step.

    An fp32 copy of the weights, where the precision has one; and on the CPU bitsandbytes' quantization maps,
    which it makes on the host and moves at the first step.
    """
    if workload.precision == "fp16_master":
        elements = sum(parameter.elements for parameter in parameters if parameter.trainable)
        yield _term(
            4 * elements,
            f"4 B × {elements:,} master weights",
            "Micikevicius et al. 2017, section 3.1 (profiler/training/precision.py)",
        )
    if workload.optimizer in EIGHT_BIT_OPTIMIZERS and device_type == "cpu":
        yield _quantization_maps()


# --- the states as terms ------------------------------------------------------------------------------


def _term(size_bytes: int, expression: str, source: str) -> Term:
    return Term("optimizer_states", size_bytes, expression, source)


def _factored_elements(parameter: Parameter) -> int:
    """Rows and columns of a tensor of two or more dimensions, along its last two; all of a vector."""
    if len(parameter.shape) < 2:
        return parameter.elements
    rows, columns = parameter.shape[-2:]
    matrices = parameter.elements // (rows * columns)
    return matrices * (rows + columns)


def _adafactor_terms(optimizer: str, parameters: list[Parameter]) -> Iterator[Term]:
    source = _ADAFACTOR if optimizer == "adafactor" else _ADAFACTOR_TRANSFORMERS
    widths = {p: p.element_bytes if optimizer == "adafactor" else 4 for p in parameters}
    for name, chosen in (
        ("rows and columns", [p for p in parameters if len(p.shape) > 1]),
        ("vectors", [p for p in parameters if len(p.shape) < 2]),
    ):
        if chosen:
            elements = sum(_factored_elements(p) for p in chosen)
            size_bytes = sum(_factored_elements(p) * widths[p] for p in chosen)
            yield _term(size_bytes, f"{size_bytes // elements} B × {elements:,} {name}", source)
    if optimizer != "adafactor":
        scalars = len(parameters)
        yield _term(
            _SCALAR_BYTES * scalars, f"{_SCALAR_BYTES} B × {scalars:,} root mean squares", source + ", RMS"
        )
    if optimizer == "adafactor_transformers_momentum":
        elements = sum(p.elements for p in parameters)
        yield _term(4 * elements, f"4 B × {elements:,} first moments", source + ", exp_avg")


def _eight_bit_terms(optimizer: str, parameters: list[Parameter], device_type: str) -> Iterator[Term]:
    def in_allocator(chosen: Iterable[Parameter]) -> int:
        paged = optimizer.startswith("paged") and device_type == "cuda"
        return sum(p.elements for p in chosen if not (paged and p.elements >= PAGED_ELEMENTS))

    eight = [p for p in parameters if keeps_8_bit_states(optimizer, p)]
    others = [p for p in parameters if not keeps_8_bit_states(optimizer, p)]
    if eight:
        elements = in_allocator(eight)
        yield _term(2 * elements, f"2 × 1 B × {elements:,} 8-bit states", _EIGHT_BIT)
        blocks = sum(ceil(p.elements / BLOCK_ELEMENTS) for p in eight)
        yield _term(8 * blocks, f"2 × 4 B × {blocks:,} blocks of {BLOCK_ELEMENTS}", _EIGHT_BIT + ", absmax")
        if device_type != "cpu":
            yield _quantization_maps()
    if others:
        elements = in_allocator(others)
        yield _term(8 * elements, f"2 × 4 B × {elements:,} 32-bit states", _EIGHT_BIT + ", min_8bit_size")


def _quantization_maps() -> Term:
    return _term(QUANTIZATION_MAPS_BYTES, "2 × 1 KiB quantization maps", _EIGHT_BIT + ", qmap")


def _step_counter_terms(workload: Workload, tensors: int, device_type: str) -> Iterator[Term]:
    """torch.optim counts steps in a scalar tensor: on the host, unless the optimizer is fused."""
    if workload.optimizer not in ("adam", "adamw", "adafactor"):
        return
    fused = resolved_implementation(workload, device_type) == "fused"
    if device_type == "cpu" or fused:
        yield _term(
            _SCALAR_BYTES * tensors,
            f"{_SCALAR_BYTES} B × {tensors:,} step counters",
            "torch/optim/adam.py: `step`, in host memory unless fused or capturable",
        )
