"""Speaks the protocol of `smallmind bench kernels --rival COMMAND` with a rival, by itself.

    python protocol_check.py [--threads N] [--figures] [--filter WORD] [--quiet] COMMAND

It asks every contender for a small case of each of its kernels, and for things that no rival has, and exits with 1 where
an answer is not the one that the protocol wants. With `--figures` it times larger cases instead and prints their medians and minima; GFLOP/s are those of
the minimum.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

DIRECTIONS = ("forward", "backward", "both")


def products(sizes):
    return [{"layout": layout, "m": m, "n": n, "k": k, "accumulate": add} for m, n, k in sizes for layout, add in LAYOUTS]


def turned(params, directions=DIRECTIONS):
    return [params | {"direction": direction} for direction in directions]


def heads(count, kv_heads, length, context):
    return {"heads": count, "kv_heads": kv_heads, "len": length, "context": context, "head_dim": 64, "causal": True}


LAYOUTS = [(layout, add) for layout in ("nn", "nt", "tn") for add in (False, True)]
SMALL = {
    "matmul": products([(1, 33, 40), (5, 7, 3), (64, 64, 64), (65, 130, 300)]),
    "gemv": [{"n": 300, "k": 200}, {"layout": "nt", "m": 1, "n": 64, "k": 1000, "accumulate": False}],
    "attention": [
        case
        for shape in [(4, 4, 33, 33), (4, 2, 33, 33), (4, 2, 9, 33), (4, 4, 1, 33), (4, 2, 1, 33)]
        for case in turned(heads(*shape))
    ],
    "layer_norm": turned({"rows": 7, "cols": 65}),
    "rms_norm": turned({"rows": 7, "cols": 65}),
    "gelu": [case for kind in ("exact", "tanh") for case in turned({"elements": 1003, "kind": kind})],
    "swiglu": turned({"rows": 7, "cols": 65}),
    "softmax": [{"rows": 7, "cols": 65}, *turned({"rows": 7, "cols": 65})],
    "cross_entropy": turned({"rows": 7, "vocab": 65}),
    "adamw": [{"elements": 1003}],
    "embedding": turned({"rows": 70, "vocab": 65, "cols": 33}),
    "rope": turned({"rows": 7, "heads": 3, "head_dim": 10}),
}
FIGURES = {
    "matmul": [{"layout": "nt", "m": n, "n": n, "k": n, "accumulate": False} for n in (64, 128, 256, 512, 1024)],
    "gemv": [{"n": 4096, "k": 4096}, {"n": 49152, "k": 576}],
    "attention": turned(heads(8, 8, 1024, 1024)) + [heads(32, 8, 1, 4096)],
    "layer_norm": turned({"rows": 1024, "cols": 512}),
    "rms_norm": turned({"rows": 1024, "cols": 512}),
    "gelu": [case for kind in ("exact", "tanh") for case in turned({"elements": 1 << 20, "kind": kind})],
    "swiglu": turned({"rows": 1024, "cols": 1536}),
    "softmax": [{"rows": 1000, "cols": 1000}],
    "cross_entropy": turned({"rows": 512, "vocab": 2048}),
    "adamw": [{"elements": 2_359_296}],
    "embedding": turned({"rows": 1024, "vocab": 2048, "cols": 512}),
    "rope": [{"rows": 1024, "heads": 8, "head_dim": 64}],
}


class Rival:
    def __init__(self, command):
        self.process = subprocess.Popen(command, shell=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.greeting = self.read()
        self.id = 0

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the rival has ended with code {self.process.wait()}")
        return json.loads(line)

    def ask(self, **request):
        self.id += 1
        self.process.stdin.write(json.dumps({"id": self.id} | request) + "\n")
        self.process.stdin.flush()
        answer = self.read()
        if answer.get("id") != self.id:
            sys.exit(f"an answer to something else: {answer} to {request}")
        return answer

    def prepare(self, contender, kernel, params, threads):
        name, dtype = kernel.split("/")
        return self.ask(op="prepare", contender=contender, kernel=name, dtype=dtype, params=params, threads=threads)

    def seconds(self, iterations):
        answer = self.ask(op="sample", iterations=iterations)
        return answer["seconds"][0] if "seconds" in answer else sys.exit(f"no seconds: {answer}")

    def quit(self):
        self.process.stdin.write('{"op":"quit"}\n')
        self.process.stdin.flush()
        return self.process.wait(timeout=10)


def refusals(rival, contender):
    """Requests that have to be refused with a reason, and after which the rival has to be there still."""
    name, params = contender["name"], {"layout": "nn", "m": 8, "n": 8, "k": 8, "accumulate": False}
    rival.ask(op="release")
    answers = {
        "a sample of nothing": rival.ask(op="sample", iterations=1),
        "an unknown kernel": rival.prepare(name, "sorting/f32", params, 1),
        "an unknown dtype": rival.prepare(name, "matmul/i3", params, 1),
        "an unknown contender": rival.prepare("nobody", "matmul/f32", params, 1),
        "too many threads": rival.prepare(name, "matmul/f32", params, 100_000),
        "a missing size": rival.prepare(name, "matmul/f32", {"layout": "nn", "m": 8}, 1),
        "an unknown layout": rival.prepare(name, "matmul/f32", params | {"layout": "xx"}, 1),
        "an unknown operation": rival.ask(op="dance"),
    }
    return [what for what, answer in answers.items() if answer.get("ok") is not False or not answer.get("why")]


def measure(rival, figures):
    """Microseconds of one iteration of the prepared case: the median and the minimum."""
    once = max(rival.seconds(1), 1e-7)
    iterations = max(1, round(2e-3 / once)) if figures else 2
    samples = []
    for _ in range(15 if figures else 1):
        samples.append(1e6 * rival.seconds(iterations) / iterations)
        time.sleep(2e-3)
    return statistics.median(samples), min(samples)


def check(rival, contender, arguments):
    """Asks for everything that the contender offers. Returns how much went wrong."""
    tell = (lambda *_: None) if arguments.quiet else lambda line: print(line, flush=True)
    tell(f"{contender['name']} {contender['version']}")
    not_refused = refusals(rival, contender)
    for what in not_refused:
        print(f"{contender['name']} has not refused {what}")
    failed = len(not_refused)
    for kernel in contender["kernels"]:
        cases = (FIGURES if arguments.figures else SMALL)[kernel.split("/")[0]]
        for params in cases if arguments.filter in kernel else []:
            title = f"  {kernel:18} {' '.join(f'{key}={value}' for key, value in params.items()):90}"
            answer = rival.prepare(contender["name"], kernel, params, arguments.threads)
            if answer["ok"]:
                median, best = measure(rival, arguments.figures)
                flop = 2 * params.get("m", 1) * params["n"] * params["k"] if "k" in params else 0
                rate = f"{1e-3 * flop / best:7.1f} GFLOP/s" if flop else ""
                tell(f"{title} {median:10.1f} {best:10.1f} us {rate:16} {answer.get('way', '')}")
            elif answer["why"].startswith(("wrong:", "error:")):
                failed += 1
                print(f"{title} {answer['why']}")
            else:
                tell(f"{title} {answer['why']}")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--figures", action="store_true", help="time larger cases")
    parser.add_argument("--filter", default="", help="only kernels whose name has this word")
    parser.add_argument("--quiet", action="store_true", help="print what is wrong and how much")
    arguments = parser.parse_args()

    rival = Rival(arguments.command)
    failed = sum(check(rival, contender, arguments) for contender in rival.greeting["contenders"])
    if rival.ask(op="release").get("ok") is not True:
        failed += 1
        print("the last case was not released")
    if (code := rival.quit()) != 0:
        failed += 1
        print(f"the rival ended with code {code}")
    print(f"{failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
