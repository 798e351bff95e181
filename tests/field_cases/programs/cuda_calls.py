"""What training scripts call beside the step; none of it changes what the step takes."""

import tempfile

import torch
from torch import nn


def _step(device="cuda", model=None):
    model = model if model is not None else nn.Linear(256, 256).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    loss = model(torch.randn(8, 256, device=device)).square().mean()
    loss.backward()
    optimizer.step()
    return loss


def plain():
    _step()


def history_and_snapshot():
    torch.cuda.memory._record_memory_history(max_entries=1000)
    _step()
    with tempfile.NamedTemporaryFile(suffix=".pickle") as file:
        torch.cuda.memory._dump_snapshot(file.name)
    torch.cuda.memory._record_memory_history(enabled=None)


def events():
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    _step()
    end.record()
    torch.cuda.synchronize()
    assert begin.elapsed_time(end) >= 0


def nvtx():
    with torch.cuda.nvtx.range("step"):
        torch.cuda.nvtx.mark("begin")
        _step()


def memory_fraction():
    torch.cuda.set_per_process_memory_fraction(0.5)
    _step()


def checkpoint():
    model = nn.Linear(256, 256).cuda()
    _step(model=model)
    with tempfile.NamedTemporaryFile() as file:
        torch.save(model.state_dict(), file.name)
        model.load_state_dict(torch.load(file.name, map_location="cpu"))


def default_device():
    torch.set_default_device("cuda")
    try:
        _step(model=nn.Linear(256, 256))
    finally:
        torch.set_default_device(None)


def device_context():
    with torch.device("cuda"):
        model = nn.Linear(256, 256)
    _step(model=model)


def generator():
    drawn = torch.Generator(device="cuda").manual_seed(1)
    model = nn.Linear(256, 256).cuda()
    nn.init.normal_(model.weight, generator=drawn)
    _step(model=model)


def meta():
    with torch.device("meta"):
        model = nn.Linear(256, 256)
    _step(model=model.to_empty(device="cuda"))


def torch_profiler():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True):
        _step()


def caught_out_of_memory():
    try:
        torch.empty(1 << 42, dtype=torch.uint8, device="cuda")
    except torch.cuda.OutOfMemoryError:
        _step()


def streams():
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        pass
    torch.cuda.current_stream().wait_stream(side)
    _step()


def hook():
    model = nn.Linear(256, 256).cuda()
    model.weight.register_hook(lambda gradient: None)
    _step(model=model)
