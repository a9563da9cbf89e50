//! A conversation with its settings, and what its commands do.

use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use serde_json::{Value, json};
use smallmind::checkpoint::without_byte_order_mark;
use smallmind::model::chat::{Answer, ChatError, Dialogue, Event, Json, MAX_TEXT_BYTES};
use smallmind::model::sampler::SamplerConfig;
use smallmind::model::{GenerateOptions, LookupCounts};

use super::super::failure::{Outcome, bad_file, usage};
use super::super::interrupt::Answers;
use super::super::output_files::{OutputFile, Overwrite};
use super::super::reads::Reads;
use super::super::settings::Settings;
use super::super::{note, profile, units};
use super::commands::{self, Command};
use super::screen::Screen;

/// Names of settings as options spell them.
const ALIASES: [(&str, &str); 3] =
    [("temp", "temperature"), ("repeat_penalty", "repetition_penalty"), ("repeat_window", "repetition_window")];

/// What `/save` may replace.
pub struct Saving {
    /// Whether files may be replaced without a word.
    pub overwrite: Overwrite,
    /// The files that are read.
    pub reads: Reads,
}

/// A conversation and how it is held.
pub struct State {
    pub dialogue: Dialogue,
    pub screen: Screen,
    sampler: SamplerConfig,
    /// The most tokens of an answer.
    tokens: Option<usize>,
    saving: Saving,
    answers: &'static Answers,
    /// Of all answers: how many, their tokens, the tokens read for them.
    totals: [usize; 3],
    lookup: LookupCounts,
    latest: Option<Answer>,
    /// Whether an answer was stopped.
    stopped: bool,
}

impl State {
    pub fn new(
        dialogue: Dialogue,
        screen: Screen,
        sampler: SamplerConfig,
        tokens: Option<usize>,
        saving: Saving,
        answers: &'static Answers,
    ) -> Self {
        let (totals, lookup) = ([0; 3], LookupCounts::default());
        Self { dialogue, screen, sampler, tokens, saving, answers, totals, lookup, latest: None, stopped: false }
    }

    /// Whether an answer was stopped.
    pub fn was_stopped(&self) -> bool {
        self.stopped
    }

    /// Asks the model.
    pub fn ask(&mut self, text: &str) -> Outcome {
        let question = commands::question(text);
        self.answered(|dialogue, options, on| dialogue.ask(question, options, on).map(Some))
    }

    /// Has `give` give an answer and shows it.
    fn answered(
        &mut self,
        give: impl FnOnce(
            &mut Dialogue,
            &GenerateOptions,
            &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
        ) -> Result<Option<Answer>, ChatError>,
    ) -> Outcome {
        let max_tokens = self.tokens.unwrap_or(usize::MAX);
        let options = GenerateOptions { max_tokens, sampler: self.sampler.clone(), stops: vec![] };
        let (screen, answers) = (&mut self.screen, self.answers);
        screen.begin();
        self.dialogue.set_now(super::now());
        answers.begin();
        let mut shown = Ok(());
        let mut on = |event: Event<'_>| {
            if shown.is_ok() {
                shown = screen.show(event);
            }
            if answers.is_stopped() || shown.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let answer = give(&mut self.dialogue, &options, &mut on);
        answers.end();
        shown?;
        let answer = match answer {
            Ok(answer) => answer.ok_or_else(|| usage("there is no question to answer again"))?,
            Err(error) => {
                self.screen.fail()?;
                return Err(error.into());
            }
        };
        self.screen.end(&answer, self.sampler.seed)?;
        self.stopped |= self.answers.is_stopped();
        // The same question again is to have another answer.
        self.sampler.seed = self.sampler.seed.wrapping_add(1);
        let [count, tokens, read] = self.totals;
        self.totals = [count + 1, tokens + answer.tokens, read + answer.read_tokens];
        self.lookup.runs += answer.lookup.runs;
        self.lookup.drafted += answer.lookup.drafted;
        self.lookup.accepted += answer.lookup.accepted;
        self.latest = Some(answer);
        Ok(())
    }

    /// Performs a command.
    pub fn perform(&mut self, command: Command, name: &str, settings: &Settings) -> Outcome {
        match command {
            Command::Help => self.screen.tell(commands::HELP, json!({"event": "help", "text": commands::HELP})),
            Command::Clear => {
                self.dialogue.clear();
                self.screen.tell("forgotten", json!({"event": "cleared"}))
            }
            Command::System(text) => {
                self.dialogue.set_system(text.as_deref())?;
                let told = if text.is_some() { "the system prompt is set" } else { "there is no system prompt now" };
                self.screen.tell(told, json!({"event": "system", "text": text}))
            }
            Command::Set(None) => self.show_settings(),
            Command::Set(Some((name, value))) => self.set(&name, &value),
            Command::Save { file, overwrite } => self.save(&file, overwrite),
            Command::Load(file) => self.load(&file),
            Command::Regenerate => self.answered(|dialogue, options, on| dialogue.again(options, on)),
            Command::Stats => self.stats(),
            Command::Profile => self.profile(name, settings),
            Command::Quit => Ok(()),
        }
    }

    fn set(&mut self, name: &str, value: &str) -> Outcome {
        let switch = || match value {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(usage(format!("/set {name} takes on or off"))),
        };
        match name {
            "thinking" => self.screen.thinking = switch()?,
            "speed" => self.screen.speed = switch()?,
            "tokens" => {
                let tokens = value.parse().ok().filter(|tokens| *tokens > 0);
                self.tokens = Some(tokens.ok_or_else(|| usage("/set tokens takes a whole number, 1 or more"))?);
            }
            _ => self.sampler = with_setting(&self.sampler, name, value)?,
        }
        self.screen.tell(&format!("{name} is {value}"), json!({"event": "set", "name": name, "value": value}))
    }

    fn show_settings(&self) -> Outcome {
        // By way of a text, which has 0.1 for the `f32` that is nearest to it.
        let mut settings: Value = serde_json::from_str(&serde_json::to_string(&self.sampler)?)?;
        settings["tokens"] = json!(self.tokens);
        settings["thinking"] = json!(self.screen.thinking);
        settings["speed"] = json!(self.screen.speed);
        let lines = settings.as_object().into_iter().flatten().map(|(name, value)| format!("{name:<20} {value}"));
        self.screen.tell(&lines.collect::<Vec<_>>().join("\n"), json!({"event": "settings", "settings": settings}))
    }

    fn save(&self, file: &Path, overwrite: bool) -> Outcome {
        let overwrite = Overwrite { overwrite: overwrite || self.saving.overwrite.overwrite };
        // A file that is read is not replaced by the advised command either.
        self.saving.reads.check(file)?;
        if file.is_file() && !overwrite.overwrite {
            let file = file.display();
            let ways = format!("give another name, or replace it with /save --overwrite {file}");
            return Err(usage(format!("{file}: this file is there already; {ways}")));
        }
        let output = OutputFile::check(file, overwrite, &self.saving.reads)?;
        let messages = self.dialogue.messages();
        let text = serde_json::to_string_pretty(&Json::Object(vec![
            ("schema_version".to_owned(), Json::Int(1)),
            ("messages".to_owned(), Json::List(messages.to_vec())),
        ]))?;
        output.write(|out| out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")))?;
        let (count, shown) = (messages.len(), file.display());
        self.screen.tell(
            &format!("{count} messages written to {shown}"),
            json!({"event": "saved", "messages": count, "file": shown.to_string()}),
        )
    }

    fn load(&mut self, file: &Path) -> Outcome {
        let messages = read_messages(file)?;
        let count = messages.len();
        self.dialogue
            .set_messages(messages)
            .map_err(|error| anyhow::Error::from(error).context(file.display().to_string()))?;
        let shown = file.display();
        self.screen.tell(
            &format!("{count} messages read from {shown}"),
            json!({"event": "loaded", "messages": count, "file": shown.to_string()}),
        )
    }

    fn stats(&self) -> Outcome {
        let [answers, tokens, read] = self.totals;
        let session = self.dialogue.generator().session();
        let (context, held) = (session.options().context, self.dialogue.read_tokens());
        let (cache, arena) = session.working_bytes();
        let (messages, left_out) = (self.dialogue.messages().len(), self.dialogue.left_out());
        let mut text = format!(
            "{messages} messages, {left_out} of them forgotten; {held} of {context} tokens in use\n\
             {tokens} tokens in {answers} answers, {read} tokens read for them\n\
             cache {} in {}, working memory {}",
            units::bytes(cache as u64),
            session.options().cache_format,
            units::bytes(arena as u64),
        );
        if let Some(latest) = &self.latest {
            text = format!("{text}\nlatest answer: {}", self.screen.speed_of(latest));
        }
        self.screen.tell(
            &text,
            json!({
                "event": "stats", "messages": messages, "left_out": left_out, "tokens_in_use": held, "context": context,
                "answers": answers, "tokens": tokens, "read_tokens": read, "cache_bytes": cache, "working_bytes": arena,
                "lookup": self.screen.lookup_of(&self.lookup),
            }),
        )
    }

    /// Measures prefill and decode at the length of the conversation, in a session of its own.
    fn profile(&self, name: &str, settings: &Settings) -> Outcome {
        let session = self.dialogue.generator().session();
        let context = session.options().context;
        let depth = self.dialogue.read_tokens().clamp(1, context.saturating_sub(1).max(1));
        if !self.screen.is_json() {
            note!("measuring for some seconds, at {depth} tokens");
        }
        let report = profile::of_session(session.model().clone(), name, depth, *session.options(), settings.isa()?)?;
        self.screen
            .tell(&profile::on_screen(&report), json!({"event": "profile", "report": serde_json::to_value(&report)?}))
    }
}

/// The settings with one of them changed. A setting within another is named with a dot, as `dry.multiplier`.
fn with_setting(sampler: &SamplerConfig, name: &str, value: &str) -> anyhow::Result<SamplerConfig> {
    let field = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, field)| field);
    let mut settings = serde_json::to_value(sampler)?;
    let known = names_of(&settings, "").join(", ");
    let setting = settings
        .pointer_mut(&format!("/{}", field.replace('.', "/")))
        .ok_or_else(|| usage(format!("there is no setting {name}; there are {known}, tokens, thinking, speed")))?;
    *setting = serde_json::from_str(value).map_err(|_| usage(format!("/set {name} takes a number")))?;
    let changed: SamplerConfig =
        serde_json::from_value(settings).map_err(|_| usage(format!("/set {name} {value}: not a value of {name}")))?;
    changed.check().map_err(|error| usage(error.to_string()))?;
    Ok(changed)
}

/// The names of all settings; those within another follow its name and a dot.
fn names_of(settings: &Value, within: &str) -> Vec<String> {
    let named = |(name, value): (&String, &Value)| match value {
        Value::Object(_) => names_of(value, &format!("{within}{name}.")),
        _ => vec![format!("{within}{name}")],
    };
    settings.as_object().into_iter().flatten().flat_map(named).collect()
}

/// The messages of a file: those that `/save` wrote, or a list.
fn read_messages(path: &Path) -> anyhow::Result<Vec<Json>> {
    let bad = |why: String| bad_file(format!("{}: {why}", path.display()));
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_TEXT_BYTES as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| bad(format!("can't be read: {error}")))?;
    let text = std::str::from_utf8(without_byte_order_mark(&bytes));
    let json = Json::parse(text.map_err(|error| bad(format!("not UTF-8 text: {error}")))?);
    match json.map_err(|error| bad(error.to_string()))? {
        Json::List(messages) => Ok(messages),
        object => match object.get("messages") {
            Some(Json::List(messages)) => Ok(messages.clone()),
            _ => Err(bad("there are no `messages`".to_owned())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_changed_by_the_names_of_fields_and_options() {
        let usual = SamplerConfig::default();
        assert_eq!(with_setting(&usual, "temp", "0.5").unwrap().temperature, 0.5);
        assert_eq!(with_setting(&usual, "top_k", "7").unwrap().top_k, 7);
        assert_eq!(with_setting(&usual, "repeat_penalty", "1.5").unwrap().repetition_penalty, 1.5);
        assert_eq!(with_setting(&usual, "dry.multiplier", "0.8").unwrap().dry.multiplier, 0.8);
        for (name, value, word) in [
            ("nothing", "1", "temperature"),
            ("temp", "hot", "a number"),
            ("temp", "-1", "temperature is -1"),
            ("top_k", "1.5", "not a value"),
            ("top_p", "[1]", "not a value"),
            ("dry", "1", "not a value"),
            ("dry.base", "0.5", "dry.base is 0.5"),
            ("dry.nothing", "1", "dry.multiplier"),
        ] {
            let error = with_setting(&usual, name, value).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
