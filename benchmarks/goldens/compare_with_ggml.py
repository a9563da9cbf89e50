"""GGML's own quantization and dequantization, by the shared library of the package `libggml-python`.

    python3 -m venv venv
    venv/bin/pip install gguf==0.19.0 numpy==2.4.6 libggml-python==0.20.2.post1
    venv/bin/python compare_with_ggml.py             # compare the goldens with GGML, write its errors
    venv/bin/python compare_with_ggml.py --blocks F  # write GGML's blocks of many rows into the folder F

The first form compares GGML with the goldens of `make_block_goldens.py` and writes
`crates/kernels/tests/goldens/ggml-errors.txt`: the squared errors of GGML's blocks of the rows of `rows.bin`, weighted
and plain, without importance and with it. The second form is for a table of errors:

    SMALLMIND_GGML_BLOCKS=F cargo test --workspace --lib -- --ignored --nocapture errors_beside_ggml
"""

import argparse
import ctypes
import pathlib

import libggml
import numpy as np
from gguf import GGMLQuantizationType, dequantize
from gguf.constants import GGML_QUANT_SIZES

FOLDER = pathlib.Path(__file__).parents[2] / "crates/kernels/tests/goldens"
QUANTIZED = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"]
SEARCHED = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
WITH_IMPORTANCE = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", *SEARCHED]


class InitParams(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


class TypeTraits(ctypes.Structure):
    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    ]


def load():
    folder = pathlib.Path(libggml.__file__).parent
    ggml = ctypes.CDLL(str(next(folder.glob("lib*/libggml-base.so"))))
    ggml.ggml_init.argtypes = [InitParams]
    ggml.ggml_init.restype = ctypes.c_void_p
    ggml.ggml_get_type_traits.restype = ctypes.POINTER(TypeTraits)
    ggml.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p
    ]
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    # The first context fills GGML's tables.
    ggml.ggml_init(InitParams(1024, None, False))
    return ggml


def quantize(ggml, name, rows, importance=None):
    """GGML's blocks of rows [n, k], with one importance [k] for all of them."""
    kind = GGMLQuantizationType[name]
    elements, size = GGML_QUANT_SIZES[kind]
    n, k = rows.shape
    blocks = np.zeros((n, k // elements * size), dtype=np.uint8)
    weights = None if importance is None else importance.ctypes.data
    written = ggml.ggml_quantize_chunk(kind.value, rows.ctypes.data, blocks.ctypes.data, 0, n, k, weights)
    assert written == blocks.size, name
    return blocks


def to_float(ggml, name, blocks):
    kind = GGMLQuantizationType[name]
    elements, size = GGML_QUANT_SIZES[kind]
    values = np.full(blocks.size // size * elements, np.nan, dtype=np.float32)
    ggml.ggml_get_type_traits(kind.value).contents.to_float(blocks.ctypes.data, values.ctypes.data, values.size)
    return values


def weights(name, x, importance=None):
    """The weights of squared errors that GGML's search for scales uses, for rows [n, 256]."""
    x = x.astype(np.float64)
    if importance is not None:
        if name == "Q6_K":
            return np.broadcast_to(importance.astype(np.float64), x.shape)
        # σ² over the row for the formats without super-blocks, over the block else.
        block = 32 if name == "IQ4_NL" else 256
        double = 1 if name in ("Q2_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1") else 2
        squares = (x.reshape(-1, block) ** 2).mean(axis=1, keepdims=True) * np.ones(block)
        return importance * np.sqrt(double * squares.reshape(x.shape) + x**2)
    if name == "Q2_K":
        return np.abs(x)
    if name in ("Q4_K", "Q5_K"):
        sub = x.reshape(-1, 32)
        return (np.sqrt((sub**2).mean(axis=1, keepdims=True)) + np.abs(sub)).reshape(x.shape)
    return x**2


def importance_of(k):
    """The importance of element i of a row: a function that the Rust test has too."""
    i = np.arange(k)
    return ((i * 37 % 101) / 50.0 + 0.02).astype(np.float32)


def errors(ggml, name, x, importance):
    """Weighted and plain squared error of each row."""
    values = dequantize(quantize(ggml, name, x, importance), GGMLQuantizationType[name]).astype(np.float64)
    square = (values - x) ** 2
    return (weights(name, x, importance) * square).sum(axis=1), square.sum(axis=1)


def compare_goldens(ggml):
    for path in sorted(FOLDER.glob("unpack-*.bin")):
        name = path.stem.removeprefix("unpack-").upper()
        elements, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
        content = np.fromfile(path, dtype=np.uint8)
        blocks = content[: content.size // (size + 4 * elements) * size].copy()
        values = content[blocks.size :].view("<f4")
        got = to_float(ggml, name, blocks)
        print(f"{name}: {(got.view(np.uint32) != values.view(np.uint32)).sum()} of {values.size} values differ from gguf")
    x = np.fromfile(FOLDER / "rows.bin", dtype="<f4").reshape(-1, 256)
    for path in sorted(FOLDER.glob("pack-*.bin")):
        name = path.stem.removeprefix("pack-").upper()
        want = np.fromfile(path, dtype=np.uint8)
        if name not in ("F16", "BF16"):
            size = GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]
            differ = (quantize(ggml, name, x).reshape(-1, size) != want.reshape(-1, size)).any(axis=1)
            print(f"{name}: {differ.sum()} of {differ.size} blocks differ from gguf: {np.flatnonzero(differ)}")
    with open(FOLDER / "ggml-errors.txt", "w") as out:
        for name in WITH_IMPORTANCE:
            for importance in [None, importance_of(256)] if name in SEARCHED else [importance_of(256)]:
                kind = "own" if importance is None else "importance"
                for row, (weighted, plain) in enumerate(zip(*errors(ggml, name, x, importance))):
                    print(name.lower(), kind, row, f"{weighted:.9e} {plain:.9e}", file=out)


def write_blocks(ggml, folder):
    random = np.random.default_rng(7)
    n, k = 64, 1024
    kinds = {
        "normal": random.standard_normal((n, k)) * 0.02,
        "uniform": random.uniform(-0.05, 0.05, (n, k)),
        "heavy": random.standard_t(3, (n, k)) * 0.02,
        "positive": np.abs(random.standard_normal((n, k))) * 0.02,
        "constant": np.repeat(random.uniform(-1, 1, (n, 1)), k, axis=1),
        "small": random.standard_normal((n, k)) * 2e-5,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for kind, rows in kinds.items():
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        (folder / f"{kind}.rows").write_bytes(rows.tobytes())
        for name in QUANTIZED:
            (folder / f"{kind}.{name.lower()}.own").write_bytes(quantize(ggml, name, rows).tobytes())
            if name in WITH_IMPORTANCE:
                blocks = quantize(ggml, name, rows, importance_of(k))
                (folder / f"{kind}.{name.lower()}.importance").write_bytes(blocks.tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=pathlib.Path, metavar="F", help="write GGML's blocks of many rows into F")
    folder = parser.parse_args().blocks
    ggml = load()
    if folder:
        write_blocks(ggml, folder)
    else:
        compare_goldens(ggml)


if __name__ == "__main__":
    main()
