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
//! A template is a program out of a file. It runs on a thread of its own, with fuel and for a limited time; what it may
//! write, how deep it may call itself, how long its expressions may be and what its namespaces keep is bounded. The
//! engine can't be interrupted: a thread whose time is up goes on in the background ([`TIME_LIMIT`]).
//!
//! Not here: the clock (a template gets the time that its caller tells) and images.

mod blocks;
mod control;
mod dialogue;
mod environment;
mod error;
mod json;
mod kept;
mod messages;
mod methods;
mod program;
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
pub use program::{FUEL, MAX_PROMPT_BYTES, TIME_LIMIT};
pub use source::{ChatTemplates, MORE_TEMPLATES, TEMPLATE_FILE, TOKENIZER_CONFIG_FILE};
pub use template::{ChatInput, ChatTemplate, MAX_TEMPLATE_BYTES};
pub use thinking::Piece;
pub use time::CivilTime;
