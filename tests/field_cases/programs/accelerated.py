"""Loops of Hugging Face's accelerate: what it wraps around model, optimizer and data takes nothing."""

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def _prepared(accelerator):
    model = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 256))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return accelerator.prepare(model, optimizer, DataLoader(TensorDataset(torch.ones(32, 256)), batch_size=8))


def accumulates():
    accelerator = Accelerator(gradient_accumulation_steps=2)
    model, optimizer, batches = _prepared(accelerator)
    for (batch,) in batches:
        with accelerator.accumulate(model):
            loss = model(batch).square().mean()
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()


def mixed_precision():
    accelerator = Accelerator(mixed_precision="bf16")
    model, optimizer, batches = _prepared(accelerator)
    for (batch,) in batches:
        loss = model(batch).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
