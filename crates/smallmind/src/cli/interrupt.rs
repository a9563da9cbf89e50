//! Ctrl-C: the first time a request to end well, the second time the end.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

use super::failure::{Failure, Outcome};

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

/// Ends a training that was interrupted while it prepared its text: nothing that was there has been changed yet.
///
/// # Errors
/// An interrupt.
pub fn check_before_training(stop: &AtomicBool) -> Outcome {
    if stop.load(Ordering::SeqCst) {
        return Err(Failure::Interrupted("interrupted before the first step; no run was written".into()).into());
    }
    Ok(())
}
