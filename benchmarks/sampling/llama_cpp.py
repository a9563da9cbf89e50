#!/usr/bin/env python3
"""Candidates and probabilities that llama.cpp's samplers leave of random logits, in its default order, for the
test `llama_cpp` of the model crate, which compares them with its own.

It calls libllama through its C interface and needs no model. The npm package `@node-llama-cpp/linux-x64` ships the
library (`npm pack`, unpack, `bins/linux-x64/libllama.*.so`). The signatures below are those of its version 3.22.1,
llama.cpp v0.5.0; the penalties of earlier ones have no argument for the vocabulary.

    python3 benchmarks/sampling/llama_cpp.py --libllama libllama.so --out crates/model/tests/sampler/llama_cpp.json
    python3 benchmarks/sampling/llama_cpp.py --libllama libllama.so --each 2000 --vocabulary 300 --out many.json
    SMALLMIND_SAMPLING_CASES=many.json cargo test --workspace --test sampler -- --nocapture llama_cpp
"""

import argparse
import ctypes
import json
import math
import random
import struct

ORDER = ["penalties", "dry", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc", "temperature"]


class TokenData(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int32), ("logit", ctypes.c_float), ("p", ctypes.c_float)]


class TokenDataArray(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.POINTER(TokenData)),
        ("size", ctypes.c_size_t),
        ("selected", ctypes.c_int64),
        ("sorted", ctypes.c_bool),
    ]


class Vector(ctypes.Structure):
    """The memory of a std::vector."""

    _fields_ = [("begin", ctypes.c_void_p), ("end", ctypes.c_void_p), ("capacity", ctypes.c_void_p)]

    @classmethod
    def of(cls, array):
        begin = ctypes.addressof(array)
        vector = cls(begin, begin + ctypes.sizeof(array), begin + ctypes.sizeof(array))
        vector.array = array
        return vector


I32, U32, F32, SIZE = ctypes.c_int32, ctypes.c_uint32, ctypes.c_float, ctypes.c_size_t

# The sampler of DRY for tests, since the other one needs a vocabulary for its breakers.
DRY = "_Z30llama_sampler_init_dry_testingffiiRKSt6vectorIS_IiSaIiEESaIS1_EE"

MAKERS = {
    "llama_sampler_init_penalties": [I32, I32, F32, F32, F32],
    "llama_sampler_init_top_n_sigma": [F32],
    "llama_sampler_init_top_k": [I32],
    "llama_sampler_init_typical": [F32, SIZE],
    "llama_sampler_init_top_p": [F32, SIZE],
    "llama_sampler_init_min_p": [F32, SIZE],
    "llama_sampler_init_xtc": [F32, F32, SIZE, U32],
    "llama_sampler_init_temp_ext": [F32, F32, F32],
    "llama_sampler_init_mirostat_v2": [U32, F32, F32],
    DRY: [F32, F32, I32, I32, ctypes.POINTER(Vector)],
}


class Samplers:
    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        for name, arguments in MAKERS.items():
            function = getattr(self.library, name)
            function.argtypes, function.restype = arguments, ctypes.c_void_p
        self.library.llama_sampler_apply.argtypes = [ctypes.c_void_p, ctypes.POINTER(TokenDataArray)]
        self.library.llama_sampler_accept.argtypes = [ctypes.c_void_p, I32]
        self.library.llama_sampler_free.argtypes = [ctypes.c_void_p]

    def make(self, processor, config, vocabulary):
        library, keep = self.library, config.get("min_keep", 0)
        if processor == "penalties":
            penalties = [config.get(name, neutral) for name, neutral in PENALTIES]
            return library.llama_sampler_init_penalties(vocabulary, config["repetition_window"], *penalties)
        if processor == "dry":
            dry = config["dry"]
            inner = [Vector.of((I32 * len(breaker))(*breaker)) for breaker in dry["breakers"]]
            breakers = Vector.of((Vector * len(inner))(*inner))
            lengths = (dry["allowed_length"], dry["window"])
            return getattr(library, DRY)(dry["multiplier"], dry["base"], *lengths, ctypes.byref(breakers))
        if processor == "xtc":
            xtc = config["xtc"]
            return library.llama_sampler_init_xtc(xtc["probability"], xtc["threshold"], keep, 1)
        if processor == "temperature":
            dynamic = config.get("dynamic_temperature", {"range": 0.0, "exponent": 1.0})
            temperature = config.get("temperature", 1.0)
            return library.llama_sampler_init_temp_ext(temperature, dynamic["range"], dynamic["exponent"])
        if processor == "mirostat":
            return library.llama_sampler_init_mirostat_v2(1, config["mirostat"]["tau"], config["mirostat"]["eta"])
        value = config[processor]
        name = {"typical_p": "typical"}.get(processor, processor)
        maker = getattr(library, f"llama_sampler_init_{name}")
        return maker(value) if processor in ("top_k", "top_n_sigma") else maker(value, keep)

    def run(self, config, history, logits):
        """The tokens that are left and their probabilities."""
        data = (TokenData * len(logits))(*[TokenData(i, logit, 0.0) for i, logit in enumerate(logits)])
        array = TokenDataArray(ctypes.cast(data, ctypes.POINTER(TokenData)), len(logits), -1, False)
        processors = [name for name in ORDER if is_on(name, config)]
        if "mirostat" in config:
            processors.append("mirostat")
        for processor in processors:
            sampler = self.make(processor, config, len(logits))
            for token in history:
                self.library.llama_sampler_accept(sampler, token)
            self.library.llama_sampler_apply(sampler, ctypes.byref(array))
            self.library.llama_sampler_free(sampler)
        left = [(array.data[i].id, array.data[i].logit) for i in range(array.size)]
        left = [(token, logit) for token, logit in left if logit > -math.inf]
        top = max(logit for _, logit in left)
        weights = {token: math.exp(logit - top) for token, logit in left}
        total = sum(weights.values())
        return sorted((token, weight / total) for token, weight in weights.items())


PENALTIES = [("repetition_penalty", 1.0), ("frequency_penalty", 0.0), ("presence_penalty", 0.0)]


def is_on(processor, config):
    if processor == "penalties":
        return any(name in config for name, _ in PENALTIES)
    return processor in config or processor == "temperature" and "dynamic_temperature" in config


def f32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


def settings(draw):
    """Random settings by kind of case: each processor alone, and chains."""
    number = lambda low, high: round(draw.uniform(low, high), 3)
    dry = lambda breakers: {
        "multiplier": number(0.1, 2.0),
        "base": number(1.0, 2.5),
        "allowed_length": draw.randrange(0, 4),
        "window": draw.randrange(4, 60),
        "breakers": breakers,
    }
    xtc = lambda: {"probability": 1.0, "threshold": number(0.0, 0.5)}
    breaker = lambda: [draw.randrange(6) for _ in range(draw.randrange(1, 4))]
    window = lambda: draw.randrange(1, 60)
    return {
        "repetition": {"repetition_penalty": number(0.5, 2.0), "repetition_window": window()},
        "frequency": {"frequency_penalty": number(-2.0, 2.0), "repetition_window": window()},
        "presence": {"presence_penalty": number(-2.0, 2.0), "repetition_window": window()},
        "penalties": {
            "repetition_penalty": number(0.5, 2.0),
            "frequency_penalty": number(-1.0, 1.0),
            "presence_penalty": number(-1.0, 1.0),
            "repetition_window": window(),
        },
        "dry": {"dry": dry([])},
        "dry with breakers": {"dry": dry([breaker() for _ in range(draw.randrange(1, 4))])},
        "top_n_sigma": {"top_n_sigma": number(0.2, 3.0)},
        "top_k": {"top_k": draw.randrange(1, 12)},
        "typical_p": {"typical_p": number(0.05, 0.99)},
        "top_p": {"top_p": number(0.05, 0.99)},
        "min_p": {"min_p": number(0.01, 0.9)},
        "xtc": {"xtc": xtc()},
        "temperature": {"temperature": number(0.1, 3.0)},
        "dynamic temperature": {
            "temperature": number(0.3, 2.0),
            "dynamic_temperature": {"range": number(0.1, 2.0), "exponent": number(0.3, 3.0)},
        },
        "mirostat": {"mirostat": {"tau": number(0.3, 3.0), "eta": 0.1}, "temperature": number(0.5, 2.0)},
        "min_keep": {
            "min_keep": draw.randrange(2, 8),
            draw.choice(["typical_p", "top_p", "min_p"]): number(0.05, 0.9),
        },
        "min_keep of xtc": {"min_keep": draw.randrange(2, 18), "xtc": xtc()},
        "chain": {
            "repetition_penalty": number(0.8, 1.5),
            "frequency_penalty": number(-0.5, 0.5),
            "repetition_window": window(),
            "dry": dry([[draw.randrange(6)]]),
            "top_k": draw.randrange(4, 16),
            "typical_p": number(0.5, 0.99),
            "top_p": number(0.5, 0.99),
            "min_p": number(0.01, 0.2),
            "xtc": xtc(),
            "temperature": number(0.3, 2.0),
            "dynamic_temperature": {"range": number(0.1, 1.0), "exponent": number(0.3, 3.0)},
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libllama", required=True, help="the shared library")
    parser.add_argument("--out", required=True, help="the file to write")
    parser.add_argument("--each", type=int, default=2, help="cases of each kind")
    parser.add_argument("--vocabulary", type=int, default=16, help="number of logits")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    samplers, draw = Samplers(asked.libllama), random.Random(asked.seed)
    cases = []
    for _ in range(asked.each):
        for kind, config in settings(draw).items():
            # As numbers of a few digits, which JSON holds exactly enough for f32.
            logits = [f32(round(draw.gauss(0.0, 2.5), 5)) for _ in range(asked.vocabulary)]
            history = [draw.randrange(6) for _ in range(draw.randrange(60))]
            expected = samplers.run(config, history, logits)
            cases.append({
                "kind": kind,
                "config": config,
                "history": history,
                "logits": [round(logit, 5) for logit in logits],
                "expected": [[token, float(f"{p:.7g}")] for token, p in expected],
            })
    with open(asked.out, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]\n")
    print(f"{len(cases)} cases of {len(settings(draw))} kinds with {asked.vocabulary} logits each")


if __name__ == "__main__":
    main()
