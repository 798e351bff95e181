"""What training loops bring back to the host."""

import tempfile

import torch


def _train(bring):
    model = torch.nn.Linear(256, 4).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    kept = []
    for _ in range(2):
        y = model(torch.randn(8, 256, device="cuda"))
        loss = y.square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        kept.append(bring(model, y, loss))
    return kept


def loss_item():
    assert all(value > 0 for value in _train(lambda model, y, loss: loss.item()))


def loss_cpu():
    _train(lambda model, y, loss: loss.detach().cpu())


def loss_formatted():
    _train(lambda model, y, loss: f"loss {loss.item():.4f} {loss.detach()}")


def loss_numpy():
    _train(lambda model, y, loss: loss.detach().cpu().numpy())


def outputs_cpu():
    _train(lambda model, y, loss: y.detach().cpu())


def outputs_tolist():
    assert len(_train(lambda model, y, loss: y.detach().tolist())[0]) == 8


def accuracy():
    _train(lambda model, y, loss: (y.argmax(1) == 0).sum().item())


def state_dict_to_cpu():
    _train(lambda model, y, loss: {name: value.cpu() for name, value in model.state_dict().items()})


def save():
    def write(model, y, loss):
        with tempfile.TemporaryFile() as file:
            torch.save(model.state_dict(), file)

    _train(write)


def norms():
    _train(lambda model, y, loss: sum(p.norm().item() for p in model.parameters()))
