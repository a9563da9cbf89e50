//! A conversation with a model: its messages, and answers that go on from what the session has read.

use std::ops::ControlFlow;
use std::slice;
use std::time::{Duration, Instant};

use super::control::{self, ControlTokens};
use super::thinking::{Piece, Thinking};
use super::{ChatError, ChatInput, ChatTemplate, CivilTime, Json};
use crate::sequence::Sequence;
use crate::tokenizer::Tokenizer;
use crate::{Finish, GenerateOptions, Generator, LookupCounts, ModelError};

/// The share of the context that is free for an answer before a turn is left out: one eighth.
const ROOM: usize = 8;
/// The share that is free after turns were left out: a quarter, so that this does not happen in every turn.
const ROOM_AFTER_SHIFT: usize = 4;

/// What happens while a model answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// So many tokens of the prompt are still to be read.
    Reading(usize),
    /// The context is full: the oldest turns, so many, are left out of the prompt from now on.
    Dropped(usize),
    /// The next piece of the answer.
    Piece(Piece<'a>),
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What the model said.
    pub text: String,
    /// What it thought before; empty if it thought nothing.
    pub thought: String,
    /// Why it ended.
    pub finish: Finish,
    /// Whether it ended because not even the latest turn fits into the context any more.
    pub context_full: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that had to be read; the others the session had read before.
    pub read_tokens: usize,
    /// Tokens generated.
    pub tokens: usize,
    /// The session's runs for them, and what came of drafts.
    pub lookup: LookupCounts,
    /// Time for reading the prompt.
    pub prefill: Duration,
    /// Time from there to the end.
    pub decode: Duration,
}

/// A conversation. The session keeps the tokens of the turn before: where the rendered text extends them, only new ones
/// are read.
///
/// When the context is full, the oldest turns are left out of the prompt, whole turns at a time; the system prompt
/// stays. [`Dialogue::messages`] keeps them all.
///
/// ```
/// use std::ops::ControlFlow;
/// use std::sync::Arc;
///
/// use smallmind_model::chat::{ChatTemplate, Dialogue};
/// use smallmind_model::sampler::SamplerConfig;
/// use smallmind_model::tokenizer::Tokenizer;
/// use smallmind_model::{GenerateOptions, Generator, Model, ModelConfig, Session, SessionOptions, preset};
/// use smallmind_simd::IsaKind;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = ModelConfig { vocab_size: 6, context: 64, layers: 2, ..preset::find("nanogpt-cpu")?.config() };
/// let model = Arc::new(Model::random(config, 1337)?.pack(IsaKind::best())?);
/// let session = Session::new(model, SessionOptions::single(64, 2))?;
/// let generator = Generator::new(session, Arc::new(Tokenizer::characters("abcd:\n")?))?;
/// let template = ChatTemplate::new("a template", "{% for m in messages %}{{ m.content }}:{% endfor %}", vec![])?;
///
/// let mut dialogue = Dialogue::new(generator, template);
/// let options = GenerateOptions { max_tokens: 5, sampler: SamplerConfig::greedy(), stops: vec![] };
/// let first = dialogue.ask("abba", &options, |_| ControlFlow::Continue(()))?;
/// assert_eq!((first.prompt_tokens, first.read_tokens, first.tokens), (5, 5, 5));
/// // Of the second prompt, the first question and its answer are known.
/// let second = dialogue.ask("cd", &options, |_| ControlFlow::Continue(()))?;
/// assert_eq!((second.prompt_tokens, second.read_tokens), (14, 5));
/// assert_eq!(dialogue.messages().len(), 4);
/// # Ok(()) }
/// ```
pub struct Dialogue {
    generator: Generator,
    template: ChatTemplate,
    control: ControlTokens,
    messages: Vec<Json>,
    variables: Vec<(String, Json)>,
    now: Option<CivilTime>,
    /// The first message of the prompt behind the system prompt.
    first: usize,
    /// The text of the turn before, as far as the session has read it.
    latest: Option<Sequence>,
}

impl Dialogue {
    /// A conversation without messages. The template's `eos_token` ends answers, too.
    pub fn new(mut generator: Generator, template: ChatTemplate) -> Self {
        let end = template.token("eos_token").and_then(|token| generator.tokenizer().id_of(token));
        end.into_iter().for_each(|end| generator.add_end(end));
        Self {
            control: ControlTokens::of(generator.tokenizer()),
            generator,
            template,
            messages: vec![],
            variables: vec![],
            now: None,
            first: 0,
            latest: None,
        }
    }

    /// The generator.
    pub fn generator(&self) -> &Generator {
        &self.generator
    }

    /// The template.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// All messages, also those that don't fit into the context any more.
    pub fn messages(&self) -> &[Json] {
        &self.messages
    }

    /// Tokens that the session has read.
    pub fn read_tokens(&self) -> usize {
        self.latest.as_ref().map_or(0, |latest| self.generator.session().len(latest.id()))
    }

    /// Messages that are left out of the prompt.
    pub fn left_out(&self) -> usize {
        self.first.saturating_sub(self.system_len())
    }

    /// Sets variables for the template, such as `enable_thinking`.
    pub fn set_variables(&mut self, variables: Vec<(String, Json)>) {
        self.variables = variables;
    }

    /// Sets the time that templates are told.
    pub fn set_now(&mut self, now: CivilTime) {
        self.now = Some(now);
    }

    /// Replaces all messages.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; the messages are then unchanged.
    pub fn set_messages(&mut self, messages: Vec<Json>) -> Result<(), ChatError> {
        let before = std::mem::replace(&mut self.messages, messages);
        let first = std::mem::replace(&mut self.first, 0);
        let rendered = if self.messages.is_empty() { Ok(()) } else { self.render(0, false).map(drop) };
        if rendered.is_err() {
            (self.messages, self.first) = (before, first);
        }
        rendered
    }

    /// Removes all messages but the system prompt.
    pub fn clear(&mut self) {
        self.messages.truncate(self.system_len());
        self.first = 0;
    }

    /// Sets the system prompt, or removes it. The answer to a greeting is rendered to see whether the template takes it.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; the system prompt is then unchanged.
    pub fn set_system(&mut self, text: Option<&str>) -> Result<(), ChatError> {
        let system = text.map(|text| Json::message("system", text));
        let messages: Vec<_> = system.iter().cloned().chain([Json::message("user", "Hello")]).collect();
        self.render_messages(&messages, true)?;
        let (left_out, len) = (self.left_out(), self.system_len());
        self.messages.splice(..len, system);
        self.first = if left_out == 0 { 0 } else { self.system_len() + left_out };
        Ok(())
    }

    /// Asks the model; its answer becomes a message. An answer that is broken off stays as far as it has come.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; [`ChatError::TurnTooLong`]; what the model and the tokenizer refuse. The
    /// conversation is then as it was.
    pub fn ask(
        &mut self,
        text: &str,
        options: &GenerateOptions,
        on: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Answer, ChatError> {
        let first = self.first;
        self.messages.push(Json::message("user", text));
        let answer = self.answer(options, on);
        if answer.is_err() {
            self.messages.pop();
            self.first = first;
        }
        answer
    }

    /// Answers the latest question anew; `None` if there is none.
    ///
    /// # Errors
    /// As [`Dialogue::ask`].
    pub fn again(
        &mut self,
        options: &GenerateOptions,
        on: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Answer>, ChatError> {
        let Some(question) = self.messages.iter().rposition(is_user) else { return Ok(None) };
        let (before, first) = (self.messages.split_off(question + 1), self.first);
        let answer = self.answer(options, on);
        if answer.is_err() {
            self.messages.extend(before);
            self.first = first;
        }
        answer.map(Some)
    }

    /// Answers the messages.
    fn answer(
        &mut self,
        options: &GenerateOptions,
        mut on: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Answer, ChatError> {
        let started = Instant::now();
        let room = options.max_tokens.min(self.context() / ROOM).max(1);
        let (prompt, tokens, dropped) = self.fit(room, 0)?;
        if dropped > 0 {
            let _ = on(Event::Dropped(dropped));
        }
        let mut sequence = match self.latest.take() {
            Some(latest) => self.generator.begin_after(latest, &tokens, options)?,
            None => self.generator.begin(&tokens, options)?,
        };
        let mut answer = Answer {
            text: String::new(),
            thought: String::new(),
            finish: Finish::Interrupted,
            context_full: false,
            prompt_tokens: sequence.prompt_tokens(),
            read_tokens: sequence.pending().len(),
            tokens: 0,
            lookup: LookupCounts::default(),
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
        };
        let outcome = self.generate(&mut sequence, &prompt, &mut answer, started, &mut on);
        (answer.tokens, answer.lookup) = (sequence.generated_tokens(), sequence.lookup());
        answer.decode = started.elapsed().saturating_sub(answer.prefill);
        self.latest = Some(sequence);
        outcome?;
        self.messages.push(message_of(&answer));
        Ok(answer)
    }

    /// Reads the prompt and generates to the end of the answer.
    fn generate(
        &mut self,
        sequence: &mut Sequence,
        prompt: &str,
        answer: &mut Answer,
        started: Instant,
        on: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<(), ChatError> {
        if self.read(sequence, on)?.is_break() {
            answer.prefill = started.elapsed();
            return Ok(());
        }
        let mut thinking = Thinking::after(prompt);
        loop {
            if sequence.tokens().len() > self.context() && !self.shift(sequence, on)? {
                (answer.finish, answer.context_full) = (Finish::Length, true);
                break;
            }
            let (mut broken, mut error) = (ControlFlow::Continue(()), None);
            self.generator.step(slice::from_mut(sequence), |_, piece| {
                match piece {
                    Ok(piece) => thinking.push(piece, |piece| {
                        answer.take(piece);
                        if broken.is_continue() {
                            broken = on(Event::Piece(piece));
                        }
                    }),
                    Err(failure) => error = Some(failure),
                }
                broken
            })?;
            if answer.prefill.is_zero() {
                answer.prefill = started.elapsed();
            }
            if let Some(error) = error {
                return Err(error.into());
            }
            // A token often makes no text certain; the caller may want to end all the same.
            if broken.is_continue() && sequence.finish().is_none() {
                broken = on(Event::Reading(0));
            }
            if let Some(finish) = sequence.finish() {
                answer.finish = finish.clone();
                break;
            }
            if broken.is_break() {
                break;
            }
        }
        let rest = if answer.finish == Finish::Interrupted || answer.context_full {
            sequence.rest().to_owned()
        } else {
            String::new()
        };
        let mut end = |piece: Piece<'_>| {
            answer.take(piece);
            let _ = on(Event::Piece(piece));
        };
        thinking.push(&rest, &mut end);
        thinking.finish(&mut end);
        Ok(())
    }

    /// Has the session read the prompt, all but its last token, in chunks.
    fn read(
        &mut self,
        sequence: &mut Sequence,
        on: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ModelError> {
        while sequence.pending().len() > 1 {
            if on(Event::Reading(sequence.pending().len())).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            self.generator.read_some(sequence)?;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Leaves old turns out, so that the answer can go on; false if there is none to leave out.
    fn shift(
        &mut self,
        sequence: &mut Sequence,
        on: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<bool, ChatError> {
        let Some(next) = self.next_turn(self.first) else { return Ok(false) };
        let first = std::mem::replace(&mut self.first, next);
        let generated = sequence.generated_tokens();
        match self.fit(self.context() / ROOM_AFTER_SHIFT, generated) {
            Ok((_, tokens, dropped)) if tokens.len() + generated < self.context() => {
                let _ = on(Event::Dropped(dropped + 1));
                self.generator.replace_prompt(sequence, &tokens);
                Ok(true)
            }
            Ok(_) | Err(ChatError::TurnTooLong { .. }) => {
                self.first = first;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// The text and the tokens of a prompt that leaves `room` beside `answered` tokens of the answer, and how many turns
    /// were left out for that. Less room is left if there is only the latest turn.
    fn fit(&mut self, mut room: usize, answered: usize) -> Result<(String, Vec<u32>, usize), ChatError> {
        let context = self.context();
        let mut dropped = 0;
        loop {
            let prompt = self.render(self.first, true)?;
            let tokens = control::encode(self.generator.tokenizer(), &prompt).map_err(ModelError::from)?;
            if tokens.len() + answered + room <= context {
                return Ok((prompt, tokens, dropped));
            }
            match self.next_turn(self.first) {
                Some(next) => {
                    (self.first, room) = (next, room.max(context / ROOM_AFTER_SHIFT));
                    dropped += 1;
                }
                None if tokens.len() < context => return Ok((prompt, tokens, dropped)),
                None => return Err(ChatError::TurnTooLong { tokens: tokens.len(), context }),
            }
        }
    }

    fn context(&self) -> usize {
        self.generator.session().options().context
    }

    /// Messages of the system prompt.
    fn system_len(&self) -> usize {
        let is_system =
            |message: &&Json| matches!(message.get("role").and_then(Json::as_str), Some("system" | "developer"));
        self.messages.iter().take_while(is_system).count()
    }

    /// The first message of the turn after the one with message number `first`.
    fn next_turn(&self, first: usize) -> Option<usize> {
        let first = first.max(self.system_len());
        let after = self.messages.get(first + 1..)?;
        after.iter().position(is_user).map(|at| first + 1 + at)
    }

    /// The prompt of the system prompt and of the messages from number `first` on.
    fn render(&self, first: usize, add_generation_prompt: bool) -> Result<String, ChatError> {
        let system = self.system_len();
        let messages = [&self.messages[..system], &self.messages[first.max(system)..]].concat();
        self.render_messages(&messages, add_generation_prompt)
    }

    fn render_messages(&self, messages: &[Json], add_generation_prompt: bool) -> Result<String, ChatError> {
        let messages: Vec<_> = messages.iter().map(|message| self.control.mark(message)).collect();
        let (variables, now) = (&self.variables[..], self.now);
        self.template.render(&ChatInput {
            messages: &messages,
            add_generation_prompt,
            variables,
            now,
            ..ChatInput::default()
        })
    }
}

/// The tokens of a prompt with one question, which the model's answer is to follow.
///
/// # Errors
/// As [`ChatTemplate::render`], and what the tokenizer refuses.
pub fn question(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    text: &str,
    now: CivilTime,
) -> Result<Vec<u32>, ChatError> {
    let messages = [ControlTokens::of(tokenizer).mark(&Json::message("user", text))];
    let input = ChatInput { messages: &messages, add_generation_prompt: true, now: Some(now), ..ChatInput::default() };
    Ok(control::encode(tokenizer, &template.render(&input)?).map_err(ModelError::from)?)
}

impl Answer {
    fn take(&mut self, piece: Piece<'_>) {
        match piece {
            Piece::Thought(text) => self.thought.push_str(text),
            Piece::Said(text) => self.text.push_str(text),
        }
    }
}

fn is_user(message: &Json) -> bool {
    message.get("role").and_then(Json::as_str) == Some("user")
}

/// The message of an answer.
fn message_of(answer: &Answer) -> Json {
    let mut members = vec![("role".to_owned(), Json::from("assistant"))];
    if !answer.thought.is_empty() {
        members.push(("reasoning_content".to_owned(), answer.thought.trim().into()));
    }
    members.push(("content".to_owned(), Json::Text(answer.text.clone())));
    Json::Object(members)
}
