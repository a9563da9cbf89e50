//! Keys of GGUF files: what they ask for is obeyed, refused by name, or reported.

use smallmind_checkpoint::{GgufArray, GgufFile, GgufValue, GgufWriter};

use super::gguf::{GOLDENS, PIECES, metadata, pieces, pieces_of, set};
use super::*;

const OTHER_KIND: &str = "not for this kind of vocabulary";

fn opened(writer: &GgufWriter) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_gguf(&metadata(writer))
}

/// What is reported of a vocabulary with a key more.
fn reported(base: &dyn Fn() -> GgufWriter<'static>, name: &str, value: GgufValue) -> Option<String> {
    let mut writer = base();
    set(&mut writer, name, value);
    opened(&writer).unwrap_or_else(|error| panic!("{name}: {error}")).not_applied()
}

/// The metadata of a file by another tool.
fn golden(name: &str) -> GgufWriter<'static> {
    let file = GgufFile::open(format!("{GOLDENS}/{name}.gguf")).unwrap();
    let mut writer = GgufWriter::new();
    for (key, value) in file.metadata().iter() {
        writer.set(key, value.clone()).unwrap();
    }
    writer
}

fn llama() -> GgufWriter<'static> {
    pieces(PIECES)
}

fn gpt2() -> GgufWriter<'static> {
    golden("gpt2")
}

fn bert() -> GgufWriter<'static> {
    golden("bert")
}

fn t5() -> GgufWriter<'static> {
    golden("t5")
}

fn bytes(list: &[u8]) -> GgufValue {
    GgufValue::Array(GgufArray::U8(list.to_vec()))
}

#[test]
fn keys_that_nobody_knows_are_reported() {
    for base in [llama, gpt2, bert, t5] {
        assert_eq!(opened(&base()).unwrap().not_applied(), None);
        let strings = GgufValue::Array(GgufArray::Strings(["<tool>"].into_iter().collect()));
        for (name, value) in
            [("foo", GgufValue::U32(1)), ("added_tokens", strings), ("clean_spaces", GgufValue::Bool(false))]
        {
            let told = reported(&base, name, value);
            assert_eq!(told, Some(format!("`tokenizer.ggml.{name}` is not applied: not known")));
        }
    }
}

#[test]
fn keys_of_other_kinds_of_vocabularies_are_reported_if_they_ask_for_something() {
    let kinds = [("llama", llama as fn() -> _), ("gpt2", gpt2), ("bert", bert), ("t5", t5)];
    for (name, obeying) in [
        ("add_eos_token", &["llama", "gpt2", "t5"][..]),
        ("add_sep_token", &["bert"]),
        ("add_space_prefix", &["llama", "t5"]),
        ("remove_extra_whitespaces", &["t5"]),
        ("normalizer.lowercase", &["bert"]),
        ("normalizer.strip_accents", &["bert"]),
    ] {
        for (kind, base) in kinds {
            assert_eq!(reported(&base, name, GgufValue::Bool(false)), None, "{kind}: {name} = false");
            let told = format!("`tokenizer.ggml.{name}` is not applied: {OTHER_KIND}");
            let told = (!obeying.contains(&kind)).then_some(told);
            assert_eq!(reported(&base, name, GgufValue::Bool(true)), told, "{kind}: {name} = true");
        }
    }
    for base in [llama, gpt2, bert] {
        let told = format!("`tokenizer.ggml.precompiled_charsmap` is not applied: {OTHER_KIND}");
        assert_eq!(reported(&base, "precompiled_charsmap", bytes(&[4, 0, 0, 0])), Some(told));
        assert_eq!(reported(&base, "precompiled_charsmap", bytes(&[])), None);
    }
    // Converters write these into files of all kinds.
    let scores = GgufValue::Array(GgufArray::F32(vec![0.0; 300]));
    assert_eq!(reported(&gpt2, "scores", scores), None);
    let merges = GgufValue::Array(GgufArray::Strings(["a a"].into_iter().collect()));
    assert_eq!(reported(&llama, "merges", merges), None);
    assert_eq!(reported(&bert, "pre", GgufValue::String("bert-bge".into())), None);
}

#[test]
fn reports_name_each_reason_once_and_some_of_many_keys() {
    let mut writer = gpt2();
    for (name, value) in [("b", true), ("remove_extra_whitespaces", true), ("a", false), ("add_sep_token", true)] {
        set(&mut writer, name, GgufValue::Bool(value));
    }
    let told = opened(&writer).unwrap().not_applied().unwrap();
    let expected = format!(
        "`tokenizer.ggml.b` and `tokenizer.ggml.a` are not applied: not known; \
         `tokenizer.ggml.remove_extra_whitespaces` and `tokenizer.ggml.add_sep_token` are not applied: {OTHER_KIND}"
    );
    assert_eq!(told, expected);
    let mut writer = gpt2();
    for index in 0..1000 {
        set(&mut writer, &format!("{index}{}", "x".repeat(1000)), GgufValue::Bool(true));
    }
    let told = opened(&writer).unwrap().not_applied().unwrap();
    assert!(told.ends_with(" and 984 more keys are not applied: not known") && told.len() < 5000, "{told}");
}

/// Whether spaces are spelled as a sign, and on which side of a word, follows from the kind of a vocabulary.
#[test]
fn other_spellings_of_spaces_are_refused() {
    for (base, escaped) in [(llama as fn() -> GgufWriter<'static>, true), (t5, true), (gpt2, false)] {
        for (name, value) in [("escape_whitespaces", escaped), ("treat_whitespace_as_suffix", false)] {
            assert_eq!(reported(&base, name, GgufValue::Bool(value)), None, "{name}");
            let mut writer = base();
            set(&mut writer, name, GgufValue::Bool(!value));
            let error = opened(&writer).unwrap_err();
            assert!(matches!(error, TokenizerError::Unsupported { .. }), "{error}");
            let text = format!("tokenizer.ggml.{name}: {} in a vocabulary of the kind ", !value);
            assert!(error.to_string().starts_with(&text), "{error} instead of {text}");
            assert!(error.to_string().ends_with(&format!(" is not supported (supported: {value})")), "{error}");
            set(&mut writer, name, GgufValue::U32(1));
            assert!(opened(&writer).unwrap_err().to_string().contains(name));
        }
    }
}

#[test]
fn tokens_around_a_text_of_word_pieces_are_added_or_refused() {
    let list = [("[PAD]", 0.0, 3), ("[UNK]", 0.0, 2), ("[CLS]", 0.0, 3), ("[SEP]", 0.0, 3), ("▁a", 0.0, 1)];
    let base = || {
        let mut writer = pieces_of("bert", &list);
        set(&mut writer, "unknown_token_id", GgufValue::U32(1));
        writer
    };
    // The usual ids, 101 and 102, are not in this vocabulary.
    assert_eq!(opened(&base()).unwrap().completed(&[4]), [4]);
    for (flag, key, id, around) in
        [("add_bos_token", "bos_token_id", 2, [2, 4]), ("add_sep_token", "seperator_token_id", 3, [4, 3])]
    {
        let mut writer = base();
        set(&mut writer, flag, GgufValue::Bool(true));
        let error = opened(&writer).unwrap_err().to_string();
        assert_eq!(error, format!("tokenizer.ggml.{flag}: it is true, but there is no tokenizer.ggml.{key}"));
        set(&mut writer, key, GgufValue::U32(id));
        let tokenizer = opened(&writer).unwrap();
        assert_eq!((tokenizer.completed(&[4]), tokenizer.not_applied()), (around.to_vec(), None));
        set(&mut writer, flag, GgufValue::Bool(false));
        assert_eq!(opened(&writer).unwrap().completed(&[4]), [4]);
    }
}

/// llama.cpp writes the type 0 for tokens that it can't classify.
#[test]
fn tokens_of_no_type_are_ordinary_ones() {
    let list: Vec<(&str, f32, i32)> =
        PIECES.iter().map(|&(text, score, kind)| (text, score, if kind == 1 { 0 } else { kind })).collect();
    let tokenizer = opened(&pieces(&list)).unwrap();
    let ids = tokenizer.encode("ab", SpecialTokens::Parse).unwrap();
    assert_eq!(ids, opened(&llama()).unwrap().encode("ab", SpecialTokens::Parse).unwrap());
    assert_eq!(tokenizer.decode(&ids, SpecialText::Skip).unwrap(), "ab");
}
