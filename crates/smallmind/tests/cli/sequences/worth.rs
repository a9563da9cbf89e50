//! What a run's folder holds that must not get lost, compared before and after an act.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::folders::tree;

/// What a folder holds, as the next user finds it: a replacement that was interrupted counts as completed.
#[derive(Debug, Default)]
pub struct Worth {
    /// All files that are not hidden.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// Steps of the newest checkpoint, with a training that can be gone on with.
    pub step: Option<u64>,
}

impl Worth {
    pub fn of(folder: &Path) -> Self {
        let mut files = tree(folder);
        let replaced: BTreeMap<_, _> = files
            .iter()
            .filter_map(|(path, bytes)| Some((path.strip_prefix(".next-run").ok()?.to_owned(), bytes.clone())))
            .collect();
        if folder.join(".next-run").is_dir() {
            // The new run has no model yet.
            files.retain(|path, _| {
                let taken = replaced.keys().any(|name| name.iter().next() == path.iter().next());
                !taken && path != Path::new("config.json") && path != Path::new("model.safetensors")
            });
            files.extend(replaced);
        }
        // A checkpoint may be set aside while another one takes its place.
        let aside: Vec<_> = files.keys().filter_map(|path| Some((set_aside(path)?, path.clone()))).collect();
        for (name, path) in aside {
            let bytes = files.remove(&path).unwrap();
            files.entry(name).or_insert(bytes);
        }
        files.retain(|path, _| !path.iter().any(|part| part.to_string_lossy().starts_with('.')));
        let step = |path: &PathBuf| {
            let name = path.strip_prefix("checkpoints").ok()?.iter().next()?;
            name.to_str()?.strip_prefix("step-")?.parse::<u64>().ok()
        };
        let step = files.keys().filter_map(step).max();
        Self { files, step }
    }

    pub fn exists(&self) -> bool {
        self.files.keys().any(|path| path != Path::new("mine.txt"))
    }

    /// A file of the newest checkpoint.
    fn of_checkpoint(&self, name: &str) -> Option<&[u8]> {
        let path = format!("checkpoints/step-{:08}/{name}", self.step?);
        Some(self.files.get(Path::new(&path)).unwrap_or_else(|| panic!("{path} is missing")))
    }

    fn state(&self) -> Option<Value> {
        self.of_checkpoint("trainer.json").map(|bytes| serde_json::from_slice(bytes).unwrap())
    }

    /// The seed of the run, which no other has.
    pub fn seed(&self) -> Option<u64> {
        self.state()?["config"]["train"]["seed"].as_u64()
    }

    /// The validation loss of the model, the lowest so far.
    fn best(&self) -> Option<f64> {
        self.state()?["best_val_loss"].as_f64()
    }

    fn model(&self) -> Option<&Vec<u8>> {
        self.files.get(Path::new("model.safetensors"))
    }

    /// Somebody has removed the model: the best one can't be had again.
    pub fn lose_model(&mut self) {
        self.files.remove(Path::new("model.safetensors"));
        if let Some(step) = self.step {
            let mut state = self.state().unwrap();
            state["best_val_loss"] = Value::Null;
            let path = format!("checkpoints/step-{step:08}/trainer.json");
            self.files.insert(path.into(), state.to_string().into_bytes());
        }
    }

    /// The lines of a log up to a step, without estimates of that step: a training that has nothing more to do makes
    /// those again.
    fn lines(&self, name: &str, last: u64) -> Vec<&str> {
        let text = self.files.get(Path::new(name)).map(|bytes| std::str::from_utf8(bytes).unwrap());
        let stays = |line: &&str| {
            let (step, is_estimate) = if name == "log.csv" {
                let cells: Vec<_> = line.split(',').collect();
                (cells[0].parse().ok(), cells.get(1).is_some_and(|loss| loss.is_empty()))
            } else {
                let event: Value = serde_json::from_str(line).unwrap_or_default();
                (event["step"].as_u64(), event["event"] == "eval")
            };
            step.is_some_and(|step| step < last || (step == last && !is_estimate))
        };
        text.unwrap_or_default().lines().filter(stays).collect()
    }

    /// All is as it was.
    #[track_caller]
    pub fn is_same(&self, after: &Self, log: &[String]) {
        let differs = |path: &&PathBuf| self.files.get(*path) != after.files.get(*path);
        let changed: Vec<_> = self.files.keys().chain(after.files.keys()).filter(differs).collect();
        assert!(changed.is_empty(), "{changed:?} {log:#?}");
    }

    /// `after` is another run, and no mixture of both.
    #[track_caller]
    pub fn is_gone_from(&self, after: &Self, log: &[String]) {
        for name in ["model.safetensors", "train.toml", "log.jsonl"] {
            let [old, new] =
                [self, after].map(|worth| worth.files.get(Path::new(name)).filter(|file| !file.is_empty()));
            assert!(new.is_none() || new != old, "{name} {log:#?}");
        }
        assert!(after.step.is_some(), "{log:#?}");
    }

    /// `after` is the same run, perhaps after more steps; its model is no worse.
    #[track_caller]
    pub fn goes_on_in(&self, after: &Self, log: &[String]) {
        let Some(step) = self.step else { return self.is_same(after, log) };
        assert_eq!(after.seed(), self.seed(), "{log:#?}");
        assert!(after.step >= self.step, "{:?} {:?} {log:#?}", self.step, after.step);
        for (path, bytes) in &self.files {
            let is_fixed = path == Path::new("tokenizer.json") || path == Path::new("config.json");
            if is_fixed || path.starts_with("data") || path == Path::new("mine.txt") {
                assert!(after.files.get(path) == Some(bytes), "{path:?} {log:#?}");
            }
        }
        for name in ["log.jsonl", "log.csv"] {
            assert_eq!(after.lines(name, step), self.lines(name, step), "{log:#?}");
        }
        if after.step == self.step {
            for name in ["model.safetensors", "trainer.safetensors"] {
                assert!(after.of_checkpoint(name) == self.of_checkpoint(name), "{name} {log:#?}");
            }
        }
        assert!(after.model().is_some() || self.model().is_none(), "{log:#?}");
        let Some(best) = self.best() else { return };
        assert!(after.best().is_some_and(|now| now <= best), "{best} {:?} {log:#?}", after.best());
    }

    /// The model of `after` is the same, or the log tells of a better one.
    #[track_caller]
    pub fn keeps_its_model(&self, after: &Self, log: &[String]) {
        let Some(best) = self.best() else { return };
        let is_later = after.lines("log.jsonl", u64::MAX).iter().any(|line| is_better(line, best));
        assert!(is_later || after.model() == self.model(), "{log:#?}");
    }
}

/// Whether a line of a log tells of an estimate below `best`.
fn is_better(line: &str, best: f64) -> bool {
    let event: Value = serde_json::from_str(line).unwrap_or_default();
    event["event"] == "eval" && event["val_loss"].as_f64().is_some_and(|loss| loss < best)
}

/// The name of a file in a checkpoint that was set aside.
fn set_aside(path: &Path) -> Option<PathBuf> {
    let inside = path.strip_prefix("checkpoints").ok()?;
    let folder = inside.iter().next()?.to_str()?;
    let at = folder.strip_prefix(".tmp-old-")?.find("step-")? + ".tmp-old-".len();
    Some(Path::new("checkpoints").join(&folder[at..]).join(inside.strip_prefix(folder).ok()?))
}
