#!/usr/bin/env python3
"""Holds greedy texts of GGUF files that the Python package `gguf` writes, not smallmind, against those of llama.cpp.

The folders of `models.py` are converted here with the package's own names of tensors and its own quantization
(`gguf.quants`), in every format that it quantizes to. The table is that of `compare.py`, without the losses.

    python package.py --libllama libllama.so --models models --bin ../../target/debug
"""

import argparse
import json
import pathlib

import gguf
import numpy
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import load_file

from compare import compare, divergence, ours, prompts, theirs
from library import LlamaCpp, Table

FORMATS = ["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "MXFP4"]
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA, "mistral": gguf.MODEL_ARCH.LLAMA, "mixtral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3, "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "gpt2": gguf.MODEL_ARCH.GPT2, "phi3": gguf.MODEL_ARCH.PHI3, "olmo2": gguf.MODEL_ARCH.OLMO2,
    "olmoe": gguf.MODEL_ARCH.OLMOE, "gemma": gguf.MODEL_ARCH.GEMMA,
}
# Experts of a layer become one tensor: what the package calls it, and what follows the expert's number in the folder.
EXPERTS = {
    "mixtral": ("block_sparse_moe.experts", {"w1": "ffn_gate_exps", "w3": "ffn_up_exps", "w2": "ffn_down_exps"}),
    "qwen3_moe": ("mlp.experts", {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"}),
}
EXPERTS["olmoe"] = EXPERTS["qwen3_moe"]
# Their rotary positions pair neighbors in llama.cpp; folders have the halves of a head.
INTERLEAVED = ("llama", "mistral", "mixtral")


def interleaved(rows, heads):
    """The rows of queries or keys, with the two halves of each head interleaved."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def set_keys(writer, config):
    """The keys of a model, by the names that its folder gives the numbers."""
    kind, heads = config["model_type"], config.get("num_attention_heads", config.get("n_head"))
    width = config.get("hidden_size", config.get("n_embd"))
    writer.add_context_length(config.get("max_position_embeddings", config.get("n_positions")))
    writer.add_embedding_length(width)
    writer.add_block_count(config.get("num_hidden_layers", config.get("n_layer")))
    writer.add_feed_forward_length(config.get("intermediate_size", config.get("n_inner")))
    writer.add_head_count(heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    if kind == "gpt2":
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        return
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    head = config.get("head_dim") or width // heads
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(int(head * config.get("partial_rotary_factor", 1.0)))
    if kind == "phi3":
        writer.add_sliding_window(config["sliding_window"])
        writer.add_rope_scaling_orig_ctx_len(config["original_max_position_embeddings"])
    experts = config.get("num_experts") or config.get("num_local_experts")
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
        if "moe_intermediate_size" in config:
            writer.add_expert_feed_forward_length(config["moe_intermediate_size"])


def tensors(folder, config):
    """Names of GGUF and values."""
    kind = config["model_type"]
    names = gguf.get_tensor_name_map(ARCHITECTURES[kind], config.get("num_hidden_layers", config.get("n_layer")))
    stored = load_file(folder / "model.safetensors")
    experts, merged = config.get("num_experts") or config.get("num_local_experts"), {}
    for key, values in sorted(stored.items()):
        parts = key.split(".")
        if "experts" in parts:
            at = parts.index("experts")
            layer, expert, part = parts[2], int(parts[at + 1]), EXPERTS[kind][1][parts[at + 2]]
            merged.setdefault(f"blk.{layer}.{part}.weight", {})[expert] = values
            continue
        if key.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert name, f"the package has no name for {key}"
        if kind == "gpt2" and key.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
            values = values.T
        if kind in INTERLEAVED and ("q_proj" in key or "k_proj" in key):
            heads = config["num_attention_heads" if "q_proj" in key else "num_key_value_heads"]
            values = interleaved(values, heads)
        if kind == "gemma" and key.endswith("norm.weight"):
            values = values + 1.0
        yield name, numpy.ascontiguousarray(values)
    for name, of_experts in merged.items():
        yield name, numpy.stack([of_experts[expert] for expert in range(experts)])


def write(folder, path, form):
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[config["model_type"]]])
    set_keys(writer, config)
    for name, values in tensors(folder, config):
        is_vector = values.ndim == 1 or any(part in name for part in ("_norm", "ffn_gate_inp", "position_embd"))
        # llama.cpp looks up rows of every format but this.
        kind = Type.Q8_0 if form == "MXFP4" and name == "token_embd.weight" else Type[form]
        kind = Type.F32 if is_vector else kind
        writer.add_tensor(name, gguf.quants.quantize(values.astype(numpy.float32), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libllama", required=True, help="the shared library")
    parser.add_argument("--models", type=pathlib.Path, required=True, help="the folder that models.py has filled")
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="the folder of `examples/greedy`")
    parser.add_argument("--scratch", type=pathlib.Path, default=pathlib.Path("/tmp"), help="where files are written")
    parser.add_argument("--only", nargs="*", default=list(ARCHITECTURES), help="models")
    parser.add_argument("--formats", nargs="*", default=FORMATS)
    parser.add_argument("--out", help="a file for the table")
    asked = parser.parse_args()
    llama, table = LlamaCpp(asked.libllama), Table(asked.out)
    table.line(f"{'model':<20} {'format':<7} {'equal':>5} {'gap':>9} {'Δ logits':>9} {'KL':>8}")
    for name in asked.only:
        for form in asked.formats:
            path = asked.scratch / f"{name}-package.gguf"
            try:
                write(asked.models / name, path, form)
                config = json.loads((asked.models / name / "config.json").read_text())
                texts = prompts(config["vocab_size"])
                a, b = ours(asked, path, texts), theirs(llama, path, texts)
                found, kl = compare(a, b), max(divergence(b, a), 0.0)
                table.line(
                    f"{name:<20} {form:<7} {found['equal']:>5} {found['gap']:>9.2g} {found['apart']:>9.2g} {kl:>8.1e}"
                )
            except RuntimeError as error:
                table.line(f"{name:<20} {form:<7} {error}")
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
