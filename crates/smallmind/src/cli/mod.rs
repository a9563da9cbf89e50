//! The command line: verbs (subcommands) and what they share. Each verb has a file, which calls the library and prints.

mod bench;
mod chat;
mod completions;
mod convert;
mod doctor;
mod environment;
mod eval;
mod failure;
mod generate;
mod gguf_output;
mod hints;
mod hub;
mod imatrix;
mod input;
mod inspect;
mod interrupt;
mod list;
mod lookup;
mod machine;
mod models;
mod nanogpt;
mod new;
mod no_model;
mod output;
mod output_files;
mod overrides;
mod profile;
mod progress;
mod pull;
mod quantize;
mod quickstart;
mod reads;
mod sampling;
mod settings;
mod temporaries;
mod tips;
mod tokenize;
mod tokenizer;
mod train;
mod units;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::builder::Styles;
use clap::{Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use failure::Outcome;
pub(crate) use output::note;
use settings::{Global, Settings};
use smallmind::train::Overlay;

/// Train, run and profile small language models on an ordinary CPU.
///
/// Answers go to standard output, progress and hints to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage, 3
/// bad model or data file, 4 out of memory or over a limit, 5 slower than it should be, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "smallmind", version, arg_required_else_help = true, subcommand_required = true, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Train on the built-in stories for about a minute, then tell three
    Quickstart(quickstart::Quickstart),
    /// Train a model on text files
    Train(train::Train),
    /// Measure a model's loss over a whole text
    Eval(eval::Eval),
    /// Continue a prompt
    Generate(generate::Generate),
    /// Talk with a model that was trained to answer
    Chat(chat::Chat),
    /// Turn text into token ids, or back
    Tokenize(tokenize::Tokenize),
    /// Make tokenizers
    Tokenizer(tokenizer::Tokenizer),
    /// Write a model of a preset's shape with random weights
    New(new::New),
    /// Write a model as a GGUF file or as a folder in the layout of Hugging Face
    Convert(convert::Convert),
    /// Write a model as a GGUF file with fewer bits for each weight
    Quantize(quantize::Quantize),
    /// Measure on a text which columns of a model's weights matter, for quantize
    Imatrix(imatrix::Imatrix),
    /// Show what a model is made of
    Inspect(inspect::Inspect),
    /// Download a model from the Hugging Face hub
    Pull(pull::Pull),
    /// List the models on this machine
    Models(list::Models),
    /// Time kernels and compare them with what this machine can do, with rivals and with an earlier record
    Bench(bench::Bench),
    /// Show where the time of generation or training goes, compared with what this machine can do
    Profile(profile::Profile),
    /// Show the CPU, its features, and what will be used of it
    Doctor(doctor::Doctor),
    /// Print a completion script for a shell
    Completions(completions::Completions),
}

/// Runs a command line, the program's name included.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let command = settings::prepared(Cli::command());
    let extracted = match overrides::extract(arguments, &command) {
        Ok(extracted) => extracted,
        Err(error) => return failure::report(&error, "train").into(),
    };
    let code = match parse(command, &extracted.arguments) {
        Ok((cli, verb)) => perform(cli, extracted.overlays).map_or_else(|error| failure::report(&error, &verb), |()| 0),
        Err(error) => print_parse_error(&error, &extracted.arguments),
    };
    ExitCode::from(code)
}

fn perform(cli: Cli, overlays: Vec<Overlay>) -> Outcome {
    let settings = Settings::new(cli.global)?;
    match cli.verb {
        Verb::Quickstart(verb) => verb.run(&settings),
        Verb::Train(verb) => verb.run(&settings, overlays),
        Verb::Eval(verb) => verb.run(&settings),
        Verb::Generate(verb) => verb.run(&settings),
        Verb::Chat(verb) => verb.run(&settings),
        Verb::Tokenize(verb) => verb.run(&settings),
        Verb::Tokenizer(verb) => verb.run(&settings),
        Verb::New(verb) => verb.run(&settings),
        Verb::Convert(verb) => verb.run(&settings),
        Verb::Quantize(verb) => verb.run(&settings),
        Verb::Imatrix(verb) => verb.run(&settings),
        Verb::Inspect(verb) => verb.run(&settings),
        Verb::Pull(verb) => verb.run(&settings),
        Verb::Models(verb) => verb.run(&settings),
        Verb::Bench(verb) => verb.run(&settings),
        Verb::Profile(verb) => verb.run(&settings),
        Verb::Doctor(verb) => verb.run(&settings),
        Verb::Completions(verb) => verb.run(),
    }
}

/// The options and the verb's name.
fn parse(command: Command, arguments: &[OsString]) -> Result<(Cli, String), clap::Error> {
    let matches = command.clone().try_get_matches_from(arguments);
    let matches = matches.map_err(|error| tips::with_tip(error, &command, arguments))?;
    Ok((Cli::from_arg_matches(&matches)?, matches.subcommand_name().unwrap_or_default().to_owned()))
}

/// Help and version are answers; anything else is wrong usage.
fn print_parse_error(error: &clap::Error, arguments: &[OsString]) -> u8 {
    let command = settings::prepared(Cli::command());
    let plain = parse(command.styles(Styles::plain()), arguments);
    match output::parser_message(error, plain.as_ref().err().unwrap_or(error)) {
        Ok(()) => u8::try_from(error.exit_code()).unwrap_or(2),
        Err(error) => failure::report(&error, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
