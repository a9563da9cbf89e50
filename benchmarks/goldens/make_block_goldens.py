"""Goldens of GGML's block formats, by the Python package `gguf`, for `crates/kernels/src/blocks`.

    python3 -m venv venv
    venv/bin/pip install gguf==0.19.0 numpy==2.4.6
    venv/bin/python make_block_goldens.py --check    # compute again and compare with what is stored
    venv/bin/python make_block_goldens.py            # write

Into `crates/kernels/tests/goldens/` go

* `unpack-FORMAT.bin`: blocks of random bytes, but with finite scales, followed by their values in float32;
* `rows.bin`: rows of 256 float32, by kind in the order of `rows()`;
* `pack-FORMAT.bin`: the blocks of these rows, for the formats that `gguf` quantizes.

All numbers are little-endian.
"""

import argparse
import pathlib

import numpy as np
from gguf import GGMLQuantizationType, dequantize, quantize
from gguf.constants import GGML_QUANT_SIZES

FOLDER = pathlib.Path(__file__).parents[2] / "crates/kernels/tests/goldens"

# The bytes of a block where a float16 begins.
SCALES = {
    "F16": [0], "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": [],
}
QUANTIZED = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4"]
ELEMENTS = 1024


def finite(blocks, at):
    """Takes one bit out of the exponents of float16 that would all be set: no infinity, no NaN."""
    upper = blocks[:, at + 1]
    blocks[:, at + 1] = np.where(upper & 0x7C == 0x7C, upper & ~np.uint8(0x04), upper)


def unpack_golden(name, random):
    kind = GGMLQuantizationType[name]
    elements, size = GGML_QUANT_SIZES[kind]
    if name in ("F16", "BF16"):
        # Every pattern would be 64 Ki; these are those of every exponent, and random ones.
        patterns = np.concatenate([np.arange(0, 65536, 128), random.integers(0, 65536, 512)]).astype(np.uint16)
        blocks = patterns.view(np.uint8).reshape(-1, 2)
        if name == "BF16":
            blocks = blocks[blocks[:, 1] & 0x7F != 0x7F]
    else:
        blocks = random.integers(0, 256, (ELEMENTS // elements, size), dtype=np.uint8)
        if name == "MXFP4":
            blocks[:, 0] = np.minimum(blocks[:, 0], 252)
            blocks[:4, 0] = [0, 1, 2, 252]
    for at in SCALES.get(name, []):
        finite(blocks, at)
    values = dequantize(blocks, kind).astype("<f4")
    assert np.isfinite(values).all(), name
    return blocks.tobytes() + values.tobytes()


def rows(random):
    """Rows of 256, each of another kind. Magnitudes stay where float16 scales are finite."""
    n = 256
    normal = random.standard_normal(n)
    outlier = random.standard_normal(n) * 0.01
    outlier[77] = 50.0
    mixed = random.standard_normal(n) * np.exp2(random.integers(-20, 12, n))
    return np.array(
        [
            normal,
            normal * 0.02,
            random.uniform(-1, 1, n),
            random.uniform(0, 3, n),
            random.standard_t(2.5, n),
            np.full(n, 0.37),
            np.full(n, -1.25),
            np.zeros(n),
            outlier,
            normal * 1e-6,
            normal * 3e-38,
            normal / np.abs(normal).max() * 65000,
            # Ties: multiples of a half in units of a scale that is a power of two.
            np.tile(np.concatenate([[127.0, -8.0], np.arange(-30, 30) / 2, [15.5, 16.0]]), 4),
            np.tile(np.concatenate([[-8.0, 7.0], np.arange(-30, 30) / 4, [0.5, -0.5]]), 4),
            # Greatest magnitudes at and just below powers of two.
            np.concatenate([block / np.abs(block).max() * top for block, top in zip(
                np.split(random.standard_normal(n).astype(np.float32), 8),
                [np.float32(1), np.nextafter(np.float32(1), np.float32(0)), np.float32(1024),
                 np.nextafter(np.float32(1024), np.float32(0)), np.nextafter(np.float32(2**-20), np.float32(0)),
                 np.nextafter(np.float32(2**15), np.float32(0)), np.float32(6), np.float32(7)])]),
            mixed,
        ],
        dtype=np.float32,
    )


def goldens():
    random = np.random.default_rng(12)
    for name in ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
                 "IQ4_XS", "MXFP4"]:
        yield f"unpack-{name.lower()}.bin", unpack_golden(name, random)
    x = rows(random)
    yield "rows.bin", x.astype("<f4").tobytes()
    for name in QUANTIZED:
        with np.errstate(over="ignore", invalid="ignore"):
            yield f"pack-{name.lower()}.bin", quantize(x, GGMLQuantizationType[name]).tobytes()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with what is stored; write nothing")
    check = parser.parse_args().check
    FOLDER.mkdir(parents=True, exist_ok=True)
    total, differing = 0, []
    for name, content in goldens():
        path = FOLDER / name
        total += len(content)
        if not check:
            path.write_bytes(content)
        elif not path.exists() or path.read_bytes() != content:
            differing.append(name)
    if differing:
        raise SystemExit(f"not as stored: {', '.join(differing)}")
    print(f"{total} bytes, {'as stored' if check else 'written'}")


if __name__ == "__main__":
    main()
