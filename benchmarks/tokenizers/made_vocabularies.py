#!/usr/bin/env python3
"""Vocabularies that are made here, with the ids that llama.cpp gives random strings, for the test `random_strings` of the model crate:
a byte-level BPE under every name of a pre-tokenizer that `crates/model/src/tokenizer/gguf/pre.rs` has, WordPiece (`bert`) and Unigram (`t5`).

    python3 -m venv VENV && VENV/bin/pip install gguf numpy sentencepiece
    VENV/bin/python benchmarks/tokenizers/made_vocabularies.py --libllama libllama.so --out CASES --count 5000
    SMALLMIND_TOKENIZER_CASES=CASES cargo test --workspace --test tokenizer_files -- --nocapture random_strings

In the byte-level vocabulary every pair of bytes is a merge, in a random order of ranks, so that a word that is divided otherwise has other
tokens. `bert-*` has characters and pairs of characters, at the beginning of words and inside. `t5-*` are trained by SentencePiece on random
strings, which also makes the map of characters (`nmt_nfkc`). libllama is that of `random_strings.py`.
"""

import argparse
import io
import json
import pathlib
import random
import re
import unicodedata

import gguf
from random_strings import PIECES, RANGES, LlamaCpp, random_text

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "crates/model/src/tokenizer/gguf/pre.rs"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def names():
    """The names of pre-tokenizers in our table."""
    source = SOURCE.read_text()
    table = source[source.index("pub(super) static TABLE") : source.index("/// The row of a name.")]
    lists = re.findall(r"(?:names: |row\(\s*)&\[(.*?)\]", table, re.DOTALL)
    return [name for names in lists for name in re.findall(r'"(.*?)"', names)]


def writer(path, model, tokens, types, scores=None):
    file = gguf.GGUFWriter(path, "llama")
    file.add_tokenizer_model(model)
    file.add_token_list(tokens)
    file.add_token_types(types)
    if scores is not None:
        file.add_token_scores(scores)
    return file


def finish(file):
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.close()


def spelled_bytes():
    """GPT-2's character for each byte."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + at) for at, byte in enumerate(others)}


def byte_pairs(path, pre):
    spelled = spelled_bytes()
    pairs = [(a, b) for a in spelled.values() for b in spelled.values()]
    random.Random(7).shuffle(pairs)
    specials = ["<|endoftext|>", "<|im_start|>", "<tool>"]
    tokens = list(spelled.values()) + [a + b for a, b in pairs] + specials
    types = [NORMAL] * (len(tokens) - 3) + [CONTROL, CONTROL, USER_DEFINED]
    file = writer(path, "gpt2", tokens, types)
    file.add_tokenizer_pre(pre)
    file.add_token_merges([f"{a} {b}" for a, b in pairs])
    file.add_bos_token_id(len(tokens) - 3)
    file.add_eos_token_id(len(tokens) - 3)
    finish(file)
    return specials


def bert(path, lowercase):
    rng = random.Random(8)
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = sorted({chr(c) for first, last in RANGES[:28] for c in range(first, min(last, first + 300) + 1)} | set("".join(PIECES)))
    known = [c for c in characters if not c.isspace() and c != "\u2581" and unicodedata.category(c) not in ("Cc", "Cn", "Co", "Cs") and rng.random() < 0.9]
    letters = [c for c in known if c.isalnum()]
    words = {rng.choice(letters) + rng.choice(letters) for _ in range(4000)} | {"the", "hello", "world", "ing", "un", "123", "snake", "case"}
    pieces = sorted(known) + sorted(words)
    tokens = specials + [f"\u2581{piece}" for piece in pieces] + pieces
    tokens = list(dict.fromkeys(tokens))
    types = [CONTROL] * 5 + [NORMAL] * (len(tokens) - 5)
    file = writer(path, "bert", tokens, types)
    for add, id in [
        (file.add_pad_token_id, 0), (file.add_unk_token_id, 1), (file.add_bos_token_id, 2), (file.add_sep_token_id, 3),
        (file.add_mask_token_id, 4),
    ]:
        add(id)
    file.add_bool("tokenizer.ggml.normalizer.lowercase", lowercase)
    finish(file)
    return specials


def t5(path, extra_spaces, options):
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    rng = random.Random(9)
    texts = [random_text(rng, []).replace("\n", " ").replace("\0", "") for _ in range(20_000)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text for text in texts if text.strip()]), model_writer=model, vocab_size=12000, model_type="unigram",
        character_coverage=0.98, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2, num_threads=1, max_sentence_length=100_000,
        user_defined_symbols=["<extra_0>", "<tool>"], **options,
    )
    parsed = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    tokens = [piece.piece for piece in parsed.pieces]
    kinds = {1: NORMAL, 2: UNKNOWN, 3: CONTROL, 4: USER_DEFINED, 5: UNUSED, 6: BYTE}
    types = [kinds[piece.type] for piece in parsed.pieces]
    file = writer(path, "t5", tokens, types, [piece.score for piece in parsed.pieces])
    file.add_tokenizer_pre("default")
    file.add_pad_token_id(0)
    file.add_eos_token_id(1)
    file.add_unk_token_id(2)
    file.add_add_space_prefix(parsed.normalizer_spec.add_dummy_prefix)
    file.add_remove_extra_whitespaces(parsed.normalizer_spec.remove_extra_whitespaces and not extra_spaces)
    if parsed.normalizer_spec.precompiled_charsmap:
        file.add_precompiled_charsmap(parsed.normalizer_spec.precompiled_charsmap)
    finish(file)
    return ["</s>", "<extra_0>", "<tool>"]


MADE = {
    "bert-lowercase": lambda path: bert(path, True),
    "bert-cased": lambda path: bert(path, False),
    "t5": lambda path: t5(path, False, {}),
    "t5-spaces": lambda path: t5(path, True, {"remove_extra_whitespaces": False}),
    "t5-identity": lambda path: t5(path, False, {"normalization_rule_name": "identity"}),
    "t5-no-prefix": lambda path: t5(path, False, {"add_dummy_prefix": False}),
}


def without(text, unwanted):
    return "".join(c for c in text if not unwanted(c))


# Where llama.cpp differs from the tokenizers of the models: its rows divide texts by other expressions than the models' own files, so these
# characters are left out. `--all` keeps them.
def marks_and_other_cases(c):
    """Its expressions know only the case of a to z, and no marks."""
    return unicodedata.category(c)[0] == "M" or not c.isascii() and unicodedata.category(c) in ("Lu", "Ll", "Lt")


def other_spaces(c):
    """It takes them for U+000B in expressions without categories."""
    return c.isspace() and not c.isascii()


def not_decomposed(c):
    """It takes all marks for accents, not only those of no width, and the first part of a decomposition."""
    return unicodedata.category(c) in ("Mc", "Me") or 0xAC00 <= ord(c) < 0xD7A4


def cased(text):
    """It has no longest word, where BERT's has 100 characters; it takes control characters for blanks, and `\u2581` for the beginning of a
    word; and its punctuation is that of a younger Unicode than the package's."""
    controls = "\x0b\x0c\x1c\x1d\x1e\x1f\x85\u2581"
    text = without(text, lambda c: c in controls or unicodedata.ucd_3_2_0.category(c) == "Cn")
    return re.sub(r"(\S{50})(?=\S)", r"\1 ", text)


def composed(c):
    """It maps the longest strings that stand side by side, as SentencePiece does; the package, a character with its marks as a whole if they
    have less than six bytes (and loses what the map does not name), otherwise each by itself."""
    return unicodedata.category(c)[0] == "M" or c in "\r\u200c\u200d" or any(low <= ord(c) <= high for low, high in [(0x1100, 0x11FF), (0xFF9E, 0xFFDC)])


def spaced(text):
    """It puts no space before a text of spaces only."""
    return "x" + re.sub("</s>|<extra_0>|<tool>", "", without(text, composed))


CASED = ["tekken", "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"]
ALIKE = {name: lambda text: without(text, marks_and_other_cases) for name in CASED}
ALIKE |= {name: lambda text: without(text, other_spaces) for name in ["deepseek-llm", "deepseek-coder"]}
ALIKE |= {name: lambda text: without(text, composed) for name in ["t5", "t5-no-prefix"]} | {"t5-spaces": spaced}
ALIKE |= {"bert-cased": cased, "bert-lowercase": lambda text: cased(without(text, not_decomposed))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libllama", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--only", nargs="*", help="names")
    parser.add_argument("--all", action="store_true", help="with characters that llama.cpp is known to treat otherwise than the models")
    parser.add_argument("--plain", action="store_true", help="without names of special tokens")
    parser.add_argument("--vocab-only-offset", type=int, default=72, help="byte of `vocab_only` in llama_model_params")
    options = parser.parse_args()
    for at, name in enumerate(options.only or names() + list(MADE)):
        folder = options.out / name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "model.gguf"
        specials = MADE[name](path) if name in MADE else byte_pairs(path, name)
        rng = random.Random(options.seed + at)
        texts = [random_text(rng, [] if options.plain else specials) for _ in range(options.count)]
        # llama.cpp's tables of Unicode are older or younger than ours.
        texts = ["".join(c for c in text if unicodedata.category(c) != "Cn") for text in texts]
        if name in ALIKE and not options.all:
            texts = [ALIKE[name](text) for text in texts]
        model = LlamaCpp(options.libllama, path, specials, options.vocab_only_offset)
        link = folder / "model"
        link.unlink(missing_ok=True)
        link.symlink_to("model.gguf")
        with open(folder / "cases.jsonl", "w", encoding="utf-8") as file:
            for text, ids in zip(texts, model.encode(texts)):
                file.write(json.dumps({"text": text, "ids": ids, "back": None}, ensure_ascii=False) + "\n")
        model.close()
        print(f"{name}: {len(texts)} cases, seed {options.seed + at}", flush=True)


if __name__ == "__main__":
    main()
