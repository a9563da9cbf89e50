//! `smallmind generate -m M [-p PROMPT]`.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use serde_json::json;
use smallmind::model::tokenizer::{SpecialText, SpecialTokens, Tokenizer};
use smallmind::model::{Finish, GenerateOptions, Generation, Generator, Session, default_prompt};

use super::chat::TemplateArg;
use super::failure::{Failure, Outcome, usage};
use super::input::{self, STDIN};
use super::lookup::{self, LookupArg};
use super::models::{CacheArg, ModelArg, WeightsArg};
use super::sampling::Sampling;
use super::settings::Settings;
use super::{interrupt, note, output, units};
use crate::allocations;

/// Options of `generate`.
#[derive(Debug, Args)]
pub struct Generate {
    #[command(flatten)]
    model: ModelArg,
    /// The text to continue; - reads it from standard input
    #[arg(short, long, value_name = "TEXT", conflicts_with = "prompt_file", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// A file with the text to continue
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// How many tokens at most
    #[arg(short = 'n', long, default_value_t = 128, value_name = "N", value_parser = units::whole)]
    tokens: usize,
    /// Room for prompt and text together [default: what they need, at most the model's]. When it is full, the text goes
    /// on from its latest half alone: what stands before, the prompt too, is forgotten
    #[arg(long, value_name = "N", value_parser = units::whole)]
    context: Option<usize>,
    /// End before this text; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = units::not_empty)]
    stop: Vec<String>,
    /// Print the continuation only
    #[arg(long)]
    no_echo: bool,
    /// Take the prompt as a question, by the model's chat template, and print the answer only
    #[arg(long, conflicts_with = "no_echo")]
    chat: bool,
    #[command(flatten)]
    template: TemplateArg,
    #[command(flatten)]
    lookup: LookupArg,
    #[command(flatten)]
    weights: WeightsArg,
    #[command(flatten)]
    cache: CacheArg,
    #[command(flatten)]
    sampling: Sampling,
}

/// A generated text.
pub struct Generated {
    /// The text without the prompt; empty if it was printed.
    pub text: String,
    /// Whether its last character is a line feed.
    pub ends_line: bool,
    /// Numbers of tokens and times.
    pub generation: Generation,
    allocations_per_token: f64,
}

impl Generate {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let isa = settings.isa()?;
        let seed = settings.seed_or_any();
        // Before the model is read, which may take a while.
        self.sampling.check()?;
        if self.template.is_given() && !self.chat {
            return Err(usage("a template is for questions: add --chat"));
        }
        let stop = interrupt::watch_later("stopping (Ctrl-C again ends at once)")?;
        let given = self.given_prompt()?;
        let lookup = self.lookup.read()?;
        let (model, tokenizer) = self.model.open_packed(isa, self.weights.weights)?;
        self.context.map_or(Ok(()), |asked| model.config().check_context(asked))?;
        let text = match given {
            Some(text) => text,
            None => default_prompt(model.config(), &tokenizer),
        };
        let (prompt, end) =
            if self.chat { self.question(&tokenizer, &text)? } else { (prompt_tokens(&tokenizer, &text)?, None) };

        let needed = prompt.len().saturating_add(self.tokens).max(1);
        let vocabulary = (&*tokenizer, model.config().vocab_size);
        let sampler = self.sampling.for_model(model.generation(), vocabulary, needed, seed)?;
        let context = self.context.unwrap_or(needed.min(model.config().context));
        let session = Session::new(Arc::new(model), self.cache.single(context, settings.threads()))?;
        let lookup = self.lookup.with_texts(lookup, &tokenizer)?;
        let looks_up = lookup.is_some();
        let mut generator = Generator::new(session, tokenizer)?;
        generator.set_lookup(lookup);
        end.into_iter().for_each(|end| generator.add_end(end));
        let options = GenerateOptions { max_tokens: self.tokens, sampler, stops: self.stop };

        interrupt::begin();
        let echo = if self.no_echo || self.chat { "" } else { &text };
        let sink = if settings.is_json() { Sink::Keep } else { Sink::Print { echo } };
        let generated = generate(&mut generator, &prompt, &options, sink, stop)?;
        if sink == Sink::Keep {
            output::document(generated.document(seed, looks_up))?;
        } else if !generated.ends_line {
            output::print("\n")?;
        }
        let generation = &generated.generation;
        let shifts = generation.context_shifts;
        if shifts > 0 {
            let times = if shifts == 1 { "once".to_owned() } else { units::plural(shifts, "time") };
            note!(
                "note: the context of {context} tokens was full {times}: the text went on from its latest half alone"
            );
        }
        // The prompt of a text that was broken off before its first token may not have been read whole.
        if generation.tokens > 0 || generation.finish != Finish::Interrupted {
            let lookup = if looks_up { format!("; {}", generated.lookup()) } else { String::new() };
            note!("{}{lookup}; seed {seed}", generated.speed());
        }
        if generation.finish == Finish::Interrupted || stop.load(Ordering::SeqCst) {
            return Err(Failure::Interrupted(interrupt::INTERRUPTED.into()).into());
        }
        Ok(())
    }

    /// The tokens of a question by the chat template, and the token that ends the answer.
    fn question(&self, tokenizer: &Tokenizer, text: &str) -> anyhow::Result<(Vec<u32>, Option<u32>)> {
        let template = self.template.of(&self.model.model)?;
        let prompt = smallmind::model::chat::question(&template, tokenizer, text, super::chat::now())?;
        Ok((prompt, template.token("eos_token").and_then(|token| tokenizer.id_of(token))))
    }

    fn given_prompt(&self) -> anyhow::Result<Option<String>> {
        match (&self.prompt, &self.prompt_file) {
            (Some(text), _) if text == STDIN => input::read(STDIN.as_ref()).map(Some),
            (Some(text), _) => Ok(Some(text.clone())),
            (None, Some(file)) => input::read(file).map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// The tokens of a prompt, with those that the tokenizer puts before it. Those that it puts after it would end the
/// text.
pub fn prompt_tokens(tokenizer: &Tokenizer, text: &str) -> anyhow::Result<Vec<u32>> {
    let ids = tokenizer.encode(text, SpecialTokens::Parse);
    let ids = ids.map_err(|error| usage(format!("the prompt can't be turned into tokens: {error}")))?;
    if !tokenizer.suffix().is_empty() {
        let suffix = tokenizer.decode(tokenizer.suffix(), SpecialText::Show)?;
        note!("note: the tokenizer puts {suffix:?} behind a text; it is left out, so that the model goes on");
    }
    Ok(tokenizer.prompt(&ids))
}

/// The destination of a generated text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink<'a> {
    /// To standard output, after `echo`, which is printed when the prompt has been accepted.
    Print {
        /// The prompt, or empty.
        echo: &'a str,
    },
    /// Into [`Generated::text`].
    Keep,
}

/// Generates a text. Counts allocations between its first and its last piece, except those for keeping the text.
pub fn generate(
    generator: &mut Generator,
    prompt: &[u32],
    options: &GenerateOptions,
    sink: Sink<'_>,
    stop: &AtomicBool,
) -> anyhow::Result<Generated> {
    let mut text = String::new();
    let mut ends_line = false;
    let mut output = Ok(());
    let mut say = |piece: &str| {
        ends_line = piece.ends_with('\n');
        match sink {
            Sink::Keep => text.push_str(piece),
            Sink::Print { .. } => output = output::print(piece),
        }
        output.is_err()
    };
    let mut echo = match sink {
        Sink::Print { echo } => Some(echo).filter(|echo| !echo.is_empty()),
        Sink::Keep => None,
    };
    let (mut first, mut last, mut own) = (None, 0, 0);
    let go_on = || if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let generation = generator.generate_while(prompt, options, go_on, |piece| {
        let before = allocations::count();
        first.get_or_insert(before);
        last = before - own;
        let end = echo.take().is_some_and(&mut say) || say(piece);
        own += allocations::count() - before;
        if end { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    echo.take().map(&mut say);
    output?;
    let allocations = first.map_or(0, |first| last.saturating_sub(first));
    let allocations_per_token = allocations as f64 / generation.tokens.saturating_sub(1).max(1) as f64;
    Ok(Generated { text, ends_line, generation, allocations_per_token })
}

impl Generated {
    /// Tokens of the prompt per second.
    fn prefill_rate(&self) -> f64 {
        self.generation.prompt_tokens as f64 / self.generation.prefill.as_secs_f64().max(1e-9)
    }

    /// Tokens per second after the prompt.
    pub fn decode_rate(&self) -> f64 {
        self.generation.tokens as f64 / self.generation.decode.as_secs_f64().max(1e-9)
    }

    fn document(&self, seed: u64, looks_up: bool) -> serde_json::Value {
        let (finish, stop) = match &self.generation.finish {
            Finish::Length => ("length", None),
            Finish::EndOfText => ("end_of_text", None),
            Finish::Stop(stop) => ("stop", Some(stop)),
            Finish::Interrupted => ("interrupted", None),
        };
        json!({
            "text": self.text,
            "tokens": self.generation.tokens,
            "prompt_tokens": self.generation.prompt_tokens,
            "context_shifts": self.generation.context_shifts,
            "finish": finish,
            "stop": stop,
            "seed": seed,
            "lookup": looks_up.then(|| lookup::document(&self.generation.lookup)),
            "prefill_tokens_per_second": self.prefill_rate(),
            "decode_tokens_per_second": self.decode_rate(),
            "allocations_per_token": self.allocations_per_token,
        })
    }

    fn lookup(&self) -> String {
        lookup::sentence(&self.generation.lookup)
    }

    fn speed(&self) -> String {
        format!(
            "prompt: {} tokens, {} tokens/s; text: {} tokens, {} tokens/s, {:.1} allocations a token",
            self.generation.prompt_tokens,
            units::rate(self.prefill_rate()),
            self.generation.tokens,
            units::rate(self.decode_rate()),
            self.allocations_per_token,
        )
    }
}

#[cfg(test)]
mod tests {
    use smallmind::model::sampler::SamplerConfig;
    use smallmind::model::tokenizer::BpeTraining;
    use smallmind::model::{Model, ModelConfig, SessionOptions, preset};
    use smallmind::simd::IsaKind;

    use super::*;

    /// A token may make some text certain and hold the rest back, as the beginning of a stop string.
    #[test]
    fn a_stop_loses_no_text_that_is_held_back() {
        let texts = ["abab cdcd efef ghgh ijij klkl mnmn opop "; 20];
        let training = BpeTraining { vocab_size: 300, ..BpeTraining::default() };
        let tokenizer = Arc::new(Tokenizer::train_bpe(texts, &training).unwrap());
        let shape = preset::find("nanogpt-cpu").unwrap().config();
        let config = ModelConfig { vocab_size: tokenizer.vocab_size(), layers: 1, context: 16, ..shape };
        let model = Model::random(config, 7).unwrap().pack(IsaKind::best()).unwrap();
        let session = Session::new(Arc::new(model), SessionOptions::single(16, 1)).unwrap();
        let mut generator = Generator::new(session, tokenizer.clone()).unwrap();
        let mut first = |prompt: u32, stops: Vec<String>, stop: bool| {
            let options = GenerateOptions { max_tokens: 4, sampler: SamplerConfig::greedy(), stops };
            generate(&mut generator, &[prompt], &options, Sink::Keep, &AtomicBool::new(stop)).unwrap().text
        };
        let texts = (0..tokenizer.vocab_size() as u32).map(|prompt| (prompt, first(prompt, vec![], true)));
        let is_long = |text: &str| text.len() > 1 && text.is_ascii();
        let (prompt, text) = texts.collect::<Vec<_>>().into_iter().find(|(_, text)| is_long(text)).unwrap();
        let held_back = format!("{}!", &text[text.len() - 1..]);
        assert_eq!(first(prompt, vec![held_back.clone()], true), text);
        assert!(first(prompt, vec![held_back], false).starts_with(&text));
    }
}
