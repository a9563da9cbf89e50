"""Holds what SmallMind reads of GGUF files against what the Python package `gguf` reads: every metadata key, its type
and a hash of its value.

    python compare_reading.py FILE...
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType

ROOT = Path(__file__).resolve().parents[2]
NAMES = {
    GGUFValueType.UINT8: "u8", GGUFValueType.INT8: "i8", GGUFValueType.UINT16: "u16", GGUFValueType.INT16: "i16",
    GGUFValueType.UINT32: "u32", GGUFValueType.INT32: "i32", GGUFValueType.FLOAT32: "f32", GGUFValueType.BOOL: "bool",
    GGUFValueType.STRING: "string", GGUFValueType.ARRAY: "array", GGUFValueType.UINT64: "u64",
    GGUFValueType.INT64: "i64", GGUFValueType.FLOAT64: "f64",
}


def fnv1a(data):
    """FNV-1a of 64 bits."""
    hash = 0xCBF29CE484222325
    for byte in data:
        hash = (hash ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{hash:016x}"


def lines(path):
    for key, field in GGUFReader(path).fields.items():
        # Fields of the file's beginning, which are no metadata.
        if key.startswith("GGUF."):
            continue
        types = [NAMES[value_type] for value_type in field.types]
        described = types[0] if types[0] != "array" else f"array of {types[1]}"
        # Behind the length of the key, the key and the type.
        data = b"".join(np.ascontiguousarray(part).tobytes() for part in field.parts[3:])
        yield f"{key}\t{described}\t{fnv1a(data)}"


def main():
    files = [os.path.abspath(path) for path in sys.argv[1:]]
    if not files:
        sys.exit(__doc__)
    command = ["cargo", "test", "--workspace", "--test", "round_trip", "--", "--ignored", "--nocapture", "--exact"]
    environment = {**os.environ, "SMALLMIND_GGUF_FILES": ":".join(files)}
    test = command + ["gguf::print_what_listed_files_hold"]
    printed = subprocess.run(test, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    found = [line for line in printed.splitlines() if line.count("\t") == 2]
    expected = [line for path in files for line in lines(path)]
    if found != expected:
        for ours, theirs in zip(found, expected):
            if ours != theirs:
                print(f"SmallMind: {ours}\ngguf:      {theirs}")
        sys.exit(f"{len(found)} keys read here, {len(expected)} by the package gguf: they differ")
    print(f"{len(files)} files, {len(found)} keys: equal")


if __name__ == "__main__":
    main()
