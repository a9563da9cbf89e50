//! `smallmind bench inference` and `bench batched`: prompts and generated tokens of whole models.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use smallmind::bench::{BatchedTest, InferenceBench, InferenceTest};
use smallmind::model::SessionOptions;

use super::table_output::TableOutput;
use crate::cli::failure::{Outcome, usage};
use crate::cli::machine::Machine;
use crate::cli::models::{Allowed, CacheArg, WeightsArg, find_files, open_files};
use crate::cli::profile::SEED;
use crate::cli::settings::{MODEL_VARIABLE, Settings, of_model};
use crate::cli::{output, units};

/// What both verbs take.
#[derive(Debug, Args)]
struct Subjects {
    /// A model: a run folder, a Hugging Face folder, a GGUF file, or hf:OWNER/NAME; again for another one
    #[arg(short, long = "model", env = MODEL_VARIABLE, value_name = "MODEL", required = true)]
    models: Vec<PathBuf>,
    #[command(flatten)]
    allowed: Allowed,
    #[command(flatten)]
    weights: WeightsArg,
    #[command(flatten)]
    cache: CacheArg,
    /// The most tokens that are read at once
    #[arg(short, long, value_name = "N,N", value_delimiter = ',', default_values_t = [SessionOptions::CHUNK as u32],
          value_parser = units::within::<u32>(1..=65_536))]
    batch_size: Vec<u32>,
    /// Measure with each of these numbers of threads
    #[arg(short = 't', long, value_name = "N,N", value_delimiter = ',', value_parser = units::within::<u16>(1..=1024))]
    threads_list: Vec<u16>,
    /// Samples of each test
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = units::within::<u16>(1..=u16::MAX))]
    repetitions: u16,
    #[command(flatten)]
    output: TableOutput,
}

/// Options of `bench inference`.
#[derive(Debug, Args)]
pub(super) struct Inference {
    #[command(flatten)]
    subjects: Subjects,
    /// Tokens of a prompt; 0 for no such test
    #[arg(short = 'p', long, value_name = "N,N", value_delimiter = ',', default_values_t = [512],
          value_parser = units::whole)]
    n_prompt: Vec<usize>,
    /// Tokens to generate; 0 for no such test
    #[arg(short = 'n', long, value_name = "N,N", value_delimiter = ',', default_values_t = [128],
          value_parser = units::whole)]
    n_gen: Vec<usize>,
    /// Tokens that the sequence has before
    #[arg(short = 'd', long, value_name = "N,N", value_delimiter = ',', default_values_t = [0],
          value_parser = units::whole)]
    n_depth: Vec<usize>,
    /// A prompt of P tokens and then G generated ones as one test; again for another one
    #[arg(long, value_name = "P,G", value_parser = pair)]
    pg: Vec<(usize, usize)>,
}

/// Options of `bench batched`.
#[derive(Debug, Args)]
pub(super) struct Batched {
    #[command(flatten)]
    subjects: Subjects,
    /// Tokens of each prompt
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [128], value_parser = units::whole)]
    npp: Vec<usize>,
    /// Tokens to generate for each sequence
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [64], value_parser = units::whole)]
    ntg: Vec<usize>,
    /// Sequences
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16],
          value_parser = units::within::<u16>(1..=1024))]
    npl: Vec<u16>,
}

/// Two numbers of tokens, of which one may be 0.
fn pair(text: &str) -> Result<(usize, usize), String> {
    let numbers = text.split_once(',').and_then(|(p, g)| Some((p.parse().ok()?, g.parse().ok()?)));
    numbers
        .filter(|&(p, g)| p > 0 || g > 0)
        .ok_or_else(|| "it must be two numbers of tokens, such as 512,128, of which one may be 0".into())
}

/// What chooses the sizes of tests.
const SIZES: &str = "-p, -n, -d and --pg, or --npp and --ntg, choose shorter ones";

impl Subjects {
    /// Checks each model's context against what is asked, before anything is measured.
    fn check(&self, context: usize, test: &str) -> Outcome {
        for path in &self.models {
            let max = find_files(path).and_then(|files| Ok(files.configs(self.allowed.unknown_keys())?.0.context));
            let max = max.map_err(|error| of_model(path, error))?;
            if context > max {
                let problem = format!("{test} needs a context of {context} tokens, and the model has {max}; {SIZES}");
                return Err(usage(format!("{}: {problem}", path.display())));
            }
        }
        Ok(())
    }

    /// Calls `each` for each model and number of threads.
    fn each(&self, settings: &Settings, mut each: impl FnMut(&InferenceBench) -> Outcome) -> Outcome {
        let threads = match self.threads_list[..] {
            [] => vec![settings.threads()],
            [..] => self.threads_list.iter().map(|n| usize::from(*n)).collect(),
        };
        let cpu = Machine::read().cpu.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
        for path in &self.models {
            let mut bench = self.load(path, settings, &cpu).map_err(|error| of_model(path, error))?;
            for &threads in &threads {
                for &batch in &self.batch_size {
                    bench = InferenceBench { threads, batch: batch as usize, ..bench };
                    each(&bench)?;
                }
            }
        }
        Ok(())
    }

    fn load(&self, path: &Path, settings: &Settings, cpu: &str) -> anyhow::Result<InferenceBench> {
        let begin = Instant::now();
        let model = self.allowed.load_packed(&open_files(path)?, settings.isa()?, self.weights.weights)?;
        Ok(InferenceBench {
            model: Arc::new(model),
            name: path.display().to_string(),
            load: begin.elapsed(),
            threads: 1,
            batch: SessionOptions::CHUNK,
            cache_format: self.cache.cache_format,
            runs: self.repetitions.into(),
            seed: settings.seed.unwrap_or(SEED),
            cpu: cpu.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}

impl Inference {
    /// The tests in llama-bench's order.
    fn tests(&self) -> Vec<InferenceTest> {
        let mut tests = vec![];
        for &depth in &self.n_depth {
            let prompts = self.n_prompt.iter().map(|&prompt| (prompt, 0));
            let generated = self.n_gen.iter().map(|&generated| (0, generated));
            let all = prompts.chain(generated).chain(self.pg.iter().copied()).filter(|&test| test != (0, 0));
            tests.extend(all.map(|(prompt, generated)| InferenceTest { prompt, generated, depth }));
        }
        tests
    }

    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let tests = self.tests();
        let longest = tests.iter().max_by_key(|test| test.context());
        let longest = longest.ok_or_else(|| usage("nothing to measure: -p and -n are 0, and there is no --pg"))?;
        self.subjects.check(longest.context(), &longest.to_string())?;
        let mut writer = self.subjects.output.writer(settings);
        self.subjects.each(settings, |bench| {
            let (roofs, first) = (bench.roofs()?, bench.first_token()?);
            for &test in &tests {
                output::print(&writer.row(&bench.run(test, first, &roofs)?))?;
            }
            Ok(())
        })?;
        output::print(writer.end())
    }
}

impl Batched {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let mut tests = vec![];
        for (&prompt, &generated) in self.npp.iter().flat_map(|prompt| self.ntg.iter().map(move |tg| (prompt, tg))) {
            let of_sequences = |&n: &u16| BatchedTest { prompt, generated, sequences: n.into() };
            tests.extend(self.npl.iter().map(of_sequences).filter(|_| prompt + generated > 0));
        }
        let longest = tests.iter().map(|test| test.prompt.saturating_add(test.generated)).max();
        let longest = longest.ok_or_else(|| usage("nothing to measure: --npp and --ntg are 0"))?;
        self.subjects.check(longest, "the longest sequence")?;
        let mut writer = self.subjects.output.writer(settings);
        self.subjects.each(settings, |bench| {
            for &test in &tests {
                output::print(&writer.row(&bench.run_batched(test)?))?;
            }
            Ok(())
        })?;
        output::print(writer.end())
    }
}
