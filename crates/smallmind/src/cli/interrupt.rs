//! Ctrl-C: the first time a request to end well, the second time the end.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

static STOP: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C (and a request to terminate) sets the flag that is returned and says `first`; again, the process ends with code 130.
///
/// # Errors
/// A system that refuses the handler, or a second call.
pub fn watch(first: &'static str) -> anyhow::Result<&'static AtomicBool> {
    ctrlc::set_handler(move || {
        if STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        super::note!("\n{first}");
    })
    .context("can't watch for Ctrl-C")?;
    Ok(&STOP)
}
