"""Which values of the device a program may read, and that following them changes no allocation."""

import pytest
import torch

from profiler.gpu.simulated.tensors.host_values import HostValues
from profiler.gpu.simulated.tensors.unsupported import UnsupportedOperation


def test_floats_made_of_constants_are_known(cuda):
    mask = torch.ones(2, 8, device=cuda)
    assert mask.bool().all()
    assert mask.sum(1).tolist() == [8.0, 8.0]
    extended = (1.0 - mask[:, None, :]) * torch.finfo(torch.float32).min
    assert not extended.any()
    mask[0, 3:] = 0
    assert mask.sum().item() == 11
    half = torch.full((3,), 0.5, dtype=torch.bfloat16, device=cuda)
    assert half.float().tolist() == [0.5] * 3
    assert torch.arange(0, 1, 0.25, device=cuda).tolist() == [0, 0.25, 0.5, 0.75]


def test_floats_of_the_host_are_known_unless_they_are_parameters(cuda):
    assert torch.tensor([1.5, 2.5]).to(cuda).sum().item() == 4
    layer = torch.nn.Linear(2, 2).to(cuda)
    for unknown in (layer.weight, layer(torch.zeros(1, 2, device=cuda))):
        with pytest.raises(UnsupportedOperation):
            unknown.sum().item()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda known, unknown: known.add_(unknown),
        lambda known, unknown: torch._foreach_mul_([known], [unknown]),
        lambda known, unknown: known.copy_(unknown),
        lambda known, unknown: known.normal_(),
        lambda known, unknown: torch.add(known, unknown, out=known),
        lambda known, unknown: torch.nn.functional.batch_norm(
            unknown.expand(2, 4), known, torch.ones_like(known), training=True
        ),
    ],
)
def test_what_an_unknown_value_is_written_to_is_unknown(spoil, cuda):
    known, unknown = torch.ones(4, device=cuda), torch.empty(4, device=cuda)
    assert known.sum().item() == 4
    spoil(known, unknown)
    with pytest.raises(UnsupportedOperation):
        known.sum().item()


def test_an_overwritten_tensor_is_known_again_only_as_a_whole(cuda):
    numbers = torch.zeros(4, dtype=torch.long, device=cuda)
    numbers += (torch.empty(4, device=cuda) > 0).long()
    numbers[:2] = 1
    with pytest.raises(UnsupportedOperation):
        numbers.tolist()
    numbers.fill_(7)
    assert numbers.tolist() == [7] * 4


def test_large_tensors_of_floats_are_not_followed(cuda):
    with pytest.raises(UnsupportedOperation):
        torch.ones(65537, device=cuda).sum().item()  # above 256 KiB


def test_what_would_not_be_kept_is_not_computed(cuda, monkeypatch):
    """Of one known number, as the gradient of a mean is before it meets the loss's."""
    gradient = torch.ones((), device=cuda).expand(2**28)
    computed = []
    compute = HostValues.compute
    monkeypatch.setattr(
        HostValues, "compute", lambda self, op, *rest: computed.append(str(op)) or compute(self, op, *rest)
    )
    gradient.mul(2.0)
    assert computed == []
    assert gradient[:8].mul(2.0).tolist() == [2.0] * 8
    assert "aten.mul.Tensor" in computed


def test_positions_among_unknown_values_are_those_among_equal_ones(cuda):
    scores = torch.empty(3, 4, device=cuda)
    assert scores.argmax(-1).tolist() == [0, 0, 0]
    chosen = scores.topk(2).indices
    assert all(len(set(row)) == 2 for row in chosen.tolist())
    assert sorted(scores.argsort(1)[0].tolist()) == [0, 1, 2, 3]
    routed = torch.zeros(3, 4, dtype=torch.long, device=cuda).scatter(1, chosen, 1)
    assert routed.sum().item() == 6


def test_a_known_tensor_is_still_added_to_in_place(cuda, ledger):
    """Autograd adds in place only to what nobody shares; keeping values aside must not share."""
    x = torch.ones(256, device=cuda, requires_grad=True)
    ledger.clear()
    (x * 2.0 + x * 3.0 + x * 4.0).sum().backward()
    forward, backward = 3 + 2 + 1, 1 + 3  # products, sums, total; ones, and one gradient a product
    assert sum(size > 0 for size in ledger.events) == forward + backward
