//! One chat template: from a conversation to the text of a prompt.

use std::io::{self, Write};

use minijinja::{Environment, Error, ErrorKind, Value};

use super::environment::{Raised, environment, strftime_now, value_of};
use super::error::quoted;
use super::{ChatError, CivilTime, Json, messages, tags};

/// The longest template, in bytes.
pub const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// Steps that a template may take. Each 64 bytes that it writes or makes are a step too, so that it can use some 64 MiB.
pub const FUEL: u64 = 1_000_000;
/// The longest prompt that a template may write, in bytes.
pub const MAX_PROMPT_BYTES: usize = 64 << 20;

/// What a template gets.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChatInput<'a> {
    /// The messages, each an object with a `role`.
    pub messages: &'a [Json],
    /// Functions that the model may call, as JSON schemas.
    pub tools: Option<&'a [Json]>,
    /// Documents to answer from.
    pub documents: Option<&'a [Json]>,
    /// Whether the prompt ends with the beginning of the model's answer.
    pub add_generation_prompt: bool,
    /// More variables for the template, such as `enable_thinking`. They come before special tokens of the same name.
    pub variables: &'a [(String, Json)],
    /// What `strftime_now` tells.
    pub now: Option<CivilTime>,
}

/// A chat template that has been checked.
///
/// ```
/// use smallmind_model::chat::{ChatInput, ChatTemplate, Json};
///
/// let source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{{ eos_token }}{% endfor %}";
/// let tokens = vec![("eos_token".to_owned(), "</s>".to_owned())];
/// let template = ChatTemplate::new("a template", source, tokens)?;
/// let messages = [Json::message("user", "hello "), Json::message("assistant", "hi")];
/// let prompt = template.render(&ChatInput { messages: &messages, ..ChatInput::default() })?;
/// assert_eq!(prompt, "<user>hello</s><assistant>hi</s>");
/// # Ok::<(), smallmind_model::chat::ChatError>(())
/// ```
#[derive(Debug)]
pub struct ChatTemplate {
    origin: String,
    /// The source, with tags that the engine knows.
    source: String,
    /// Special tokens by name, such as `bos_token`.
    tokens: Vec<(String, String)>,
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Checks a template. `origin` names it in errors; `tokens` are special tokens by name, such as `bos_token`.
    ///
    /// # Errors
    /// [`ChatError::TooLarge`]; [`ChatError::Syntax`].
    pub fn new(origin: impl Into<String>, source: &str, tokens: Vec<(String, String)>) -> Result<Self, ChatError> {
        let origin = origin.into();
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(ChatError::TooLarge { origin, bytes: source.len(), max: MAX_TEMPLATE_BYTES });
        }
        let source = tags::translate(source).into_owned();
        let environment = environment(FUEL);
        if let Err(error) = environment.template_from_str(&source) {
            let line = error.line().unwrap_or(1);
            return Err(ChatError::Syntax { origin, line, problem: quoted(&words(&error)) });
        }
        Ok(Self { origin, source, tokens, environment })
    }

    /// Where the template stands.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The special token of that name, such as `eos_token`.
    pub fn token(&self, name: &str) -> Option<&str> {
        self.tokens.iter().find(|(of, _)| of == name).map(|(_, token)| token.as_str())
    }

    /// The text of the prompt, as transformers' `apply_chat_template` makes it.
    ///
    /// # Errors
    /// [`ChatError::Message`] and [`ChatError::Media`] for the messages; [`ChatError::Raised`] with the template's words
    /// if it refuses them; [`ChatError::Render`], [`ChatError::Fuel`] and [`ChatError::Output`] if it fails.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String, ChatError> {
        let messages = messages::normalized(input.messages)?;
        let list = |items: &[Json]| items.iter().map(value_of).collect::<Value>();
        let optional = |items: Option<&[Json]>| items.map_or_else(|| Value::from(()), list);
        let tokens = self.tokens.iter().map(|(name, token)| (name.as_str(), Value::from(token.as_str())));
        let more = input.variables.iter().map(|(name, value)| (name.as_str(), value_of(value)));
        let own = [
            ("strftime_now", strftime_now(input.now)),
            ("messages", list(&messages)),
            ("tools", optional(input.tools)),
            ("documents", optional(input.documents)),
            ("add_generation_prompt", Value::from(input.add_generation_prompt)),
        ];
        // A later variable replaces an earlier one of the same name.
        let context = Value::from_pairs(tokens.chain(more).chain(own));
        let mut prompt = Prompt { text: Vec::new(), is_full: false };
        let template = self.environment.template_from_str(&self.source);
        let rendered = template.and_then(|template| template.render_captured_to(context, &mut prompt).map(drop));
        rendered.map_err(|error| self.failed(&error, prompt.is_full))?;
        // The engine writes whole strings.
        Ok(String::from_utf8_lossy(&prompt.text).into_owned())
    }

    /// The error of a template that did not render.
    fn failed(&self, error: &Error, is_full: bool) -> ChatError {
        let origin = self.origin.clone();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            if let Some(Raised(message)) = cause.downcast_ref() {
                return ChatError::Raised(message.clone());
            }
            source = cause.source();
        }
        match error.kind() {
            ErrorKind::OutOfFuel => ChatError::Fuel { origin, fuel: FUEL },
            _ if is_full => ChatError::Output { origin, max: MAX_PROMPT_BYTES },
            _ => {
                let line = error.line().unwrap_or(0);
                ChatError::Render { origin, line, problem: quoted(&words(error)) }
            }
        }
    }
}

/// The engine's message without the place, which stands in a field of its own.
fn words(error: &Error) -> String {
    match error.detail() {
        Some(detail) if error.kind() == ErrorKind::SyntaxError => detail.to_owned(),
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// The text that a template writes, up to [`MAX_PROMPT_BYTES`].
struct Prompt {
    text: Vec<u8>,
    is_full: bool,
}

impl Write for Prompt {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > MAX_PROMPT_BYTES {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
