//! Speculation by prompt look-up: what a text says next is often what followed the same words earlier.
//!
//! A *draft* is the tokens that followed the longest match of the latest tokens, in the text itself (prompt and what was
//! generated) or in a corpus (Saxena, "Prompt Lookup Decoding", 2023). One run of the session has the model look at the
//! latest token and the draft together, which takes less time than a run for each. Its logits say which tokens of the
//! draft the model chooses itself; those are kept, the others are removed from the session (Leviathan, Kalman and
//! Matias, "Fast Inference from Transformers via Speculative Decoding", 2023).
//!
//! Here each token is drawn from the model's own distribution, by the same sampler and random numbers as without a
//! draft, and the draft is accepted as far as it equals what was drawn. A session gives the same bits for any division
//! into runs. So the text is the same, token by token, also where it is sampled.
//!
//! Not here: a second model that drafts.

mod drafter;
mod grams;
mod pace;

use std::sync::Arc;

pub(crate) use drafter::Drafter;
use grams::Grams;
pub(crate) use pace::{MOST_TOKENS, Offer, Pace};

/// Where a [`crate::Generator`] looks for drafts.
///
/// Each text has an index of at most 1 MiB. A corpus takes 4 bytes for each token and an index of at most 64 MiB; where
/// that is too small for all n-grams, it has the later ones.
///
/// ```
/// use std::ops::ControlFlow;
/// use std::sync::Arc;
///
/// use smallmind_model::sampler::SamplerConfig;
/// use smallmind_model::tokenizer::Tokenizer;
/// use smallmind_model::{GenerateOptions, Generator, Lookup, Model, ModelConfig, Session, SessionOptions, preset};
/// use smallmind_simd::IsaKind;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = ModelConfig { vocab_size: 4, context: 64, layers: 2, ..preset::find("nanogpt-cpu")?.config() };
/// let model = Arc::new(Model::random(config, 1337)?.pack(IsaKind::best())?);
/// let session = Session::new(model, SessionOptions::single(64, 2))?;
/// let mut generator = Generator::new(session, Arc::new(Tokenizer::characters("abcd")?))?;
/// let options = GenerateOptions { max_tokens: 40, sampler: SamplerConfig::greedy(), stops: vec![] };
/// let prompt = [0, 1, 2, 3];
/// let (mut plain, mut text) = (String::new(), String::new());
/// generator.generate(&prompt, &options, |piece| {
///     plain += piece;
///     ControlFlow::Continue(())
/// })?;
/// generator.set_lookup(Some(Lookup::in_text()));
/// let generation = generator.generate(&prompt, &options, |piece| {
///     text += piece;
///     ControlFlow::Continue(())
/// })?;
/// assert_eq!(text, plain);
/// // Each run gives a token, and the drafted ones that the model chose too.
/// assert_eq!(generation.lookup.runs + generation.lookup.accepted, 40);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    corpus: Option<Arc<Corpus>>,
    /// Tokens of each draft; none where they follow from what drafts bring.
    always: Option<usize>,
}

impl Lookup {
    /// In the text only: in its prompt and in what was generated.
    pub fn in_text() -> Self {
        Self::default()
    }

    /// In the text and in these tokens, whose index is built here.
    pub fn in_corpus(tokens: Vec<u32>) -> Self {
        Self { corpus: Some(Arc::new(Corpus::new(tokens))), always: None }
    }

    /// Drafts so many tokens wherever there are as many, whether that pays or not.
    pub fn always(self, tokens: usize) -> Self {
        Self { always: Some(tokens), ..self }
    }

    /// How many tokens each of `texts` texts drafts in a run of at most `most`.
    pub(crate) fn draft_len(&self, pace: &Pace, texts: usize, offers: &[Offer], most: usize) -> usize {
        match self.always {
            _ if offers.is_empty() => 0,
            Some(tokens) => tokens.min(most.saturating_sub(texts) / offers.len()),
            None => pace.draft_len(texts, offers, most),
        }
    }
}

/// Tokens to look in beside a text.
#[derive(Debug)]
struct Corpus {
    tokens: Vec<u32>,
    grams: Grams,
}

impl Corpus {
    /// The largest index, in entries of 4 bytes.
    const MOST_ENTRIES: usize = 1 << 24;

    fn new(tokens: Vec<u32>) -> Self {
        let mut grams = Grams::for_tokens(tokens.len(), Self::MOST_ENTRIES);
        grams.extend(&tokens);
        Self { tokens, grams }
    }
}

/// What came of the drafts of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookupCounts {
    /// Runs of the session after which tokens were chosen.
    pub runs: usize,
    /// Tokens that were drafted.
    pub drafted: usize,
    /// Of these, the tokens that the model chose too.
    pub accepted: usize,
}

impl LookupCounts {
    /// The accepted share of the drafted tokens; 0 if there were none.
    pub fn accepted_share(&self) -> f64 {
        self.accepted as f64 / self.drafted.max(1) as f64
    }
}
