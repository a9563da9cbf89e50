"""Small vectors for single formulas, in float64: optimizer, schedules, activations, norms, loss, attention, rotary
positions.

Inputs are short binary fractions, so they are exact in float32 too. Every result is computed twice, by PyTorch and by
a second formula written out here, and both must agree.
"""

import copy
import json
import math
import types

import numpy
import torch
import torch.nn.functional as F
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.masking_utils import sliding_window_overlay
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward as gemma2

import exact

DOUBLE = torch.float64


def lr_cosine(step, maximum, minimum, warmup, cycle):
    """CS336's convention: a linear rise from 0 at step 0, the maximum at `warmup`, the minimum from `cycle` on."""
    if step < warmup:
        return maximum * step / warmup
    if step > cycle:
        return minimum
    angle = math.pi * (step - warmup) / (cycle - warmup)
    return minimum + 0.5 * (1.0 + math.cos(angle)) * (maximum - minimum)


def lr_nanogpt(step, maximum, minimum, warmup, decay):
    """nanoGPT's convention: step 0 has a rate already, (step + 1) / (warmup + 1) of the maximum."""
    if step < warmup:
        return maximum * (step + 1) / (warmup + 1)
    if step > decay:
        return minimum
    angle = math.pi * (step - warmup) / (decay - warmup)
    return minimum + 0.5 * (1.0 + math.cos(angle)) * (maximum - minimum)


def schedules():
    unit = dict(maximum=1.0, minimum=0.1, warmup=7, cycle=21)
    cosine = unit | {"lr": [lr_cosine(step, **unit) for step in range(25)]}
    run = dict(maximum=1e-3, minimum=1e-4, warmup=100, decay=2000)
    steps = [0, 1, 50, 99, 100, 101, 500, 1050, 1999, 2000, 2001, 5000]
    nanogpt = run | {"steps": steps, "lr": [lr_nanogpt(step, **run) for step in steps]}
    # PyTorch's schedulers as the second opinion on both cosines.
    for curve in (cosine["lr"][7:22], [lr_nanogpt(step, **run) for step in range(100, 2001)]):
        optimizer = torch.optim.SGD([torch.zeros(1, dtype=DOUBLE)], lr=curve[0])
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(curve) - 1, eta_min=curve[-1])
        for value in curve:
            assert abs(scheduler.get_last_lr()[0] - value) < 1e-10
            optimizer.step()
            scheduler.step()
    return {"cosine_cs336": cosine, "cosine_nanogpt": nanogpt}


ADAMW = {
    "gradient": "g[i] = scale[i] * (0.5 * p[i] + cos(0.013 * (i + 1) * t) + 0.25), p before step t, t = 1 is the first",
    "lr": {"convention": "cosine_cs336 at t", "maximum": 0.01, "minimum": 0.001, "warmup": 100, "cycle": 1000},
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "weight_decay": 0.01,
    # The last two tell where eps is added: beside gradients of 1e-8 it isn't small.
    "scale": [1.0, 3.0, 2.0, 0.5, 0.25, 1.0, 0.001, 1e-8],
    "start": [0.25, -0.125, 0.5, -0.375, 0.0625, 0.0, -0.25, 0.125],
}
SNAPSHOTS = (1, 10, 100, 1000)


def adamw():
    """A thousand steps on eight parameters; m and v are the moments before bias correction."""
    scale = torch.tensor(ADAMW["scale"], dtype=DOUBLE)
    index = torch.arange(1, 9, dtype=DOUBLE)
    parameter = torch.tensor(ADAMW["start"], dtype=DOUBLE, requires_grad=True)
    betas, eps, decay = ADAMW["betas"], ADAMW["eps"], ADAMW["weight_decay"]
    optimizer = torch.optim.AdamW([parameter], betas=betas, eps=eps, weight_decay=decay, foreach=False)
    second = numpy.array(ADAMW["start"])
    m, v = numpy.zeros(8), numpy.zeros(8)
    lr_shape = {key: value for key, value in ADAMW["lr"].items() if key != "convention"}
    snapshots = []
    for t in range(1, 1001):
        lr = optimizer.param_groups[0]["lr"] = lr_cosine(t, **lr_shape)
        parameter.grad = scale * (0.5 * parameter.detach() + torch.cos(0.013 * index * t) + 0.25)
        optimizer.step()

        g = scale.numpy() * (0.5 * second + numpy.cos(0.013 * index.numpy() * t) + 0.25)
        m = betas[0] * m + (1.0 - betas[0]) * g
        v = betas[1] * v + (1.0 - betas[1]) * g * g
        corrected = numpy.sqrt(v / (1.0 - betas[1] ** t)) + eps
        second = second * (1.0 - lr * decay) - lr * (m / (1.0 - betas[0] ** t)) / corrected
        if t in SNAPSHOTS:
            state = optimizer.state[parameter]
            numpy.testing.assert_allclose(parameter.detach().numpy(), second, rtol=0, atol=1e-13)
            row = {"params": parameter.detach(), "m": state["exp_avg"], "v": state["exp_avg_sq"]}
            snapshots.append({"step": t, "lr": lr} | {key: value.tolist() for key, value in row.items()})
    return ADAMW | {"snapshots": snapshots}


def gelu():
    """x, then value and derivative of both forms. Tails by erfc and the logistic function, which don't cancel."""
    points = [0.0]
    for x in (2**-10, 0.0625, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 5, 8, 12):
        points += [-x, float(x)]
    points.sort()
    result = {"x": points, "exact": [], "exact_derivative": [], "tanh": [], "tanh_derivative": []}
    c = math.sqrt(2.0 / math.pi)
    for x in points:
        below = 0.5 * math.erfc(-x / math.sqrt(2.0))
        result["exact"].append(x * below)
        result["exact_derivative"].append(below + x * math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi))
        u = 2.0 * c * (x + 0.044715 * x**3)
        logistic, complement = 1.0 / (1.0 + math.exp(-u)), 1.0 / (1.0 + math.exp(u))
        result["tanh"].append(x * logistic)
        slope = 2.0 * c * (1.0 + 3.0 * 0.044715 * x * x)
        result["tanh_derivative"].append(logistic + x * logistic * complement * slope)
    for form, approximate in (("exact", "none"), ("tanh", "tanh")):
        x = torch.tensor(points, dtype=DOUBLE, requires_grad=True)
        y = F.gelu(x, approximate=approximate)
        y.sum().backward()
        numpy.testing.assert_allclose(result[form], y.detach().numpy(), rtol=0, atol=1e-14)
        numpy.testing.assert_allclose(result[form + "_derivative"], x.grad.numpy(), rtol=0, atol=1e-14)
    return result


def fractions(random, shape, denominator, size):
    """Random multiples of 1/denominator, up to about 3 · size."""
    return torch.from_numpy(numpy.round(random.standard_normal(shape) * size * denominator) / denominator)


def rows():
    """x [5, 8]: plain, large, small, far from zero with little spread, constant."""
    random = numpy.random.Generator(numpy.random.PCG64(11))
    x = fractions(random, (5, 8), 64, 1.0)
    x[1] *= 32.0
    x[2] /= 1024.0
    x[3] = 64.0 + x[3] / 4.0
    x[4] = 3.0
    dy = fractions(random, (5, 8), 64, 1.0)
    weight, bias = 1.0 + fractions(random, (8,), 64, 0.3), fractions(random, (8,), 64, 0.3)
    return x, dy, weight, bias


def layer_norm():
    x, dy, weight, bias = rows()
    for tensor in (x, weight, bias):
        tensor.requires_grad_()
    eps = 1e-5
    y = F.layer_norm(x, (8,), weight, bias, eps)
    y.backward(dy)
    with torch.no_grad():
        mean = x.mean(1)
        rstd = 1.0 / torch.sqrt((x - mean[:, None]).square().mean(1) + eps)
        normal = (x - mean[:, None]) * rstd[:, None]
        inner = dy * weight
        dx = rstd[:, None] * (inner - inner.mean(1, True) - normal * (inner * normal).mean(1, True))
        torch.testing.assert_close(y, normal * weight + bias, rtol=0, atol=1e-12)
        torch.testing.assert_close(x.grad, dx, rtol=0, atol=1e-10)
        torch.testing.assert_close(weight.grad, (dy * normal).sum(0), rtol=0, atol=1e-12)
    return {
        "eps": eps, "x": x, "weight": weight, "bias": bias, "y": y, "mean": mean, "rstd": rstd,
        "dy": dy, "dx": x.grad, "dweight": weight.grad, "dbias": bias.grad,
    }


def rms_norm():
    x, dy, weight, _ = rows()
    x[4] = 0.0
    for tensor in (x, weight):
        tensor.requires_grad_()
    eps = 1e-5
    y = F.rms_norm(x, (8,), weight, eps)
    y.backward(dy)
    with torch.no_grad():
        rstd = 1.0 / torch.sqrt(x.square().mean(1) + eps)
        normal = x * rstd[:, None]
        inner = dy * weight
        dx = rstd[:, None] * (inner - normal * (inner * normal).mean(1, True))
        torch.testing.assert_close(y, normal * weight, rtol=0, atol=1e-12)
        torch.testing.assert_close(x.grad, dx, rtol=0, atol=1e-10)
        torch.testing.assert_close(weight.grad, (dy * normal).sum(0), rtol=0, atol=1e-12)
    return {
        "eps": eps, "x": x, "weight": weight, "y": y, "rstd": rstd, "dy": dy, "dx": x.grad, "dweight": weight.grad,
    }


def cross_entropy():
    """Five rows: plain, ignored, a target that has all the mass, a target that has none, plain."""
    random = numpy.random.Generator(numpy.random.PCG64(12))
    logits = fractions(random, (5, 7), 64, 2.0)
    targets = torch.tensor([2, -100, 4, 1, 6])
    logits[2, 4] = 90.0
    logits[3, 0], logits[3, 1] = 100.0, -100.0
    logits.requires_grad_()
    losses = F.cross_entropy(logits, targets, ignore_index=-100, reduction="none")
    mean = F.cross_entropy(logits, targets, ignore_index=-100)
    mean.backward()
    with torch.no_grad():
        kept = targets != -100
        index = targets.clamp(min=0)
        second = torch.logsumexp(logits, 1) - logits.gather(1, index[:, None])[:, 0]
        torch.testing.assert_close(losses, second * kept, rtol=0, atol=1e-12)
        one_hot = F.one_hot(index, 7)
        gradient = (torch.softmax(logits, 1) - one_hot) * kept[:, None] / kept.sum()
        torch.testing.assert_close(logits.grad, gradient, rtol=0, atol=1e-14)
    return {"logits": logits, "targets": targets, "losses": losses, "mean": mean, "dlogits_of_mean": logits.grad}


def capped_attention():
    """Capped scores in a sliding window: 2 query heads of 4 features on one key head, 6 tokens.

    The second formula is that of transformers' Gemma 2, which rounds its softmax to float32, under the mask of its
    sliding windows.
    """
    random = numpy.random.Generator(numpy.random.PCG64(13))
    scale, cap, window = 0.5, 1.5, 4
    q, k, v = (fractions(random, shape, 64, size) for shape, size in (((6, 8), 2.0), ((6, 4), 2.0), ((6, 4), 1.0)))
    dout = fractions(random, (6, 8), 64, 1.0)
    inputs = [q, k, v]
    [tensor.requires_grad_() for tensor in inputs]
    heads = q.view(6, 2, 4).transpose(0, 1)
    scores = cap * torch.tanh(heads @ k.T * scale / cap)
    sees = sliding_window_overlay(window)
    hidden = torch.tensor([[key > query or not sees(0, 0, query, key) for key in range(6)] for query in range(6)])
    scores = scores.masked_fill(hidden, -torch.inf)
    out = (torch.softmax(scores, 2) @ v).transpose(0, 1).reshape(6, 8)
    gradients = torch.autograd.grad(out, inputs, dout)
    with torch.no_grad():
        mask = torch.zeros(6, 6, dtype=DOUBLE).masked_fill(hidden, torch.finfo(torch.float32).min)
        module = types.SimpleNamespace(num_key_value_groups=2, training=False)
        theirs, _ = gemma2(module, heads[None], k[None, None], v[None, None], mask, scaling=scale, softcap=cap)
        torch.testing.assert_close(theirs.reshape(6, 8), out, rtol=0, atol=1e-6)
    result = {"scale": scale, "cap": cap, "window": window, "q": q, "k": k, "v": v, "out": out, "dout": dout}
    return result | {"lse": torch.logsumexp(scores, 2).T} | dict(zip(("dq", "dk", "dv"), gradients))


# A name, the keys of the rotation, and the length of a sequence.
ROPES = [
    ("plain", {"rope_theta": 5e5}, 100),
    ("linear", {"rope_theta": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}, 100),
    ("dynamic, short", {"rope_theta": 1e4, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, 64),
    ("llama3", {"rope_theta": 5e5, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512}}, 100),
    # As Qwen2.5 states it, and with every key.
    ("yarn", {"rope_theta": 1e6, "rope_scaling": {
        "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}}, 100),
    ("yarn, all keys", {"rope_theta": 1e4, "rope_scaling": {
        "rope_type": "yarn", "factor": 16.0, "beta_fast": 20.0, "beta_slow": 2.0, "attention_factor": 1.5,
        "original_max_position_embeddings": 300, "truncate": False}}, 100),
    ("longrope, short", {"rope_theta": 1e4, "rope_scaling": {
        "rope_type": "longrope", "short_factor": [1.0 + 0.1 * i for i in range(16)],
        "long_factor": [2.0 + 0.7 * i for i in range(16)], "original_max_position_embeddings": 64}}, 64),
    ("longrope, long", {"rope_theta": 1e4, "rope_scaling": {
        "rope_type": "longrope", "short_factor": [1.0 + 0.1 * i for i in range(16)], "factor": 3.0,
        "long_factor": [2.0 + 0.7 * i for i in range(16)], "original_max_position_embeddings": 64}}, 65),
]


def ropes():
    """Frequencies and the attention factor of every kind of scaling: the formulas of `exact`, which transformers' own
    float32 numbers agree with."""
    result = {}
    for name, keys, length in ROPES:
        published = {
            "model_type": "llama", "vocab_size": 7, "hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1,
            "intermediate_size": 8, "max_position_embeddings": 2048, **keys,
        }
        config = LlamaConfig.from_dict(copy.deepcopy(published))
        frequencies, factor = exact.rope(config, length)
        kind = config.rope_parameters["rope_type"]
        if kind != "default":
            theirs, their_factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)
            torch.testing.assert_close(theirs.double(), frequencies, rtol=2e-6, atol=0.0)
            assert abs(their_factor - factor) < 1e-12, name
        result[name] = {"config": published, "length": length, "frequencies": frequencies, "attention_factor": factor}
    # Beyond the context of the configuration, which only a table of its own reaches here.
    config = LlamaConfig.from_dict(copy.deepcopy(result["dynamic, short"]["config"]))
    theirs, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, "cpu", seq_len=3000)
    frequencies, _ = exact.rope(config, 3000)
    torch.testing.assert_close(theirs.double(), frequencies, rtol=2e-6, atol=0.0)
    result["dynamic, long"] = result["dynamic, short"] | {"length": 3000, "frequencies": frequencies}
    return result


def make():
    """Every vector as plain lists and numbers."""
    result = {"adamw": adamw()} | schedules()
    result |= {"gelu": gelu(), "layer_norm": layer_norm(), "rms_norm": rms_norm(), "cross_entropy": cross_entropy()}
    result |= {"capped_attention": capped_attention()}
    result |= {"rope": ropes()}

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return value.tolist() if isinstance(value, torch.Tensor) else value

    return plain(result)


def to_json(sections):
    """Compact, but a line for each section."""
    lines = [f"{json.dumps(name)}:{json.dumps(body, separators=(',', ':'))}" for name, body in sections.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def assert_same(old, new, path):
    """Equal structure, numbers equal to 1e-12 (relative above 1)."""
    assert isinstance(old, (int, float)) == isinstance(new, (int, float)), path
    if isinstance(new, dict):
        assert old.keys() == new.keys(), path
        for key in new:
            assert_same(old[key], new[key], f"{path}.{key}")
    elif isinstance(new, list):
        assert len(old) == len(new), path
        for index, pair in enumerate(zip(old, new)):
            assert_same(*pair, f"{path}[{index}]")
    elif isinstance(new, (int, float)):
        assert abs(old - new) <= 1e-12 * max(1.0, abs(new)), f"{path}: {old} and {new}"
    else:
        assert old == new, path
