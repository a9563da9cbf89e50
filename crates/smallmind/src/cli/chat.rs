//! `smallmind chat -m M`: questions line by line, answers as they come.

mod commands;
mod lines;
mod screen;
mod state;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use smallmind::model::chat::{ChatError, ChatTemplate, ChatTemplates, CivilTime, Dialogue, Json};
use smallmind::model::{Generator, ModelFiles, Session};
use smallmind::train::latest_checkpoint;

use super::failure::{Failure, Outcome, bad_file, usage};
use super::lookup::LookupArg;
use super::models::{self, CacheArg, ModelArg, WeightsArg};
use super::output_files::Overwrite;
use super::reads::Reads;
use super::sampling::Sampling;
use super::settings::{Settings, of_model};
use super::{hub, interrupt, note, units};

use commands::Command;
use lines::Lines;
use screen::Screen;
use state::{Saving, State};

/// Room for a conversation, unless a flag says otherwise or the model has less.
const CONTEXT: usize = 4096;

/// Options of `chat`.
#[derive(Debug, Args)]
pub struct Chat {
    #[command(flatten)]
    model: ModelArg,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    #[command(flatten)]
    template: TemplateArg,
    /// A variable for the template, such as enable_thinking=false; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    variable: Vec<(String, Json)>,
    /// The most tokens of an answer [default: as many as the context has room for]
    #[arg(short = 'n', long, value_name = "N", value_parser = units::whole)]
    tokens: Option<usize>,
    /// Room for the conversation in tokens [default: 4096, at most the model's]
    #[arg(long, value_name = "N", value_parser = units::whole)]
    context: Option<usize>,
    /// Show what the model thinks between <think> and </think>
    #[arg(long)]
    show_thinking: bool,
    /// Tell after each answer how fast it came
    #[arg(long)]
    speed: bool,
    #[command(flatten)]
    lookup: LookupArg,
    #[command(flatten)]
    overwrite: Overwrite,
    #[command(flatten)]
    weights: WeightsArg,
    #[command(flatten)]
    cache: CacheArg,
    #[command(flatten)]
    sampling: Sampling,
}

/// Which chat template is used.
#[derive(Clone, Debug, Args)]
pub struct TemplateArg {
    /// A file with the chat template, in Jinja [default: the model's]
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// The template of that name, for a model with several
    #[arg(long, value_name = "NAME", conflicts_with = "template")]
    template_name: Option<String>,
}

impl TemplateArg {
    /// Whether a template was named.
    pub fn is_given(&self) -> bool {
        self.template.is_some() || self.template_name.is_some()
    }

    /// The template of a model, which may be a name on the hub.
    pub fn of(&self, model: &Path) -> anyhow::Result<ChatTemplate> {
        let model = &*hub::resolve(model)?;
        let read = || -> anyhow::Result<ChatTemplate> {
            let mut templates = match models::open_files(model)? {
                // A run has its template beside its checkpoints.
                ModelFiles::Folder(_) => ChatTemplates::from_folder(model)?,
                files @ ModelFiles::Gguf(_) => ChatTemplates::of_files(&files)?,
            };
            let checkpoint = latest_checkpoint(model).ok().flatten();
            if let Some(checkpoint) = checkpoint.filter(|_| templates.is_empty()) {
                templates = ChatTemplates::from_folder(&checkpoint)?;
            }
            match &self.template {
                Some(file) => Ok(templates.with_file(file)?),
                None => Ok(templates.choose(self.template_name.as_deref(), false)?),
            }
        };
        read().map_err(|error| match error.downcast_ref() {
            Some(ChatError::NoTemplate) => of_model(model, error.context(model.display().to_string())),
            Some(_) => error,
            None => of_model(model, error),
        })
    }
}

/// A variable of the command line: JSON, or else a text.
fn variable(text: &str) -> Result<(String, Json), String> {
    let (name, value) = text.split_once('=').ok_or("it must be NAME=VALUE")?;
    let plain = |c: char| c.is_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(plain) {
        return Err("a name has letters, digits and _ only".to_owned());
    }
    Ok((name.to_owned(), Json::parse(value).unwrap_or_else(|_| Json::from(value))))
}

/// The local time; UTC where the system does not tell its zone.
pub fn now() -> CivilTime {
    let now = chrono::Local::now();
    CivilTime::from_unix(now.timestamp(), i64::from(now.offset().local_minus_utc()))
}

impl Chat {
    /// The files that `/save` must not replace.
    fn reads(&self) -> anyhow::Result<Reads> {
        let files = models::find_files(&self.model.model)?;
        Reads::nothing().and(&self.template.template).and(self.lookup.files()).and_open_model(&self.model.model, &files)
    }

    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let isa = settings.isa()?;
        // Before the model is read, which may take a while.
        self.sampling.check()?;
        if self.tokens == Some(0) {
            return Err(usage("-n 0: an answer has at least one token"));
        }
        let lookup = self.lookup.read()?;
        // Ends the program while the model is read.
        let answers = interrupt::watch_answers()?;
        let template = self.template.of(&self.model.model)?;
        let reads = self.reads()?;
        let (model, tokenizer) = self.model.open_packed(isa, self.weights.weights)?;
        let context = self.context.unwrap_or(CONTEXT.min(model.config().context));
        model.config().check_context(context)?;
        let vocabulary = (&*tokenizer, model.config().vocab_size);
        let sampler = self.sampling.for_model(model.generation(), vocabulary, context, settings.seed_or_any())?;
        let session = Session::new(Arc::new(model), self.cache.single(context, settings.threads()))?;
        let lookup = self.lookup.with_texts(lookup, &tokenizer)?;
        let looks_up = lookup.is_some();
        let mut generator = Generator::new(session, tokenizer)?;
        generator.set_lookup(lookup);
        let mut dialogue = Dialogue::new(generator, template);
        dialogue.set_variables(self.variable);
        dialogue.set_now(now());
        if let Some(system) = &self.system {
            dialogue.set_system(Some(system))?;
        }
        let screen = Screen::new(settings.is_json(), self.show_thinking, self.speed, looks_up);
        let name = super::profile::name_of(&self.model.model);
        let mut state =
            State::new(dialogue, screen, sampler, self.tokens, Saving { overwrite: self.overwrite, reads }, answers);
        state.screen.started(&name, &state.dialogue)?;
        converse(&mut state, &mut Lines::new(), &name, settings)
    }
}

/// Reads questions and commands until there are no more. On a terminal the conversation goes on after a failure.
fn converse(state: &mut State, lines: &mut Lines, name: &str, settings: &Settings) -> Outcome {
    loop {
        let outcome = match lines.read() {
            Ok(None) => return ended(state, lines),
            Ok(Some(text)) => match Command::parse(&text) {
                Ok(Some(Command::Quit)) => return ended(state, lines),
                Ok(Some(command)) => state.perform(command, name, settings),
                Ok(None) => state.ask(&text),
                Err(error) => Err(error),
            },
            Err(error) => Err(bad_file(error)),
        };
        match outcome {
            Err(error) if super::failure::is_output(&error) => return Err(error),
            Err(error) if !lines.is_terminal() => {
                note!("the conversation ends here: nothing more of standard input is read");
                return Err(error);
            }
            Err(error) => note!("{}", super::failure::sentence(&error, "chat")),
            Ok(()) => {}
        }
    }
}

/// The outcome of a conversation at its end. One from a pipe has failed if an answer was stopped.
fn ended(state: &State, lines: &Lines) -> Outcome {
    if state.was_stopped() && !lines.is_terminal() {
        return Err(Failure::Interrupted(interrupt::INTERRUPTED.into()).into());
    }
    Ok(())
}
