#!/usr/bin/env python3
"""Fits the polynomials of crates/kernels/src/activation/tables.rs and prints its tables.

With a = |x| both forms of GELU are max(x, 0) - a T(a), and their derivative is U(a) at -a and 1 - U(a) at a. T and U are
fitted on 15 pieces of equal width around the multiples of that width; from the end of the last one on they are 0.
Each fit is a minimax fit by Lawson's iteration (reweighted least squares at Chebyshev points). Needs numpy and mpmath.

    python3 benchmarks/goldens/activation_tables.py | rustfmt
"""

import numpy as np
from mpmath import erfc, exp, mp, mpf, pi, sqrt

mp.dps = 30
DEGREE = 5
PIECES = 15
POINTS = 64
ITERATIONS = 60

CUBIC = mpf("0.044715")
SLOPE = sqrt(2 / pi)


def exact(a):
    """The tail of the normal distribution."""
    return erfc(a / sqrt(mpf(2))) / 2


def exact_slope(a):
    return exact(a) - a * exp(-a * a / 2) / sqrt(2 * pi)


def tanh(a):
    return 1 / (1 + exp(2 * SLOPE * (a + CUBIC * a**3)))


def tanh_slope(a):
    s = tanh(a)
    return s - a * s * (1 - s) * 2 * SLOPE * (1 + 3 * CUBIC * a * a)


TABLES = [
    ("EXACT", "`Φ(−a)`, the tail of the normal distribution", exact, 6.0),
    ("EXACT_SLOPE", "`Φ(−a) − a·φ(a)`, the derivative of `x·Φ(x)` at `−a`", exact_slope, 6.2),
    ("TANH", "`sigmoid(−2u(a))`", tanh, 5.4),
    ("TANH_SLOPE", "the derivative of `x·sigmoid(2u(x))` at `−a`", tanh_slope, 5.4),
]


def fit(function, width, piece):
    """Coefficients of powers of the distance from the middle of the piece, in widths."""
    distance = np.cos(np.pi * (np.arange(POINTS) + 0.5) / POINTS) / 2
    if piece == 0:
        # Magnitudes are not negative.
        distance = np.abs(distance)
    wanted = np.array([float(function((piece + mpf(d)) * width)) for d in distance])
    powers = np.vander(distance, DEGREE + 1, increasing=True)
    weights = np.ones_like(wanted)
    for _ in range(ITERATIONS):
        roots = np.sqrt(weights)
        coefficients = np.linalg.lstsq(powers * roots[:, None], wanted * roots, rcond=None)[0]
        errors = np.abs(powers @ coefficients - wanted)
        weights = weights * (errors / errors.max() + 1e-3)
        weights /= weights.sum()
    return coefficients


def literal(value):
    """An `f32` as Rust writes it: the fewest digits, in groups of three."""
    value = np.float32(value)
    if value == 0:
        return "0.0"
    if abs(value) < 1e-3:
        text = np.format_float_scientific(value, unique=True, trim="0", exp_digits=1)
    else:
        text = np.format_float_positional(value, unique=True, trim="0")
    mantissa, _, exponent = text.partition("e")
    whole, decimals = mantissa.split(".")
    grouped = "_".join(decimals[i : i + 3] for i in range(0, len(decimals), 3))
    return f"{whole}.{grouped}" + (f"e{exponent}" if exponent else "")


def main():
    for name, meaning, function, end in TABLES:
        width = end / (PIECES - 0.5)
        pieces = [fit(function, width, piece) for piece in range(PIECES)] + [np.zeros(DEGREE + 1)]
        print(f"\n/// {meaning}; 0 from {end} up.\npub(super) const {name}: Tail = Tail {{")
        print(f"    per_unit: {literal((PIECES - 0.5) / end)},\n    coefficients: [")
        for power in range(DEGREE + 1):
            print("        [" + ", ".join(literal(piece[power]) for piece in pieces) + "],")
        print("    ],\n};")


if __name__ == "__main__":
    main()
