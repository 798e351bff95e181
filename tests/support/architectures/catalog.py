"""The architectures: name of the class -> settings, and how to make its batch."""

import torch
import transformers

from tests.support.architectures.inputs import (
    answered_question,
    byte_sequence,
    captioned_image,
    classified_sound,
    classified_spectrum,
    classified_text,
    filter_banks,
    image,
    image_in_text,
    large_image,
    long_text,
    pair,
    segmented_image,
    series,
    spectrum,
    text,
    trajectory,
    transcribed_sound,
    unlabelled_image,
    unmasked_text,
    waveform,
)
from tests.support.architectures.sizes import (
    BART,
    EXPERTS,
    GPT,
    GROUPED,
    HEADED_PYRAMID,
    HEADS_OF_8,
    LATENT_ATTENTION,
    LOCAL_EXPERTS,
    PATCHES,
    PYRAMID,
    SEQ2SEQ,
    SIZES,
    SPEECH,
    STATES,
    STEM,
    T5,
    TEXT,
    TWO_TOWERS,
    VOCABULARY,
    WINDOWS,
)

ARCHITECTURES = {
    # decoders
    "GPT2LMHeadModel": (GPT, text),
    "GPTNeoForCausalLM": (
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 64,
        },
        text,
    ),
    "GPTNeoXForCausalLM": (TEXT, text),
    "GPTJForCausalLM": ({**GPT, "rotary_dim": 4}, text),
    "GPTBigCodeForCausalLM": (GPT, text),
    "CodeGenForCausalLM": ({**GPT, "rotary_dim": 4}, text),
    "CTRLLMHeadModel": ({**GPT, "dff": 64}, text),
    "OpenAIGPTLMHeadModel": (GPT, text),
    "OPTForCausalLM": (
        {**TEXT, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
        text,
    ),
    "BloomForCausalLM": ({"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}, text),
    "MptForCausalLM": (
        {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
        text,
    ),
    "XGLMForCausalLM": (
        {"vocab_size": VOCABULARY, "d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4},
        text,
    ),
    "XLNetLMHeadModel": (
        {"vocab_size": VOCABULARY, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
        unmasked_text,
    ),
    "FalconForCausalLM": (TEXT, text),
    "LlamaForCausalLM": (GROUPED, text),
    "MistralForCausalLM": (GROUPED, text),
    "Qwen2ForCausalLM": (GROUPED, text),
    "Qwen3ForCausalLM": (HEADS_OF_8, text),
    "GemmaForCausalLM": (HEADS_OF_8, text),
    "Gemma2ForCausalLM": (HEADS_OF_8, text),
    "Gemma3ForCausalLM": (HEADS_OF_8, text),
    "PhiForCausalLM": (TEXT, text),
    "Phi3ForCausalLM": (GROUPED, text),
    "StableLmForCausalLM": ({**TEXT, "num_key_value_heads": 4}, text),
    "Starcoder2ForCausalLM": (GROUPED, text),
    "OlmoForCausalLM": (TEXT, text),
    "Olmo2ForCausalLM": (TEXT, text),
    "CohereForCausalLM": (GROUPED, text),
    "Cohere2ForCausalLM": (GROUPED, text),
    "GraniteForCausalLM": (TEXT, text),
    "GlmForCausalLM": (HEADS_OF_8, text),
    "Glm4ForCausalLM": (HEADS_OF_8, text),
    "NemotronForCausalLM": (GROUPED, text),
    "SmolLM3ForCausalLM": (GROUPED, text),
    "PersimmonForCausalLM": (TEXT, text),
    "BioGptForCausalLM": (TEXT, text),
    # mixtures of experts
    "MixtralForCausalLM": ({**GROUPED, **LOCAL_EXPERTS}, text),
    "Qwen2MoeForCausalLM": ({**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 32}, text),
    "Qwen3MoeForCausalLM": ({**HEADS_OF_8, **EXPERTS}, text),
    "PhimoeForCausalLM": ({**GROUPED, **LOCAL_EXPERTS}, text),
    "OlmoeForCausalLM": ({**TEXT, "num_experts_per_tok": 2, "num_experts": 4}, text),
    "GraniteMoeForCausalLM": ({**TEXT, **LOCAL_EXPERTS}, text),
    "GptOssForCausalLM": ({**HEADS_OF_8, **LOCAL_EXPERTS}, text),
    "DeepseekV2ForCausalLM": ({**TEXT, **LATENT_ATTENTION}, text),
    "DeepseekV3ForCausalLM": ({**TEXT, **LATENT_ATTENTION, "n_group": 2, "topk_group": 1}, text),
    "JetMoeForCausalLM": ({**GROUPED, **LOCAL_EXPERTS, "kv_channels": 8}, text),
    "SwitchTransformersForConditionalGeneration": (
        {**T5, "num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
        text,
    ),
    # states instead of attention
    "MambaForCausalLM": (STATES, unmasked_text),
    "FalconMambaForCausalLM": (STATES, unmasked_text),
    "Mamba2ForCausalLM": (
        {**STATES, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8},
        unmasked_text,
    ),
    "JambaForCausalLM": (
        {
            **GROUPED,
            "num_experts": 4,
            "use_mamba_kernels": False,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
        },
        text,
    ),
    "BambaForCausalLM": (
        {
            **GROUPED,
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_n_groups": 1,
            "mamba_d_state": 8,
            "mamba_chunk_size": 8,
            "attn_layer_indices": [1],
        },
        text,
    ),
    "RwkvForCausalLM": (
        {**TEXT, "attention_hidden_size": 32, "context_length": 32},
        unmasked_text,
    ),
    "RecurrentGemmaForCausalLM": (
        {**HEADS_OF_8, "lru_width": 32, "attention_window_size": 32, "use_cache": False},
        text,
    ),
    "Qwen3NextForCausalLM": (
        {
            **HEADS_OF_8,
            **EXPERTS,
            "shared_expert_intermediate_size": 32,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"],
        },
        text,
    ),
    # encoders
    "BertForMaskedLM": (TEXT, text),
    "RobertaForMaskedLM": (TEXT, text),
    "XLMRobertaForMaskedLM": (TEXT, text),
    "CamembertForMaskedLM": (TEXT, text),
    "ElectraForMaskedLM": ({**TEXT, "embedding_size": 32}, text),
    "AlbertForMaskedLM": ({**TEXT, "embedding_size": 16}, text),
    "DistilBertForMaskedLM": (
        {"vocab_size": VOCABULARY, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
        text,
    ),
    "DebertaForMaskedLM": ({**TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, text),
    "DebertaV2ForMaskedLM": (
        {**TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8},
        text,
    ),
    "MPNetForMaskedLM": (TEXT, text),
    "ModernBertForMaskedLM": (
        {**TEXT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        | {"cls_token_id": 1, "sep_token_id": 2},
        text,
    ),
    "LongformerForMaskedLM": ({**TEXT, "attention_window": 8}, text),
    "BigBirdForMaskedLM": ({**TEXT, "block_size": 4, "num_random_blocks": 1}, long_text),
    "FunnelForMaskedLM": (
        {"vocab_size": VOCABULARY, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64}
        | {"block_sizes": [1, 1]},
        text,
    ),
    "ConvBertForMaskedLM": ({**TEXT, "embedding_size": 32}, text),
    "SqueezeBertForMaskedLM": ({**TEXT, "embedding_size": 32}, text),
    "MobileBertForMaskedLM": (
        {**TEXT, "embedding_size": 32, "true_hidden_size": 32, "intra_bottleneck_size": 32},
        text,
    ),
    "RoFormerForMaskedLM": (TEXT, text),
    "RemBertForMaskedLM": ({**TEXT, "input_embedding_size": 16, "output_embedding_size": 16}, text),
    "EsmForMaskedLM": ({**TEXT, "pad_token_id": 1, "mask_token_id": 3}, text),
    "LayoutLMForMaskedLM": (TEXT, text),
    "FlaubertWithLMHeadModel": (
        {"vocab_size": VOCABULARY, "n_words": VOCABULARY, "emb_dim": 32, "n_layers": 2, "n_heads": 4},
        text,
    ),
    "CanineForSequenceClassification": (
        {**SIZES, "num_hash_buckets": 64, "max_position_embeddings": 128},
        classified_text,
    ),
    "PerceiverForSequenceClassification": (
        {"vocab_size": VOCABULARY, "d_model": 32, "d_latents": 32, "num_latents": 8}
        | {"num_self_attention_heads": 2, "num_cross_attention_heads": 2, "max_position_embeddings": 64}
        | {"num_self_attends_per_block": 1},
        byte_sequence,
    ),
    # from text to text
    "T5ForConditionalGeneration": (T5, text),
    "MT5ForConditionalGeneration": (T5, text),
    "UMT5ForConditionalGeneration": (T5, text),
    "LongT5ForConditionalGeneration": (T5, text),
    "BartForConditionalGeneration": (BART, text),
    "MBartForConditionalGeneration": (BART, text),
    "MarianMTModel": ({**BART, "pad_token_id": 127}, text),
    "PegasusForConditionalGeneration": (BART, text),
    "BlenderbotForConditionalGeneration": (BART, text),
    "M2M100ForConditionalGeneration": (BART, text),
    "LEDForConditionalGeneration": (
        {**SEQ2SEQ, "attention_window": 8, "max_encoder_position_embeddings": 64},
        text,
    ),
    "ProphetNetForConditionalGeneration": (
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "encoder_ffn_dim": 64,
            "num_encoder_layers": 2,
            "num_encoder_attention_heads": 4,
            "decoder_ffn_dim": 64,
            "num_decoder_layers": 2,
            "num_decoder_attention_heads": 4,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "decoder_start_token_id": 0,
        },
        text,
    ),
    # images
    "ViTForImageClassification": (PATCHES, image),
    "DeiTForImageClassification": (PATCHES, image),
    "BeitForImageClassification": (PATCHES, image),
    "Dinov2ForImageClassification": ({**PATCHES, "intermediate_size": None}, image),
    "Dinov2WithRegistersForImageClassification": ({**PATCHES, "intermediate_size": None}, image),
    "ViTMAEForPreTraining": (
        {**PATCHES, "decoder_num_attention_heads": 4, "decoder_hidden_size": 32}
        | {"decoder_num_hidden_layers": 2, "decoder_intermediate_size": 64},
        unlabelled_image,
    ),
    "YolosForObjectDetection": (
        {**PATCHES, "image_size": [32, 32], "num_detection_tokens": 8},
        unlabelled_image,
    ),
    "SwinForImageClassification": ({**WINDOWS, "window_size": 4}, image),
    "Swinv2ForImageClassification": ({**WINDOWS, "window_size": 4}, image),
    "FocalNetForImageClassification": (
        {**WINDOWS, "hidden_sizes": [16, 32], "focal_levels": [2, 2], "focal_windows": [3, 3]},
        image,
    ),
    "ConvNextForImageClassification": (PYRAMID, large_image),
    "ConvNextV2ForImageClassification": (PYRAMID, large_image),
    "PoolFormerForImageClassification": (PYRAMID, large_image),
    "ResNetForImageClassification": (STEM, large_image),
    "RegNetForImageClassification": ({**STEM, "groups_width": 8}, large_image),
    "BitForImageClassification": ({**STEM, "num_groups": 1}, large_image),
    "SegformerForImageClassification": ({**HEADED_PYRAMID, "decoder_hidden_size": 16}, large_image),
    "SegformerForSemanticSegmentation": ({**HEADED_PYRAMID, "decoder_hidden_size": 16}, segmented_image),
    "PvtForImageClassification": (
        {**HEADED_PYRAMID, "image_size": 64, "sequence_reduction_ratios": [8, 4, 2, 1]},
        large_image,
    ),
    "LevitForImageClassification": (
        {"image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 3, 4]}
        | {"depths": [1, 1, 1], "key_dim": [8, 8, 8]},
        large_image,
    ),
    "MobileNetV1ForImageClassification": ({"image_size": 64, "depth_multiplier": 0.25}, large_image),
    "MobileNetV2ForImageClassification": ({"image_size": 64, "depth_multiplier": 0.25}, large_image),
    "MobileViTForImageClassification": (
        {"image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 40]},
        large_image,
    ),
    "EfficientNetForImageClassification": (
        {"image_size": 64, "width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128},
        large_image,
    ),
    # images and text
    "CLIPModel": (TWO_TOWERS, pair),
    "SiglipModel": (TWO_TOWERS, pair),
    "BlipForConditionalGeneration": (
        {
            "text_config": {**TEXT, "encoder_hidden_size": 32, "max_position_embeddings": 64}
            | {"bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2, "pad_token_id": 0},
            "vision_config": PATCHES,
        },
        captioned_image,
    ),
    "GitForCausalLM": ({**TEXT, "vision_config": PATCHES, "max_position_embeddings": 64}, captioned_image),
    "LlavaForConditionalGeneration": (
        {
            "vision_config": {**PATCHES, "model_type": "clip_vision_model"},
            "text_config": {**GROUPED, "model_type": "llama"},
            "image_token_id": 100,
        },
        image_in_text,
    ),
    "ViltForQuestionAnswering": (
        {**TEXT, "image_size": 32, "patch_size": 8, "num_labels": 4, "max_position_embeddings": 64},
        answered_question,
    ),
    # sound
    "WhisperForConditionalGeneration": (
        {**SEQ2SEQ, "max_source_positions": 32, "max_target_positions": 64, "num_mel_bins": 16},
        spectrum,
    ),
    "Speech2TextForConditionalGeneration": (
        {**SEQ2SEQ, "max_source_positions": 64, "conv_channels": 32, "input_feat_per_channel": 16},
        filter_banks,
    ),
    "Wav2Vec2ForCTC": (SPEECH, transcribed_sound),
    "HubertForCTC": (SPEECH, transcribed_sound),
    "WavLMForCTC": (SPEECH, transcribed_sound),
    "Wav2Vec2ForSequenceClassification": (SPEECH, classified_sound),
    "SEWForSequenceClassification": (SPEECH, classified_sound),
    "ASTForAudioClassification": (
        {**SIZES, "patch_size": 8, "max_length": 64, "num_mel_bins": 16}
        | {"frequency_stride": 8, "time_stride": 8},
        classified_spectrum,
    ),
    "EncodecModel": (
        {"num_filters": 4, "hidden_size": 16, "codebook_dim": 16, "codebook_size": 64}
        | {"upsampling_ratios": [4, 2]},
        waveform,
    ),
    # series and decisions
    "PatchTSTForPrediction": (
        {"num_input_channels": 2, "context_length": 32, "patch_length": 8, "patch_stride": 8}
        | {"num_hidden_layers": 2, "d_model": 32, "num_attention_heads": 4, "ffn_dim": 64}
        | {"prediction_length": 8},
        series,
    ),
    "DecisionTransformerModel": (
        {"hidden_size": 32, "n_layer": 2, "n_head": 4, "state_dim": 4, "act_dim": 2, "max_ep_len": 64},
        trajectory,
    ),
}


def build(name):
    """The model, on the host."""
    model_class = getattr(transformers, name)
    settings = {key: value for key, value in ARCHITECTURES[name][0].items() if value is not None}
    return model_class(model_class.config_class(**settings)).train()


def batch(name, device):
    """One batch, on the device."""
    values = ARCHITECTURES[name][1]()
    return {key: v.to(device) if isinstance(v, torch.Tensor) else v for key, v in values.items()}
