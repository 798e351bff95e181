"""Activations against batch size and sequence length, with and without fused attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.workload import Workload

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

QUESTION = "How do activations grow with the batch and with the sequence, and what does fused attention save?"

_BATCHES = (1, 2, 4, 8, 16, 32)
_LENGTHS = (64, 128, 256, 512, 1024)


def workloads(size: str) -> list[Workload]:
    """Sweeps of the batch (BERT, ResNet) and of the sequence (Llama, eager and fused attention)."""
    batches = [
        Workload(model, batch, length, optimizer="sgd", attention="eager", steps=1)
        for model, length in (("bert-tiny", 64), ("resnet-tiny", 64))
        for batch in (_BATCHES if size == "full" else _BATCHES[:3])
    ]
    lengths = [
        Workload("llama-tiny", 1, length, optimizer="sgd", attention=attention, steps=1)
        for attention in ("eager", "sdpa")
        for length in (_LENGTHS if size == "full" else _LENGTHS[:3])
    ]
    return batches + lengths


def figures(records: pd.DataFrame) -> dict[str, Figure]:
    """One picture a sweep."""
    from profiler.formula.closed_form import bert_activation_bytes
    from profiler.views.figures.sweep import batch_sweep, length_sweep

    def bert(batch: int) -> int:
        return bert_activation_bytes(batch, 64, hidden=64, heads=4, layers=2, vocabulary=1000)

    forward = records[records["phase"] == "forward"]
    return {
        "batch": batch_sweep(
            forward[forward["model"].isin(["bert-tiny", "resnet-tiny"])], {"bert-tiny": bert}
        ),
        "sequence_length": length_sweep(forward[forward["model"] == "llama-tiny"]),
    }
