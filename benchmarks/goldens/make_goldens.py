"""Writes the fixtures that the crate `train` is held to: whole models and small vectors, from PyTorch.

    python make_goldens.py            write crates/train/tests/goldens
    python make_goldens.py --check    compute again, compare with what is stored, write nothing

Everything is computed in float64 and stored rounded to float32 (JSON: as float64), so a stored number is the true
value and not another program's rounding. See README.md for the layout.
"""

import argparse
import copy
import json
import sys
import tempfile
from pathlib import Path

import numpy
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GPT2Config, LlamaConfig
from transformers.utils import logging

import exact
import vectors

DESTINATION = Path(__file__).resolve().parents[2] / "crates" / "train" / "tests" / "goldens"
SIZE_LIMIT = 2_400_000
STEPS = 10
LEARNING_RATE, BETAS, EPS, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.95), 1e-8, 0.1, 1.0
IGNORE = -100
WITHOUT_WINDOW = ("tiny-qwen2", "tiny-qwen3-moe", "tiny-mixtral")


def gpt2_config():
    return GPT2Config(
        vocab_size=97, n_positions=32, n_embd=32, n_layer=2, n_head=4, activation_function="gelu_new",
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, layer_norm_epsilon=1e-5, bos_token_id=96, eos_token_id=96,
    )


def llama_config():
    return LlamaConfig(
        vocab_size=101, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=32, rms_norm_eps=1e-5, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )


# The two configurations below are written out with the keys that published checkpoints carry (`rope_theta` and
# `rope_scaling` at the top level); the two above are saved by the library, which nests them in `rope_parameters`.
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 59, "eos_token_id": 60,
    "hidden_act": "silu", "hidden_size": 16, "initializer_range": 0.02, "intermediate_size": 40,
    "max_position_embeddings": 32, "max_window_layers": 1, "model_type": "qwen2", "num_attention_heads": 4,
    "num_hidden_layers": 1, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "sliding_window": 32, "tie_word_embeddings": True, "torch_dtype": "float32", "use_cache": True,
    "use_sliding_window": False, "vocab_size": 61,
}

# An original context of 64 puts one pair of each head into every branch of the scaling: with theta 500000 and
# head_dim 16 the wavelengths are 6.3 (kept), 32 (smoothed) and 167 or more (stretched).
LLAMA3 = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 59,
    "eos_token_id": [59, 60], "head_dim": 16, "hidden_act": "silu", "hidden_size": 32, "initializer_range": 0.02,
    "intermediate_size": 40, "max_position_embeddings": 128, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 2, "num_hidden_layers": 1, "num_key_value_heads": 1, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 64,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "float32", "use_cache": True,
    "vocab_size": 61,
}

# Sliding windows shorter than the text: in all layers, and in the second alone.
MISTRAL = {
    "architectures": ["MistralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 29, "eos_token_id": 30,
    "head_dim": 4, "hidden_act": "silu", "hidden_size": 16, "initializer_range": 0.02, "intermediate_size": 24,
    "max_position_embeddings": 64, "model_type": "mistral", "num_attention_heads": 4, "num_hidden_layers": 2,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 12,
    "tie_word_embeddings": False, "torch_dtype": "float32", "use_cache": True, "vocab_size": 31,
}
QWEN2_LOCAL = QWEN2 | {
    "bos_token_id": 29, "eos_token_id": 30, "intermediate_size": 24, "max_position_embeddings": 64,
    "max_window_layers": 1, "num_hidden_layers": 2, "sliding_window": 7, "use_sliding_window": True, "vocab_size": 31,
}

# What the families below have in common: two layers of four query heads on two key heads.
SMALL = {
    "attention_dropout": 0.0, "bos_token_id": 59, "eos_token_id": 60, "hidden_act": "silu", "hidden_size": 16,
    "initializer_range": 0.02, "intermediate_size": 24, "max_position_embeddings": 32, "num_attention_heads": 4,
    "num_hidden_layers": 2, "num_key_value_heads": 2, "pad_token_id": None, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "torch_dtype": "float32", "use_cache": True, "vocab_size": 61,
}
QWEN3 = SMALL | {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 6, "max_window_layers": 2,
    "model_type": "qwen3", "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000.0,
    "sliding_window": None, "tie_word_embeddings": True, "use_sliding_window": False,
}
OLMO2 = SMALL | {
    "architectures": ["Olmo2ForCausalLM"], "attention_bias": False, "model_type": "olmo2", "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 500000.0,
}
GRANITE = SMALL | {
    "architectures": ["GraniteForCausalLM"], "attention_bias": False, "attention_multiplier": 0.3,
    "embedding_multiplier": 12.0, "logits_scaling": 8.0, "mlp_bias": False, "model_type": "granite",
    "residual_multiplier": 0.22, "rms_norm_eps": 1e-05, "rope_scaling": None, "tie_word_embeddings": True,
}
SMOLLM3 = SMALL | {
    "architectures": ["SmolLM3ForCausalLM"], "attention_bias": False, "max_window_layers": 28, "mlp_bias": False,
    "layer_types": ["full_attention", "full_attention"], "model_type": "smollm3", "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 0], "pretraining_tp": 2, "rms_norm_eps": 1e-06, "rope_scaling": None,
    "rope_theta": 5000000.0, "sliding_window": None, "tie_word_embeddings": True, "use_sliding_window": False,
}
STABLELM = SMALL | {
    "architectures": ["StableLmForCausalLM"], "hidden_dropout": 0.0, "hidden_size": 32, "layer_norm_eps": 1e-05,
    "model_type": "stablelm", "num_hidden_layers": 1, "partial_rotary_factor": 0.25, "qk_layernorm": False,
    "rope_scaling": None, "use_parallel_residual": False, "use_qkv_bias": True,
}
STABLELM_PARALLEL = STABLELM | {"partial_rotary_factor": 0.5, "use_parallel_residual": True, "use_qkv_bias": False}
# Heads of 8 features, 6 of which are rotated: three factors.
PHI3 = SMALL | {
    "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "embd_pdrop": 0.0, "hidden_size": 32,
    "max_position_embeddings": 128, "model_type": "phi3", "num_hidden_layers": 1,
    "original_max_position_embeddings": 32, "partial_rotary_factor": 0.75, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
    "rope_scaling": {"long_factor": [1.0, 2.5, 6.0], "short_factor": [1.0, 1.2, 1.5], "type": "longrope"},
    "sliding_window": 262144,
}
PHI3_LONG = PHI3 | {"original_max_position_embeddings": 16}
GPT_NEOX = {
    "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu",
    "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 48, "layer_norm_eps": 1e-05,
    "max_position_embeddings": 32, "model_type": "gpt_neox", "num_attention_heads": 4, "num_hidden_layers": 2,
    "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False, "torch_dtype": "float16",
    "use_cache": True, "use_parallel_residual": True, "vocab_size": 61,
}
# Biases everywhere, and a scaling with an attention factor.
YARN = SMALL | {
    "architectures": ["LlamaForCausalLM"], "attention_bias": True, "head_dim": 12, "mlp_bias": True,
    "model_type": "llama", "num_hidden_layers": 1, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 8, "type": "yarn"},
}
MISTRAL_WHOLE = SMALL | {
    "architectures": ["MistralForCausalLM"], "model_type": "mistral", "num_hidden_layers": 1, "rms_norm_eps": 1e-05,
    "sliding_window": 32,
}

GEMMA = SMALL | {
    "architectures": ["GemmaForCausalLM"], "attention_bias": False, "head_dim": 6, "hidden_act": "gelu",
    "hidden_activation": None, "model_type": "gemma", "rms_norm_eps": 1e-06, "rope_scaling": None,
    "tie_word_embeddings": True,
}

# Windows shorter than the text; scores and logits large enough for the soft caps to show.
GEMMA2 = GEMMA | {
    "architectures": ["Gemma2ForCausalLM"], "attn_logit_softcapping": 2.0, "cache_implementation": "hybrid",
    "final_logit_softcapping": 3.0, "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 64, "model_type": "gemma2", "query_pre_attn_scalar": 4, "sliding_window": 7,
}
# The first and the third layer have the window and a rotation of their own; that of the second is scaled.
GEMMA3 = GEMMA | {
    "architectures": ["Gemma3ForCausalLM"], "attn_logit_softcapping": None, "cache_implementation": "hybrid",
    "final_logit_softcapping": None, "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 64,
    "model_type": "gemma3_text", "num_hidden_layers": 3, "query_pre_attn_scalar": 6, "rope_local_base_freq": 100.0,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "rope_theta": 1000.0, "sliding_window": 7,
    "sliding_window_pattern": 2,
}
GEMMA3.pop("hidden_act")


# Mixtures of experts; the width of an expert is less than that of a dense layer, which none of them has.
MOE = SMALL | {"num_experts_per_tok": 2, "output_router_logits": False, "rope_scaling": None, "router_aux_loss_coef": 0.001}
QWEN3_MOE = MOE | {
    "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "decoder_sparse_step": 1, "head_dim": 6,
    "max_window_layers": 2, "mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 8,
    "norm_topk_prob": True, "num_experts": 6, "rms_norm_eps": 1e-06, "sliding_window": None, "use_sliding_window": False,
}
OLMOE = MOE | {
    "architectures": ["OlmoeForCausalLM"], "attention_bias": False, "clip_qkv": None, "intermediate_size": 12,
    "model_type": "olmoe", "norm_topk_prob": False, "num_experts": 5, "num_experts_per_tok": 3, "rms_norm_eps": 1e-05,
}
GRANITE_MOE = MOE | {
    "architectures": ["GraniteMoeForCausalLM"], "attention_bias": False, "attention_multiplier": 0.3,
    "embedding_multiplier": 12.0, "intermediate_size": 12, "logits_scaling": 8.0, "model_type": "granitemoe",
    "num_local_experts": 4, "residual_multiplier": 0.22, "rms_norm_eps": 1e-06, "tie_word_embeddings": True,
}
MIXTRAL = MOE | {
    "architectures": ["MixtralForCausalLM"], "intermediate_size": 12, "model_type": "mixtral", "num_local_experts": 4,
    "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_jitter_noise": 0.0, "sliding_window": None,
}


def write_model(folder, config, spread, seed):
    """A Hugging Face folder with random float32 weights: no zero biases, no norm weight of one.

    `spread` is the standard deviation of the matrices; that of queries and keys is larger, since a model of this width
    attends almost evenly otherwise and a mistake in attention would hardly show.
    """
    published = config if isinstance(config, dict) else None
    if published is not None:
        config = CONFIG_MAPPING[published["model_type"]].from_dict(copy.deepcopy(published))
    model = AutoModelForCausalLM.from_config(config)
    random = numpy.random.Generator(numpy.random.PCG64(seed))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = random.standard_normal(tuple(parameter.shape))
            if parameter.dim() == 1:
                values = 0.2 * values + (0.0 if name.endswith("bias") or config.model_type.startswith("gemma") else 1.0)
            else:
                values *= spread
            if name.endswith("c_attn.weight"):
                values[:, : 2 * values.shape[0]] *= 0.25 / spread
            elif name.endswith(("q_proj.weight", "k_proj.weight", "query_key_value.weight")):
                values *= 0.25 / spread
            elif name.endswith("qkv_proj.weight"):
                # Without the values, which are as wide as the keys.
                keys = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
                values[:-keys] *= 0.25 / spread
            parameter.copy_(torch.from_numpy(values))
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if published is not None:
        (folder / "config.json").write_text(json.dumps(published, indent=2, sort_keys=True) + "\n")


def make_batch(vocab, positions, seed):
    """Random tokens [2, positions] and the same shifted by one as targets, four of them ignored."""
    random = numpy.random.Generator(numpy.random.PCG64(seed))
    text = torch.from_numpy(random.integers(0, vocab, size=(2, positions + 1)))
    tokens, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    for row, position in ((0, 3), (0, 10), (1, 0), (1, positions - 1)):
        targets[row, position] = IGNORE
    return tokens, targets


def train(model, tokens, targets, disturb=None):
    """Ten steps of AdamW on one batch, gradients clipped by global norm. Returns losses and norms before each step."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, eps=EPS, foreach=False)
    losses, norms = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = exact.loss(model, tokens, targets)
        value.backward()
        if disturb is not None:
            disturb(parameters)
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, CLIP).item())
        optimizer.step()
        losses.append(value.item())
    return losses, norms


def inert_key_bias(name, tensor):
    """The part of GPT-2's `c_attn.bias` that belongs to the keys, else None.

    A bias of the keys adds the same amount to every score of a query, which softmax cancels: the true gradient is 0.
    Rounding errors in its place are blown up by AdamW to steps of full size, so this part can't be compared.
    """
    if not name.endswith("attn.c_attn.bias"):
        return None
    width = tensor.numel() // 3
    return tensor[width : 2 * width]


def assert_well_conditioned(folder, stored, tokens, targets):
    """The ten steps are a fair test in float32: rounding errors in the gradients don't move the result.

    AdamW divides by the size of the gradient, so an element whose gradient happens to be near zero steps in a
    direction that rounding decides. The seeds are such that there is none: PyTorch's own float32 run, and float64
    runs with noise of 2e-7 of the size of each tensor's gradient, end within 3e-6 of the golden everywhere. Gradients
    of exactly zero (rows of embeddings that no token uses) get no noise, since they are zero in float32 too.
    """
    random = torch.Generator().manual_seed(7)

    def noise(parameters):
        for p in parameters:
            size = 2e-7 * p.grad.square().mean().sqrt() * (p.grad != 0.0)
            p.grad.add_(torch.randn(p.shape, generator=random, dtype=p.dtype) * size)

    worst = 0.0
    for dtype, disturb in [(torch.float32, None)] + 4 * [(torch.float64, noise)]:
        model = exact.load(folder, dtype)
        train(model, tokens, targets, disturb)
        for name, parameter in model.named_parameters():
            difference = (parameter.detach() - stored["step10." + name]).abs()
            part = inert_key_bias(name, difference)
            if part is not None:
                part.zero_()
            worst = max(worst, difference.max().item())
    assert worst < 3e-6, f"{folder.name}: {worst:.1e} after ten steps; choose another seed"
    return worst


def assert_windows_matter(folder, tokens, logits):
    """The plain attention in Python gives the same logits, and a window that holds all keys gives others."""
    config = json.loads((folder / "config.json").read_text())
    for window, is_same in ((config["sliding_window"], True), (tokens.shape[1], False)):
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", sliding_window=window).eval()
        assert model.config.sliding_window == window
        difference = (model(input_ids=tokens, use_cache=False).logits.detach() - logits).abs().max().item()
        assert difference < 1e-5 if is_same else difference > 0.01, (window, difference)


def golden(folder, tokens, targets, wanted):
    """Every stored tensor of one model: its logits, with "gradients" the loss and its gradients too, and with "steps"
    ten steps of training."""
    model = exact.load(folder, torch.float64)
    stored = {"tokens": tokens, "logits": exact.logits(model, tokens).detach()}
    plain = exact.logits(exact.load(folder, torch.float32), tokens).detach()
    if "sliding_window" in json.loads((folder / "config.json").read_text()) and folder.name not in WITHOUT_WINDOW:
        assert_windows_matter(folder, tokens, stored["logits"])
    report = {"logits, float32 model": (plain - stored["logits"]).abs().max().item()}
    assert report["logits, float32 model"] < 3e-6, report
    if wanted != "logits":
        quotient, slope = exact.difference_quotient(model, tokens, targets, seed=5)
        report["slope"] = abs(quotient - slope) / abs(slope)
        assert report["slope"] < 1e-7, (quotient, slope)
        value = exact.loss(model, tokens, targets)
        value.backward()
        stored |= {"targets": targets, "loss": value.detach().reshape(1)}
        in_file = load_file(folder / "model.safetensors")
        for name, parameter in model.named_parameters():
            # The library calls every head so, and stores that of a GPT-NeoX under its first name.
            name = "embed_out.weight" if name == "lm_head.weight" and "embed_out.weight" in in_file else name
            assert name in in_file, name
            gradient = stored["grad." + name] = parameter.grad.clone()
            part = inert_key_bias(name, gradient)
            if part is not None:
                assert part.abs().max() < 1e-15, part
                part.zero_()
    if wanted == "steps":
        losses, norms = train(model, tokens, targets)
        assert losses[0] == value.item() and max(norms) > CLIP, (losses, norms)
        stored |= {"step10." + name: p.detach() for name, p in model.named_parameters()}
        stored |= {"losses": torch.tensor(losses), "grad_norms": torch.tensor(norms)}
        report["ten steps, float32 and disturbed"] = assert_well_conditioned(folder, stored, tokens, targets)
        report["losses"], report["norms"] = losses, norms
    print(folder.name, report)
    return {n: t if t.dtype == torch.int64 else t.to(torch.float32).contiguous() for n, t in stored.items()}


def make(destination):
    """All fixtures into a folder."""
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    # The spread of tiny-gpt2 is such that some of its ten steps are clipped and some aren't.
    models = (
        ("tiny-gpt2", gpt2_config(), 0.065, 24, 19, "steps"),
        ("tiny-llama", llama_config(), 0.1, 24, 7, "steps"),
        ("tiny-qwen2", QWEN2, 0.1, 24, 3, "logits"),
        ("tiny-llama3", LLAMA3, 0.1, 40, 4, "logits"),
        ("tiny-qwen3", QWEN3, 0.1, 23, 21, "gradients"),
        ("tiny-olmo2", OLMO2, 0.1, 23, 22, "gradients"),
        ("tiny-granite", GRANITE, 0.1, 23, 23, "gradients"),
        ("tiny-smollm3", SMOLLM3, 0.1, 23, 24, "logits"),
        ("tiny-stablelm", STABLELM, 0.1, 23, 25, "logits"),
        ("tiny-stablelm-parallel", STABLELM_PARALLEL, 0.1, 23, 26, "logits"),
        ("tiny-phi3", PHI3, 0.1, 23, 27, "logits"),
        ("tiny-phi3-long", PHI3_LONG, 0.1, 23, 28, "logits"),
        ("tiny-gpt-neox", GPT_NEOX, 0.1, 23, 29, "gradients"),
        ("tiny-yarn", YARN, 0.1, 31, 30, "logits"),
        ("tiny-mistral-whole", MISTRAL_WHOLE, 0.1, 23, 31, "logits"),
        ("tiny-gemma", GEMMA, 0.1, 23, 32, "gradients"),
        ("tiny-gemma2", GEMMA2, 0.2, 40, 33, "gradients"),
        ("tiny-gemma3", GEMMA3, 0.2, 40, 34, "gradients"),
        ("tiny-qwen3-moe", QWEN3_MOE, 0.2, 23, 35, "logits"),
        ("tiny-olmoe", OLMOE, 0.2, 23, 36, "logits"),
        ("tiny-granite-moe", GRANITE_MOE, 0.2, 23, 37, "logits"),
        ("tiny-mixtral", MIXTRAL, 0.2, 23, 38, "logits"),
        ("tiny-mistral", MISTRAL, 0.2, 40, 5, "gradients"),
        ("tiny-qwen2-local", QWEN2_LOCAL, 0.2, 40, 6, "gradients"),
    )
    for name, config, spread, positions, seed, wanted in models:
        folder = destination / name
        folder.mkdir(parents=True, exist_ok=True)
        write_model(folder, config, spread, seed)
        vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
        tokens, targets = make_batch(vocab, positions, seed + 100)
        stored = golden(folder, tokens, targets, wanted)
        if name == "tiny-gpt2":
            assert stored["grad_norms"].min() < CLIP < stored["grad_norms"].max()
        save_file(stored, folder / "golden.safetensors")
    (destination / "vectors.json").write_text(vectors.to_json(vectors.make()))
    size = sum(path.stat().st_size for path in destination.rglob("*") if path.is_file())
    assert size < SIZE_LIMIT, size
    print(f"{size:,} bytes")


def check(stored):
    """Compares a fresh set with the stored one; another CPU may round the last bits in another way."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        make(fresh)
        for path in sorted(fresh.rglob("*.safetensors")):
            new, old = load_file(path), load_file(stored / path.relative_to(fresh))
            assert new.keys() == old.keys(), path
            for name, tensor in new.items():
                torch.testing.assert_close(old[name], tensor, rtol=1e-6, atol=1e-9, msg=f"{path.name}: {name}")
        for path in sorted(fresh.rglob("*.json")):
            new, old = (json.loads((root / path.relative_to(fresh)).read_text()) for root in (fresh, stored))
            for config in (new, old):
                config.pop("transformers_version", None)
            vectors.assert_same(old, new, str(path.relative_to(fresh)))
    print("the stored goldens agree")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the stored goldens, write nothing")
    parser.add_argument("--out", type=Path, default=DESTINATION, help="folder of the goldens")
    arguments = parser.parse_args()
    sys.exit(check(arguments.out) if arguments.check else make(arguments.out))
