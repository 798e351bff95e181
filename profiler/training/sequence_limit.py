"""How long a sequence a model can read: the size of its learned table of positions, where it has one.

On a GPU a position beyond the table stops the kernel; a simulated one looks nothing up and would go on.
Rotary, relative and computed positions (Llama, T5) have no table and no such limit.
"""

from __future__ import annotations

import torch


def longest_sequence(model: torch.nn.Module) -> int | None:
    """The tokens that the smallest table of positions has room for; None without one.

    A table is an Embedding with such a name: `wpe`, `embed_positions`, `position_embeddings`. Some rows of it
    are never a token's: those up to the padding's, after which RoBERTa begins to count (transformers,
    create_position_ids_from_input_ids), and the `offset` of OPT's and BART's tables.
    """

    tables = [
        module.num_embeddings - getattr(module, "offset", 0) - _up_to_padding(module)
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding) and _is_position(path.rpartition(".")[2])
    ]
    return min(tables, default=None)


def _up_to_padding(table: torch.nn.Embedding) -> int:
    return 0 if table.padding_idx is None else table.padding_idx + 1


def _is_position(name: str) -> bool:
    return name == "wpe" or ("pos" in name and "rel" not in name)
