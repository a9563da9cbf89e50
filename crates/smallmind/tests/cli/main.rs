//! The command line as its users meet it: the real program on small inputs.

mod arguments;
mod bad_data;
mod bad_models;
mod bench;
mod chat;
mod chat_terminal;
mod documents;
mod folders;
mod gguf;
mod hub;
mod initial;
mod lookup;
mod model_files;
mod models;
mod outputs;
mod profile;
mod sampling;
mod sequences;
mod settings;
mod signals;
mod support;
mod terminal;
mod text;
mod training;
