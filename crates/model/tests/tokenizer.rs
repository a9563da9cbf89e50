//! Vocabularies made here and read from files, held against the tokenizers library's own reading of the same file.

use std::sync::LazyLock;

use proptest::prelude::*;
use smallmind_model::tokenizer::{
    BpeTraining, END_OF_TEXT, MAX_TOKENS, SpecialText, SpecialTokens, Tokenizer, TokenizerError, TokenizerKind,
};

const STORY: &str = "Once upon a time a small hen lived on a hill. The hen didn't like the rain, but she liked the sea.\n\n\
    \"Why don't you go?\" asked the goat. \"It's only 12 miles, or 3 days' walk!\"\n\
    So the hen went down the hill,  and the goat went too.\n\n   They saw the sea at 7 o'clock.\n";

/// Text of many scripts: letters, marks, digits, spaces and signs that the words of GPT-2 treat differently.
const MIXED: &str = "naïve café — “déjà vu”, 日本語 12３４ км² \u{1f980}\u{200d}\u{1f980}\r\n\t\u{a0}\u{2003}x e\u{301} ½ ʼs 'S 're\u{0}";

fn byte_level() -> &'static Tokenizer {
    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
        let training = BpeTraining { vocab_size: 400, min_frequency: 1 };
        Tokenizer::train_bpe([STORY, MIXED], &training).unwrap()
    });
    &TOKENIZER
}

/// The library's own tokenizer of the same file.
fn library(tokenizer: &Tokenizer) -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_bytes(tokenizer.to_json().unwrap()).unwrap()
}

fn library_ids(library: &tokenizers::Tokenizer, text: &str) -> Vec<u32> {
    library.encode_fast(text, false).unwrap().get_ids().to_vec()
}

/// Words, spaces, signs and special tokens in any order.
fn any_text() -> impl Strategy<Value = String> {
    let snippets = [
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "\r\n",
        "the",
        " hen",
        "didn't",
        "'",
        "'s",
        "12",
        "3",
        ".",
        ",",
        "!?",
        "é",
        "日本",
        "🦀",
        "\u{301}",
        "\u{a0}",
        "\u{2003}",
        "x",
        "_",
        END_OF_TEXT,
        "<|endof",
        "text|>",
        "\u{0}",
    ];
    prop_oneof![
        prop::collection::vec(prop::sample::select(snippets.to_vec()), 0..40).prop_map(|parts| parts.concat()),
        any::<String>(),
    ]
}

#[test]
fn characters_are_numbered_by_code_point_and_each_is_a_token() {
    let tokenizer = Tokenizer::characters("hello\nélan 日").unwrap();
    assert_eq!(tokenizer.kind(), TokenizerKind::Characters);
    assert_eq!(tokenizer.to_string(), "characters, 10 tokens");
    assert_eq!((tokenizer.id_of("\n"), tokenizer.id_of(" "), tokenizer.id_of("日")), (Some(0), Some(1), Some(9)));
    let ids = tokenizer.encode("lé\n日", SpecialTokens::Parse).unwrap();
    assert_eq!(ids, [5, 8, 0, 9]);
    assert_eq!(tokenizer.decode(&ids, SpecialText::Skip).unwrap(), "lé\n日");
    assert_eq!(tokenizer.token_bytes(8), Some("é".as_bytes()));
    assert_eq!((tokenizer.eos(), tokenizer.bos(), tokenizer.prompt_prefix()), (None, None, &[][..]));
    assert_eq!((tokenizer.token_bytes(10), tokenizer.id_of("z")), (None, None));
}

#[test]
fn the_printable_ascii_of_the_reference_corpus_has_65_characters() {
    // The 65 characters of the Shakespeare corpus of char-rnn: newline, space, punctuation, 3, letters.
    let text: String = ("\n !$&',-.3:;?".chars()).chain('A'..='Z').chain('a'..='z').rev().collect();
    let tokenizer = Tokenizer::characters(&text).unwrap();
    assert_eq!(tokenizer.vocab_size(), 65);
    assert_eq!(tokenizer.encode("\nAz", SpecialTokens::AsText).unwrap(), [0, 13, 64]);
}

#[test]
fn an_unknown_character_is_named_with_its_place() {
    let tokenizer = Tokenizer::characters("abc\n").unwrap();
    // Far enough that the text is encoded in several pieces.
    for length in [0, 5, 40_000, 100_000] {
        let text = "é".replace('é', &"ab\n".repeat(length)) + "é";
        match tokenizer.encode(&text, SpecialTokens::Parse) {
            Err(TokenizerError::UnknownCharacter { character, offset }) => {
                assert_eq!((character, offset), ('é', 3 * length))
            }
            other => panic!("{other:?}"),
        }
    }
    let message = tokenizer.encode("ab\u{7}", SpecialTokens::Parse).unwrap_err().to_string();
    assert_eq!(message, "'\\u{7}' (U+0007) at byte 2 is not in the vocabulary");
    assert!(matches!(Tokenizer::characters(""), Err(TokenizerError::EmptyText)));
}

#[test]
fn training_counts_what_the_definition_counts() {
    // hug 10, pug 5, pun 12, bun 4, hugs 5: the example of the Hugging Face course, chapter 6. By hand:
    // u+g 20, then u+n 16, h+ug 15, p+un 12; then p+ug 5 and hug+s 5, of which hug has the higher id.
    let text = "hug ".repeat(10) + &"pug ".repeat(5) + &"pun ".repeat(12) + &"bun ".repeat(4) + &"hugs ".repeat(5);
    let texts: Vec<&str> = text.split_inclusive(' ').map(str::trim_end).collect();
    let tokenizer = Tokenizer::train_bpe(&texts, &BpeTraining { vocab_size: 263, min_frequency: 2 }).unwrap();
    let learned: Vec<_> =
        (257..263).map(|id| String::from_utf8(tokenizer.token_bytes(id).unwrap().to_vec()).unwrap()).collect();
    assert_eq!(learned, ["ug", "un", "hug", "pun", "pug", "hugs"]);
    // What occurs less than twice becomes no token.
    let small = Tokenizer::train_bpe(["ab ab cd"], &BpeTraining { vocab_size: 1000, min_frequency: 2 }).unwrap();
    assert_eq!(small.vocab_size(), 258);
    let none = Tokenizer::train_bpe([""; 0], &BpeTraining::default()).unwrap();
    assert_eq!(none.vocab_size(), 257);
}

#[test]
fn training_agrees_with_the_library_and_with_itself() {
    use tokenizers::models::{
        TrainerWrapper,
        bpe::{BPE, BpeTrainer},
    };
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    let texts: Vec<String> =
        (0..40).map(|n| STORY.replace("hen", ["fox", "owl", "hen"][n % 3]).replace('a', ["a", "o"][n / 20])).collect();
    let training = BpeTraining { vocab_size: 380, min_frequency: 2 };
    let ours = Tokenizer::train_bpe(&texts, &training).unwrap();
    assert_eq!(ours.to_json().unwrap(), Tokenizer::train_bpe(&texts, &training).unwrap().to_json().unwrap());
    let joined = Tokenizer::train_bpe([texts.join(END_OF_TEXT)], &training).unwrap();
    assert_eq!(ours.to_json().unwrap(), joined.to_json().unwrap());

    tokenizers::parallelism::set_parallelism(false);
    let mut library = tokenizers::Tokenizer::new(BPE::default());
    library.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(training.vocab_size)
        .min_frequency(training.min_frequency)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![tokenizers::AddedToken::from(END_OF_TEXT, true)])
        .build()
        .into();
    library.train(&mut trainer, texts.iter()).unwrap();
    for id in 0..380 {
        let token = library.id_to_token(id).unwrap();
        assert_eq!(ours.id_of(&token), Some(id), "{token}");
    }
    ours.encode(&STORY.repeat(1000), SpecialTokens::Parse).unwrap();
    assert!(!tokenizers::parallelism::has_parallelism_been_used(), "the library has started threads");
}

#[test]
fn training_needs_room_for_the_bytes() {
    for asked in [0, 256, MAX_TOKENS + 1, usize::MAX] {
        let error = Tokenizer::train_bpe(["a"], &BpeTraining { vocab_size: asked, min_frequency: 2 }).unwrap_err();
        assert!(matches!(error, TokenizerError::VocabularySize { asked: found, .. } if found == asked));
    }
}

#[test]
fn training_on_one_endless_word_ends() {
    let text = "ab".repeat(200_000) + &"a".repeat(200_000);
    let tokenizer = Tokenizer::train_bpe([&text], &BpeTraining { vocab_size: 300, min_frequency: 2 }).unwrap();
    let ids = tokenizer.encode(&text, SpecialTokens::Parse).unwrap();
    assert_eq!(tokenizer.decode(&ids, SpecialText::Show).unwrap(), text);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn byte_level_ids_are_the_library_s_and_decode_to_the_text(text in any_text()) {
        static LIBRARY: LazyLock<tokenizers::Tokenizer> = LazyLock::new(|| library(byte_level()));
        let tokenizer = byte_level();
        let ids = tokenizer.encode(&text, SpecialTokens::Parse).unwrap();
        prop_assert_eq!(&ids, &library_ids(&LIBRARY, &text));
        prop_assert_eq!(&tokenizer.decode(&ids, SpecialText::Show).unwrap(), &text);
        prop_assert_eq!(&tokenizer.decode(&ids, SpecialText::Skip).unwrap(), &text.replace(END_OF_TEXT, ""));
        let plain = tokenizer.encode(&text, SpecialTokens::AsText).unwrap();
        prop_assert!(plain.iter().all(|id| !tokenizer.is_special(*id)));
        prop_assert_eq!(&tokenizer.decode(&plain, SpecialText::Skip).unwrap(), &text);
        let bytes: Vec<u8> = plain.iter().flat_map(|id| tokenizer.token_bytes(*id).unwrap().to_vec()).collect();
        prop_assert_eq!(bytes, text.as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn texts_of_many_pieces_give_the_ids_of_the_whole(
        parts in prop::collection::vec((any_text(), 0usize..80), 1..4),
    ) {
        static LIBRARY: LazyLock<tokenizers::Tokenizer> = LazyLock::new(|| library(byte_level()));
        // A text is cut about every 32 KiB: the filling brings the random part to such a place.
        let filling = "a word or 2. ".repeat(3000);
        let text = parts.iter().map(|(part, before)| filling[..(32 << 10) - before].to_owned() + part).collect::<String>();
        let tokenizer = byte_level();
        let ids = tokenizer.encode(&text, SpecialTokens::Parse).unwrap();
        prop_assert_eq!(&ids, &library_ids(&LIBRARY, &text));
        let (mut joined, mut pieces) = (Vec::new(), 0);
        let count = tokenizer.encoder(SpecialTokens::Parse).encode_pieces(&text, |ids| {
            joined.extend_from_slice(ids);
            pieces += 1;
            Ok::<(), TokenizerError>(())
        });
        prop_assert_eq!(count.unwrap(), ids.len());
        prop_assert_eq!(&joined, &ids);
        prop_assert!(pieces >= parts.len());
    }
}

#[test]
fn saved_vocabularies_read_back_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    for tokenizer in [byte_level(), &Tokenizer::characters(MIXED).unwrap()] {
        tokenizer.save(&path).unwrap();
        let read = Tokenizer::from_file(&path).unwrap();
        assert_eq!(read.to_json().unwrap(), tokenizer.to_json().unwrap());
        assert_eq!(
            (read.kind(), read.eos(), read.vocab_size()),
            (tokenizer.kind(), tokenizer.eos(), tokenizer.vocab_size())
        );
        let ids = tokenizer.encode(MIXED, SpecialTokens::Parse).unwrap();
        assert_eq!(read.encode(MIXED, SpecialTokens::Parse).unwrap(), ids);
        let library = tokenizers::Tokenizer::from_file(&path).unwrap();
        assert_eq!(library_ids(&library, MIXED), ids);
        assert_eq!(library.decode(&ids, false).unwrap(), MIXED);
        assert_eq!(library.get_vocab_size(true), tokenizer.vocab_size());
    }
    let missing = Tokenizer::from_file(folder.path().join("none.json")).unwrap_err();
    assert!(matches!(&missing, TokenizerError::Read { .. }) && missing.to_string().contains("none.json"), "{missing}");
    assert!(matches!(byte_level().save(folder.path()), Err(TokenizerError::Write { .. })));
}

#[test]
fn the_end_of_a_text_begins_and_ends_it() {
    let tokenizer = byte_level();
    assert_eq!((tokenizer.eos(), tokenizer.bos(), tokenizer.id_of(END_OF_TEXT)), (Some(0), Some(0), Some(0)));
    assert_eq!(tokenizer.visible_bytes(0, SpecialText::Skip), Some(&b""[..]));
    assert_eq!(tokenizer.visible_bytes(0, SpecialText::Show), Some(END_OF_TEXT.as_bytes()));
    assert!(tokenizer.is_special(0) && !tokenizer.is_special(1) && !tokenizer.is_special(u32::MAX));
    let error = tokenizer.decode(&[1, 400], SpecialText::Skip).unwrap_err();
    assert_eq!(error.to_string(), "token id 400 at position 1 is not in the vocabulary of 400 tokens");
}
