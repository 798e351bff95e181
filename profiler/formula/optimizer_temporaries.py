"""What an optimizer's step holds beyond weights, gradients and states, while it runs.

Each function below replays the allocations of one implementation, in its order and under its own variable
names: a variable keeps its tensor until it is bound again, so the tensors of two parameters can meet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil

from profiler.formula.optimizer_states import (
    BLOCK_ELEMENTS,
    keeps_8_bit_states,
    resolved_implementation,
    state_bytes,
    stepped_parameters,
)
from profiler.formula.terms import Parameter, Term
from profiler.workload import EIGHT_BIT_OPTIMIZERS, TRANSFORMERS_OPTIMIZERS, Workload

_FLOAT_BYTES = 4


class _Scope:
    """A function's local variables: how many bytes they hold now, and the most that they ever held."""

    def __init__(self) -> None:
        self.now_bytes = self.peak_bytes = 0
        self._held: dict[str, int] = {}

    def bind(self, name: str, size_bytes: int) -> None:
        """name = <a new tensor>: it exists before what the name held is let go."""
        self.now_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self.now_bytes)
        self.drop(name)
        self._held[name] = size_bytes

    def drop(self, *names: str) -> None:
        """Let go of what the names hold, if they hold anything."""
        for name in names:
            self.now_bytes -= self._held.pop(name, 0)

    def keep(self, size_bytes: int) -> None:
        """A tensor that outlives the step."""
        self.now_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self.now_bytes)


def step_temporaries(
    workload: Workload, parameters: Sequence[Parameter], device_type: str, first_step: bool
) -> Iterator[Term]:
    """The step's temporaries at its peak, over its level at the end.

    In the first step some optimizers make a parameter's states just before they step it, so their peak is
    reached with part of the states only.
    """
    stepped = stepped_parameters(workload, parameters)
    if workload.precision == "fp16_master":
        elements = sum(p.elements for p in stepped)
        yield _term(
            4 * elements,
            f"4 B × {elements:,} gradients in fp32",
            "profiler/training/precision.py, MasterWeights",
        )
    if workload.optimizer in EIGHT_BIT_OPTIMIZERS:
        if device_type == "cpu":
            yield from _largest("the CPU kernels' fp32 copies", stepped, workload, first_step)
    elif workload.optimizer in TRANSFORMERS_OPTIMIZERS:
        yield from _largest("update", stepped, workload, first_step)
    else:
        yield from _plain(workload.optimizer, resolved_implementation(workload, device_type), stepped)


def _term(size_bytes: int, expression: str, source: str) -> Term:
    return Term("temporaries", size_bytes, expression, source)


def _plain(optimizer: str, implementation: str, parameters: list[Parameter]) -> Iterator[Term]:
    """torch.optim: all states are made before the first parameter is stepped."""
    if optimizer in ("adam", "adamw") and implementation == "foreach":
        elements = sum(p.elements for p in parameters)
        size_bytes = sum(p.size_bytes for p in parameters)
        yield _term(
            size_bytes,
            f"{size_bytes // max(elements, 1)} B × {elements:,} (foreach denominators)",
            "torch/optim/adam.py, _multi_tensor_adam: exp_avg_sq_sqrt, all parameters at once",
        )
    elif optimizer in ("adam", "adamw") and implementation == "forloop":
        scope = _Scope()
        for parameter in parameters:
            _adam_step(scope, parameter)
        yield _term(
            scope.peak_bytes,
            f"{scope.peak_bytes:,} B (for-loop denominators)",
            "torch/optim/adam.py, _single_tensor_adam: denom = (exp_avg_sq.sqrt() / bias_correction2_sqrt)",
        )
    elif optimizer == "adafactor":
        scope = _Scope()
        if implementation == "foreach":
            _adafactor_foreach_step(scope, parameters)
        else:
            for parameter in parameters:
                _adafactor_step(scope, parameter)
        yield _term(
            scope.peak_bytes,
            f"{scope.peak_bytes:,} B (Adafactor's update, {implementation})",
            "torch/optim/_adafactor.py: var_estimate, which becomes the update",
        )


def _largest(name: str, parameters: list[Parameter], workload: Workload, first_step: bool) -> Iterator[Term]:
    """Optimizers that make each parameter's states when they first step it."""
    optimizer, scope, states_bytes = workload.optimizer, _Scope(), 0
    eight_bit = optimizer in EIGHT_BIT_OPTIMIZERS
    for parameter in parameters:
        states_bytes += state_bytes(optimizer, parameter)
        if first_step:
            scope.keep(state_bytes(optimizer, parameter))
        if eight_bit:
            _eight_bit_cpu_step(scope, parameter, keeps_8_bit_states(optimizer, parameter))
        else:
            _adafactor_transformers_step(scope, parameter, optimizer.endswith("momentum"))
    size_bytes = max(0, scope.peak_bytes - (states_bytes if first_step else 0))
    source = (
        "bitsandbytes/backends/cpu/ops.py, _optimizer_update_8bit_blockwise_cpu; on CUDA in place"
        if eight_bit
        else "transformers/optimization.py, Adafactor.step: update"
    )
    yield _term(size_bytes, f"{size_bytes:,} B ({name})", source)


def _adam_step(scope: _Scope, parameter: Parameter) -> None:
    """torch/optim/adam.py, _single_tensor_adam."""
    scope.bind("sqrt", parameter.size_bytes)
    scope.bind("quotient", parameter.size_bytes)
    scope.drop("sqrt", "denom", "quotient")
    scope.bind("denom", parameter.size_bytes)


def _adafactor_step(scope: _Scope, parameter: Parameter) -> None:
    """torch/optim/_adafactor.py, _single_tensor_adafactor."""
    matrices = 0
    if len(parameter.shape) > 1:
        matrices, rows, columns = _as_matrices(parameter)
        scope.bind("row_mean", matrices * rows * parameter.element_bytes)
        scope.bind("col_mean", matrices * columns * parameter.element_bytes)
    else:
        scope.bind("grad_squared", parameter.size_bytes)
    # `update` is another name of `var_estimate`, so the last parameter's lives until it is bound again.
    scope.bind("var_estimate", parameter.size_bytes)
    scope.bind("row_var.mean", matrices * parameter.element_bytes)
    scope.drop("row_var.mean", "update", "var_estimate")
    scope.bind("update", parameter.size_bytes)


def _adafactor_foreach_step(scope: _Scope, parameters: list[Parameter]) -> None:
    """torch/optim/_adafactor.py, _multi_tensor_adafactor: matrices and vectors in two groups.

    The variables of the first group live until the second has made its own.
    """
    groups: dict[bool, list[Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(len(parameter.shape) > 1, []).append(parameter)
    for is_matrix, members in groups.items():
        shapes = [_as_matrices(p) for p in members] if is_matrix else []
        width = members[0].element_bytes
        size_bytes = sum(p.size_bytes for p in members)
        if is_matrix:
            scope.bind("row_means", sum(matrices * rows for matrices, rows, _ in shapes) * width)
            scope.drop("row_means")
            scope.bind("col_means", sum(matrices * columns for matrices, _, columns in shapes) * width)
            scope.drop("col_means")
        else:
            scope.bind("grads_squared", size_bytes)
            scope.drop("grads_squared")
        scope.bind("var_estimates", size_bytes)
        if is_matrix:
            scope.bind("row_var_means", sum(matrices for matrices, _, _ in shapes) * width)
            scope.drop("row_var_means")


def _adafactor_transformers_step(scope: _Scope, parameter: Parameter, momentum: bool) -> None:
    """transformers/optimization.py, Adafactor.step."""
    size_bytes = parameter.elements * _FLOAT_BYTES
    if parameter.element_bytes < _FLOAT_BYTES:
        scope.bind("grad", size_bytes)
        scope.bind("p_data_fp32", size_bytes)
    scope.bind("square", size_bytes)
    scope.bind("update", size_bytes)  # grad**2 + eps
    scope.drop("square")
    if len(parameter.shape) > 1:
        matrices, rows, columns = _as_matrices(parameter)
        scope.bind("r_factor", matrices * rows * _FLOAT_BYTES)
        scope.bind("c_factor", matrices * columns * _FLOAT_BYTES)
        scope.bind("update", size_bytes)
        scope.drop("r_factor", "c_factor")
    else:
        scope.bind("update", size_bytes)
    if momentum:
        scope.drop("update")  # update = exp_avg
    scope.bind("negated", size_bytes)
    scope.drop("negated")


def _eight_bit_cpu_step(scope: _Scope, parameter: Parameter, is_8_bit: bool) -> None:
    """bitsandbytes/backends/cpu/ops.py, Adam: a function call a parameter, so nothing outlives it."""
    size_bytes = parameter.elements * _FLOAT_BYTES
    is_16_bit = parameter.element_bytes < _FLOAT_BYTES
    if is_8_bit:
        scope.bind("state1_fp32", size_bytes)
        scope.bind("state2_fp32", size_bytes)
    if is_16_bit:
        scope.bind("gradient as float", size_bytes)
    scope.bind("grad", size_bytes)  # g.float() * gnorm_scale
    scope.drop("gradient as float")
    if is_16_bit:
        scope.bind("p_fp32", size_bytes)
    scope.bind("sqrt", size_bytes)
    scope.bind("denom", size_bytes)
    scope.drop("sqrt")
    if is_8_bit:
        scope.bind("out", parameter.elements)
        scope.bind("absmax", 4 * ceil(parameter.elements / BLOCK_ELEMENTS))
    else:
        scope.bind("update", size_bytes)
    scope.drop("state1_fp32", "state2_fp32", "grad", "p_fp32", "denom", "out", "absmax", "update")


def _as_matrices(parameter: Parameter) -> tuple[int, int, int]:
    """How many matrices the last two dimensions make, and their rows and columns."""
    rows, columns = parameter.shape[-2:]
    return parameter.elements // (rows * columns), rows, columns
