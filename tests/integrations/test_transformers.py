"""The Trainer's events, in the order in which it sends them, around a loop on the CPU."""

import torch
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from profiler.integrations.transformers import MemoryCallback

WEIGHTS = 64 * 64 * 4


def test_the_first_steps_are_recorded_and_the_rest_is_left_alone():
    model = nn.Linear(64, 64, bias=False)
    optimizer = torch.optim.Adam(model.parameters())
    callback = MemoryCallback(steps=2)
    handler = CallbackHandler([callback], model, None, optimizer, None)
    state, control = TrainerState(), TrainerControl()
    arguments = object.__new__(
        TrainingArguments
    )  # its constructor wants accelerate, the callback wants nothing
    handler.on_train_begin(arguments, state, control)
    for _ in range(4):
        model(torch.ones(4, 64)).sum().backward()
        optimizer.step()
        model.zero_grad()
        state.global_step += 1
        handler.on_step_end(arguments, state, control)
    handler.on_train_end(arguments, state, control)
    table = callback.recording.table()
    steps = table[table["phase"] == "optimizer_step"]
    assert steps["step"].tolist() == [1, 2]
    assert (steps["parameters_bytes"] == WEIGHTS).all()
    assert (steps["optimizer_states_bytes"] == 2 * WEIGHTS + 4).all()
    assert table["step"].max() == 2
