//! `smallmind profile generate`.

use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use smallmind::graph::{Batch, NoProbe, Plan, available_threads};
use smallmind::model::sampler::Sampler;
use smallmind::model::tokenizer::Tokenizer;
use smallmind::model::{ModelConfig, ModelError, PackedModel, SequenceId, Session, SessionOptions};
use smallmind::profile::report::join::{Measurement, Part};
use smallmind::profile::report::trace::Trace;
use smallmind::profile::report::{Phase, Report, RoofTable};
use smallmind::profile::{Counters, Pulse, Recorder, SystemCounters};

use super::super::failure::{Outcome, usage};
use super::super::generate::{USUAL, prompt_tokens};
use super::super::models::WeightsArg;
use super::super::settings::Settings;
use super::super::{note, units};
use super::interleave::{Count, Profiler, Samples, Watched, interleave, samples_of_a_repeat, seconds_of};
use super::subject::{self, Ceiling, Opened, SubjectArg};
use super::written::Written;
use crate::allocations;

/// Tokens of the prompt and depth of the context, where nobody says and the model has room.
const PROMPT: usize = 256;
const DEPTH: usize = 256;

/// Options of `profile generate`.
#[derive(Debug, Args)]
pub struct Generate {
    #[command(flatten)]
    subject: SubjectArg,
    /// The text to read, for a model with a tokenizer [default: tokens that are no text]
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
    /// Repeats, whose differences tell how sure the figures are
    #[arg(short, long, default_value_t = 16, value_name = "N", value_parser = units::within::<u16>(1..=100))]
    runs: u16,
    #[command(flatten)]
    weights: WeightsArg,
    #[command(flatten)]
    written: Written,
}

/// A session with what its samples need.
struct Bench {
    session: Session,
    sequence: SequenceId,
    /// Tokens for the prompt and for the context before a decoded token.
    text: Vec<u32>,
    prompt: usize,
    depth: usize,
}

/// Samples of prefill or decode, with all that their phase is made of but plan and roofs.
struct Sampled {
    about: String,
    tokens: f64,
    repeats: usize,
    recorder: Recorder,
    batches: Vec<Batch>,
    samples: Samples,
    /// A barrier right behind the samples: nanoseconds.
    barrier_ns: f64,
    drift: Vec<(usize, f64)>,
    threads: Vec<(usize, f64)>,
}

/// What is done up to the first token, with its seconds, as it happens once: nothing is warm.
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
}

impl Generate {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let (isa, threads) = (settings.isa()?, settings.threads());
        let places = self.written.claim()?;
        // Before there are workers, so that these are counted too.
        let mut watched = Watched { counters: Counters::open(), pulse: Pulse::new(isa)? };
        let mut first = FirstToken::default();
        let making = if self.subject.is_preset() { "making weights up" } else { "load" };
        let Opened { model, name, tokenizer } = first.stage(making, || self.subject.open(settings))?;
        let context = model.config().context;
        let depth = self.depth.unwrap_or(DEPTH.min(context / 2).max(1));
        let depth = subject::at_most("depth", depth, context.saturating_sub(1).max(1))?;
        let prompt = self.prompt(model.config(), tokenizer, &mut first)?;
        let tokens = prompt.len();
        note!("profiling {name}: a prompt of {tokens} tokens, then tokens at depth {depth}, on {threads} threads");

        let model = first.stage("pack", || Ok(Arc::new(model.pack_as(isa, self.weights.weights)?)))?;
        let mut bench = first.stage("plan", || Bench::new(model, prompt, depth, threads))?;
        let model = bench.session.model();
        let subject = subject::subject(
            "generate",
            name,
            model.config(),
            &subject::Stored::of(model.params(), Some(model.storage())),
            (threads, isa),
        );
        self.written
            .check_baseline(&subject, &[("prefill", &bench.about_prefill()), ("decode", &bench.about_decode())])?;
        bench.first_token(&mut first)?;
        let mut roofs = Ceiling::new(threads, isa)?;
        let counters = SystemCounters::read();
        let repeats = usize::from(self.runs);
        let tokens = self.tokens.map(|n| n as usize);
        let prefill = bench.prefill(repeats, tokens, (&mut roofs, &mut watched))?;
        let decode = bench.decode(repeats, tokens, (&mut roofs, &mut watched))?;
        // Under the same roofs, those that were measured last among them.
        let (plans, mut trace) = ([bench.prompt_plan(), bench.session.plan(1)], self.written.trace());
        let prefill = prefill.phase(("prefill", plans[0]), first.stages, roofs.table(), trace.as_mut());
        let decode = decode.phase(("decode", plans[1]), vec![], roofs.table(), trace.as_mut());
        let report = Report::new(subject, roofs.table().clone(), counters.since(), vec![prefill, decode]);
        self.written.write(places, report, trace.as_ref(), settings)
    }

    /// The tokens of the prompt: those of the text that was given, or any.
    fn prompt(
        &self,
        config: &ModelConfig,
        tokenizer: anyhow::Result<Tokenizer>,
        first: &mut FirstToken,
    ) -> anyhow::Result<Vec<u32>> {
        let Some(text) = &self.prompt else {
            let tokens = self.prompt_tokens.unwrap_or(PROMPT.min(config.context));
            let tokens = subject::at_most("prompt-tokens", tokens, config.context)?;
            return Ok(subject::tokens(tokens, config.vocab_size, subject::SEED));
        };
        let tokenizer = tokenizer?;
        let prompt = first.stage("tokenize", || prompt_tokens(&tokenizer, text))?;
        if (1..=config.context).contains(&prompt.len()) {
            return Ok(prompt);
        }
        Err(usage(format!("--prompt has {} tokens: this model takes 1 to {}", prompt.len(), config.context)))
    }
}

impl Bench {
    fn new(model: Arc<PackedModel>, prompt: Vec<u32>, depth: usize, threads: usize) -> anyhow::Result<Self> {
        let deepest = (2 * depth).min(model.config().context - 1).max(depth);
        let room = prompt.len().max(deepest + 1);
        let mut session = Session::new(model, SessionOptions::single(room, threads))?;
        let sequence = session.open()?;
        let text = prompt.iter().copied().cycle().take(prompt.len().max(deepest)).collect();
        Ok(Self { session, sequence, text, prompt: prompt.len(), depth })
    }

    /// The plan for the chunks of the prompt.
    fn prompt_plan(&self) -> &Plan {
        self.session.plan(self.prompt.min(self.session.options().chunk))
    }

    /// What a sample of prefill is.
    fn about_prefill(&self) -> String {
        format!("{} tokens in chunks of {}", self.prompt, self.session.options().chunk.min(self.prompt))
    }

    /// What a sample of decode is.
    fn about_decode(&self) -> String {
        format!("one token behind {}", self.depth)
    }

    /// Reads the prompt for the first time and chooses a token, as `generate` does unless it is told otherwise.
    fn first_token(&mut self, first: &mut FirstToken) -> Outcome {
        let prompt = &self.text[..self.prompt];
        first.stage("prefill", || Ok(self.session.append(self.sequence, prompt).map(drop)?))?;
        first.stage("sample", || {
            let vocabulary = self.session.model().config().vocab_size;
            let mut sampler = Sampler::new(USUAL, vocabulary).map_err(ModelError::from)?;
            sampler.observe(prompt);
            Ok(sampler.sample(self.session.logits()).map_err(ModelError::from)?)
        })?;
        Ok(())
    }

    /// The same with another number of threads.
    fn with_threads(&self, threads: usize) -> anyhow::Result<Self> {
        let options = SessionOptions { threads, ..*self.session.options() };
        let mut session = Session::new(self.session.model().clone(), options)?;
        let sequence = session.open()?;
        Ok(Self { session, sequence, text: self.text.clone(), prompt: self.prompt, depth: self.depth })
    }

    /// The numbers of threads beside the one that is profiled.
    fn other_threads(&self) -> Vec<usize> {
        let now = self.session.options().threads;
        [now.saturating_sub(1), now + 1].into_iter().filter(|n| (1..=available_threads()).contains(n)).collect()
    }

    fn fill(&mut self, depth: usize) -> anyhow::Result<()> {
        let have = self.session.len(self.sequence);
        self.session.truncate(self.sequence, depth);
        if have < depth {
            self.session.append(self.sequence, &self.text[have..depth])?;
        }
        Ok(())
    }

    fn prompt_seconds(&mut self) -> anyhow::Result<f64> {
        seconds_of(|| {
            self.session.truncate(self.sequence, 0);
            self.session.append_probed(self.sequence, &self.text[..self.prompt], &NoProbe)?;
            Ok(())
        })
    }

    fn token_seconds(&mut self, depth: usize) -> anyhow::Result<f64> {
        self.fill(depth)?;
        let token = self.text[0];
        seconds_of(|| {
            self.session.truncate(self.sequence, depth);
            self.session.append(self.sequence, &[token])?;
            Ok(())
        })
    }

    fn prefill(
        &mut self,
        repeats: usize,
        most: Option<usize>,
        (roofs, watched): (&mut Ceiling, &mut Watched),
    ) -> anyhow::Result<Sampled> {
        let tokens = self.prompt;
        let once = self.prompt_seconds()?;
        let count = repeats * samples_of_a_repeat(once, repeats, 1).min(most.unwrap_or(usize::MAX));
        let batches = chunks(&self.text[..tokens], self.session.options().chunk);
        let recorder = recorder(self.prompt_plan(), count * batches.len());
        let samples = interleave(
            Count { samples: count, repeats },
            watched,
            self,
            |bench| {
                bench.session.truncate(bench.sequence, 0);
                Ok(())
            },
            |bench, profiler| {
                match profiler {
                    Profiler::On => {
                        bench.session.append_probed(bench.sequence, &bench.text[..bench.prompt], &recorder)?
                    }
                    Profiler::Off => {
                        bench.session.append_probed(bench.sequence, &bench.text[..bench.prompt], &NoProbe)?
                    }
                };
                Ok(())
            },
        )?;
        let barrier_ns = roofs.again()?;
        let mut threads = vec![];
        for n in self.other_threads() {
            threads.push((n, self.with_threads(n)?.prompt_seconds()? / tokens as f64));
        }
        let about = self.about_prefill();
        let (tokens, drift) = (tokens as f64, vec![]);
        Ok(Sampled { about, tokens, repeats, recorder, batches, samples, barrier_ns, drift, threads })
    }

    fn decode(
        &mut self,
        repeats: usize,
        tokens: Option<usize>,
        (roofs, watched): (&mut Ceiling, &mut Watched),
    ) -> anyhow::Result<Sampled> {
        let depth = self.depth;
        let mut drift = vec![];
        let deepest = self.text.len().min(self.session.options().context - 1);
        for at in [1, depth / 2, depth, 2 * depth] {
            if (1..=deepest).contains(&at) && drift.iter().all(|(d, _)| *d != at) {
                drift.push((at, self.token_seconds(at)?));
            }
        }
        let once = self.token_seconds(depth)?;
        let count = repeats * tokens.unwrap_or_else(|| samples_of_a_repeat(once, repeats, 8));
        let token = [self.text[0]];
        let mut batch = Batch::default();
        batch.push(&token, depth);
        batch.want_last();
        let recorder = recorder(self.session.plan(1), count);
        let samples = interleave(
            Count { samples: count, repeats },
            watched,
            self,
            |bench| {
                bench.session.truncate(bench.sequence, depth);
                Ok(())
            },
            |bench, profiler| {
                match profiler {
                    Profiler::On => bench.session.append_probed(bench.sequence, &token, &recorder)?,
                    Profiler::Off => bench.session.append_probed(bench.sequence, &token, &NoProbe)?,
                };
                Ok(())
            },
        )?;
        let barrier_ns = roofs.again()?;
        let mut threads = vec![];
        for n in self.other_threads() {
            threads.push((n, self.with_threads(n)?.token_seconds(depth)?));
        }
        let (about, batches) = (self.about_decode(), vec![batch]);
        Ok(Sampled { about, tokens: 1.0, repeats, recorder, batches, samples, barrier_ns, drift, threads })
    }
}

impl Sampled {
    /// The phase of that name, of the samples that `plan` ran in.
    fn phase(
        self,
        (name, plan): (&str, &Plan),
        stages: Vec<(String, f64)>,
        roofs: &RoofTable,
        trace: Option<&mut Trace>,
    ) -> Phase {
        let Samples { on, off, allocations, events, beats } = self.samples;
        let measured = Measurement {
            name,
            about: self.about,
            tokens: self.tokens,
            repeats: self.repeats,
            parts: vec![Part { name, plan, recorder: &self.recorder, batches: &self.batches }],
            on,
            off,
            allocations: Some(allocations),
            drift: self.drift,
            threads: self.threads,
            stages,
            events,
            beats,
        };
        phase_of(&measured, roofs, self.barrier_ns, trace)
    }
}

/// The phase of the report, with its samples in the trace.
pub fn phase_of(measured: &Measurement<'_>, roofs: &RoofTable, barrier_ns: f64, trace: Option<&mut Trace>) -> Phase {
    let phase = Phase { barrier_ns, ..measured.phase(roofs) };
    if let Some(trace) = trace {
        trace.add(measured, &phase);
    }
    phase
}

/// A recorder that counts allocations, as this program has an allocator that does.
fn recorder(plan: &Plan, runs: usize) -> Recorder {
    Recorder::keeping(plan, runs).counting(Some(allocations::of_this_thread))
}

/// The batches that a prompt is worked on in.
fn chunks(prompt: &[u32], chunk: usize) -> Vec<Batch> {
    let mut past = 0;
    let mut batches = vec![];
    for tokens in prompt.chunks(chunk) {
        let mut batch = Batch::default();
        batch.push(tokens, past);
        past += tokens.len();
        batches.push(batch);
    }
    if let Some(last) = batches.last_mut() {
        last.want_last();
    }
    batches
}
