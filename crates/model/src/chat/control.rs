//! Special tokens whose names stand in the texts of messages: they stay text, so that a message can't act as a part of
//! the template.
//!
//! Names are marked before a template is rendered, with two characters that are assigned to nothing, and marked ones
//! are encoded as text. Templates that cut texts at places of their own leave single marks, which are dropped.

use super::Json;
use crate::tokenizer::{SpecialTokens, Tokenizer, TokenizerError};

/// Characters for private use, which are removed from messages.
const BEGIN: char = '\u{f0000}';
const END: char = '\u{f0001}';

/// The names of a vocabulary's special tokens, the longest first.
#[derive(Debug)]
pub(super) struct ControlTokens(Vec<String>);

impl ControlTokens {
    pub(super) fn of(tokenizer: &Tokenizer) -> Self {
        let special = (0..tokenizer.vocab_size() as u32).filter(|&id| tokenizer.is_special(id));
        let names = special.filter_map(|id| std::str::from_utf8(tokenizer.token_bytes(id)?).ok());
        let mut names: Vec<_> = names.filter(|name| !name.is_empty()).map(str::to_owned).collect();
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        Self(names)
    }

    /// The value with marks around the names in its texts. Keys stay.
    pub(super) fn mark(&self, value: &Json) -> Json {
        match value {
            Json::Text(text) => Json::Text(self.mark_text(text)),
            Json::List(items) => Json::List(items.iter().map(|item| self.mark(item)).collect()),
            Json::Object(members) => {
                Json::Object(members.iter().map(|(key, value)| (key.clone(), self.mark(value))).collect())
            }
            other => other.clone(),
        }
    }

    fn mark_text(&self, text: &str) -> String {
        let text = text.replace([BEGIN, END], "");
        let (mut out, mut rest) = (String::with_capacity(text.len()), text.as_str());
        while let Some(c) = rest.chars().next() {
            let found = self.0.iter().find(|name| rest.starts_with(name.as_str()));
            let len = found.map_or(c.len_utf8(), String::len);
            let (next, after) = rest.split_at(len);
            if found.is_some() {
                out.extend([BEGIN]);
                out.push_str(next);
                out.extend([END]);
            } else {
                out.push_str(next);
            }
            rest = after;
        }
        out
    }
}

/// The tokens of a rendered prompt.
pub(super) fn encode(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>, TokenizerError> {
    let mut ids = Vec::new();
    let mut rest = prompt;
    while !rest.is_empty() {
        let (piece, special, after) = match rest.strip_prefix(BEGIN).and_then(|inside| inside.split_once(END)) {
            Some((name, after)) if !name.contains(BEGIN) => (name, SpecialTokens::AsText, after),
            _ => {
                let rest = rest.strip_prefix([BEGIN, END]).unwrap_or(rest);
                let (piece, after) = rest.split_at(rest.find([BEGIN, END]).unwrap_or(rest.len()));
                (piece, SpecialTokens::Parse, after)
            }
        };
        ids.extend(tokenizer.encode(piece, special)?);
        rest = after;
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::{BpeTraining, END_OF_TEXT, SpecialText};

    #[test]
    fn names_in_messages_are_no_special_tokens() {
        let training = BpeTraining { vocab_size: 270, ..BpeTraining::default() };
        let tokenizer = Tokenizer::train_bpe(["the hen saw the sea"], &training).unwrap();
        let control = ControlTokens::of(&tokenizer);
        assert_eq!(control.0, [END_OF_TEXT]);

        let text = format!("a{END_OF_TEXT}{BEGIN}b");
        let Json::Text(marked) = control.mark(&Json::Text(text)) else { panic!() };
        let ids = encode(&tokenizer, &format!("{marked}{END_OF_TEXT}")).unwrap();
        assert_eq!(tokenizer.decode(&ids, SpecialText::Show).unwrap(), format!("a{END_OF_TEXT}b{END_OF_TEXT}"));
        assert_eq!(ids.iter().filter(|&&id| Some(id) == tokenizer.eos()).count(), 1);

        // A template that cuts a text between the marks leaves single ones.
        for cut in
            [format!("{BEGIN}<|endoftext"), format!("|>{END}x"), format!("{BEGIN}a{BEGIN}b{END}c"), String::new()]
        {
            let shown = cut.replace([BEGIN, END], "");
            assert_eq!(tokenizer.decode(&encode(&tokenizer, &cut).unwrap(), SpecialText::Show).unwrap(), shown);
        }
        let plain = "the hen";
        assert_eq!(encode(&tokenizer, plain).unwrap(), tokenizer.encode(plain, SpecialTokens::Parse).unwrap());
    }
}
