#!/usr/bin/env python3
"""Holds importance matrices against llama.cpp's, and what both quantizers make of them.

For models of `models.py`, mixtures of experts among them, which get a vocabulary of bytes here:

1. `smallmind imatrix` measures a text. The same is measured in llama.cpp: a callback of the library sums what each
   product is given, as `tools/imatrix` does, and the package `gguf` writes it in the layout of that tool.
2. Both quantizers take both files. `error` is the squared error of all weights by llama.cpp's importance of their
   columns: what the outputs of layers lose. `KL` is the divergence from the F32 model on text that was not measured,
   run by llama.cpp. Both are means over the models, as parts of those of llama.cpp with llama.cpp's matrix.

    python importance.py --libllama libllama.so --models models --bin ../../target/debug --text text.txt
"""

import argparse
import ctypes
import json
import pathlib

import gguf
import numpy

from compare import MIXES, tensors
from library import LlamaCpp, Table, smallmind

FORMATS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K", "IQ4_NL", "IQ4_XS"]
MODELS = ["llama", "qwen2", "gpt2", "mixtral", "qwen3_moe", "olmoe", "granitemoe"]
CONTEXT, FIRST_BYTE = 256, 3


def spelled_bytes():
    """GPT-2's character for each byte."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + at) for at, byte in enumerate(others)}


def add_tokenizer(folder):
    """A token for each byte, behind three others."""
    vocabulary = {name: at for at, name in enumerate(["<unk>", "<s>", "</s>"])}
    vocabulary |= {character: FIRST_BYTE + byte for byte, character in sorted(spelled_bytes().items())}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    content = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "unk_token": None, "vocab": vocabulary, "merges": []},
    }
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False))


class Collector:
    """Sums of squares of what products are given, by the names of weights: `tools/imatrix/imatrix.cpp`."""

    def __init__(self, ggml):
        self.ggml, self.sums, self.counts = ggml, {}, {}

    def evaluated(self, tensor, asked):
        op = self.ggml.ggml_op_name(tensor.op).decode()
        if op not in ("MUL_MAT", "MUL_MAT_ID"):
            return False
        weight, given = tensor.sources[0].contents, tensor.sources[1].contents
        name = weight.name.decode()
        if not name.startswith("blk.") or not name.endswith(".weight"):
            return False
        if not asked:
            self.add(name, weight, given, tensor.sources[2].contents if op == "MUL_MAT_ID" else None)
        return True

    def add(self, name, weight, given, ids):
        values = array(given, numpy.float32).astype(numpy.float64)
        matrices = weight.shape[2] if ids is not None else 1
        columns = given.shape[0]
        sums = self.sums.setdefault(name, numpy.zeros((matrices, columns)))
        counts = self.counts.setdefault(name, numpy.zeros(matrices))
        if ids is None:
            rows = values.reshape(-1, columns)
            sums[0] += numpy.square(rows).sum(axis=0)
            counts[0] += len(rows)
            return
        for row, chosen in enumerate(array(ids, numpy.int32).reshape(-1, ids.shape[0])):
            for place, expert in enumerate(chosen):
                sums[expert] += numpy.square(values[0, row, place % given.shape[1]])
                counts[expert] += 1


def array(tensor, kind):
    """A tensor in memory, the slowest dimension first."""
    size = tensor.shape[3] * tensor.strides[3] or 1
    buffer = (ctypes.c_uint8 * size).from_address(tensor.data)
    shape, strides = tuple(reversed(tensor.shape)), tuple(reversed(tensor.strides))
    return numpy.ndarray(shape, kind, buffer, strides=strides).copy()


def write(path, sums, counts):
    """The file that llama.cpp's tool writes."""
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].clear()
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["text"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", CONTEXT)
    for name in sorted(sums):
        writer.add_tensor(f"{name}.in_sum2", sums[name].astype(numpy.float32))
        writer.add_tensor(f"{name}.counts", counts[name].astype(numpy.float32).reshape(-1, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(path):
    """Mean squares and counts, as `tools/quantize` reads them: 1 where an expert got nothing."""
    found = tensors(path)
    means, counts = {}, {}
    for name in (name.removesuffix(".in_sum2") for name in found if name.endswith(".in_sum2")):
        counts[name] = found[f"{name}.counts"].data.reshape(-1)
        sums = found[f"{name}.in_sum2"].data.reshape(len(counts[name]), -1)
        count = counts[name][:, None]
        means[name] = numpy.where(count > 0, sums / numpy.maximum(count, 1), 1.0).astype(numpy.float32)
    return means, counts


def log_probabilities(logits):
    logits = logits.astype(numpy.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - numpy.log(numpy.exp(logits).sum(axis=1, keepdims=True))


def error(path, exact, means):
    total = 0.0
    for name, tensor in tensors(path).items():
        if name in means:
            values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float64)
            squares = numpy.square(values - exact[name]).reshape(len(means[name]), -1, means[name].shape[1])
            total += (squares * means[name][:, None, :]).sum()
    return total


class Run:
    """A model with its text: what was measured, and what comes after."""

    def __init__(self, asked, llama, name):
        self.asked, self.llama, self.name = asked, llama, name
        part = lambda what: asked.scratch / f"{name}-{what}.gguf"
        self.plain, self.file, self.ours, self.theirs = part("F32"), part("quantized"), part("ours"), part("theirs")
        folder = asked.models / name
        add_tokenizer(folder)
        smallmind(asked, "convert", "-m", folder, "--format", "F32", "--out", self.plain, "--overwrite")
        bytes_ = asked.text.read_bytes()
        measured, self.after = bytes_[: 16 * CONTEXT], bytes_[16 * CONTEXT : 24 * CONTEXT]
        text = asked.scratch / "measured.txt"
        text.write_bytes(measured)
        context = ("--context", CONTEXT, "--threads", 1)
        smallmind(asked, "imatrix", "-m", self.plain, "--data", text, "--out", self.ours, "--overwrite", *context)
        collector = Collector(llama.ggml)
        model = llama.open(self.plain, CONTEXT, collector.evaluated)
        for chunk in chunks(measured):
            model.all_logits(chunk)
        model.close()
        write(self.theirs, collector.sums, collector.counts)
        self.exact = {
            name: gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float64)
            for name, tensor in tensors(self.plain).items()
        }
        self.reference = self.probabilities(self.plain)

    def probabilities(self, path):
        model = self.llama.open(path, CONTEXT)
        found = numpy.concatenate([log_probabilities(model.all_logits(chunk)) for chunk in chunks(self.after)])
        model.close()
        return found

    def compare_matrices(self):
        ours, our_counts = read(self.ours)
        theirs, their_counts = read(self.theirs)
        apart = max(
            float((abs(ours[name] - means).max(axis=1) / means.max(axis=1)).max()) for name, means in theirs.items()
        )
        other = sum(int((our_counts[name] != counts).sum()) for name, counts in their_counts.items())
        unused = sum(int((counts == 0).sum()) for counts in their_counts.values())
        return f"{len(theirs):>8} {other:>8} {unused:>8} {apart:>9.1e}  {' '.join(sorted(ours.keys() ^ theirs.keys()))}"

    def losses(self, form):
        """Error and KL of each quantizer with each matrix."""
        means, found = read(self.theirs)[0], {}
        for by in ("llama.cpp", "smallmind"):
            for matrix in ("none", "ours", "theirs"):
                path = {"none": None, "ours": self.ours, "theirs": self.theirs}[matrix]
                if by == "smallmind":
                    more = ("--imatrix", path) if path else ()
                    out = ("--format", form, "--out", self.file, "--overwrite")
                    smallmind(self.asked, "quantize", "-m", self.plain, *out, *more)
                else:
                    self.llama.quantize(self.plain, self.file, MIXES[form], read(path)[0] if path else None)
                p, q = self.reference, self.probabilities(self.file)
                kl = float((numpy.exp(p) * (p - q)).sum(axis=1).mean())
                found[by, matrix] = numpy.array([error(self.file, self.exact, means), kl])
        return found


def chunks(text):
    return [[FIRST_BYTE + byte for byte in text[at : at + CONTEXT]] for at in range(0, len(text), CONTEXT)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libllama", required=True, help="the shared library")
    parser.add_argument("--models", type=pathlib.Path, required=True, help="the folder that models.py has filled")
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="the folder of `smallmind`")
    parser.add_argument("--text", type=pathlib.Path, required=True, help="a text of at least 6144 bytes of ASCII")
    parser.add_argument("--scratch", type=pathlib.Path, default=pathlib.Path("/tmp"), help="where files are written")
    parser.add_argument("--only", nargs="*", default=MODELS, help="models")
    parser.add_argument("--formats", nargs="*", default=FORMATS)
    parser.add_argument("--out", help="a file for the table")
    asked = parser.parse_args()
    llama, table = LlamaCpp(asked.libllama), Table(asked.out)
    table.line("Matrices: tensors, counts that differ, experts that got nothing, the largest difference of mean squares")
    table.line("as a part of the largest of its matrix, and tensors of one file only")
    runs = []
    for name in asked.only:
        runs.append(Run(asked, llama, name))
        table.line(f"{name:<12} {runs[-1].compare_matrices()}")
    table.line()
    pairs = [(by, matrix) for by in ("llama.cpp", "smallmind") for matrix in ("none", "ours", "theirs")]
    table.line("By quantizer and matrix: error, KL, as parts of those of llama.cpp with its own matrix (geometric means)")
    table.line(f"{'format':<7} " + " ".join(f"{by + ' ' + matrix:>17}" for by, matrix in pairs))
    for form in asked.formats:
        logs = []
        for run in runs:
            found = run.losses(form)
            logs.append([numpy.log(found[pair] / found["llama.cpp", "theirs"]) for pair in pairs])
        means = numpy.exp(numpy.mean(logs, axis=0))
        table.line(f"{form:<7} " + " ".join(f"{error:>8.3f} {kl:>8.3f}" for error, kl in means))
    for run in runs:
        for path in (run.plain, run.file, run.ours, run.theirs):
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
