"""Trains a model of SmallMind's with PyTorch and prints the times and losses of its steps as one line of JSON.

    python pytorch.py FOLDER --tokens FILE --batch 12 --context 64 [--precision bf16] [--compile]

FOLDER is a Hugging Face model of the type `gpt2` or `llama`, such as `smallmind new` writes. FILE holds tokens of two
bytes, little-endian. Step `s` of `B` sequences of `T` tokens reads windows `B*s` to `B*s + B - 1`, window `w` begins at
token `w*T`, and the text begins again where it ends: as `smallmind bench train` reads it.

PyTorch's fast paths are used: one matrix for queries, keys and values (and one for gate and up), fused attention, fused
AdamW, and with --precision bf16 autocast. A step is what a training loop does: cut the batch, forward, backward, clip,
update, clear.
"""

import argparse
import json
import pathlib
import resource
import statistics
import time

import numpy
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn


class Weights:
    """The tensors of a folder by name, and parameters made of them."""

    def __init__(self, folder, has_biases):
        tensors = load_file(folder / "model.safetensors")
        # A folder without biases holds zeros for programs that know no such GPT-2.
        tensors = {name: t for name, t in tensors.items() if has_biases or not name.endswith(".bias")}
        self.tensors = {name.removeprefix("transformer.").removeprefix("model."): t for name, t in tensors.items()}
        self.used = set()

    def get(self, name):
        self.used.add(name)
        return self.tensors.get(name)

    def linear(self, *names, transposed=False):
        """A linear layer of the matrices below each other, which a GPT-2 stores transposed."""
        matrices = [self.get(f"{name}.weight") for name in names]
        matrices = [matrix.t() if transposed else matrix for matrix in matrices]
        biases = [self.get(f"{name}.bias") for name in names]
        weight = torch.cat(matrices).contiguous()
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=biases[0] is not None)
        layer.weight = nn.Parameter(weight)
        if biases[0] is not None:
            layer.bias = nn.Parameter(torch.cat(biases))
        return layer

    def layer_norm(self, name, eps):
        weight, bias = self.get(f"{name}.weight"), self.get(f"{name}.bias")
        norm = nn.LayerNorm(len(weight), eps=eps, bias=bias is not None)
        norm.weight = nn.Parameter(weight)
        if bias is not None:
            norm.bias = nn.Parameter(bias)
        return norm

    def rms_norm(self, name, eps):
        weight = self.get(f"{name}.weight")
        norm = nn.RMSNorm(len(weight), eps=eps)
        norm.weight = nn.Parameter(weight)
        return norm

    def embedding(self, name):
        return nn.Embedding.from_pretrained(self.get(f"{name}.weight"), freeze=False)

    def check(self):
        left = sorted(set(self.tensors) - self.used)
        if left:
            raise SystemExit(f"tensors that this script does not know: {', '.join(left)}")


def split_heads(x, *heads):
    """[batch, length, heads·width] as one tensor [batch, heads, length, width] for each number of heads."""
    batch, length, size = x.shape
    x = x.view(batch, length, sum(heads), size // sum(heads)).transpose(1, 2)
    return x.split(heads, dim=1)


def joined(x):
    return x.transpose(1, 2).flatten(2)


class GptBlock(nn.Module):
    def __init__(self, w, config, name):
        super().__init__()
        eps = config["layer_norm_epsilon"]
        self.heads = config["n_head"]
        self.approximate = {"gelu": "none", "gelu_new": "tanh"}[config["activation_function"]]
        self.attention_norm, self.mlp_norm = w.layer_norm(f"{name}.ln_1", eps), w.layer_norm(f"{name}.ln_2", eps)
        self.qkv = w.linear(f"{name}.attn.c_attn", transposed=True)
        self.output = w.linear(f"{name}.attn.c_proj", transposed=True)
        self.up = w.linear(f"{name}.mlp.c_fc", transposed=True)
        self.down = w.linear(f"{name}.mlp.c_proj", transposed=True)

    def forward(self, x):
        q, k, v = split_heads(self.qkv(self.attention_norm(x)), *[self.heads] * 3)
        x = x + self.output(joined(F.scaled_dot_product_attention(q, k, v, is_causal=True)))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x)), approximate=self.approximate))


class Gpt(nn.Module):
    def __init__(self, w, config):
        super().__init__()
        self.tokens, self.positions = w.embedding("wte"), w.embedding("wpe")
        self.blocks = nn.ModuleList(GptBlock(w, config, f"h.{i}") for i in range(config["n_layer"]))
        self.norm = w.layer_norm("ln_f", config["layer_norm_epsilon"])
        self.head = head(w, self.tokens)

    def forward(self, tokens, targets):
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


class LlamaBlock(nn.Module):
    def __init__(self, w, config, name):
        super().__init__()
        eps = config["rms_norm_eps"]
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.heads = (heads, kv_heads, kv_heads)
        self.attention_norm = w.rms_norm(f"{name}.input_layernorm", eps)
        self.mlp_norm = w.rms_norm(f"{name}.post_attention_layernorm", eps)
        self.qkv = w.linear(*[f"{name}.self_attn.{part}_proj" for part in "qkv"])
        self.output = w.linear(f"{name}.self_attn.o_proj")
        self.gate_up = w.linear(f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj")
        self.down = w.linear(f"{name}.mlp.down_proj")

    def forward(self, x, cosines, sines):
        def rotated(x):
            low, high = x.chunk(2, dim=-1)
            return x * cosines + torch.cat([-high, low], dim=-1) * sines

        q, k, v = split_heads(self.qkv(self.attention_norm(x)), *self.heads)
        grouped = q.shape[1] != k.shape[1]
        mixed = F.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True, enable_gqa=grouped)
        x = x + self.output(joined(mixed))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Llama(nn.Module):
    def __init__(self, w, config):
        super().__init__()
        self.tokens = w.embedding("embed_tokens")
        self.blocks = nn.ModuleList(LlamaBlock(w, config, f"layers.{i}") for i in range(config["num_hidden_layers"]))
        self.norm = w.rms_norm("norm", config["rms_norm_eps"])
        self.head = head(w, self.tokens)
        width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
        angles = torch.outer(
            torch.arange(config["max_position_embeddings"], dtype=torch.float64),
            theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width),
        ).repeat(1, 2)
        self.register_buffer("cosines", angles.cos().float())
        self.register_buffer("sines", angles.sin().float())

    def forward(self, tokens, targets):
        length = tokens.shape[1]
        cosines, sines = self.cosines[:length], self.sines[:length]
        x = self.tokens(tokens)
        for block in self.blocks:
            x = block(x, cosines, sines)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def head(w, embedding):
    """The output head: of its own, or the embedding."""
    weight = w.get("lm_head.weight")
    layer = nn.Linear(embedding.embedding_dim, embedding.num_embeddings, bias=False)
    layer.weight = embedding.weight if weight is None else nn.Parameter(weight)
    return layer


def read_model(folder):
    config = json.loads((folder / "config.json").read_text())
    w = Weights(folder, config.get("bias", True))
    model = {"gpt2": Gpt, "llama": Llama}[config["model_type"]](w, config)
    w.check()
    return model


class Windows:
    """Windows of a text, one after the other."""

    def __init__(self, tokens, batch, context):
        self.tokens, self.batch, self.context = tokens, batch, context
        self.offsets = torch.arange(context + 1)

    def of_step(self, step):
        starts = (step * self.batch + torch.arange(self.batch)) * self.context
        windows = self.tokens[(starts[:, None] + self.offsets) % len(self.tokens)]
        return windows[:, :-1], windows[:, 1:]


def make_step(model, options):
    """A function that makes a step and returns its loss as a number."""
    matrices = [q for q in model.parameters() if q.dim() >= 2]
    vectors = [q for q in model.parameters() if q.dim() < 2]
    groups = [{"params": matrices, "weight_decay": options.decay}, {"params": vectors, "weight_decay": 0.0}]
    betas = (options.beta1, options.beta2)
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=betas, eps=options.eps, fused=True)
    tokens = torch.from_numpy(numpy.fromfile(options.tokens, dtype="<u2").astype(numpy.int64))
    windows = Windows(tokens, options.batch, options.context)
    called = torch.compile(model) if options.compile else model
    is_bf16 = options.precision == "bf16"

    def step(index):
        inputs, targets = windows.of_step(index)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
            loss = called(inputs, targets)
        loss.backward()
        if options.clip:
            nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--tokens", type=pathlib.Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=20, help="timed steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the timed ones")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--beta1", type=float, default=0.9)
    parser.add_argument("--beta2", type=float, default=0.99)
    parser.add_argument("--eps", type=float, default=1e-8)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--clip", type=float, default=1.0, help="0: none")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    model = read_model(options.folder)
    step = make_step(model, options)
    losses, seconds = [], []
    for index in range(options.warmup + options.steps):
        start = time.perf_counter()
        losses.append(step(index))
        if index >= options.warmup:
            seconds.append(time.perf_counter() - start)
    print(json.dumps({
        "median_ns": round(1e9 * statistics.median(seconds)),
        "samples_ns": [round(1e9 * s) for s in seconds],
        "losses": losses,
        "peak_rss_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "model_n_params": sum(q.numel() for q in model.parameters()),
        "version": torch.__version__,
    }))


if __name__ == "__main__":
    main()
