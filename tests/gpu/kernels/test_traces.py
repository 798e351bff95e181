"""Hidden allocations predicted, against those in recorded CUDA memory traces and published peaks."""

import csv
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from profiler.gpu.cards import GPU, GPUS
from profiler.gpu.kernels import (
    cublas_workspace,
    cumsum,
    embedding_dense_backward,
    group_norm_backward,
    group_norm_forward,
    index_put_accumulate,
    layer_norm_backward,
    nonzero,
    reduction,
    topk,
)
from profiler.gpu.snapshot import load_snapshot
from tests.support.groundtruth import (
    PEAKS_OF_OPERATIONS,
    load,
    needs_published_peaks,
    needs_snapshots,
    snapshot_path,
    snapshot_paths,
)
from tests.support.scratch import cublaslt_workspace, peak_bytes

pytestmark = [needs_snapshots, needs_published_peaks]

HOPPER = GPUS["H100-80GB"]
RTX_PRO = GPUS["RTX-PRO-6000-96GB"]
A100 = GPUS["A100-80GB"]
LINYUN = "LINYUNLinYun+CS336-assignment2-systems/cs336_systems__results__memory_profiles__"
WEDSON = "Wedsonlin+assignment2-systems/results__medium_"
KAITLYN = "kkaitlyn111+cs336-a2-systems/memory_"


@cache
def recorded(beginning: str) -> tuple[tuple[int, str, bool], ...]:
    """(requested bytes, innermost function of ATen, hidden) of each allocation in a trace.

    Hidden: asked of the allocator by a kernel, and not for the storage of a tensor.
    """
    return tuple(allocations(snapshot_path(beginning)))


def allocations(path: Path) -> Iterator[tuple[int, str, bool]]:
    for device in load_snapshot(path).devices:
        for event in device.events:
            if event.action == "alloc":
                names = [frame.name for frame in event.frames if "(" in frame.name]
                of_tensor = any(
                    mark in name
                    for name in names
                    for mark in ("empty_cuda", "empty_strided", "resize_bytes_cuda")
                )
                in_aten = [name for name in names if _is_aten(name)]
                yield event.size_bytes, in_aten[0] if in_aten else "", bool(in_aten) and not of_tensor


def _is_aten(name: str) -> bool:
    return "at::" in name and not any(
        mark in name for mark in ("at::detail::", "at::TensorBase", "create_out", "CUDACachingAllocator")
    )


def sizes(found: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(scratch.size_bytes for scratch in found)


def reductions(name: str) -> Counter[tuple[int, ...]]:
    """(output bytes, buffer bytes, semaphore bytes) of every reduction that took scratch."""
    allocations = recorded(name)
    found: Counter[tuple[int, ...]] = Counter()
    for position, (size_bytes, function, hidden) in enumerate(allocations):
        if (
            hidden
            and "gpu_reduce_kernel" in function
            and "gpu_reduce_kernel" not in allocations[position - 1][1]
        ):
            assert "gpu_reduce_kernel" in allocations[position + 1][1]
            found[allocations[position - 1][0], size_bytes, allocations[position + 1][0]] += 1
    return found


@pytest.mark.parametrize(
    ("name", "gpu", "width", "tokens", "norms"),
    [
        (LINYUN + "xl_ctx128_full_step_none.c5", RTX_PRO, 2560, 4 * 128, 65),
        (LINYUN + "xl_ctx128_full_step_bf16.f6", RTX_PRO, 2560, 4 * 128, 65),
        (LINYUN + "xl_ctx512_full_step_none.f2", RTX_PRO, 2560, 4 * 512, 65),
        (LINYUN + "xl_ctx512_full_step_bf16.4e", RTX_PRO, 2560, 4 * 512, 65),
        (WEDSON + "128_training", A100, 1024, 4 * 128, 49),
        (WEDSON + "256_training", A100, 1024, 4 * 256, 49),
        (WEDSON + "512_training", A100, 1024, 4 * 512, 49),
        (WEDSON + "1024_training", A100, 1024, 4 * 1024, 49),
    ],
)
def test_norm_weight_gradients(name: str, gpu: GPU, width: int, tokens: int, norms: int) -> None:
    """Weight gradients of 2 * layers + 1 RMSNorms: sums over batch and position, torch 2.11.

    The card of the second group is not stated; its sizes do not depend on the multiprocessors.
    """
    scratch = sizes(reduction((4, tokens // 4, width), (0, 1), 4, gpu, torch_version=(2, 11)))
    assert reductions(name) == (Counter({(4 * width, *scratch): norms}) if scratch else Counter())


@pytest.mark.parametrize("context", [128, 256, 512, 1024])
def test_row_reductions_of_a_transformer_have_no_scratch(context: int) -> None:
    """The other reductions in these traces: mean squares of the norms, softmax maxima and sums and
    their gradients, over contiguous rows. The traces above show no scratch for them.
    """
    for gpu, heads, width in ((RTX_PRO, 32, 2560), (A100, 16, 1024)):
        scores = (4, heads, context, context)
        assert reduction((4, context, width), (-1,), 4, gpu, kind="mean") == ()
        assert reduction((4, context, width), (2,), 4, gpu) == ()
        assert reduction(scores, (-1,), 4, gpu, kind="max") == ()
        assert reduction(scores, (3,), 4, gpu) == ()
        assert reduction((4 * context,), None, 4, gpu, kind="mean") == ()


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("ctx128_fullstep.b1", 128),
        ("files__memory_ctx128_fullstep.86", 128),
        ("files__memory_ctx128_fullstep_.33", 128),
        ("files__memory_ctx256_fullstep_", 256),
        ("files__memory_ctx512_fullstep_", 512),
    ],
)
def test_reductions_of_transposed_activations(name: str, context: int) -> None:
    """torch 2.6, Hopper. These activations come from einsum with the tokens fastest: a row sum then
    is a strided reduction with scratch, and a sum over tokens is contiguous and has none.
    """
    tokens, width, vocabulary = 4 * context, 2560, 10000

    def scratch(features: int, dims: tuple[int, ...], kind: str = "sum") -> tuple[int, ...]:
        shape, strides = (4, context, features), (context, 1, tokens)
        return sizes(
            reduction(
                shape,
                dims,
                4,
                HOPPER,
                kind=kind,
                output_element_bytes=4,
                strides=strides,
                torch_version=(2, 6),
            )
        )

    assert scratch(width, (0, 1)) == ()
    assert reductions(KAITLYN + name) == Counter(
        {
            (4 * tokens, *scratch(width, (2,))): 65,
            (4 * tokens, *scratch(vocabulary, (2,))): 1,
            (8 * tokens, *scratch(vocabulary, (2,), "max")): 1,
        }
    )


@pytest.mark.parametrize(
    ("name", "tokens", "gpu", "copied_values_bytes"),
    [
        (LINYUN + "xl_ctx128_full_step_none.c5", 512, RTX_PRO, (0,)),
        (LINYUN + "xl_ctx128_full_step_bf16.f6", 512, RTX_PRO, (0,)),
        (LINYUN + "xl_ctx512_full_step_none.f2", 2048, RTX_PRO, (0,)),
        (LINYUN + "xl_ctx512_full_step_bf16.4e", 2048, RTX_PRO, (0,)),
        (WEDSON + "128_training", 512, A100, (0,)),
        (WEDSON + "256_training", 1024, A100, (0,)),
        (WEDSON + "512_training", 2048, A100, (0,)),
        (WEDSON + "1024_training", 4096, A100, (0,)),
        (KAITLYN + "ctx128_fullstep.b1", 512, HOPPER, (0, 512 * 2560 * 4)),
        (KAITLYN + "files__memory_ctx128_fullstep.86", 512, HOPPER, (0, 512 * 2560 * 4)),
        (KAITLYN + "files__memory_ctx128_fullstep_.33", 512, HOPPER, (0, 512 * 2560 * 4)),
        (KAITLYN + "files__memory_ctx256_fullstep_", 1024, HOPPER, (0, 1024 * 2560 * 4)),
        (KAITLYN + "files__memory_ctx512_fullstep_", 2048, HOPPER, (0, 2048 * 2560 * 4)),
    ],
)
def test_index_backward(name: str, tokens: int, gpu: GPU, copied_values_bytes: tuple[int, ...]) -> None:
    """Backward of an embedding by indexing, 10,000 rows: every allocation of each call, in order.

    The last group also indexes the logits of the targets, and its gradient of the embedding lies
    transposed, so it is copied. 4,096 indices need two tiles of capability 8.0 for their sort.
    """
    allocations = recorded(name)
    ends = [
        position + 1
        for position, (_, function, hidden) in enumerate(allocations)
        if hidden and "radix_sort_pairs_impl" in function
    ]
    assert len(ends) == len(copied_values_bytes)
    for end, value_copy_bytes in zip(ends, copied_values_bytes, strict=True):
        predicted = sizes(index_put_accumulate(tokens, 9999, gpu, value_copy_bytes=value_copy_bytes))
        assert tuple(size for size, _, _ in allocations[end - len(predicted) : end]) == predicted


def test_two_tiles_of_a_radix_sort() -> None:
    """255 + 2 passes * 256 digits * 8 + 2 tiles * 256 * 4 + 2 * 4096 * 8 + counters in 256."""
    assert 255 + 4096 + 2048 + 2 * 32768 + 256 == 72191
    assert sizes(index_put_accumulate(4096, 9999, A100))[-1] == 72191


@pytest.mark.parametrize(
    ("name", "gpu", "torch_version", "workspaces"),
    [
        (KAITLYN + "files__memory_ctx128_forward_.a9", HOPPER, (2, 6), 1),
        (KAITLYN + "files__memory_ctx128_fullstep.86", HOPPER, (2, 6), 2),
        ("Da1sypetals+tomi/", A100, (2, 6), 2),
        ("HugePandaCoder+octree-nca-groupeq/my_snapshot.0072", A100, (2, 6), 1),
        ("Maphsge4+select_n/snapshot.5a", HOPPER, (2, 1), 1),
    ],
)
def test_cublas_workspaces(name: str, gpu: GPU, torch_version: tuple[int, int], workspaces: int) -> None:
    (workspace,) = cublas_workspace(gpu, torch_version)
    makers = ("getNewWorkspace", "getCurrentCUDABlasHandle")
    found = [
        size
        for size, function, hidden in recorded(name)
        if hidden and any(maker in function for maker in makers)
    ]
    assert found == [workspace.size_bytes] * workspaces


def test_blackwell_had_the_small_workspace_until_2_11() -> None:
    """The block in a trace of an RTX PRO 6000 was allocated before recording began."""
    (device,) = load(LINYUN + "xl_ctx512_full_step_none.f2").devices
    allocated = {event.address for event in device.events if event.action == "alloc"}
    active = [
        block.requested_bytes
        for segment in device.segments
        for block in segment.blocks
        if block.state == "active_allocated" and block.address not in allocated
    ]
    (workspace,) = cublas_workspace(RTX_PRO, (2, 11))
    assert workspace.size_bytes == 8519680
    # One for the forward thread, one for the backward thread.
    assert active.count(workspace.size_bytes) == 2


@pytest.mark.parametrize(
    ("name", "calls"),
    [("MercuryB1+SQAttn/", 168), ("Da1sypetals+tomi/", 17), ("Maphsge4+select_n/snapshot.5a", 292)],
)
def test_old_cublaslt_workspace(name: str, calls: int) -> None:
    found = [size for size, function, hidden in recorded(name) if hidden and "gemm_and_bias" in function]
    assert found == list(sizes(cublaslt_workspace((2, 6)))) * calls


def test_every_hidden_allocation_belongs_to_a_modelled_kernel() -> None:
    """All traces together. Only convolutions are recorded but not modelled (cuDNN decides)."""
    families = {
        "gpu_reduce_kernel": "reduction",
        "gemm_and_bias": "cublaslt_workspace",
        "getNewWorkspace": "cublas_workspace",
        "getCurrentCUDABlasHandle": "cublas_workspace",
        "nonzero_cuda_out_impl": "nonzero",
        "run_conv_plan": "convolution",
        "radix_sort_pairs_impl": "index_put_accumulate",
        "mbtopk::launch": "topk",
        "inclusive_scan": "cumsum",
    }
    found: Counter[str] = Counter()
    for path in snapshot_paths():
        for size_bytes, function, hidden in allocations(path):
            if hidden:
                family = next((family for mark, family in families.items() if mark in function), None)
                assert family, f"{path.name}: {size_bytes} bytes in {function}"
                found[family] += 1
    assert found == Counter(
        reduction=1224,
        cublaslt_workspace=477,
        cublas_workspace=21,
        nonzero=45,
        convolution=45,
        index_put_accumulate=18,
        topk=9,
        cumsum=3,
    )


SELECTION = "Constructor-Sun+code_location/"


def test_nonzero() -> None:
    """Masks of unknown lengths: below or above the 4,096 elements that one block can count."""
    found = [size for size, function, hidden in recorded(SELECTION) if hidden and "nonzero" in function]
    calls = Counter(tuple(found[start : start + 3]) for start in range(0, len(found), 3))
    expected = {sizes(nonzero(4096, A100, (2, 6))): 9, sizes(nonzero(4097, A100, (2, 6))): 6}
    assert calls == Counter(expected)


def test_cumsum() -> None:
    found = [
        size for size, function, hidden in recorded(SELECTION) if hidden and "inclusive_scan" in function
    ]
    assert found == list(sizes(cumsum((1024,), 0, 8, torch_version=(2, 6)))) * 3


def test_topk_over_several_blocks() -> None:
    """The row has 260,440 / 8 = 32,555 elements, the output of the nonzero before."""
    found = [size for size, function, hidden in recorded(SELECTION) if hidden and "topk" in function]
    assert found == list(sizes(topk(1, 32555, 5, 4, A100, torch_version=(2, 7))))


def published(kernel: str, mode: str = "full") -> list[dict[str, str]]:
    with PEAKS_OF_OPERATIONS.open(newline="") as file:
        return [
            row
            for row in csv.DictReader(file)
            if row["kernel_name"] == kernel
            and row["kernel_provider"] == "huggingface"
            and row["kernel_operation_mode"] == mode
        ]


@pytest.mark.parametrize("width", [768, 4096])
def test_published_embedding_backward(width: int) -> None:
    """Peaks of float32 embeddings of 16,384 tokens, on an A100, vocabulary doubled step by step.

    Beside the scratch, each row of the vocabulary costs two weights (the one compared with is there
    too), one kept gradient and one new one. The first step of width 768 is left out: it is 206 KiB
    short of this, probably the unsplit rest of a larger block, which a sum of requests cannot show.
    """
    rows = [row for row in published("embedding") if f'"D": {width},' in row["extra_benchmark_config_str"]]
    peaks = {int(row["x_value"]): int(row["bytes_exact"]) for row in rows}
    vocabularies = sorted(peaks)[1 if width == 768 else 0 :]
    assert len(vocabularies) == (7 if width == 768 else 8)

    def scratch_bytes(vocabulary: int) -> int:
        return peak_bytes(embedding_dense_backward(16384, vocabulary, width, 4, A100, torch_version=(2, 4)))

    for smaller, larger in pairwise(vocabularies):
        tensors_bytes = 4 * (larger - smaller) * width * 4
        scratch_difference = scratch_bytes(larger) - scratch_bytes(smaller)
        assert peaks[larger] - peaks[smaller] == tensors_bytes + scratch_difference


def round_512(size_bytes: int) -> int:
    return -(-size_bytes // 512) * 512


@pytest.mark.parametrize("mode", ["full", "forward", "backward"])
def test_published_group_norm(mode: str) -> None:
    """float32 [128, C, 512] on a B200, groups of 4 channels: five full tensors (input, its gradient,
    output, output's gradient, new input gradient), mean and rstd, eight parameter-sized vectors (two
    modules' weight and bias, kept and new gradients), and the scratch of the backward pass.
    """
    rows = published("group_norm", mode)
    assert len(rows) == 7
    for row in rows:
        channels = int(row["x_value"])
        tensors_bytes = 5 * 128 * channels * 512 * 4
        statistics_bytes = 2 * round_512(128 * channels // 4 * 4)
        parameters_bytes = 8 * round_512(channels * 4)
        scratch = group_norm_backward(128, channels, 512, channels // 4, 4)
        expected = tensors_bytes + statistics_bytes + parameters_bytes + peak_bytes(scratch)
        assert int(row["bytes_exact"]) == expected
        assert peak_bytes(group_norm_forward(128, channels, 512, 4)) < peak_bytes(scratch)


def test_published_cross_entropy() -> None:
    """float32 logits [16384, V] on an A100: logits, their gradient, log-softmax, its gradient and the
    new gradient; the targets; at most loss and total weight beside them, so no scratch.
    """
    rows = published("cross_entropy")
    assert len(rows) == 6
    for row in rows:
        logits_bytes = 16384 * int(row["x_value"]) * 4
        assert int(row["bytes_exact"]) - 5 * logits_bytes - 16384 * 8 in (0, 2 * 512)


def test_published_layer_norm() -> None:
    """float32 [4096, N] on A100 and H100: as for group norm, and no scratch at all."""
    rows = published("layer_norm")
    assert Counter(row["gpu_name"] for row in rows) == {
        "NVIDIA A100-SXM4-80GB": 5,
        "NVIDIA H100 80GB HBM3": 5,
    }
    for row in rows:
        gpu = A100 if "A100" in row["gpu_name"] else HOPPER
        width = int(row["x_value"])
        scratch = layer_norm_backward(4096, width, 4, gpu)
        expected = 5 * 4096 * width * 4 + 2 * 4096 * 4 + 8 * width * 4 + peak_bytes(scratch)
        assert int(row["bytes_exact"]) == expected
