"""Requests of single operations, in order: those of PyTorch's own code, on the virtual GPU and simulated.

The numbers are the requests that torch 2.6, 2.11 and 2.14 make on the virtual GPU, all three the same.
"""

import inspect

import pytest
import torch

from tests.support.virtual_gpu import answer, installed_torch, needed, one


def operations(device):
    """Name -> operation. Operands are made first."""
    import torch
    from torch.nn import functional as F

    aten, make = torch.ops.aten, lambda *size: torch.ones(*size, device=device)
    rows, columns = torch.arange(5, device=device)[:, None], torch.arange(7, device=device)
    table, number, flat, mask = make(20, 30), make(10), make(1000), make(20, 30) > 0
    turned, dense = make(4, 6, 8).permute(0, 2, 1), make(4, 8, 6)
    long, wide, mean, ones = make(100, 1000).t(), make(128, 64).t(), make(64, 1), make(128)
    image = make(2, 16, 16, 16)
    across, last = image.permute(0, 1, 3, 2), image.to(memory_format=torch.channels_last)
    planes, filters = make(2, 48, 20, 20), make(48, 1, 3, 3)
    batch, weight = make(32, 64), make(64)
    geometry = ([0], [1, 1], [1, 1], [1, 1], False, [0, 0])

    def put(index, value):
        return lambda: table.__setitem__(index, value)

    def depthwise(planes, filters):
        wanted = [True, True, False]
        return lambda: aten.convolution_backward(planes, planes, filters, *geometry, 48, wanted)

    norm = [[128], mean, mean, ones, ones, [True] * 3]
    statistics = [weight, weight, weight, weight, weight, True, 1e-5, [True] * 3]
    sizes = ([16, 16], [2, 16, 8, 8])
    return {
        "indices of unlike strides": lambda: table[rows, columns],
        "indices of like strides": lambda: table[columns, columns],
        "one int32 index": lambda: table[columns.int()],
        "a number by indices": put((rows, columns), 1.0),
        "a number in a slice": put((..., 0), 1.0),
        "a number by a mask": put(mask, 1.0),
        "a number to a tensor's power": lambda: torch.pow(2, number),
        "one to a tensor's power": lambda: torch.pow(1, number),
        "in-place views": lambda: make(10).unsqueeze_(0).squeeze_(0),
        "cumsum": lambda: torch.cumsum(long, 0),
        "cumsum of bools": lambda: torch.cumsum(long > 0, 0),
        "layer norm backward": lambda: aten.native_layer_norm_backward(wide, wide, *norm),
        "softmax": lambda: torch.softmax(turned, -1),
        "log softmax backward": lambda: aten._log_softmax_backward_data(turned, dense, -1, torch.float32),
        "softmax backward": lambda: aten._softmax_backward_data(dense, turned, -1, torch.float32),
        "mse": lambda: F.mse_loss(flat, flat),
        "smooth l1": lambda: F.smooth_l1_loss(flat, flat, reduction="sum"),
        "huber": lambda: F.huber_loss(flat, flat),
        "binary cross entropy": lambda: F.binary_cross_entropy(flat, flat),
        "log sigmoid": lambda: F.logsigmoid(flat),
        "bilinear backward": lambda: aten.upsample_bilinear2d_backward(across, *sizes, False, None, None),
        "bilinear backward, channels last": lambda: aten.upsample_bilinear2d_backward(last, *sizes, False),
        "bicubic backward, channels last": lambda: aten.upsample_bicubic2d_backward(last, *sizes, False),
        "largest of a pool": lambda: F.max_pool2d(across, 2),
        "pool to a size": lambda: F.adaptive_avg_pool2d(across, 4),
        "unfold": lambda: F.unfold(image, 3, padding=1),
        "batch norm of rows, backward": lambda: aten.native_batch_norm_backward(batch, batch, *statistics),
        "depthwise": depthwise(planes, filters),
        "depthwise, channels last": depthwise(planes.to(memory_format=torch.channels_last), filters),
        "depthwise in cuDNN": depthwise(planes.half(), filters.half()),
    }


REQUESTS = {
    "indices of unlike strides": [280, 280, 140],
    "indices of like strides": [28],
    "one int32 index": [28, 56, 840],
    "a number by indices": [4, 280, 280],
    "a number in a slice": [],
    "a number by a mask": [],
    "a number to a tensor's power": [40, 8],
    "one to a tensor's power": [40],
    "in-place views": [40],
    "cumsum": [400000, 400000],
    "cumsum of bools": [100000, 800000, 800000, 800000],
    "layer norm backward": [32768, 32768, 512, 512, 32768],
    "softmax": [768, 768],
    "log softmax backward": [768, 768],
    "softmax backward": [768, 768, 768],
    "mse": [4000, 4000],
    "smooth l1": [4000, 4000],
    "huber": [4000, 4],
    "binary cross entropy": [4000, 4],
    "log sigmoid": [4000],
    "bilinear backward": [8192, 32768],
    "bilinear backward, channels last": [8192],
    "bicubic backward, channels last": [8192, 32768],
    "largest of a pool": [8192, 16384, 32768],
    "pool to a size": [32768, 2048],
    "unfold": [32768, 294912],
    "batch norm of rows, backward": [256, 256, 256, 256, 8192],
    "depthwise": [1728, 153600],
    "depthwise, channels last": [153600, 1728],
    "depthwise in cuDNN": [76800, 864],
}

RECORDED = """
import json
found = {}
for name, operation in operations("cuda").items():
    torch.cuda.memory._record_memory_history(context=None)
    operation()
    trace = torch.cuda.memory._snapshot()["device_traces"][0]
    torch.cuda.memory._record_memory_history(enabled=None)
    found[name] = [event["size"] for event in trace if event["action"] == "alloc"]
print(json.dumps(found))
"""


def test_on_the_virtual_gpu():
    code = "import torch\n" + inspect.getsource(operations) + RECORDED
    assert answer(code, one("A100-40GB"), needed(installed_torch())) == REQUESTS


@pytest.mark.parametrize("name", REQUESTS)
def test_simulated(name, cuda, ledger):
    operation = operations(cuda)[name]
    with torch.no_grad():
        ledger.clear()
        kept = operation()
    assert [size for size in ledger.events if size > 0] == REQUESTS[name]
    del kept
