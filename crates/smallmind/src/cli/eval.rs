//! `smallmind eval -m M --data FILE`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;
use smallmind::kernels::attention::CacheFormat;
use smallmind::model::PackedModel;
use smallmind::model::tokenizer::Tokenizer;
use smallmind::train::data::{Corpus, Documents};
use smallmind::train::{
    Divergence, EvaluateSettings, Evaluation, PositionLoss, Question, TextWindows, TrainConfig, answer, data_settings,
    divergence, evaluate_text, is_run, read_corpus, read_questions,
};

use super::failure::{Outcome, usage};
use super::models::{ModelArg, WeightsArg, cache_format_parser};
use super::progress::Bar;
use super::settings::Settings;
use super::{interrupt, note, output, units};

/// Options of `eval`.
#[derive(Debug, Args)]
pub struct Eval {
    #[command(flatten)]
    model: ModelArg,
    /// Text files, - for standard input, divided into documents as for training; each line of a .jsonl file is a
    /// document
    #[arg(long, required_unless_present = "choices", num_args = 1.., value_name = "FILE")]
    data: Vec<PathBuf>,
    /// Another model, such as the one that this was quantized from: how far are the predictions from its own
    #[arg(long, value_name = "MODEL", requires = "data", conflicts_with = "choices")]
    against: Option<PathBuf>,
    /// Show the loss by the number of tokens before a prediction
    #[arg(long, requires = "data", conflicts_with = "choices")]
    by_position: bool,
    /// Multiple choice: a .jsonl file with {"context": text, "endings": [texts], "label": number} in each line
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    choices: Option<PathBuf>,
    /// Tokens that a prediction may look back on [default: the model's context, with --against the shorter one]
    #[arg(long, value_name = "N", value_parser = units::within::<u32>(1..), conflicts_with = "choices")]
    context: Option<u32>,
    /// The text between documents, empty for none [default: as the run was trained, or <|endoftext|>]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "choices")]
    separator: Option<String>,
    #[command(flatten)]
    weights: WeightsArg,
    /// The format of the model's key-value cache, which --against and --choices read through. The other model's is f32
    /// [default: f32]
    #[arg(long = "kv", value_name = "FORMAT", value_parser = cache_format_parser(), ignore_case = true)]
    cache_format: Option<CacheFormat>,
}

impl Eval {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        if self.cache_format.is_some() && self.against.is_none() && self.choices.is_none() {
            return Err(usage(
                "--kv is for --against and --choices, which read through the key-value cache; the loss of a whole text \
                 has none",
            ));
        }
        let cache_format = self.cache_format.unwrap_or(CacheFormat::F32);
        let isa = settings.isa()?;
        interrupt::end_on_signal(interrupt::Makes::Text)?;
        let questions = self.choices.as_deref().map(read_questions).transpose()?;
        let (model, tokenizer) = self.model.open_packed(isa, self.weights.weights)?;
        let model = Arc::new(model);
        if let Some(questions) = questions {
            return choose(&model, &tokenizer, &questions, cache_format, settings);
        }
        let reference = self
            .against
            .clone()
            .map(|model| ModelArg { model, allowed: self.model.allowed }.open_packed(isa, None))
            .transpose()?;
        let corpus = corpus(&self.data, &self.model.model, self.separator.as_deref(), &tokenizer)?;
        // Both models are evaluated in the same windows.
        let shorter = match &reference {
            Some((reference, _)) if reference.config().context < model.config().context => reference.config(),
            _ => model.config(),
        };
        let max_context = self.context.map_or(shorter.context, |context| context as usize);
        shorter.check_context(max_context)?;
        let how = EvaluateSettings { threads: settings.threads(), max_context, cache_format };
        let bar = Bar::new(0, "{bar:24} {percent:>3}%  {pos}/{len} tokens  {eta} left");
        let mut progress = |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        };
        let evaluation = evaluate_text(&model, &tokenizer, &corpus, how, &mut progress);
        let divergence = evaluation.as_ref().ok().and(reference).map(|(reference, _)| {
            let text = TextWindows::new(&corpus, &tokenizer, model.config().vocab_size)?;
            divergence(&model, &Arc::new(reference), &text, how, &mut progress)
        });
        bar.finish_and_clear();
        self.report(&evaluation?, divergence.transpose()?.as_ref(), corpus.documents().bytes(), settings)
    }

    fn report(
        &self,
        evaluation: &Evaluation,
        divergence: Option<&Divergence>,
        bytes: usize,
        settings: &Settings,
    ) -> Outcome {
        let by_position = if self.by_position { &evaluation.by_position[..] } else { &[] };
        if settings.is_json() {
            let mut document = json!({
                "loss": evaluation.loss,
                "perplexity": evaluation.perplexity,
                "bits_per_byte": evaluation.bits_per_byte,
                "tokens": evaluation.tokens,
                "bytes": bytes,
            });
            if self.by_position {
                let of = |p: &PositionLoss| json!({"from": p.positions.start, "loss": p.loss, "tokens": p.tokens});
                document["by_position"] = by_position.iter().map(of).collect();
            }
            if let Some(d) = divergence {
                document["against"] = json!({
                    "model": self.against, "kl_mean": d.mean, "kl_99": d.percentile_99, "kl_max": d.max,
                    "same_top": d.same_top, "own_loss": d.loss, "loss": d.reference_loss, "loss_difference": d.loss - d.reference_loss,
                    "perplexity_ratio": (d.loss - d.reference_loss).exp(), "tokens": d.tokens,
                });
            }
            return output::document(document);
        }
        output::print(&format!(
            "loss           {:.4}\nperplexity     {:.3}\nbits per byte  {}\ntokens         {}\n",
            evaluation.loss,
            evaluation.perplexity,
            evaluation.bits_per_byte.map_or_else(|| "-".to_owned(), |bits| format!("{bits:.4}")),
            units::grouped(evaluation.tokens as u64),
        ))?;
        if let Some(d) = divergence {
            if let Some(format) = self.cache_format.filter(|format| *format != CacheFormat::F32) {
                let (name, loss) = (format!("with {format}"), d.loss);
                output::print(&format!("{name:14} loss {loss:.4}, perplexity {:.3} through the cache\n", loss.exp()))?;
            }
            output::print(&format!(
                "reference      loss {:.4}, perplexity {:.3}\n\
                 difference     loss {:+.4}, perplexity x {:.4}\n\
                 KL divergence  mean {:.6}, 99 % below {:.6}, largest {:.6}\n\
                 same top       {:.2} %\n",
                d.reference_loss,
                d.reference_loss.exp(),
                d.loss - d.reference_loss,
                (d.loss - d.reference_loss).exp(),
                d.mean,
                d.percentile_99,
                d.max,
                100.0 * d.same_top,
            ))?;
        }
        let row = |p: &PositionLoss| {
            let before = format!("{} to {}", p.positions.start, p.positions.end - 1);
            format!("{before:>15} tokens before: loss {:.4}, {} tokens\n", p.loss, units::grouped(p.tokens as u64))
        };
        output::print(&by_position.iter().map(row).collect::<String>())
    }
}

/// The text in `files`, divided like the own training text of the model at `path` if that is known.
pub fn corpus(
    files: &[PathBuf],
    path: &Path,
    separator: Option<&str>,
    tokenizer: &Tokenizer,
) -> anyhow::Result<Corpus> {
    let of_run = if is_run(path) { Some(data_settings(path)?) } else { None };
    let mut data = of_run.map_or_else(|| TrainConfig::with_overlays(None, &[]).map(|usual| usual.data), Ok)?;
    if let Some(separator) = separator {
        (data.documents, data.separator) = (Documents::Separated, Some(separator.to_owned()));
    }
    let corpus = read_corpus(files, &data, tokenizer.eos().is_some())?;
    for file in corpus.marks() {
        note!("note: {file}: a byte-order mark at the beginning is left out");
    }
    Ok(corpus)
}

/// Answers the questions of a multiple choice.
fn choose(
    model: &Arc<PackedModel>,
    tokenizer: &Tokenizer,
    questions: &[Question],
    cache_format: CacheFormat,
    settings: &Settings,
) -> Outcome {
    let bar = Bar::new(questions.len() as u64, "{bar:24} {percent:>3}%  {pos}/{len} questions  {eta} left");
    let how = (settings.threads(), cache_format);
    let answered = answer(model, tokenizer, questions, how, &mut |done| bar.set_position(done as u64));
    bar.finish_and_clear();
    let choices = answered?;
    let share = |right: usize| right as f64 / choices.questions.max(1) as f64;
    if settings.is_json() {
        return output::document(json!({
            "questions": choices.questions,
            "right": choices.right,
            "accuracy": share(choices.right),
            "right_by_byte": choices.right_by_byte,
            "accuracy_by_byte": share(choices.right_by_byte),
        }));
    }
    output::print(&format!(
        "questions         {}\naccuracy          {:.2} %\naccuracy by byte  {:.2} %\n",
        choices.questions,
        100.0 * share(choices.right),
        100.0 * share(choices.right_by_byte),
    ))
}
