#!/usr/bin/env python3
"""Random strings with the ids that another tokenizer gives them, for the test `random_strings` of the model crate.

    python3 -m venv VENV && VENV/bin/pip install tokenizers gguf numpy
    VENV/bin/python benchmarks/tokenizers/random_strings.py hf tokenizer.json --out CASES/llama3 --count 100000 --seed 1
    VENV/bin/python benchmarks/tokenizers/random_strings.py gguf vocabulary.gguf --out CASES/gpt2 --count 100000 --seed 2
    VENV/bin/python benchmarks/tokenizers/random_strings.py llama.cpp vocabulary.gguf --libllama libllama.so --out CASES/spm
    SMALLMIND_TOKENIZER_CASES=CASES cargo test --workspace --test tokenizer_files -- --nocapture random_strings

`hf` asks the Python package `tokenizers`. `gguf` makes a tokenizer of that package from the metadata of a GGUF file, in the way of
transformers, and asks it. A list of merges differs from scores in long runs of one character (two merges that make the same token have one
score, but two places in the list), so SentencePiece's vocabularies are compared as the tokenizer.json that has the list. `llama.cpp` asks libllama through its C interface (the npm package `@node-llama-cpp/linux-x64` ships it:
`npm pack`, unpack, `bins/linux-x64/libllama.*.so`). Each folder CASES/NAME gets a link `model` to the vocabulary and `cases.jsonl`, a
line for each string: `text`, its `ids`, and `back`, the text of the ids. Lines without `text` are random ids, whose bytes are mostly not
UTF-8. The test also writes a tokenizer.json as CASES/NAME/written.gguf, which `llama.cpp` then takes:

    VENV/bin/python benchmarks/tokenizers/random_strings.py llama.cpp CASES/llama3/written.gguf --json tokenizer.json --libllama ...
"""

import argparse
import ctypes
import json
import pathlib
import random
import unicodedata

# First and last character of scripts, signs and blanks.
RANGES = [
    (0x20, 0x7E), (0x20, 0x7E), (0x61, 0x7A), (0x41, 0x5A), (0x30, 0x39), (0xA0, 0x17F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF),
    (0x530, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F), (0x980, 0x9FF), (0xE00, 0xE7F), (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1E00, 0x1FFF),
    (0x2000, 0x206F), (0x20A0, 0x20CF), (0x2150, 0x218F), (0x2190, 0x22FF), (0x2580, 0x25FF), (0x2E80, 0x2FDF), (0x3000, 0x30FF),
    (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xFB00, 0xFB4F), (0xFE00, 0xFE0F), (0xFF00, 0xFFEF), (0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF),
    (0x20000, 0x2A6DF), (0xE000, 0xE0FF), (0, 0x10FFFF), (0, 0x1F),
]
PIECES = [
    " ", "  ", "   ", "        ", "\n", "\n\n", "\r\n", "\t", "\t\t", " \n", "\u00a0", "\u3000", "\u200b", "\u200d", "\ufeff", "\u2581", "\u2581\u2581",
    "'s", "'S", "'ll", "'RE", "n't", "\u2019s", "123", "1234567", "3.14", "1e-5", "0x1F", "\u0663\u0664", "\uff11\uff12", "\u00bd", "\u00b2",
    "the", " the", "The", " hello", "World", "ing", " un", "CamelCase", "snake_case", "ABCdef", "...", "!?", "--", "==", "();", "{}\n", "//", "#!",
    "<0x0A>", "<0x41>", "<", ">", "</", "e\u0301", "\u00e9", "\ufb01", "\u1e9e", "\u00df", "\u0130", "\u01c5", "\u4f60\u597d", "\u65e5\u672c\u8a9e",
    "\u0e44\u0e17\u0e22", "\u05e9\u05dc\u05d5\u05dd", "\u0645\u0631\u062d\u0628\u0627", "\u0939\u093f\u0928\u094d\u0926\u0940", "\ud55c\uad6d\uc5b4",
    "\U0001f980", "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f", "\u0120the", "\u010a",
]


def random_text(rng, specials):
    """Pieces, characters of a few scripts, runs of one piece, and names of special tokens."""
    parts = []
    scripts = [rng.choice(RANGES) for _ in range(rng.randint(1, 3))]
    for _ in range(rng.randint(1, 12)):
        kind = rng.random()
        if kind < 0.4:
            parts.append(rng.choice(PIECES))
        elif kind < 0.8:
            first, last = rng.choice(scripts)
            characters = (rng.randint(first, last) for _ in range(rng.randint(1, 8)))
            parts.append("".join(chr(c) for c in characters if not 0xD800 <= c < 0xE000))
        elif kind < 0.9:
            parts.append(rng.choice(PIECES + ["a", "=", "\u4e00", "\u00e9"]) * rng.randint(2, 40))
        elif specials:
            name = rng.choice(specials)
            parts.append(name if rng.random() < 0.8 else name[: rng.randint(1, len(name))])
    return "".join(parts)


def from_gguf(path):
    """A tokenizer of the package, from the metadata of a GGUF file."""
    from gguf import GGUFReader
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    fields = GGUFReader(path).fields
    value = lambda name: fields[name].contents() if name in fields else None
    tokens, types = value("tokenizer.ggml.tokens"), value("tokenizer.ggml.token_type")
    # As llama.cpp: Phi-3 is known by its name, and its special tokens take the blanks after them.
    strips = lambda token: "phi-3" in (value("general.name") or "").lower() and token not in ("<unk>", "<s>", "<|endoftext|>")
    added = [AddedToken(token, special=kind != 4, normalized=False, rstrip=strips(token)) for token, kind in zip(tokens, types)
             if kind in (2, 3, 4)]
    vocab = {token: id for id, token in enumerate(tokens)}
    if value("tokenizer.ggml.model") == "gpt2":
        merges = [tuple(merge.split(" ")) for merge in value("tokenizer.ggml.merges")]
        pre = value("tokenizer.ggml.pre")
        llama3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        regex = {"llama-bpe": llama3, "qwen2": llama3.replace("{1,3}", ""), "gpt-2": None}[pre]
        tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=pre == "llama-bpe"))
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex is None)
        split = [pre_tokenizers.Split(Regex(regex), "isolated")] if regex else []
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split + [bytes_only])
        tokenizer.decoder = decoders.ByteLevel()
    else:
        scores = value("tokenizer.ggml.scores")
        merges = []
        for token, score in zip(tokens, scores):
            parts = [(token[:at], token[at:]) for at in range(1, len(token)) if token[:at] in vocab and token[at:] in vocab]
            merges += [(-score, len(left), len(right), left, right) for left, right in sorted(parts, key=lambda p: (vocab[p[0]], vocab[p[1]]))]
        merges.sort(key=lambda merge: merge[:3])
        tokenizer = Tokenizer(models.BPE(vocab, [m[3:] for m in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_tokens(added)
    return tokenizer


class Package:
    """The Python package `tokenizers`."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.specials = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        self.count = tokenizer.get_vocab_size()
        self.bytes = {tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)}

    def encode(self, texts):
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, lists):
        return self.tokenizer.decode_batch(lists, skip_special_tokens=False)


class Model(ctypes.Structure):
    """`llama_model_params`, of which only `vocab_only` is set; the flags are the last bytes."""

    _fields_ = [("bytes", ctypes.c_uint8 * 128)]


class LlamaCpp:
    """libllama: a vocabulary without weights. The place of `vocab_only` is that of version v0.5.0."""

    def __init__(self, library, path, specials, offset):
        # ggml's parts lie beside it.
        folder = pathlib.Path(library).resolve().parent
        for name in sorted(folder.glob("libggml-base*.so*")) + sorted(folder.glob("libggml.*so*")):
            ggml = ctypes.CDLL(str(name), ctypes.RTLD_GLOBAL)
        ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
        ggml.ggml_backend_load_all_from_path(str(folder).encode())
        self.library = lib = ctypes.CDLL(library)
        quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        self.quiet = quiet(lambda level, text, data: None)
        lib.llama_log_set(self.quiet, None)
        lib.llama_backend_init()
        lib.llama_model_default_params.restype = Model
        parameters = lib.llama_model_default_params()
        parameters.bytes[offset] = 1
        lib.llama_model_load_from_file.argtypes, lib.llama_model_load_from_file.restype = [ctypes.c_char_p, Model], ctypes.c_void_p
        model = lib.llama_model_load_from_file(str(path).encode(), parameters)
        if not model:
            raise SystemExit(f"llama.cpp does not load {path}")
        lib.llama_model_get_vocab.argtypes, lib.llama_model_get_vocab.restype = [ctypes.c_void_p], ctypes.c_void_p
        self.vocab = ctypes.c_void_p(lib.llama_model_get_vocab(model))
        self.model = ctypes.c_void_p(model)
        self.count = lib.llama_vocab_n_tokens(self.vocab)
        self.specials = specials

    def close(self):
        self.library.llama_model_free(self.model)

    def encode(self, texts):
        lists = []
        for text in texts:
            text = text.encode()
            room = len(text) * 2 + 16
            ids = (ctypes.c_int32 * room)()
            count = self.library.llama_tokenize(self.vocab, text, len(text), ids, room, ctypes.c_bool(False), ctypes.c_bool(True))
            lists.append(list(ids[:count]))
        return lists

    def decode(self, lists):
        return [None] * len(lists)


def special_texts(path):
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    types = fields["tokenizer.ggml.token_type"].contents()
    return [token for token, kind in zip(fields["tokenizer.ggml.tokens"].contents(), types) if kind in (3, 4)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("reference", choices=["hf", "gguf", "llama.cpp"])
    parser.add_argument("vocabulary", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--libllama")
    parser.add_argument("--vocab-only-offset", type=int, default=72, help="byte of `vocab_only` in llama_model_params")
    parser.add_argument("--json", type=pathlib.Path, help="the tokenizer.json that the GGUF file was written from, which the test reads")
    parser.add_argument("--nfc", action="store_true", help="strings in normal form C, for a normalizer that llama.cpp does not apply")
    parser.add_argument("--plain", action="store_true", help="without names of special tokens")
    options = parser.parse_args()
    if options.reference == "llama.cpp":
        specials = special_texts(options.vocabulary)
        reference = LlamaCpp(options.libllama, options.vocabulary, specials, options.vocab_only_offset)
    elif options.reference == "gguf":
        reference = Package(from_gguf(options.vocabulary))
    else:
        from tokenizers import Tokenizer

        reference = Package(Tokenizer.from_file(str(options.vocabulary)))
    rng = random.Random(options.seed)
    specials = [] if options.plain else reference.specials
    texts = [random_text(rng, specials) for _ in range(options.count)]
    if options.reference == "llama.cpp":
        # Its tables of Unicode are older or younger than those of others.
        texts = ["".join(c for c in text if unicodedata.category(c) != "Cn") for text in texts]
    if options.nfc:
        texts = [unicodedata.normalize("NFC", text) for text in texts]
    ids = reference.encode(texts)
    cases = list(zip(texts, ids, reference.decode(ids)))
    if options.reference != "llama.cpp":
        # The package replaces all of a run of byte tokens if it is not UTF-8, ASCII too; here such tokens stand alone.
        single = reference.bytes
        lists = [[rng.randrange(reference.count) for _ in range(rng.randint(1, 12))] for _ in range(options.count // 10)]
        lists = [[id for at, id in enumerate(ids) if at == 0 or id not in single or ids[at - 1] not in single] for ids in lists]
        cases += zip([None] * len(lists), lists, reference.decode(lists))
    options.out.mkdir(parents=True, exist_ok=True)
    model = options.out / "model"
    model.unlink(missing_ok=True)
    same = options.json or options.vocabulary
    if options.reference == "gguf" and reference.tokenizer.normalizer is not None:
        same = options.out / "listed.json"
        reference.tokenizer.save(str(same))
    model.symlink_to(same.resolve())
    with open(options.out / "cases.jsonl", "w", encoding="utf-8") as file:
        for text, ids, back in cases:
            file.write(json.dumps({"text": text, "ids": ids, "back": back}, ensure_ascii=False) + "\n")
    print(f"{options.out}: {len(cases)} cases, seed {options.seed}")


if __name__ == "__main__":
    main()
