"""Fine-tuning a byte model with Adam in fp32 arithmetic, its weights kept in one of several ways."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.numbers.byte_language_model import ByteLanguageModel, Corpus, Windows, evaluate, loss_of

BATCH = 64
# Keeps fp16 gradients clear of zero, so that only the weights' rounding differs; a power of two is exact.
LOSS_SCALE = 1024.0
POINTS = 10


@dataclass(frozen=True)
class Arm:
    """How the weights are kept between steps: `weights` is what the model computes with."""

    name: str
    weights: torch.dtype
    keeps_master: bool
    colour: str


@dataclass(frozen=True)
class FineTuned:
    """What one run gave; see the tables of experiments.numbers.master_weights."""

    points: list[dict[str, float]]
    lost_share: float
    last_ratios: Tensor  # |update| / |weight| of every nonzero update of the last step, flat
    bytes_per_parameter: dict[str, float]


def fine_tune(
    start: ByteLanguageModel,
    arm: Arm,
    text: Corpus,
    *,
    learning_rate: float,
    steps: int,
    seed: int,
    device: str,
) -> FineTuned:
    """Take `steps` steps of Adam from the weights of `start`, on windows of `text` that the seed draws."""
    model = copy_of(start, arm.weights, device)
    stored: list[Tensor] = list(model.parameters())
    # What Adam updates. With master weights it lives on; without, it is only the fp32 arithmetic of one step.
    working = [weight.detach().float().clone() for weight in stored]
    optimizer = torch.optim.Adam(working, lr=learning_rate)
    windows = Windows(text.training, seed, device)
    counts = torch.zeros(2, dtype=torch.int64, device=device)  # updates lost, updates that are not zero
    seen = counts.clone()
    loss, accuracy = evaluate(model, text.validation, device)
    points = [{"step": 0, "loss": loss, "accuracy": accuracy, "lost_share": float("nan")}]
    for step in range(1, steps + 1):
        contexts, following = windows.draw(BATCH)
        (loss_of(model(contexts), following) * LOSS_SCALE).backward()
        gradients = []
        for weight, sum_ in zip(stored, working, strict=True):
            assert weight.grad is not None
            gradients.append(weight.grad)
            sum_.grad = weight.grad.float() / LOSS_SCALE
            weight.grad = None
        before = [sum_.clone() for sum_ in working]
        optimizer.step()
        last = step == steps
        ratios = []
        for weight, sum_, old in zip(stored, working, before, strict=True):
            nonzero = optimizer.state[sum_]["exp_avg"] != 0
            if last:
                ratios.append(((sum_ - old).abs() / old.abs())[nonzero & (sum_ != old)])
            weight.data.copy_(sum_)  # rounds to the nearest, ties to even
            if not arm.keeps_master:
                sum_.copy_(weight.detach())  # the whole experiment: the fp32 sum is forgotten
            counts += torch.stack([(nonzero & (sum_ == old)).sum(), nonzero.sum()])
        if step % max(1, steps // POINTS) == 0:
            loss, accuracy = evaluate(model, text.validation, device)
            lost, attempted = (counts - seen).tolist()
            points.append({"step": step, "loss": loss, "accuracy": accuracy, "lost_share": lost / attempted})
            seen = counts.clone()
    lost, attempted = counts.tolist()
    states = [optimizer.state[sum_][name] for sum_ in working for name in ("exp_avg", "exp_avg_sq")]
    count = sum(weight.numel() for weight in stored)
    parts: dict[str, list[Tensor]] = {
        "weights": stored,
        "gradients": gradients,
        "optimizer_states": states,
        "master_weights": working if arm.keeps_master else [],
    }
    per_parameter = {name: tensor_bytes(tensors) / count for name, tensors in parts.items()}
    per_parameter["total"] = sum(per_parameter.values())
    return FineTuned(points, lost / attempted, torch.cat(ratios), per_parameter)


def tensor_bytes(tensors: list[Tensor]) -> int:
    """What they hold together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def copy_of(start: ByteLanguageModel, weights: torch.dtype, device: str) -> ByteLanguageModel:
    """A model of the same values, its weights in another format."""
    model = ByteLanguageModel(0, compute_dtype=weights).to(device)
    model.load_state_dict(start.state_dict())
    return model.to(weights)
