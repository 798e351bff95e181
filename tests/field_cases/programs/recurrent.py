"""Recurrent layers: cuDNN's own kernels for layers, PyTorch's for cells."""

import torch


def _backward(output):
    output.sum().backward()


def gru():
    _backward(torch.nn.GRU(64, 128, 1).cuda()(torch.randn(10, 4, 64, device="cuda"))[0])


def gru_bidirectional():
    layer = torch.nn.GRU(64, 128, 2, bidirectional=True, batch_first=True).cuda()
    _backward(layer(torch.randn(4, 10, 64, device="cuda"))[0])


def lstm_bidirectional():
    layer = torch.nn.LSTM(64, 128, 2, bidirectional=True, batch_first=True).cuda()
    _backward(layer(torch.randn(4, 10, 64, device="cuda"))[0])


def gru_cell():
    _backward(torch.nn.GRUCell(64, 128).cuda()(torch.randn(4, 64, device="cuda")))


def lstm_cell():
    _backward(torch.nn.LSTMCell(64, 128).cuda()(torch.randn(4, 64, device="cuda"))[0])
