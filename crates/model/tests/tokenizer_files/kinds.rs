//! Files of the other kinds of models, and the parts that come with them, against the tokenizers library.

use super::*;

/// Ids and texts are those of the library, from the file and from what we write.
#[track_caller]
fn same(file: &Value, texts: &[&str]) -> Tokenizer {
    let tokenizer = read(file).unwrap();
    let rewritten = tokenizers::Tokenizer::from_bytes(tokenizer.to_json().unwrap()).unwrap();
    for library in [tokenizers::Tokenizer::from_bytes(file.to_string()).unwrap(), rewritten] {
        for text in texts {
            let ids = tokenizer.encode(text, SpecialTokens::Parse).unwrap();
            assert_eq!(tokenizer.completed(&ids), library.encode(*text, true).unwrap().get_ids(), "{text:?}");
            for (special, skip) in [(SpecialText::Skip, true), (SpecialText::Show, false)] {
                assert_eq!(tokenizer.decode(&ids, special).unwrap(), library.decode(&ids, skip).unwrap(), "{text:?}");
            }
        }
    }
    tokenizer
}

fn special(id: usize, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
           "special": true})
}

fn file(model: Value, more: Value) -> Value {
    let mut file = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null, "model": model});
    file.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    file
}

const TEXTS: [&str; 8] = [
    "The hen saw the sea.",
    "the the",
    "",
    "Don't stop, hen!  OK?",
    "déjà vu 日本 語 ﬁ ½",
    "a\tb\nc\u{0}d\u{200d}",
    "[CLS] the hen [SEP]",
    "unbelievable thehen",
];

#[test]
fn word_piece_files_read_as_the_library_reads_them() {
    let tokens = [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "hen", "saw", "sea", ".", ",", "!", "?", "'", "don", "t", "stop",
        "##s", "##hen", "th", "##e", "d", "##eja", "a", "b", "c", "v", "##u", "日", "un", "##believ", "##able", "do",
    ];
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().zip(0..).map(|(t, id)| ((*t).into(), id.into())).collect();
    let model = json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 10, "vocab": vocab});
    let added: Vec<Value> =
        [(0, "[PAD]"), (1, "[UNK]"), (2, "[CLS]"), (3, "[SEP]")].map(|(id, t)| special(id, t)).into();
    for (lowercase, accents, cleanup) in
        [(true, json!(null), true), (false, json!(true), false), (true, json!(false), true)]
    {
        let bert = file(
            model.clone(),
            json!({"added_tokens": added,
                "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                    "strip_accents": accents, "lowercase": lowercase},
                "pre_tokenizer": {"type": "BertPreTokenizer"},
                "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
                "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": cleanup}}),
        );
        let tokenizer = same(&bert, &TEXTS);
        assert_eq!(
            (tokenizer.kind(), tokenizer.prompt_prefix(), tokenizer.suffix()),
            (TokenizerKind::WordPiece, &[2][..], &[3][..])
        );
        assert_eq!(tokenizer.token_bytes(4), Some(&b" the"[..]));
        // A word that begins in its middle.
        let library = tokenizers::Tokenizer::from_bytes(bert.to_string()).unwrap();
        for ids in [[16, 4], [4, 16], [8, 9], [14, 12]] {
            assert_eq!(tokenizer.decode(&ids, SpecialText::Show).unwrap(), library.decode(&ids, false).unwrap());
        }
    }
}

#[test]
fn unigram_files_read_as_the_library_reads_them() {
    let mut pieces: Vec<(String, f64)> = ["<pad>", "</s>", "<unk>"].map(|piece| (piece.to_owned(), 0.0)).into();
    let scored = [
        ("▁the", -2.5),
        ("▁", -3.0),
        ("the", -4.0),
        ("▁hen", -4.5),
        ("hen", -5.0),
        ("h", -6.0),
        ("e", -6.1),
        ("n", -6.2),
        ("t", -6.3),
        ("s", -6.5),
        ("▁s", -5.5),
        ("aw", -5.75),
        ("ea", -5.25),
        ("a", -7.0),
        ("w", -7.5),
        (".", -5.0),
        ("th", -5.0),
    ];
    pieces.extend(scored.map(|(piece, score)| (piece.to_owned(), score)));
    let added: Vec<Value> = [(0, "<pad>"), (1, "</s>"), (2, "<unk>")].map(|(id, t)| special(id, t)).into();
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let t5 = file(
        json!({"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": false}),
        json!({"added_tokens": added,
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Nmt"}, {"type": "NFKC"},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}, {"type": "StripAccents"}]},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
            "decoder": metaspace}),
    );
    let tokenizer = same(&t5, &TEXTS);
    assert_eq!((tokenizer.kind(), tokenizer.suffix()), (TokenizerKind::Unigram, &[1][..]));
    // Older files don't say the kind.
    let mut older = t5.clone();
    older["model"].as_object_mut().unwrap().remove("type");
    assert_eq!(read(&older).unwrap().kind(), TokenizerKind::Unigram);
    // Without an unknown token.
    let mut strict = t5;
    strict["model"]["unk_id"] = Value::Null;
    let error = read(&strict).unwrap().encode("the hen 日", SpecialTokens::Parse).unwrap_err();
    assert!(matches!(error, TokenizerError::UnknownCharacter { character: '日', .. }), "{error}");
}

#[test]
fn word_level_and_suffixed_files_read_as_the_library_reads_them() {
    let words = json!({"the": 0, "hen": 1, "[UNK]": 2, ".": 3, "saw": 4});
    for pre_tokenizer in [
        json!({"type": "Whitespace"}),
        json!({"type": "WhitespaceSplit"}),
        json!({"type": "CharDelimiterSplit", "delimiter": " "}),
        json!({"type": "FixedLength", "length": 3}),
        json!({"type": "UnicodeScripts"}),
    ] {
        let level = json!({"type": "WordLevel", "unk_token": "[UNK]", "vocab": words});
        let tokenizer = same(&file(level, json!({"pre_tokenizer": pre_tokenizer})), &TEXTS);
        assert_eq!(tokenizer.kind(), TokenizerKind::Words);
        assert_eq!(tokenizer.decode(&[0, 1], SpecialText::Skip).unwrap(), "the hen");
    }
    let tokens = ["t", "h", "e", "e</w>", "n</w>", "th", "the</w>", "<unk>", "he"];
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().zip(0..).map(|(t, id)| ((*t).into(), id.into())).collect();
    let clip = file(
        json!({"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": "", "end_of_word_suffix": "</w>",
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab,
            "merges": [["t", "h"], ["th", "e</w>"], ["h", "e"]]}),
        json!({"normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"},
            "decoder": {"type": "BPEDecoder", "suffix": "</w>"}}),
    );
    // The library's decoder panics on no token at all.
    same(&clip, &TEXTS.map(|text| if text.is_empty() { "hen" } else { text }));
    assert_eq!(read(&clip).unwrap().decode(&[], SpecialText::Show).unwrap(), "");
    let roberta = file(
        json!({"type": "BPE", "vocab": {"a": 0, "b": 1, "<s>": 2, "</s>": 3, "Ġ": 4}, "merges": [], "unk_token": "<s>"}),
        json!({"post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 3], "cls": ["<s>", 2], "trim_offsets": true,
                "add_prefix_space": false},
            "normalizer": {"type": "ByteLevel"}, "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": true}}),
    );
    same(&roberta, &["a b", "ab", ""]);
}
