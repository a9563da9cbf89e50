//! nanoGPT's command line: what each name of its `train.py` means here.
//!
//! A name is obeyed (it means the same as in nanoGPT), ignored with a reason, or refused with a reason.

use std::borrow::Cow;
use std::error::Error;

use smallmind::train::{Overlay, TrainError};

/// The meaning of a name with a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Meaning {
    /// A setting, and how it differs from nanoGPT's, if it does.
    Setting(Overlay, Option<Cow<'static, str>>),
    /// The folder of the run.
    Out(String),
    /// Whether to resume the training in that folder.
    Resume(bool),
    /// What this program does anyway.
    Usual,
    /// Ignored for this reason.
    PassedOver(&'static str),
}

/// The rule for a name.
enum Rule {
    /// The name of this setting.
    Key(&'static str),
    /// The number of micro-batches in a step.
    Accumulation,
    /// The choice between two schedules.
    DecayLr,
    /// The folder of the run.
    OutDir,
    /// The initial weights of training.
    InitFrom,
    /// The precision of products.
    Dtype,
    /// A switch for something that another verb does.
    EvalOnly,
    /// Ignored for the reason; silently for the listed values, which ask for what this program does anyway.
    PassedOver(&'static [&'static str], &'static str),
}

const NO: &[&str] = &["False", "false"];

/// All names of nanoGPT's `train.py`, and `seed` of its `sample.py`.
const NAMES: &[(&str, Rule)] = &[
    ("out_dir", Rule::OutDir),
    ("eval_interval", Rule::Key("eval.interval")),
    ("log_interval", Rule::Key("log.interval")),
    ("eval_iters", Rule::Key("eval.batches")),
    ("eval_only", Rule::EvalOnly),
    (
        "always_save_checkpoint",
        Rule::PassedOver(&[], "checkpoints are always written (checkpoint.interval), and the best model beside them"),
    ),
    ("init_from", Rule::InitFrom),
    ("wandb_log", Rule::PassedOver(NO, "nothing is sent anywhere; the run's log.jsonl and log.csv hold what would be")),
    ("wandb_project", Rule::PassedOver(&[], "nothing is sent to Weights & Biases")),
    ("wandb_run_name", Rule::PassedOver(&[], "nothing is sent to Weights & Biases; --out names the run")),
    ("dataset", Rule::PassedOver(&[], "there are no data sets by name; --data FILE names the text")),
    ("gradient_accumulation_steps", Rule::Accumulation),
    ("batch_size", Rule::Key("train.batch")),
    ("block_size", Rule::Key("model.context")),
    ("n_layer", Rule::Key("model.layers")),
    ("n_head", Rule::Key("model.heads")),
    ("n_embd", Rule::Key("model.d_model")),
    ("dropout", Rule::Key("model.dropout")),
    ("bias", Rule::Key("model.biases")),
    ("learning_rate", Rule::Key("train.lr")),
    ("max_iters", Rule::Key("train.steps")),
    ("weight_decay", Rule::Key("train.weight_decay")),
    ("beta1", Rule::Key("train.beta1")),
    ("beta2", Rule::Key("train.beta2")),
    ("grad_clip", Rule::Key("train.clip")),
    ("decay_lr", Rule::DecayLr),
    ("warmup_iters", Rule::Key("train.warmup")),
    ("lr_decay_iters", Rule::Key("train.decay_steps")),
    ("min_lr", Rule::Key("train.min_lr")),
    ("backend", Rule::PassedOver(&[], "a training is one process; --threads says how many CPUs it uses")),
    ("device", Rule::PassedOver(&["cpu"], "the CPU is what computes")),
    ("dtype", Rule::Dtype),
    ("compile", Rule::PassedOver(NO, "there is nothing to compile at run time")),
    ("seed", Rule::Key("train.seed")),
];

fn rule(name: &str) -> Option<&'static Rule> {
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, rule)| rule)
}

/// Whether nanoGPT has a setting of that name.
pub fn is_name(name: &str) -> bool {
    rule(name).is_some()
}

/// All names.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(name, _)| *name)
}

/// The message for an unknown setting that is a name of nanoGPT, for example in a file: its key, or why there is none.
pub fn unknown_setting(error: &(dyn Error + 'static)) -> Option<String> {
    let Some(TrainError::UnknownKey { name, origin, .. }) = error.downcast_ref() else { return None };
    let why = match rule(name.rsplit('.').next().unwrap_or(name))? {
        Rule::Key(key) => return Some(format!("{origin}: there is no setting `{name}`; did you mean `{key}`?")),
        Rule::Accumulation => "set train.total_tokens, which is batch_size * block_size * gradient_accumulation_steps",
        Rule::DecayLr => "set train.schedule to \"cosine\" or \"constant\"",
        Rule::OutDir => "the folder of the run is named by --out in the command line",
        Rule::InitFrom => "set model.init_from to a model, or go on with --resume in the command line",
        Rule::Dtype => "set train.precision to \"f32\" or \"bf16\"",
        Rule::EvalOnly => "a model is measured by `smallmind eval`",
        Rule::PassedOver(_, why) => why,
    };
    Some(format!("{origin}: nanoGPT's `{name}` is no setting here: {why}"))
}

/// The meaning of `name=value`; `None` if the name is none of nanoGPT's.
///
/// # Errors
/// The name asks for something that this program can't do, or doesn't take the value.
pub fn meaning(name: &str, value: &str) -> Option<Result<Meaning, TrainError>> {
    let origin = format!("--{name}={value}");
    let refused = |why: &str| TrainError::Value { key: name.to_owned(), origin: origin.clone(), why: why.to_owned() };
    let truth = || match value {
        "True" | "true" => Ok(true),
        "False" | "false" => Ok(false),
        _ => Err(refused("it must be True or False")),
    };
    let setting = |key, text, differs: Option<Cow<'static, str>>| {
        Overlay::of_text(key, text, origin.clone()).map(|overlay| Meaning::Setting(overlay, differs))
    };
    Some(match rule(name)? {
        Rule::Key(key) => setting(key, value, None),
        Rule::Accumulation => match value.parse() {
            Ok(count) if count > 0 => Ok(Meaning::Setting(Overlay::of_micro_batches(count, origin), None)),
            _ => Err(refused("it must be a whole number, at least 1")),
        },
        Rule::DecayLr => truth().and_then(|falls| match falls {
            true => setting("train.schedule", "cosine", None),
            false => setting("train.schedule", "constant", Some(NO_WARMUP.into())),
        }),
        Rule::OutDir => Ok(Meaning::Out(value.to_owned())),
        Rule::InitFrom => match value.trim_matches(['"', '\'']) {
            "scratch" => Ok(Meaning::Resume(false)),
            "resume" => Ok(Meaning::Resume(true)),
            word if word.starts_with("gpt2") => {
                let name = format!("{GPT2_OWNER}{word}");
                let read = format!("the model {name} is read from the caches; smallmind pull {name} downloads it");
                setting("model.init_from", &name, Some(read.into()))
            }
            _ => Err(refused("it must be scratch, resume or gpt2…; --init-from MODEL begins with any other model")),
        },
        Rule::Dtype => match value.trim_matches(['"', '\'']) {
            "float32" => setting("train.precision", "f32", None),
            "bfloat16" => setting("train.precision", "bf16", None),
            _ => Ok(Meaning::PassedOver("products are computed in float32 or bfloat16 (train.precision)")),
        },
        Rule::EvalOnly => truth().and_then(|only| match only {
            true => Err(refused("measuring a model is a verb of its own: smallmind eval -m MODEL --data FILE")),
            false => Ok(Meaning::Usual),
        }),
        Rule::PassedOver(usual, _) if usual.contains(&value.trim_matches(['"', '\''])) => Ok(Meaning::Usual),
        Rule::PassedOver(_, why) => Ok(Meaning::PassedOver(why)),
    })
}

const NO_WARMUP: &str =
    "the rate is constant after train.warmup steps; nanoGPT has no warm-up then, which is --warmup_iters=0";
/// Where the weights are that nanoGPT downloads under the names of OpenAI.
const GPT2_OWNER: &str = "hf:openai-community/";

#[cfg(test)]
mod tests;
