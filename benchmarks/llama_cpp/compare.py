#!/usr/bin/env python3
"""Holds greedy texts of models that `smallmind` writes as GGUF against those of llama.cpp, for every architecture and
format, and the same of files that llama.cpp's own quantizer writes.

    cargo build --workspace --examples --bins
    python models.py models
    python compare.py --libllama libllama.so --models models --bin ../../target/debug --out table.txt

The npm package `@node-llama-cpp/linux-x64` ships the library (`npm pack`, unpack, `bins/linux-x64/libllama.*.so`).

A line of the table is a model in a format, quantized by one of both, or by both if the bytes are the same: how many of
the texts are equal, the largest logit gap at which a text differs for the first time, the largest difference of logits
after the prompts, and three Kullback-Leibler divergences of these: of our probabilities from llama.cpp's, and of both
from those of the same weights unpacked to F32, run by llama.cpp. The last two are what each loses by rounding
activations.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import gguf
import numpy

from library import LlamaCpp, Table, smallmind

FORMATS = [
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0",
    "IQ4_NL", "IQ4_XS", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K",
]
MIXES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12,
    "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30,
    "BF16": 32,
}
PROMPTS, TOKENS, CONTEXT = 20, 64, 256


def prompts(vocabulary):
    """Twenty prompts of 3 to 60 tokens."""
    random = numpy.random.Generator(numpy.random.PCG64(11))
    return [random.integers(3, vocabulary, 3 * (i + 1)).tolist() for i in range(PROMPTS)]


def ours(asked, path, texts):
    lines = "".join(json.dumps({"prompt": prompt, "tokens": TOKENS}) + "\n" for prompt in texts)
    command = [asked.bin / "examples" / "greedy", path]
    done = subprocess.run(command, input=lines, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(" ".join(done.stderr.split()))
    return [json.loads(line) for line in done.stdout.splitlines()]


def theirs(llama, path, texts, tokens=TOKENS):
    model = llama.open(path, CONTEXT)
    results = [model.greedy(prompt, tokens) for prompt in texts]
    model.close()
    return results


def log_probabilities(results):
    logits = numpy.array([result["logits"] for result in results], dtype=numpy.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - numpy.log(numpy.exp(logits).sum(axis=1, keepdims=True))


def divergence(reference, other):
    p, q = log_probabilities(reference), log_probabilities(other)
    return float((numpy.exp(p) * (p - q)).sum(axis=1).mean())


def compare(a, b):
    """How many texts are equal, the largest gap at a first difference, the largest difference of logits."""
    equal, gap = 0, 0.0
    for one, other in zip(a, b):
        first = next((i for i, pair in enumerate(zip(one["tokens"], other["tokens"])) if pair[0] != pair[1]), None)
        if first is None:
            equal += 1
        else:
            gap = max(gap, one["gaps"][first], other["gaps"][first])
    apart = max(float(numpy.abs(numpy.subtract(x["logits"], y["logits"])).max()) for x, y in zip(a, b))
    return {"equal": equal, "gap": gap, "apart": apart}


def tensors(path):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


# The weight of an element's squared error that llama.cpp's quantizer minimizes in groups of 32, without an importance
# matrix (`ggml-quants.c`).
WEIGHTS = {
    "Q2_K": lambda x: abs(x),
    "Q3_K": lambda x: x * x,
    "Q4_K": lambda x: abs(x) + numpy.sqrt((x * x).mean(axis=-1, keepdims=True)),
    "Q5_K": lambda x: abs(x) + numpy.sqrt((x * x).mean(axis=-1, keepdims=True)),
    "Q6_K": lambda x: x * x,
    "IQ4_NL": lambda x: x * x,
    "IQ4_XS": lambda x: x * x,
}


def squared_errors(tensor, plain):
    """The sum of squared errors, and that with llama.cpp's weights."""
    values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float64).reshape(-1)
    squares = numpy.square(values - plain)
    weights = WEIGHTS.get(tensor.tensor_type.name)
    if weights is None:
        return numpy.array([squares.sum(), squares.sum()])
    return numpy.array([squares.sum(), (weights(plain.reshape(-1, 32)).reshape(-1) * squares).sum()])


def no_tensors():
    return {"tensors": 0, "equal": 0, "ours": numpy.zeros(2), "theirs": numpy.zeros(2)}


def compare_files(written, reference, source):
    """What differs between our file and llama.cpp's: formats of tensors, and bytes or the squared error."""
    mine, other, exact = tensors(written), tensors(reference), tensors(source)
    formats = [
        f"{name} {mine[name].tensor_type.name} for {tensor.tensor_type.name}"
        for name, tensor in other.items()
        if name in mine and mine[name].tensor_type != tensor.tensor_type
    ]
    formats += [f"{name} only in one" for name in mine.keys() ^ other.keys()]
    kinds = {}
    for name, tensor in other.items():
        if name not in mine or mine[name].tensor_type != tensor.tensor_type:
            continue
        same = numpy.array_equal(mine[name].data.view(numpy.uint8), tensor.data.view(numpy.uint8))
        kind = kinds.setdefault(tensor.tensor_type.name, no_tensors())
        kind["tensors"] += 1
        kind["equal"] += same
        plain = gguf.dequantize(exact[name].data, exact[name].tensor_type).astype(numpy.float64).reshape(-1)
        kind["ours"] += squared_errors(mine[name], plain)
        kind["theirs"] += squared_errors(tensor, plain)
    return formats, kinds


HEAD = f"{'model':<20} {'format':<7} {'by':<9} {'equal':>5} {'gap':>9} {'Δ logits':>9} "
HEAD += f"{'KL':>8} {'KL ours':>8} {'KL llama':>8}"


def run_format(asked, llama, name, form, table, files):
    """A model in a format, from both quantizers."""
    texts, scratch = prompts(vocabulary_of(asked, name)), asked.scratch
    plain, written, reference, unpacked = (scratch / f"{name}-{part}.gguf" for part in ("F32", "ours", "llama", "exact"))
    try:
        smallmind(asked, "quantize", "-m", asked.models / name, "--format", form, "--out", written, "--overwrite")
        llama.quantize(plain, reference, MIXES[form])
        formats, kinds = compare_files(written, reference, plain)
        files.append((name, form, formats, kinds))
        is_same = not formats and all(kind["equal"] == kind["tensors"] for kind in kinds.values())
        for by, path in (("both", written),) if is_same else (("smallmind", written), ("llama.cpp", reference)):
            a, b = ours(asked, path, texts), theirs(llama, path, texts)
            arguments = ("--format", "F32", "--allow-requantize", "--out", unpacked, "--overwrite")
            smallmind(asked, "quantize", "-m", path, *arguments)
            exact = theirs(llama, unpacked, texts, 0)
            found = compare(a, b)
            kl = [divergence(b, a), divergence(exact, a), divergence(exact, b)]
            table.line(
                f"{name:<20} {form:<7} {by:<9} {found['equal']:>5} {found['gap']:>9.2g} {found['apart']:>9.2g} "
                + " ".join(f"{max(x, 0.0):>8.1e}" for x in kl)
            )
    except RuntimeError as error:
        table.line(f"{name:<20} {form:<7} {error}")
    for path in (written, reference, unpacked):
        path.unlink(missing_ok=True)


def vocabulary_of(asked, name):
    return json.loads((asked.models / name / "config.json").read_text())["vocab_size"]


def report_files(files, table):
    table.line()
    table.line("Formats of tensors that differ from llama.cpp's mix (ours for theirs):")
    different = [(name, form, formats) for name, form, formats, _ in files if formats]
    for name, form, formats in different:
        table.line(f"{name} {form}: {'; '.join(formats)}")
    if not different:
        table.line("none")
    total = {}
    for _, _, _, kinds in files:
        for kind, found in kinds.items():
            sums = total.setdefault(kind, no_tensors())
            for key in sums:
                sums[key] += found[key]
    table.line()
    table.line("Tensors by format: how many have the bytes that llama.cpp's quantizer writes; the squared error, ours over")
    table.line("theirs; the same with the weights that llama.cpp's quantizer gives the elements")
    for kind, sums in sorted(total.items()):
        plain, weighted = numpy.divide(sums["ours"], sums["theirs"], out=numpy.ones(2), where=sums["theirs"] > 0.0)
        table.line(f"{kind:<7} {sums['equal']:>5} of {sums['tensors']:<5} {plain:.4f} {weighted:.4f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libllama", required=True, help="the shared library")
    parser.add_argument("--models", type=pathlib.Path, required=True, help="the folder that models.py has filled")
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="the folder of `smallmind` and `examples/greedy`")
    parser.add_argument("--scratch", type=pathlib.Path, default=pathlib.Path("/tmp"), help="where files are written")
    parser.add_argument("--only", nargs="*", default=[], help="models")
    parser.add_argument("--formats", nargs="*", default=FORMATS)
    parser.add_argument("--out", help="a file for the table")
    asked = parser.parse_args()
    llama, table, files = LlamaCpp(asked.libllama), Table(asked.out), []
    table.line(HEAD)
    for folder in sorted(path.parent for path in asked.models.glob("*/config.json")):
        name = folder.name
        if asked.only and name not in asked.only:
            continue
        plain = asked.scratch / f"{name}-F32.gguf"
        try:
            smallmind(asked, "convert", "-m", folder, "--format", "F32", "--out", plain, "--overwrite")
        except RuntimeError as error:
            table.line(f"{name:<20} {error}")
            continue
        for form in asked.formats:
            run_format(asked, llama, name, form, table, files)
        plain.unlink()
    report_files(files, table)


if __name__ == "__main__":
    sys.exit(main())
