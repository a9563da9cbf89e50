//! What the tokenizers library, and Oniguruma with it in Python, makes of added tokens, templates and regular
//! expressions.

use super::*;

/// An added token in the words of a file.
fn added(id: usize, content: &str, normalized: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": normalized, "special": false})
}

/// Adds a token to a byte-level file, behind the last unless the vocabulary has it, under a normalizer.
fn with_added(content: &str, normalized: bool, normalizer: Value) -> Value {
    let mut file = byte_level();
    let vocab = file["model"]["vocab"].as_object().unwrap();
    let id = vocab.get(content).map_or(vocab.len(), |id| id.as_u64().unwrap() as usize);
    file["normalizer"] = normalizer;
    file["added_tokens"].as_array_mut().unwrap().push(added(id, content, normalized));
    file
}

/// Ids and text of `text` are those of the library.
#[track_caller]
fn same(file: &Value, texts: &[&str]) -> Tokenizer {
    let tokenizer = read(file).unwrap();
    let library = tokenizers::Tokenizer::from_bytes(file.to_string()).unwrap();
    for text in texts {
        let ids = tokenizer.encode(text, SpecialTokens::Parse).unwrap();
        assert_eq!(tokenizer.completed(&ids), library.encode(*text, true).unwrap().get_ids(), "{text:?}");
        for (special, skip) in [(SpecialText::Skip, true), (SpecialText::Show, false)] {
            assert_eq!(tokenizer.decode(&ids, special).unwrap(), library.decode(&ids, skip).unwrap(), "{text:?}");
        }
    }
    tokenizer
}

#[test]
fn added_tokens_are_decoded_as_they_were_found() {
    // The space before the token is a part of it.
    let mut file = byte_fallback();
    let id = file["model"]["vocab"].as_object().unwrap().len();
    file["added_tokens"].as_array_mut().unwrap().push(added(id, "<tool>", true));
    let tokenizer = same(&file, &["a <tool>b", "<tool>", "a <tool> the <tool>"]);
    let ids = tokenizer.encode("a <tool>b", SpecialTokens::Parse).unwrap();
    assert_eq!(tokenizer.decode(&ids, SpecialText::Show).unwrap(), "a <tool>b");
    let lower = with_added("Hello World", true, json!({"type": "Lowercase"}));
    let tokenizer = same(&lower, &["hello world a", "Hello World a", "HELLO"]);
    let ids = tokenizer.encode("hello world a", SpecialTokens::Parse).unwrap();
    assert_eq!(tokenizer.decode(&ids, SpecialText::Show).unwrap(), "hello world a");
    // As in Gemma 3: two spaces.
    let mut file = byte_fallback();
    file["added_tokens"].as_array_mut().unwrap().push(added(id, "▁▁", false));
    file["normalizer"] = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    file["decoder"] = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]});
    let tokenizer = same(&file, &["a▁▁the", "▁▁"]);
    assert_eq!(tokenizer.token_bytes(id as u32), Some(&b"  "[..]));
    // Bytes spelled as characters are bytes again, also where a character only looks like one.
    for (content, text) in [("Ġzz", "aĠzz b"), ("é", "é x"), ("日本", "日本"), ("<café>", "a <café>")] {
        for normalized in [false, true] {
            same(&with_added(content, normalized, Value::Null), &[text, "the hen"]);
        }
    }
    let mut file = byte_level();
    let the = file["model"]["vocab"]["Ġthe"].as_u64().unwrap() as usize;
    file["added_tokens"].as_array_mut().unwrap().push(added(the, "Ġthe", false));
    let tokenizer = same(&file, &["see the hen", "the Ġthe"]);
    assert_eq!(tokenizer.token_bytes(the as u32), Some(&b" the"[..]));
}

#[test]
fn added_tokens_are_found_in_their_normal_form() {
    for (form, content, text) in [
        ("NFKC", "ﬁ", "a fin"),
        ("NFKC", "²", "km2"),
        ("NFC", "\u{212a}", "7 K"),
        ("NFC", "e\u{301}", "é e\u{301}"),
        ("NFD", "é", "é e\u{301}"),
    ] {
        let file = with_added(content, true, json!({"type": form}));
        let token = read(&file).unwrap().id_of(content).unwrap();
        let tokenizer = same(&file, &[text, content, "the hen"]);
        assert!(tokenizer.encode(text, SpecialTokens::Parse).unwrap().contains(&token), "{form} {content}");
    }
    // A long text is not cut inside of such a token.
    let mut file = with_added("\u{212a}\n", true, json!({"type": "NFC"}));
    file["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        split(LLAMA3), {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]});
    let text = "K\n".repeat(20_000);
    same(&file, &[&text]);
}

#[test]
fn ids_that_other_readers_would_change_are_refused() {
    let file = byte_level();
    let last = file["model"]["vocab"].as_object().unwrap().len();
    for ids in [vec![last + 20], vec![last, last + 2], vec![last + 1, last]] {
        let mut file = file.clone();
        for (n, id) in ids.iter().enumerate() {
            file["added_tokens"].as_array_mut().unwrap().push(added(*id, &format!("<{n}>"), false));
        }
        let error = read(&file).unwrap_err().to_string();
        assert!(error.contains("added_tokens[") && error.contains("other readers give it"), "{error}");
    }
}

#[test]
fn templates_put_around_a_text_what_the_library_puts() {
    let piece = |name: &str| match name {
        "A" => json!({"Sequence": {"id": "A", "type_id": 0}}),
        name => json!({"SpecialToken": {"id": name, "type_id": 0}}),
    };
    let template = |names: &[&str]| {
        json!({"type": "TemplateProcessing", "single": names.iter().map(|name| piece(name)).collect::<Vec<_>>(), "pair": [],
            "special_tokens": {"x": {"id": "x", "ids": [5], "tokens": ["x"]}, "y": {"id": "y", "ids": [6, 7], "tokens": ["y", "z"]}}})
    };
    let mut file = byte_level();
    for (names, prefix, suffix) in [
        (&["A", "x"] as &[&str], &[] as &[u32], &[5u32] as &[u32]),
        (&["x", "A", "y"], &[5], &[6, 7]),
        (&["A", "A"], &[], &[]),
        (&["y", "A", "x", "A", "A", "y"], &[6, 7], &[6, 7]),
    ] {
        for nested in [false, true] {
            let processors =
                json!([{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true}, template(names)]);
            let sequence = json!({"type": "Sequence", "processors": processors});
            file["post_processor"] = if nested { sequence } else { template(names) };
            let tokenizer = same(&file, &["the hen", "", "a"]);
            assert_eq!((tokenizer.prompt_prefix(), tokenizer.suffix()), (prefix, suffix));
            let ids = tokenizer.encode("the hen", SpecialTokens::Parse).unwrap();
            assert_eq!([tokenizer.prompt(&ids).as_slice(), suffix].concat(), tokenizer.completed(&ids));
        }
    }
    let two = json!({"type": "Sequence", "processors": [template(&["A"]), template(&["A"])]});
    let second = json!({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "B", "type_id": 0}}], "pair": [], "special_tokens": {}});
    for (part, words) in [(two, "2 parts"), (template(&["x"]), "left out"), (second, "\"B\"")] {
        file["post_processor"] = part;
        let error = read(&file).unwrap_err().to_string();
        assert!(error.contains("post_processor") && error.contains(words), "{error}");
    }
}

/// Expressions and what they make of a text, as the Python package with Oniguruma does
/// (`benchmarks/tokenizers/compare.py`).
#[test]
fn expressions_mean_what_they_mean_to_oniguruma() {
    let cases: &[(&str, &str, &[&str])] = &[
        (r"\s+$", "a \nb\n\n c ", &["a", " ", "\nb", "\n", "\n c", " "]),
        (r"b$", "ab\nb", &["a", "b", "\n", "b"]),
        (r"^a", "a\naa", &["a", "\n", "a", "a"]),
        (r"\n^", "a\nb\n", &["a", "\n", "b\n"]),
        (r".+", "ab\r\nc", &["ab\r", "\n", "c"]),
        (r"(?i:'S|'ll)", "a'ſ'LL'k", &["a", "'ſ", "'LL", "'k"]),
        (r"(?i:[k])", "ak\u{212a}K", &["a", "k", "\u{212a}", "K"]),
        (r"\w+", "a² b\u{200d}c", &["a²", " ", "b", "\u{200d}", "c"]),
        (r"[\w]+", "a²_b", &["a", "²", "_b"]),
        (r"[[:alpha:]]+", "aé1 日", &["aé", "1 ", "日"]),
        (r"[[:^alpha:]]+", "aé1 日", &["aé", "1 ", "日"]),
        (r"[[:punct:]]+", "a+=$é“", &["a", "+=$", "é", "“"]),
        (r"\p{punct}", "a+!", &["a+", "!"]),
        (r"[a-e&&[^c]]+", "abcde", &["ab", "c", "de"]),
        (r"\h+", "xaFg", &["x", "aF", "g"]),
        (r"a{,2}b", "aaab", &["a", "aab"]),
        (r"[^(\s|[.,])]+", "ab (c|d.", &["ab", " (", "c", "|", "d", "."]),
        (r"a++|\x{e9}", "aaé", &["aa", "é"]),
    ];
    let mut file = byte_level();
    file["model"]["merges"] = json!([]);
    for (expression, text, words) in cases {
        // Each word in one token: the merges are those of the words.
        file["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]});
        file["model"]["ignore_merges"] = json!(true);
        let mut own = file.clone();
        let bytes = read(&file).unwrap();
        for word in *words {
            let spelled: String = bytes
                .encode(word, SpecialTokens::AsText)
                .unwrap()
                .iter()
                .map(|id| {
                    let vocab = file["model"]["vocab"].as_object().unwrap();
                    vocab.iter().find(|(_, value)| value.as_u64() == Some(u64::from(*id))).unwrap().0.clone()
                })
                .collect();
            let vocab = own["model"]["vocab"].as_object_mut().unwrap();
            let next = vocab.len();
            vocab.entry(spelled).or_insert(json!(next));
        }
        let tokenizer = read(&own).unwrap();
        let ids = tokenizer.encode(text, SpecialTokens::AsText).unwrap();
        let found: Vec<_> =
            ids.iter().map(|id| std::str::from_utf8(tokenizer.token_bytes(*id).unwrap()).unwrap().to_owned()).collect();
        assert_eq!(found, *words, "{expression}");
        assert!(
            tokenizer.to_json().unwrap().contains(&json!(expression).to_string()),
            "a file is written as it was read"
        );
    }
    for expression in [
        r"\b",
        r"\Bx",
        r"\Z",
        r"(?i)a",
        r"(?i:ss)",
        r"(?i:s+?)",
        r"(?i:é)",
        r"(?m:.)",
        r"[[:graph:]]",
        r"\p{Emoji}",
        r"\pL",
        r"a{2}?",
        "[a-c-e]",
        r"\R",
        "x{",
    ] {
        file["pre_tokenizer"] = split(expression);
        let error = read(&file).unwrap_err().to_string();
        assert!(error.starts_with("pre_tokenizer.pattern: ") && error.contains("in a regular expression"), "{error}");
    }
}

/// The library looks for the normal form among the special tokens, does not find it, and shows it in a text without
/// special tokens.
#[test]
fn special_tokens_with_another_normal_form_are_special_too() {
    let mut file = with_added("<TOOL>", true, json!({"type": "Lowercase"}));
    file["added_tokens"][1]["special"] = json!(true);
    let tokenizer = read(&file).unwrap();
    let mut library = tokenizers::Tokenizer::from_bytes(file.to_string()).unwrap();
    for text in ["a<TOOL>b", "a<tool>b", "a <Tool> b<|endoftext|>"] {
        let ids = tokenizer.encode(text, SpecialTokens::Parse).unwrap();
        assert_eq!(ids, library.encode(text, false).unwrap().get_ids(), "{text}");
        assert_eq!(tokenizer.decode(&ids, SpecialText::Show).unwrap(), library.decode(&ids, false).unwrap(), "{text}");
        let without = library.decode(&ids, true).unwrap().replace("<tool>", "");
        assert_eq!(tokenizer.decode(&ids, SpecialText::Skip).unwrap(), without, "{text}");
        library.set_encode_special_tokens(true);
        let plain = tokenizer.encode(text, SpecialTokens::AsText).unwrap();
        assert_eq!(plain, library.encode(text, false).unwrap().get_ids(), "{text}");
        assert_eq!(tokenizer.decode(&plain, SpecialText::Skip).unwrap(), text.to_lowercase());
        library.set_encode_special_tokens(false);
    }
}
