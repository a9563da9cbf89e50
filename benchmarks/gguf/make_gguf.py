"""Writes the GGUF files under crates/checkpoint/tests/goldens with the Python package `gguf`.

    python make_gguf.py           # write
    python make_gguf.py --check   # write elsewhere and compare with what is stored

`plain.gguf` and `aligned.gguf` hold a value of every metadata type and tensors of plain numbers and of blocks;
`split-0000N-of-00003.gguf` are the same model in three files.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

GOLDENS = Path(__file__).resolve().parents[2] / "crates/checkpoint/tests/goldens"
FILES = ["plain.gguf", "aligned.gguf"] + [f"split-{part:05d}-of-00003.gguf" for part in (1, 2, 3)]


def values(*shape):
    """i / 8 - 4 for i modulo 64: exact in every type of plain numbers."""
    return (np.arange(np.prod(shape)) % 64 / 8 - 4).reshape(shape)


def add_metadata(writer):
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -100)
    writer.add_uint16("u16", 60_000)
    writer.add_int16("i16", -30_000)
    writer.add_uint32("u32", 4_000_000_000)
    writer.add_int32("i32", -2_000_000_000)
    writer.add_float32("f32", 0.1)
    writer.add_bool("bool", True)
    writer.add_string("string", "naïve 🙂\n")
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -(2**63))
    writer.add_float64("f64", 0.1)
    writer.add_key_value("array.u8", [1, 2, 255], GGUFValueType.ARRAY, GGUFValueType.UINT8)
    writer.add_array("array.i32", [-1, 0, 1])
    writer.add_array("array.f32", [0.5, -0.25])
    writer.add_array("array.bool", [True, False, True])
    writer.add_array("array.string", ["<s>", "", "▁ä", "\0"])
    writer.add_array("array.array", [[1, 2], [3]])


def add_tensors(writer):
    writer.add_tensor("f32", values(3, 5).astype(np.float32))
    writer.add_tensor("f16", values(2, 2, 4).astype(np.float16))
    bf16 = (values(7).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    writer.add_tensor("bf16", bf16.view(np.uint8), raw_dtype=GGMLQuantizationType.BF16)
    writer.add_tensor("f64", values(1, 1, 2, 3).astype(np.float64))
    writer.add_tensor("i32", np.arange(-3, 3, dtype=np.int32))
    random = np.random.default_rng(12)
    for name, rows, bytes_of_row in [("q4_0", 2, 36), ("q8_0", 3, 34), ("iq4_nl", 1, 18), ("q6_k", 1, 210), ("mxfp4", 2, 17)]:
        data = random.integers(0, 256, (rows, bytes_of_row), dtype=np.uint8)
        writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType[name.upper()])


def write(path, alignment=None, **split):
    writer = GGUFWriter(path, "llama", **split)
    add_metadata(writer)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    add_tensors(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_all(folder):
    write(folder / "plain.gguf")
    write(folder / "aligned.gguf", alignment=64)
    write(folder / "split.gguf", split_max_tensors=4)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with what is stored instead of writing it")
    if not parser.parse_args().check:
        GOLDENS.mkdir(exist_ok=True)
        write_all(GOLDENS)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_all(Path(folder))
        different = [name for name in FILES if (Path(folder) / name).read_bytes() != (GOLDENS / name).read_bytes()]
    if different:
        sys.exit(f"these differ from what is stored: {', '.join(different)}")
    print(f"{len(FILES)} files are as stored")


if __name__ == "__main__":
    main()
