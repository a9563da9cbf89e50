//! Settings of training in the environment: `SMALLMIND_TRAIN_LR=1e-3`.

use smallmind::checkpoint::did_you_mean;
use smallmind::train::{Overlay, TrainConfig, TrainError};

use super::note;
use super::settings::variable;

/// The beginning of the names of all variables of this program.
const PREFIX: &str = "SMALLMIND_";
/// Names after [`PREFIX`] of variables that aren't settings of training.
const OTHERS: [&str; 5] = ["THREADS", "SEED", "ISA", "MODEL", "BASELINES"];

/// The variable of a setting: `SMALLMIND_SECTION_KEY`.
fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
}

/// An overlay for each variable of a setting that is set and not empty. An empty text can be written as
/// `--section.key=` or in a file.
///
/// # Errors
/// A variable that isn't UTF-8.
pub fn overlays() -> Result<Vec<Overlay>, TrainError> {
    let mut overlays = Vec::new();
    for key in TrainConfig::keys() {
        let origin = variable_of(key);
        let Some(value) = variable(&origin) else { continue };
        let Some(text) = value.to_str() else {
            return Err(TrainError::Value { key: key.to_owned(), origin, why: "it is not UTF-8 text".to_owned() });
        };
        overlays.push(Overlay::of_text(key, text, origin)?);
    }
    Ok(overlays)
}

/// Names variables of the environment that look like settings but aren't.
pub fn note_unknown_variables() {
    let keys = TrainConfig::keys().into_iter().map(variable_of);
    let known: Vec<String> = keys.chain(OTHERS.map(|name| format!("{PREFIX}{name}"))).collect();
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with(PREFIX) && !name.starts_with("SMALLMIND_TEST_") && !known.iter().any(|k| *k == name) {
            let near = did_you_mean(&name, known.iter().map(String::as_str));
            let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            note!("note: there is no setting for the variable {name}{near}");
        }
    }
}
