"""What is trained: one number, whatever a model returns."""

import torch


def loss_of(outputs):
    """The model's own loss, or the sum of what it returns."""
    if outputs.get("loss") is not None:
        return outputs["loss"]
    return sum(t.float().sum() for t in tensors_in(outputs.values()) if t.requires_grad)


def tensors_in(values):
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, dict):
            yield from tensors_in(value.values())
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)
