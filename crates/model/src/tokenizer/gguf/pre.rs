//! The pre-tokenizers of byte-level BPE that GGUF files name (`tokenizer.ggml.pre`).
//!
//! Each is a list of regular expressions: the first divides the text into its matches and what is between them, each
//! further one divides the parts again. Names are those of llama.cpp's `llama-vocab.cpp`. The expressions are those of
//! the models' own `tokenizer.json` where these are published: llama.cpp rewrites some of them for its own engine. Its
//! tokens differ only by that: in the rows of `tekken` and `gpt-4o` its expressions know no marks and no case of letters
//! but a to z, in those of `deepseek-llm` and `deepseek-coder` no ranges with blanks beyond ASCII
//! (`benchmarks/tokenizers/made_vocabularies.py`).

use super::super::file::{Part, PatternEntry};
use super::super::split::{GPT2_WORDS, NEWLINE_WORDS};

/// A row: names, and what they stand for.
#[derive(Debug)]
pub(super) struct Pre {
    /// The first is the one that is written.
    pub names: &'static [&'static str],
    pub patterns: &'static [&'static str],
    /// Words that are tokens are not divided.
    pub ignore_merges: bool,
    /// Whether a text begins with the token for its beginning, unless the file says otherwise.
    pub begins: bool,
}

const NUMBER: &str = r"\p{N}";
const LLAMA3: &[&str] = &[NEWLINE_WORDS[0]];
const QWEN2: &[&str] = &[NEWLINE_WORDS[1]];
const DEEPSEEK3_WORDS: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
/// Letters of alphabets with two cases, as DeepSeek LLM's file lists them.
const DEEPSEEK_LETTERS: &str = "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u{1f7d}ᾀ-ᾴᾶ-ᾼ\u{1fbe}ῂ-ῄῆ-ῌῐ-\u{1fd3}ῖ-\u{1fdb}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u{2126}ℨ\u{212a}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const CASED_WORDS: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM_WORDS: &str = " ?[^(\\s|.,!?…。，、।۔،)]+";

const fn row(names: &'static [&'static str], patterns: &'static [&'static str]) -> Pre {
    Pre { names, patterns, ignore_merges: false, begins: false }
}

/// Every pre-tokenizer that is supported.
pub(super) static TABLE: &[Pre] = &[
    row(
        &[
            "gpt-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
        ],
        &[GPT2_WORDS],
    ),
    row(&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2_WORDS, r"\p{N}+", "[0-9][0-9][0-9]"]),
    Pre {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        patterns: LLAMA3,
        ignore_merges: true,
        begins: true,
    },
    row(&["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"], LLAMA3),
    row(
        &["qwen2", "stablelm2", "hunyuan", "solar-open", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "grok-2"],
        QWEN2,
    ),
    row(
        &["qwen35"],
        &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
    ),
    row(
        &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[NUMBER, GPT2_WORDS],
    ),
    row(&["falcon"], &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2_WORDS, "[0-9][0-9][0-9]"]),
    row(
        &["deepseek-llm"],
        &[
            r"[\r\n]",
            DEEPSEEK_LETTERS,
            "\\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+",
            r"\s+$",
            "[一-龥ࠀ-一가-\u{d7ff}]+",
            r"\p{N}+",
        ],
    ),
    row(&["deepseek-coder"], &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\u{d7ff}]+", NUMBER]),
    row(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        &[r"\p{N}{1,3}", "[一-龥\u{3040}-ゟ゠-ヿ]+", DEEPSEEK3_WORDS],
    ),
    Pre {
        names: &["tekken"],
        patterns: &[
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        ignore_merges: true,
        begins: true,
    },
    row(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[CASED_WORDS]),
    row(&["poro-chat", "bloom", "gpt3-finnish"], &[BLOOM_WORDS]),
    row(&["viking"], &[BLOOM_WORDS, NUMBER]),
    Pre {
        names: &["chameleon"],
        patterns: &[
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            "([\\t\\n]|    |  )",
            NUMBER,
            r"[\p{P}!-/:-@\[-`{-~]",
            GPT2_WORDS,
        ],
        ignore_merges: false,
        begins: true,
    },
    row(
        &["bailingmoe", "bailingmoe2", "llada-moe"],
        &[r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"],
    ),
    row(
        &["seed-coder"],
        &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
    ),
    Pre {
        names: &["minicpm5"],
        patterns: &[
            r"\p{N}{1,3}",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        ignore_merges: true,
        begins: false,
    },
];

/// The row of a name.
pub(super) fn find(name: &str) -> Option<&'static Pre> {
    TABLE.iter().find(|row| row.names.contains(&name))
}

/// All names, for a message.
pub(super) fn names() -> String {
    TABLE.iter().flat_map(|row| row.names).copied().collect::<Vec<_>>().join(", ")
}

/// The part of a `tokenizer.json` that divides by these expressions and spells bytes as characters.
pub(super) fn part(patterns: &[&str]) -> Part {
    let split = |pattern: &&str| match *pattern {
        NUMBER => Part { individual_digits: Some(true), ..Part::new("Digits") },
        regex => Part {
            pattern: Some(PatternEntry::Regex(regex.to_owned())),
            behavior: Some("Isolated".to_owned()),
            invert: Some(false),
            ..Part::new("Split")
        },
    };
    let (last, before) = match patterns.split_last() {
        Some((&GPT2_WORDS, before)) => (Part::byte_level(), before),
        _ => (Part { use_regex: Some(false), ..Part::byte_level() }, patterns),
    };
    if before.is_empty() {
        return last;
    }
    let parts = before.iter().map(split).chain([last]).collect();
    Part { pretokenizers: Some(parts), ..Part::new("Sequence") }
}

/// The expressions by which a part divides, the reverse of [`part`]; `None` if it does anything else.
pub(super) fn patterns(part: &Part) -> Option<Vec<String>> {
    let parts = part.pretokenizers.as_deref().unwrap_or(std::slice::from_ref(part));
    let (last, before) = parts.split_last()?;
    if last.kind != "ByteLevel" || last.add_prefix_space != Some(false) {
        return None;
    }
    let mut patterns = Vec::new();
    for part in before {
        patterns.push(match (part.kind.as_str(), &part.pattern) {
            ("Digits", _) if part.individual_digits == Some(true) => NUMBER.to_owned(),
            ("Digits", _) => r"\p{N}+".to_owned(),
            ("Split", Some(PatternEntry::Regex(regex)))
                if part.behavior.as_deref() == Some("Isolated") && part.invert == Some(false) =>
            {
                regex.clone()
            }
            _ => return None,
        });
    }
    if last.use_regex != Some(false) {
        patterns.push(GPT2_WORDS.to_owned());
    }
    Some(patterns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_a_part_that_our_engine_applies() {
        for row in TABLE {
            for pattern in row.patterns {
                let translated = super::super::super::pattern::translate("pattern", pattern).unwrap();
                tokenizers::utils::SysRegex::new(&translated).unwrap();
            }
            assert_eq!(patterns(&part(row.patterns)).unwrap(), row.patterns, "{:?}", row.names);
            assert!(row.names.iter().all(|name| std::ptr::eq(find(name).unwrap(), row)));
        }
        assert!(find("gpt-3").is_none() && names().contains("qwen2, "));
    }
}
