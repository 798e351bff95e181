"""Training loops that look whether the loss is still a number, as most do."""

import math

import torch
from torch.nn.utils import clip_grad_norm_


def _train(is_bad=lambda loss: False, after_backward=lambda model: None):
    model = torch.nn.Linear(256, 256).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    x = torch.randn(8, 256, device="cuda")
    steps = 0
    for _ in range(3):
        loss = model(x).square().mean()
        if is_bad(loss):
            continue
        loss.backward()
        after_backward(model)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    assert steps == 3, "a healthy training skips no step"


def item_is_nan():
    _train(lambda loss: math.isnan(loss.item()))


def isnan():
    _train(torch.isnan)


def isnan_any():
    _train(lambda loss: torch.isnan(loss).any())


def not_finite():
    _train(lambda loss: not torch.isfinite(loss))


def not_finite_item():
    _train(lambda loss: not torch.isfinite(loss).item())


def exploded():
    _train(lambda loss: loss > 1e4)


def unequal_to_itself():
    _train(lambda loss: loss != loss)  # noqa: PLR0124  the old way to ask


def error_if_nonfinite():
    _train(after_backward=lambda m: clip_grad_norm_(m.parameters(), 1.0, error_if_nonfinite=True))


def norm_is_finite():
    def check(model):
        assert torch.isfinite(clip_grad_norm_(model.parameters(), 1.0))

    _train(after_backward=check)


def best_loss():
    best = [float("inf")]

    def keep(loss):
        assert loss < best[0], "a training that learns"
        best[0] = loss.item()
        return False

    _train(keep)


def anomaly_mode():
    with torch.autograd.set_detect_anomaly(True):
        _train()
