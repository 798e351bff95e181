"""Hidden allocations of kernels that few or no traces show, against numbers worked out by hand."""

import pytest

from profiler.gpu.cards import GPUS
from profiler.gpu.kernels import (
    Scratch,
    batch_norm_channels_last,
    cublas_workspace,
    cumsum,
    efficient_attention_backward,
    efficient_attention_forward,
    embedding_dense_backward,
    flash_attention_backward,
    flash_attention_forward,
    foreach_norm,
    group_norm_backward,
    group_norm_forward,
    index_put_accumulate,
    layer_norm_backward,
    masked_scatter,
    nonzero,
    sort,
    topk,
)
from profiler.gpu.kernels.cub import number_of_bits, radix_sort_bytes
from tests.support.scratch import cublaslt_workspace, peak_bytes

pytestmark = pytest.mark.quick

H100 = GPUS["H100-80GB"]
A100 = GPUS["A100-80GB"]
B200 = GPUS["B200-180GB"]
RTX_3090 = GPUS["RTX-3090"]


def by_name(found: tuple[Scratch, ...]) -> dict[str, int]:
    return {scratch.name: scratch.size_bytes for scratch in found}


def test_peak_frees_earlier_stages() -> None:
    found = (
        Scratch("a", 1000),
        Scratch("b", 5000, "stage", 0),
        Scratch("c", 3000, "stage", 1),
        Scratch("d", 100, "op", 1),
    )
    # 1024 + 5120 in the first stage, 1024 + 3072 + 512 in the second.
    assert peak_bytes(found) == 6144
    assert peak_bytes(found[:1] + found[2:]) == 4608
    assert peak_bytes(()) == 0


@pytest.mark.parametrize(
    ("config", "size_bytes"),
    [
        (None, 8519680),
        (":4096:2:16:8", 8519680),
        (":4096:8", 33554432),
        (":16:8", 131072),
        ("nonsense", 8519680),
    ],
)
def test_cublas_workspace_config(config: str | None, size_bytes: int) -> None:
    assert cublas_workspace(A100, workspace_config=config) == (
        Scratch("cuBLAS workspace", size_bytes, "process"),
    )


def test_cublas_workspace_by_card_and_version() -> None:
    assert cublas_workspace(A100, workspace_config=":0:0") == ()
    assert cublas_workspace(H100, (2, 6))[0].size_bytes == 33554432
    assert cublas_workspace(B200, (2, 11))[0].size_bytes == 8519680
    assert cublas_workspace(B200, (2, 12))[0].size_bytes == 33554432
    assert cublaslt_workspace((2, 13)) == ()
    assert cublaslt_workspace((2, 6)) == (Scratch("cuBLASLt workspace", 1048576),)


@pytest.mark.parametrize(("largest", "bits"), [(0, 1), (1, 1), (2, 2), (255, 8), (256, 9), (9999, 14)])
def test_number_of_bits(largest: int, bits: int) -> None:
    assert number_of_bits(largest) == bits


def test_radix_sort_storage() -> None:
    """One tile holds 256 * 9 pairs of 8 bytes. Above it, per tile of 384 * 10 (8.0), 384 * 12 (9.0),
    256 * 11 (7.0) pairs 256 counters of 4 bytes; one pass needs no second buffers.
    """
    assert radix_sort_bytes(2304, 8, 8, 16, A100) == 1
    two_buffers, bins, counters = 2 * 16384 * 8, 2 * 256 * 8, 256
    for gpu, tiles in ((A100, 5), (H100, 4), (GPUS["V100-16GB"], 6)):
        expected = 255 + two_buffers + bins + counters + tiles * 1024
        assert radix_sort_bytes(16384, 8, 8, 16, gpu) == expected
    assert radix_sort_bytes(16384, 8, 8, 8, A100) == 255 + 2048 + 5 * 1024 + 256
    assert radix_sort_bytes(0, 8, 8, 8, A100) == 0
    with pytest.raises(ValueError, match="2-byte keys"):
        radix_sort_bytes(16384, 2, 8, 16, A100)


def test_embedding_with_few_indices_has_no_scratch() -> None:
    assert embedding_dense_backward(3072, 50257, 768, 4, H100) == ()
    assert embedding_dense_backward(3073, 50257, 768, 4, H100) != ()
    assert embedding_dense_backward(3072, 50257, 768, 4, H100, scale_by_frequency=True) != ()


def test_embedding_gpt2() -> None:
    """8,192 tokens of a [50257, 768] float32 weight: 819 + 8,192 = 9,011 parts of 768 floats."""
    found = embedding_dense_backward(8192, 50257, 768, 4, H100)
    assert [scratch.name for scratch in found if scratch.before_outputs] == [
        "sorted indices",
        "original indices",
        "range",
        "radix sort storage",
    ]
    named = by_name(found)
    assert named["sorted indices"] == 65536
    assert named["part offsets"] == 9011 * 8
    assert named["gradient per part"] == 9011 * 768 * 4
    # 16 bits of vocabulary: two passes; two tiles of 4,608 pairs.
    assert named["radix sort storage"] == 255 + 4096 + 2048 + 2 * 65536 + 256
    assert found[-1].name == "gradient per part"


def test_embedding_of_a_small_vocabulary_uses_atomics() -> None:
    """16,384 tokens, 100 rows: 100 blocks < 4 * 132, and 1,738 parts > 4 * 100."""
    found = by_name(embedding_dense_backward(16384, 100, 768, 2, H100))
    assert found["part to segment"] == 1738 * 8
    assert found["gradient accumulator"] == 100 * 768 * 4
    assert "gradient per part" not in found
    assert "gradient accumulator" not in by_name(embedding_dense_backward(16384, 100, 768, 4, H100))
    for older in (
        embedding_dense_backward(16384, 100, 768, 2, H100, torch_version=(2, 10)),
        embedding_dense_backward(16384, 100, 768, 2, H100, deterministic=True),
    ):
        assert by_name(older)["gradient per part"] == 1738 * 768 * 4


def test_index_put_of_several_indices() -> None:
    found = index_put_accumulate(100, 9999, A100, index_tensors=2, index_bytes=4, checks_range=True)
    assert [scratch.name for scratch in found] == [
        "int64 indices",
        "int64 indices",
        "range minimum",
        "range maximum",
        "minimum is in range",
        "maximum is in range",
        "wrapped indices",
        "linear index",
        "range minimum",
        "range maximum",
        "minimum is in range",
        "maximum is in range",
        "wrapped indices",
        "linear index",
        "sorted indices",
        "original indices",
        "range",
        "radix sort storage",
    ]
    # Rounded to 1,024: two casts, one linear index, three arrays of the sort, and its storage (512).
    assert peak_bytes(found) == 6 * 1024 + 512


def test_empty_and_short_rows() -> None:
    assert sort(0, 10, 4, A100) == ()
    assert sort(64, 4096, 4, A100) == (Scratch("row of indices", 32768),)
    assert topk(64, 4096, 10, 4, A100) == ()
    assert cumsum((8, 1024), 1, 8) == ()
    assert cumsum((0,), 0, 8) == ()
    assert cumsum((1, 1024), 1, 8) != ()
    assert [scratch.size_bytes for scratch in nonzero(0, A100)] == [4, 1]


def test_sort_of_one_long_row() -> None:
    """10,000 floats, 4 passes of 8 bits, tiles of 384 * 8: 4."""
    storage_bytes = 255 + 4 * 256 * 8 + 4 * 1024 + 40192 + 80128 + 256
    assert sort(1, 10000, 4, A100) == (
        Scratch("indices", 80000),
        Scratch("radix sort storage", storage_bytes, "stage"),
    )


def test_sort_of_some_and_of_many_rows() -> None:
    some = by_name(sort(10, 10000, 4, H100))
    assert some["index and segment"] == some["sorted index and segment"] == 800000
    assert some["sorted keys"] == 400000
    many = by_name(sort(200, 10000, 2, A100))
    assert many == {"indices": 16000000, "segmented sort storage": 255 + 4000000 + 16000000}


def test_topk_sorts_long_results() -> None:
    found = by_name(topk(4, 50000, 5000, 2, A100))
    assert found["sorted positions"] == 4 * 5000 * 8
    assert found["sorted values"] == 4 * 5000 * 2
    # 200,000 elements over 648 resident blocks: below 4 per thread, so 4; 49 blocks per row.
    assert found["digit counts"] == 4 * 49 * 512
    assert found["desired digits"] == 2 * 4 * 4
    assert "sorted values" not in by_name(topk(4, 50000, 5000, 2, A100, is_sorted=False))


def test_layer_norm_of_many_rows() -> None:
    """100,000 rows of 256: 8 blocks wide, min(32768 / 8 = 4096, 3125) = 3,125 partial rows, each
    summed over its 3,125 rows: 4 outputs per thread, 3125 / 4 = 782 values, 2 blocks wide, on A100
    min(1728 / 2, 782 / 16 = 49) = 49 blocks of 256 * 128 floats.
    """
    assert layer_norm_backward(65536, 256, 4, A100) == ()
    assert layer_norm_backward(100_000, 32 * 54, 4, A100) == ()
    found = layer_norm_backward(100_000, 256, 4, A100)
    assert [(scratch.name, scratch.size_bytes) for scratch in found] == [
        ("partial weight gradients", 3125 * 256 * 4),
        ("partial bias gradients", 3125 * 256 * 4),
        ("summed weight gradient", 1024),
        ("partial results", 4 * 256 * 49 * 128),
        ("semaphores", 8),
        ("summed bias gradient", 1024),
        ("partial results", 4 * 256 * 49 * 128),
        ("semaphores", 8),
    ]
    rms = layer_norm_backward(100_000, 256, 4, A100, bias_grad=False)
    assert [scratch.name for scratch in rms][:2] == ["partial weight gradients", "summed weight gradient"]


def test_group_norm() -> None:
    """[8, 32, 100] bfloat16 in 4 groups: float32 vectors of 8 * 32 and of 8 * 4."""
    assert [scratch.size_bytes for scratch in group_norm_forward(8, 32, 100, 2)] == [1024, 1024]
    assert group_norm_forward(8, 32, 1, 2) == ()
    assert group_norm_forward(8, 32, 100, 2, affine=False) == ()
    full = [scratch.size_bytes for scratch in group_norm_backward(8, 32, 100, 4, 2)]
    assert full == [1024, 1024, 128, 128, 1024]
    assert len(group_norm_backward(8, 32, 1, 4, 2)) == 4
    assert len(group_norm_backward(8, 32, 100, 4, 2, input_grad=False)) == 2


def test_batch_norm_channels_last() -> None:
    """64 channels, 25,088 rows: 32 x 16 threads, 25088 / 256 = 98 blocks high, 2 wide."""
    assert batch_norm_channels_last(64, 25088) == (
        Scratch("partial results", 4 * 64 * 98 * 4, "stage"),
        Scratch("semaphores", 8, "stage"),
    )
    assert batch_norm_channels_last(64, 25088, backward=True)[0].size_bytes == 2 * 64 * 98 * 4
    assert batch_norm_channels_last(64, 1000) == ()


def test_flash_forward_splits_the_keys_of_a_small_batch() -> None:
    """12 heads * 16 blocks = 192 < 0.8 * 264; 4 blocks of keys. Waves 0.73, 1.45, 2.91 for 1, 2 and 4
    splits (3 would leave one empty): use 0.73, 0.73, 0.97, so 4.
    """

    def scratch(batch: int, dropout: float = 0.0) -> tuple[Scratch, ...]:
        return flash_attention_forward(
            batch=batch,
            heads=12,
            kv_heads=12,
            query_length=1024,
            key_length=1024,
            head_dim=64,
            gpu=H100,
            dropout=dropout,
        )

    assert scratch(1) == (
        Scratch("logsumexp of splits", 4 * 12 * 1024 * 4),
        Scratch("output of splits", 4 * 12 * 1024 * 64 * 4),
    )
    assert scratch(2) == ()
    assert scratch(1, dropout=0.1) == (Scratch("first random state", 16),)


@pytest.mark.parametrize(("head_dim", "rounded"), [(64, 64), (72, 96), (128, 128), (136, 192)])
def test_flash_backward_accumulator(head_dim: int, rounded: int) -> None:
    def scratch(kv_heads: int, *, deterministic: bool = False) -> dict[str, int]:
        return by_name(
            flash_attention_backward(
                batch=8,
                heads=12,
                kv_heads=kv_heads,
                query_length=500,
                key_length=500,
                head_dim=head_dim,
                element_bytes=2,
                gpu=H100,
                deterministic=deterministic,
            )
        )

    accumulator_bytes = 8 * 512 * 12 * rounded * 4
    assert scratch(12) == {
        "softmax gradient sums": 8 * 12 * 512 * 4,
        "query gradient accumulator": accumulator_bytes,
    }
    # 132 multiprocessors over 96 heads: 2 copies.
    assert scratch(12, deterministic=True)["query gradient accumulator"] == 2 * accumulator_bytes
    assert scratch(4)["expanded key gradient"] == 8 * 500 * 12 * head_dim * 2


def test_flash_backward_copies_what_is_not_contiguous() -> None:
    found = flash_attention_backward(
        batch=1,
        heads=2,
        kv_heads=2,
        query_length=128,
        key_length=128,
        head_dim=64,
        element_bytes=2,
        gpu=H100,
        grad_output_contiguous=False,
        output_contiguous=False,
    )
    copies = [scratch for scratch in found if scratch.before_outputs]
    assert [scratch.size_bytes for scratch in copies] == [32768, 32768]


def test_efficient_attention() -> None:
    """[1, 2, 128, K]: float32 keeps tiles of the query gradient (64 x 64 floats and 16 bytes) and
    computes delta by ops; bfloat16 with K = 256 (128 x 64 tiles on A100) also accumulates keys' and
    values' gradients of 2 blocks.
    """

    def scratch(dim: int, element_bytes: int) -> dict[str, int]:
        return by_name(
            efficient_attention_backward(
                batch=1,
                heads=2,
                query_length=128,
                key_length=128,
                head_dim=dim,
                value_dim=dim,
                element_bytes=element_bytes,
                gpu=A100,
            )
        )

    assert scratch(64, 4) == {
        "grad output * output": 65536,
        "sums of grad output * output": 1024,
        "delta": 1024,
        "workspace": 2 * 2 * (16 + 64 * 64 * 4),
    }
    assert scratch(64, 2) == {"delta": 1024, "workspace": 2 * 2 * (16 + 64 * 64 * 4)}
    gradients_bytes = 4 * (16 + 128 * 64 * 4) + 2 * 64 * (256 + 256) * 4
    assert scratch(256, 2) == {"delta": 1024, "workspace": 2 * gradients_bytes}
    sizes = {"batch": 1, "heads": 2, "query_length": 128, "value_dim": 256}
    assert efficient_attention_forward(**sizes, element_bytes=2)[0].size_bytes == 2 * 128 * 256 * 4
    assert efficient_attention_forward(**sizes, element_bytes=4) == ()
    assert efficient_attention_forward(**{**sizes, "value_dim": 128}, element_bytes=2) == ()


def test_efficient_attention_on_small_shared_memory_and_old_cards() -> None:
    arguments = {
        "batch": 1,
        "heads": 1,
        "query_length": 128,
        "key_length": 64,
        "head_dim": 128,
        "value_dim": 128,
        "element_bytes": 2,
    }
    # A100: one 128 x 128 tile in registers. RTX 3090: 2 x 2 tiles of 64 x 64, keys and values in memory.
    # T4: two of 128 x 64 in registers.
    large = by_name(efficient_attention_backward(**arguments, gpu=A100))
    small = by_name(efficient_attention_backward(**arguments, gpu=RTX_3090))
    old = by_name(efficient_attention_backward(**arguments, gpu=GPUS["T4-16GB"]))
    assert large["workspace"] == 16 + 128 * 128 * 4
    assert small["workspace"] == 4 * (16 + 64 * 64 * 4) + 64 * (128 + 128) * 4
    assert old["workspace"] == 2 * (16 + 128 * 64 * 4)
    # Larger heads in 16 bits: 4 tiles of 128 x 64, keys and values in memory, on small cards too.
    arguments |= {"query_length": 64, "head_dim": 256, "value_dim": 256}
    wide = by_name(efficient_attention_backward(**arguments, gpu=RTX_3090))
    assert wide["workspace"] == 524416 // 2  # torch 2.14 on a virtual RTX 3090, two heads
    with pytest.raises(ValueError, match="capability"):
        efficient_attention_backward(**arguments, gpu=GPUS["V100-16GB"])


def test_foreach_norm() -> None:
    """The largest tensor has 2 chunks of 65,536, so each of 3 tensors gets 2 floats."""
    assert foreach_norm([100_000, 10, 65536], 2) == (Scratch("partial norms", 24, "op", 0, True),)
    assert foreach_norm([], 4) == ()


def test_masked_scatter_sums_its_mask() -> None:
    """8 bytes an element; 2 tiles of the scan of 128 x 7 int64 each, and 256 bytes more from CUDA 13 on."""
    found = by_name(masked_scatter(1792, copies_mask=True, source_copy_bytes=400))
    assert found == {
        "mask prefix sum": 14336,
        "contiguous mask": 1792,
        "scan storage": 1279,
        "contiguous source": 400,
    }
    assert "contiguous mask" not in by_name(masked_scatter(1792, copies_mask=False))
    assert masked_scatter(0, copies_mask=True) == ()
