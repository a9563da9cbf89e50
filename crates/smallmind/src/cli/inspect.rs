//! `smallmind inspect M [--tensors] [--graph] [--plan] [--weights FORMAT] [--speed]`.

mod speed;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use smallmind::checkpoint::StoredTensor;
use smallmind::graph::{Graph, Limits, Plan, PlanOptions};
use smallmind::kernels::Format;
use smallmind::kernels::attention::CacheFormat;
use smallmind::model::{ConfigError, ModelConfig, ModelFiles, Purpose, SessionOptions, architecture, unused_tensors};

use speed::{Plans, Speed};

use super::failure::{Outcome, usage};
use super::settings::Settings;
use super::{models, output, units};

/// Options of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// A run folder, a Hugging Face folder, a GGUF file or hf:OWNER/NAME
    #[arg(value_name = "MODEL", required_unless_present = "named")]
    model: Option<PathBuf>,
    /// The model, as other verbs are told it
    #[arg(short = 'm', long = "model", value_name = "MODEL", hide = true, conflicts_with = "model")]
    named: Option<PathBuf>,
    #[command(flatten)]
    allowed: models::Allowed,
    /// List the tensors of its files
    #[arg(long)]
    tensors: bool,
    /// Print the graph: one operation per line
    #[arg(long)]
    graph: bool,
    /// Print the plan: the steps, and where their values are stored
    #[arg(long)]
    plan: bool,
    /// Measure for a second or two what this machine can do, and show how fast the model can be at most
    #[arg(long)]
    speed: bool,
    /// What graph and plan are for
    #[arg(long = "for", value_enum, default_value_t = Use::Decode, value_name = "USE")]
    used_for: Use,
    /// Tokens of a sequence that plans make room for [default: the model's]
    #[arg(long, value_name = "N", value_parser = units::whole)]
    context: Option<usize>,
    #[command(flatten)]
    weights: models::WeightsArg,
    #[command(flatten)]
    cache: models::CacheArg,
}

/// The purpose of a graph, in the words of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Use {
    /// One token after the other
    Decode,
    /// A chunk of a prompt
    Prefill,
    /// The loss of one sequence and its gradients
    Training,
    /// The loss of one sequence
    Evaluation,
}

impl Use {
    fn purpose(self) -> Purpose {
        match self {
            Self::Decode | Self::Prefill => Purpose::Generation,
            Self::Training => Purpose::Training,
            Self::Evaluation => Purpose::Evaluation,
        }
    }

    fn limits(self, context: usize) -> Limits {
        match self {
            Self::Decode => SessionOptions::single(context, 1).limits(1),
            Self::Prefill => SessionOptions::single(context, 1).limits(usize::MAX),
            Self::Training | Self::Evaluation => Limits { tokens: context, outputs: 0, spans: 1, context, pages: 0 },
        }
    }
}

/// The files of a model and their configuration.
type Subject<'a> = (&'a ModelFiles, &'a ModelConfig);

/// Bytes that a session with one sequence takes.
struct Memory {
    context: usize,
    weights: u64,
    cache: u64,
    cache_format: CacheFormat,
    work: u64,
}

impl Inspect {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let model = self.model.as_ref().or(self.named.as_ref()).cloned().unwrap_or_default();
        let files = models::open_files(&model)?;
        let (config, _) = files.configs(self.allowed.unknown_keys()).map_err(models::with_flag)?;
        self.allowed.note(&files, &config)?;
        config.check_context(self.context(&config))?;
        let unused = unused_tensors(&config, &files)?;
        models::note_fallback(&config, settings.isa()?, self.weights.weights)?;
        let memory = self.memory((&files, &config), settings)?;
        let graph = architecture::graph(&config, self.used_for.purpose())?;
        if self.used_for == Use::Training && self.weights.weights.is_some_and(|format| format != Format::F32) {
            return Err(usage("--weights is for weights that are only read; a training has them in f32"));
        }
        let plan =
            if self.plan { Some(self.plan_for(self.used_for, (&files, &config), settings)?.to_string()) } else { None };
        let speed = if self.speed { Some(self.speed((&files, &config), settings)?) } else { None };
        if settings.is_json() {
            let mut document = summary(&files, &config, &graph, &memory, &unused)?;
            let mut add = |key: &str, value: Value| {
                document.as_object_mut().map(|object| object.insert(key.to_owned(), value));
            };
            if let Some(speed) = &speed {
                add("speed", speed.json());
            }
            if self.tensors {
                add("tensors", files.weights().tensors().map(tensor).collect());
            }
            if self.graph {
                add("graph", json!(graph.to_string().lines().collect::<Vec<_>>()));
            }
            if let Some(plan) = &plan {
                add("plan", json!(plan.lines().collect::<Vec<_>>()));
            }
            return output::document(document);
        }
        output::print(&describe(&files, &config, &graph, &memory)?)?;
        output::print(&speed.iter().flat_map(Speed::rows).map(row).collect::<String>())?;
        output::print(&unused_rows(&unused))?;
        if self.tensors {
            output::print(&table(&files))?;
        }
        if self.graph {
            output::print(&format!("\n{graph}"))?;
        }
        plan.map_or(Ok(()), |plan| output::print(&format!("\n{plan}")))
    }

    fn context(&self, config: &ModelConfig) -> usize {
        self.context.unwrap_or(config.context)
    }

    fn plan_for(&self, used_for: Use, (files, config): Subject<'_>, settings: &Settings) -> anyhow::Result<Plan> {
        let graph = architecture::graph(config, used_for.purpose())?;
        let (limits, threads, isa) = (used_for.limits(self.context(config)), settings.threads(), settings.isa()?);
        let is_stored = used_for != Use::Training;
        let cache_format = self.cache.cache_format;
        let options = if is_stored {
            PlanOptions::stored(limits, threads, Arc::new(files.storage(config, &graph, isa, self.weights.weights)?))
        } else {
            PlanOptions::flat(limits, threads, isa)
        };
        Ok(Plan::new(graph, PlanOptions { cache_format, ..options })?)
    }

    /// How fast a session with one sequence can be at most.
    fn speed(&self, subject: Subject<'_>, settings: &Settings) -> anyhow::Result<Speed> {
        let plan = |used_for| self.plan_for(used_for, subject, settings);
        let plans =
            Plans { decode: plan(Use::Decode)?, prefill: plan(Use::Prefill)?, context: self.context(subject.1) };
        Speed::measure(&plans, settings.threads(), settings.isa()?)
    }

    /// The memory of a session with one sequence.
    fn memory(&self, (files, config): Subject<'_>, settings: &Settings) -> anyhow::Result<Memory> {
        let plan = self.plan_for(Use::Prefill, (files, config), settings)?;
        let flat = 4 * plan.graph().params().layout().len();
        // Weights in f32 are packed in place.
        let weights = plan.storage().filter(|storage| !storage.is_f32()).map_or(flat, |storage| storage.bytes());
        Ok(Memory {
            context: self.context(config),
            weights: weights as u64,
            cache: plan.cache().map_or(0, |shape| shape.bytes() as u64),
            cache_format: plan.cache_format(),
            work: plan.arena_bytes() as u64,
        })
    }
}

fn tensor(stored: StoredTensor<'_>) -> Value {
    let format = stored.format.to_string();
    json!({ "name": stored.name, "dtype": format, "shape": stored.shape, "bytes": stored.bytes })
}

fn stored_bytes(files: &ModelFiles) -> u64 {
    files.weights().tensors().map(|info| info.bytes).sum()
}

/// What a `config.json` says of a model. A GGUF file may hold a model that none can state.
fn stated<T>(files: &ModelFiles, of_json: Result<T, ConfigError>) -> Result<Option<T>, ConfigError> {
    match (files, of_json) {
        (ModelFiles::Gguf(_), Err(ConfigError::NotStorable { .. })) => Ok(None),
        (_, of_json) => of_json.map(Some),
    }
}

/// The file that holds the tokenizer, if there is one.
fn tokenizer_file(files: &ModelFiles) -> Option<&Path> {
    match files {
        ModelFiles::Folder(folder) => folder.tokenizer(),
        ModelFiles::Gguf(file) => models::tokenizer_model(file).map(|_| files.path()),
    }
}

fn summary(
    files: &ModelFiles,
    config: &ModelConfig,
    graph: &Graph,
    memory: &Memory,
    unused: &[String],
) -> anyhow::Result<Value> {
    Ok(json!({
        "model": files.path(),
        "config": stated(files, config.to_json())?,
        "parameters": graph.params().elements(),
        "stored_tensors": files.weights().tensors().len(),
        "stored_bytes": stored_bytes(files),
        "unused_tensors": unused,
        "tokenizer": tokenizer_file(files),
        "memory": {
            "context": memory.context,
            "weights_bytes": memory.weights,
            "cache_bytes": memory.cache,
            "cache_format": memory.cache_format.name(),
            "work_bytes": memory.work,
        },
    }))
}

fn describe(files: &ModelFiles, config: &ModelConfig, graph: &Graph, memory: &Memory) -> anyhow::Result<String> {
    let c = config;
    let parts = files.weight_files();
    let tensors = files.weights().tensors().len();
    let tokenizer = match models::tokenizer_of(files.path()) {
        Ok(tokenizer) => tokenizer.to_string(),
        Err(_) if tokenizer_file(files).is_none() => "none".to_owned(),
        Err(error) => format!("unusable: {error}"),
    };
    let total = units::bytes(memory.weights + memory.cache + memory.work);
    let rows = [
        ("model", files.path().display().to_string()),
        ("family", stated(files, c.model_type())?.unwrap_or("none; no config.json can state this model").to_owned()),
        ("parameters", units::grouped(graph.params().elements() as u64)),
        ("layers", c.layers.to_string()),
        ("width", format!("{}, feed-forward {}", c.d_model, c.d_ff)),
        ("heads", format!("{} of {}, {} for keys and values", c.heads, c.head_dim, c.kv_heads)),
        ("context", c.context.to_string()),
        ("vocabulary", c.vocab_size.to_string()),
        ("tokenizer", tokenizer),
        (
            "stored",
            format!("{} in {tensors} tensors, {}", units::bytes(stored_bytes(files)), units::plural(parts, "file")),
        ),
        (
            "memory",
            format!(
                "{total} for one sequence of {}: weights {}, cache {} in {}, work {}",
                memory.context,
                units::bytes(memory.weights),
                units::bytes(memory.cache),
                memory.cache_format,
                units::bytes(memory.work)
            ),
        ),
    ];
    Ok(rows.into_iter().map(row).collect())
}

fn row((name, value): (&str, String)) -> String {
    format!("{name:<12} {value}\n")
}

/// Rows with the tensors that the configuration doesn't use.
fn unused_rows(unused: &[String]) -> String {
    let name = |i: usize| if i == 0 { "unused" } else { "" };
    unused.iter().enumerate().map(|(i, tensor)| format!("{:<12} {}\n", name(i), tensor.escape_debug())).collect()
}

/// A table of the tensors.
fn table(files: &ModelFiles) -> String {
    let width = files.weights().tensors().map(|info| info.name.len()).max().unwrap_or(0);
    let line = |stored: StoredTensor<'_>| {
        let (shape, bytes, format) = (format!("{:?}", stored.shape), units::bytes(stored.bytes), stored.format);
        format!("{:<width$}  {:<7} {shape:<16} {bytes}\n", stored.name, format.to_string())
    };
    std::iter::once("\n".to_owned()).chain(files.weights().tensors().map(line)).collect()
}
