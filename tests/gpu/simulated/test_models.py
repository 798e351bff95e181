"""Bytes that real models keep between forward and backward, counted by hand."""

import warnings

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

warnings.filterwarnings("ignore", message=".*loss_type.*")
BATCH, LENGTH, WIDTH, LAYERS, HEADS, VOCABULARY = 2, 64, 128, 3, 4, 1000
TOKENS = BATCH * LENGTH
HIDDEN = 4 * TOKENS * WIDTH  # one float32 [batch, length, width]
STATISTICS = 4 * 2 * TOKENS  # mean and 1/std of a layer norm
LOGSUMEXP = 4 * BATCH * HEADS * LENGTH


def kept_bytes(ledger, forward):
    """What is alive after `forward` beyond what was alive before. The first call settles workspaces."""
    forward()
    before = ledger.live_bytes
    result = forward()
    return ledger.live_bytes - before, result


def gpt2(dropout):
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=LENGTH,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        resid_pdrop=dropout,
        use_cache=False,
    )
    return transformers.GPT2LMHeadModel(config).train()


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_gpt2_activations(dropout, cuda, ledger):
    model = gpt2(dropout).to(cuda)
    ids = torch.zeros(BATCH, LENGTH, dtype=torch.long, device=cuda)
    kept, loss = kept_bytes(ledger, lambda: model(input_ids=ids, labels=ids).loss)
    mask = HIDDEN // 4 if dropout else 0  # one byte per element
    seeds = 0 if dropout else 2 * 8  # two numbers, on the host where dropout draws them
    layer = (
        (HIDDEN + STATISTICS)  # norm 1
        + 3 * HIDDEN  # query, key, value
        + (HIDDEN + LOGSUMEXP + seeds)  # attention
        + (mask + HIDDEN)  # dropout mask, residual stream
        + (HIDDEN + STATISTICS)  # norm 2
        + 4 * HIDDEN  # widened
        + 4 * 4 * HIDDEN  # tanh, 1 + tanh, x / 2, and their product
        + (mask + HIDDEN)
    )
    expected = (
        (HIDDEN + mask + 8 * LENGTH)  # embeddings and their positions
        + LAYERS * layer
        + (HIDDEN + STATISTICS)  # last norm
        + 4 * TOKENS * VOCABULARY  # log probabilities
        + (8 * TOKENS + 4 + 4)  # shifted labels, loss and its weight
    )
    assert kept == expected
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_checkpointed_gpt2_keeps_one_hidden_state_per_layer(cuda, ledger):
    model = gpt2(0.0).to(cuda)
    ids = torch.zeros(BATCH, LENGTH, dtype=torch.long, device=cuda)
    for layer in model.transformer.h:
        layer.forward = checkpointed(layer.forward)
    kept, loss = kept_bytes(ledger, lambda: model(input_ids=ids, labels=ids).loss)
    head = (HIDDEN + STATISTICS) + 4 * TOKENS * VOCABULARY + (8 * TOKENS + 4 + 4)
    assert kept == (HIDDEN + 8 * LENGTH) + LAYERS * HIDDEN + head
    loss.backward()


def checkpointed(forward):
    def run(*args, **kwargs):
        return torch.utils.checkpoint.checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run


SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
MODELS = {
    "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=100, **SMALL)),
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=100, num_key_value_heads=2, **SMALL)
    ),
    "t5": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=100,
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
        )
    ),
    "vit": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(image_size=32, **SMALL)),
    "resnet": lambda: transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=10)),
}


@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MODELS)
def test_a_step_of_each_model_runs_and_returns_to_its_state(name, precision, cuda, ledger):
    """Two steps; the second ends with the blocks of the first: parameters, states, buffers, workspaces."""
    model = MODELS[name]().to(cuda).train()
    optimizer = torch.optim.AdamW(model.parameters())
    if name in ("vit", "resnet"):
        pixels = torch.zeros(2, 3, 32, 32, device=cuda)
        batch = {"pixel_values": pixels, "labels": torch.zeros(2, dtype=torch.long, device=cuda)}
    else:
        ids = torch.zeros(2, 16, dtype=torch.long, device=cuda)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    ends = []
    for _ in range(3):
        with torch.autocast("cuda", precision, enabled=precision is not None):
            loss = model(**batch).loss
        loss.backward()
        assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)
        optimizer.step()
        optimizer.zero_grad()
        del loss
        ends.append(ledger.live_bytes)
    parameters = sum(p.nbytes for p in model.parameters())
    assert ends[1] == ends[2]
    assert ends[1] >= 3 * parameters


def test_convolution_and_batch_norm_keep_what_cudnn_keeps(cuda, ledger):
    block = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()).to(cuda)
    pixels = torch.zeros(2, 3, 16, 16, device=cuda)
    kept, out = kept_bytes(ledger, lambda: block(pixels))
    plane = 4 * 2 * 8 * 16 * 16
    assert kept == plane + 2 * 4 * 8 + plane  # convolved, mean and 1/std per channel, rectified
    ledger.clear()
    out.backward(torch.ones_like(out))
    # ones; relu; batch norm: input, weight, bias; convolution: no input gradient, weight, bias
    assert [size for size in ledger.events if size > 0] == [plane, plane, plane, 32, 32, 8 * 27 * 4, 32]


def test_dropout_keeps_a_mask_of_bytes_allocated_before_the_result(cuda, ledger):
    x = torch.empty(256, 256, device=cuda, requires_grad=True)
    ledger.clear()
    F.dropout(x, 0.1)
    assert ledger.events[:2] == [256 * 256, 4 * 256 * 256]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_keep_statistics_in_float32(dtype, cuda, ledger):
    x = torch.empty(64, 256, device=cuda, dtype=dtype, requires_grad=True)
    weight = torch.ones(256, device=cuda, dtype=dtype, requires_grad=True)
    ledger.clear()
    out = F.rms_norm(x, (256,), weight)
    assert ledger.events == [x.nbytes, 4 * 64]
    normed = F.layer_norm(x, (256,), weight)
    assert ledger.events[2:] == [x.nbytes, 4 * 64, 4 * 64]
    assert out.dtype == normed.dtype == dtype


def test_embedding_backward_sorts_more_than_3072_indices(cuda, ledger):
    embedding = nn.Embedding(1000, 64).to(cuda)
    for tokens, sorts in ((3072, False), (3073, True)):
        ids = torch.zeros(tokens, dtype=torch.long, device=cuda)
        out = embedding(ids)
        ledger.clear()
        out.backward(torch.empty_like(out))
        assert any("sorted indices" in op for op in ledger.ops) == sorts


def test_each_thread_has_its_own_blas_workspace_for_ever(cuda, ledger):
    weight = torch.empty(64, 64, device=cuda, requires_grad=True)
    for _ in range(2):
        (weight @ weight).sum().backward()
    weight.grad = None
    torch.cuda.empty_cache()
    assert list(ledger.live.values()).count(8_519_680) == 2


def test_recurrent_layers_warn_that_cudnn_is_not_modelled(cuda, ledger):
    layer = nn.LSTM(16, 32, batch_first=True).to(cuda)
    x = torch.zeros(4, 10, 16, device=cuda)
    ledger.clear()
    with pytest.warns(UserWarning, match="cuDNN's recurrent kernels are not modelled"):
        layer(x)[0].sum().backward()
    assert ledger.ops.count("aten::_thnn_fused_lstm_cell") == 3 * 10  # hidden, cell, gates, per time step
