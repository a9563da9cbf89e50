//! The command line as its users meet it: the real program on small inputs.

mod arguments;
mod bad_data;
mod bad_models;
mod bench;
mod documents;
mod models;
mod profile;
mod signals;
mod support;
mod text;
mod training;
