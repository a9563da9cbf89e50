//! From errors to messages and exit codes.

use std::fmt;
use std::io;

use smallmind::bench::BenchError;
use smallmind::checkpoint::CheckpointError;
use smallmind::graph::GraphError;
use smallmind::hub::{HubError, SelectionFault};
use smallmind::kernels::attention::CacheFormat;
use smallmind::model::chat::ChatError;
use smallmind::model::tokenizer::TokenizerError;
use smallmind::model::{ConfigError, ErrorClass, ModelError};
use smallmind::simd::IsaError;
use smallmind::train::data::DataError;
use smallmind::train::{Found, TrainError};

use super::nanogpt;

/// The result of a verb, a subcommand.
pub type Outcome = anyhow::Result<()>;

/// Failures of the command line itself.
#[derive(Debug)]
pub enum Failure {
    /// Wrong usage.
    Usage(String),
    /// A bad file.
    BadFile(String),
    /// A measurement is slower than it should be.
    Regression(String),
    /// Ctrl-C; the message to print.
    Interrupted(String),
    /// Standard output can't be written.
    Output(io::Error),
}

impl Failure {
    /// Whether the reader of standard output has closed it, as in `… | head`. That isn't a failure.
    fn is_quiet(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::BadFile(text) | Self::Regression(text) | Self::Interrupted(text) => {
                f.write_str(text)
            }
            Self::Output(error) => write!(f, "standard output can't be written: {error}"),
        }
    }
}

impl std::error::Error for Failure {}

/// A [`Failure::Usage`].
pub fn usage(text: impl Into<String>) -> anyhow::Error {
    Failure::Usage(text.into()).into()
}

/// A [`Failure::BadFile`].
pub fn bad_file(text: impl Into<String>) -> anyhow::Error {
    Failure::BadFile(text.into()).into()
}

/// An error of `verb` for people, with advice.
pub fn sentence(error: &anyhow::Error, verb: &str) -> String {
    format!("error: {}", advised(error, verb))
}

/// Whether standard output can't be written: then there is nobody to talk to.
pub fn is_output(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Failure::Output(_)))
}

/// Prints an error of `verb` on standard error; returns the exit code.
pub fn report(error: &anyhow::Error, verb: &str) -> u8 {
    match error.downcast_ref::<Failure>() {
        Some(failure) if failure.is_quiet() => return 0,
        Some(Failure::Interrupted(text)) => super::note!("{text}"),
        _ => super::note!("{}", sentence(error, verb)),
    }
    exit_code(error)
}

/// The error with advice.
fn advised(error: &anyhow::Error, verb: &str) -> String {
    match error.chain().find_map(|cause| advice(cause, verb)) {
        Some(advice) => format!("{}; {advice}", message(error)),
        None => message(error),
    }
}

/// The error and its causes. A cause that the message before it quotes is left out.
pub fn message(error: &anyhow::Error) -> String {
    let said = |cause| nanogpt::unknown_setting(cause).unwrap_or_else(|| cause.to_string());
    let mut causes = error.chain().map(said);
    let mut text = causes.next().unwrap_or_default();
    for cause in causes {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    in_plain_words(&text)
}

/// The text without numbers of the system's errors, and with plain words for a missing file.
fn in_plain_words(text: &str) -> String {
    const NUMBER: &str = " (os error ";
    let mut pieces = text.split(NUMBER);
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.split_once(')') {
            Some((number, rest)) if number.parse::<i32>().is_ok() => plain += rest,
            _ => plain = plain + NUMBER + piece,
        }
    }
    plain.replace("No such file or directory", "there is no such file or folder")
}

/// Advice about an error of the libraries, in terms of the options of `verb`.
fn advice(cause: &(dyn std::error::Error + 'static), verb: &str) -> Option<String> {
    match cause.downcast_ref::<ChatError>() {
        Some(ChatError::Model(error)) => return advice(error, verb),
        Some(error) => return chat_advice(error).map(str::to_owned),
        None => {}
    }
    let advice = match (cause.downcast_ref::<TrainError>(), model_error(cause)) {
        (Some(TrainError::Exists { found: Found::Run, .. }), _) => {
            "continue it with train --resume, replace it with --overwrite, or choose another folder"
        }
        (Some(TrainError::Shape { .. }), _) => {
            "remove it: it is written again from the checkpoint; or begin a new run with --init-from"
        }
        (Some(TrainError::Exists { .. }), _) => "replace it with --overwrite, or choose another folder",
        (Some(TrainError::Data(DataError::NoDocuments { .. })), _) if verb == "quickstart" => "raise --text",
        (Some(TrainError::Data(DataError::NoDocuments { .. })), _) => {
            "use more text, --data.windows=uniform or a smaller --model.context"
        }
        (_, Some(ModelError::EmptyPrompt)) => "give a prompt with -p",
        (_, Some(ModelError::Context { max, .. })) => return Some(format!("--context takes 1 to {max}")),
        (_, Some(ModelError::TooLong { context, max, .. })) if context < max => {
            return Some(format!("shorten the prompt or raise --context, to {max} at most"));
        }
        (_, Some(ModelError::TooLong { .. })) => "shorten the prompt: the model has room for no more",
        (_, Some(ModelError::NonFinite { cache_format, .. })) if *cache_format != CacheFormat::F32 => {
            "--kv f32 holds any key and value"
        }
        _ if cause.is::<HubError>() => return cause.downcast_ref().and_then(hub_advice),
        _ if graph_error(cause).is_some_and(|error| matches!(error, GraphError::OutOfMemory { .. })) => match verb {
            "train" => "lower --train.batch or --model.context, or train a smaller model",
            "generate" | "chat" | "eval" | "inspect" => "lower --context, use fewer bits of --kv or a smaller model",
            "new" => "choose a smaller preset",
            "profile" => "lower --depth or --prompt-tokens, use fewer bits of --kv or a smaller model",
            "bench" => "ask for fewer tokens or sequences, use fewer bits of --kv or a smaller model",
            _ => "use a smaller model",
        },
        _ if graph_error(cause).is_some_and(|error| matches!(error, GraphError::Range { .. })) => {
            "name another format in --weights"
        }
        _ => return None,
    };
    Some(advice.to_owned())
}

/// Advice about a model on the hub.
fn hub_advice(error: &HubError) -> Option<String> {
    Some(match error {
        HubError::Absent { name, .. } => format!("`smallmind pull {name}` downloads it"),
        HubError::Incomplete { name, .. } => format!("`smallmind pull {name}` downloads what is missing"),
        HubError::Denied { with_token: false, .. } | HubError::NotFound { may_be_private: true, .. } => {
            "set HF_TOKEN to the token of a user who may read it".to_owned()
        }
        HubError::Denied { with_token: true, .. } => "the user of HF_TOKEN may not read it".to_owned(),
        HubError::NoConnection { .. } => "check the network, or name another server in HF_ENDPOINT".to_owned(),
        _ => return None,
    })
}

/// The kind of an error about the hub.
fn hub_class(error: &HubError) -> ErrorClass {
    match error {
        HubError::Name { .. } | HubError::Setting { .. } => ErrorClass::Usage,
        HubError::Selection { fault: SelectionFault::NoSuch(..) | SelectionFault::Several(_), .. } => ErrorClass::Usage,
        HubError::Absent { .. }
        | HubError::Incomplete { .. }
        | HubError::Selection { .. }
        | HubError::Damaged { .. } => ErrorClass::BadFile,
        _ => ErrorClass::Failed,
    }
}

/// Advice about an error of a conversation.
fn chat_advice(error: &ChatError) -> Option<&'static str> {
    match error {
        ChatError::NoTemplate => {
            Some("continue a text with generate -p TEXT, or give the file of a template with --template")
        }
        ChatError::NoDefault { .. } => Some("choose one with --template-name"),
        ChatError::TurnTooLong { .. } => Some("shorten the message, or raise --context"),
        _ => None,
    }
}

/// The error of a model that `cause` is or holds.
fn model_error<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a ModelError> {
    match (cause.downcast_ref(), cause.downcast_ref()) {
        (Some(TrainError::Model(error)), _) | (_, Some(BenchError::Model(error))) => Some(error),
        _ => cause.downcast_ref(),
    }
}

/// The error of a graph that `cause` is or holds.
fn graph_error<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a GraphError> {
    match (model_error(cause), cause.downcast_ref()) {
        (Some(ModelError::Graph(error)), _) | (_, Some(BenchError::Graph(error))) => Some(error),
        _ => cause.downcast_ref(),
    }
}

/// 1 failed, 2 wrong usage, 3 bad model or data file, 4 out of memory or over a limit, 5 slower than it should be, 130
/// interrupted.
fn exit_code(error: &anyhow::Error) -> u8 {
    if error.chain().any(is_disk_failure) { 1 } else { error.chain().find_map(code_of).unwrap_or(1) }
}

/// Whether a disk could not be written. Then the cause is not the content of a file.
fn is_disk_failure(cause: &(dyn std::error::Error + 'static)) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull, WriteZero};
    let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
    kind.is_some_and(|kind| matches!(kind, FileTooLarge | QuotaExceeded | ReadOnlyFilesystem | StorageFull | WriteZero))
}

fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(match failure {
            Failure::Usage(_) => 2,
            Failure::BadFile(_) => 3,
            Failure::Regression(_) => 5,
            Failure::Interrupted(_) => 130,
            Failure::Output(_) => 1,
        });
    }
    if cause.is::<IsaError>() {
        return Some(2);
    }
    class_of(cause).map(|class| match class {
        ErrorClass::Failed => 1,
        ErrorClass::Usage => 2,
        ErrorClass::BadFile => 3,
        ErrorClass::Limit => 4,
    })
}

/// The kind of an error of the libraries.
fn class_of(cause: &(dyn std::error::Error + 'static)) -> Option<ErrorClass> {
    let graph = || cause.downcast_ref::<GraphError>().map(Into::into);
    let checkpoint = || cause.downcast_ref::<CheckpointError>().map(Into::into);
    let tokenizer = || cause.downcast_ref().map(TokenizerError::class);
    let config = || cause.downcast_ref().map(ConfigError::class);
    let model = || cause.downcast_ref().map(ModelError::class);
    let chat = || cause.downcast_ref().map(ChatError::class);
    let data = || cause.downcast_ref().map(DataError::class);
    let hub = || cause.downcast_ref().map(hub_class);
    let bench = || cause.downcast_ref().map(BenchError::class);
    let train = cause.downcast_ref().map(TrainError::class);
    train
        .or_else(hub)
        .or_else(bench)
        .or_else(data)
        .or_else(chat)
        .or_else(model)
        .or_else(config)
        .or_else(tokenizer)
        .or_else(checkpoint)
        .or_else(graph)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_contracts() {
        let code = |error: anyhow::Error| exit_code(&error);
        assert_eq!(code(usage("x")), 2);
        assert_eq!(code(bad_file("x").context("while reading")), 3);
        assert_eq!(code(Failure::Interrupted(String::new()).into()), 130);
        assert_eq!(code(Failure::Regression("x".into()).into()), 5);
        assert_eq!(code(BenchError::Record { path: "x".into(), why: String::new() }.into()), 3);
        assert_eq!(code(BenchError::Rival { command: "x".into(), why: String::new() }.into()), 1);
        assert_eq!(code(anyhow::anyhow!("anything else")), 1);
        assert_eq!(code(GraphError::OutOfMemory { bytes: 1 }.into()), 4);
        assert_eq!(code(ModelError::from(GraphError::OutOfMemory { bytes: 1 }).into()), 4);
        assert_eq!(code(BenchError::from(GraphError::OutOfMemory { bytes: 1 }).into()), 4);
        assert_eq!(code(IsaError::Unknown("x".into()).into()), 2);
        assert_eq!(code("hf:".parse::<smallmind::hub::ModelName>().unwrap_err().into()), 2);
        assert_eq!(code(HubError::Absent { name: String::new(), searched: vec![] }.into()), 3);
        assert_eq!(code(HubError::Request { url: String::new(), why: String::new() }.into()), 1);
        assert_eq!(code(DataError::NoFiles.into()), 3);
        let vocabulary = TokenizerError::VocabularySize { asked: 1, allowed: "more" };
        assert_eq!(code(vocabulary.into()), 2);
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(code(DataError::Io { path: "x".into(), action: "write", source: full() }.into()), 1);
        assert_eq!(code(TokenizerError::Write { path: "x".into(), source: full() }.into()), 1);
    }

    #[test]
    fn advice_is_in_the_words_of_the_verb() {
        let out_of_memory = || GraphError::OutOfMemory { bytes: 7 };
        let said = |error: anyhow::Error, verb| advised(&error, verb);
        for (verb, word) in [("new", "preset"), ("train", "--train.batch"), ("eval", "--context"), ("bench", "model")] {
            assert!(said(out_of_memory().into(), verb).contains(word), "{verb}");
            assert!(said(ModelError::from(out_of_memory()).into(), verb).contains(word), "{verb}");
            assert!(said(BenchError::from(ModelError::from(out_of_memory())).into(), verb).contains(word), "{verb}");
            let nested = anyhow::Error::new(TrainError::from(ModelError::from(out_of_memory()))).context("at work");
            assert!(said(nested, verb).contains(word), "{verb}");
        }
        let too_long = |context| said(ModelError::TooLong { tokens: 9, context, max: 8 }.into(), "generate");
        assert!(too_long(4).contains("raise --context, to 8"), "{}", too_long(4));
        assert!(!too_long(8).contains("--context"), "{}", too_long(8));
        let not_finite =
            |cache_format| said(ModelError::NonFinite { sequence: 0, position: 1, cache_format }.into(), "generate");
        assert!(not_finite(CacheFormat::F16).ends_with("--kv f32 holds any key and value"));
        assert!(not_finite(CacheFormat::F16).contains("beyond what its cache in f16 holds"));
        assert!(!not_finite(CacheFormat::F32).contains("cache"));
        let few = |verb| said(TrainError::from(DataError::NoDocuments { context: 4 }).into(), verb);
        assert!(
            few("quickstart").contains("raise --text") && few("train").contains("data.windows"),
            "{}",
            few("train")
        );
    }

    #[test]
    fn causes_are_said_once() {
        let inner = io::Error::other("no space");
        let quoted = anyhow::Error::new(TrainError::Write { path: "a".into(), source: inner });
        assert_eq!(message(&quoted).matches("no space").count(), 1);
        let added = anyhow::anyhow!("inner").context("outer");
        assert_eq!(message(&added), "outer: inner");
    }

    #[test]
    fn a_closed_pipe_is_quiet() {
        let closed = Failure::Output(io::ErrorKind::BrokenPipe.into());
        assert_eq!(report(&closed.into(), "generate"), 0);
        let full = Failure::Output(io::ErrorKind::StorageFull.into());
        assert_eq!(report(&full.into(), "generate"), 1);
    }
}
