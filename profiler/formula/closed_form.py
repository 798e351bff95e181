"""Activations in closed form, from the model's dimensions alone.

Independent of the count in `profiler.formula.facts`, which reads the autograd graph: the two are held
against each other. Sizes are bytes kept for the backward pass, the inputs of the model not included.
"""

from __future__ import annotations


def bert_activation_bytes(
    batch: int,
    length: int,
    hidden: int,
    heads: int,
    layers: int,
    vocabulary: int,
    element_bytes: int = 4,
    mask_bytes: int = 4,
) -> int:
    """BERT with its language-model head and eager attention: exact.

    On top of the layers of Korthikanti et al., what they leave out as small: the statistics of each layer
    norm (mean and reciprocal deviation, 4 bytes a row each); the embeddings' layer norm and dropout, and
    their position numbers; the head's four tensors of hidden size; the log-probabilities over the
    vocabulary in 4 bytes; the loss's weight; and in each layer the scale of the scores, an 8-byte number.
    """
    in_layers = layers * transformer_layer_activation_bytes(
        batch, length, hidden, heads, element_bytes, mask_bytes
    )
    layer_norms = 2 * layers * batch * length * 2 * 4
    outside = bert_outside_layers_bytes(batch, length, hidden, vocabulary, element_bytes, mask_bytes)
    return in_layers + layer_norms + 8 * layers + outside


def bert_outside_layers_bytes(
    batch: int, length: int, hidden: int, vocabulary: int, element_bytes: int, mask_bytes: int
) -> int:
    """The embeddings and the head, a layer norm each, and the loss's weight."""
    rows = batch * length
    embeddings = rows * hidden * (element_bytes + mask_bytes) + 8 * length
    head = rows * (4 * hidden * element_bytes + vocabulary * 4)
    return embeddings + head + 2 * rows * 2 * 4 + 4


def transformer_layer_activation_bytes(
    batch: int,
    length: int,
    hidden: int,
    heads: int,
    element_bytes: int = 2,
    mask_bytes: int = 1,
    fused_attention: bool = False,
) -> int:
    """One layer of a standard transformer: s·b·h·(16e + 2m) + a·s²·b·(2e + m).

    Korthikanti et al. 2022 ("Reducing Activation Recomputation in Large Transformer Models"), section 4.1,
    with the element size e and the dropout mask's m kept apart; e = 2, m = 1 gives their
    s·b·h·(34 + 5·a·s/h). The second summand is the score matrix, which a fused attention never keeps: in
    its place it keeps one statistic a row, 4 bytes (Dao et al. 2022).
    """
    linear = length * batch * hidden * (16 * element_bytes + 2 * mask_bytes)
    if fused_attention:
        return linear + length * batch * heads * 4
    return linear + heads * length * length * batch * (2 * element_bytes + mask_bytes)
