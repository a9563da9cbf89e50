//! Sequences of parts in sequences: small ones are read, large ones are refused.

use super::*;

/// The text of a sequence of `width` sequences and so on, `depth` levels of them around parts of a kind. `list` is the
/// key of the parts of a sequence.
pub fn tree(list: &str, width: usize, depth: usize, kind: &str) -> String {
    let mut part = format!("{{\"type\":\"{kind}\"}}");
    for _ in 0..depth {
        part = format!("{{\"type\":\"Sequence\",\"{list}\":[{}]}}", vec![part.as_str(); width].join(","));
    }
    part
}

/// The text of a file with nothing but one section and a model.
pub fn section(name: &str, part: &str) -> String {
    format!("{{\"{name}\":{part},\"model\":{{\"type\":\"BPE\",\"vocab\":{{\"a\":0}},\"merges\":[]}}}}")
}

const SECTIONS: [(&str, &str, &str); 4] = [
    ("normalizer", "normalizers", "Lowercase"),
    ("pre_tokenizer", "pretokenizers", "Punctuation"),
    ("post_processor", "processors", "ByteLevel"),
    ("decoder", "decoders", "Fuse"),
];

#[test]
fn sequences_have_64_parts_in_all() {
    for (name, list, kind) in SECTIONS {
        let read = |part: &str| Tokenizer::from_bytes(section(name, part).as_bytes());
        // 64, 56 and 30 parts.
        for (width, depth) in [(64, 1), (7, 2), (2, 4)] {
            read(&tree(list, width, depth, kind)).unwrap();
        }
        let refused = |part: &str| read(part).unwrap_err().to_string();
        assert_eq!(refused(&tree(list, 8, 2, kind)), format!("{name}: 72 parts are over the limit of 64"));
        assert_eq!(refused(&tree(list, 4, 4, kind)), format!("{name}: 340 parts are over the limit of 64"));
        assert!(refused(&tree(list, 65, 1, kind)).contains("more than 64 entries"));
        assert!(refused(&tree(list, 1, 6, kind)).contains("nested more than 4 deep"));
        for (width, depth) in [(60, 3), (2, 10)] {
            assert_eq!(refused(&tree(list, width, depth, kind)), format!("{name}: more than 1024 objects"));
        }
    }
}

#[test]
fn nested_sequences_read_as_the_library_reads_them() {
    let mut file = byte_level();
    let nested = |list: &str, parts: Value| json!({"type": "Sequence", list: [{"type": "Sequence", list: parts}]});
    file["normalizer"] = nested("normalizers", json!([{"type": "NFC"}]));
    file["pre_tokenizer"] = nested("pretokenizers", json!([file["pre_tokenizer"].take()]));
    file["decoder"] = nested("decoders", json!([file["decoder"].take()]));
    agrees(&file, &[TEXT, ""]);
}

/// A template may have as many pieces as a list holds, and as many tokens of as many ids.
#[test]
fn the_largest_template_is_read() {
    let mut file = byte_level();
    let end = file["added_tokens"][0]["content"].as_str().unwrap().to_owned();
    let names: Vec<String> = (0..64).map(|index| format!("<{index}>")).collect();
    let mut pieces: Vec<Value> =
        names[1..].iter().map(|name| json!({"SpecialToken": {"id": name, "type_id": 0}})).collect();
    pieces.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
    let token = |name: &String| (name.clone(), json!({"id": name, "ids": vec![0; 64], "tokens": vec![&end; 64]}));
    let tokens: serde_json::Map<String, Value> = names.iter().map(token).collect();
    file["post_processor"] = json!({"type": "Sequence", "processors": [
        {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true},
        {"type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": tokens}]});
    assert_eq!(read(&file).unwrap().prompt_prefix(), [0; 63 * 64]);
}

#[test]
fn a_section_has_bounded_values_and_bytes() {
    for (name, ..) in SECTIONS {
        for (part, problem) in [
            (format!("{{\"x\":[{}1]}}", "1,".repeat(20_000)), "more than 16384 values"),
            (format!("{{\"x\":{{{}\"y\":1}}}}", "\"y\":1,".repeat(20_000)), "more than 16384 values"),
            (format!("{{\"content\":\"{}\"}}", "x".repeat(9 << 20)), "more than 8388608 bytes"),
        ] {
            let error = Tokenizer::from_bytes(section(name, &part).as_bytes()).unwrap_err().to_string();
            assert_eq!(error, format!("{name}: {problem}"));
        }
    }
}
