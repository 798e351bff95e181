"""Two optimizers, and one a parameter."""

import torch
from torch import nn


def _mlp():
    return nn.Sequential(nn.Linear(2048, 8192), nn.ReLU(), nn.Linear(8192, 2048)).cuda()


def matrices_and_rest():
    model = _mlp()
    one = torch.optim.Adam([p for p in model.parameters() if p.ndim == 2])
    two = torch.optim.Adam([p for p in model.parameters() if p.ndim != 2])
    x = torch.randn(64, 2048, device="cuda")
    for _ in range(3):
        model(x).square().mean().backward()
        for optimizer in (one, two):
            optimizer.step()
            optimizer.zero_grad()


def gan():
    generator, critic = _mlp(), nn.Sequential(nn.Linear(2048, 8192), nn.ReLU(), nn.Linear(8192, 1)).cuda()
    of_generator, of_critic = (torch.optim.Adam(m.parameters()) for m in (generator, critic))
    x, z = torch.randn(64, 2048, device="cuda"), torch.randn(64, 2048, device="cuda")
    loss, real = nn.BCEWithLogitsLoss(), torch.ones(64, 1, device="cuda")
    fake = torch.zeros_like(real)
    for _ in range(3):
        of_critic.zero_grad()
        made = generator(z)
        (loss(critic(x), real) + loss(critic(made.detach()), fake)).backward()
        of_critic.step()
        of_generator.zero_grad()
        loss(critic(made), real).backward()
        of_generator.step()


def per_parameter():
    model = _mlp()
    optimizers = {p: torch.optim.Adam([p]) for p in model.parameters()}

    def step(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    x = torch.randn(64, 2048, device="cuda")
    for _ in range(3):
        model(x).square().mean().backward()
