//! interim
use clap::Args;
/// interim
#[derive(Debug, Args)]
pub struct Eval {}
impl Eval { pub(super) fn run(self, _: &super::settings::Settings) -> super::failure::Outcome { Ok(()) } }
