"""The training step of other recorded runs: a transformer of plain tensor code that gathers its rotary
angles, fills its mask, divides by its norm, and updates its AdamW state in place.

Like transformer.py it performs the operations that the traces name and holds its variables as long.
"""

import math

import torch
from torch import Tensor, einsum, nn

from tests.support.recorded import transformer


class Linear(transformer.Linear):
    """An einsum whose first operand is the weight, as torch 2.6 runs it: the product lies transposed in
    memory. (Later versions exchange the operands.)
    """

    def forward(self, x: Tensor) -> Tensor:
        batch, length, inputs = x.shape
        columns = x.reshape(1, batch * length, inputs).transpose(1, 2)
        product = torch.bmm(self.weight.unsqueeze(0), columns)
        return product.view(-1, batch, length).permute(1, 2, 0)


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = torch.sqrt(norm**2 / x.shape[-1] + 1e-5)
        x = x / scale
        return einsum("d,bsd->bsd", self.weight, x)


class Rotary(nn.Module):
    def __init__(self, length: int, head_size: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.empty(2, length, head_size // 2))

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        cos = self.table[0][positions].unsqueeze(1)
        sin = self.table[1][positions].unsqueeze(1)
        rotated = torch.empty_like(x)
        rotated[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
        rotated[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
        return rotated


def softmax(x: Tensor) -> Tensor:
    largest = torch.max(x, dim=-1, keepdim=True)
    powers = torch.exp(x - largest.values)
    total = torch.sum(powers, dim=-1, keepdim=True)
    return powers / total


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    scores = einsum("...qd,...kd->...qk", query, key)
    scores = scores / math.sqrt(query.shape[-1])
    scores = scores.masked_fill(mask == False, -1e9)  # noqa: E712  the program's words
    weights = softmax(scores)
    return einsum("...qk,...kd->...qd", weights, value)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (Linear(width, width) for _ in range(4))
        self.rotary = Rotary(length, width // heads)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        projected = self.query(x), self.key(x), self.value(x)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in projected)
        positions = torch.arange(length, device=x.device).unsqueeze(0).expand(batch, -1)
        q = self.rotary(q, positions)
        k = self.rotary(k, positions)
        mask = torch.triu(torch.ones(length, length, device=x.device), diagonal=1).to(torch.bool)
        mask = ~mask
        mask = mask.unsqueeze(0).unsqueeze(0).expand(batch, self.heads, -1, -1)
        out = attention(q, k, v, mask)
        out = out.transpose(1, 2).contiguous().flatten(-2)
        return self.out(out)


class FeedForward(transformer.FeedForward):
    linear = Linear

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x)
        up = self.up(x)
        activated = gate * torch.sigmoid(gate)
        hidden = activated * up
        return self.down(hidden)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, length: int) -> None:
        super().__init__()
        self.norm_1 = Norm(width)
        self.attention = Attention(width, heads, length)
        self.norm_2 = Norm(width)
        self.feed_forward = FeedForward(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm_1(x)
        hidden = self.attention(hidden)
        x = x + hidden
        hidden = self.norm_2(x)
        hidden = self.feed_forward(hidden)
        return x + hidden


class PlainTransformer(nn.Module):
    def __init__(
        self, vocabulary: int, length: int, width: int, layers: int, heads: int, hidden: int
    ) -> None:
        super().__init__()
        self.embedding = transformer.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Block(width, heads, hidden, length) for _ in range(layers))
        self.norm, self.head = Norm(width), Linear(width, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return self.head(x)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    logits = logits.view(-1, logits.shape[-1])
    targets = targets.view(-1)
    largest = torch.max(logits, dim=-1, keepdim=True).values
    logits = logits - largest
    powers = torch.exp(logits)
    total = torch.sum(powers, dim=-1)
    chosen = logits[torch.arange(targets.shape[0]), targets]
    losses = torch.log(total) - chosen
    return torch.mean(losses)


class InPlaceAdamW(torch.optim.Optimizer):
    def __init__(self, parameters) -> None:
        super().__init__(parameters, {"lr": 1e-4, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.01})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            rate, (beta1, beta2) = group["lr"], group["betas"]
            for parameter in group["params"]:
                state, grad = self.state[parameter], parameter.grad
                if not state:
                    state["mean"] = torch.zeros_like(parameter)
                    state["square"] = torch.zeros_like(parameter)
                state["mean"].mul_(beta1).add_(grad, alpha=1 - beta1)
                state["square"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
                denominator = torch.sqrt(state["square"]) + group["eps"]
                parameter.addcdiv_(state["mean"], denominator, value=-rate)
                parameter.mul_(1 - rate * group["weight_decay"])
