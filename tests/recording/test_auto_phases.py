"""A training loop that names no phase, on the CPU."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from profiler.recording.auto_phases import auto_phases


class Recorder:
    """Notes each phase, and how many tensors of each kind the state shows at its end."""

    def __init__(self):
        self.phases = []
        self.held = []

    @contextmanager
    def phase(self, phase, state):
        self.phases.append(str(phase))
        yield
        parameters = [parameter for _, parameter in state.named_parameters()]
        self.held.append(
            (
                len(parameters),
                sum(p.grad is not None for p in parameters),
                sum(len(optimizer.state) for optimizer in state.optimizers),
                sorted(tuple(t.shape) for t in state.batch.values()),
            )
        )


def train(loop):
    recorder = Recorder()
    with auto_phases(recorder.phase):
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        loop(model, torch.optim.Adam(model.parameters()))
    return recorder


def plain(model, optimizer):
    for _ in range(2):
        model(torch.ones(3, 4)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


STEPS = [
    f"step {step} {name}"
    for step in (1, 2)
    for name in ("forward", "backward", "optimizer_step", "zero_grad")
]


def test_a_plain_loop():
    assert train(plain).phases == ["model_loaded", *STEPS]


def test_a_transform_of_the_data_begins_no_phase():
    transform = nn.Sequential(nn.Upsample(scale_factor=2), nn.Flatten())

    def loop(model, optimizer):
        for _ in range(2):
            batch = torch.cat([transform(torch.ones(1, 1, 2)) for _ in range(3)])
            nn.functional.cross_entropy(model(batch), torch.zeros(3, dtype=torch.long)).backward()
            optimizer.step()
            optimizer.zero_grad()

    assert train(loop).phases == ["model_loaded", *STEPS]


def test_zero_grad_where_a_loop_begins():
    def loop(model, optimizer):
        for _ in range(2):
            optimizer.zero_grad()
            torch.autograd.backward(model(torch.ones(3, 4)).sum())
            optimizer.step()

    assert train(loop).phases == ["model_loaded", *STEPS[:4], *STEPS[4:7]]


def test_zero_grad_between_forward_and_backward_is_no_phase():
    def loop(model, optimizer):
        loss = model(torch.ones(3, 4)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert train(loop).phases == ["model_loaded", *STEPS[:3]]


def test_micro_batches_and_evaluation():
    def loop(model, optimizer):
        for _ in range(2):
            model(torch.ones(3, 4)).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model(torch.ones(3, 4))
            model(torch.ones(3, 4))
        model(torch.ones(3, 4))

    assert train(loop).phases == [
        "model_loaded",
        "step 1 forward",
        "step 1 backward",
        "step 1 forward (micro-batch 2)",
        "step 1 backward (micro-batch 2)",
        "step 1 optimizer_step",
        "step 1 evaluation",
        "step 2 forward",
    ]


def test_forwards_before_a_backward_are_phases_of_their_own_unless_one_needs_the_other():
    def siamese(model, optimizer):
        (model(torch.ones(3, 4)).sum() + model(torch.zeros(3, 4)).sum()).backward()

    def recurrent(model, optimizer):
        step = nn.Linear(4, 4)
        hidden = torch.ones(3, 4)
        for _ in range(3):
            hidden = step(hidden)
        nn.MSELoss()(hidden, torch.ones(3, 4)).backward()

    assert train(siamese).phases[1:] == [
        "step 1 forward",
        "step 1 forward (micro-batch 2)",
        "step 1 backward (micro-batch 2)",
    ]
    assert train(recurrent).phases[1:] == ["step 1 forward", "step 1 backward"]


def test_a_step_is_over_when_both_optimizers_of_a_gan_have_stepped():
    def loop(critic, critic_optimizer):
        generator = nn.Linear(3, 4)
        generator_optimizer = torch.optim.SGD(generator.parameters())
        for _ in range(2):
            critic(generator(torch.ones(2, 3)).detach()).sum().backward()
            critic_optimizer.step()
            critic(generator(torch.ones(2, 3))).sum().backward()
            generator_optimizer.step()

    found = train(loop).phases
    assert len(found) == 1 + 2 * 6
    assert found[1] == found[7].replace("step 2", "step 1") == "step 1 forward"
    assert {phase.split()[1] for phase in found[1:7]} == {"1"}
    assert {phase.split()[1] for phase in found[7:]} == {"2"}


def test_an_optimizer_that_steps_more_often_than_the_other_counts_the_steps():
    def loop(critic, critic_optimizer):
        generator = nn.Linear(3, 4)
        generator_optimizer = torch.optim.SGD(generator.parameters())
        for _ in range(2):
            for _ in range(3):
                critic(torch.ones(2, 4)).sum().backward()
                critic_optimizer.step()
            critic(generator(torch.ones(2, 3))).sum().backward()
            generator_optimizer.step()

    steps = [phase for phase in train(loop).phases if "optimizer_step" in phase]
    # The generator's step belongs to the critic's next one.
    assert [int(phase.split()[1]) for phase in steps] == [1, 2, 3, 4, 4, 5, 6, 7]


def test_an_optimizer_a_parameter_that_steps_inside_the_backward():
    def loop(model, optimizer):
        hooked = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        each = {p: torch.optim.SGD([p]) for p in hooked.parameters()}

        def update(parameter):
            each[parameter].step()
            each[parameter].zero_grad()

        for parameter in hooked.parameters():
            parameter.register_post_accumulate_grad_hook(update)
        for _ in range(2):
            hooked(torch.ones(3, 4)).sum().backward()

    recorder = Recorder()
    with auto_phases(recorder.phase):
        loop(None, None)
    assert recorder.phases == ["model_loaded", *STEPS[:2], *STEPS[4:6]]


def test_a_closure_has_its_phases_and_the_rest_is_the_step():
    def loop(model, optimizer):
        searching = torch.optim.LBFGS(model.parameters(), max_iter=1)

        def closure():
            searching.zero_grad()
            loss = model(torch.ones(3, 4)).sum()
            loss.backward()
            return loss

        for _ in range(2):
            searching.step(closure)

    recorder = Recorder()
    with auto_phases(recorder.phase):
        loop(nn.Linear(4, 2), None)
    closures = ["optimizer_step", "forward", "backward", "optimizer_step"]
    assert [phase.rsplit(" ", 1)[-1] for phase in recorder.phases[1:]] == closures * 2


def test_a_step_that_raised_does_not_hide_the_next_ones():
    class Fails(torch.optim.SGD):
        fails = True

        @torch.no_grad()
        def step(self, closure=None):
            if Fails.fails:
                raise torch.OutOfMemoryError("no room")
            return super().step(closure)

    def loop(model, optimizer):
        failing = Fails(model.parameters())
        model(torch.ones(3, 4)).sum().backward()
        with pytest.raises(torch.OutOfMemoryError):
            failing.step()
        Fails.fails = False
        failing.step()

    recorder = Recorder()
    with auto_phases(recorder.phase):
        loop(nn.Linear(4, 2), None)
    assert [phase.split()[-1] for phase in recorder.phases[-2:]] == ["optimizer_step", "optimizer_step"]


def test_the_loop_can_be_ended_where_a_step_is_over():
    ended = []

    def stop(step):
        ended.append(step)
        if step == 2:
            raise SystemExit(0)

    recorder = Recorder()
    model = nn.Linear(4, 2)

    def loop():
        optimizer = torch.optim.SGD(model.parameters())
        while True:
            plain(model, optimizer)

    with auto_phases(recorder.phase, stop), pytest.raises(SystemExit):
        loop()
    assert ended == [1, 2]
    assert recorder.phases == ["model_loaded", *STEPS]


def test_compiled_modules_are_compiled_as_without_phases():
    graphs = []

    def backend(module, inputs):
        graphs.append(module)
        return module.forward

    def loop(model, optimizer):
        torch._dynamo.reset()
        compiled = torch.compile(model, backend=backend, fullgraph=True)
        for _ in range(2):
            compiled(torch.ones(3, 4)).sum().backward()
            optimizer.step()

    recorder = train(loop)
    assert len(graphs) == 1
    assert recorder.phases == ["model_loaded", *STEPS[:3], *STEPS[4:7]]


def test_the_state_at_the_end_of_each_phase():
    def loop(model, optimizer):
        inputs = torch.ones(3, 4)
        model(input=inputs).sum().backward()
        optimizer.step()
        del inputs
        optimizer.zero_grad()

    recorder = train(loop)
    assert recorder.held == [
        (4, 0, 0, []),  # it ends when the model is called
        (4, 0, 0, [(3, 4)]),
        (4, 4, 0, [(3, 4)]),
        (4, 4, 4, [(3, 4)]),
        (4, 0, 4, []),
    ]


def test_a_model_within_a_model_is_one_forward_and_each_parameter_counts_once():
    def loop(model, optimizer):
        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = model

            def forward(self, x):
                return self.inner(x).sum() + self.inner(x).sum()

        twice = Twice()
        twice(torch.ones(3, 4)).backward()

    recorder = train(loop)
    assert recorder.phases == ["model_loaded", "step 1 forward", "step 1 backward"]
    assert recorder.held[-1][:2] == (4, 4)


def test_everything_is_put_back_when_the_loop_fails():
    before = (nn.Module.__call__, torch.autograd.backward, torch.optim.Optimizer.zero_grad)

    def loop(model, optimizer):
        model(torch.ones(3, 5))

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        train(loop)
    assert (nn.Module.__call__, torch.autograd.backward, torch.optim.Optimizer.zero_grad) == before
    seen = Recorder()
    plain(model := nn.Linear(4, 2), torch.optim.SGD(model.parameters()))
    assert seen.phases == []
