//! The flags of the sampling, with llama.cpp's names where it has them.

use clap::Args;
use smallmind::checkpoint::GENERATION_FILE;
use smallmind::model::sampler::{
    Dry, DynamicTemperature, LLAMA_CPP_ORDER, LogitBias, MAX_REPETITION_WINDOW, Mirostat, Processor, SamplerConfig,
    SamplerError, Xtc, dry_breakers,
};
use smallmind::model::tokenizer::Tokenizer;
use smallmind::model::{GenerationConfig, ModelError};

use super::failure::{Outcome, usage};
use super::{models, note, units};

/// The sequence breakers of DRY that llama.cpp has by default.
const BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

/// The processors that mirostat replaces.
const TRUNCATION: [Processor; 6] =
    [Processor::TopNSigma, Processor::TopK, Processor::TypicalP, Processor::TopP, Processor::MinP, Processor::Xtc];

/// What the keys of a GGUF file about sampling begin with.
const GGUF_SAMPLING: &str = "general.sampling.";

/// Stands for no sequence breakers.
const NONE: &str = "none";

/// Stands for a window as long as the text.
const WHOLE_TEXT: i64 = -1;

/// The default sampling. The seed differs each time.
pub fn usual() -> SamplerConfig {
    SamplerConfig { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, ..SamplerConfig::default() }
}

/// Options of the sampling. Those that are absent come from the model's `generation_config.json`, or else from
/// [`usual`].
#[derive(Clone, Debug, Args)]
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
    /// Only the most typical tokens that together carry this share [default: the model's, else 1, which is off]
    #[arg(long, visible_alias = "typical-p", value_name = "P", value_parser = units::number)]
    typical: Option<f32>,
    /// Only tokens with a logit at most N standard deviations below the largest [default: 0, which is off]
    #[arg(long, visible_alias = "top-n-sigma", value_name = "N", value_parser = units::number)]
    top_nsigma: Option<f32>,
    /// How often the likeliest tokens are excluded [default: 0, never]
    #[arg(long, value_name = "P", value_parser = units::number)]
    xtc_probability: Option<f32>,
    /// Of the tokens at least this likely, all but the least likely are excluded [default: 0.1]
    #[arg(long, value_name = "P", value_parser = units::number, requires = "xtc_probability")]
    xtc_threshold: Option<f32>,
    /// How many tokens --top-p, --min-p, --typical and XTC leave at least [default: 1]
    #[arg(long, value_name = "N", value_parser = units::whole)]
    min_keep: Option<usize>,
    /// Above 1: make the latest tokens less likely [default: the model's, else 1]
    #[arg(long, value_name = "X", value_parser = units::number)]
    repeat_penalty: Option<f32>,
    /// Make the latest tokens less likely by X for each time that they stand there [default: 0]
    #[arg(long, value_name = "X", value_parser = units::number, allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Make the latest tokens less likely by X [default: 0]
    #[arg(long, value_name = "X", value_parser = units::number, allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// How many of the latest tokens the penalties concern [default: 64; the whole text with the model's penalty]
    #[arg(long, visible_alias = "repeat-last-n", value_name = "N", value_parser = units::whole)]
    repeat_window: Option<usize>,
    /// Make tokens less likely that would continue a repetition, by X for the shortest [default: 0, which is off]
    #[arg(long, value_name = "X", value_parser = units::number)]
    dry_multiplier: Option<f32>,
    /// How that penalty grows with each further token [default: 1.75]
    #[arg(long, value_name = "X", value_parser = units::number, requires = "dry_multiplier")]
    dry_base: Option<f32>,
    /// How many tokens may be repeated [default: 2]
    #[arg(long, value_name = "N", value_parser = units::whole, requires = "dry_multiplier")]
    dry_allowed_length: Option<usize>,
    /// How many of the latest tokens are searched for repetitions; -1 for the whole text [default: -1]
    #[arg(long, value_name = "N", value_parser = window, allow_negative_numbers = true, requires = "dry_multiplier")]
    dry_penalty_last_n: Option<i64>,
    /// No repetition reaches across this text; may be given several times, "none" for none at all; \n is a line feed
    /// [default: \n, :, ", *]
    #[arg(long, value_name = "TEXT", value_parser = units::not_empty, allow_hyphen_values = true,
          requires = "dry_multiplier")]
    dry_sequence_breaker: Vec<String>,
    /// Let the temperature follow the entropy, from T - X to T + X [default: 0, which is off]
    #[arg(long, value_name = "X", value_parser = units::number)]
    dynatemp_range: Option<f32>,
    /// The power of the entropy that it follows [default: 1]
    #[arg(long, value_name = "X", value_parser = units::number, requires = "dynatemp_range")]
    dynatemp_exp: Option<f32>,
    /// 2: cut off surprising tokens, so that the text is as surprising as --mirostat-ent says; 0: off [default: 0]
    #[arg(long, value_name = "0|2", value_parser = mirostat)]
    mirostat: Option<bool>,
    /// The target surprise of --mirostat, in bits [default: 5]
    #[arg(long, value_name = "BITS", value_parser = units::number, requires = "mirostat")]
    mirostat_ent: Option<f32>,
    /// The learning rate of --mirostat [default: 0.1]
    #[arg(long, value_name = "X", value_parser = units::number, requires = "mirostat")]
    mirostat_lr: Option<f32>,
    /// Make a token likelier or less likely, as 42+1.5 or 42-1.5, or forbid it, as 42-inf; may be given several times
    #[arg(long, short = 'l', value_name = "TOKEN(+/-)BIAS", value_parser = logit_bias)]
    logit_bias: Vec<LogitBias>,
    /// What runs, in this order, separated by semicolons; "llama.cpp" for its default order [default:
    /// penalties;dry;top_n_sigma;top_k;temperature;top_p;min_p;typical_p;xtc]
    #[arg(long, value_name = "NAMES", value_parser = order)]
    samplers: Option<Order>,
}

/// The order that `--samplers` gives.
#[derive(Clone, Debug)]
struct Order(Vec<Processor>);

fn order(text: &str) -> Result<Order, String> {
    if text == "llama.cpp" {
        return Ok(Order(LLAMA_CPP_ORDER.to_vec()));
    }
    let named = |name: &str| {
        let names = || LLAMA_CPP_ORDER.map(Processor::name).join(", ");
        Processor::named(name).ok_or_else(|| format!("{name:?} is none of {}", names()))
    };
    text.split([';', ','])
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(named)
        .collect::<Result<_, _>>()
        .map(Order)
}

fn mirostat(text: &str) -> Result<bool, String> {
    match text {
        "0" => Ok(false),
        "2" => Ok(true),
        "1" => Err("version 1 is not supported; 2 is".to_owned()),
        _ => Err("it must be 0 or 2".to_owned()),
    }
}

fn window(text: &str) -> Result<i64, String> {
    let number = text.parse().ok().filter(|n| *n >= WHOLE_TEXT);
    number.ok_or_else(|| "it must be a whole number, 0 or more, or -1".to_owned())
}

fn logit_bias(text: &str) -> Result<LogitBias, String> {
    let parsed = text.find(['+', '-']).and_then(|sign| {
        let (token, bias) = text.split_at(sign);
        Some(LogitBias { token: token.parse().ok()?, bias: bias.parse().ok().filter(|bias: &f32| !bias.is_nan())? })
    });
    parsed
        .ok_or_else(|| "it must be a token's number, + or -, and a number or inf, such as 42+1.5 or 42-inf".to_owned())
}

/// The text of a sequence breaker: `\n`, `\r`, `\t` and `\\` are what they are in C.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let (meant, length) = match rest.as_bytes().get(at + 1) {
            Some(b'n') => ('\n', 2),
            Some(b'r') => ('\r', 2),
            Some(b't') => ('\t', 2),
            Some(b'\\') => ('\\', 2),
            _ => ('\\', 1),
        };
        plain.push(meant);
        rest = &rest[at + length..];
    }
    plain + rest
}

impl Sampling {
    /// Refuses options out of range, and those of processors that do not run.
    pub fn check(&self) -> Outcome {
        self.over(usual()).check().map_err(in_flags)?;
        for (processor, flag) in self.given() {
            let name = processor.name();
            if self.samplers.as_ref().is_some_and(|Order(order)| !order.contains(&processor)) {
                return Err(usage(format!("{flag} does nothing, since --samplers leaves {name} out")));
            }
            if self.mirostat == Some(true) && TRUNCATION.contains(&processor) {
                return Err(usage(format!("{flag} does nothing, since --mirostat 2 replaces {name}")));
            }
        }
        Ok(())
    }

    /// The flags that are given, and the processors that they are for.
    fn given(&self) -> impl Iterator<Item = (Processor, &'static str)> {
        let flags = [
            (self.temp.is_some(), Processor::Temperature, "--temp"),
            (self.dynatemp_range.is_some(), Processor::Temperature, "--dynatemp-range"),
            (self.top_k.is_some(), Processor::TopK, "--top-k"),
            (self.top_p.is_some(), Processor::TopP, "--top-p"),
            (self.min_p.is_some(), Processor::MinP, "--min-p"),
            (self.typical.is_some(), Processor::TypicalP, "--typical"),
            (self.top_nsigma.is_some(), Processor::TopNSigma, "--top-nsigma"),
            (self.xtc_probability.is_some(), Processor::Xtc, "--xtc-probability"),
            (self.repeat_penalty.is_some(), Processor::Penalties, "--repeat-penalty"),
            (self.frequency_penalty.is_some(), Processor::Penalties, "--frequency-penalty"),
            (self.presence_penalty.is_some(), Processor::Penalties, "--presence-penalty"),
            (self.dry_multiplier.is_some(), Processor::Dry, "--dry-multiplier"),
        ];
        flags.into_iter().filter(|(is_given, ..)| *is_given).map(|(_, processor, flag)| (processor, flag))
    }

    /// `defaults` with the options over them, as far as these need no model.
    fn over(&self, defaults: SamplerConfig) -> SamplerConfig {
        let logit_bias = [defaults.logit_bias.as_slice(), &self.logit_bias].concat();
        SamplerConfig {
            order: self.samplers.as_ref().map_or(defaults.order, |Order(order)| order.clone()),
            temperature: self.temp.unwrap_or(defaults.temperature),
            dynamic_temperature: DynamicTemperature {
                range: self.dynatemp_range.unwrap_or(defaults.dynamic_temperature.range),
                exponent: self.dynatemp_exp.unwrap_or(defaults.dynamic_temperature.exponent),
            },
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            typical_p: self.typical.unwrap_or(defaults.typical_p),
            top_n_sigma: self.top_nsigma.unwrap_or(defaults.top_n_sigma),
            min_keep: self.min_keep.unwrap_or(defaults.min_keep),
            xtc: Xtc {
                probability: self.xtc_probability.unwrap_or(defaults.xtc.probability),
                threshold: self.xtc_threshold.unwrap_or(defaults.xtc.threshold),
            },
            repetition_penalty: self.repeat_penalty.unwrap_or(defaults.repetition_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(defaults.presence_penalty),
            repetition_window: self.repeat_window.unwrap_or(defaults.repetition_window),
            dry: self.dry(defaults.dry),
            logit_bias,
            mirostat: self.mirostat(),
            seed: defaults.seed,
        }
    }

    /// The settings of DRY, its breakers aside, which need a tokenizer.
    fn dry(&self, defaults: Dry) -> Dry {
        Dry {
            multiplier: self.dry_multiplier.unwrap_or(defaults.multiplier),
            base: self.dry_base.unwrap_or(defaults.base),
            allowed_length: self.dry_allowed_length.unwrap_or(defaults.allowed_length),
            window: self.dry_penalty_last_n.and_then(|n| usize::try_from(n).ok()).unwrap_or(defaults.window),
            breakers: defaults.breakers,
        }
    }

    fn mirostat(&self) -> Option<Mirostat> {
        let usual = Mirostat::default();
        let tau = self.mirostat_ent.unwrap_or(usual.tau);
        let eta = self.mirostat_lr.unwrap_or(usual.eta);
        Some(Mirostat { tau, eta }).filter(|_| self.mirostat == Some(true))
    }

    /// The sequence breakers of DRY in tokens.
    fn breakers(&self, tokenizer: &Tokenizer) -> anyhow::Result<Vec<Vec<u32>>> {
        let mut texts: Vec<String> = self.dry_sequence_breaker.iter().map(|text| unescaped(text)).collect();
        if texts.is_empty() {
            texts = BREAKERS.map(str::to_owned).to_vec();
        }
        texts.retain(|text| text != NONE);
        dry_breakers(tokenizer, &texts).map_err(in_flags)
    }

    /// The sampling for a text of at most `length` tokens, with its prompt, of a model with `file`; notes what comes
    /// from that.
    pub fn for_model(
        &self,
        file: &GenerationConfig,
        (tokenizer, vocabulary): (&Tokenizer, usize),
        length: usize,
        seed: u64,
    ) -> anyhow::Result<SamplerConfig> {
        let whole_text = length.min(MAX_REPETITION_WINDOW);
        let mut defaults = file.sampler(&SamplerConfig { seed, ..usual() });
        if file.repetition_penalty.is_some() && self.repeat_penalty.is_none() {
            // The penalty of such a file is meant for the whole text.
            defaults.repetition_window = whole_text;
        }
        defaults.dry.window = whole_text;
        if self.dry_multiplier.is_some_and(|multiplier| multiplier > 0.0) {
            defaults.dry.breakers = self.breakers(tokenizer)?;
        }
        if let Some(bias) = self.logit_bias.iter().find(|bias| bias.token as usize >= vocabulary) {
            let told = format!("--logit-bias names token {}, but the model has {vocabulary} tokens", bias.token);
            return Err(usage(told));
        }
        self.note(file);
        Ok(self.over(defaults))
    }

    /// Notes which defaults come from the model's file, and what of it is not obeyed.
    fn note(&self, file: &GenerationConfig) {
        let taken = [
            ("--temp", self.temp.is_none(), file.temperature.map(f64::from)),
            ("--top-k", self.top_k.is_none(), file.top_k.map(|k| k as f64)),
            ("--top-p", self.top_p.is_none(), file.top_p.map(f64::from)),
            ("--min-p", self.min_p.is_none(), file.min_p.map(f64::from)),
            ("--typical", self.typical.is_none(), file.typical_p.map(f64::from)),
            ("--repeat-penalty", self.repeat_penalty.is_none(), file.repetition_penalty.map(f64::from)),
        ];
        let taken = taken.iter().filter(|(_, free, _)| *free);
        // As `f32`, so that 0.7 is not printed as 0.699999988079071.
        let taken = taken.filter_map(|(flag, _, value)| value.map(|value| format!("{flag} {}", value as f32)));
        let mut taken: Vec<String> = taken.collect();
        if let [first, more @ ..] = file.suppressed.as_slice() {
            let others = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
            taken.push(format!("--logit-bias {first}-inf{others}"));
        }
        if !taken.is_empty() {
            note!("note: defaults from {GENERATION_FILE}: {}", taken.join(", "));
        }
        if let Some(first) = file.not_obeyed.first() {
            let place =
                if first.starts_with(GGUF_SAMPLING) { "the metadata of the GGUF file" } else { GENERATION_FILE };
            note!("note: not supported and not obeyed in {place}: {}", models::few(&file.not_obeyed));
        }
    }
}

/// An error of the sampler in the words of the flags.
fn in_flags(error: SamplerError) -> anyhow::Error {
    match error {
        SamplerError::Setting { field, value, allowed } => {
            usage(format!("{} is {value}; allowed: {allowed}", flag(field)))
        }
        other => ModelError::from(other).into(),
    }
}

/// The flag of a field of [`SamplerConfig`].
fn flag(field: &str) -> &str {
    match field {
        "order" => "--samplers",
        "temperature" => "--temp",
        "dynamic_temperature.range" => "--dynatemp-range",
        "dynamic_temperature.exponent" => "--dynatemp-exp",
        "top_p" => "--top-p",
        "min_p" => "--min-p",
        "typical_p" => "--typical",
        "top_n_sigma" => "--top-nsigma",
        "xtc.probability" => "--xtc-probability",
        "xtc.threshold" => "--xtc-threshold",
        "repetition_penalty" => "--repeat-penalty",
        "frequency_penalty" => "--frequency-penalty",
        "presence_penalty" => "--presence-penalty",
        "repetition_window" => "--repeat-window",
        "dry.multiplier" => "--dry-multiplier",
        "dry.base" => "--dry-base",
        "dry.window" => "--dry-penalty-last-n",
        "dry.breakers" => "--dry-sequence-breaker",
        "mirostat.tau" => "--mirostat-ent",
        "mirostat.eta" => "--mirostat-lr",
        "logit_bias" => "--logit-bias",
        other => other,
    }
}
