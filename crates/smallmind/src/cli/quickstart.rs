//! interim
use clap::Args;
/// interim
#[derive(Debug, Args)]
pub struct Quickstart {}
impl Quickstart { pub(super) fn run(self, _: &super::settings::Settings) -> super::failure::Outcome { Ok(()) } }
