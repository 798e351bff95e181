"""Training steps of many architectures: what stays allocated is what can be counted on the host."""

from collections.abc import Iterable

import pytest
import torch

from tests.support.architectures.catalog import ARCHITECTURES, batch, build
from tests.support.architectures.losses import loss_of

# Where gradients are parts of a larger tensor: its bytes less theirs. MobileBERT's empty matrix beside the
# tied embedding, [128, 0], keeps the gradient of both, [128, 32]. WavLM concatenates three biases of 32 in
# each of its two layers: one block of 512 bytes for three gradients.
GRADIENTS_IN_COMMON = {"MobileBertForMaskedLM": 128 * 32 * 4, "WavLMForCTC": -2 * 2 * 512}


def rounded(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of their blocks, each a multiple of 512."""
    return sum(-(-4 * tensor.numel() // 512) * 512 for tensor in tensors)


@pytest.mark.filterwarnings("ignore")  # of transformers, about the tiny sizes
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_stays_allocated(name, cuda):
    """float32 parameters and buffers, then gradients, then two AdamW states for each trained parameter. The
    first step runs under bfloat16 autocast and settles workspaces and tables, the second in float32.
    """
    model = build(name)
    buffers = sum(-(-buffer.nbytes // 512) * 512 for buffer in model.buffers())
    host = rounded(model.parameters()) + buffers
    model.to(cuda)
    assert torch.cuda.memory_allocated() == host
    optimizer = torch.optim.AdamW(model.parameters())
    inputs = batch(name, cuda)
    for precision in (torch.bfloat16, None):
        before = torch.cuda.memory_allocated()
        with torch.autocast("cuda", precision, enabled=precision is not None):
            loss = loss_of(model(**inputs))
        loss.backward()
        del loss
        after_backward = torch.cuda.memory_allocated()
        trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
        optimizer.step()
        states = torch.cuda.memory_allocated() - after_backward
        assert states == (2 * rounded(trained) if precision is not None else 0)
        optimizer.zero_grad()
    assert after_backward - before == rounded(trained) + GRADIENTS_IN_COMMON.get(name, 0)
    assert 2 * len(trained) >= len(list(model.parameters()))
