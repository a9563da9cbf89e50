//! Tips for options that are not understood.

use std::ffi::OsString;

use clap::Command;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};
use smallmind::model::export::WeightMix;

/// The error of the parser with a tip, if there is one to give.
pub fn with_tip(mut error: Error, command: &Command, arguments: &[OsString]) -> Error {
    if let Some(tip) = tip(&error, command, arguments) {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
    }
    error
}

fn tip(error: &Error, command: &Command, arguments: &[OsString]) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let argument = text(ContextKind::InvalidArg)?;
    match error.kind() {
        ErrorKind::UnknownArgument if !argument.starts_with('-') && takes_model(command, arguments) => {
            Some(format!("a model is named by '-m {argument}'"))
        }
        ErrorKind::InvalidValue if argument.starts_with("--weights") => {
            let mix = WeightMix::from_name(text(ContextKind::InvalidValue)?)?;
            Some(format!("{mix} is a mix of formats for a file, which 'quantize --format {mix}' writes"))
        }
        _ => None,
    }
}

/// Whether the verb has `-m`, and it is not given.
fn takes_model(command: &Command, arguments: &[OsString]) -> bool {
    let text = |argument: &OsString| argument.to_str().map(str::to_owned);
    let mut verbs = arguments.iter().skip(1).filter_map(text).filter_map(|name| command.find_subcommand(name));
    let is_given =
        |argument: &OsString| text(argument).is_some_and(|a| a.starts_with("-m") || a.starts_with("--model"));
    let has_model = |verb: &Command| verb.get_arguments().any(|argument| argument.get_short() == Some('m'));
    verbs.next().is_some_and(has_model) && !arguments.iter().any(is_given)
}
