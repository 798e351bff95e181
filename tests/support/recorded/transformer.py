"""The training step of a recorded run: a transformer whose attention, norms, loss and AdamW are plain
tensor code.

The traces name the operation and the user's line of each allocation; this is a program that performs the same
operations and holds its variables as long. Nothing of the measured sizes is stated here.
"""

import math

import torch
from torch import Tensor, einsum, nn


class Linear(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return einsum("bsi,oi->bso", x, self.weight)


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
        x = x * scale
        return self.weight * x


class Rotary(nn.Module):
    def __init__(self, length: int, head_size: int) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(length), 10000.0 ** (-torch.arange(0, head_size, 2) / head_size))
        self.register_buffer("table", torch.stack((torch.cos(angles), torch.sin(angles))))

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        even, odd = x.unflatten(-1, (-1, 2)).movedim(-1, 0)
        cos, sin = self.table[:, : x.shape[-2]] if positions is None else self.table[:, positions]
        rotated_even = cos * even - sin * odd
        rotated_odd = sin * even + cos * odd
        return torch.concat([rotated_even.unsqueeze(-1), rotated_odd.unsqueeze(-1)], -1).flatten(-2)


def softmax(x: Tensor) -> Tensor:
    shifted = x - torch.max(x, dim=-1, keepdim=True)[0]
    powers = torch.exp(shifted)
    return powers / torch.sum(powers, dim=-1, keepdim=True)


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    scores = einsum("bhqd,bhkd->bhqk", query, key) / math.sqrt(key.shape[-1])
    scores = torch.where(mask, scores, float("-inf"))
    weights = softmax(scores)
    return einsum("bhqk,bhkd->bhqd", weights, value)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, rotary: Rotary, gathers_positions: bool) -> None:
        super().__init__()
        self.heads, self.rotary, self.gathers_positions = heads, rotary, gathers_positions
        self.query, self.key, self.value, self.out = (Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, wanted: Tensor | None = None) -> Tensor:
        length = x.shape[1]
        q, k, v = self.query(x), self.key(x), self.value(x)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        if self.gathers_positions:
            wanted = torch.arange(length, device=x.device)
        q = self.rotary(q, wanted)
        k = self.rotary(k, wanted)
        positions = torch.arange(length, device=x.device)
        mask = positions.view(1, 1, length, 1) >= positions.view(1, 1, 1, length)
        out = attention(q, k, v, mask)
        out = out.transpose(1, 2).contiguous().flatten(-2)
        return self.out(out)


class FeedForward(nn.Module):
    linear = Linear

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        shapes = ((width, hidden), (hidden, width), (width, hidden))
        self.gate, self.down, self.up = (self.linear(*shape) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(silu(self.gate(x)) * self.up(x))


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, rotary: Rotary, gathers_positions: bool) -> None:
        super().__init__()
        self.attention = Attention(width, heads, rotary, gathers_positions)
        self.feed_forward = FeedForward(width, hidden)
        self.norm_1, self.norm_2 = RMSNorm(width), RMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attention(self.norm_1(x))
        middle = x + attended
        transformed = self.feed_forward(self.norm_2(middle))
        return middle + transformed


class Embedding(nn.Module):
    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary, width))

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight[ids, :]


class Transformer(nn.Module):
    """`gathers_positions`: rotary angles are indexed by a tensor of positions, not sliced; and the embedded
    tokens are not held until the end of the forward.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        gathers_positions: bool = False,
    ) -> None:
        super().__init__()
        self.holds_embedded = not gathers_positions
        self.embedding = Embedding(vocabulary, width)
        self.rotary = Rotary(length, width // heads)
        self.layers = nn.ModuleList(
            Block(width, heads, hidden, self.rotary, gathers_positions) for _ in range(layers)
        )
        self.norm, self.head = RMSNorm(width), Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        held = x if self.holds_embedded else None
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        logits = self.head(x)
        del held
        return logits


def log_softmax(x: Tensor) -> Tensor:
    largest = torch.max(x, dim=-1, keepdim=True)[0]
    x = x - largest
    return x - torch.log(torch.sum(torch.exp(x), dim=-1, keepdim=True))


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    negative = -log_softmax(logits)
    return torch.mean(torch.gather(negative, -1, targets.unsqueeze(-1)))


class AdamW(torch.optim.Optimizer):
    def __init__(self, parameters) -> None:
        super().__init__(parameters, {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1})

    def step(self) -> None:
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for parameter in group["params"]:
                state, grad = self.state[parameter], parameter.grad.data
                parameter.data -= lr * group["weight_decay"] * parameter.data
                step = state.get("step", 1)
                old_mean = state.get("mean", torch.zeros_like(parameter.data))
                old_square = state.get("square", torch.zeros_like(parameter.data))
                mean = beta1 * old_mean + (1 - beta1) * grad
                square = beta2 * old_square + (1 - beta2) * torch.square(grad)
                rate = lr * math.sqrt(1 - beta2**step) / (1 - beta1**step)
                parameter.data -= rate * mean / (torch.sqrt(square) + group["eps"])
                state["mean"], state["square"], state["step"] = mean, square, step + 1
