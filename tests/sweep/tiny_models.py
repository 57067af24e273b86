"""Tiny models of transformers with random weights: one table of small numbers, and exceptions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import transformers as t
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tests.duals import WORDS

if TYPE_CHECKING:
    from pathlib import Path

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [chr(number) for number in range(33, 127)]
VOCABULARY = {word: i for i, word in enumerate(dict.fromkeys([*SPECIAL, *WORDS, *LETTERS]))}


def _each(types: tuple[str, ...], numbers: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {model_type: {**numbers} for model_type in types}


TEXT = {
    **dict.fromkeys(("hidden_size", "d_model", "dim", "n_embd", "emb_dim", "embedding_size"), 32),
    **dict.fromkeys(("intermediate_size", "d_ff", "hidden_dim", "ffn_dim", "encoder_ffn_dim"), 48),
    **dict.fromkeys(
        ("num_hidden_layers", "encoder_layers", "num_layers", "n_layer", "n_layers"), 2
    ),
    **dict.fromkeys(("decoder_layers", "num_decoder_layers"), 1),
    "num_layers": 2,
    **dict.fromkeys(("num_attention_heads", "encoder_attention_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "num_heads", "num_key_value_heads"), 4),
    **dict.fromkeys(("decoder_ffn_dim", "moe_intermediate_size", "shared_intermediate_size"), 48),
    **dict.fromkeys(("head_dim", "d_kv", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "global_head_dim", "index_head_dim"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_shared_experts", "n_shared_experts"), 2),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size", "mamba_num_heads"), 8),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "moe_layer_freq"), 1),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), len(VOCABULARY)),
    "hidden_size_per_layer_input": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
"""Numbers by the names of fields, of which a type has some."""
SIDE = 64
IMAGE = {
    **dict.fromkeys(("num_hidden_layers", "encoder_layers", "decoder_layers", "depth"), 2),
    **dict.fromkeys(("image_size", "pretrain_image_size", "input_size"), SIDE),
}
"""Of images, widths stay those of the type: many depend on each other."""
HYBRID = ["linear_attention", "full_attention"]
"""Two layers of a model of which the first ones are all of one kind."""
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
PART = {
    **{f"{name}_token_id": TEXT[f"{name}_token_id"] for name in ("pad", "bos", "eos")},
    **{name: TEXT[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "head_dim")},
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads"), 4),
    "num_hidden_layers": 2,
}
"""A part of a model, of which the whole has no numbers."""
DINO = {"model_type": "dinov2", "image_size": 32, "patch_size": 8, "hidden_size": 32}
DINO |= {"num_hidden_layers": 2, "num_attention_heads": 4, "use_mask_token": False}
STAGES = [f"stage{n}" for n in (1, 2, 3, 4)]
LCNET = {"model_type": "pp_lcnet_v4", "stem_channels": [3, 8, 16], "out_features": STAGES}
LCNET |= {
    "block_configs": [
        [[3, 16, 16, 1, True]],
        [[3, 16, 16, 2, False]],
        [[3, 16, 32, 2, True]],
        [[3, 32, 32, 2, False]],
    ]
}
LENGTHS = {"long": 7, "mid": 5, "short": 3}
INTRACLASS: dict[str, Any] = {"reduce_channel": [1, 1, 0], "return_channel": [1, 1, 0]}
for _word, _k in LENGTHS.items():
    for _name, _size in {
        "vertical_long_to_small_conv": [_k, 1],
        "horizontal_small_to_long_conv": [1, _k],
        "symmetric_conv_long": [_k, _k],
    }.items():
        INTRACLASS[f"{_name}_{_word}ratio"] = [_size, 1, [n // 2 for n in _size]]
REPVIT = {"model_type": "timm_wrapper", "architecture": "repvit_m1", "num_classes": 2}
REPVIT |= {"model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}}
FEATURES = {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}
EDGETAM = FEATURES | {"backbone_config": REPVIT}
SAM = {"image_size": 64, "num_hidden_layers": 2, "global_attn_indexes": [1]}
SAM3 = SAM | {"image_size": 56, "hidden_size": 64, "intermediate_size": 96, "window_size": 2}
ROWS: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "embed_dim", "out_hidden_size", "text_hidden_size"), 64),
    **dict.fromkeys(("num_heads", "num_attention_heads"), 4),
    **{"intermediate_size": 96, "depth": 2, "num_hidden_layers": 2},
}
"""Of a model that takes patches in a row."""
QUERIES = ("d_fine", "deimv2", "pp_doclayout_v3", "pp_doclayout_v4")
QUERIES += ("rf_detr", "rt_detr", "rt_detr_v2")
SAM3_VISION = FEATURES | {"backbone_config": SAM3 | {"model_type": "sam3_vit_model"}}
EXCEPTIONS: dict[str, dict[str, Any]] = {
    **_each(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), {"layer_types": HYBRID}),
    **_each(("gemma4_text", "gemma4_unified_text"), {"global_head_dim": 8}),
    **_each(("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral"), {"head_dim": 8}),
    "depth_pro": {
        **dict.fromkeys(("image_model_config", "patch_model_config", "fov_model_config"), DINO),
        "patch_size": 32,
        "fusion_hidden_size": 16,
        "intermediate_hook_ids": [1, 0],
        "intermediate_feature_dims": [16, 16],
        "scaled_images_feature_dims": [16, 16, 16],
    },
    "cvt": {"depth": [1, 2, 3]},  # of which each stage wants more than the stages before it
    **_each(("minicpm_ocr_vision", "minicpmv4_7_vision"), {"patch_size": 14}),
    **_each(QUERIES, {"num_queries": 8}),
    **_each(("swin", "donut-swin"), {"image_size": 224}),  # for windows of 7 patches
    "edgetam": {"vision_config": EDGETAM},
    "edgetam_video": {"vision_config": EDGETAM | {"model_type": "edgetam_vision_model"}},
    "edgetam_vision_model": EDGETAM,
    "hiera": {"image_size": [SIDE, SIDE]},
    **dict.fromkeys(("sam_vision_model", "sam_hq_vision_model"), SAM),
    **_each(("sam", "sam_hq"), {"vision_config": SAM}),
    "sam3_vit_model": SAM3,
    "sam3_vision_model": SAM3_VISION,
    "sam3_tracker": {"vision_config": SAM3_VISION},
    "sam3_tracker_video": {
        "vision_config": SAM3_VISION | {"model_type": "sam3_vision_model"},
        "image_size": 56,
    },
    "lw_detr": {"projector_scale_factors": [1.0], "num_queries": 8},
    "pp_ocrv6_small_det": {
        "backbone_config": LCNET,
        "layer_list_out_channels": [16, 16, 32, 32],
        "neck_out_channels": 16,
    },
    "pp_ocrv6_medium_det": {
        "backbone_config": LCNET,
        "neck_out_channels": 16,
        "intraclass_block_config": INTRACLASS,
        "scale_factor_list": [1, 2, 4, 8],
        "kernel_list": [3, 2, 2],
    },
    "swin2sr": {"embed_dim": 24, "depths": [1, 1], "num_heads": [2, 2]},  # of pixels
    "timm_backbone": {"backbone": "test_resnet"},
    "timm_wrapper": {
        "architecture": "test_vit",
        "pretrained_cfg": {"input_size": [3, 64, 64], "crop_pct": 0.9, "interpolation": "bicubic"},
        "model_args": {"img_size": 64},
    },
    "albert": {"num_hidden_groups": 1},
    "bailing_hybrid": {"layer_types": HYBRID, "mlp_layer_types": ["dense", "sparse"]},
    "bamba": {
        "attn_layer_indices": [1],
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_n_groups": 1,
    },
    "big_bird": {"attention_type": "original_full"},
    "bigbird_pegasus": {"attention_type": "original_full"},
    "blt": {
        **dict.fromkeys(("patcher_config", "global_config"), PART),
        **dict.fromkeys(("encoder_config", "decoder_config"), PART | {"hidden_size_global": 32}),
        "encoder_hash_byte_group_vocab": 100,
        "use_cache": False,  # for which it lacks a number of layers
    },
    "codegen": {"rotary_dim": 8},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE}},
    "dbrx": {
        "attn_config": {"rope_theta": 10000.0, "kv_n_heads": 4, "clip_qkv": 8},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 48},
    },
    "deepseek_v2": {
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "greedy",
        "num_experts_per_tok": 2,
    },
    "dory": {"use_cache": False},  # with one, its own features are others by a hundredth
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 2, "num_experts_per_tok": 2},
    "dots3_note_text": {
        **{f"swa_{name}": 4 for name in ("num_attention_heads", "num_key_value_heads")},
        **{f"swa_{name}": 8 for name in ("q_lora_rank", "kv_lora_rank", "v_head_dim")},
        **{"swa_qk_nope_head_dim": 8, "swa_head_dim": 16, "head_dim": 16},
        "index_n_heads": 4,
        "index_topk": 4,
        "index_head_dim": 16,
        "num_hidden_layers": 3,
    },
    "emu3": {
        "text_config": PART,
        "vq_config": {"base_channels": 32, "hidden_size": 32, "codebook_size": 8},
        "vocabulary_map": {"<image>": 5, "<|extra_200|>": 6},
    },
    "esm": {"vocab_size": len(VOCABULARY), "position_embedding_type": "rotary", "mask_token_id": 4},
    "falcon": {"num_kv_heads": 4},
    "flaubert": {"n_layers": 2},
    "funnel": {
        "architectures": ["FunnelModel"],
        "num_hidden_layers": ...,
        "block_sizes": [1, 1],
        "block_repeats": [1, 1],
        "d_head": 8,
        "d_inner": 48,
        "n_head": 4,
    },
    "fuyu": {"text_config": PART},
    "gemma3n_text": {
        "intermediate_size": [48] * 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.0] * 4,
        "laurel_rank": 8,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": {
        "layer_types": HYBRID,
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_n_groups": 1,
    },
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": HYBRID, "linear_num_heads": 4, "linear_head_dim": 8},
    "led": {"max_encoder_position_embeddings": 64, "attention_window": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "longformer": {"attention_window": 8, "max_position_embeddings": 66},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "mimo_v2_flash": {"head_dim": 24, "num_key_value_heads": 2},  # 8 of 24 turn
    "mobilebert": {"intra_bottleneck_size": 16, "true_hidden_size": 16},
    "mpt": {"max_seq_len": 64},
    "nemotron": {"num_key_value_heads": 4},
    "neomme": {"head_dim": 16, "embedding_rank": 16},
    "opt": {"word_embed_proj_dim": 32},
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", "indexed_attention"],
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": 32},
    "reformer": {
        "axial_pos_embds": False,
        "attn_layers": ["local", "lsh"],
        "num_hidden_layers": ...,
    },
    "t5gemma": {"encoder": PART, "decoder": PART},
    "t5gemma2": {"encoder": {"text_config": PART, "vision_config": PART}, "decoder": PART},
    "xlm": {"emb_dim": 32},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},  # widths are multiples of 64
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 0},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}
"""What a type needs besides; ``...`` stands for its own number."""


PEERS: dict[str, dict[str, Any]] = {
    "vit_mae": {"mask_ratio": 0.0},  # which ours sets, too, so that it sees all patches
}
"""What is changed in a config of the library's own model after it was saved."""
SIDE_OF_14 = {"height": 56, "width": 56}  # for patches of 14 pixels
PROCESSORS: dict[str, dict[str, Any]] = {
    "depth_pro": {"size": {"height": 128, "width": 128}},  # four times a patch of its own
    **_each(("swin", "donut-swin"), {"size": {"height": 224, "width": 224}}),
    "lw_detr": {"size": {"height": SIDE, "width": SIDE}},  # for its windows
    **_each(("rf_detr", "sam3_vit_model", "sam3_vision_model"), {"size": SIDE_OF_14}),
    **_each(("sam3_tracker", "sam3_tracker_video"), {"size": SIDE_OF_14}),
    "imagegpt": {
        "clusters": [[n / 8 - 1] * 3 for n in range(16)],
        "size": {"height": 8, "width": 8},
    },
}
"""What an image processor needs."""


def config_of(model_type: str, numbers: dict[str, Any]) -> Any:
    """Return a small config of a type.

    Lists of depths become ones; without numbers all is the type's own.
    """
    kind = t.CONFIG_MAPPING[model_type]
    plain = kind()
    if not numbers:
        return plain
    fields = {name: value for name, value in numbers.items() if _is_number(plain, name)}
    for name, value in vars(plain).items():
        if name in ("depths", "depth", "num_blocks") and isinstance(value, list | tuple):
            fields[name] = [1] * len(value)
    if plain.attribute_map.get("num_hidden_layers") == "num_stages":
        fields.pop("num_hidden_layers", None)
    if model_type.endswith("_vision") and model_type not in EXCEPTIONS:
        fields |= {name: value for name, value in ROWS.items() if _is_number(plain, name)}
    fields |= EXCEPTIONS.get(model_type, {})
    return kind(**{name: value for name, value in fields.items() if value is not ...})


def _is_number(config: Any, name: str) -> bool:
    if isinstance(getattr(type(config), name, None), property):
        return False  # of other fields
    try:
        value = getattr(config, name, "")
    except Exception:  # layers have numbers of their own
        return True
    return name.endswith("token_id") or (isinstance(value, int) and not isinstance(value, bool))


def save(config: Any, folder: Path, auto: Any = t.AutoModel) -> Any:
    """Save a model with random weights that are large enough to show a mistake; return it."""
    torch.manual_seed(0)
    model = auto.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and parameter.requires_grad and "conv" not in name:
                parameter.normal_(std=min(0.3, 2 * parameter.shape[-1] ** -0.5))
    model.save_pretrained(folder)
    return model


def tokenizer() -> Any:
    """Return a tokenizer of words and letters that gives ids and a mask."""
    backend = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", VOCABULARY["[CLS]"]), ("[SEP]", VOCABULARY["[SEP]"])]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    return t.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        bos_token="[CLS]",
        eos_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
    )
