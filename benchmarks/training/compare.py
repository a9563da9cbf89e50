"""Times steps of training with SmallMind and with PyTorch, in turn, and prints medians.

    compare.py --work DIR --smallmind BIN [--shapes nanogpt-cpu:12x64,...] [--columns "ours f32,eager f32,..."] [--out FILE]

`../training.sh` calls it with the first two. For each shape `smallmind new` makes random weights once, and all programs
train them on the same tokens in the same order, with the constants that `smallmind train` has by default, a constant
learning rate and no dropout. A round runs every program once (A B C, A B C, ...); a figure is the median of all timed
steps of all rounds. Peaks are the largest resident memory of a process.

The last lines hold the losses of the first 20 steps against PyTorch's in eager f32.
"""

import argparse
import json
import pathlib
import random
import statistics
import struct
import subprocess
import sys

SHAPES = "nanogpt-cpu:12x64,seed-deep:8x128,nanogpt-gpu:8x256,stories-18m:8x256,gpt2-124m:4x64,gpt2-124m:1x1024"
COLUMNS = ["ours f32", "ours bf16", "eager f32", "compiled f32", "eager bf16", "compiled bf16"]
HERE = pathlib.Path(__file__).resolve().parent
TOKENS = 1 << 18
# Steps whose losses are compared.
COMPARED = 20


def run(words):
    words = [str(word) for word in words]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"failed: {' '.join(words)}\n{done.stderr[-2000:]}", file=sys.stderr)
        return None
    return done.stdout


class Case:
    """A model, and the sizes of a step."""

    def __init__(self, text, options):
        self.preset, _, size = text.partition(":")
        self.batch, self.context = map(int, size.split("x"))
        self.name = text.replace(":", " ")
        self.options = options
        self.folder = options.work / self.preset
        self.tokens = options.work / f"{self.preset}.bin"
        # Small models are timed longer.
        self.steps = options.steps or (100 if self.preset in ("nanogpt-cpu", "seed-deep") else 12)
        self.make()

    def make(self):
        if not self.folder.exists():
            made = run([self.options.smallmind, "new", "--preset", self.preset, "--out", self.folder, "--seed", 1337])
            if made is None:
                raise SystemExit(1)
        config = json.loads((self.folder / "config.json").read_text())
        if not self.tokens.exists():
            # A token is mostly the successor of the one before it, so the loss falls when the steps really train.
            source, token, tokens = random.Random(1337), 0, []
            for _ in range(TOKENS):
                jump = source.randrange(config["vocab_size"]) if source.random() < 0.1 else 1
                token = (token + jump) % config["vocab_size"]
                tokens.append(token)
            self.tokens.write_bytes(struct.pack(f"<{TOKENS}H", *tokens))

    def sizes(self):
        return ["--tokens", self.tokens, "--batch", self.batch, "--context", self.context, "--steps", self.steps,
                "--warmup", self.options.warmup, "--lr", self.options.lr]

    def ours(self, precision):
        out = run([self.options.smallmind, "bench", "train", "-m", self.folder, *self.sizes(),
                   "--precision", precision,
                   "--threads", self.options.threads, "-o", "jsonl"])
        return json.loads(out) if out else None

    def pytorch(self, row, is_compiled, precision):
        """PyTorch's steps with the constants of ours."""
        constants = [f"--{ours}={row[theirs]}" for ours, theirs in
                     [("beta1", "beta1"), ("beta2", "beta2"), ("eps", "eps"), ("decay", "weight_decay")]]
        out = run([sys.executable, HERE / "pytorch.py", self.folder, *self.sizes(), "--precision", precision,
                   "--threads", self.options.threads, *constants, f"--clip={row['clip'] or 0}",
                   *(["--compile"] if is_compiled else [])])
        return json.loads(out) if out else None

    def measure(self):
        """The rows of each column, one a round."""
        rows = {column: [] for column in self.options.columns}
        constants = None
        for _ in range(self.options.rounds):
            for column in self.options.columns:
                who, precision = column.split()
                if who == "ours":
                    row = self.ours(precision)
                    constants = row or constants
                elif constants is None:
                    raise SystemExit("without a run of SmallMind there are no constants for PyTorch")
                else:
                    row = self.pytorch(constants, who == "compiled", precision)
                if row:
                    rows[column].append(row)
        return rows


def cpu():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return f"{found.get('model name')}, family {found.get('cpu family')}, model {found.get('model')}"


def best(values):
    there = [value for value in values if value is not None]
    return min(there) if there else None


def line(cells):
    return f"{cells[0]:<22}" + "".join(f"{cell:>15}" for cell in cells[1:])


def table(case, rows, columns):
    milliseconds, peaks = {}, {}
    for column in columns:
        samples = [1e-6 * ns for row in rows[column] for ns in row["samples_ns"]]
        milliseconds[column] = statistics.median(samples) if samples else None
        peaks[column] = max((row["peak_rss_bytes"] / 2**20 for row in rows[column]), default=None)
    text = [line([f"{case.name} ms", *(f"{x:.2f}" if x else "-" for x in milliseconds.values())]),
            line([f"{case.name} MiB", *(f"{x:.0f}" if x else "-" for x in peaks.values())])]
    for precision in ["f32", "bf16"]:
        ours = f"ours {precision}"
        rivals = [column for column in columns if column.endswith(precision) and column != ours]
        time, memory = best(milliseconds[c] for c in rivals), best(peaks[c] for c in rivals)
        if milliseconds.get(ours) and time and memory:
            text.append(f"{case.name} {precision}: {time / milliseconds[ours]:.2f} times as fast as the better PyTorch, "
                        f"{peaks[ours] / memory:.2f} of its memory")
    for row in rows.get("ours f32", [])[:1]:
        text.append(f"{case.name}: {100 * row['ceiling_fraction']:.0f} % of the ceiling of all measured roofs")
    return text


def losses(case, rows, columns):
    """The largest differences of losses in the first steps."""
    text = []
    reference = next(iter(rows.get("eager f32", [])), None)
    for column in columns:
        for row in rows[column][:1]:
            if reference and column != "eager f32":
                pairs = list(zip(row["losses"], reference["losses"]))[:COMPARED]
                most = max(abs(a - b) for a, b in pairs)
                text.append(f"{case.name}: losses of {column} differ from eager f32 by at most {most:.1e} in "
                            f"{len(pairs)} steps ({reference['losses'][0]:.4f} to {pairs[-1][1]:.4f})")
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--smallmind", type=pathlib.Path, required=True)
    parser.add_argument("--shapes", default=SHAPES, help="PRESET:BATCHxCONTEXT, separated by commas")
    parser.add_argument("--columns", default=",".join(COLUMNS))
    parser.add_argument("--steps", type=int, help="timed steps of a run [default: 100 or 12, by size]")
    parser.add_argument("--warmup", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    options.columns = options.columns.split(",")
    if options.columns[0] != "ours f32":
        parser.error("--columns must begin with `ours f32`, whose constants the others take")
    options.work, options.smallmind = options.work.resolve(), options.smallmind.resolve()
    options.work.mkdir(parents=True, exist_ok=True)

    written = []

    def write(text):
        print(text, flush=True)
        written.append(text)
        if options.out:
            options.out.write_text("\n".join(written) + "\n")

    write(f"{cpu()}, {options.threads} threads, medians of {options.rounds} rounds")
    write(line(["", *options.columns]))
    after = []
    for shape in options.shapes.split(","):
        case = Case(shape, options)
        rows = case.measure()
        for text in table(case, rows, options.columns):
            write(text)
        after += losses(case, rows, options.columns)
        version = next((row["version"] for column in rows.values() for row in column if "version" in row), None)
    write(f"PyTorch {version}")
    for text in after:
        write(text)


if __name__ == "__main__":
    main()
