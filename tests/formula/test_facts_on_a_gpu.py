"""What CUDA's kernels keep for backward, against hand counts."""

from profiler.formula.facts import count, count_on_gpu
from profiler.gpu.cards import GPUS
from profiler.workload import Workload

A100 = GPUS["A100-40GB"]


def test_an_mlp_keeps_the_same_on_both_devices():
    # 32 × (256 + 256 + 10) × 4 and the loss's total weight.
    assert count_on_gpu(Workload("mlp-tiny", 32), A100).saved_bytes == 66_820


def test_dropout_keeps_one_byte_an_element_on_cuda_and_four_on_the_cpu():
    # BERT with eager attention: dropout after the embeddings, and in each of 2 layers twice on [2, 64, 64]
    # and once on the scores [2, 4, 64, 64]. The scores' scale, 8 bytes a layer, is a number on the host.
    workload = Workload("bert-tiny", 2, 64, attention="eager")
    elements = 5 * 2 * 64 * 64 + 2 * 2 * 4 * 64 * 64
    assert count(workload).saved_bytes - count_on_gpu(workload, A100).saved_bytes == 3 * elements + 2 * 8


def test_what_does_not_fit_can_still_be_counted():
    small = count_on_gpu(Workload("gpt2", 1, 1024), A100).saved_bytes
    large = count_on_gpu(Workload("gpt2", 64, 1024), A100).saved_bytes
    assert large > A100.memory_bytes > small
