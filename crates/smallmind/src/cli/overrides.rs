//! The settings of training in a command line: `--train.lr=1e-3`, and nanoGPT's `--max_iters=2000`.
//!
//! Settings aren't options of clap: they are removed from the arguments before clap parses the rest.

use std::ffi::OsString;

use clap::Command;
use smallmind::checkpoint::did_you_mean;
use smallmind::train::{Overlay, TrainConfig};

use super::failure::usage;
use super::nanogpt::{self, Meaning};
use super::note;

/// The verb that takes settings.
const VERB: &str = "train";

/// A command line without its settings, and the settings.
#[derive(Debug)]
pub struct Extracted {
    /// The arguments for clap.
    pub arguments: Vec<OsString>,
    /// The settings, in order.
    pub overlays: Vec<Overlay>,
    /// Whether nanoGPT's `--init_from=resume` was among them.
    resume: bool,
}

/// Removes the settings from the arguments of `train`; arguments of other verbs are unchanged.
///
/// # Errors
/// A setting without a value; a name that is neither an option nor a setting.
pub fn extract(arguments: Vec<OsString>, command: &Command) -> anyhow::Result<Extracted> {
    let mut extracted = Extracted { arguments: Vec::with_capacity(arguments.len()), overlays: vec![], resume: false };
    let Some(verb) = verb_position(&arguments).filter(|at| arguments[*at] == VERB) else {
        extracted.arguments = arguments;
        return Ok(extracted);
    };
    let options = long_options(command);
    let mut rest = arguments.into_iter();
    extracted.arguments.extend(rest.by_ref().take(verb + 1));
    if let Some(file) = rest.as_slice().first().and_then(|first| first.to_str()).filter(|text| text.ends_with(".py")) {
        let why = "files of settings are TOML here (--config FILE); its lines can also be typed, as --batch_size=12";
        return Err(usage(format!("{file}: nanoGPT's files of settings are Python and are not run: {why}")));
    }
    while let Some(argument) = rest.next() {
        let text = argument.to_str().unwrap_or_default();
        if text == "--" {
            extracted.arguments.push(argument);
            extracted.arguments.extend(rest);
            break;
        }
        let Some(assignment) = text.strip_prefix("--") else {
            extracted.arguments.push(argument);
            continue;
        };
        let name = assignment.split('=').next().unwrap_or_default();
        if options.iter().any(|option| option == name) {
            extracted.arguments.push(argument);
        } else if !name.contains('.') && !nanogpt::is_name(name) {
            return Err(unknown(name, &options));
        } else if assignment.contains('=') {
            extracted.set(assignment)?;
        } else {
            let value = rest.next().and_then(|value| value.into_string().ok());
            let value = value.filter(|value| !value.starts_with("--"));
            let value = value.ok_or_else(|| usage(format!("--{name} needs a value: --{name}=VALUE")))?;
            extracted.set(&format!("{name}={value}"))?;
        }
    }
    if extracted.resume && !extracted.arguments.iter().any(|argument| argument == "--resume") {
        extracted.arguments.insert(verb + 1, "--resume".into());
    }
    Ok(extracted)
}

impl Extracted {
    /// Adds the setting `name=value`, or the option that it means in nanoGPT.
    fn set(&mut self, assignment: &str) -> anyhow::Result<()> {
        let (name, value) = assignment.split_once('=').unwrap_or((assignment, ""));
        match nanogpt::meaning(name, value).transpose()? {
            None => self.overlays.push(Overlay::of_text(name, value, format!("--{assignment}"))?),
            Some(Meaning::Setting(overlay, differs)) => {
                if let Some(differs) = differs {
                    note!("note: --{assignment}: {differs}");
                }
                self.overlays.push(overlay);
            }
            Some(Meaning::Out(folder)) => self.arguments.push(format!("--out={folder}").into()),
            Some(Meaning::Resume(resume)) => self.resume = resume,
            Some(Meaning::Usual) => {}
            Some(Meaning::PassedOver(why)) => note!("note: --{assignment} is passed over: {why}"),
        }
        Ok(())
    }
}

/// Index of the verb: the first argument that is neither an option nor the value of an option.
fn verb_position(arguments: &[OsString]) -> Option<usize> {
    let mut at = 1;
    while let Some(argument) = arguments.get(at) {
        match argument.to_str() {
            Some("--threads" | "--seed") => at += 2,
            Some(text) if text.starts_with('-') => at += 1,
            _ => return Some(at),
        }
    }
    None
}

/// The names of the options that clap knows for the verb.
fn long_options(command: &Command) -> Vec<String> {
    let own = command.find_subcommand(VERB).into_iter().flat_map(Command::get_arguments);
    let global = command.get_arguments().filter(|argument| argument.is_global_set());
    let names = own.chain(global).filter_map(|argument| argument.get_long().map(str::to_owned));
    names.chain(["help".to_owned()]).collect()
}

fn unknown(name: &str, options: &[String]) -> anyhow::Error {
    let names: Vec<&str> = nanogpt::names().collect();
    let known = options.iter().map(String::as_str).chain(TrainConfig::keys()).chain(names);
    let hint = did_you_mean(name, known).map(|near| format!("; did you mean --{near}?")).unwrap_or_default();
    usage(format!("there is no option --{name}{hint} (smallmind train --help lists options and settings)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;

    fn extract(line: &str) -> anyhow::Result<(String, Vec<String>)> {
        let arguments = line.split(' ').map(OsString::from).collect();
        let extracted = super::extract(arguments, &Cli::command())?;
        let left: Vec<_> = extracted.arguments.iter().map(|a| a.to_string_lossy()).collect();
        Ok((left.join(" "), extracted.overlays.into_iter().map(|overlay| overlay.origin).collect()))
    }

    #[test]
    fn settings_are_taken_out_and_options_stay() {
        let line = "smallmind --threads 2 train --data a b --train.lr=1e-3 --out x --n_layer 4 --json --max_iters=7";
        let (left, settings) = extract(line).unwrap();
        assert_eq!(left, "smallmind --threads 2 train --data a b --out x --json");
        assert_eq!(settings, ["--train.lr=1e-3", "--n_layer=4", "--max_iters=7"]);
    }

    #[test]
    fn other_verbs_are_left_alone() {
        let line = "smallmind generate --prompt train --n_layer=4";
        assert_eq!(extract(line).unwrap(), (line.to_owned(), vec![]));
        let line = "smallmind --seed train doctor --n_layer=4";
        assert_eq!(extract(line).unwrap(), (line.to_owned(), vec![]));
    }

    #[test]
    fn nanogpts_words_become_options() {
        let (left, settings) = extract("smallmind train --out_dir=run --init_from=resume --device=cpu").unwrap();
        assert_eq!(left, "smallmind train --resume --out=run");
        assert_eq!(settings, [""; 0]);
        let line = "smallmind train --init_from resume --out_dir run --resume --decay_lr=False --wandb_log=True";
        let (left, settings) = extract(line).unwrap();
        assert_eq!(left, "smallmind train --out=run --resume");
        assert_eq!(settings, ["--decay_lr=False"]);
        // The last one wins.
        let (left, _) = extract("smallmind train --init_from=resume --init_from=scratch --out=run").unwrap();
        assert_eq!(left, "smallmind train --out=run");
    }

    #[test]
    fn mistakes_are_named() {
        for (line, near) in [
            ("smallmind train --n_layers=4", "--n_layer"),
            ("smallmind train --outt=x", "--out"),
            ("smallmind train --train.lrr=1", "train.lr"),
            ("smallmind train --max_iters", "--max_iters=VALUE"),
            ("smallmind train --max_iters --json", "--max_iters=VALUE"),
            ("smallmind train --eval_only=True", "smallmind eval"),
            ("smallmind train --init_from=llama", "--init-from MODEL"),
            ("smallmind train config/train_shakespeare_char.py --device=cpu", "--config FILE"),
        ] {
            let message = extract(line).unwrap_err().to_string();
            assert!(message.contains(near), "{line}: {message}");
        }
    }

    #[test]
    fn what_follows_two_dashes_is_left_alone() {
        let line = "smallmind train -- --n_layer=4";
        assert_eq!(extract(line).unwrap(), (line.to_owned(), vec![]));
    }
}
