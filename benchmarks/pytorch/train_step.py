"""Times one training step of a GPT in eager float32 PyTorch and prints one line of JSON.

    python train_step.py --preset nanogpt-cpu --threads 2

A step is what a training loop does between two updates: cut a batch from the token array, forward, backward, clip the
gradients, update, clear. The model is the plain pre-norm GPT-2 shape with PyTorch's own fast paths: fused attention,
fused AdamW, one qkv matrix. Without `torch.compile` and without bfloat16.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Preset:
    batch: int
    context: int
    vocab: int
    width: int
    layers: int
    heads: int
    bias: bool
    tied: bool
    betas: tuple


PRESETS = {
    "nanogpt-cpu": Preset(12, 64, 65, 128, 4, 4, bias=False, tied=True, betas=(0.9, 0.99)),
    "seed-deep": Preset(8, 128, 512, 256, 4, 8, bias=True, tied=False, betas=(0.9, 0.95)),
}
LEARNING_RATE, WEIGHT_DECAY, CLIP = 1e-3, 0.1, 1.0


class Block(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.heads = p.heads
        self.attention_norm = nn.LayerNorm(p.width, bias=p.bias)
        self.qkv = nn.Linear(p.width, 3 * p.width, bias=p.bias)
        self.output = nn.Linear(p.width, p.width, bias=p.bias)
        self.mlp_norm = nn.LayerNorm(p.width, bias=p.bias)
        self.up = nn.Linear(p.width, 4 * p.width, bias=p.bias)
        self.down = nn.Linear(4 * p.width, p.width, bias=p.bias)

    def forward(self, x):
        batch, length, width = x.shape
        heads = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class Gpt(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.tokens = nn.Embedding(p.vocab, p.width)
        self.positions = nn.Embedding(p.context, p.width)
        self.blocks = nn.ModuleList(Block(p) for _ in range(p.layers))
        self.norm = nn.LayerNorm(p.width, bias=p.bias)
        self.head = nn.Linear(p.width, p.vocab, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * p.layers) ** 0.5 if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        if p.tied:
            self.head.weight = self.tokens.weight

    def forward(self, tokens, targets):
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def make_step(model, p, data):
    """A function that makes one step and returns the loss as a number."""
    matrices = [q for q in model.parameters() if q.dim() >= 2]
    vectors = [q for q in model.parameters() if q.dim() < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=p.betas, fused=True)

    def step():
        starts = torch.randint(len(data) - p.context - 1, (p.batch,)).tolist()
        windows = torch.stack([data[start : start + p.context + 1] for start in starts])
        loss = model(windows[:, :-1], windows[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="nanogpt-cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=50, help="timed steps")
    parser.add_argument("--warmup", type=int, default=10, help="steps before the timed ones")
    parser.add_argument("--seed", type=int, default=1337)
    arguments = parser.parse_args()
    if min(arguments.threads, arguments.steps) < 1 or arguments.warmup < 0:
        parser.error("--threads and --steps must be at least 1, --warmup at least 0")

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    p = PRESETS[arguments.preset]
    model = Gpt(p)
    # A token is mostly the successor of the one before it, so the loss falls when the steps really train.
    jumps = torch.where(torch.rand(100_000) < 0.1, torch.randint(p.vocab, (100_000,)), 1)
    step = make_step(model, p, jumps.cumsum(0) % p.vocab)
    losses, milliseconds = [], []
    for index in range(arguments.warmup + arguments.steps):
        start = time.perf_counter()
        losses.append(step())
        if index >= arguments.warmup:
            milliseconds.append(1e3 * (time.perf_counter() - start))
    median = statistics.median(milliseconds)
    result = {
        "preset": arguments.preset,
        "threads": arguments.threads,
        "step_ms_median": round(median, 3),
        "tokens_per_second": round(1e3 * p.batch * p.context / median, 1),
        "step_ms_min": round(min(milliseconds), 3),
        "steps": arguments.steps,
        "parameters": sum(q.numel() for q in model.parameters()),
        "first_loss": round(losses[0], 4),
        "last_loss": round(losses[-1], 4),
        "torch": torch.__version__,
        "shape": asdict(p),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
