#!/usr/bin/env python3
"""Holds logits against those of transformers: of the GGUF files that `smallmind` writes from the folders of
`models.py`, run by llama.cpp, and of the folders that it writes from these files, run by transformers.

    python folders.py --libllama libllama.so --models models --bin ../../target/debug
"""

import argparse
import pathlib
import tempfile

import numpy
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from library import LlamaCpp, smallmind

LENGTHS = [3, 20, 60, 100]


def transformers_logits(folder, texts):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return [model(input_ids=torch.tensor([text])).logits[0, -1].numpy() for text in texts]


def llama_logits(llama, path, texts, context):
    model = llama.open(path, context)
    results = [model.greedy(text, 0)["logits"] for text in texts]
    model.close()
    return results


def apart(a, b):
    return max(float(numpy.abs(x - y).max()) for x, y in zip(a, b))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libllama", required=True, help="the shared library")
    parser.add_argument("--models", type=pathlib.Path, nargs="+", required=True, help="folders of models")
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="the folder of `smallmind`")
    asked = parser.parse_args()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    llama, random = LlamaCpp(asked.libllama), numpy.random.Generator(numpy.random.PCG64(12))
    texts = [random.integers(3, 288, length).tolist() for length in LENGTHS]
    print(f"largest difference of logits from transformers after {LENGTHS} tokens")
    print(f"{'model':<20} {'llama.cpp':>9} {'folder':>9} {'deviation':>9}")
    for source in asked.models:
        with tempfile.TemporaryDirectory() as scratch:
            file, folder = pathlib.Path(scratch) / "model.gguf", pathlib.Path(scratch) / "model"
            try:
                smallmind(asked, "convert", "-m", source, "--format", "F32", "--out", file)
                smallmind(asked, "convert", "-m", file, "--out", folder)
            except RuntimeError as error:
                print(f"{source.name:<20} {error}")
                continue
            expected = transformers_logits(source, texts)
            by_llama = apart(llama_logits(llama, file, texts, 256), expected)
            by_folder = apart(transformers_logits(folder, texts), expected)
            spread = numpy.std(expected)
            print(f"{source.name:<20} {by_llama:>9.1e} {by_folder:>9.1e} {spread:>9.2f}", flush=True)


if __name__ == "__main__":
    main()
