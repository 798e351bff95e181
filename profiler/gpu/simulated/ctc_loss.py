"""CTC loss as the native CUDA kernels compute it (ATen/native/cuda/LossCTC.cu)."""

from collections.abc import Sequence

import torch

from profiler.gpu.simulated.dispatch import new_tensor
from profiler.gpu.simulated.outputs import contiguous

aten = torch.ops.aten


def _on_device(batch: int, op: str) -> list[torch.Tensor]:
    """Target lengths, input lengths, and where each target begins: one int64 a sequence."""
    return [new_tensor(contiguous((batch,), torch.int64), op) for _ in range(3)]


def ctc_loss(
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: Sequence[int],
    target_lengths: Sequence[int],
    blank: int = 0,
    zero_infinity: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`ctc_loss_gpu_template`: the loss of each sequence, and log_alpha for the backward pass."""
    op = "aten::_ctc_loss"
    with torch._C.DisableTorchFunction():
        length, batch = log_probs.shape[:2]
        lengths = _on_device(batch, op)
        states = 2 * max(target_lengths, default=0) + 1
        log_alpha = new_tensor(contiguous((batch, length, states), log_probs.dtype), op)
        loss = new_tensor(contiguous((batch,), log_probs.dtype), op)
        del lengths
        return loss, log_alpha


def ctc_loss_backward(
    grad: torch.Tensor,
    log_probs: torch.Tensor,
    targets: torch.Tensor,
    input_lengths: Sequence[int],
    target_lengths: Sequence[int],
    neg_log_likelihood: torch.Tensor,
    log_alpha: torch.Tensor,
    blank: int,
    zero_infinity: bool = False,
) -> torch.Tensor:
    """`ctc_loss_backward_gpu_template`: log_beta beside log_alpha, and for large problems the terms of the
    blanks in steps of their own.
    """
    op = "aten::_ctc_loss_backward"
    with torch._C.DisableTorchFunction():
        length, batch, labels = log_probs.shape
        lengths = _on_device(batch, op)
        log_beta = new_tensor(contiguous(log_alpha.shape, log_alpha.dtype), op)
        result = new_tensor(contiguous(log_probs.shape, log_probs.dtype), op)
        if 2 * length + 24 * batch // 10 + 2 * labels // 10 > 450:
            of_blanks = [_every_second(t) for t in (log_alpha, log_beta)]
            terms = aten.logsumexp(of_blanks[0] + of_blanks[1], [2], True).permute(1, 0, 2)
            terms.add_(neg_log_likelihood.view(1, batch, 1)).sub_(log_probs.narrow(2, blank, 1)).exp_()
            result.narrow(2, blank, 1).sub_(terms)
            del terms
            result.mul_(grad.view(1, batch, 1))
            if zero_infinity:
                is_infinite = neg_log_likelihood.view(1, batch, 1) == float("inf")
                result = torch.where(is_infinite, result.new_zeros(()), result)
        del lengths
        return result


def _every_second(states: torch.Tensor) -> torch.Tensor:
    """The blanks lie between the labels, and at both ends."""
    batch, length, number = states.shape
    rows, columns, step = states.stride()
    return states.as_strided((batch, length, number // 2 + 1), (rows, columns, 2 * step))
