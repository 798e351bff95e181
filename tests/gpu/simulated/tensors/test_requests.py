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
    cut, spread = last[:, :8], make(2, 16, 1, 1).expand(2, 16, 16, 16)
    _, places = F.max_pool2d(image, 2, return_indices=True)
    half = make(2, 8, 8, 16).permute(0, 3, 1, 2)
    more, kernel, line = make(2, 32, 16, 16), make(32, 16, 1, 1), make(2, 10, 16).transpose(1, 2)
    wide_cut = more.to(memory_format=torch.channels_last)[:, :16]
    geometry = ([0], [1, 1], [1, 1], [1, 1], False, [0, 0])

    def put(index, value):
        return lambda: table.__setitem__(index, value)

    def depthwise(planes, filters):
        wanted = [True, True, False]
        return lambda: aten.convolution_backward(planes, planes, filters, *geometry, 48, wanted)

    def filtered(grad, image, kernel):
        wanted = [True, True, False]
        return lambda: aten.convolution_backward(
            grad, image, kernel, [0], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, wanted
        )

    def normalized(grad, image, train=True):
        made = [weight[:16] for _ in range(5)]
        return lambda: aten.native_batch_norm_backward(grad, image, *made, train, 1e-5, [True] * 3)

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
        "batch norm backward, transposed": normalized(across, image),
        "batch norm backward, transposed and channels last": normalized(across, last),
        "batch norm backward, evaluating": normalized(last, last, False),
        "cuDNN's batch norm backward": lambda: aten.cudnn_batch_norm_backward(
            last, image, *(weight[:16] for _ in range(5)), 1e-5, torch.empty(0, device=device).byte()
        ),
        "softmax backward of a spread gradient": lambda: aten._softmax_backward_data(
            spread, image, -1, torch.float32
        ),
        "bilinear, a part of channels last": lambda: aten.upsample_bilinear2d(wide_cut, [8, 8], False),
        "bilinear backward to the same size": lambda: aten.upsample_bilinear2d_backward(
            cut, [16, 16], [2, 8, 16, 16], False
        ),
        "largest of a pool, backward": lambda: aten.max_pool2d_with_indices_backward(
            half, across, [2, 2], [2, 2], [0, 0], [1, 1], False, places
        ),
        "pool backward": lambda: aten.avg_pool2d_backward(
            half, across, [2, 2], [2, 2], [0, 0], False, True, None
        ),
        "pool to a size, backward": lambda: aten._adaptive_avg_pool2d_backward(image[..., :4, :4], image),
        "pool to a size, channels last": lambda: F.adaptive_avg_pool2d(cut, 4),
        "reflected": lambda: F.pad(last, (1, 1, 1, 1), mode="reflect"),
        "rolled": lambda: torch.roll(across, (1, 1), (1, 2)),
        "most of a column": lambda: torch.topk(last, 2, 1),
        "fold": lambda: aten.col2im(line, [6, 3], [2, 2], [1, 1], [0, 0], [1, 1])[0, :0],
        "convolution backward, transposed": filtered(more.permute(0, 1, 3, 2), image, kernel),
        "convolution backward, channels last": filtered(more, last, kernel),
        "convolution backward, filters last": filtered(
            more, image, kernel.expand(32, 16, 1, 1).to(memory_format=torch.channels_last)
        ),
        "convolution backward, a line": lambda: aten.convolution_backward(
            make(2, 10, 32).transpose(1, 2),
            line,
            make(32, 16, 1),
            [0],
            [1],
            [0],
            [1],
            False,
            [0],
            1,
            [True, True, False],
        ),
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
    "batch norm backward, transposed": [32768, 32768, 64, 64],
    "batch norm backward, transposed and channels last": [32768, 64, 64, 64, 64, 32768],
    "batch norm backward, evaluating": [64, 64, 64, 64, 32768],
    "cuDNN's batch norm backward": [32768, 32768, 64, 64],
    "softmax backward of a spread gradient": [32768, 32768],
    "bilinear, a part of channels last": [8192, 32768],
    "bilinear backward to the same size": [16384],
    "largest of a pool, backward": [32768, 32768, 8192],
    "pool backward": [32768, 32768, 8192],
    "pool to a size, backward": [32768, 2048],
    "pool to a size, channels last": [1024],
    "reflected": [41472, 32768],
    "rolled": [32768, 32768, 32768],
    "most of a column": [4096, 8192, 32768],
    "fold": [1280, 1280],
    "convolution backward, transposed": [32768, 65536, 65536, 2048],
    "convolution backward, channels last": [65536, 32768, 2048],
    "convolution backward, filters last": [32768, 65536, 32768, 2048],
    "convolution backward, a line": [2560, 2048, 1280, 2560, 1280, 2048],
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
