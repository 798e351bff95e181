"""Two training steps of an architecture, recorded."""

import warnings

import torch

from profiler.device import Device
from profiler.recording.auto_phases import auto_phases
from profiler.runs.execute import make_recorder
from profiler.runs.run_settings import RunSettings
from profiler.trace.run import Run
from tests.support.architectures.catalog import batch, build
from tests.support.architectures.losses import loss_of

SETTINGS = RunSettings()


def two_steps(name: str, device: Device) -> Run:
    """In this process, which has the device."""
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    recorder = make_recorder(device, SETTINGS, own_step=False)
    with recorder, auto_phases(recorder.phase):
        model = build(name).to(recorder.device)
        optimizer = torch.optim.AdamW(model.parameters())
        inputs = batch(name, recorder.device)
        for precision in (torch.bfloat16, None):
            with torch.autocast("cuda", precision, enabled=precision is not None):
                loss = loss_of(model(**inputs))
            loss.backward()
            del loss
            optimizer.step()
            optimizer.zero_grad()
    return recorder.run(device, name)
