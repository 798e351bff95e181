"""A real language model, small enough for one CPU core, for the experiments on number formats.

Data: text that ships with the running interpreter, so nothing is downloaded. Network: Bengio et al.,
"A Neural Probabilistic Language Model" (2003): embed the last bytes, one tanh layer, predict the next byte.
"""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONTEXT_BYTES = 12
BYTE_VALUES = 256
EMBEDDING_WIDTH = 24
HIDDEN_WIDTH = 192
HELD_OUT_EVERY = 10
VALIDATION_WINDOWS = 2048


@dataclass(frozen=True)
class Corpus:
    """Text as flat uint8 tensors on the CPU; `validation` is every tenth file or topic, never trained on."""

    training: Tensor
    validation: Tensor


def source_code() -> Corpus:
    """Every top-level .py file of the standard library, sorted by name (4.6 MB in Python 3.11).

    Raises FileNotFoundError where the interpreter ships without its sources.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in sorted(folder.glob("*.py")) if path.stem in sys.stdlib_module_names]
    if len(files) < 2 * HELD_OUT_EVERY:
        raise FileNotFoundError(
            f"The experiments train on the source text of the standard library, and {folder} holds "
            f"{len(files)} of its files: use a Python that ships its .py files."
        )
    return _split([path.read_bytes() for path in files])


def prose() -> Corpus:
    """The Python language reference in English, as `help()` prints it (0.5 MB in Python 3.11)."""
    from pydoc_data.topics import topics

    return _split([topics[name].encode() for name in sorted(topics)])


def _split(texts: list[bytes]) -> Corpus:
    flat = [torch.frombuffer(bytearray(text), dtype=torch.uint8) for text in texts]
    return Corpus(
        training=torch.cat([text for place, text in enumerate(flat) if place % HELD_OUT_EVERY]),
        validation=torch.cat(flat[::HELD_OUT_EVERY]),
    )


class Windows:
    """Random places of one text, the same sequence for the same seed on every device."""

    def __init__(self, text: Tensor, seed: int, device: str) -> None:
        self._text = text
        self._generator = torch.Generator().manual_seed(seed)
        self._device = device

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` contexts (count, CONTEXT_BYTES) and the bytes that follow them (count,), both int64."""
        starts = torch.randint(len(self._text) - CONTEXT_BYTES, (count,), generator=self._generator)
        chosen = self._text[starts[:, None] + torch.arange(CONTEXT_BYTES + 1)].long().to(self._device)
        return chosen[:, :-1], chosen[:, -1]


class ByteLanguageModel(nn.Module):
    """Predicts the next byte from the CONTEXT_BYTES before it: (batch, CONTEXT_BYTES) -> (batch, 256) logits.

    Weights and activations, and with them their gradients, are rounded to `compute_dtype`. Sums inside an
    operation run in fp32 and are rounded once, as the tensor cores of a GPU do (Micikevicius et al., "Mixed
    Precision Training", 2018, section 3.3): the same rule on every processor, and fast on one without fp16
    arithmetic. With fp32 weights and `compute_dtype` fp16 this is what autocast does.
    """

    def __init__(self, seed: int, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.compute_dtype = compute_dtype
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(BYTE_VALUES, EMBEDDING_WIDTH)
            self.hidden = nn.Linear(CONTEXT_BYTES * EMBEDDING_WIDTH, HIDDEN_WIDTH)
            self.output = nn.Linear(HIDDEN_WIDTH, BYTE_VALUES)

    def forward(self, contexts: Tensor) -> Tensor:
        return self.activations(contexts)[-1]

    def activations(self, contexts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What each layer gives: embedded (batch, 288), hidden (batch, 192), logits (batch, 256)."""
        embedded = self._rounded(F.embedding(contexts, self._rounded(self.embedding.weight).float())).flatten(
            1
        )
        hidden = torch.tanh(self._linear(embedded, self.hidden))
        return embedded, hidden, self._linear(hidden, self.output)

    def _linear(self, values: Tensor, layer: nn.Linear) -> Tensor:
        weight, bias = self._rounded(layer.weight), self._rounded(layer.bias)
        return self._rounded(F.linear(values.float(), weight.float(), bias.float()))

    def _rounded(self, values: Tensor) -> Tensor:
        return values.to(self.compute_dtype)


def loss_of(logits: Tensor, following: Tensor) -> Tensor:
    """Mean cross-entropy in nats per byte, in fp32 whatever the logits are (as autocast does)."""
    return F.cross_entropy(logits.float(), following)


@torch.no_grad()
def evaluate(model: ByteLanguageModel, text: Tensor, device: str) -> tuple[float, float]:
    """Loss in nats per byte and share of bytes guessed right, over the same 2048 windows of `text`."""
    contexts, following = Windows(text, seed=0, device=device).draw(VALIDATION_WINDOWS)
    logits = model(contexts)
    right = (logits.argmax(dim=1) == following).float().mean()
    return float(loss_of(logits, following)), float(right)


def pretrained(seed: int, steps: int, text: Tensor, device: str) -> ByteLanguageModel:
    """A model trained in fp32 on `text`: Adam, learning rate 2e-3, 128 windows a step."""
    model = ByteLanguageModel(seed).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    windows = Windows(text, seed, device)
    for _ in range(steps):
        contexts, following = windows.draw(128)
        optimizer.zero_grad()
        loss_of(model(contexts), following).backward()
        optimizer.step()
    return model
