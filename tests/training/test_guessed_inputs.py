"""Tables of positions, by what their models' own code does with a sequence of that length."""

import pytest
import torch
import transformers
from torch import nn

from profiler.errors import ProfilerError
from profiler.training.guessed_inputs import longest_sequence
from profiler.training.models import examine
from profiler.workload import Workload

pytestmark = pytest.mark.quick

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
TABLES = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_positions=24, n_embd=32, n_layer=1, n_head=2)
    ),
    "bert": lambda: transformers.BertForMaskedLM(
        transformers.BertConfig(max_position_embeddings=24, **SMALL)
    ),
    "roberta": lambda: transformers.RobertaForMaskedLM(
        transformers.RobertaConfig(max_position_embeddings=26, **SMALL)
    ),
    "opt": lambda: transformers.OPTForCausalLM(
        transformers.OPTConfig(
            max_position_embeddings=24,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            ffn_dim=64,
            word_embed_proj_dim=32,
        )
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_longest_sequence_runs_on_the_cpu_and_one_token_more_does_not(name):
    """Each of these has room for 24 tokens; RoBERTa's first two rows are never a token's."""
    model = TABLES[name]().eval()
    assert longest_sequence(model) == 24
    with torch.no_grad():
        model(input_ids=torch.full((1, 24), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, 25), 5))


def test_models_without_a_table_have_no_limit():
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(max_position_embeddings=24, **SMALL))
    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(d_model=32, d_ff=64, d_kv=16, num_layers=1, num_heads=2)
    )
    assert longest_sequence(llama) is None
    assert longest_sequence(t5) is None
    assert longest_sequence(nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4))) is None


SCRIPT = """
from torch import nn
import torch
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(100, 8), nn.Embedding(16, 8)
        self.head = nn.Linear(8, 100)
    def forward(self, ids):
        return self.head(self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device)))
"""
OWN_BATCH = """
def make_batch(batch, length, device):
    return torch.zeros(batch, 4, dtype=torch.long, device=device)
"""


def test_a_length_beyond_the_table_is_one_clear_line(tmp_path):
    with pytest.raises(ProfilerError, match=r"^GPT2Config reads at most 1024 tokens, not --length 1025$"):
        examine(Workload("GPT2Config", 1, 1025, settings={"n_layer": 1}))
    _, parameters = examine(Workload("GPT2Config", 1, 1024, settings={"n_layer": 0}))
    assert parameters == 50257 * 768 + 1024 * 768 + 2 * 768  # both tables and the last norm

    guessed = f"{tmp_path / 'guessed.py'}:Net"
    (tmp_path / "guessed.py").write_text(SCRIPT)
    with pytest.raises(ProfilerError, match="reads at most 16 tokens, not --length 17"):
        examine(Workload(guessed, 1, 17))
    own = f"{tmp_path / 'own.py'}:Net"  # what a length is, is up to its make_batch
    (tmp_path / "own.py").write_text(SCRIPT + OWN_BATCH)
    examine(Workload(own, 1, 17))
