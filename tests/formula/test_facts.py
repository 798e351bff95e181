import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.errors import ProfilerError
from profiler.formula.facts import count
from profiler.training.built_in import MODELS
from profiler.training.models import build_model, make_batch
from profiler.training.step import compute_loss
from profiler.workload import CHECKPOINTING, PRECISIONS, Workload


@pytest.mark.parametrize(
    ("model", "length", "parameters"),
    [
        # Published counts: Radford et al. 2019 as in the released checkpoint, torchvision's resnet50 and
        # vit_b_16, Llama-3.2-1B's model card.
        ("gpt2", 16, 124_439_808),
        ("resnet50", 64, 25_557_032),
        ("vit-b16", 224, 86_567_656),
        ("llama-1b", 16, 1_235_814_400),
        # 1024·4096+4096 + 2·(4096²+4096) + 4096·10+10
        ("mlp", 0, 37_801_994),
    ],
)
def test_parameter_counts_are_the_published_ones(model, length, parameters):
    assert count(Workload(model, 1, length)).total_parameter_bytes == 4 * parameters


def test_inputs_are_one_micro_batch():
    # Token ids and labels are one tensor of 64-bit integers.
    assert count(Workload("gpt2-tiny", 3, 50)).input_bytes == 3 * 50 * 8


def saved_by_the_graph_bytes(workload):
    """What the autograd graph of a real forward pass has saved: each storage once, without what was there."""
    model = build_model(workload)
    batch = make_batch(workload, torch.device("cpu"))
    loss = compute_loss(model, batch, workload, "cpu")
    seen = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), *batch.values())}
    seen.add(loss.untyped_storage().data_ptr())
    total_bytes, pending, visited = 0, [loss.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        pending.extend(next_node for next_node, _ in node.next_functions)
        for value in (getattr(node, name) for name in dir(node) if name.startswith("_saved_")):
            for tensor in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in seen:
                    seen.add(tensor.untyped_storage().data_ptr())
                    total_bytes += tensor.untyped_storage().nbytes()
    return total_bytes


@pytest.mark.parametrize("precision", ["fp32", "amp_bf16", "bf16"])
@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith("-tiny")])
def test_what_survives_the_forward_pass_is_what_the_autograd_graph_has_saved(name, precision):
    workload = Workload(name, 2, 32, attention="eager", precision=precision)
    facts = count(workload)
    assert facts.saved_bytes + facts.weight_copy_bytes == saved_by_the_graph_bytes(workload)


def test_autocast_copies_every_weight_of_a_matrix_product_once_in_16_bits():
    # MLP 64-256-256-10: three weights and their biases. Only the weights of the second and third layer are
    # saved: their products pass a gradient on to their inputs.
    facts = count(Workload("mlp-tiny", 4, precision="amp_bf16"))
    assert facts.cast_bytes == 2 * (64 * 256 + 256 * 256 + 256 * 10 + 256 + 256 + 10)
    assert facts.total_parameter_bytes == 2 * facts.cast_bytes
    assert facts.weight_copy_bytes == 2 * (256 * 256 + 256 * 10)


def test_embeddings_and_tied_weights_are_known():
    parameters = count(Workload("gpt2-tiny", 1, 8)).parameters
    tokens, positions = (p for p in parameters if p.embedding)
    assert (tokens.shape, tokens.tied) == ((1000, 64), True)
    assert (positions.shape, positions.tied) == ((1024, 64), False)
    assert not any(p.tied for p in parameters[2:])


def test_the_depth_can_be_chosen_and_a_fixed_one_is_refused():
    shallow, deep = (count(Workload("bert-tiny", 1, 8, layers=n)).total_parameter_bytes for n in (1, 3))
    # A layer of width 64: 4 × (64² + 64) + 64·256 + 256 + 256·64 + 64 + 4 × 64 values.
    assert deep - shallow == 2 * 4 * (4 * 4160 + 16640 + 16448 + 256)
    with pytest.raises(ProfilerError, match="depth of resnet-tiny is fixed"):
        count(Workload("resnet-tiny", 1, 32, layers=3))


@pytest.mark.parametrize("name", ["bert-tiny", "gpt2-tiny", "llama-tiny"])
def test_a_segment_recomputes_what_it_would_have_saved(name):
    """All segments together: the activations of the model without checkpoints, less what lies outside."""
    plain = count(Workload(name, 2, 32))
    checkpointed = count(Workload(name, 2, 32, checkpointing="every_layer"))
    recomputed = sum(segment.recomputed_bytes for segment in checkpointed.segments)
    outside = checkpointed.saved_bytes - plain.saved_bytes + recomputed
    # What both keep: between nothing and all that the checkpointed model keeps.
    assert 0 <= outside <= checkpointed.saved_bytes
    assert [s.kept_bytes for s in checkpointed.segments] == sorted(
        s.kept_bytes for s in checkpointed.segments
    )
    gradients = [s.gradient_bytes for s in checkpointed.segments]
    assert gradients == sorted(gradients, reverse=True)


@settings(max_examples=6, deadline=None)
@given(
    batch=st.integers(1, 16),
    checkpointing=st.sampled_from(CHECKPOINTING),
    precision=st.sampled_from(PRECISIONS),
)
def test_more_samples_never_keep_less(batch, checkpointing, precision):
    small, large = (
        count(Workload("bert-tiny", b, 16, checkpointing=checkpointing, precision=precision))
        for b in (batch, batch + 1)
    )
    assert large.saved_bytes > small.saved_bytes
    assert large.input_bytes > small.input_bytes
    assert large.weight_copy_bytes == small.weight_copy_bytes


@pytest.mark.parametrize("precision", ["fp32", "amp_bf16", "fp16_master"])
@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith("-tiny")])
def test_checkpointing_never_increases_what_is_saved(name, precision):
    saved = {
        kind: count(Workload(name, 2, 32, checkpointing=kind, precision=precision)).saved_bytes
        for kind in CHECKPOINTING
    }
    assert saved["sqrt"] <= saved["every_layer"] <= min(saved["none"], saved["selective"])
    if name != "mlp-tiny":  # see the next test
        assert saved["selective"] <= saved["none"]


def test_selective_checkpointing_keeps_outputs_that_nothing_would_have_saved():
    """A ReLU saves its own output, not that of the linear layer before it: keeping the latter costs more."""
    plain, selective = (count(Workload("mlp-tiny", 8, checkpointing=c)) for c in ("none", "selective"))
    assert selective.saved_bytes > plain.saved_bytes
