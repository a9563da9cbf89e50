//! The text of a stream does not depend on how its bytes are cut into tokens.

use proptest::prelude::*;
use smallmind_model::stream::{StopStringError, StopStrings, TextStream};

/// What a stream must show, found on the whole text: it stops where the first stop string ends, and of several that end
/// there the longest counts.
fn whole_text(bytes: &[u8], stops: &[String]) -> (String, Option<String>) {
    let text = String::from_utf8_lossy(bytes);
    for end in 0..=text.len() {
        let found = stops.iter().filter(|stop| text.as_bytes()[..end].ends_with(stop.as_bytes()));
        if let Some(stop) = found.max_by_key(|stop| stop.len()) {
            return (text[..end - stop.len()].to_owned(), Some(stop.clone()));
        }
    }
    (text.into_owned(), None)
}

/// The pieces that a stream shows for bytes cut after the given positions, and the stop string that ended it.
fn streamed(bytes: &[u8], cuts: &[usize], stops: &[String]) -> (Vec<String>, Option<String>) {
    let mut stream = TextStream::new(StopStrings::new(stops.iter().cloned()).unwrap());
    let mut pieces = Vec::new();
    let mut from = 0;
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.sort_unstable();
    for cut in cuts.into_iter().chain([bytes.len()]) {
        pieces.push(stream.push(&bytes[from..cut]).to_owned());
        from = cut;
    }
    pieces.push(stream.finish().to_owned());
    let stopped = stream.stopped().map(str::to_owned);
    (pieces, stopped)
}

/// Characters of one to four bytes, few enough that short stop strings are met often.
fn text_of(characters: &'static str, length: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    let characters: Vec<char> = characters.chars().collect();
    prop::collection::vec(prop::sample::select(characters), length).prop_map(|text| text.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn pieces_join_to_the_whole_text(
        text in text_of("abé日🦀\u{fffd}", 0..40),
        stops in prop::collection::vec(text_of("abé日🦀\u{fffd}", 1..5), 0..4),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let (pieces, stopped) = streamed(text.as_bytes(), &cuts, &stops);
        prop_assert_eq!((pieces.concat(), stopped), whole_text(text.as_bytes(), &stops));
    }

    #[test]
    fn broken_utf8_joins_to_its_lossy_decoding(
        bytes in prop::collection::vec(prop::sample::select(b"ab\x80\xbf\xc3\xa9\xe2\x82\xac\xed\xa0\xf0\x9f\xa6\x80\xf4\xff\xc0".to_vec()), 0..40),
        stops in prop::collection::vec(text_of("ab\u{fffd}€", 1..4), 0..3),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let (pieces, stopped) = streamed(&bytes, &cuts, &stops);
        prop_assert_eq!((pieces.concat(), stopped), whole_text(&bytes, &stops));
    }

    /// At no moment has anything been shown that the final text does not begin with, and what is held back is no more
    /// than an unfinished character and an unfinished stop string.
    #[test]
    fn shown_text_is_final_and_prompt(
        text in text_of("abc", 0..60),
        stops in prop::collection::vec(text_of("abc", 1..6), 0..3),
    ) {
        let (expected, _) = whole_text(text.as_bytes(), &stops);
        let mut stream = TextStream::new(StopStrings::new(stops.iter().cloned()).unwrap());
        let longest = stops.iter().map(String::len).max().unwrap_or(0);
        let mut shown = String::new();
        for (index, byte) in text.bytes().enumerate() {
            shown.push_str(stream.push(&[byte]));
            prop_assert!(expected.starts_with(&shown));
            if stream.stopped().is_none() {
                let held = index + 1 - shown.len();
                prop_assert!(held < longest.max(1), "{held} bytes held back");
                let is_prefix = stops.iter().any(|stop| stop.starts_with(&text[shown.len()..=index]));
                prop_assert!(held == 0 || is_prefix, "text held back that is no beginning of a stop string");
            }
        }
    }
}

#[test]
fn overlapping_stop_strings_stop_at_the_first_end() {
    let stops = |list: &[&str]| list.iter().map(|stop| stop.to_string()).collect::<Vec<_>>();
    // The shorter one ends first although the longer one begins earlier; its beginning is then ordinary text.
    assert_eq!(whole_text(b"xabcd", &stops(&["abcd", "bc"])), ("xa".to_owned(), Some("bc".to_owned())));
    for (text, list) in
        [("xabcd", &["abcd", "bc"][..]), ("aab", &["ab", "aab"]), ("ababac", &["abac"]), ("aaaa", &["aa"])]
    {
        let (pieces, stopped) = streamed(text.as_bytes(), &[1, 2, 3, 4, 5], &stops(list));
        assert_eq!((pieces.concat(), stopped), whole_text(text.as_bytes(), &stops(list)), "{text}");
    }
}

#[test]
fn nothing_comes_after_a_stop_string() {
    let mut stream = TextStream::new(StopStrings::new(["\n\n"]).unwrap());
    assert_eq!(stream.push(b"one\n"), "one");
    assert_eq!(stream.push(b"\ntwo"), "");
    assert_eq!(stream.push(b"three"), "");
    assert_eq!(stream.finish(), "");
    assert_eq!(stream.stopped(), Some("\n\n"));
}

#[test]
fn finish_releases_half_a_stop_string_and_half_a_character() {
    let mut stream = TextStream::new(StopStrings::new(["the end"]).unwrap());
    assert_eq!(stream.push(b"by the en"), "by ");
    assert_eq!(stream.push(b"\xf0\x9f"), "");
    assert_eq!(stream.finish(), "the en\u{fffd}");
    assert_eq!(stream.finish(), "");
    assert_eq!(stream.stopped(), None);
}

#[test]
fn one_leading_space_is_dropped_only_when_asked() {
    for (tokens, expected) in
        [(&[" a", " b"][..], "a b"), (&["", " ", " b"], " b"), (&["a", " b"], "a b"), (&[" "], "")]
    {
        let mut plain = TextStream::new(StopStrings::none());
        let mut start = TextStream::new(StopStrings::none()).without_leading_space();
        let plain: String = tokens.iter().map(|token| plain.push(token.as_bytes()).to_owned()).collect();
        let start: String = tokens.iter().map(|token| start.push(token.as_bytes()).to_owned()).collect();
        assert_eq!((plain, start.as_str()), (tokens.concat(), expected));
    }
}

#[test]
fn an_empty_stop_string_is_refused() {
    let error = StopStrings::new(["a", ""]).unwrap_err();
    assert_eq!(error, StopStringError::Empty { index: 1 });
    assert!(error.to_string().contains("stop string 1"));
    assert_eq!(StopStrings::new(["a", "bc"]).unwrap().iter().collect::<Vec<_>>(), ["a", "bc"]);
}
