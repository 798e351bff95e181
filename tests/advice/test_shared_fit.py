"""How many cards it takes: torch's own sharding run as one rank, and what the formula takes off."""

import json

import pytest

from profiler.advice import shared_fit as module
from profiler.advice.fit import Question
from profiler.advice.shared_fit import FORMULA, RUN, shared_bytes, shared_fit
from profiler.cli import main
from profiler.errors import ProfilerError
from profiler.gpu.cards import GPUS
from profiler.runs.engine import why_not_virtual
from profiler.trace.ledger import Account
from profiler.trace.phase import FORWARD, Phase
from profiler.trace.run import PhaseMeasurement
from profiler.units import KIB, MIB
from profiler.workload import SHARDINGS, Sharding, Workload

A100 = GPUS["A100-40GB"]
# 3 layers: 1024·4096 + 2·4096·4096 + 4096·10 values and 3·4096 + 10 biases.
MLP = Workload("mlp", 4)
VALUES = 1024 * 4096 + 2 * 4096 * 4096 + 4096 * 10 + 3 * 4096 + 10
ONLY = Question(with_largest=False)


def needs_virtual():
    if why_not_virtual():
        pytest.skip(why_not_virtual())


def lasting(run):
    """Bytes of parameters and states after the last step."""
    end = run.phases[-1].end
    return end["parameters"], end["optimizer_states"]


@pytest.mark.parametrize(
    ("kind", "saved", "buckets"),
    [
        ("ddp", 0, 40),
        ("zero1", 7 * 80 // 8, 40),
        ("zero2", 7 * (80 + 40) // 8, 0),
        ("zero3", 7 * (80 + 40 + 40) // 8, 0),
        ("fsdp2", 7 * (80 + 40 + 40) // 8, 0),
    ],
)
def test_the_formula_divides_what_zeros_paper_divides(kind, saved, buckets):
    peak = {"parameters": 40 * MIB, "gradients": 40 * MIB, "optimizer_states": 80 * MIB, "activations": MIB}
    empty = {"unattributed": 0}
    account = Account(Phase(1, FORWARD), 0, empty, sum(peak.values()), {**peak, **empty}, "", 0)
    measured = PhaseMeasurement(account)
    assert shared_bytes(measured, Sharding(kind, 8)) == (buckets - saved) * MIB


@pytest.mark.parametrize("most", [1, 2, 7, 8])
def test_the_fewest_and_the_largest_are_the_bounds_themselves(most):
    for bound in range(1, most + 1):
        assert module._least(most, lambda ranks, bound=bound: ranks >= bound) == bound
    assert module._least(most, lambda ranks: False) is None
    for bound in range(40):
        assert module._largest(most, lambda batch, bound=bound: batch <= bound) == bound


def test_fully_shard_leaves_each_rank_its_part_of_parameters_and_states():
    needs_virtual()
    found = shared_fit(MLP, A100, Sharding("fsdp2", 4), ONLY)
    assert found.how == RUN
    parameters, states = lasting(found.run)
    # Rows are divided: the last layer has 10, of which the first rank gets 3; 2 tensors of moments and a
    # step in 4 bytes on the host a parameter.
    values = (VALUES - 10 * 4096 - 10) // 4 + 3 * 4096 + 3
    assert abs(parameters - 4 * values) < 64 * KIB  # padding and rounding to 512 bytes
    assert abs(states - 8 * values) < 64 * KIB


def test_ddp_keeps_all_and_zero_redundancy_optimizer_shares_the_states():
    needs_virtual()
    ddp = shared_fit(MLP, A100, Sharding("ddp", 4), ONLY)
    zero1 = shared_fit(MLP, A100, Sharding("zero1", 4), ONLY)
    assert lasting(ddp.run) == (
        pytest.approx(4 * VALUES, abs=64 * KIB),
        pytest.approx(8 * VALUES, abs=64 * KIB),
    )
    # The largest tensor, 4096 × 4096, is the first rank's.
    assert lasting(zero1.run)[0] == pytest.approx(4 * VALUES, abs=64 * KIB)
    assert lasting(zero1.run)[1] == pytest.approx(8 * 4096 * 4096, abs=64 * KIB)
    alone = shared_fit(MLP, A100, Sharding("zero2", 1), ONLY)
    assert alone.how == FORMULA
    assert ddp.needed_bytes >= alone.needed_bytes + 4 * VALUES  # buckets


def test_an_optimizer_that_ranks_cannot_share_is_refused():
    needs_virtual()
    eight_bit = Workload("mlp-tiny", 2, optimizer="adamw8bit")
    with pytest.raises(ProfilerError, match="ranks share sgd, momentum"):
        shared_fit(eight_bit, A100, Sharding("fsdp2", 2), ONLY)


def test_the_verb_says_how_many_and_by_what(capsys):
    words = ["fit", "mlp", "--batch", "4", "--gpu", "4xA100-40GB", "--engine", "simulated", "--json"]
    assert main([*words, "--shard", "fsdp2", "--context", "39500MiB"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["how"], said["gpus"], said["fewest_gpus"]) == (FORMULA, 4, 1)
    assert said["largest_batch"] >= 4
    assert main(words) == 1
    assert "4 GPUs: say how they share the step" in capsys.readouterr().err
    assert main([*words, "--shard", "zero4"]) == 1
    assert f"known: {', '.join(SHARDINGS)}" in capsys.readouterr().err
