#!/usr/bin/env python3
"""Holds the perplexity of a model that was trained here, in every format, against llama.cpp's on the same file.

    smallmind quickstart --steps 5000 --out run
    python perplexity.py --libllama libllama.so --model run --bin ../../target/release --out table.txt

The text is the run's validation text, once in consecutive windows as long as the model's context, which begin anywhere
in a story, and once story by story, as the quick start trains. Both programs predict the same tokens from the same
tokens before them, ours by `smallmind eval`; llama.cpp computes logits, of which numpy computes the losses in f64.
"""

import argparse
import json
import pathlib
import tempfile

import numpy

from compare import FORMATS
from library import LlamaCpp, Table, smallmind

END = "<|endoftext|>"


def theirs(model, text, context):
    """The sum of llama.cpp's losses over a text, in nats, and the number of its targets."""
    stream, total = model.encode(text + END), 0.0
    for start in range(0, len(stream) - 1, context):
        window = stream[start : start + context + 1]
        logits = model.all_logits(window[:-1]).astype(numpy.float64)
        most = logits.max(axis=1, keepdims=True)
        of_all = most[:, 0] + numpy.log(numpy.exp(logits - most).sum(axis=1))
        total += float((of_all - logits[numpy.arange(len(window) - 1), window[1:]]).sum())
    return total, len(stream) - 1


def ours(asked, path, text):
    """The same by `eval`."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(text + END)
        file.flush()
        result = json.loads(smallmind(asked, "eval", "-m", path, "--data", file.name, "--json"))
    return result["loss"] * result["tokens"], result["tokens"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libllama", required=True, help="the shared library")
    parser.add_argument("--model", type=pathlib.Path, required=True, help="a run folder")
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="the folder of `smallmind`")
    parser.add_argument("--tokens", type=int, default=32768, help="how many tokens of the validation text, in windows")
    parser.add_argument("--stories", type=int, default=40, help="how many stories of it, one by one")
    parser.add_argument("--formats", nargs="*", default=FORMATS)
    parser.add_argument("--out", help="a file for the table")
    asked = parser.parse_args()
    llama, table = LlamaCpp(asked.libllama), Table(asked.out)
    context = json.loads((asked.model / "config.json").read_text())["max_position_embeddings"]
    stored = numpy.fromfile(asked.model / "data" / "validation-00000.bin", dtype=numpy.uint16)[: asked.tokens].tolist()
    table.line(f"{'text':8} {'format':8} {'tokens':>6} {'ours':>10} {'llama.cpp':>10} {'apart, %':>9}")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.gguf"
        for form in asked.formats:
            smallmind(asked, "quantize", "-m", asked.model, "--format", form, "--out", path, "--overwrite")
            model = llama.open(path, context)
            whole = model.decode(stored)
            stories = whole.split(END)[1 : 1 + asked.stories]
            for name, texts in ("windows", [whole]), ("stories", stories):
                pairs = [(ours(asked, path, text), theirs(model, text, context)) for text in texts]
                counts = [sum(pair[i][1] for pair in pairs) for i in (0, 1)]
                assert counts[0] == counts[1], f"{counts[0]} tokens, llama.cpp has {counts[1]}"
                a, b = [numpy.exp(sum(pair[i][0] for pair in pairs) / counts[0]) for i in (0, 1)]
                table.line(f"{name:8} {form:8} {counts[0]:6} {a:10.5f} {b:10.5f} {100 * (a / b - 1):9.4f}")
            model.close()


if __name__ == "__main__":
    main()
