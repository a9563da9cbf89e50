"""Products of matrices in PyTorch: the ways to write one, and their check against sums in `f64`."""

import torch
from torch.nn import functional as F

from protocol import Case, Unsupported, Wrong

CHECKED = 64


def f32(params):
    return product(params, torch.float32)


def bf16(params):
    return product(params, torch.bfloat16)


def operands(params, dtype):
    """A and B as they lie in memory, and op(A)[m, k] and op(B)[k, n] as views of them."""
    layout, m, n, k = params.get("layout", "nt"), params.get("m", 1), params["n"], params["k"]
    if layout not in ("nn", "nt", "tn"):
        raise Unsupported(f"no layout {layout}")
    a = (torch.rand((k, m) if layout == "tn" else (m, k)) * 2 - 1).to(dtype)
    b = (torch.rand((n, k) if layout == "nt" else (k, n)) * 2 - 1).to(dtype)
    return a, b, (a.t() if layout == "tn" else a), (b.t() if layout == "nt" else b)


def product(params, dtype):
    """C[m, n] = op(A) op(B), or += where `accumulate` is set; a gemv is the `nt` product of one row."""
    accumulate = params.get("accumulate", False)
    a, b, left, right = operands(params, dtype)
    c = torch.zeros(left.shape[0], right.shape[1], dtype=dtype)
    if accumulate:
        ways = {"addmm": lambda: torch.addmm(c, left, right, out=c)}
        if len(c) == 1:
            vector, x, turned = c[0], left[0], right.t()
            ways["addmv"] = lambda: torch.addmv(vector, turned, x, out=vector)
    else:
        ways = {"mm": lambda: torch.mm(left, right, out=c)}
        if params.get("layout", "nt") == "nt":
            ways["linear"] = lambda: F.linear(a, b, out=c)
        if len(c) == 1:
            vector, x, turned = c[0], left[0], right.t()
            ways["mv"] = lambda: torch.mv(turned, x, out=vector)
    return Case(ways, checker(left, right, c, accumulate), torch.inference_mode)


def has_onednn():
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_f32(params):
    """The product of a linear layer by oneDNN, with the weight as it lies and with the weight packed beforehand."""
    if params.get("layout", "nt") != "nt" or params.get("accumulate", False):
        raise Unsupported("onednn has linear layers only: layout nt, without accumulate")
    a, b, left, right = operands(params, torch.float32)
    with torch.inference_mode():
        packed = torch.ops.mkldnn._reorder_linear_weight(b, len(a))
    linear = torch.ops.mkldnn._linear_pointwise
    ways = {
        "weight as it lies": lambda: linear(a, b, None, "none", [], ""),
        "weight packed": lambda: linear(a, packed, None, "none", [], ""),
    }
    return Case(ways, checker(left, right, None, accumulate=False), torch.inference_mode)


def checker(left, right, c, accumulate):
    """Compares elements all over the product with sums in `f64`. `c` is where a way writes, None where it returns."""
    (m, k), n = left.shape, right.shape[1]
    rows, columns = torch.randint(m, (CHECKED,)), torch.randint(n, (CHECKED,))
    products = left[rows].double() * right[:, columns].t().double()
    dtype = left.dtype
    # A sum in f32, rounded once to the type of the result.
    relative = torch.finfo(dtype).eps if dtype != torch.float32 else 0.0

    def check(way):
        before = c[rows, columns].double() if accumulate else 0.0
        if c is not None and not accumulate:
            c.fill_(float("nan"))
        out = way()
        got = (out if c is None else c)[rows, columns].double()
        want = products.sum(dim=1) + before
        magnitude = products.abs().sum(dim=1) + abs(before)
        error = (got - want).abs()
        bound = (k + 1) * torch.finfo(torch.float32).eps * magnitude + relative * want.abs()
        # Written so that a NaN fails.
        if not bool((error <= bound).all()):
            raise Wrong(f"off by up to {error.max().item()}")

    return check
