#!/usr/bin/env python3
"""Times SmallMind, llama.cpp and ik_llama.cpp on the same GGUF files, in turn, and prints medians.

    compare.py --work DIR --smallmind BIN [--llama DIR] [--ik DIR] [--sizes ...] [--formats ...] [--out FILE]

`../inference.sh` calls it with the first four. The models have the shapes of presets and random weights, which
`smallmind quantize` writes once in each format. A round runs every program once on a file (A B C, A B C, ...); each run
warms up and takes `--runs` samples of each test. A cell is the median of all samples, in tokens a second. Keys and
values are in f16 everywhere, which is the rivals' default. The rivals run as their own defaults say, ik_llama.cpp with
its weights repacked at run time (-rtr 1) as well as without: the better of both counts.

Tests are called as llama-bench calls them: pp128 reads a prompt of 128 tokens, tg64 generates 64, d2048 does so behind
2048 others. `tg64 x4` generates 64 for each of 4 sequences at once, tokens a second of all together (llama-batched-bench).
`start` is a whole process that reads a prompt of 22 tokens and generates one, in milliseconds; `peak` is its
largest resident memory in MiB. There less is better, and the ratio is the best rival's over SmallMind's.
"""

import argparse
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

SIZES = {"135m": "smollm2-135m", "0.5b": "qwen2.5-0.5b", "1.2b": "llama-3.2-1b"}
FORMATS = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_K_M", "Q6_K", "IQ4_NL"]


def tokenizer(count):
    """A byte-level tokenizer.json of `count` tokens: bytes, then pairs of bytes, then pairs and bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    letters = [chr(byte) if byte in printable else chr(0x100 + others.index(byte)) for byte in range(0x100)]
    vocabulary, merges = dict(zip(letters, range(256))), []
    pairs = [(a, b) for a in letters for b in letters]
    for a, b in pairs + [(a + b, c) for a, b in pairs for c in letters[:4]]:
        if len(vocabulary) == count:
            break
        vocabulary[a + b] = len(vocabulary)
        merges.append([a, b])
    assert len(vocabulary) == count, count
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": vocabulary, "merges": merges}
    return {"version": "1.0", "pre_tokenizer": level, "decoder": level, "model": model}


def run(*command, **options):
    return subprocess.run([str(word) for word in command], check=True, **options)


def make(options, size, form):
    """The model of that size in that format; made if it is not there."""
    path = options.work / f"{size}-{form}.gguf"
    if path.exists():
        return path
    folder = options.work / size
    if not folder.exists():
        shape = SIZES[size]
        run(options.smallmind, "new", "--preset", shape, "--out", folder, "--seed", 1)
        config = json.loads((folder / "config.json").read_text())
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer(config["vocab_size"])))
    run(options.smallmind, "quantize", "-m", folder, "--format", form, "--out", path)
    return path


# 22 tokens of the tokenizer above.
PROMPT = "A small model reads a line of text"


class Program:
    """A contender: how to call it and what its rows say."""

    def __init__(self, name, command, depth_is_pair=False, batched=None, start=None):
        self.name, self.command, self.depth_is_pair = name, command, depth_is_pair
        self.batched, self.start = batched, start

    def samples(self, model, options):
        """The samples of each test, by its name."""
        return self.rates(model, options) | self.rates_batched(model, options) | self.starts(model, options)

    def output(self, words):
        """What a command prints, or nothing if it fails."""
        words = [str(word) for word in words]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode != 0:
            print(f"{self.name} failed: {' '.join(words)}\n{done.stderr[-2000:]}", file=sys.stderr)
            return ""
        return done.stdout

    def rates_batched(self, model, options):
        """Tokens a second of several sequences together."""
        found = {}
        for _ in range(options.runs if self.batched and options.batched else 0):
            text = self.output([*self.batched, "-m", model, "-t", options.threads])
            for row in map(json.loads, filter(lambda line: line.startswith("{"), text.splitlines())):
                found.setdefault(f"tg{row['tg']} x{row['pl']}", []).append(row["speed_tg"])
        return found

    def starts(self, model, options):
        """Milliseconds and MiB of whole processes, after one that brings the file into the page cache."""
        if not self.start or not options.starts:
            return {}
        words = [str(word) for word in [*self.start, "-m", model, "-p", PROMPT, "-n", 1, "--temp", 0]]
        silent = {stream: subprocess.DEVNULL for stream in ["stdin", "stdout", "stderr"]}
        found = {"start ms": [], "peak MiB": []}
        for sample in range(options.starts + 1):
            begin = time.monotonic()
            # A rival writes a log into the folder that it runs in.
            child = subprocess.Popen(words, cwd=options.work, **silent)
            _, status, usage = os.wait4(child.pid, 0)
            if status != 0:
                print(f"{self.name} failed: {' '.join(words)}", file=sys.stderr)
                return {}
            if sample > 0:
                found["start ms"].append((time.monotonic() - begin) * 1000)
                found["peak MiB"].append(usage.ru_maxrss / 1024)
        return found

    def rates(self, model, options):
        """Tokens a second."""
        prompts = ",".join(map(str, options.prompts)) or "0"
        common = [*self.command, "-m", model, "-t", options.threads, "-r", options.runs, "-o", "json"]
        calls = [["-p", prompts, "-n", options.generated]]
        for depth in options.depths:
            deep = ["-gp", f"{depth},{options.generated}"] if self.depth_is_pair else ["-d", depth, "-n", options.generated]
            calls.append(["-p", 0, *(["-n", 0] if self.depth_is_pair else []), *deep])
        found = {}
        for call in calls:
            for row in json.loads(self.output(common + call) or "[]"):
                found.setdefault(self.test(row), []).extend(row["samples_ts"])
        return found

    def test(self, row):
        if self.depth_is_pair and row["n_prompt"] > 0 and row["n_gen"] > 0:
            return f"tg{row['n_gen']} @ d{row['n_prompt']}"
        kind = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
        return kind + (f" @ d{row['n_depth']}" if row.get("n_depth") else "")


def cpu():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return f"{found.get('model name')}, family {found.get('cpu family')}, model {found.get('model')}"


def measure(options, model, programs):
    """Samples by test and program, in rounds."""
    samples = {}
    for _ in range(options.rounds):
        for program in programs:
            for test, rates in program.samples(model, options).items():
                samples.setdefault(test, {}).setdefault(program.name, []).extend(rates)
    return samples


def cell(rates):
    return f"{statistics.median(rates):9.1f}" if rates else "        -"


def report(model, samples, names, write):
    for test, by_program in samples.items():
        medians = {name: statistics.median(rates) for name, rates in by_program.items()}
        ours, rivals = medians.get(names[0]), [medians[name] for name in names[1:] if name in medians]
        ratio = "     -"
        if ours and rivals:
            is_rate = test.startswith(("pp", "tg"))
            ratio = f"{ours / max(rivals) if is_rate else min(rivals) / ours:6.2f}"
        write(f"{model.stem:14} {test:12} " + " ".join(cell(by_program.get(name, [])) for name in names) + f" {ratio}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # Programs are started in another folder.
    absolute = {"type": lambda text: pathlib.Path(text).resolve()}
    for name in ["work", "smallmind"]:
        parser.add_argument(f"--{name}", required=True, **absolute)
    for name in ["llama", "ik"]:
        parser.add_argument(f"--{name}", **absolute, help="the folder of this rival's programs; without it, it is left out")
    listed = {"type": lambda text: text.split(",")}
    numbers = {"type": lambda text: [int(word) for word in text.split(",") if word]}
    parser.add_argument("--sizes", default=list(SIZES), **listed)
    parser.add_argument("--formats", default=FORMATS, **listed)
    parser.add_argument("--prompts", default=[128, 512], **numbers)
    parser.add_argument("--generated", default=64, type=int)
    parser.add_argument("--depths", default=[2048], **numbers)
    parser.add_argument("--batched", default=[4, 8], help="numbers of sequences at once", **numbers)
    parser.add_argument("--starts", default=5, type=int, help="processes that are timed from start to end in a round")
    parser.add_argument("--threads", default=2, type=int)
    parser.add_argument("--runs", default=3, type=int)
    parser.add_argument("--rounds", default=2, type=int)
    parser.add_argument("--out", type=pathlib.Path, help="also write what is printed to this file")
    options = parser.parse_args()

    sequences = ",".join(map(str, options.batched))
    context = max(options.batched, default=0) * (options.generated + 128)
    batched = ["--npp", 128, "--ntg", options.generated, "--npl", sequences, "-r", 1, "-o", "jsonl"]
    programs = [
        Program(
            "smallmind",
            [options.smallmind, "bench", "inference", "--kv", "f16"],
            batched=[options.smallmind, "bench", "batched", "--kv", "f16", *batched],
            start=[options.smallmind, "generate", "--threads", options.threads],
        )
    ]
    # A context of the model's size would have to be cleared.
    start = ["--no-warmup", "-c", 256, "-t", options.threads]
    if options.llama:
        batched = ["-npp", 128, "-ntg", options.generated, "-npl", sequences, "-c", context, "--output-format", "jsonl"]
        programs.append(
            Program(
                "llama.cpp",
                [options.llama / "llama-bench"],
                batched=[options.llama / "llama-batched-bench", *batched],
                start=[options.llama / "llama-completion", "-no-cnv", *start],
            )
        )
    if options.ik:
        bench, start = [options.ik / "llama-bench"], [options.ik / "llama-cli", *start]
        programs.append(Program("ik", bench, depth_is_pair=True, start=start))
        programs.append(Program("ik -rtr 1", [*bench, "-rtr", 1], depth_is_pair=True, start=[*start, "-rtr"]))
    names = [program.name for program in programs]
    lines = []

    def write(line):
        print(line, flush=True)
        lines.append(line)
        if options.out:
            options.out.write_text("\n".join(lines) + "\n")

    write(f"{', '.join(names)}: tokens a second, ms or MiB (llama-cpp-python 0.3.36, ik-llama-cpp-python 0.1.5)")
    write(f"{datetime.date.today()}, {cpu()}, {options.threads} threads, SMALLMIND_ISA={os.environ.get('SMALLMIND_ISA', '')}")
    write(f"medians of {options.rounds} rounds x {options.runs} samples")
    write("the last column: above 1 SmallMind is better than the best rival")
    write(f"{'model':14} {'test':12} " + " ".join(f"{name:>9}" for name in names) + "  ratio")
    for size in options.sizes:
        for form in options.formats:
            model = make(options, size, form)
            report(model, measure(options, model, programs), names, write)


if __name__ == "__main__":
    main()
