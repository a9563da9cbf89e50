//! The beginning of a text without a prompt.

use crate::ModelConfig;
use crate::tokenizer::{SpecialTokens, Tokenizer};

/// The token before a text without a prompt: the token that begins texts, or else the one that ends texts.
pub fn begin_token(config: &ModelConfig, tokenizer: &Tokenizer) -> Option<u32> {
    config.bos.or(tokenizer.bos()).or(config.eos.first().copied()).or(tokenizer.eos())
}

/// The text to begin with: empty for a model with a [`begin_token`], else a new line, as in nanoGPT.
///
/// ```
/// use smallmind_model::{default_prompt, preset, tokenizer::Tokenizer};
///
/// let config = preset::find("nanogpt-cpu")?.config();
/// assert_eq!(default_prompt(&config, &Tokenizer::characters("ab\n")?), "\n");
/// assert_eq!(default_prompt(&config, &Tokenizer::characters("ab")?), "");
/// # Ok::<(), smallmind_model::ModelError>(())
/// ```
pub fn default_prompt(config: &ModelConfig, tokenizer: &Tokenizer) -> String {
    let new_line = begin_token(config, tokenizer).is_none() && tokenizer.encode("\n", SpecialTokens::AsText).is_ok();
    if new_line { "\n".to_owned() } else { String::new() }
}
