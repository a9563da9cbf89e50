//! Reading files that other tools wrote, and refusing those that nobody should have written.

#[path = "tokenizer_files/gguf.rs"]
mod gguf;
#[path = "tokenizer_files/gguf_keys.rs"]
mod gguf_keys;
#[path = "tokenizer_files/kinds.rs"]
mod kinds;
#[path = "tokenizer_files/library.rs"]
mod library;
#[cfg(target_os = "linux")]
#[path = "tokenizer_files/memory.rs"]
mod memory;
#[path = "tokenizer_files/random.rs"]
mod random;
#[path = "tokenizer_files/trees.rs"]
mod trees;

use serde_json::{Value, json};
use smallmind_model::tokenizer::{BpeTraining, SpecialText, SpecialTokens, Tokenizer, TokenizerError, TokenizerKind};

const TEXT: &str = "The hen saw the sea, then the  shed.\n\nIt's 1234 o'clock — déjà vu 日本\r\n the\n";

/// The words of Llama 3's pre-tokenizer.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn read(file: &Value) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_bytes(file.to_string().as_bytes())
}

/// A small byte-level vocabulary in the layout of GPT-2.
fn byte_level() -> Value {
    let tokenizer = Tokenizer::train_bpe([TEXT; 3], &BpeTraining { vocab_size: 300, min_frequency: 2 }).unwrap();
    serde_json::from_str(&tokenizer.to_json().unwrap()).unwrap()
}

/// A small vocabulary in the layout of Llama 2: unknown, begin, end, the bytes, then characters and merges.
fn byte_fallback() -> Value {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    let merges = [["t", "h"], ["th", "e"], ["▁", "the"], ["e", "n"], ["h", "en"], ["s", "e"]];
    for token in
        ["▁", "t", "h", "e", "n", "s", "a", "w"].map(String::from).into_iter().chain(merges.map(|m| m.concat()))
    {
        tokens.push(token);
    }
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().zip(0u32..).map(|(t, id)| (t.clone(), id.into())).collect();
    let added = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges},
    })
}

/// Our ids against the library's, and the text back.
fn agrees(file: &Value, texts: &[&str]) -> Tokenizer {
    let tokenizer = read(file).unwrap();
    let library = tokenizers::Tokenizer::from_bytes(file.to_string()).unwrap();
    let rewritten = tokenizers::Tokenizer::from_bytes(tokenizer.to_json().unwrap()).unwrap();
    for text in texts {
        let ids = tokenizer.encode(text, SpecialTokens::Parse).unwrap();
        assert_eq!(ids, library.encode(*text, false).unwrap().get_ids(), "{text:?}");
        assert_eq!(ids, rewritten.encode(*text, false).unwrap().get_ids(), "{text:?}");
        for (special, skip) in [(SpecialText::Skip, true), (SpecialText::Show, false)] {
            assert_eq!(tokenizer.decode(&ids, special).unwrap(), library.decode(&ids, skip).unwrap(), "{text:?}");
        }
        let plain = tokenizer.encode(text, SpecialTokens::AsText).unwrap();
        assert_eq!(tokenizer.decode(&plain, SpecialText::Skip).unwrap(), *text);
    }
    tokenizer
}

#[test]
fn a_byte_fallback_vocabulary_reads_as_the_library_reads_it() {
    let long = format!("the hen {}", "saw the sea ".repeat(500));
    let texts = ["the hen", "", "a", "then the hen\nsaw", "日本 🦀 é", "<s>the hen</s>", "<0x41>", "  the", &long];
    let tokenizer = agrees(&byte_fallback(), &texts);
    assert_eq!(tokenizer.kind(), TokenizerKind::CharacterBpe);
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.prompt_prefix()), (Some(1), Some(2), &[1][..]));
    assert!(tokenizer.has_leading_space());
    let the = tokenizer.id_of("▁the").unwrap();
    assert_eq!(tokenizer.encode("the", SpecialTokens::Parse).unwrap(), [the]);
    assert_eq!(tokenizer.token_bytes(the), Some(&b" the"[..]));
    assert_eq!(tokenizer.token_bytes(3 + 0x0a), Some(&b"\n"[..]));
    assert_eq!(tokenizer.decode(&[the, the], SpecialText::Skip).unwrap(), "the the");
    // Half a character, whose other half never comes.
    assert_eq!(tokenizer.decode(&[3 + 0xc3, the], SpecialText::Skip).unwrap(), "\u{fffd} the");
}

#[test]
fn metaspace_files_read_as_the_library_reads_them() {
    for scheme in ["first", "always", "never"] {
        let mut file = byte_fallback();
        file["normalizer"] = Value::Null;
        let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
        file["pre_tokenizer"] = metaspace.clone();
        let tokenizer = agrees(&file, &["the hen", "then", ""]);
        for text in [" the", "  the  hen", "the</s>the", "</s>the", "</s> the", "<s></s>", "▁the ▁ hen", "a\nthe\n the"]
        {
            let library = tokenizers::Tokenizer::from_bytes(file.to_string()).unwrap();
            let ids = tokenizer.encode(text, SpecialTokens::Parse).unwrap();
            assert_eq!(ids, library.encode(text, false).unwrap().get_ids(), "{scheme}: {text:?}");
        }
        let spelled = if scheme == "never" { "the" } else { "▁the" };
        assert_eq!(tokenizer.encode("the", SpecialTokens::Parse).unwrap(), [tokenizer.id_of(spelled).unwrap()]);
        file["decoder"] = metaspace;
        file["model"]["byte_fallback"] = json!(false);
        let tokenizer = read(&file).unwrap();
        assert_eq!(tokenizer.has_leading_space(), scheme != "never");
        let ids = tokenizer.encode("the hen saw", SpecialTokens::Parse).unwrap();
        assert_eq!(tokenizer.decode(&ids, SpecialText::Skip).unwrap(), "the hen saw");
    }
}

#[test]
fn llama_3_and_qwen_layouts_read_as_the_library_reads_them() {
    let long = format!("{TEXT}{}", "the hen.\nthe shed\n saw 12345\n\n".repeat(4000));
    for normalizer in [Value::Null, json!({"type": "NFC"})] {
        let mut file = byte_level();
        file["normalizer"] = normalizer;
        file["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]});
        file["model"]["ignore_merges"] = json!(true);
        let mut end = file["added_tokens"][0].clone();
        end["id"] = json!(file["model"]["vocab"].as_object().unwrap().len());
        end["content"] = json!("<|eot_id|>");
        file["added_tokens"].as_array_mut().unwrap().push(end);
        let tokenizer = agrees(&file, &[TEXT, "", "the hen<|eot_id|>\n\nthe", "!?\n\n\nthe", &long]);
        assert_eq!(tokenizer.kind(), TokenizerKind::ByteLevelBpe);
    }
}

#[test]
fn digits_and_prefix_spaces_are_left_to_the_library() {
    let mut file = byte_level();
    file["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": true},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]});
    agrees(&file, &[TEXT, &TEXT.repeat(900)]);
    file["pre_tokenizer"] = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true});
    let tokenizer = read(&file).unwrap();
    let ids = tokenizer.encode("the", SpecialTokens::Parse).unwrap();
    assert_eq!(tokenizer.decode(&ids, SpecialText::Skip).unwrap(), " the");
}

#[test]
fn added_tokens_keep_the_ids_that_the_file_declares() {
    let mut file = byte_level();
    let last = file["model"]["vocab"].as_object().unwrap().len();
    for (id, content, special) in [(last, "<|user|>", true), (last + 1, "   ", false)] {
        let mut token = file["added_tokens"][0].clone();
        (token["id"], token["content"], token["special"]) = (json!(id), json!(content), json!(special));
        file["added_tokens"].as_array_mut().unwrap().push(token);
    }
    let tokenizer = read(&file).unwrap();
    assert_eq!(tokenizer.vocab_size(), last + 2);
    let (user, spaces) = (last as u32, last as u32 + 1);
    assert_eq!(tokenizer.encode("<|user|>   ", SpecialTokens::Parse).unwrap(), [user, spaces]);
    let plain = tokenizer.encode("<|user|>   ", SpecialTokens::AsText).unwrap();
    assert!(plain.len() > 5 && plain.last() == Some(&spaces) && !plain.contains(&user), "{plain:?}");
    assert_eq!(tokenizer.decode(&plain, SpecialText::Skip).unwrap(), "<|user|>   ");
    let again = Tokenizer::from_bytes(tokenizer.to_json().unwrap().as_bytes()).unwrap();
    assert_eq!(again.encode("<|user|>   ", SpecialTokens::Parse).unwrap(), [user, spaces]);
}

#[test]
fn text_that_a_vocabulary_lacks_is_an_error_and_not_left_out() {
    let mut file = byte_level();
    file["model"]["vocab"].as_object_mut().unwrap().remove("Ã");
    file["model"]["merges"] = json!([]);
    let tokenizer = read(&file).unwrap();
    match tokenizer.encode("the déjà", SpecialTokens::Parse) {
        Err(TokenizerError::UnknownCharacter { character, offset }) => assert_eq!((character, offset), ('é', 5)),
        other => panic!("{other:?}"),
    }
    let mut file = byte_fallback();
    file["model"]["byte_fallback"] = json!(false);
    file["model"]["unk_token"] = Value::Null;
    let error = read(&file).unwrap().encode("the sea of hens", SpecialTokens::Parse).unwrap_err();
    assert!(matches!(error, TokenizerError::UnknownCharacter { character: 'o', .. }), "{error}");
}

#[test]
fn plain_text_never_becomes_a_special_token() {
    let mut file = byte_level();
    let ids = read(&file).unwrap().encode(TEXT, SpecialTokens::AsText).unwrap();
    let merged = ids.into_iter().find(|id| *id > 256).unwrap();
    let joined = file["model"]["vocab"].as_object().unwrap().iter().find(|(_, id)| **id == json!(merged)).unwrap();
    let joined = joined.0.clone();
    let mut special = file["added_tokens"][0].clone();
    (special["content"], special["id"]) = (json!(joined), json!(merged));
    file["added_tokens"].as_array_mut().unwrap().push(special);
    let tokenizer = read(&file).unwrap();
    let error = tokenizer.encode(TEXT, SpecialTokens::AsText).unwrap_err();
    assert!(matches!(&error, TokenizerError::SpecialInText { token } if *token == joined), "{error}");
}

/// A pre-tokenizer that splits at a regular expression.
fn split(regex: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
}

/// A change to a good file, and what the refusal must name.
type Case = (&'static str, fn(&mut Value));

const MALFORMED: &[Case] = &[
    ("model", |file| drop(file.as_object_mut().unwrap().remove("model"))),
    ("model", |file| file["model"] = json!(null)),
    ("model", |file| file["model"] = json!([])),
    ("model", |file| file["model"] = json!("BPE")),
    ("no such key in a model of type WordPiece", |file| file["model"]["type"] = json!("WordPiece")),
    ("supported: BPE, Unigram, WordPiece, WordLevel", |file| file["model"]["type"] = json!("CharBPE")),
    ("model.unk_id", |file| file["model"] = json!({"type": "Unigram", "unk_id": 1, "vocab": [["a", -1.5]]})),
    ("vocab: [\"a\"]", |file| file["model"] = json!({"type": "Unigram", "unk_id": 0, "vocab": [["a", 0], ["a", 1]]})),
    ("vocab", |file| file["model"] = json!({"type": "Unigram", "unk_id": 0, "vocab": {"a": 0}})),
    ("vocab: [1]", |file| file["model"] = json!({"type": "Unigram", "unk_id": 0, "vocab": [["a", 0], ["b"]]})),
    ("unk_token", |file| file["model"] = json!({"type": "WordLevel", "vocab": {"a": 0}})),
    ("model.unk_token", |file| {
        file["model"] = json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "b"});
        file["added_tokens"] = json!([]);
    }),
    ("model.max_input_chars_per_word", |file| {
        file["model"] = json!({"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 1u64 << 40});
    }),
    ("type", |file| file["model"]["type"] = json!(7)),
    ("vocab", |file| drop(file["model"].as_object_mut().unwrap().remove("vocab"))),
    ("vocab", |file| file["model"]["vocab"] = json!([])),
    ("model.vocab", |file| (file["model"]["vocab"], file["model"]["merges"]) = (json!({}), json!([]))),
    ("vocab: [\"b\"]", |file| file["model"]["vocab"]["b"] = json!("1")),
    ("vocab: [\"b\"]", |file| file["model"]["vocab"]["b"] = json!(-1)),
    ("vocab: [\"b\"]", |file| file["model"]["vocab"]["b"] = json!(1.5)),
    ("vocab: [\"b\"]", |file| file["model"]["vocab"]["b"] = json!(1e300)),
    ("vocab: [\"b\"]", |file| file["model"]["vocab"]["b"] = json!(1u64 << 31)),
    ("vocab: [\"b\"]", |file| file["model"]["vocab"]["b"] = json!(u64::MAX)),
    ("model.vocab[\"b\"]", |file| file["model"]["vocab"]["b"] = json!((1u64 << 31) - 1)),
    ("model.vocab[\"b\"]", |file| file["model"]["vocab"]["b"] = json!(100_000)),
    ("have the same id", |file| file["model"]["vocab"]["b"] = file["model"]["vocab"]["c"].clone()),
    ("a token is empty", |file| file["model"]["vocab"][""] = json!(310)),
    ("over the limit", |file| file["model"]["vocab"]["x".repeat(10_000)] = json!(310)),
    ("has the id", |file| file["added_tokens"][0]["content"] = json!("é日".repeat(1000))),
    ("type", |file| file["model"]["type"] = json!("x".repeat(1 << 20))),
    ("vocab: [\"", |file| file["model"]["vocab"]["é".repeat(1 << 20)] = json!(-1)),
    ("merges", |file| drop(file["model"].as_object_mut().unwrap().remove("merges"))),
    ("merges", |file| file["model"]["merges"] = json!({})),
    ("merges: [0]", |file| file["model"]["merges"][0] = json!("ab")),
    ("merges: [0]", |file| file["model"]["merges"][0] = json!("a b c")),
    ("merges: [0]", |file| file["model"]["merges"][0] = json!(["a"])),
    ("merges: [0]", |file| file["model"]["merges"][0] = json!(["a", "b", "c"])),
    ("merges: [0]", |file| file["model"]["merges"][0] = json!([1, 2])),
    ("model.merges[0]", |file| file["model"]["merges"][0] = json!(["a", "日"])),
    ("model.merges[0]", |file| file["model"]["merges"][0] = json!(["a", "b"])),
    ("model.merges[0]", |file| file["model"]["merges"][0] = json!(["", "a"])),
    ("model.merges[1]", |file| file["model"]["merges"][1] = file["model"]["merges"][0].clone()),
    ("model.dropout", |file| file["model"]["dropout"] = json!(0.5)),
    ("dropout", |file| file["model"]["dropout"] = json!("much")),
    ("model.unk_token", |file| file["model"]["unk_token"] = json!("<none>")),
    ("model.merges[0]", |file| file["model"]["continuing_subword_prefix"] = json!("##")),
    ("model.end_of_word_suffix", |file| file["model"]["end_of_word_suffix"] = json!("w".repeat(100))),
    ("byte_fallback", |file| file["model"]["byte_fallback"] = json!(1)),
    ("version", |file| file["version"] = json!("2.0")),
    ("version", |file| file["version"] = json!(1)),
    ("added_tokens", |file| file["added_tokens"] = json!({})),
    ("added_tokens: [0]", |file| file["added_tokens"][0] = json!({"content": "x"})),
    ("added_tokens: [0]", |file| file["added_tokens"][0]["id"] = json!(-5)),
    ("added_tokens", |file| file["added_tokens"][0] = json!({"id": 4_000_000_000u32, "content": "x"})),
    ("added_tokens[0]", |file| file["added_tokens"][0]["id"] = json!(5)),
    ("added_tokens[0]", |file| file["added_tokens"][0]["content"] = json!("")),
    ("added_tokens[0]", |file| file["added_tokens"][0]["content"] = json!("other")),
    ("added_tokens[1]", |file| {
        let token = file["added_tokens"][0].clone();
        file["added_tokens"].as_array_mut().unwrap().push(token);
    }),
    ("normalizer.precompiled_charsmap", |file| {
        file["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
    }),
    ("normalizer.precompiled_charsmap", |file| file["normalizer"] = json!({"type": "Precompiled"})),
    ("normalizer.lowercase", |file| {
        file["normalizer"] = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true});
    }),
    ("pre_tokenizer.length", |file| file["pre_tokenizer"] = json!({"type": "FixedLength", "length": 0})),
    ("pre_tokenizer: invalid value", |file| {
        file["pre_tokenizer"] = json!({"type": "CharDelimiterSplit", "delimiter": "ab"})
    }),
    ("decoder.cleanup", |file| file["decoder"] = json!({"type": "WordPiece", "prefix": "##"})),
    ("normalizer.type", |file| file["normalizer"] = json!({})),
    ("normalizer", |file| file["normalizer"] = json!("NFC")),
    ("normalizer.prepend", |file| file["normalizer"] = json!({"type": "Prepend", "prepend": ""})),
    ("normalizer.pattern", |file| {
        file["normalizer"] = json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"});
    }),
    ("normalizer.content", |file| {
        file["normalizer"] = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "x".repeat(1000)});
    }),
    ("normalizer.normalizers", |file| file["normalizer"] = json!({"type": "Sequence"})),
    ("nested", |file| {
        file["normalizer"] = json!({"type": "NFC"});
        for _ in 0..20 {
            file["normalizer"] = json!({"type": "Sequence", "normalizers": [file["normalizer"].take()]});
        }
    }),
    ("pre_tokenizer.add_prefix_space", |file| file["pre_tokenizer"] = json!({"type": "ByteLevel"})),
    ("pre_tokenizer.pattern", |file| file["pre_tokenizer"] = json!({"type": "Split"})),
    ("pre_tokenizer", |file| {
        file["pre_tokenizer"] = split("(a");
    }),
    ("pre_tokenizer", |file| {
        file["pre_tokenizer"] = split("((a{1000}){1000}){1000}");
    }),
    ("pre_tokenizer", |file| {
        file["pre_tokenizer"] =
            json!({"type": "Split", "pattern": {"String": "a"}, "behavior": "Sideways", "invert": false});
    }),
    ("pre_tokenizer.pretokenizers[1].type", |file| {
        file["pre_tokenizer"] = json!({"type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": true}, {"type": "Sideways"}]});
    }),
    ("more than 64 entries", |file| {
        file["pre_tokenizer"] =
            json!({"type": "Sequence", "pretokenizers": vec![json!({"type": "Punctuation"}); 1000]});
    }),
    ("pre_tokenizer.pattern", |file| file["pre_tokenizer"] = split("(a|aa)+(?=b)")),
    ("pre_tokenizer.pattern", |file| file["pre_tokenizer"] = split(r"(a+)\1")),
    ("pre_tokenizer.pattern", |file| file["pre_tokenizer"] = split(r"\\\(x|(?<!a)b")),
    ("pre_tokenizer.replacement", |file| file["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "▁▁"})),
    ("post_processor.sep", |file| file["post_processor"] = json!({"type": "BertProcessing"})),
    ("post_processor", |file| {
        file["post_processor"] = json!({"type": "BertProcessing", "sep": ["[SEP]", 9999], "cls": ["[CLS]", 0]});
    }),
    ("post_processor.single", |file| {
        file["post_processor"] = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}],
            "pair": [], "special_tokens": {}});
    }),
    ("post_processor", |file| {
        file["post_processor"] = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}],
            "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [9999], "tokens": ["<s>"]}}});
    }),
    ("decoder", |file| file["decoder"] = json!(7)),
    ("decoder.type", |file| file["decoder"] = json!({"type": "CTC"})),
    ("decoder", |file| file["decoder"] = json!({"type": "Strip", "content": " ", "start": 1, "stop": 1})),
    ("decoder", |file| file["decoder"] = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0})),
];

#[test]
fn malformed_files_are_refused_by_name() {
    let good = byte_level();
    read(&good).unwrap();
    for (index, (name, change)) in MALFORMED.iter().enumerate() {
        let mut file = good.clone();
        change(&mut file);
        let error = read(&file).expect_err(&format!("case {index}, {name}")).to_string();
        assert!(error.contains(name), "case {index}: {error:?} does not name {name}");
        assert!(error.len() < 700, "case {index}: {} bytes of message", error.len());
    }
}

/// A key that no such section has, and the section.
const UNKNOWN_KEYS: &[Case] = &[
    ("min_chars: there is no such key in a model of type BPE", |file| file["model"]["min_chars"] = json!(3)),
    ("unk_id", |file| drop(file["model"].as_object_mut().unwrap().insert("unk_id".into(), Value::Null))),
    ("added_tokens: [0]: unknown field `lower`", |file| file["added_tokens"][0]["lower"] = json!(true)),
    ("normalizer.form", |file| file["normalizer"] = json!({"type": "NFC", "form": "short"})),
    ("normalizer.strip_accents", |file| {
        file["normalizer"] = json!({"type": "Sequence", "normalizers": [], "strip_accents": true});
    }),
    ("pre_tokenizer.pretokenizers[1].individual_digits", |file| {
        file["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [{"type": "Punctuation"},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "individual_digits": true}]});
    }),
    ("post_processor.every", |file| file["post_processor"] = json!({"type": "ByteLevel", "every": 2})),
    ("post_processor", |file| {
        file["post_processor"] = json!({"type": "TemplateProcessing", "pair": [], "special_tokens": {},
            "single": [{"Sequence": {"id": "A", "type_id": 0, "times": 2}}]});
    }),
    ("decoder.cleanup", |file| file["decoder"]["cleanup"] = json!(true)),
    ("decoder.strip_left", |file| {
        file["decoder"] = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0, "strip_left": true});
    }),
];

#[test]
fn unknown_keys_of_a_section_are_refused_by_name() {
    for (name, change) in UNKNOWN_KEYS {
        let mut file = byte_level();
        change(&mut file);
        let error = read(&file).expect_err(name).to_string();
        assert!(error.contains(name), "{error:?} does not name {name}");
    }
    // Keys that older versions of the library wrote.
    let mut file = byte_fallback();
    file["normalizer"] = Value::Null;
    file["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "▁", "str_rep": "▁", "add_prefix_space": true});
    agrees(&file, &["the"]);
}

#[test]
fn what_cuts_and_fills_up_texts_is_not_applied_and_told() {
    let mut file = byte_level();
    assert_eq!(read(&file).unwrap().not_applied(), None);
    let whole = read(&file).unwrap().encode(TEXT, SpecialTokens::Parse).unwrap();
    file["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    let tokenizer = read(&file).unwrap();
    assert_eq!(tokenizer.encode(TEXT, SpecialTokens::Parse).unwrap(), whole);
    assert!(tokenizer.not_applied().unwrap().starts_with("`truncation` is not applied"));
    file["padding"] = json!({"strategy": "BatchLongest"});
    assert!(read(&file).unwrap().not_applied().unwrap().starts_with("`truncation` and `padding` are not applied"));
    let again = Tokenizer::from_bytes(tokenizer.to_json().unwrap().as_bytes()).unwrap();
    assert_eq!(again.not_applied(), None);
    let twice = file.to_string().replacen('{', "{\"padding\": null, ", 1);
    let error = Tokenizer::from_bytes(twice.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("padding: the key appears twice"), "{error}");
}

#[test]
fn text_that_is_no_file_is_refused() {
    let good = byte_level().to_string();
    let twice = |from: &str, to: &str| good.replacen(from, to, 1);
    let cases = [
        ("expected value", "once".to_owned()),
        ("EOF", String::new()),
        ("EOF", "{".to_owned()),
        ("expected an object", "[]".to_owned()),
        ("expected an object", "null".to_owned()),
        ("model: the key is missing", "{}".to_owned()),
        ("trailing characters", good.clone() + "{}"),
        ("expected an object", "[".repeat(100_000)),
        ("padding: EOF", format!("{{\"padding\":{}", "[".repeat(100_000))),
        ("x: there is no such key", twice("\"model\":", "\"x\":1,\"model\":")),
        ("recursion limit", format!("{{\"normalizer\":{}", "{\"normalizers\":[".repeat(1000))),
        ("model: the key appears twice", twice("\"model\":", "\"model\":{\"vocab\":{},\"merges\":[]},\"model\":")),
        ("merges: the key appears twice", twice("\"merges\":", "\"merges\":[],\"merges\":")),
        ("the token appears twice", twice("\"b\":", "\"b\":300,\"b\":")),
        ("duplicate field `type`", twice("\"type\":\"ByteLevel\"", "\"type\":\"ByteLevel\",\"type\":\"Digits\"")),
        ("hex escape", twice("\"b\":", "\"\\ud800\":")),
    ];
    for (expected, text) in cases {
        let error = Tokenizer::from_bytes(text.as_bytes()).unwrap_err();
        assert!(matches!(error, TokenizerError::Json { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error} instead of {expected}");
    }
    let invalid = Tokenizer::from_bytes(b"{\"version\":\"\xff\"}").unwrap_err();
    assert!(matches!(invalid, TokenizerError::Json { .. }), "{invalid}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, "{}").unwrap();
    let error = Tokenizer::from_file(&path).unwrap_err();
    assert!(
        matches!(error, TokenizerError::InFile { .. }) && error.to_string().contains("tokenizer.json: "),
        "{error}"
    );
}

#[test]
fn files_beyond_the_limits_are_refused_before_memory_is_spent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let file = std::fs::File::create(&path).unwrap();
    // Sparse: only its length counts.
    file.set_len(1 << 40).unwrap();
    let error = Tokenizer::from_file(&path).unwrap_err().to_string();
    assert!(error.contains("over the limit of 67108864 bytes"), "{error}");
    for (head, entry, tail, expected) in [
        ("{\"added_tokens\":[", "{\"id\":1,\"content\":\"\"},", "", "more than 65536 entries"),
        ("{\"model\":{\"merges\":[", "[\"\",\"\"],", "", "more than 655360 entries"),
        ("{\"decoder\":{\"decoders\":[", "{},", "", "decoder: more than 1024 objects"),
    ] {
        let text = format!("{head}{}{tail}", entry.repeat((20 << 20) / entry.len()));
        let error = Tokenizer::from_bytes(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let tokens: String = (0..400_000).map(|id| format!("\"{id}\":{id},")).collect();
    let error =
        Tokenizer::from_bytes(format!("{{\"model\":{{\"vocab\":{{{tokens}").as_bytes()).unwrap_err().to_string();
    assert!(error.contains("more than 393216 tokens"), "{error}");
}

/// Every prefix, and every byte of the file changed: an error or a tokenizer that works, never a panic.
#[test]
fn damaged_files_never_panic() {
    let mut small = byte_fallback();
    let vocab = small["model"]["vocab"].as_object_mut().unwrap();
    vocab.retain(|token, _| !token.starts_with("<0x") || token.as_str() < "<0x04");
    for (id, (_, entry)) in
        (3u32..).zip(vocab.iter_mut().filter(|(token, _)| !["<unk>", "<s>", "</s>"].contains(&token.as_str())))
    {
        *entry = json!(id);
    }
    for file in [small.to_string(), Tokenizer::characters("the hen").unwrap().to_json().unwrap()] {
        read(&serde_json::from_str(&file).unwrap()).unwrap();
        for end in 0..file.len() {
            assert!(Tokenizer::from_bytes(&file.as_bytes()[..end]).is_err(), "prefix of {end} bytes");
        }
        let mut accepted = 0;
        for at in 0..file.len() {
            for change in [1, 2, 4, 8, 16, 32, 64, 128] {
                let mut bytes = file.clone().into_bytes();
                bytes[at] ^= change;
                if let Ok(tokenizer) = Tokenizer::from_bytes(&bytes) {
                    accepted += 1;
                    if let Ok(ids) = tokenizer.encode("<s>the hen\n saw é", SpecialTokens::Parse) {
                        tokenizer.decode(&ids, SpecialText::Show).unwrap();
                    }
                    let _ = tokenizer.encode("the hen <s>", SpecialTokens::AsText);
                    tokenizer.to_json().unwrap();
                }
            }
        }
        assert!(accepted > 20, "only {accepted} changes were accepted: the test looks at nothing");
    }
}
