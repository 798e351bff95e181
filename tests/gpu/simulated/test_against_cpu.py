"""The same training step on the real CPU and on the simulated device: one sequence of sizes."""

import pytest
import torch
from torch import nn

from tests.support.recorded.blocks import cpu_events


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        h = self.first(x)
        for block in self.blocks:
            h = h + torch.relu(block(h))
        return self.last(h)


class Gated(nn.Module):
    """Tied embedding, tanh, gating: operations that take nothing on one kind of device alone.

    Layer norm does on the CPU, softmax on CUDA: its backward multiplies first (SoftMax.cu).
    """

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.norm = nn.Tanh()
        self.up, self.down = nn.Linear(8, 32), nn.Linear(16, 8)

    def forward(self, ids):
        h = self.embedding(ids)
        value, gate = self.up(self.norm(h)).chunk(2, dim=-1)
        h = h + self.down(value * torch.sigmoid(gate))
        return (h @ self.embedding.weight.t()).flatten(0, 1)


CASES = {
    "mlp": (lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), (5, 8), 5),
    "residual": (Residual, (5, 8), 5),
    "gated": (Gated, (2, 3), 6),
}


def training_step(case, device, micro_batches=1):
    make, shape, rows = CASES[case]
    torch.manual_seed(0)
    model = make().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
    inputs = torch.zeros(shape, dtype=torch.long if case == "gated" else torch.float32).to(device)
    labels = torch.zeros(rows, dtype=torch.long).to(device)

    def step():
        for _ in range(micro_batches):
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            del loss
        optimizer.step()
        optimizer.zero_grad()

    return step


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_sizes_and_order_equal_the_real_cpu_run(case, micro_batches, bare, ledger):
    on_cpu = training_step(case, "cpu", micro_batches)
    on_device = training_step(case, bare, micro_batches)
    on_cpu(), on_device()  # the cuBLAS workspaces come with the first products
    ledger.clear()
    expected = cpu_events(on_cpu)
    on_device()
    assert len(expected) > 20
    assert ledger.events == expected
