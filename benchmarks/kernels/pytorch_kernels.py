"""PyTorch's kernels beside the products: how a user calls them, forward and backward.

A backward is the call of `torch.autograd.grad` alone, on a graph that is kept; a direction `both` is forward and backward in
one. Every kernel is checked on a small case of itself against its formula in `f64`, whose gradients autograd makes as well.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Callable

import torch
from torch.nn import functional as F

from protocol import Case, Unsupported, Wrong

EPS = 1e-5


@dataclass
class Work:
    """A kernel with its operands."""

    # The first ones are those with gradients.
    inputs: list
    gradients: int
    # What autograd can follow: functions of the inputs.
    ways: dict[str, Callable]
    # The same in plain operations.
    formula: Callable
    # Forward only: functions of the inputs that write into buffers which they hold.
    into_buffers: dict[str, Callable] = field(default_factory=dict)


def cases(make, small):
    """A function from parameters to a `Case`. `make` builds the work, `small` makes sizes those of the case that is checked."""

    def prepare(params):
        direction = params.get("direction", "forward")
        trial = make(params | {name: reduce(params[name]) for name, reduce in small.items()})
        trial_ways, dy = runs(trial, direction)
        expected = expectation(trial, direction, dy)
        ways, _ = runs(make(params), direction)
        names = {way: name for name, way in ways.items()}

        def check(way):
            compare(trial_ways[names[way]](), expected)
            if not all(bool(part.isfinite().all()) for part in parts(way())):
                raise Wrong("a result that is not finite")

        return Case(ways, check, torch.inference_mode if direction == "forward" else torch.enable_grad)

    return prepare


def runs(work, direction):
    """The ways of a piece of work as functions without arguments, and the gradient that comes in from above."""
    inputs = work.inputs
    if direction == "forward":
        return {name: partial(way, *inputs) for name, way in (work.ways | work.into_buffers).items()}, None
    if direction not in ("backward", "both"):
        raise Unsupported(f"no direction {direction}")
    wanted = [tensor.requires_grad_() for tensor in inputs[: work.gradients]]
    outputs = {name: way(*inputs) for name, way in work.ways.items()}
    dy = uniform(*next(iter(outputs.values())).shape)
    if direction == "backward":
        return {name: partial(torch.autograd.grad, y, wanted, dy, retain_graph=True) for name, y in outputs.items()}, dy
    return {name: lambda way=way: torch.autograd.grad(way(*inputs), wanted, dy) for name, way in work.ways.items()}, dy


def expectation(work, direction, dy):
    """The formula's results in `f64`: the output, or the gradients."""
    exact = [tensor.detach().double() if tensor.is_floating_point() else tensor for tensor in work.inputs]
    if direction == "forward":
        return work.formula(*exact)
    wanted = [tensor.requires_grad_() for tensor in exact[: work.gradients]]
    return torch.autograd.grad(work.formula(*exact), wanted, dy.double())


def parts(result):
    return result if isinstance(result, tuple | list) else (result,)


def compare(result, expected):
    """The bound is for elements of the size of a mean one and is no measure of a library's accuracy."""
    for got, want in zip(parts(result), parts(expected), strict=True):
        error = (got.double() - want).abs()
        if got.shape != want.shape or not bool((error <= 1e-4 * (want.abs() + want.abs().mean())).all()):
            raise Wrong(f"off by up to {error.max().item()}")


def at_most(limit):
    return lambda size: min(size, limit)


def uniform(*shape):
    return torch.rand(shape) * 2 - 1


def layer_norm(p):
    cols = p["cols"]
    x, weight, bias = torch.randn(p["rows"], cols), uniform(cols), uniform(cols)

    def formula(x, weight, bias):
        centred = x - x.mean(dim=1, keepdim=True)
        return centred / (centred.square().mean(dim=1, keepdim=True) + EPS).sqrt() * weight + bias

    ways = {"layer_norm": lambda x, weight, bias: F.layer_norm(x, (cols,), weight, bias, EPS)}
    return Work([x, weight, bias], 3, ways, formula)


def rms_norm(p):
    cols = p["cols"]

    def formula(x, weight):
        return x / (x.square().mean(dim=1, keepdim=True) + EPS).sqrt() * weight

    def by_hand(x, weight):
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + EPS) * weight

    ways = {"rms_norm": lambda x, weight: F.rms_norm(x, (cols,), weight, EPS), "by hand": by_hand}
    return Work([torch.randn(p["rows"], cols), uniform(cols)], 2, ways, formula)


def gelu(p):
    tanh = p.get("kind", "exact") == "tanh"
    approximate = "tanh" if tanh else "none"
    x = torch.randn(p["elements"])
    out = torch.empty_like(x)

    def formula(x):
        if tanh:
            return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))

    into = {"gelu out": lambda x: F.gelu(x, approximate=approximate, out=out)}
    return Work([x], 1, {"gelu": lambda x: F.gelu(x, approximate=approximate)}, formula, into)


def swiglu(p):
    gate, up = torch.randn(p["rows"], p["cols"]), torch.randn(p["rows"], p["cols"])
    out = torch.empty_like(gate)

    def formula(gate, up):
        return gate * torch.sigmoid(gate) * up

    def into_buffer(gate, up):
        torch.ops.aten.silu.out(gate, out=out)
        return out.mul_(up)

    return Work([gate, up], 2, {"silu": lambda gate, up: F.silu(gate) * up}, formula, {"silu out": into_buffer})


def softmax(p):
    x = torch.randn(p["rows"], p["cols"])
    out = torch.empty_like(x)

    def formula(x):
        exp = (x - x.amax(dim=1, keepdim=True)).exp()
        return exp / exp.sum(dim=1, keepdim=True)

    into = {"softmax out": lambda x: torch.softmax(x, 1, out=out)}
    return Work([x], 1, {"softmax": lambda x: torch.softmax(x, 1)}, formula, into)


def cross_entropy(p):
    logits, targets = torch.randn(p["rows"], p["vocab"]), torch.randint(p["vocab"], (p["rows"],))

    def formula(logits, targets):
        return (logits.logsumexp(dim=1) - logits[torch.arange(len(targets)), targets]).mean()

    return Work([logits, targets], 1, {"cross_entropy": F.cross_entropy}, formula)


def embedding(p):
    table, ids = torch.randn(p["vocab"], p["cols"]), torch.randint(p["vocab"], (p["rows"],))
    out = torch.empty(p["rows"], p["cols"])
    into = {"index_select": lambda table, ids: torch.index_select(table, 0, ids, out=out)}
    ways = {"embedding": lambda table, ids: F.embedding(ids, table)}
    return Work([table, ids], 1, ways, lambda table, ids: table[ids], into)


def rope(p):
    """Rotates the halves of each head, x and the result [rows, heads, head_dim]."""
    rows, half = p["rows"], p["head_dim"] // 2
    x = torch.randn(rows, p["heads"], 2 * half)
    angles = torch.arange(rows)[:, None] * 10000.0 ** (-torch.arange(half) / half)
    cos, sin = angles.cos()[:, None, :], angles.sin()[:, None, :]
    whole_cos, whole_sin = torch.cat((cos, cos), dim=-1), torch.cat((sin, sin), dim=-1)
    out, first, second = torch.empty_like(x), x[..., :half], x[..., half:]

    def formula(x):
        first, second = x[..., :half], x[..., half:]
        c, s = cos.double(), sin.double()
        return torch.cat((first * c - second * s, second * c + first * s), dim=-1)

    def rotate_half(x):
        first, second = x[..., :half], x[..., half:]
        return x * whole_cos + torch.cat((-second, first), dim=-1) * whole_sin

    def halves(_):
        torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
        torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)
        return out

    return Work([x], 1, {"rotate_half": rotate_half}, formula, {"halves": halves})


def attention(p):
    """Queries [1, heads, len, head_dim] at the end of a context of keys and values [1, kv_heads, context, head_dim]."""
    heads, kv_heads, length, context, width = p["heads"], p["kv_heads"], p["len"], p["context"], p["head_dim"]
    causal, group = p.get("causal", True), heads // kv_heads
    q = torch.randn(1, heads, length, width)
    k, v = torch.randn(1, kv_heads, context, width), torch.randn(1, kv_heads, context, width)
    mask = torch.full((length, context), -math.inf).triu(context - length + 1) if causal else None
    attend = F.scaled_dot_product_attention
    if not causal or length == 1:
        options = {}
    elif length == context:
        options = {"is_causal": True}
    else:
        options = {"attn_mask": mask}

    def formula(q, k, v):
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = q @ k.transpose(2, 3) / math.sqrt(width)
        return (scores if mask is None else scores + mask).softmax(dim=-1) @ v

    def repeated(q, k, v):
        return attend(q, k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1), **options)

    def folded(q, k, v):
        """One query sees everything, so the heads that share keys are as good as further queries."""
        return attend(q.view(1, kv_heads, group, width), k, v).view(1, heads, 1, width)

    if group == 1:
        ways = {"attention": lambda q, k, v: attend(q, k, v, **options)}
    else:
        ways = {"grouped": lambda q, k, v: attend(q, k, v, enable_gqa=True, **options), "repeated": repeated}
        if length == 1:
            ways["folded"] = folded
    return Work([q, k, v], 3, ways, formula)


def attention_case(params):
    """Checked on a shorter context, which stays whole for whole contexts and keeps single queries single."""
    length, context = params["len"], min(params["context"], 160)
    length = context if length == params["context"] else min(length, 50)
    return cases(attention, {"context": lambda _: context, "len": lambda _: length})(params)


def adamw(params):
    """One fused step over one parameter, checked against its formula from a standing start."""
    rate, beta1, beta2, decay, eps = 1e-3, 0.9, 0.95, 0.1, 1e-8
    weight = torch.nn.Parameter(torch.randn(params["elements"]))
    weight.grad = torch.randn_like(weight)
    optimizer = torch.optim.AdamW([weight], rate, (beta1, beta2), eps, decay, fused=True)
    sampled = torch.randint(params["elements"], (1000,))

    def check(way):
        before, gradient = weight.detach()[sampled].double(), weight.grad[sampled].double()
        way()
        # After the first step the corrected moments are the gradient and its square.
        want = before * (1 - rate * decay) - rate * gradient / (gradient.abs() + eps)
        if not bool(((weight.detach()[sampled].double() - want).abs() <= 1e-6 * (1 + want.abs())).all()):
            raise Wrong("not the parameters after one step")

    return Case({"AdamW, fused": optimizer.step}, check)


def embedding_case(params):
    """Adding rows up in a gradient that is there already is a way besides autograd's, which clears one first."""
    case = cases(embedding, {"rows": at_most(50), "vocab": at_most(100)})(params)
    if params.get("direction", "forward") != "backward":
        return case
    table, dy = torch.zeros(params["vocab"], params["cols"]), uniform(params["rows"], params["cols"])
    ids = torch.randint(params["vocab"], (params["rows"],))
    inner = case.check

    def check(way):
        if way is not case.ways["index_add_"]:
            return inner(way)
        way()
        last = int(ids[-1])
        compare(table[last], dy[ids == last].double().sum(dim=0))

    case.ways["index_add_"] = lambda: table.index_add_(0, ids, dy)
    case.check = check
    return case


ROWS = {"rows": at_most(50)}
KERNELS = {
    "attention/f32": attention_case,
    "layer_norm/f32": cases(layer_norm, ROWS),
    "rms_norm/f32": cases(rms_norm, ROWS),
    "gelu/f32": cases(gelu, {"elements": at_most(10_000)}),
    "swiglu/f32": cases(swiglu, ROWS),
    "softmax/f32": cases(softmax, ROWS),
    "cross_entropy/f32": cases(cross_entropy, ROWS),
    "embedding/f32": embedding_case,
    "rope/f32": cases(rope, ROWS),
    "adamw/f32": adamw,
}
