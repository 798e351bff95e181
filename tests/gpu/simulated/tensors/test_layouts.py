"""Strides of the first output of single operations: PyTorch's own on the virtual GPU, and simulated.

Torch 2.6, 2.11 and 2.14 lay them alike; before 2.14 group norm refuses gradients that do not lie densely.
"""

import inspect

import pytest

from tests.support.virtual_gpu import answer, installed_torch, needed, one


def operations(device):
    """Name -> operation of a gradient and an operand of [2, 4, 6, 8], and how both lie."""
    import torch

    aten, ones = torch.ops.aten, lambda *size: torch.ones(*size, device=device)
    rows, groups, weight = ones(2, 4, 6, 1), ones(2, 2), ones(4)
    norm, width = [rows, rows, ones(8), ones(8), [True] * 3], [8]
    statistics, nothing = [weight] * 5, torch.empty(0, device=device).byte()
    named = {
        "softplus_backward": lambda g, x: aten.softplus_backward(g, x, 1, 20),
        "hardtanh_backward": lambda g, x: aten.hardtanh_backward(g, x, -1, 1),
        "hardsigmoid_backward": aten.hardsigmoid_backward,
        "hardswish_backward": aten.hardswish_backward,
        "logit_backward": aten.logit_backward,
        "elu_backward": lambda g, x: aten.elu_backward(g, 1, 1, 1, False, x),
        "threshold_backward": lambda g, x: aten.threshold_backward(g, x, 0),
        "leaky_relu_backward": lambda g, x: aten.leaky_relu_backward(g, x, 0.1, False),
        "log_sigmoid_backward": lambda g, x: aten.log_sigmoid_backward(g, x, ones(0)),
        "binary_cross_entropy_backward": lambda g, x: aten.binary_cross_entropy_backward(ones(1).sum(), g, x),
        "glu_backward": lambda g, x: aten.glu_backward(g[:, :2], x, 1),
        "mse_loss_backward": lambda g, x: aten.mse_loss_backward(ones(1).sum(), g, x, 1),
        "log_softmax_backward": lambda g, x: aten._log_softmax_backward_data(g, x, -1, torch.float32),
        "layer_norm_backward": lambda g, x: aten.native_layer_norm_backward(g, x, width, *norm),
        "group_norm_backward": lambda g, x: aten.native_group_norm_backward(
            g, x, groups, groups, weight, 2, 4, 48, 2, [True] * 3
        ),
        "batch_norm_backward": lambda g, x: aten.native_batch_norm_backward(
            g, x, *statistics, True, 1e-5, [True] * 3
        ),
        "batch_norm_backward, evaluating": lambda g, x: aten.native_batch_norm_backward(
            g, x, *statistics, False, 1e-5, [True] * 3
        ),
        "cudnn_batch_norm_backward": lambda g, x: aten.cudnn_batch_norm_backward(
            x, g, *statistics, 1e-5, nothing
        ),
    }
    dense, last = ones(2, 4, 6, 8), ones(2, 6, 8, 4).permute(0, 3, 1, 2)
    across, spread = ones(2, 4, 8, 6).transpose(2, 3), ones(2, 4, 1, 1).expand(2, 4, 6, 8)
    lying = {"dense": dense, "last": last, "across": across, "spread": spread}
    pairs = [("last", "dense"), ("dense", "last"), ("last", "last"), ("across", "dense"), ("spread", "last")]
    return {
        f"{name}: {of_grad}, {of_input}": (operation, lying[of_grad], lying[of_input])
        for name, operation in named.items()
        for of_grad, of_input in pairs
    }


def strides(operations, device):
    """Of the first output of each."""
    found = {}
    for name, (operation, grad, operand) in operations(device).items():
        result = operation(grad, operand)
        found[name] = list((result if hasattr(result, "stride") else result[0]).stride())
    return found


@pytest.fixture(scope="module")
def on_the_virtual_gpu():
    code = "import torch, json\n" + inspect.getsource(operations) + inspect.getsource(strides)
    code += "\nprint(json.dumps(strides(operations, 'cuda')))"
    return answer(code, one("A100-40GB"), needed(installed_torch()))


def test_strides_are_those_of_the_virtual_gpu(cuda, on_the_virtual_gpu):
    assert strides(operations, cuda) == on_the_virtual_gpu


def test_strides_of_a_few(cuda):
    """Without a CUDA build as well: the formats by hand, [2, 4, 6, 8] contiguous and channels last."""
    found = strides(operations, cuda)
    contiguous, last = [192, 48, 8, 1], [192, 1, 32, 4]
    assert found["layer_norm_backward: last, dense"] == contiguous
    assert found["batch_norm_backward: dense, last"] == last
    assert found["batch_norm_backward, evaluating: dense, last"] == contiguous
    assert found["hardswish_backward: dense, last"] == contiguous
    assert found["leaky_relu_backward: dense, last"] == last
    assert found["mse_loss_backward: last, last"] == contiguous
