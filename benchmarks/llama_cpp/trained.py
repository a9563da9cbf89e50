#!/usr/bin/env python3
"""Holds the texts of a model that was trained here, written as GGUF, against those of llama.cpp: prompts go in and
texts come out through the tokenizer of each.

    smallmind quickstart --out run
    python trained.py --libllama libllama.so --model run --bin ../../target/debug
"""

import argparse
import json
import pathlib
import tempfile

from library import LlamaCpp, Table, smallmind

NAMES = ["Anna", "Ben", "Mia", "Leo", "Ruby", "Max", "Lily", "Tom", "Ella", "Sam"]
BEGINNINGS = [f"Once there was a funny child called {name}. One day," for name in NAMES]
BEGINNINGS += [f"{name} was playing in the park when" for name in NAMES]
TOKENS = 64


def theirs(model, prompt, end):
    ids = model.encode(prompt)
    result = model.greedy(ids, TOKENS)
    tokens, gaps = result["tokens"], result["gaps"]
    if end in tokens:
        tokens, gaps = tokens[: tokens.index(end)], gaps[: tokens.index(end)]
    return model.decode(tokens), gaps


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libllama", required=True, help="the shared library")
    parser.add_argument("--model", type=pathlib.Path, required=True, help="a run folder")
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="the folder of `smallmind`")
    parser.add_argument("--formats", nargs="*", default=["F32", "F16", "Q8_0", "Q4_K_M"])
    parser.add_argument("--out", help="a file for the table")
    asked = parser.parse_args()
    llama, table = LlamaCpp(asked.libllama), Table(asked.out)
    config = json.loads((asked.model / "config.json").read_text())
    for form in asked.formats:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "model.gguf"
            smallmind(asked, "quantize", "-m", asked.model, "--format", form, "--out", path)
            model = llama.open(path, config["max_position_embeddings"])
            equal = 0
            for prompt in BEGINNINGS:
                exact = ["-n", TOKENS, "--temp", 0, "--kv", "f32", "--json"]
                ours = json.loads(smallmind(asked, "generate", "-m", path, "-p", prompt, *exact))
                text, gaps = theirs(model, prompt, config["eos_token_id"])
                equal += ours["text"] == text
                if ours["text"] != text:
                    table.line(f"  {form}: {prompt!r}, smallest gap {min(gaps):.2g}")
                    table.line(f"    ours      {ours['text']!r}\n    llama.cpp {text!r}")
            model.close()
            table.line(f"{asked.model.name} {form}: {equal} of {len(BEGINNINGS)} texts equal")


if __name__ == "__main__":
    main()
