"""The formulas on numbers small enough to add up on paper."""

from dataclasses import replace

from profiler.formula.per_phase import phase_terms
from profiler.formula.terms import ModelFacts, Parameter, RecomputedSegment, highest_phase
from profiler.formula.textbook import textbook_terms
from profiler.trace.phase import phases
from profiler.workload import Workload

# Two parameters of 1000 and 40 bytes; 8 bytes of buffers, 100 of inputs, 300 saved, a loss of 4.
FACTS = ModelFacts(
    parameters=(Parameter((250,)), Parameter((10,))),
    buffer_bytes=8,
    input_bytes=100,
    saved_bytes=300,
    loss_bytes=4,
)


def levels(predictions):
    return [(p.phase.step, p.phase.name, p.end_bytes, p.peak_bytes) for p in predictions]


def test_adam_on_the_cpu_phase_by_phase():
    assert levels(phase_terms(Workload("mlp", 1), FACTS, "cpu")) == [
        (0, "model_loaded", 1048, 1048),
        (1, "forward", 1452, 1452),  # + 100 + 300 + 4
        (1, "backward", 2192, 2192),  # 1048 + 1040 gradients + 100 inputs + 4 loss
        (
            1,
            "optimizer_step",
            4280,
            6280,
        ),  # + 2 × 1040 + 2 × 4; at the peak 2 × 1000 (> 1000 + 2 × 40)
        (1, "zero_grad", 3136, 4280),  # 1048 + 2088
        (2, "forward", 3540, 3540),
        (2, "backward", 4280, 4280),
        (2, "optimizer_step", 4280, 6280),
        (2, "zero_grad", 3136, 4280),
    ]


def test_on_cuda_adam_keeps_its_step_on_the_host_and_foreach_makes_one_more_copy():
    last = phase_terms(Workload("mlp", 1), FACTS, "cuda")[-2]
    assert last.end_bytes == 1048 + 1040 + 2080 + 104
    assert last.peak_bytes == last.end_bytes + 1040


def test_sgd_keeps_nothing_and_momentum_one_copy():
    for optimizer, states in (("sgd", 0), ("momentum", 1040)):
        resting = phase_terms(Workload("mlp", 1, optimizer=optimizer), FACTS, "cpu")[-1]
        assert resting.end_bytes == 1048 + states


def test_frozen_and_unused_parameters_have_neither_gradients_nor_states():
    used = FACTS.parameters
    for change in ({"trainable": False}, {"used": False}):
        partly = replace(FACTS, parameters=(replace(used[0], **change), used[1]))
        step = phase_terms(Workload("mlp", 1), partly, "cuda")[3]
        assert step.end_bytes == 1048 + 40 + 2 * 40 + 104  # the weights, and of the second 3 more copies
        assert step.peak_bytes == step.end_bytes + 40  # foreach's denominators


def test_a_frozen_weight_has_no_master_copy_and_an_unused_one_has():
    frozen, unused = Parameter((250,), 2, trainable=False), Parameter((10,), 2, used=False)
    half = replace(FACTS, parameters=(frozen, unused, Parameter((3,), 2)))
    forward = phase_terms(Workload("mlp", 1, precision="fp16_master"), half, "cuda")[1]
    assert forward.end_bytes == 2 * 263 + 8 + 4 * 13 + 404


def test_gradients_stay_between_micro_batches():
    by_phase = {p.phase: p for p in phase_terms(Workload("mlp", 1, micro_batches=2), FACTS, "cpu")}
    first, second = (p for phase, p in by_phase.items() if phase.name == "forward" and phase.step == 1)
    assert second.end_bytes - first.end_bytes == 1040


def test_the_textbook_is_four_times_the_parameters_and_the_activations():
    last = textbook_terms(Workload("mlp", 1), FACTS)[-1]
    assert last.end_bytes == 4 * 1040 + 300 + 100
    assert textbook_terms(Workload("mlp", 1, optimizer="sgd"), FACTS)[-1].end_bytes == 2 * 1040 + 400


def test_the_textbook_adds_one_term_a_phase():
    first_step = [p.end_bytes for p in textbook_terms(Workload("mlp", 1), FACTS)[:4]]
    assert first_step == [1040, 1440, 2480, 4560]


def test_both_formulas_speak_of_the_phases_of_the_run():
    workload = Workload("mlp", 1, micro_batches=3)
    for predictions in (phase_terms(workload, FACTS, "cpu"), textbook_terms(workload, FACTS)):
        assert [p.phase for p in predictions] == phases(workload)


def test_the_summands_show_their_numbers_and_when_they_are_alive():
    step = phase_terms(Workload("mlp", 1), FACTS, "cpu")[3]
    assert [(term.category, term.size_bytes, term.expression, when) for term, when in step.summands()] == [
        ("parameters", 1040, "4 B × 260 parameters", "end and peak"),
        ("inputs", 8, "8 B buffers", "end and peak"),
        ("optimizer_states", 2080, "2 × 4 B × 260 states", "end and peak"),
        ("optimizer_states", 8, "4 B × 2 step counters", "end and peak"),
        ("gradients", 1040, "4 B × 260 gradients", "end and peak"),
        ("inputs", 100, "100 B inputs", "end and peak"),
        ("activations", 4, "4 B loss", "end and peak"),
        ("temporaries", 2000, "2,000 B (for-loop denominators)", "peak"),
    ]
    backward = phase_terms(Workload("mlp", 1), replace(FACTS, loss_backward_bytes=900), "cpu")[2]
    alive = {term.category: when for term, when in backward.summands()}
    assert (alive["gradients"], alive["temporaries"]) == ("end", "peak")


def test_moments_of_the_backward_pass():
    # At the loss 900 more; or a segment with 120 kept below it, 700 recomputed, 90 of its output's gradient
    # and 40 of gradients that are there: 1048 + 40 + 100 + 4 + 120 + 700 + 90 = 2102.
    at_loss = replace(FACTS, loss_backward_bytes=900)
    segment = replace(FACTS, segments=(RecomputedSegment(120, 700, 90, 40),))
    tied = replace(FACTS, parameters=(Parameter((250,), tied=True), Parameter((10,), first_use=1)))
    workload = Workload("mlp", 1, optimizer="sgd", steps=1)

    def backward(facts, workload=workload):
        return next(p for p in phase_terms(workload, facts, "cpu") if p.phase.name == "backward").peak_bytes

    assert backward(at_loss) == 1048 + 404 + 900
    assert backward(segment) == max(2102, 2192)
    assert backward(replace(segment, segments=(RecomputedSegment(120, 900, 90, 40),))) == 2302
    assert backward(tied) == 2192 + 1000  # its two gradients meet
    (first, second) = tied.parameters
    summed = replace(FACTS, parameters=(replace(first, transposed=True), second))
    assert backward(summed) == 2192 + 2 * 1000  # and their sum is a third tensor
    later = replace(FACTS, parameters=(replace(first, first_use=2), second))
    assert backward(later) == 2192 - 40 + 1000  # the gradient of what is used before is not there yet


def test_a_later_micro_batch_adds_the_largest_incoming_gradient():
    second = phase_terms(Workload("mlp", 1, optimizer="sgd", micro_batches=2), FACTS, "cpu")[4]
    assert (second.phase.name, second.phase.micro_batch) == ("backward", 2)
    assert second.peak_bytes == 2192 + 1000


def test_a_master_copy_is_there_before_the_first_step_and_the_loss_scale_from_the_first_backward_on():
    half = replace(FACTS, parameters=(Parameter((250,), 2), Parameter((10,), 2)))
    loaded, forward, backward, step = phase_terms(Workload("mlp", 1, precision="fp16_master"), half, "cuda")[
        :4
    ]
    assert loaded.end_bytes == 2 * 260 + 8
    assert forward.end_bytes == 528 + 4 * 260 + 404
    assert backward.end_bytes == 528 + 4 * 260 + 8 + 2 * 260 + 104
    # Micikevicius et al. 2017: 2 + 2 + 4 + 4 + 4 = 16 bytes a parameter.
    assert step.end_bytes == 16 * 260 + 8 + 8 + 104
    assert step.peak_bytes == step.end_bytes + 2 * 4 * 260  # gradients in fp32, and foreach's denominators


def test_autocast_casts_are_cached_until_the_forward_pass_ends():
    cast = replace(FACTS, weight_copy_bytes=100, cast_bytes=520)
    forward = phase_terms(Workload("mlp", 1, precision="amp_bf16"), cast, "cuda")[1]
    assert forward.end_bytes == 1452 + 100
    assert forward.peak_bytes == 1452 + 520


def test_random_states_of_checkpoints_are_on_the_host():
    checkpointed = replace(FACTS, random_state_bytes=5056)
    on_cpu, on_cuda = (phase_terms(Workload("mlp", 1), checkpointed, device)[1] for device in ("cpu", "cuda"))
    assert on_cpu.end_bytes - on_cuda.end_bytes == 5056


def test_the_peak_is_the_highest_phase():
    assert str(highest_phase(phase_terms(Workload("mlp", 1), FACTS, "cpu")).phase) == "step 1 optimizer_step"
