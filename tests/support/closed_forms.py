"""Activations in closed form that only tests hold against the count of the autograd graph.

Sizes are bytes kept for the backward pass, the inputs of the model not included.
"""

from collections.abc import Sequence

from profiler.formula.closed_form import bert_outside_layers_bytes


def mlp_activation_bytes(batch: int, widths: Sequence[int], element_bytes: int = 4) -> int:
    """Linear layers with ReLU between them and a cross entropy: exact.

    Each hidden layer keeps one tensor [batch, width]: the ReLU's output, which is also the next layer's
    input. The loss keeps the log-probabilities [batch, classes] and its total weight, one scalar.
    """
    hidden = sum(widths[1:-1])
    return batch * (hidden + widths[-1]) * element_bytes + 4


def bert_checkpointed_activation_bytes(
    batch: int, length: int, hidden: int, layers: int, vocabulary: int, segments: int
) -> int:
    """The same model in fp32 with its layers in checkpointed segments: exact, random states left out.

    Each segment keeps its input, s·b·h·e (Chen et al. 2016, section 4.1): O(sqrt(layers)) with a segment
    every sqrt(layers) layers. The scales of the scores are numbers that no checkpoint drops.
    """
    inputs = segments * batch * length * hidden * 4
    return inputs + 8 * layers + bert_outside_layers_bytes(batch, length, hidden, vocabulary, 4, 4)
