//! What the name of a model says about its tokenizer.
//!
//! llama.cpp takes the blanks after the special tokens of Phi-3 away, and knows such a model by its name alone
//! (`llama-vocab.cpp`, `impl::load`). Files have no key for it.

use super::super::file::AddedEntry;

/// The key of the name.
pub(super) const KEY: &str = "general.name";
/// Parts of the names of these models, in any case.
const MARKS: [&str; 2] = ["phi-3", "phi3"];
/// Their special tokens that keep the blanks.
const KEEPS: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

/// Whether special tokens of a model of that name take the blanks after them away.
pub(super) fn strips(name: &str) -> bool {
    let name = name.to_lowercase();
    MARKS.iter().any(|mark| name.contains(mark))
}

/// Whether a special token is one of those that do.
pub(super) fn is_stripped(token: &str) -> bool {
    !KEEPS.contains(&token)
}

/// `name`, or if a tokenizer with these tokens would be read as another one under it, a similar name.
pub(super) fn fitting(name: &str, added: &[AddedEntry]) -> String {
    let mut concerned = added.iter().filter(|token| is_stripped(&token.content)).peekable();
    if concerned.peek().is_none() {
        return name.to_owned();
    }
    let all_strip = concerned.clone().all(|token| token.rstrip);
    let none_strips = concerned.all(|token| !token.rstrip);
    match strips(name) {
        true if none_strips => without_marks(name),
        false if all_strip => format!("{name} (Phi-3)"),
        _ => name.to_owned(),
    }
}

/// `my-phi3-model` becomes `my-phi_3-model`.
fn without_marks(name: &str) -> String {
    let mut rest = name;
    let mut out = String::with_capacity(name.len() + 1);
    while let Some(first) = rest.chars().next() {
        let mark =
            MARKS.iter().find(|mark| rest.get(..mark.len()).is_some_and(|start| start.eq_ignore_ascii_case(mark)));
        let length = mark.map_or(first.len_utf8(), |mark| mark.len());
        match mark {
            Some(_) => {
                out.push_str(&rest[.."phi".len()]);
                out.push_str("_3");
            }
            None => out.push(first),
        }
        rest = &rest[length..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(content: &str, rstrip: bool) -> AddedEntry {
        let (lstrip, single_word) = (false, false);
        AddedEntry { id: 0, content: content.to_owned(), single_word, lstrip, rstrip, normalized: false, special: true }
    }

    #[test]
    fn a_name_says_what_the_tokens_do() {
        let (plain, phi) = ([entry("<s>", false), entry("</s>", false)], [entry("<s>", false), entry("</s>", true)]);
        for (name, of_plain, of_phi) in [
            ("alpha", "alpha", "alpha (Phi-3)"),
            ("my-phi3", "my-phi_3", "my-phi3"),
            ("Phi-3-mini é Phi3", "Phi_3-mini é Phi_3", "Phi-3-mini é Phi3"),
            ("", "", " (Phi-3)"),
        ] {
            assert_eq!((fitting(name, &plain).as_str(), fitting(name, &phi).as_str()), (of_plain, of_phi));
            assert!(!strips(of_plain) && strips(of_phi), "{name}");
        }
        // Where no name would do, or every one does, it stays.
        let mixed = [entry("</s>", true), entry("<|end|>", false)];
        for tokens in [&mixed[..], &[entry("<s>", false)], &[]] {
            assert_eq!((fitting("phi3", tokens), fitting("a", tokens)), ("phi3".to_owned(), "a".to_owned()));
        }
    }
}
