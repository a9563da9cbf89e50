"""Hugging Face models evaluated in float64 from end to end.

The library computes a few intermediate values in float32 whatever the type of the model: the RMSNorm, the angles of
the rotary embedding, the softmax of eager attention. In a float64 model these would be the only rounding errors of
size 1e-7, so this module replaces them by float64 twins with the same formulas. `difference_quotient` shows that no
float32 step is left; `make_goldens.py` also compares each result with the untouched float32 model.
"""

import math

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM


class RmsNorm(torch.nn.Module):
    """y = w · x / sqrt(mean(x²) + eps), in the type of x."""

    def __init__(self, norm):
        super().__init__()
        self.weight = norm.weight
        self.eps = norm.variance_epsilon

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


class Rotary(torch.nn.Module):
    """cos and sin of position · frequency, the frequencies repeated for both halves of a head."""

    def __init__(self, inverse_frequencies):
        super().__init__()
        self.inverse_frequencies = inverse_frequencies

    def forward(self, x, position_ids, *_):
        angles = position_ids[..., None].double() * self.inverse_frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()


def inverse_frequencies(config):
    """theta^(-2i/head_dim) for each pair i, with the wavelength-dependent scaling of Llama 3.1 where asked for."""
    rope = config.rope_parameters
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    plain = [rope["rope_theta"] ** (-2.0 * i / head_dim) for i in range(head_dim // 2)]
    if rope["rope_type"] == "default":
        return torch.tensor(plain, dtype=torch.float64)
    assert rope["rope_type"] == "llama3", rope
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    scaled = []
    for frequency in plain:
        # How often the pair turns within the original context decides: many turns stay, few turns are stretched.
        turns = rope["original_max_position_embeddings"] * frequency / (2.0 * math.pi)
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        scaled.append(frequency * ((1.0 - smooth) / factor + smooth))
    return torch.tensor(scaled, dtype=torch.float64)


def load(folder, dtype):
    """The model of a folder: float32 as the library runs it, or float64 with every step in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    model.eval()
    if dtype != torch.float64:
        return model
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                setattr(parent, name, RmsNorm(child))
            elif type(child).__name__.endswith("RotaryEmbedding"):
                exact = inverse_frequencies(model.config)
                torch.testing.assert_close(child.inv_freq.double(), exact, rtol=1e-6, atol=0.0)
                setattr(parent, name, Rotary(exact))
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
