//! The command line as its users meet it: the real program on small inputs.

mod arguments;
mod bad_data;
mod bad_models;
mod bench;
mod models;
mod profile;
mod signals;
mod support;
mod terminal;
mod text;
mod training;
