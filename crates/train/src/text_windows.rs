//! A text in consecutive windows, in which it is evaluated.

use smallmind_model::ModelError;
use smallmind_model::tokenizer::Tokenizer;

use crate::TrainError;
use crate::data::{Corpus, DataError, SequentialWindows, Window};
use crate::prepare::encode;

/// A text in windows, each behind the tokens that the tokenizer puts before a prompt. Every token of the text is a
/// target once; without such a prefix, all but the first.
#[derive(Debug)]
pub struct TextWindows {
    /// The tokens, behind the last token of the prefix, from which the first one is predicted.
    pub(crate) ids: Vec<u32>,
    /// Bytes of the text.
    pub(crate) bytes: u64,
    /// The tokens before each window, which aren't targets.
    pub(crate) prefix: Vec<u32>,
    /// Tokens of the vocabulary.
    pub(crate) vocab: usize,
}

impl TextWindows {
    /// The documents of `corpus`, as in training: the token that ends a document is one of the text. `vocab` is the
    /// number of tokens that the model has.
    ///
    /// # Errors
    /// A tokenizer with more tokens than the model; characters that it lacks; nothing to predict.
    pub fn new(corpus: &Corpus, tokenizer: &Tokenizer, vocab: usize) -> Result<Self, TrainError> {
        if tokenizer.vocab_size() > vocab {
            return Err(ModelError::Vocabulary { tokenizer: tokenizer.vocab_size(), model: vocab }.into());
        }
        let prefix = tokenizer.prompt_prefix();
        let mut ids: Vec<u32> = prefix.last().copied().into_iter().collect();
        let mut bytes = 0;
        encode(&corpus.documents(), tokenizer, |tokens, of_document| {
            ids.extend_from_slice(tokens);
            bytes += of_document;
            Ok(())
        })?;
        if ids.len() < 2 {
            return Err(DataError::NothingToPredict { tokens: ids.len() - prefix.len().min(1) }.into());
        }
        Ok(Self { ids, bytes, prefix: prefix.to_vec(), vocab: tokenizer.vocab_size() })
    }

    /// Tokens of the text in a window of `context` tokens.
    pub(crate) fn of_text(&self, context: usize) -> usize {
        context.saturating_sub(self.prefix.len()).min(self.ids.len() - 1).max(1)
    }

    /// Windows of `of_text` tokens.
    ///
    /// # Errors
    /// Windows of no token.
    pub(crate) fn windows(&self, of_text: usize) -> Result<Vec<Window>, DataError> {
        Ok(SequentialWindows::new(self.ids.len(), of_text)?.iter().collect())
    }

    /// The inputs of a window: tokens before it, of which the second value says how many, and its own.
    pub(crate) fn inputs(&self, window: &Window) -> (Vec<u32>, usize) {
        let before = before(&self.prefix, window);
        let own = &self.ids[window.start..window.start + window.len];
        ([before, own].concat(), before.len())
    }
}

/// The tokens before a window. The text begins with the last token of the prefix.
pub(crate) fn before<'p>(prefix: &'p [u32], window: &Window) -> &'p [u32] {
    if window.start == 0 { prefix.split_last().map_or(&[], |(_, first)| first) } else { prefix }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each window predicts, and from what.
    fn targets(tokenizer: &Tokenizer, of_text: usize) -> Vec<(Vec<u32>, Vec<u32>)> {
        let text = TextWindows::new(&Corpus::of_text("bcdefg".to_owned(), None), tokenizer, 8).unwrap();
        let windows = text.windows(of_text).unwrap();
        let of_window = |window: &Window| {
            let (inputs, before) = text.inputs(window);
            let targets = (before..inputs.len()).map(|row| text.ids[window.start + row - before + 1]).collect();
            (inputs, targets)
        };
        windows.iter().map(of_window).collect()
    }

    #[test]
    fn every_token_is_a_target_once() {
        let tokenizer = Tokenizer::characters("abcdefgh").unwrap();
        let expected = [(vec![1, 2, 3, 4], vec![2, 3, 4, 5]), (vec![5], vec![6])];
        assert_eq!(targets(&tokenizer, 4), expected);
        // Two tokens before a text.
        let mut file: serde_json::Value = serde_json::from_str(&tokenizer.to_json().unwrap()).unwrap();
        file["post_processor"] = serde_json::json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "ha", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"ha": {"id": "ha", "ids": [7, 0], "tokens": ["h", "a"]}},
        });
        let tokenizer = Tokenizer::from_bytes(file.to_string().as_bytes()).unwrap();
        let expected = [(vec![7, 0, 1, 2, 3], vec![1, 2, 3, 4]), (vec![7, 0, 4, 5], vec![5, 6])];
        assert_eq!(targets(&tokenizer, 4), expected);
    }
}
