//! `smallmind profile generate`.

use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use smallmind::graph::Workload;
use smallmind::model::sampler::{Sampler, SamplerScratch};
use smallmind::model::tokenizer::Tokenizer;
use smallmind::model::{
    Activity, ModelConfig, ModelError, PackedModel, SessionOptions, SessionWorkload, random_tokens,
};
use smallmind::profile::SystemCounters;
use smallmind::profile::report::{PhaseKind, Report, Subject};
use smallmind::profile::sampling::{Instruments, PerRepeat, RoofMeter, SampleCount, Sampled, seconds_of_sample};
use smallmind::simd::IsaKind;

use super::super::failure::{Outcome, usage};
use super::super::generate::prompt_tokens;
use super::super::models::{CacheArg, WeightsArg};
use super::super::sampling::usual;
use super::super::settings::Settings;
use super::super::{interrupt, note, units};
use super::report_output::ReportOutput;
use super::subject::{self, Opened, SubjectArg};
use crate::allocations;

/// Tokens of the prompt by default; fewer if the model's context is shorter.
const PROMPT: usize = 256;
/// Tokens before the decoded one by default; fewer if the model's context is shorter.
const DEPTH: usize = 256;
/// The fewest decoded tokens of a repeat by default.
const DECODED: usize = 8;

/// Options of `profile generate`.
#[derive(Debug, Args)]
pub struct Generate {
    #[command(flatten)]
    subject: SubjectArg,
    /// The text to read, for a model with a tokenizer [default: random tokens]
    #[arg(short, long, value_name = "TEXT", conflicts_with = "prompt_tokens", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Tokens before the one that is decoded [default: 256, or half of the model's context]
    #[arg(long, value_name = "N", value_parser = units::whole)]
    depth: Option<usize>,
    /// Tokens of the prompt [default: 256, or the model's context]
    #[arg(long, value_name = "N", value_parser = units::whole)]
    prompt_tokens: Option<usize>,
    /// Tokens decoded in each repeat, and prompts read at most [default: what fits into about two seconds]
    #[arg(short = 'n', long, value_name = "N", value_parser = units::within::<u32>(1..=10_000))]
    tokens: Option<u32>,
    /// Repeats; how much they differ shows how certain the figures are
    #[arg(short, long, default_value_t = 16, value_name = "N", value_parser = units::within::<u16>(1..=100))]
    runs: u16,
    #[command(flatten)]
    weights: WeightsArg,
    #[command(flatten)]
    cache: CacheArg,
    #[command(flatten)]
    output: ReportOutput,
}

/// The stages up to the first token and their seconds. Each is done once, with nothing warm.
#[derive(Default)]
struct FirstToken {
    stages: Vec<(String, f64)>,
}

impl FirstToken {
    fn stage<T>(&mut self, name: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let begin = Instant::now();
        let result = work()?;
        self.stages.push((name.to_owned(), begin.elapsed().as_secs_f64()));
        Ok(result)
    }

    /// Reads the prompt and chooses a token, as `generate` does without flags.
    fn generate(&mut self, workload: &mut SessionWorkload) -> Outcome {
        let prompt = workload.prompt().to_vec();
        let (session, sequence) = workload.session();
        self.stage("prefill", || Ok(session.append(sequence, &prompt).map(drop)?))?;
        self.stage("sample", || {
            let vocabulary = session.model().config().vocab_size;
            let mut scratch = SamplerScratch::new(vocabulary).map_err(ModelError::from)?;
            let mut sampler = Sampler::new(usual()).map_err(ModelError::from)?;
            sampler.observe(&prompt);
            Ok(sampler.sample(session.logits(), &mut scratch).map_err(ModelError::from)?)
        })?;
        Ok(())
    }
}

/// Repeats of a profile within a conversation: few, as somebody waits.
const REPEATS: usize = 4;

/// Profiles a model that is at work: prefill and decode at `depth` tokens, in a session of its own with the `options` of
/// the session in which it works.
pub fn of_session(
    model: Arc<PackedModel>,
    name: &str,
    depth: usize,
    options: SessionOptions,
    isa: IsaKind,
) -> anyhow::Result<Report> {
    let threads = options.threads;
    let mut instruments = Instruments::open(isa, Some(allocations::COUNTERS))?;
    let subject = subject::subject("generate", name.to_owned(), model.config(), (threads, isa));
    let subject = subject.with_parameters(model.params(), Some(model.storage()));
    let subject = Subject { cache_format: Some(options.cache_format.to_string()), ..subject };
    let prompt = random_tokens(PROMPT.min(model.config().context), model.config().vocab_size, subject::SEED);
    let mut workload = SessionWorkload::new(model, prompt, depth, options)?;
    let mut roofs = RoofMeter::new(threads, isa)?;
    let counters = SystemCounters::read();
    let count = SampleCount { repeats: REPEATS, per_repeat: PerRepeat::Fit { least: 1, most: usize::MAX } };
    let (prefill, decode) = (Activity::Prefill, Activity::Decode(depth));
    let prompts = Sampled::take(workload.doing(prefill), count, &mut instruments, &mut roofs)?;
    let tokens = Sampled::take(workload.doing(decode), count, &mut instruments, &mut roofs)?;
    let prompts = prompts.phase(PhaseKind::Prefill, workload.doing(prefill), roofs.table(), None);
    let tokens = tokens.phase(PhaseKind::Decode, workload.doing(decode), roofs.table(), None);
    Ok(Report::new(subject, roofs.table().clone(), counters.since(), vec![prompts, tokens]))
}

impl Generate {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let (isa, threads) = (settings.isa()?, settings.threads());
        interrupt::end_on_signal(self.output.makes())?;
        let files = self.output.check(|| self.subject.reads())?;
        // The instruments are opened before the session starts its workers, so that these are counted too.
        let mut instruments = Instruments::open(isa, Some(allocations::COUNTERS))?;
        let mut first = FirstToken::default();
        let making = if self.subject.is_preset() { "make weights up and pack" } else { "load and pack" };
        let open = || self.subject.open(settings, isa, self.weights.weights);
        let Opened { model, name, tokenizer } = first.stage(making, open)?;
        let context = model.config().context;
        let depth = self.depth.unwrap_or(DEPTH.min(context / 2).max(1));
        let depth = subject::at_most("depth", depth, context.saturating_sub(1).max(1))?;
        let prompt = self.prompt(model.config(), tokenizer, &mut first)?;
        let tokens = prompt.len();
        note!("profiling {name}: a prompt of {tokens} tokens, then tokens at depth {depth}, on {threads} threads");

        let (prefill, decode) = (Activity::Prefill, Activity::Decode(depth));
        let model = Arc::new(model);
        let options = self.cache.single(context, threads);
        let mut workload = first.stage("plan", || Ok(SessionWorkload::new(model.clone(), prompt, depth, options)?))?;
        let subject = subject::subject("generate", name, model.config(), (threads, isa))
            .with_parameters(model.params(), Some(model.storage()));
        let subject = Subject { cache_format: Some(options.cache_format.to_string()), ..subject };
        let about = [prefill, decode].map(|activity| workload.doing(activity).about());
        self.output.check_baseline(&subject, &[(PhaseKind::Prefill, &about[0]), (PhaseKind::Decode, &about[1])])?;
        first.generate(&mut workload)?;

        let mut roofs = RoofMeter::new(threads, isa)?;
        let counters = SystemCounters::read();
        let (of_prefill, of_decode) = self.counts();
        let prompts = Sampled::take(workload.doing(prefill), of_prefill, &mut instruments, &mut roofs)?;
        let mut drift = vec![];
        for at in workload.depths(depth) {
            drift.push((at, seconds_of_sample(workload.doing(Activity::Decode(at)))?));
        }
        let tokens = Sampled::take(workload.doing(decode), of_decode, &mut instruments, &mut roofs)?;
        // Both phases are compared with the same roofs, the best of all measurements.
        let (table, mut trace) = (roofs.table(), self.output.trace());
        let mut prompts = prompts.phase(PhaseKind::Prefill, workload.doing(prefill), table, trace.as_mut());
        prompts.breakdown.stages = first.stages;
        let mut tokens = tokens.phase(PhaseKind::Decode, workload.doing(decode), table, trace.as_mut());
        tokens.breakdown.drift = drift;
        let report = Report::new(subject, table.clone(), counters.since(), vec![prompts, tokens]);
        self.output.write(files, report, trace.as_ref(), settings)
    }

    /// How many prompts are read and how many tokens are decoded.
    fn counts(&self) -> (SampleCount, SampleCount) {
        let (repeats, asked) = (usize::from(self.runs), self.tokens.map(|n| n as usize));
        let fit = |least, most: Option<usize>| PerRepeat::Fit { least, most: most.unwrap_or(usize::MAX) };
        let prefill = SampleCount { repeats, per_repeat: fit(1, asked) };
        let decode = SampleCount { repeats, per_repeat: asked.map_or(fit(DECODED, None), PerRepeat::Exactly) };
        (prefill, decode)
    }

    /// The tokens of the prompt: those of the given text, or else random ones.
    fn prompt(
        &self,
        config: &ModelConfig,
        tokenizer: anyhow::Result<Tokenizer>,
        first: &mut FirstToken,
    ) -> anyhow::Result<Vec<u32>> {
        let Some(text) = &self.prompt else {
            let tokens = self.prompt_tokens.unwrap_or(PROMPT.min(config.context));
            let tokens = subject::at_most("prompt-tokens", tokens, config.context)?;
            return Ok(random_tokens(tokens, config.vocab_size, subject::SEED));
        };
        let tokenizer = tokenizer?;
        let prompt = first.stage("tokenize", || prompt_tokens(&tokenizer, text))?;
        if (1..=config.context).contains(&prompt.len()) {
            return Ok(prompt);
        }
        Err(usage(format!("--prompt has {} tokens: this model takes 1 to {}", prompt.len(), config.context)))
    }
}
