//! `smallmind generate -m M [-p PROMPT]`.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use serde_json::json;
use smallmind::checkpoint::GENERATION_FILE;
use smallmind::model::sampler::{MAX_REPETITION_WINDOW, SamplerConfig, SamplerError};
use smallmind::model::tokenizer::{SpecialText, SpecialTokens, Tokenizer};
use smallmind::model::{
    Finish, GenerateOptions, Generation, GenerationConfig, Generator, ModelError, Session, SessionOptions,
    default_prompt,
};

use super::chat::TemplateArg;
use super::failure::{Failure, Outcome, usage};
use super::input::{self, STDIN};
use super::models::{self, ModelArg, WeightsArg};
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
    /// Room for prompt and text together [default: what they need, at most the model's]
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
    weights: WeightsArg,
    #[command(flatten)]
    sampling: Sampling,
}

/// The default sampling. The seed differs each time.
pub const USUAL: SamplerConfig = SamplerConfig {
    temperature: 0.8,
    top_k: 40,
    top_p: 0.95,
    min_p: 0.05,
    repetition_penalty: 1.0,
    repetition_window: 64,
    seed: 0,
};

/// Options of the sampling. Those that are absent come from the model's `generation_config.json`, or else from
/// [`USUAL`].
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct Sampling {
    /// Above 1 bolder, below 1 more careful, 0 always the likeliest token [default: the model's, else 0.8]
    #[arg(long, value_name = "T", value_parser = units::number)]
    temp: Option<f32>,
    /// Only the K likeliest tokens; 0 for all [default: the model's, else 40]
    #[arg(long, value_name = "K", value_parser = units::whole)]
    top_k: Option<usize>,
    /// Only the likeliest tokens that together carry this share [default: the model's, else 0.95]
    #[arg(long, value_name = "P", value_parser = units::number)]
    top_p: Option<f32>,
    /// Only tokens at least this many times as likely as the likeliest [default: the model's, else 0.05]
    #[arg(long, value_name = "P", value_parser = units::number)]
    min_p: Option<f32>,
    /// Above 1: make the latest tokens less likely [default: the model's, else 1]
    #[arg(long, value_name = "X", value_parser = units::number)]
    repeat_penalty: Option<f32>,
    /// How many of the latest tokens that concerns [default: 64; the whole text with the model's penalty]
    #[arg(long, value_name = "N", value_parser = units::whole)]
    repeat_window: Option<usize>,
}

impl Sampling {
    /// Refuses options out of range.
    pub(super) fn check(&self) -> Outcome {
        self.over(&USUAL).check().map_err(|error| match error {
            SamplerError::Setting { field, value, allowed } => {
                usage(format!("{} is {value}; allowed: {allowed}", flag(field)))
            }
            other => ModelError::from(other).into(),
        })
    }

    /// `defaults` with the options over them.
    pub(super) fn over(&self, defaults: &SamplerConfig) -> SamplerConfig {
        SamplerConfig {
            temperature: self.temp.unwrap_or(defaults.temperature),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self.repeat_penalty.unwrap_or(defaults.repetition_penalty),
            repetition_window: self.repeat_window.unwrap_or(defaults.repetition_window),
            seed: defaults.seed,
        }
    }

    /// The sampling for a text of at most `length` tokens, with its prompt, of a model with `file`; notes what comes
    /// from that.
    pub(super) fn for_model(&self, file: &GenerationConfig, length: usize, seed: u64) -> SamplerConfig {
        let mut defaults = file.sampler(&SamplerConfig { seed, ..USUAL });
        if file.repetition_penalty.is_some() && self.repeat_penalty.is_none() {
            // The penalty of such a file is meant for the whole text.
            defaults.repetition_window = length.min(MAX_REPETITION_WINDOW);
        }
        let taken = [
            ("--temp", self.temp.is_none(), file.temperature.map(f64::from)),
            ("--top-k", self.top_k.is_none(), file.top_k.map(|k| k as f64)),
            ("--top-p", self.top_p.is_none(), file.top_p.map(f64::from)),
            ("--min-p", self.min_p.is_none(), file.min_p.map(f64::from)),
            ("--repeat-penalty", self.repeat_penalty.is_none(), file.repetition_penalty.map(f64::from)),
        ];
        let taken = taken.iter().filter(|(_, free, _)| *free);
        // As `f32`, so that 0.7 is not printed as 0.699999988079071.
        let taken = taken.filter_map(|(flag, _, value)| value.map(|value| format!("{flag} {}", value as f32)));
        let taken = taken.collect::<Vec<_>>().join(", ");
        if !taken.is_empty() {
            note!("note: defaults from {GENERATION_FILE}: {taken}");
        }
        if !file.not_obeyed.is_empty() {
            note!("note: not supported and not obeyed in {GENERATION_FILE}: {}", models::few(&file.not_obeyed));
        }
        self.over(&defaults)
    }
}

/// The flag of a field of [`SamplerConfig`].
fn flag(field: &str) -> &str {
    match field {
        "temperature" => "--temp",
        "top_p" => "--top-p",
        "min_p" => "--min-p",
        "repetition_penalty" => "--repeat-penalty",
        "repetition_window" => "--repeat-window",
        other => other,
    }
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
        let stop = interrupt::watch("stopping (Ctrl-C again ends at once)")?;
        let given = self.given_prompt()?;
        let (model, tokenizer) = self.model.open_packed(isa, self.weights.weights)?;
        self.context.map_or(Ok(()), |asked| model.config().check_context(asked))?;
        let text = match given {
            Some(text) => text,
            None => default_prompt(model.config(), &tokenizer),
        };
        let (prompt, end) =
            if self.chat { self.question(&tokenizer, &text)? } else { (prompt_tokens(&tokenizer, &text)?, None) };

        let needed = prompt.len().saturating_add(self.tokens).max(1);
        let sampler = self.sampling.for_model(model.generation(), needed, seed);
        let context = self.context.unwrap_or(needed.min(model.config().context));
        let session = Session::new(Arc::new(model), SessionOptions::single(context, settings.threads()))?;
        let mut generator = Generator::new(session, tokenizer)?;
        end.into_iter().for_each(|end| generator.add_end(end));
        let options = GenerateOptions { max_tokens: self.tokens, sampler, stops: self.stop };

        let echo = if self.no_echo || self.chat { "" } else { &text };
        let sink = if settings.is_json() { Sink::Keep } else { Sink::Print { echo } };
        let generated = generate(&mut generator, &prompt, &options, sink, stop)?;
        if sink == Sink::Keep {
            output::document(generated.document(seed))?;
        } else if !generated.ends_line {
            output::print("\n")?;
        }
        note!("{}; seed {seed}", generated.speed());
        if generated.generation.finish == Finish::Interrupted {
            return Err(Failure::Interrupted("interrupted".into()).into());
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

/// The tokens of a prompt with those that the tokenizer puts before it. Those that it puts behind would end the text.
pub fn prompt_tokens(tokenizer: &Tokenizer, text: &str) -> anyhow::Result<Vec<u32>> {
    let ids = tokenizer.encode(text, SpecialTokens::Parse);
    let ids = ids.map_err(|error| usage(format!("the prompt can't be turned into tokens: {error}")))?;
    if !tokenizer.suffix().is_empty() {
        let suffix = tokenizer.decode(tokenizer.suffix(), SpecialText::Show)?;
        note!("note: the tokenizer puts {suffix:?} behind a text; it is left out, so that the model goes on");
    }
    Ok(tokenizer.prompt(&ids))
}

/// Where a generated text goes.
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

/// Generates a text. Counts allocations between its first piece and its last, without those for keeping the text.
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
        stop.load(Ordering::Relaxed) || output.is_err()
    };
    let mut echo = match sink {
        Sink::Print { echo } => Some(echo).filter(|echo| !echo.is_empty()),
        Sink::Keep => None,
    };
    let (mut first, mut last, mut own) = (None, 0, 0);
    let generation = generator.generate(prompt, options, |piece| {
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
    /// Tokens of the prompt a second.
    fn prefill_rate(&self) -> f64 {
        self.generation.prompt_tokens as f64 / self.generation.prefill.as_secs_f64().max(1e-9)
    }

    /// Tokens a second after the prompt.
    pub fn decode_rate(&self) -> f64 {
        self.generation.tokens as f64 / self.generation.decode.as_secs_f64().max(1e-9)
    }

    fn document(&self, seed: u64) -> serde_json::Value {
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
            "finish": finish,
            "stop": stop,
            "seed": seed,
            "prefill_tokens_per_second": self.prefill_rate(),
            "decode_tokens_per_second": self.decode_rate(),
            "allocations_per_token": self.allocations_per_token,
        })
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
