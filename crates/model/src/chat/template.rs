//! One chat template: from a conversation to the text of a prompt.

use std::sync::Arc;
use std::time::Duration;

use minijinja::Value;

use super::environment::{strftime_now, value_of};
use super::program::{Program, TIME_LIMIT};
use super::{ChatError, CivilTime, Json, blocks, messages, tags};

/// The longest template, in bytes.
pub const MAX_TEMPLATE_BYTES: usize = 1 << 20;

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
    /// Special tokens by name, such as `bos_token`.
    tokens: Vec<(String, String)>,
    program: Arc<Program>,
    /// How long a rendering may take.
    limit: Duration,
}

impl ChatTemplate {
    /// Checks a template. `origin` names it in errors; `tokens` are special tokens by name, such as `bos_token`.
    ///
    /// # Errors
    /// [`ChatError::TooLarge`]; [`ChatError::Syntax`]; [`ChatError::Time`] if the check takes longer than
    /// [`TIME_LIMIT`]; [`ChatError::Engine`].
    pub fn new(origin: impl Into<String>, source: &str, tokens: Vec<(String, String)>) -> Result<Self, ChatError> {
        Self::with_limit(origin.into(), source, tokens, TIME_LIMIT)
    }

    /// As [`ChatTemplate::new`], with another limit than [`TIME_LIMIT`].
    pub(super) fn with_limit(
        origin: String,
        source: &str,
        tokens: Vec<(String, String)>,
        limit: Duration,
    ) -> Result<Self, ChatError> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(ChatError::TooLarge { origin, bytes: source.len(), max: MAX_TEMPLATE_BYTES });
        }
        if let Err(blocks::Excess { line, problem }) = blocks::check(source) {
            return Err(ChatError::Syntax { origin, line, problem });
        }
        let source = tags::translate(source).into_owned();
        Ok(Self { tokens, program: Program::compile(origin, source, limit)?, limit })
    }

    /// Where the template stands.
    pub fn origin(&self) -> &str {
        self.program.origin()
    }

    /// The special token of that name, such as `eos_token`.
    pub fn token(&self, name: &str) -> Option<&str> {
        self.tokens.iter().find(|(of, _)| of == name).map(|(_, token)| token.as_str())
    }

    /// The text of the prompt, as transformers' `apply_chat_template` makes it.
    ///
    /// # Errors
    /// [`ChatError::Message`] and [`ChatError::Media`] for the messages; [`ChatError::Raised`] with the template's words
    /// if it refuses them; [`ChatError::Render`], [`ChatError::Fuel`] and [`ChatError::Output`] if it fails;
    /// [`ChatError::Time`] if it runs longer than [`TIME_LIMIT`]; [`ChatError::Engine`].
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
        self.program.render(context, self.limit)
    }
}
