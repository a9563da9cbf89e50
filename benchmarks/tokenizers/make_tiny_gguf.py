#!/usr/bin/env python3
"""Tiny vocabularies in GGUF files, and the ids and texts that the package `tokenizers` gives for strings: the goldens of
`crates/model/tests/goldens/tokenizers/`, made with other tools than ours.

    python3 -m venv VENV && VENV/bin/pip install tokenizers gguf numpy
    VENV/bin/python benchmarks/tokenizers/make_tiny_gguf.py --out crates/model/tests/goldens/tokenizers

`NAME.gguf` is written by the package `gguf`; `NAME.json` has the strings with their ids, without and with the tokens around a text.
`gpt2` is byte-level BPE trained here, `bert` a small WordPiece vocabulary, `t5` a small Unigram vocabulary with a character map of
SentencePiece's kind, which replaces a few characters.
"""

import argparse
import base64
import json
import pathlib
import struct

import gguf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "", "a", " ", "  ", "\n", "The hen saw the sea, then the  shed.", "It's 1234 o'clock \u2014 d\u00e9j\u00e0 vu \u65e5\u672c", "the\n\nthe\t hen  ",
    "unbelievable", "Don't stop, hen!  OK?", "\u00bd \ufb01 e\u0301 \U0001f980", "  lead", "x" * 120, "saw\u00a0the", "<|endoftext|> the", "[CLS] the",
]
NORMAL, UNKNOWN, CONTROL = 1, 2, 3


def gpt2():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([text for text in TEXTS[5:8] * 4], trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    model = json.loads(tokenizer.to_str())["model"]
    end = tokenizer.token_to_id("<|endoftext|>")
    merges = [" ".join(merge) for merge in model["merges"]]
    return tokenizer, {"pre": "gpt-2", "merges": merges, "bos": end, "eos": end}, None


def bert():
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "hen", "saw", "sea", ".", ",", "!", "?", "'", "don", "t", "stop", "##s", "##hen",
              "th", "##e", "d", "##eja", "a", "v", "##u", "\u65e5", "un", "##believ", "##able", "it", "s", "shed", "then", "1", "##2", "x", "##x"]
    tokenizer = Tokenizer(models.WordPiece({token: id for id, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(tokens[:4])
    spelled = [token if token[0] == "[" else token[2:] if token.startswith("##") else "\u2581" + token for token in tokens]
    return tokenizer, {"tokens": spelled, "bos": 2, "sep": 3, "unk": 1, "pad": 0}, None


def charsmap(pairs):
    """A double array of darts-clone for single-byte and longer keys that share no first byte."""
    units = [0] * 256
    replacements = b""
    free = 256
    units += [0] * 256 * 8
    for key, value in pairs:
        base, node = 0, None
        for byte in key.encode():
            node = base ^ byte
            units[node] = byte
            base = free
            free += 256
            units[node] |= (base ^ node) << 10
        units[node] |= 1 << 8
        units[base] = 1 << 31 | len(replacements)
        replacements += value.encode() + b"\0"
    units = units[:free]
    return struct.pack("<I", len(units) * 4) + struct.pack(f"<{len(units)}I", *units) + replacements


def t5():
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581the", -2.5), ("\u2581", -3.0), ("the", -4.0), ("\u2581hen", -4.5), ("hen", -5.0),
              ("h", -6.0), ("e", -6.1), ("n", -6.2), ("t", -6.3), ("s", -6.5), ("\u2581s", -5.5), ("aw", -5.75), ("ea", -5.25), ("a", -7.0), ("w", -7.5),
              (".", -5.0), ("th", -5.1), ("x", -8.0), ("fi", -6.75), ("d", -6.6)]
    mapped = charsmap([("\ufb01", "fi"), ("\n", " "), ("\t", " "), ("\u00a0", " ")])
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    encoded = base64.b64encode(mapped).decode()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Precompiled(mapped)])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    assert json.loads(tokenizer.to_str())["normalizer"]["normalizers"][0]["precompiled_charsmap"] == encoded
    keys = {"scores": [score for _, score in pieces], "eos": 1, "unk": 2, "pad": 0, "charsmap": list(mapped)}
    return tokenizer, keys, None


def write(path, model, tokenizer, keys):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    count = tokenizer.get_vocab_size()
    tokens = keys.get("tokens") or [tokenizer.id_to_token(id) for id in range(count)]
    special = {id: token for id, token in tokenizer.get_added_tokens_decoder().items()}
    kind = lambda id: UNKNOWN if id == keys.get("unk") else CONTROL if id in special else NORMAL
    writer.add_token_list(tokens)
    writer.add_token_types([kind(id) for id in range(count)])
    if "pre" in keys:
        writer.add_tokenizer_pre(keys["pre"])
        writer.add_token_merges(keys["merges"])
    if "scores" in keys:
        writer.add_token_scores(keys["scores"])
        writer.add_remove_extra_whitespaces(True)
        writer.add_add_space_prefix(True)
        writer.add_precompiled_charsmap(bytes(keys["charsmap"]))
    for name, add in [("bos", writer.add_bos_token_id), ("eos", writer.add_eos_token_id), ("unk", writer.add_unk_token_id),
                      ("sep", writer.add_sep_token_id), ("pad", writer.add_pad_token_id)]:
        if name in keys:
            add(keys[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for model, make in [("gpt2", gpt2), ("bert", bert), ("t5", t5)]:
        tokenizer, keys, _ = make()
        write(out / f"{model}.gguf", model, tokenizer, keys)
        cases = []
        for text in TEXTS:
            bare, whole = tokenizer.encode(text, add_special_tokens=False).ids, tokenizer.encode(text).ids
            cases.append({"text": text, "ids": bare, "whole": whole, "back": tokenizer.decode(bare, skip_special_tokens=False)})
        (out / f"{model}.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
