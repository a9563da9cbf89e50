#!/usr/bin/env python3
"""Small models of every architecture, as Hugging Face folders, for `compare.py`.

Rows of 256 elements are whole blocks of every format. The weights are random and then trained for a few steps on a
text of a rule (the next token depends on the last two), since the logits of a random model lie so close together that
greedy texts depend on the last bits. The models are not kept.

    python models.py FOLDER [NAME...]
"""

import copy
import json
import pathlib
import sys

import numpy
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.utils import logging

VOCABULARY, CONTEXT, STEPS = 288, 256, 120

COMMON = {
    "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None, "hidden_act": "silu",
    "hidden_size": 256, "initializer_range": 0.02, "intermediate_size": 512, "max_position_embeddings": CONTEXT,
    "num_attention_heads": 8, "num_hidden_layers": 2, "num_key_value_heads": 4, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "torch_dtype": "float32", "use_cache": True, "vocab_size": VOCABULARY,
}
LLAMA = COMMON | {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "mlp_bias": False, "head_dim": 32,
    "model_type": "llama", "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None,
}
GEMMA = COMMON | {
    "architectures": ["GemmaForCausalLM"], "attention_bias": False, "head_dim": 64, "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh", "model_type": "gemma", "num_attention_heads": 4,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_scaling": None, "tie_word_embeddings": True,
}
STABLELM = COMMON | {
    "architectures": ["StableLmForCausalLM"], "hidden_dropout": 0.0, "layer_norm_eps": 1e-05, "model_type": "stablelm",
    "partial_rotary_factor": 0.25, "qk_layernorm": False, "rope_scaling": None, "use_parallel_residual": False,
    "use_qkv_bias": True,
}
NEOX = {
    "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "gelu",
    "hidden_size": 256, "initializer_range": 0.02, "intermediate_size": 512, "layer_norm_eps": 1e-05,
    "max_position_embeddings": CONTEXT, "model_type": "gpt_neox", "num_attention_heads": 8, "num_hidden_layers": 2,
    "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False, "torch_dtype": "float32",
    "use_cache": True, "use_parallel_residual": True, "vocab_size": VOCABULARY,
}
# Twelve of sixteen pairs of a head are rotated.
PHI3 = COMMON | {
    "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "embd_pdrop": 0.0, "model_type": "phi3",
    "original_max_position_embeddings": CONTEXT, "partial_rotary_factor": 0.75, "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05, "rope_scaling": None, "sliding_window": 262144,
}


# Mixtures: a token uses some of the experts, each as wide as a block of a K format.
MOE = COMMON | {
    "intermediate_size": 256, "num_experts_per_tok": 2, "output_router_logits": False,
    "rms_norm_eps": 1e-05, "rope_scaling": None, "router_aux_loss_coef": 0.001,
}


def longrope(original):
    factors = {"short_factor": [1.0 + 0.02 * i for i in range(12)], "long_factor": [1.0 + 0.4 * i for i in range(12)]}
    return {"rope_scaling": factors | {"type": "longrope"}, "original_max_position_embeddings": original}


CONFIGS = {
    "gpt2": {
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.0, "bos_token_id": 1,
        "embd_pdrop": 0.0, "eos_token_id": 2, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2", "n_embd": 256, "n_head": 8, "n_inner": 512, "n_layer": 2, "n_positions": CONTEXT,
        "resid_pdrop": 0.0, "torch_dtype": "float32", "vocab_size": VOCABULARY,
    },
    "gpt_neox": NEOX,
    "gpt_neox-sequential": NEOX | {"use_parallel_residual": False, "rotary_pct": 1.0},
    "llama": LLAMA,
    "llama-tied": LLAMA | {"tie_word_embeddings": True, "head_dim": 64, "num_key_value_heads": 2},
    "llama-biases": LLAMA | {"attention_bias": True, "mlp_bias": True},
    "llama-linear": LLAMA | {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama-yarn": LLAMA | {
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    },
    "llama-llama3": LLAMA | {
        "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 64,
            "rope_type": "llama3",
        },
    },
    "mistral": COMMON | {
        "architectures": ["MistralForCausalLM"], "head_dim": 32, "model_type": "mistral", "rms_norm_eps": 1e-05,
        "sliding_window": None,
    },
    "qwen2": COMMON | {
        "architectures": ["Qwen2ForCausalLM"], "max_window_layers": 2, "model_type": "qwen2", "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": True, "use_sliding_window": False,
    },
    "qwen3": COMMON | {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 64, "max_window_layers": 2,
        "model_type": "qwen3", "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000.0,
        "sliding_window": None, "use_sliding_window": False,
    },
    "smollm3": COMMON | {
        "architectures": ["SmolLM3ForCausalLM"], "attention_bias": False, "layer_types": ["full_attention"] * 5,
        "max_window_layers": 28, "mlp_bias": False, "model_type": "smollm3", "no_rope_layer_interval": 4,
        "no_rope_layers": [1, 1, 1, 0, 1], "num_hidden_layers": 5, "pretraining_tp": 2, "rms_norm_eps": 1e-06,
        "rope_scaling": None, "rope_theta": 5000000.0, "sliding_window": None, "tie_word_embeddings": True,
        "use_sliding_window": False,
    },
    "gemma": GEMMA,
    "gemma2": GEMMA | {
        "architectures": ["Gemma2ForCausalLM"], "attn_logit_softcapping": 20.0, "cache_implementation": "hybrid",
        "final_logit_softcapping": 15.0, "model_type": "gemma2", "num_hidden_layers": 4, "query_pre_attn_scalar": 64,
        "sliding_window": 24,
    },
    "gemma3": GEMMA | {
        "architectures": ["Gemma3ForCausalLM"], "attn_logit_softcapping": None, "cache_implementation": "hybrid",
        "final_logit_softcapping": None, "model_type": "gemma3_text", "num_hidden_layers": 7,
        "query_pre_attn_scalar": 64, "rope_local_base_freq": 10000.0,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "rope_theta": 1000000.0, "sliding_window": 24,
        "sliding_window_pattern": 6,
    },
    "phi3": PHI3,
    "phi3-window": PHI3 | {"sliding_window": 24},
    # llama.cpp takes the long factors where its context is longer than the original one, transformers where the text is.
    "phi3-longrope-short": PHI3 | longrope(CONTEXT),
    "phi3-longrope-long": PHI3 | longrope(CONTEXT // 2),
    "olmo2": COMMON | {
        "architectures": ["Olmo2ForCausalLM"], "attention_bias": False, "model_type": "olmo2", "rms_norm_eps": 1e-06,
        "rope_scaling": None, "rope_theta": 500000.0,
    },
    "granite": COMMON | {
        "architectures": ["GraniteForCausalLM"], "attention_bias": False, "attention_multiplier": 0.1,
        "embedding_multiplier": 12.0, "logits_scaling": 2.0, "mlp_bias": False, "model_type": "granite",
        "residual_multiplier": 0.3, "rms_norm_eps": 1e-05, "rope_scaling": None, "tie_word_embeddings": True,
    },
    "stablelm": STABLELM,
    "stablelm-parallel": STABLELM | {"partial_rotary_factor": 0.5, "use_parallel_residual": True, "use_qkv_bias": False},
    # With 8 experts llama.cpp's mixes give attention more bits. Its OLMoE has as many key heads as query heads.
    "mixtral": MOE | {
        "architectures": ["MixtralForCausalLM"], "head_dim": 32, "model_type": "mixtral",
        "num_local_experts": 8, "rope_theta": 1000000.0, "router_jitter_noise": 0.0, "sliding_window": None,
    },
    "qwen3_moe": MOE | {
        "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "decoder_sparse_step": 1, "head_dim": 64,
        "intermediate_size": 512, "max_window_layers": 2, "mlp_only_layers": [], "model_type": "qwen3_moe",
        "moe_intermediate_size": 256, "norm_topk_prob": True, "num_experts": 12, "num_experts_per_tok": 3,
        "rms_norm_eps": 1e-06, "sliding_window": None, "use_sliding_window": False,
    },
    "olmoe": MOE | {
        "architectures": ["OlmoeForCausalLM"], "attention_bias": False, "clip_qkv": None, "model_type": "olmoe",
        "norm_topk_prob": False, "num_experts": 16, "num_experts_per_tok": 4, "num_key_value_heads": 8,
    },
    "granitemoe": MOE | {
        "architectures": ["GraniteMoeForCausalLM"], "attention_bias": False, "attention_multiplier": 0.1,
        "embedding_multiplier": 12.0, "logits_scaling": 2.0, "model_type": "granitemoe", "num_local_experts": 5,
        "residual_multiplier": 0.3, "rms_norm_eps": 1e-06, "tie_word_embeddings": True,
    },
}


def text(random, rows, length):
    """Tokens [rows, length]: the next one depends on the last two, but for one of eight."""
    tokens = numpy.empty((rows, length), dtype=numpy.int64)
    tokens[:, :2] = random.integers(3, VOCABULARY, (rows, 2))
    for i in range(2, length):
        follows = 3 + (7 * tokens[:, i - 1] + 53 * (tokens[:, i - 2] % 4)) % (VOCABULARY - 3)
        free = random.integers(3, VOCABULARY, rows)
        tokens[:, i] = numpy.where(random.random(rows) < 0.875, follows, free)
    return torch.from_numpy(tokens)


def make(folder, name):
    published = CONFIGS[name]
    config = CONFIG_MAPPING[published["model_type"]].from_dict(copy.deepcopy(published))
    model = AutoModelForCausalLM.from_config(config)
    random = numpy.random.Generator(numpy.random.PCG64(list(CONFIGS).index(name)))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            values = random.standard_normal(tuple(parameter.shape))
            if parameter.dim() == 1:
                is_around_zero = key.endswith("bias") or config.model_type.startswith("gemma")
                values = 0.2 * values + (0.0 if is_around_zero else 1.0)
            else:
                values *= 0.06
            parameter.copy_(torch.from_numpy(values))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    for step in range(STEPS):
        tokens = text(random, 12, 96)
        loss = torch.nn.functional.cross_entropy(
            model(input_ids=tokens[:, :-1], use_cache=False).logits.flatten(0, 1), tokens[:, 1:].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = pathlib.Path(folder) / name
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "config.json").write_text(json.dumps(published, indent=2, sort_keys=True) + "\n")
    print(f"{name}: loss {loss.item():.3f} after {STEPS} steps", flush=True)


if __name__ == "__main__":
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.manual_seed(1)
    torch.set_num_threads(1)
    for asked in sys.argv[2:] or CONFIGS:
        make(sys.argv[1], asked)
