#!/usr/bin/env python3
"""Why a few codes of Q4_0 and Q5_0 differ between llama.cpp's quantizer and the package `gguf`, which smallmind equals.

A code is `x / d + 8.5` (or 16.5) without its fraction. A library that was compiled with fused multiply-add rounds the
sum once, one without rounds the product too. This computes both here and counts the codes that differ from those of
a libllama.

    python rounding.py --libllama libllama.so --models models --bin ../../target/debug
"""

import argparse
import pathlib

import numpy

from compare import MIXES, tensors
from library import LlamaCpp, smallmind

# Format: bytes of a block, the integer of the greatest magnitude, what is added, the largest code.
FORMATS = {"Q4_0": (18, -8.0, 8.5, 15), "Q5_0": (22, -16.0, 16.5, 31)}


def stored_codes(data, form):
    blocks = data.view(numpy.uint8).reshape(-1, FORMATS[form][0])
    four = numpy.concatenate([blocks[:, -16:] & 15, blocks[:, -16:] >> 4], axis=1).astype(numpy.int32)
    if form == "Q4_0":
        return four
    fifth = (blocks[:, 2:6].copy().view(numpy.uint32) >> numpy.arange(32, dtype=numpy.uint32)) & 1
    return four | (fifth.astype(numpy.int32) << 4)


def codes(x, form, is_fused):
    _, low, half, top = FORMATS[form]
    x = x.reshape(-1, 32)
    d = numpy.take_along_axis(x, abs(x).argmax(axis=1)[:, None], 1) / numpy.float32(low)
    with numpy.errstate(divide="ignore"):
        inverse = numpy.where(d == 0.0, numpy.float32(0.0), numpy.float32(1.0) / d)
    if is_fused:
        # The product is exact in double.
        sums = (x.astype(numpy.float64) * inverse.astype(numpy.float64) + half).astype(numpy.float32)
    else:
        sums = x * inverse + numpy.float32(half)
    return numpy.minimum(sums.astype(numpy.int32), top)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libllama", required=True, help="the shared library")
    parser.add_argument("--models", type=pathlib.Path, required=True, help="the folder that models.py has filled")
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="the folder of `smallmind`")
    parser.add_argument("--scratch", type=pathlib.Path, default=pathlib.Path("/tmp"), help="where files are written")
    asked = parser.parse_args()
    llama, found = LlamaCpp(asked.libllama), {}
    plain, quantized = asked.scratch / "rounding-F32.gguf", asked.scratch / "rounding.gguf"
    for folder in sorted(path.parent for path in asked.models.glob("*/config.json")):
        smallmind(asked, "convert", "-m", folder, "--format", "F32", "--out", plain, "--overwrite")
        exact = tensors(plain)
        for form in FORMATS:
            llama.quantize(plain, quantized, MIXES[form])
            for name, tensor in tensors(quantized).items():
                if tensor.tensor_type.name != form:
                    continue
                theirs = stored_codes(tensor.data, form)
                for is_fused in (False, True):
                    different = int((codes(exact[name].data, form, is_fused) != theirs).sum())
                    sums = found.setdefault((form, is_fused), numpy.zeros(4, dtype=int))
                    sums += [1, different == 0, theirs.size, different]
    for (form, is_fused), (count, equal, elements, different) in found.items():
        how = "sum rounded once" if is_fused else "product and sum rounded"
        print(f"{form} {how}: {equal} of {count} tensors equal, {different} of {elements} codes differ")
    plain.unlink()
    quantized.unlink()


if __name__ == "__main__":
    main()
