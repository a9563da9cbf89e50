//! Conversations: chat templates, and the text of a prompt from messages.
//!
//! [`ChatTemplates`] finds the templates of a model, [`ChatTemplate`] turns messages into the text of a prompt, as
//! transformers' `apply_chat_template` does with the same Jinja.
//!
//! ```
//! use smallmind_model::chat::{ChatInput, ChatTemplates, Json};
//!
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! std::fs::write(folder.join("chat_template.jinja"), "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}")?;
//! let template = ChatTemplates::from_folder(folder)?.choose(None, false)?;
//! let messages = [Json::message("system", "Be brief."), Json::message("user", "Hello!")];
//! let prompt = template.render(&ChatInput { messages: &messages, ..ChatInput::default() })?;
//! assert_eq!(prompt, "[system] Be brief.\n[user] Hello!\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Dialogue`] holds a conversation with a [`Generator`](crate::Generator).
//!
//! A template is a program out of a file: it runs with fuel, and what it may write and how deep it may call itself is
//! bounded. One thing is not: a list that is added to itself more than 32 times, which the engine copies without fuel.
//!
//! Not here: the clock (a template gets the time that its caller tells) and images.

mod control;
mod dialogue;
mod environment;
mod error;
mod json;
mod messages;
mod methods;
mod python;
mod source;
mod tags;
mod template;
#[cfg(test)]
mod tests;
mod thinking;
mod time;

pub use dialogue::{Answer, Dialogue, Event, question};
pub use error::ChatError;
pub use json::{Json, MAX_TEXT_BYTES};
pub use source::{ChatTemplates, MORE_TEMPLATES, TEMPLATE_FILE, TOKENIZER_CONFIG_FILE};
pub use template::{ChatInput, ChatTemplate, FUEL, MAX_PROMPT_BYTES, MAX_TEMPLATE_BYTES};
pub use thinking::Piece;
pub use time::CivilTime;
