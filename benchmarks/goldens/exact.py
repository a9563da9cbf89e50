"""Hugging Face models evaluated in float64 from end to end.

The library computes a few intermediate values in float32 whatever the type of the model: the RMSNorm, the angles of
the rotary embedding, the softmax of eager attention. In a float64 model these would be the only rounding errors of
size 1e-7, so this module replaces them by float64 twins with the same formulas. `difference_quotient` shows that no
float32 step is left; `make_goldens.py` also compares each result with the untouched float32 model. The routers of
mixtures of experts keep their softmax in float32: no gradient of such a model is stored.
"""

import math

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.gemma2 import modeling_gemma2

LIBRARY_ATTENTION = modeling_gemma2.eager_attention_forward


class RmsNorm(torch.nn.Module):
    """y = w · x / sqrt(mean(x²) + eps), in the type of x; Gemma's multiplies by 1 + w."""

    def __init__(self, norm):
        super().__init__()
        self.weight = norm.weight
        self.plus = 1.0 if type(norm).__name__.startswith("Gemma") else 0.0
        self.eps = norm.eps if self.plus else norm.variance_epsilon

    def forward(self, x):
        return (self.plus + self.weight) * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


class Rotary(torch.nn.Module):
    """cos and sin of position · frequency, the frequencies repeated for both halves of a head."""

    def __init__(self, config):
        super().__init__()
        self.config = config

    def forward(self, x, position_ids, layer_type=None):
        frequencies, factor = rope(self.config, int(position_ids.max()) + 1, layer_type)
        angles = position_ids[..., None].double() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos() * factor, angles.sin() * factor


def rope(config, length, layer_type=None):
    """The frequencies of a sequence of `length` tokens and the factor of cosines and sines, in layers of a kind if each
    kind has its own.

    theta^(-2i/d) for each pair i of the d rotated features, changed as `rope_type` says.
    """
    rope = config.rope_parameters
    rope = rope.get(layer_type, rope)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    d = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    theta, kind, factor = rope["rope_theta"], rope["rope_type"], rope.get("factor")
    context, original = config.max_position_embeddings, rope.get("original_max_position_embeddings")
    plain = torch.tensor([theta ** (-2.0 * i / d) for i in range(d // 2)], dtype=torch.float64)
    if kind == "default":
        return plain, 1.0
    if kind == "linear":
        return plain / factor, 1.0
    if kind == "dynamic":
        growth = max(length, context) / context
        theta *= (factor * growth - (factor - 1.0)) ** (d / (d - 2.0))
        return torch.tensor([theta ** (-2.0 * i / d) for i in range(d // 2)], dtype=torch.float64), 1.0
    if kind == "llama3":
        # How often the pair turns within the original context decides: many turns stay, few turns are stretched.
        turns = original * plain / (2.0 * math.pi)
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0)
        return plain * ((1.0 - smooth) / factor + smooth), 1.0
    if kind == "yarn":
        # The pair that turns so often within the original context.
        pair = lambda turns: d * math.log(original / (turns * 2.0 * math.pi)) / (2.0 * math.log(theta))
        low, high = pair(rope.get("beta_fast") or 32.0), pair(rope.get("beta_slow") or 1.0)
        if rope.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, d - 1)
        divided = ((torch.arange(d // 2, dtype=torch.float64) - low) / (high - low or 0.001)).clamp(0.0, 1.0)
        attention = rope.get("attention_factor") or (0.1 * math.log(factor) + 1.0 if factor > 1.0 else 1.0)
        return plain / factor * divided + plain * (1.0 - divided), attention
    assert kind == "longrope", rope
    factors = rope["long_factor"] if length > original else rope["short_factor"]
    growth = factor or context / original
    usual = math.sqrt(1.0 + math.log(growth) / math.log(original)) if growth > 1.0 else 1.0
    return plain / torch.tensor(factors, dtype=torch.float64), rope.get("attention_factor") or usual


def capped_attention(module, query, key, value, mask, scaling, softcap, **more):
    """Attention with a soft cap of the scores: that of the library, which takes the softmax in float32, or a twin."""
    if query.dtype == torch.float32:
        return LIBRARY_ATTENTION(module, query, key, value, mask, scaling=scaling, softcap=softcap, **more)
    groups = module.num_key_value_groups
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = softcap * torch.tanh(query @ key.transpose(2, 3) * scaling / softcap) + mask
    weights = torch.softmax(scores, dim=-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


modeling_gemma2.eager_attention_forward = capped_attention


def load(folder, dtype):
    """The model of a folder: float32 as the library runs it, or float64 with every step in float64."""
    # The fused attention leaves soft caps out.
    capped = AutoConfig.from_pretrained(folder).model_type == "gemma2"
    # Products of all experts at once know no float64.
    chosen = {"attn_implementation": "eager" if capped else "sdpa", "experts_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **chosen)
    model.eval()
    if dtype != torch.float64:
        return model
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                setattr(parent, name, RmsNorm(child))
            elif type(child).__name__.endswith("RotaryEmbedding"):
                kinds = sorted(set(model.config.layer_types)) if model.config.model_type == "gemma3_text" else [None]
                for kind in kinds:
                    frequencies, factor = rope(model.config, 1, kind)
                    prefix = f"{kind}_" if kind else ""
                    inv_freq, scaling = (getattr(child, prefix + name) for name in ("inv_freq", "attention_scaling"))
                    torch.testing.assert_close(inv_freq.double(), frequencies, rtol=2e-6, atol=0.0)
                    assert abs(scaling - factor) < 1e-12, (scaling, factor)
                setattr(parent, name, Rotary(model.config))
            elif hasattr(child, "embed_scale"):
                child.embed_scale = torch.tensor(child.scalar_embed_scale, dtype=torch.float64)
    return model


def logits(model, tokens):
    """Logits [sequences, positions, vocab]. The plain attention kernel: no approximated exponentials."""
    with sdpa_kernel(SDPBackend.MATH):
        return model(input_ids=tokens, use_cache=False).logits


def loss(model, tokens, targets):
    """Mean cross entropy over the targets that are not -100."""
    scores = logits(model, tokens)
    return torch.nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=-100)


def difference_quotient(model, tokens, targets, seed):
    """The derivative of the loss along a random direction: (central difference, gradient · direction).

    With a step of 1e-6, one value rounded to float32 on the way would leave an error of about 0.1.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = list(model.parameters())
    directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
    gradients = torch.autograd.grad(loss(model, tokens, targets), parameters)
    slope = sum((g * d).sum().item() for g, d in zip(gradients, directions))
    step, ends = 1e-6, []
    with torch.no_grad():
        for sign in (1.0, -1.0):
            for parameter, direction in zip(parameters, directions):
                parameter.add_(direction, alpha=sign * step)
            ends.append(loss(model, tokens, targets).item())
            for parameter, direction in zip(parameters, directions):
                parameter.sub_(direction, alpha=sign * step)
    return (ends[0] - ends[1]) / (2.0 * step), slope
