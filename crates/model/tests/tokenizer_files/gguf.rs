//! Vocabularies of GGUF files.

use std::path::{Path, PathBuf};

use smallmind_checkpoint::{GgufArray, GgufFile, GgufMetadata, GgufValue, GgufWriter, parse_gguf_header};

use super::*;

/// A folder of `ggml-vocab-*.gguf` with the texts (`.inp`) and the ids (`.out`) that llama.cpp's own tests compare.
const FOLDER: &str = "SMALLMIND_GGUF_VOCABULARIES";

pub fn metadata(writer: &GgufWriter) -> GgufMetadata {
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes).unwrap();
    parse_gguf_header("vocabulary.gguf".as_ref(), &bytes).unwrap().metadata
}

/// What we write is read again to the same tokens.
fn written(tokenizer: &Tokenizer) -> Tokenizer {
    let mut writer = GgufWriter::new();
    tokenizer.write_gguf("a model", 0, &mut writer).unwrap();
    Tokenizer::from_gguf(&metadata(&writer)).unwrap()
}

fn texts_and_ids(path: &Path) -> Vec<(String, Vec<u32>)> {
    let beside = |extension: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(extension);
        std::fs::read_to_string(PathBuf::from(name)).unwrap()
    };
    let (texts, ids) = (beside(".inp"), beside(".out"));
    let ids = ids.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect());
    texts.split("\n__ggml_vocab_test__\n").map(str::to_owned).zip(ids).collect()
}

#[test]
fn published_vocabularies_give_the_ids_of_llama_cpp() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mut names: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    names.sort();
    for path in names {
        let tokenizer = Tokenizer::from_gguf(GgufFile::open(&path).unwrap().metadata()).unwrap();
        let json = Tokenizer::from_bytes(tokenizer.to_json().unwrap().as_bytes()).unwrap();
        let again = written(&tokenizer);
        let cases = texts_and_ids(&path);
        for (text, ids) in &cases {
            for tokenizer in [&tokenizer, &json, &again] {
                assert_eq!(
                    &tokenizer.encode(text, SpecialTokens::AsText).unwrap(),
                    ids,
                    "{}: {text:?}",
                    path.display()
                );
                assert_eq!(&tokenizer.decode(ids, SpecialText::Show).unwrap(), text, "{}", path.display());
            }
        }
        println!("{}: {} of {} texts", path.display(), cases.len(), cases.len());
    }
}

/// Vocabularies and ids by other tools (`benchmarks/tokenizers/make_tiny_gguf.py`).
pub const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tokenizers");

#[test]
fn vocabularies_of_other_tools_give_their_ids() {
    for (name, kind) in
        [("gpt2", TokenizerKind::ByteLevelBpe), ("bert", TokenizerKind::WordPiece), ("t5", TokenizerKind::Unigram)]
    {
        let tokenizer = Tokenizer::from_file(format!("{GOLDENS}/{name}.gguf")).unwrap();
        assert_eq!(tokenizer.kind(), kind);
        let cases: Vec<Value> =
            serde_json::from_slice(&std::fs::read(format!("{GOLDENS}/{name}.json")).unwrap()).unwrap();
        let json = Tokenizer::from_bytes(tokenizer.to_json().unwrap().as_bytes()).unwrap();
        for tokenizer in [&tokenizer, &json, &written(&tokenizer)] {
            for case in &cases {
                let ids = |key: &str| serde_json::from_value::<Vec<u32>>(case[key].clone()).unwrap();
                let text = case["text"].as_str().unwrap();
                let found = tokenizer.encode(text, SpecialTokens::Parse).unwrap();
                assert_eq!(found, ids("ids"), "{name}: {text:?}");
                assert_eq!(tokenizer.completed(&found), ids("whole"), "{name}: {text:?}");
                assert_eq!(tokenizer.decode(&found, SpecialText::Show).unwrap(), case["back"], "{name}: {text:?}");
            }
        }
    }
}

#[test]
fn damaged_vocabularies_are_refused_or_applied() {
    for (name, step) in [("gpt2", 23), ("bert", 3), ("t5", 61)] {
        let whole = std::fs::read(format!("{GOLDENS}/{name}.gguf")).unwrap();
        for bit in (0..whole.len() * 8).step_by(step) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let Ok(header) = parse_gguf_header("damaged.gguf".as_ref(), &bytes) else { continue };
            if let Ok(tokenizer) = Tokenizer::from_gguf(&header.metadata) {
                if let Ok(ids) = tokenizer.encode(TEXT, SpecialTokens::Parse) {
                    tokenizer.decode(&ids, SpecialText::Show).unwrap();
                }
                let _ = tokenizer.write_gguf("a model", 0, &mut GgufWriter::new());
            }
        }
    }
}

#[test]
fn what_is_trained_here_is_read_again() {
    let bpe = Tokenizer::train_bpe([TEXT; 3], &BpeTraining { vocab_size: 300, min_frequency: 2 }).unwrap();
    let characters = Tokenizer::characters(TEXT).unwrap();
    for tokenizer in [bpe, characters] {
        let again = written(&tokenizer);
        let ids = tokenizer.encode(TEXT, SpecialTokens::Parse).unwrap();
        assert_eq!(again.encode(TEXT, SpecialTokens::Parse).unwrap(), ids);
        assert_eq!(again.decode(&ids, SpecialText::Show).unwrap(), TEXT);
        assert_eq!((again.vocab_size(), again.eos()), (tokenizer.vocab_size(), tokenizer.eos()));
    }
}

#[test]
fn rows_of_embeddings_without_a_token_get_one() {
    let bpe = Tokenizer::train_bpe([TEXT; 3], &BpeTraining { vocab_size: 300, min_frequency: 2 }).unwrap();
    let golden = |name: &str| Tokenizer::from_file(format!("{GOLDENS}/{name}.gguf")).unwrap();
    for tokenizer in
        [bpe, read(&byte_fallback()).unwrap(), Tokenizer::characters(TEXT).unwrap(), golden("bert"), golden("t5")]
    {
        let rows = tokenizer.vocab_size() + 3;
        let mut writer = GgufWriter::new();
        tokenizer.write_gguf("a model", rows, &mut writer).unwrap();
        let metadata = metadata(&writer);
        let types: Vec<i32> = metadata.required("tokenizer.ggml.token_type").unwrap();
        assert_eq!((types.len(), &types[rows - 3..]), (rows, &[5; 3][..]), "unused");
        let again = Tokenizer::from_gguf(&metadata).unwrap();
        assert_eq!(again.vocab_size(), rows);
        let ids = tokenizer.encode("the hen", SpecialTokens::Parse).unwrap();
        assert_eq!(again.encode("the hen", SpecialTokens::Parse).unwrap(), ids);
    }
}

#[test]
fn sentencepiece_files_are_read_again() {
    let tokenizer = read(&byte_fallback()).unwrap();
    let mut writer = GgufWriter::new();
    assert_eq!(tokenizer.write_gguf("a model", 0, &mut writer).unwrap(), None);
    let metadata = metadata(&writer);
    assert_eq!(metadata.required::<&str>("tokenizer.ggml.model").unwrap(), "llama");
    let types: Vec<i32> = metadata.required("tokenizer.ggml.token_type").unwrap();
    assert_eq!(types[..4], [2, 3, 3, 6]);
    let again = Tokenizer::from_gguf(&metadata).unwrap();
    for text in ["the hen", "", "then the hen\nsaw", "日本 🦀 é", "<s>the hen</s>", "  the", "thenthe  sea"] {
        let ids = tokenizer.encode(text, SpecialTokens::Parse).unwrap();
        assert_eq!(again.encode(text, SpecialTokens::Parse).unwrap(), ids, "{text:?}");
        assert_eq!(again.completed(&ids), tokenizer.completed(&ids));
    }
    assert_eq!((again.bos(), again.eos()), (Some(1), Some(2)));
}

/// A writer with a small vocabulary of SentencePiece's kind: texts, scores, types.
pub fn pieces(list: &[(&str, f32, i32)]) -> GgufWriter<'static> {
    pieces_of("llama", list)
}

pub fn pieces_of(model: &str, list: &[(&str, f32, i32)]) -> GgufWriter<'static> {
    let mut writer = GgufWriter::new();
    let mut set = |key: &str, value| writer.set(key, value).map(drop).unwrap();
    set("tokenizer.ggml.model", GgufValue::String(model.into()));
    let texts = list.iter().map(|(text, ..)| text).collect();
    set("tokenizer.ggml.tokens", GgufValue::Array(GgufArray::Strings(texts)));
    set("tokenizer.ggml.scores", GgufValue::Array(GgufArray::F32(list.iter().map(|(_, score, _)| *score).collect())));
    set("tokenizer.ggml.token_type", GgufValue::Array(GgufArray::I32(list.iter().map(|(.., kind)| *kind).collect())));
    writer
}

pub const PIECES: &[(&str, f32, i32)] = &[
    ("<unk>", 0.0, 2),
    ("<s>", 0.0, 3),
    ("</s>", 0.0, 3),
    ("▁", -10.0, 1),
    ("a", -11.0, 1),
    ("b", -12.0, 1),
    ("aa", -1.0, 1),
    ("aaa", -2.0, 1),
    ("▁a", -3.0, 1),
    ("ab", -3.0, 1),
    ("<tool>", 0.0, 4),
    ("<0x41>", 0.0, 6),
];

#[test]
fn scores_decide_and_of_equals_the_leftmost() {
    let tokenizer = Tokenizer::from_gguf(&metadata(&pieces(PIECES))).unwrap();
    let ids = |text: &str| tokenizer.encode(text, SpecialTokens::Parse).unwrap();
    // "▁a" and "ab" have one score: the left one is merged.
    assert_eq!(ids("ab"), [8, 5]);
    // "aa" first, from the left; then "aaa" of "aa" and "a".
    assert_eq!(ids("aaa"), [3, 7]);
    assert_eq!(ids("baaaa"), [3, 5, 6, 6]);
    assert_eq!(ids("A"), [3, 11]);
    // No byte for it: unknown.
    assert_eq!(ids("日"), [3, 0]);
    assert_eq!(ids("a<tool>b"), [8, 10, 3, 5]);
    assert_eq!(tokenizer.prompt(&ids("b")), [1, 3, 5]);
    assert_eq!(tokenizer.decode(&[8, 5, 3, 4], SpecialText::Show).unwrap(), "ab a");
    // Long runs go through a heap, short ones don't.
    for count in [30, 31, 32, 33, 34, 64, 65, 100] {
        let tokens = ids(&"a".repeat(count));
        assert_eq!(tokenizer.decode(&tokens, SpecialText::Show).unwrap(), "a".repeat(count));
        assert_eq!(tokens[0], 3);
        // Pairs from the left; a last single one joins the pair before it.
        let odd = count % 2 == 1;
        let pairs = vec![6; count / 2 - usize::from(odd)];
        assert_eq!(tokens[1..], [pairs, if odd { vec![7] } else { vec![] }].concat(), "{count}");
    }
}

/// Texts and their ids.
type Texts = &'static [(&'static str, &'static [u32])];

/// The ids are those of llama.cpp.
#[test]
fn spaces_of_unigram_are_those_of_sentencepiece() {
    let list = [
        ("<pad>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("<unk>", 0.0, 2),
        ("▁", -2.0, 1),
        ("a", -3.0, 1),
        ("\n", -4.0, 1),
        ("▁a", -2.5, 1),
    ];
    let cases: [(bool, bool, Texts); 3] = [
        (true, true, &[("a \na", &[6, 3, 5, 4]), ("▁a", &[3, 6]), (" a ", &[6]), ("  ", &[]), ("a  a", &[6, 6])]),
        (true, false, &[(" a", &[3, 6]), ("a \n", &[6, 3, 5]), ("▁a", &[3, 6]), ("", &[])]),
        (false, false, &[(" a", &[6]), ("a ", &[4, 3]), ("▁a", &[6])]),
    ];
    for (prefix, merges, texts) in cases {
        let mut writer = pieces_of("t5", &list);
        writer.set("tokenizer.ggml.add_space_prefix", GgufValue::Bool(prefix)).unwrap();
        writer.set("tokenizer.ggml.remove_extra_whitespaces", GgufValue::Bool(merges)).unwrap();
        let tokenizer = Tokenizer::from_gguf(&metadata(&writer)).unwrap();
        let json = Tokenizer::from_bytes(tokenizer.to_json().unwrap().as_bytes()).unwrap();
        for tokenizer in [&tokenizer, &json, &written(&tokenizer)] {
            for (text, ids) in texts {
                let found = tokenizer.encode(text, SpecialTokens::Parse).unwrap();
                assert_eq!(found, *ids, "{text:?} {prefix} {merges}");
            }
        }
    }
}

#[test]
fn a_sign_for_spaces_alone_continues_words() {
    let list =
        [("[PAD]", 0.0, 3), ("[UNK]", 0.0, 2), ("[CLS]", 0.0, 3), ("[SEP]", 0.0, 3), ("▁", 0.0, 1), ("▁a", 0.0, 1)];
    let mut writer = pieces_of("bert", &list);
    for (key, id) in [("unknown", 1), ("bos", 2), ("seperator", 3)] {
        writer.set(&format!("tokenizer.ggml.{key}_token_id"), GgufValue::U32(id)).unwrap();
    }
    let tokenizer = Tokenizer::from_gguf(&metadata(&writer)).unwrap();
    for tokenizer in [&tokenizer, &written(&tokenizer)] {
        assert_eq!(tokenizer.encode("a▁ a", SpecialTokens::Parse).unwrap(), [5, 4, 5]);
    }
}

#[test]
fn settings_of_gguf_are_obeyed_or_told() {
    let mut writer = pieces(PIECES);
    writer.set("tokenizer.ggml.add_bos_token", GgufValue::Bool(false)).unwrap();
    writer.set("tokenizer.ggml.add_eos_token", GgufValue::Bool(true)).unwrap();
    writer.set("tokenizer.ggml.add_space_prefix", GgufValue::Bool(false)).unwrap();
    writer.set("tokenizer.ggml.eos_token_id", GgufValue::U32(1)).unwrap();
    writer.set("tokenizer.ggml.magic", GgufValue::U32(1)).unwrap();
    let tokenizer = Tokenizer::from_gguf(&metadata(&writer)).unwrap();
    let ids = tokenizer.encode("ab", SpecialTokens::Parse).unwrap();
    assert_eq!((ids.as_slice(), tokenizer.completed(&ids)), (&[9][..], vec![9, 1]));
    assert_eq!((tokenizer.eos(), tokenizer.has_leading_space()), (Some(1), false));
    assert_eq!(tokenizer.not_applied().unwrap(), "`tokenizer.ggml.magic` is not applied: not known");
    // Phi-3: blanks after a special token belong to it.
    let mut writer = pieces(PIECES);
    writer.set("general.name", GgufValue::String("Phi-3 Mini".into())).unwrap();
    let tokenizer = Tokenizer::from_gguf(&metadata(&writer)).unwrap();
    assert_eq!(tokenizer.encode("</s>  a", SpecialTokens::Parse).unwrap(), [2, 8]);
    assert_eq!(tokenizer.encode("<s> a", SpecialTokens::Parse).unwrap(), [1, 3, 8]);
}

/// llama.cpp tells from a model's name whether blanks after special tokens belong to them. What is written reads back as
/// it was, whatever the name.
#[test]
fn a_name_does_not_change_the_tokens() {
    let plain = Tokenizer::from_gguf(&metadata(&pieces(PIECES))).unwrap();
    let mut writer = pieces(PIECES);
    writer.set("general.name", GgufValue::String("Phi-3 Mini".into())).unwrap();
    let phi = Tokenizer::from_gguf(&metadata(&writer)).unwrap();
    // Through a folder.
    let phi = Tokenizer::from_bytes(phi.to_json().unwrap().as_bytes()).unwrap();
    for (name, of_plain, of_phi) in
        [("alpha", "alpha", "alpha (Phi-3)"), ("my-phi3", "my-phi_3", "my-phi3"), ("PHI-3", "PHI_3", "PHI-3")]
    {
        for (tokenizer, written, ids) in [(&plain, of_plain, &[2, 3, 3, 8][..]), (&phi, of_phi, &[2, 8])] {
            let mut writer = GgufWriter::new();
            let told = tokenizer.write_gguf(name, 0, &mut writer).unwrap();
            let renamed = format!(
                "the name is written as {written:?}: llama.cpp would treat blanks after special tokens otherwise"
            );
            let renamed = (name != written).then_some(renamed);
            if std::ptr::eq(tokenizer, &plain) {
                assert_eq!(told, renamed, "{name}");
            } else {
                // Of characters that this small vocabulary lacks, ranks and scores make different numbers of unknown tokens.
                let told = told.unwrap_or_default();
                assert!(
                    told.contains("<unk>") && renamed.is_none_or(|renamed| told.contains(&renamed)),
                    "{name}: {told}"
                );
            }
            let metadata = metadata(&writer);
            assert_eq!(metadata.required::<&str>("general.name").unwrap(), written);
            let again = Tokenizer::from_gguf(&metadata).unwrap();
            for tokenizer in [tokenizer, &again] {
                assert_eq!(tokenizer.encode("</s>  a", SpecialTokens::Parse).unwrap(), ids, "{name}");
            }
        }
    }
    // What no name can say is told.
    let mut file: Value = serde_json::from_str(&phi.to_json().unwrap()).unwrap();
    let added = file["added_tokens"].as_array_mut().unwrap();
    added.iter_mut().find(|token| token["content"] == "</s>").unwrap()["lstrip"] = json!(true);
    let told = read(&file).unwrap().write_gguf("phi3", 0, &mut GgufWriter::new()).unwrap().unwrap();
    assert!(told.contains("blanks beside \"</s>\""), "{told}");
}

/// What is written is read back: tokens with another spelling are refused, what else differs is told.
#[test]
fn what_reads_back_otherwise_is_refused_or_told() {
    // In GGUF the sign is a space.
    let error = Tokenizer::characters("ab\u{2581}").unwrap().write_gguf("a", 0, &mut GgufWriter::new()).unwrap_err();
    assert!(matches!(&error, TokenizerError::NotInGguf { part, .. } if part == "model.vocab"), "{error}");
    // A token that continues a word and looks like a special one becomes another.
    let list =
        [("[PAD]", 0.0, 3), ("[UNK]", 0.0, 2), ("[CLS]", 0.0, 3), ("[SEP]", 0.0, 3), ("▁a", 0.0, 1), ("x]", 0.0, 1)];
    let mut writer = pieces_of("bert", &list);
    for (key, id) in [("unknown", 1), ("bos", 2), ("seperator", 3)] {
        writer.set(&format!("tokenizer.ggml.{key}_token_id"), GgufValue::U32(id)).unwrap();
    }
    let bert = Tokenizer::from_gguf(&metadata(&writer)).unwrap();
    assert_eq!(bert.write_gguf("a", 0, &mut GgufWriter::new()).unwrap(), None);
    let mut file: Value = serde_json::from_str(&bert.to_json().unwrap()).unwrap();
    let vocab = file["model"]["vocab"].as_object_mut().unwrap();
    vocab.remove("##x]");
    vocab.insert("##[x]".to_owned(), json!(5));
    let error = read(&file).unwrap().write_gguf("a", 0, &mut GgufWriter::new()).unwrap_err();
    assert!(matches!(&error, TokenizerError::NotInGguf { part, .. } if part == "model.vocab"), "{error}");
    // A decoder that leaves bytes as they are spelled.
    let mut file = byte_fallback();
    file["decoder"]["decoders"].as_array_mut().unwrap().remove(1);
    let told = read(&file).unwrap().write_gguf("a", 0, &mut GgufWriter::new()).unwrap().unwrap_or_default();
    assert!(told.starts_with("read from the file, token 3 is decoded as \"\\0\" instead of \"<0x00>\""), "{told}");
    // Blanks before a token that takes them.
    let mut file = byte_fallback();
    file["added_tokens"][2]["lstrip"] = json!(true);
    let told = read(&file).unwrap().write_gguf("a", 0, &mut GgufWriter::new()).unwrap().unwrap_or_default();
    assert!(told.ends_with("; read from the file, \"a</s>   b </s>c\" becomes other tokens"), "{told}");
}

#[test]
fn tokens_end_a_text_by_keys_and_by_their_texts() {
    let mut list = PIECES.to_vec();
    // A control token, a token of the user, and an ordinary token, which text may hold.
    list.extend([("<|im_end|>", 0.0, 3), ("<end_of_turn>", 0.0, 4), ("<|eot_id|>", -5.0, 1), ("<gap>", 0.0, 3)]);
    let mut writer = pieces(&list);
    writer.set("tokenizer.ggml.eos_token_id", GgufValue::U32(1)).unwrap();
    writer.set("tokenizer.ggml.fim_pad_token_id", GgufValue::U32(15)).unwrap();
    let tokenizer = Tokenizer::from_gguf(&metadata(&writer)).unwrap();
    let sorted = |tokenizer: &Tokenizer| {
        let mut ends: Vec<u32> = tokenizer.ends().collect();
        ends.sort_unstable();
        ends
    };
    assert_eq!(sorted(&tokenizer), [1, 2, 12, 13, 15]);
    // A tokenizer.json has the texts only.
    let json = Tokenizer::from_bytes(tokenizer.to_json().unwrap().as_bytes()).unwrap();
    let mut ends = sorted(&json);
    ends.dedup();
    assert_eq!(ends, [2, 12, 13]);
    writer.set("tokenizer.ggml.fim_pad_token_id", GgufValue::U32(16)).unwrap();
    let error = Tokenizer::from_gguf(&metadata(&writer)).unwrap_err().to_string();
    assert!(error.contains("fim_pad_token_id"), "{error}");
}

type Change = fn(&mut GgufWriter<'static>);

pub fn set(writer: &mut GgufWriter<'static>, key: &str, value: GgufValue) {
    writer.set(&format!("tokenizer.ggml.{key}"), value).unwrap();
}

fn strings(list: &[&str]) -> GgufValue {
    GgufValue::Array(GgufArray::Strings(list.iter().collect()))
}

#[test]
fn malformed_vocabularies_are_refused_by_name() {
    let cases: &[(&str, Change)] = &[
        ("tokenizer.ggml.model", |w| set(w, "model", GgufValue::String("rwkv".into()))),
        ("tokenizer.ggml.model", |w| set(w, "model", GgufValue::U32(1))),
        ("supported: gpt-2, ", |w| {
            set(w, "model", GgufValue::String("gpt2".into()));
            set(w, "pre", GgufValue::String("gpt-9".into()));
        }),
        ("tokenizer.ggml.merges", |w| set(w, "model", GgufValue::String("gpt2".into()))),
        ("tokenizer.ggml.merges[1]", |w| {
            set(w, "model", GgufValue::String("gpt2".into()));
            set(w, "merges", strings(&["a a", "ab"]));
        }),
        ("model.merges[0]", |w| {
            set(w, "model", GgufValue::String("gpt2".into()));
            set(w, "merges", strings(&["a b c"]));
        }),
        ("tokenizer.ggml.tokens", |w| set(w, "tokens", strings(&["a", "a", "c"]))),
        ("tokenizer.ggml.tokens", |w| set(w, "tokens", GgufValue::Array(GgufArray::U32(vec![1])))),
        ("tokenizer.ggml.tokens", |w| set(w, "tokens", strings(&[]))),
        ("tokenizer.ggml.tokens", |w| {
            let long: Vec<String> = (0..20).map(|n| n.to_string() + &"x".repeat(8000)).collect();
            let list: Vec<&str> = std::iter::once("<unk>").chain(long.iter().map(String::as_str)).collect();
            set(w, "tokens", strings(&list));
            set(w, "token_type", GgufValue::Array(GgufArray::I32(vec![1; list.len()])));
            set(w, "scores", GgufValue::Array(GgufArray::F32(vec![0.0; list.len()])));
        }),
        ("tokenizer.ggml.scores", |w| set(w, "scores", GgufValue::Array(GgufArray::F32(vec![0.0; 3])))),
        ("tokenizer.ggml.scores", |w| set(w, "scores", GgufValue::Array(GgufArray::F32(vec![f32::NAN; 12])))),
        ("tokenizer.ggml.scores", |w| set(w, "scores", strings(&["a"; 12]))),
        ("tokenizer.ggml.token_type", |w| set(w, "token_type", GgufValue::Array(GgufArray::I32(vec![1])))),
        (
            "tokenizer.ggml.token_type[1]: the type 99 is not supported (supported: 0 undefined, 1 normal, 2 unknown, ",
            |w| {
                set(w, "token_type", GgufValue::Array(GgufArray::I32([[1, 99].as_slice(), &[1; 10]].concat())));
            },
        ),
        ("tokenizer.ggml.token_type[11]: the type -1 is not supported", |w| {
            set(w, "token_type", GgufValue::Array(GgufArray::I32([[1; 11].as_slice(), &[-1]].concat())));
        }),
        ("tokenizer.ggml.token_type[0]: the type 7 is not", |w| {
            set(w, "token_type", GgufValue::Array(GgufArray::I32(vec![7; 12])));
        }),
        ("tokenizer.ggml.bos_token_id", |w| set(w, "bos_token_id", GgufValue::U32(12))),
        ("tokenizer.ggml.add_bos_token", |w| {
            set(w, "bos_token_id", GgufValue::U32(u32::MAX));
            set(w, "add_bos_token", GgufValue::Bool(true));
        }),
        ("tokenizer.ggml.add_eos_token", |w| set(w, "add_eos_token", GgufValue::U32(1))),
        ("tokenizer.ggml.precompiled_charsmap", |w| {
            set(w, "model", GgufValue::String("t5".into()));
            set(w, "precompiled_charsmap", GgufValue::Array(GgufArray::U8(vec![8, 0, 0, 0, 1])));
        }),
        ("tokenizer.ggml.unknown_token_id", |w| set(w, "model", GgufValue::String("bert".into()))),
    ];
    for (index, (name, change)) in cases.iter().enumerate() {
        let mut writer = pieces(PIECES);
        change(&mut writer);
        let error = Tokenizer::from_gguf(&metadata(&writer)).expect_err(&format!("case {index}, {name}")).to_string();
        assert!(error.contains(name), "case {index}: {error:?} does not name {name}");
    }
}

#[test]
fn what_gguf_cannot_express_is_refused_by_name() {
    let cases: &[Case] = &[
        ("normalizer: a GGUF file can't express NFKC", |file| file["normalizer"] = json!({"type": "NFKC"})),
        ("pre_tokenizer", |file| file["pre_tokenizer"] = json!({"type": "Punctuation"})),
        ("pre_tokenizer", |file| {
            file["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": false}, file["decoder"].clone()]});
        }),
        ("post_processor", |file| {
            file["post_processor"] = json!({"type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [], "special_tokens": {}});
        }),
    ];
    for (name, change) in cases {
        let mut file = byte_level();
        change(&mut file);
        let error = read(&file).unwrap().write_gguf("a model", 0, &mut GgufWriter::new()).unwrap_err();
        assert!(error.to_string().contains(name), "{error} does not name {name}");
    }
    let mut file = byte_fallback();
    file["model"]["merges"].as_array_mut().unwrap().remove(0);
    let error = read(&file).unwrap().write_gguf("a model", 0, &mut GgufWriter::new()).unwrap_err();
    assert!(error.to_string().starts_with("model.merges: a GGUF file can't express"), "{error}");
    // NFC is told, not refused: llama.cpp doesn't apply it either.
    let mut file = byte_level();
    file["normalizer"] = json!({"type": "NFC"});
    let told = read(&file).unwrap().write_gguf("a model", 0, &mut GgufWriter::new()).unwrap();
    let (nfc, text) = ("llama.cpp does not apply the normalizer NFC", "e\\u{301}\" becomes other tokens");
    assert!(told.as_ref().is_some_and(|told| told.starts_with(nfc) && told.ends_with(text)), "{told:?}");
}
