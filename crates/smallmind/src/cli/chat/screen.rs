//! What a conversation shows: text for people, or one JSON document an event.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use smallmind::model::chat::{Answer, Dialogue, Event, Piece};
use smallmind::model::{Finish, LookupCounts};

use super::super::failure::Outcome;
use super::super::{lookup, note, output, units};

/// How long a prompt is read before somebody is told.
const SILENCE: Duration = Duration::from_secs(3);

/// Where answers go.
#[derive(Debug)]
pub struct Screen {
    json: bool,
    /// Whether thoughts are shown.
    pub thinking: bool,
    /// Whether the speed of each answer is told.
    pub speed: bool,
    /// Whether drafts are looked up.
    looks_up: bool,
    /// Of the present answer: when it began, whether its thoughts have begun, whether the next text begins a line.
    began: Instant,
    thinks: bool,
    told_reading: bool,
    at_line_start: bool,
}

impl Screen {
    pub fn new(json: bool, thinking: bool, speed: bool, looks_up: bool) -> Self {
        let began = Instant::now();
        Self { json, thinking, speed, looks_up, began, thinks: false, told_reading: false, at_line_start: true }
    }

    /// Whether events are JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// The conversation begins.
    pub fn started(&self, model: &str, dialogue: &Dialogue) -> Outcome {
        let (context, template) = (dialogue.generator().session().options().context, dialogue.template().origin());
        if self.json {
            return output::event(
                json!({"event": "started", "model": model, "context": context, "template": template}),
            );
        }
        note!("{model}: room for {context} tokens, template {template}; /help lists commands");
        Ok(())
    }

    /// An answer begins.
    pub fn begin(&mut self) {
        (self.began, self.thinks, self.told_reading, self.at_line_start) = (Instant::now(), false, false, true);
    }

    /// Shows what happens in an answer.
    pub fn show(&mut self, event: Event<'_>) -> Outcome {
        match event {
            Event::Reading(0) => Ok(()),
            Event::Reading(left) => {
                if !self.json && !self.told_reading && self.began.elapsed() >= SILENCE {
                    note!("reading; {} tokens to go", units::grouped(left as u64));
                    self.told_reading = true;
                }
                Ok(())
            }
            Event::Dropped(turns) if self.json => {
                output::event(json!({"event": "context_full", "dropped_turns": turns}))
            }
            Event::Dropped(turns) => {
                self.end_line()?;
                let what = if turns == 1 { "turn is" } else { "turns are" };
                note!("the context is full: the oldest {turns} {what} forgotten; the system prompt stays");
                Ok(())
            }
            Event::Piece(Piece::Thought(text)) => self.thought(text),
            Event::Piece(Piece::Said(text)) => self.said(text),
        }
    }

    fn thought(&mut self, text: &str) -> Outcome {
        if self.json {
            return output::event(json!({"event": "thinking", "text": text}));
        }
        if !std::mem::replace(&mut self.thinks, true) {
            note!("thinking …");
        }
        if self.thinking { self.write(text) } else { Ok(()) }
    }

    fn said(&mut self, text: &str) -> Outcome {
        if self.json {
            return output::event(json!({"event": "text", "text": text}));
        }
        self.end_thoughts()?;
        self.write(text)
    }

    /// Tells that the thoughts have ended.
    fn end_thoughts(&mut self) -> Outcome {
        if std::mem::take(&mut self.thinks) {
            self.end_line()?;
            let hint = if self.thinking { "" } else { "; /set thinking on shows it" };
            note!("thought for {}{hint}", units::seconds(self.began.elapsed().as_secs_f64()));
        }
        Ok(())
    }

    fn write(&mut self, text: &str) -> Outcome {
        self.at_line_start = text.ends_with('\n');
        output::print(text)
    }

    fn end_line(&mut self) -> Outcome {
        if std::mem::replace(&mut self.at_line_start, true) { Ok(()) } else { output::print("\n") }
    }

    /// The answer has ended.
    pub fn end(&mut self, answer: &Answer, seed: u64) -> Outcome {
        if self.json {
            return output::event(document(answer, seed, self.lookup_of(&answer.lookup)));
        }
        self.end_thoughts()?;
        if answer.text.is_empty() && !self.thinking {
            output::print("\n")?;
        }
        self.end_line()?;
        match (&answer.finish, answer.context_full) {
            (_, true) => note!("the context is full and no turn is left to forget: the answer ends here"),
            (Finish::Interrupted, _) => note!("stopped"),
            (Finish::Length, _) => note!("the answer has as many tokens as it may have; /set tokens N changes that"),
            _ => {}
        }
        if self.speed {
            note!("{}", self.speed_of(answer));
        }
        Ok(())
    }

    /// Numbers of tokens and their rates, and what came of drafts.
    pub fn speed_of(&self, answer: &Answer) -> String {
        let drafts = self.looks_up.then(|| lookup::sentence(&answer.lookup));
        drafts.into_iter().fold(speed(answer), |speed, drafts| format!("{speed}; {drafts}"))
    }

    /// What came of drafts, for programs; null without them.
    pub fn lookup_of(&self, counts: &LookupCounts) -> Value {
        if self.looks_up { lookup::document(counts) } else { Value::Null }
    }

    /// The answer has failed.
    pub fn fail(&mut self) -> Outcome {
        if self.json { Ok(()) } else { self.end_line() }
    }

    /// Tells something that was asked for: people read it on standard error, as it is no answer.
    pub fn tell(&self, text: &str, event: serde_json::Value) -> Outcome {
        if self.json {
            return output::event(event);
        }
        note!("{text}");
        Ok(())
    }
}

/// Numbers of tokens and their rates.
fn speed(answer: &Answer) -> String {
    format!(
        "prompt: {} tokens, {} of them new, {} tokens/s; answer: {} tokens, {} tokens/s",
        answer.prompt_tokens,
        answer.read_tokens,
        units::rate(rate(answer.read_tokens, answer.prefill)),
        answer.tokens,
        units::rate(rate(answer.tokens, answer.decode)),
    )
}

fn rate(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64().max(1e-9)
}

/// The event of an answer that has ended.
fn document(answer: &Answer, seed: u64, lookup: Value) -> Value {
    let finish = match &answer.finish {
        _ if answer.context_full => "context_full",
        Finish::Length => "length",
        Finish::EndOfText => "end_of_text",
        Finish::Stop(_) => "stop",
        Finish::Interrupted => "interrupted",
    };
    json!({
        "event": "answer",
        "text": answer.text,
        "thinking": answer.thought,
        "finish": finish,
        "prompt_tokens": answer.prompt_tokens,
        "read_tokens": answer.read_tokens,
        "tokens": answer.tokens,
        "seed": seed,
        "lookup": lookup,
        "prefill_tokens_per_second": rate(answer.read_tokens, answer.prefill),
        "decode_tokens_per_second": rate(answer.tokens, answer.decode),
    })
}
