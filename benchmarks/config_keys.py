#!/usr/bin/env python3
"""Holds the table of config.json's keys against what transformers computes.

    python3 -m venv venv && venv/bin/pip install -r requirements-config-keys.txt
    venv/bin/python config_keys.py --program ../target/release/smallmind

For each family it writes a tiny model with transformers. For each key of the table (crates/model/src/config/keys.rs) it sets the key to
one value after the other, loads the folder with transformers and with `smallmind eval`, and compares the loss of a text. So it does with
files of weights that hold too much, and with keys that no table knows. A case is one of

    equal       both compute the same loss
    refused     smallmind refuses it, by name; what transformers does does not matter
    looser      smallmind computes it, transformers refuses it
    unnamed     smallmind refuses it, but its message names neither the key nor a tensor
    DIFFERENT   both compute, and not the same

The exit code is 1 where a case is DIFFERENT or unnamed.
"""

import argparse
import collections
import json
import logging
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
warnings.simplefilter("ignore")
import torch
import transformers
from safetensors.torch import load_file, save_file

logging.disable(logging.WARNING)
transformers.utils.logging.disable_progress_bar()

TEXT = "the quick brown fox jumps"
TABLE = Path(__file__).resolve().parent.parent / "crates/model/src/config/keys.rs"


def families():
    """The families of each constant of the table."""
    names = dict(re.findall(r'Family::(\w+) => "([a-z0-9_]+)"', TABLE.with_name("family.rs").read_text()))
    found = {"ALL": list(names.values())}
    for constant, members, other in re.findall(r"^const (\w+): &\[Family\] =\s+(?:&\[([^\]]+)\]|(\w+));", TABLE.read_text(), re.M):
        found[constant] = found[other] if other else [names[member.strip()] for member in members.split(",") if member.strip()]
    return found


FAMILIES = families()
# Those with a head of its own here.
UNTIED = ["llama", "gpt_neox", "stablelm", "phi3", "mistral", "qwen3_moe", "olmoe", "granitemoe", "mixtral"]
# Any key may hold one of these.
VALUES = [None, True, False, 0, 1, 2, 0.5, 1.0, "text", [], [1], {}, {"a": 1}]
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
# Values that mean something under a key.
MORE = {
    "activation_function": ["gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "relu", "silu", "tanh", "quick_gelu"],
    "hidden_act": ["silu", "swish", "gelu", "relu", "tanh"],
    "model_type": ["gpt2", "llama", "qwen2", "mistral", "qwen3", "gpt_neox", "gemma2"],
    "layer_norm_epsilon": [1e-5, 1e-3, 0.1],
    "rms_norm_eps": [1e-6, 1e-3, 0.1],
    "rope_theta": [1e4, 1e2, 500000.0, 5000],
    "layer_types": [["full_attention"] * 2, ["sliding_attention"] * 2, ["full_attention", "sliding_attention"], ["full_attention"],
                    ["attention"] * 2, ["chunked_attention"] * 2],
    "sliding_window": [4, 32, 64],
    "layer_norm_eps": [1e-5, 1e-3, 0.1],
    "rotary_pct": [0.25, 0.5, 1.0, 0.4], "rotary_emb_base": [1e4, 100, 500000.0],
    "no_rope_layers": [[1, 1], [1, 0], [0, 0], [1], [1, 0, 1]], "no_rope_layer_interval": [1, 2, 4],
    "attention_multiplier": [0.1, 0.35], "residual_multiplier": [0.22, 1.5], "embedding_multiplier": [12.0, 0.5], "logits_scaling": [8.0, 0.5],
    "query_pre_attn_scalar": [8, 16, 256], "attn_logit_softcapping": [1.0, 50.0], "final_logit_softcapping": [1.0, 30.0],
    "sliding_window_pattern": [1, 2, 6], "rope_local_base_freq": [100.0, 1e4], "sliding_window_size": [4],
    "full_attention": [{"rope_type": "default", "rope_theta": 100.0}, {"rope_type": "linear", "factor": 4.0}],
    "sliding_attention": [{"rope_type": "default", "rope_theta": 100.0}, {"rope_type": "linear", "factor": 4.0}],
    "num_experts_per_tok": [3, 4, 5], "num_experts": [4, 3], "num_local_experts": [4, 3], "moe_intermediate_size": [24],
    "hidden_dropout": [0.1], "full_attn_mod": [1, 2], "interpolate_factor": [1, 2],
    "max_window_layers": [0, 1, 28],
    "num_key_value_heads": [4],
    "quantization_config": [{"quant_method": method, "bits": 4} for method in ("gptq", "awq", "fp8", "mxfp4", "unheard_of")]
    + [{"load_in_8bit": True}, {"load_in_4bit": True, "quant_method": "bitsandbytes"}],
    "architectures": [["GPT2LMHeadModel"], ["LlamaForCausalLM"], ["LlamaForSequenceClassification"], ["Unheard"]],
    "dtype": ["float32", "bfloat16", "float16"], "torch_dtype": ["float32", "bfloat16", "float16"],
    "attn_implementation": ["eager", "sdpa"], "_attn_implementation": ["eager", "sdpa"],
    "n_positions": [16, 64], "eos_token_id": [[0, 1], 500], "pad_token_id": [-1, 19], "pruned_heads": [{"0": [1]}],
    "rope_scaling": [LLAMA3, {"type": "linear", "factor": 2.0}, {"rope_type": "dynamic", "factor": 2.0}, {"factor": 8.0},
                     {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
                     {"type": "yarn", "factor": 4.0, "beta_fast": 8, "beta_slow": 2, "attention_factor": 1.5, "truncate": False},
                     {"rope_type": "longrope", "short_factor": [1.0, 1.5, 2.0, 4.0], "long_factor": [2.0] * 4},
                     {"rope_type": "longrope", "short_factor": [1.5], "long_factor": [2.0], "original_max_position_embeddings": 8},
                     {"type": "longrope", "factor": 4.0, "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "original_max_position_embeddings": 8},
                     {"type": "su", "short_factor": [1.0, 1.5, 2.0, 4.0], "long_factor": [2.0] * 4},
                     LLAMA3 | {"rope_theta": 100.0}, {"rope_theta": 100.0}, {"rope_type": "default", "rope_theta": 100.0},
                     {"rope_type": "default", "factor": 8.0}],
    "rope_parameters": [LLAMA3 | {"rope_theta": 100.0}, {"rope_theta": 100.0, "rope_type": "default"}, {"factor": 8.0},
                        {"full_attention": {"rope_type": "default", "rope_theta": 100.0}}, LLAMA3],
    "rope_type": ["default", "llama3", "linear", "dynamic", "yarn"], "type": ["default", "llama3", "linear"],
    "factor": [2.0, 32.0], "low_freq_factor": [0.25], "high_freq_factor": [8.0], "original_max_position_embeddings": [4, 64],
    "partial_rotary_factor": [0.25, 0.5, 0.4], "beta_fast": [8.0], "beta_slow": [2.0], "attention_factor": [1.5],
    "transformers.js_config": [{"dtype": "q4"}], "auto_map": [{"AutoModelForCausalLM": "modeling_x.Model"}],
    "per_layer_config": [{"0": {"rms_norm_eps": 0.1}}],
    "task_specific_params": [{"text-generation": {"do_sample": True}}],
}
# Keys that change what other models compute, or that transformers might read some day.
UNKNOWN = ["logit_scale", "attention_multiplier", "final_logit_softcapping", "embedding_multiplier", "qk_norm", "no_rope_layers", "alibi",
           "use_bidirectional_attention", "original_max_position_embeddings", "n_inner_dim", "text_config", "rotary_pct", "use_qk_norm",
           "attn_logit_softcapping", "residual_multiplier", "num_experts", "parallel_attn", "clip_qkv"]


def table():
    """(family, path, rule) of every line."""
    text = TABLE.read_text()
    kinds = ["rope_parameters.full_attention.", "rope_parameters.sliding_attention."]
    for name, prefixes in (("KEYS", [""]), ("ROPE_KEYS", ["rope_scaling.", "rope_parameters."]), ("LAYER_KINDS", ["rope_parameters."])):
        body = text.split(f"const {name}: &[Line] = &[")[1].split("\n];")[0]
        lines = re.findall(r'^    line\("([^"]+)", (\w+), (.+)\),$', body, re.M)
        assert len(lines) == body.count("line("), "a line of the table that this script can't read"
        for key, families, rule in lines:
            for prefix in prefixes:
                for family in FAMILIES[families]:
                    by_kind = family == "gemma3_text" and (name, prefix) == ("ROPE_KEYS", "rope_parameters.")
                    yield from ((family, before + key, rule) for before in (kinds if by_kind else [prefix]))


def make_model(folder, family, vocab):
    """A tiny model whose weights are large enough for every change to show."""
    common = dict(vocab_size=vocab, tie_word_embeddings=family not in UNTIED)
    rotary = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                  max_position_embeddings=32, **common)
    # In place of defaults beyond this vocabulary.
    ids = dict(bos_token_id=0, eos_token_id=1, pad_token_id=None)
    config = {
        "gpt2": lambda: transformers.GPT2Config(n_positions=32, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1, **common),
        "llama": lambda: transformers.LlamaConfig(bos_token_id=0, eos_token_id=1, **rotary),
        "qwen2": lambda: transformers.Qwen2Config(**rotary),
        "qwen3": lambda: transformers.Qwen3Config(head_dim=8, **rotary),
        "olmo2": lambda: transformers.Olmo2Config(**ids, **rotary),
        "granite": lambda: transformers.GraniteConfig(
            attention_multiplier=0.3, residual_multiplier=0.7, embedding_multiplier=3.0, logits_scaling=2.0, **rotary),
        "smollm3": lambda: transformers.SmolLM3Config(no_rope_layers=[1, 0], **ids, **rotary),
        "stablelm": lambda: transformers.StableLmConfig(**rotary),
        "phi3": lambda: transformers.Phi3Config(original_max_position_embeddings=16, **ids, **rotary),
        "gemma": lambda: transformers.GemmaConfig(head_dim=8, **ids, **rotary),
        "gemma2": lambda: transformers.Gemma2Config(
            head_dim=8, sliding_window=4, query_pre_attn_scalar=4, attn_logit_softcapping=2.0, final_logit_softcapping=3.0, **ids, **rotary),
        "gemma3_text": lambda: transformers.Gemma3TextConfig(
            head_dim=8, sliding_window=4, query_pre_attn_scalar=4, layer_types=["sliding_attention", "full_attention"], **ids, **rotary),
        "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
            head_dim=8, moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2, norm_topk_prob=True, **rotary),
        "olmoe": lambda: transformers.OlmoeConfig(num_experts=4, num_experts_per_tok=2, **ids, **rotary),
        "granitemoe": lambda: transformers.GraniteMoeConfig(
            num_local_experts=4, num_experts_per_tok=2, attention_multiplier=0.3, residual_multiplier=0.7, embedding_multiplier=3.0,
            logits_scaling=2.0, **ids, **rotary),
        "mixtral": lambda: transformers.MixtralConfig(num_local_experts=4, num_experts_per_tok=2, **ids, **rotary),
        "mistral": lambda: transformers.MistralConfig(sliding_window=None, **rotary),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=32, **common),
    }[family]()
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = "norm" in name or "ln_" in name
            parameter.copy_(torch.randn_like(parameter) * (0.2 if norm or name.endswith("bias") else 0.35) + (norm and name.endswith("weight")))
    model.save_pretrained(folder)
    # The tokens that it names as the first and the last are of no account for a loss.
    (folder / "generation_config.json").unlink(missing_ok=True)


def theirs(folder, ids):
    """The loss by transformers, or why there is none."""
    if json.loads((folder / "config.json").read_text()).get("model_type") != folder.name:
        return "another family, whose defaults are models of gigabytes"
    try:
        # The fused attention leaves soft caps out.
        attention = {"attn_implementation": "eager"} if folder.name == "gemma2" else {}
        model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **attention)
        if info["missing_keys"] or info["mismatched_keys"]:
            return f"weights are missing: {sorted(info['missing_keys'])[:1]}"
        with torch.no_grad():
            loss = model.eval()(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss
        return float(loss) if torch.isfinite(loss) else "the loss is not finite"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {str(error)[:100]}"


class Comparison:
    def __init__(self, program, verbose):
        self.program, self.verbose = program, verbose
        self.counts = collections.Counter()
        self.changed = 0
        self.bad = []
        self.looser = collections.Counter()
        self.work = Path(tempfile.mkdtemp(prefix="config-keys-"))
        (self.work / "text").write_text(TEXT)
        self.run("tokenizer", "train", "--kind", "characters", "--data", "text", "--out", "tokenizer.json")
        told = json.loads(self.run("tokenize", "-m", "tokenizer.json", "text", "--json").stdout)
        self.ids = told["ids"]
        self.vocab = max(self.ids) + 1

    def run(self, *arguments):
        return subprocess.run([self.program, *arguments], cwd=self.work, capture_output=True, text=True, timeout=120)

    def ours(self, folder, *flags):
        ran = self.run("eval", "-m", str(folder), "--data", "text", "--json", "--threads", "1", *flags)
        return json.loads(ran.stdout)["loss"] if ran.returncode == 0 else ran.stderr.strip()

    def case(self, folder, name, names, base=None):
        """Compares a folder; a refusal has to say one of `names`."""
        ours, them = self.ours(folder), theirs(folder, self.ids)
        if isinstance(them, float) and base is not None and abs(them - base) > 1e-6 * abs(base):
            self.changed += 1
        if isinstance(ours, str):
            verdict = "refused" if any(part in ours for part in names) else "unnamed"
        elif isinstance(them, str):
            verdict = "looser"
            self.looser[name.split(" = ")[0]] += 1
        else:
            verdict = "equal" if abs(ours - them) <= 2e-5 * max(1.0, abs(them)) else "DIFFERENT"
        self.counts[verdict] += 1
        if verdict in ("unnamed", "DIFFERENT"):
            self.bad.append(f"{verdict} {name}: smallmind {ours}, transformers {them}")
            print(self.bad[-1], flush=True)
        elif self.verbose:
            print(f"{verdict:8} {name}: smallmind {str(ours)[:150]}, transformers {them}", flush=True)
        return them

    def folder(self, family):
        folder = self.work / family
        make_model(folder, family, self.vocab)
        shutil.copy(self.work / "tokenizer.json", folder)
        return folder

    def change_keys(self, folder, name, keys, base, drop=()):
        """A case with keys of config.json set, and then the file as it was."""
        path = folder / "config.json"
        before = path.read_text()
        config = {key: value for key, value in json.loads(before).items() if key not in drop}
        for key, value in keys.items():
            *outer, inner = key.split(".") if key.startswith("rope_") else [key]
            object = config
            for part in outer:
                object[part] = dict(object.get(part) or {})
                object = object[part]
            object[inner] = value
        path.write_text(json.dumps(config))
        parts = [part for key in keys for part in (key.split(".") if key.startswith("rope_") else [key])]
        # What may be named in its place: what no longer fits it.
        others = ["tensor", "vocabulary", "heads", "layer_types", "not known", "another name"]
        self.case(folder, f"{folder.name} {name}", parts + others, base)
        path.write_text(before)


def keys_of_the_table(c, folder, base):
    family = folder.name
    llama3 = {f"rope_scaling.{key}": value for key, value in LLAMA3.items()}
    newer_in = {before: {before + key: value for key, value in (LLAMA3 | {"rope_theta": 100.0}).items()}
                for before in ("rope_parameters.", "rope_parameters.full_attention.", "rope_parameters.sliding_attention.")}
    for of, path, _ in table():
        if of != family:
            continue
        key = path.rpartition(".")[2] if path.startswith("rope_") else path
        # A context shorter than the text would cut it here, and not there.
        small = key in ("n_positions", "max_position_embeddings") and not path.startswith("rope_")
        values = [value for value in VALUES + MORE.get(key, []) if not (small and isinstance(value, (int, float)))]
        values += [64, 1000] if small else []
        for value in values:
            shown = f"{path} = {json.dumps(value)}"
            c.change_keys(folder, shown, {path: value}, base)
            # As older and newer files hold it, beside scaling that is valid in itself.
            if path.startswith("rope_scaling."):
                c.change_keys(folder, f"llama3, {shown}", llama3 | {path: value}, base, ["rope_parameters"])
                c.change_keys(folder, f"default, {shown}", {"rope_scaling.type": "default", "rope_theta": 300.0, path: value}, base, ["rope_parameters"])
            elif path.startswith("rope_parameters."):
                newer = newer_in.get(path[: -len(key)], {})
                c.change_keys(folder, f"llama3, {shown}", newer | {path: value}, base)
            elif path == "rope_theta":
                c.change_keys(folder, f"older, {shown}", {path: value}, base, ["rope_parameters"])
                c.change_keys(folder, f"older, llama3, {shown}", llama3 | {path: value}, base, ["rope_parameters"])


def other_keys(c, folder, base):
    for key in UNKNOWN:
        for value in VALUES:
            c.change_keys(folder, f"{key} = {json.dumps(value)}", {key: value}, base)
    config = json.loads((folder / "config.json").read_text())
    written = type(transformers.AutoConfig.from_pretrained(folder))().to_dict()
    extra = {key: value for key, value in written.items() if key not in config}
    before = c.counts["equal"]
    c.change_keys(folder, "all keys that transformers writes", extra, base)
    if c.counts["equal"] == before:
        c.bad.append(f"{folder.name}: the keys that transformers writes don't load")
    if folder.name != "gpt2":
        both = {"rope_scaling": LLAMA3, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}
        c.change_keys(folder, "rope_scaling beside rope_parameters", both, base)
        c.change_keys(folder, "the same, with rope_theta", both | {"rope_theta": 300.0}, base)
        swapped = {"rope_scaling": {"rope_theta": 100.0}, "rope_parameters": LLAMA3}
        c.change_keys(folder, "rope_parameters of llama3 beside rope_scaling", swapped, base)
        c.change_keys(folder, "an empty rope_scaling", {"rope_scaling": {}, "rope_parameters": LLAMA3 | {"rope_theta": 100.0}}, base)


def files_of_weights(c, folder, base):
    """Weights that hold more than the configuration uses, or the same twice."""
    path, keep = folder / "model.safetensors", load_file(folder / "model.safetensors")
    family = folder.name
    layer = {"gpt2": "transformer.h.%d.", "gpt_neox": "gpt_neox.layers.%d."}.get(family, "model.layers.%d.")
    names = ["q_norm.weight", "self_attn.q_proj.bias", "self_attn.o_proj.bias", "mlp.gate_proj.bias", "self_attn.rotary_emb.inv_freq",
             "attn.bias", "attn.masked_bias"]
    cases = {name: {layer % 0 + name: torch.ones(32)} for name in names if layer % 0 + name not in keep}
    table = {"gpt2": "transformer.wte.weight", "gpt_neox": "gpt_neox.embed_in.weight"}.get(family, "model.embed_tokens.weight")
    first = {name: tensor for name, tensor in keep.items() if name.startswith(layer % 0)}
    cases["a third layer"] = {name.replace(layer % 0, layer % 2): tensor.clone() for name, tensor in first.items()}
    if family not in UNTIED:
        cases["the same lm_head.weight"] = {"lm_head.weight": keep[table].clone()}
        cases["another lm_head.weight"] = {"lm_head.weight": keep[table] * 2}
    for name, more in cases.items():
        save_file(keep | more, path, metadata={"format": "pt"})
        c.case(folder, f"{family} weights with {name}", ["tensor", "lm_head"], base)
    save_file(keep, path, metadata={"format": "pt"})
    if family == "gpt2":
        c.change_keys(folder, "bias = false", {"bias": False}, base)
        zero = {name: torch.zeros_like(tensor) if name.endswith(".bias") else tensor for name, tensor in keep.items()}
        save_file(zero, path, metadata={"format": "pt"})
        c.change_keys(folder, "bias = false with biases that are zero", {"bias": False}, None)
        save_file(keep, path, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    path.rename(folder / "one.safetensors")
    for name, metadata in (("an index", {"metadata": {"total_size": 1}}), ("an index without metadata", {})):
        index.write_text(json.dumps(metadata | {"weight_map": dict.fromkeys(keep, "one.safetensors")}))
        c.case(folder, f"{family} {name}", ["index"], base)
    index.unlink()
    (folder / "one.safetensors").rename(path)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--program", default="smallmind", help="the program [default: smallmind, found by PATH]")
    arguments.add_argument("--family", action="append", choices=FAMILIES["ALL"], help="only this family")
    arguments.add_argument("--verbose", action="store_true", help="print every case")
    given = arguments.parse_args()
    program = str(Path(given.program).resolve()) if os.sep in given.program else given.program
    torch.set_num_threads(1)
    # Some values ask for vast models.
    resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))
    c = Comparison(program, given.verbose)
    rules = collections.Counter(rule.split("(")[0] for _, _, rule in table())
    for family in given.family or FAMILIES["ALL"]:
        folder = c.folder(family)
        base = c.case(folder, f"{family} as it is", [])
        assert isinstance(base, float), base
        keys_of_the_table(c, folder, base)
        other_keys(c, folder, base)
        files_of_weights(c, folder, base)
        print(f"{family}: {dict(c.counts)}", flush=True)
    shutil.rmtree(c.work)
    print(f"\ntransformers {transformers.__version__}, torch {torch.__version__}")
    print("lines of the table, one for each family:", ", ".join(f"{n} {rule}" for rule, n in rules.items()))
    print("cases:", ", ".join(f"{n} {verdict}" for verdict, n in c.counts.items()), f"(in {c.changed} transformers' loss changes)")
    print("looser, with how many values:", ", ".join(f"{name} {n}" for name, n in c.looser.items()))
    print("bad:", *(f"\n  {line}" for line in c.bad or ["none"]))
    return 1 if c.bad else 0


if __name__ == "__main__":
    sys.exit(main())
