//! `smallmind pull hf:OWNER/NAME[:FORMAT]`: the only verb that opens a connection.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use smallmind::hub::{Client, Event, HubError, ModelName, PREFIX, Pulled};

use super::failure::{Failure, Outcome, usage};
use super::hints::{program, quoted};
use super::progress::Bar;
use super::settings::Settings;
use super::{hub, interrupt, note, output, units};

/// The shortest time between two reports of progress as JSON.
const JSON_INTERVAL: Duration = Duration::from_secs(1);
/// The time between two lines about progress if there is no bar.
const LINE_INTERVAL: Duration = Duration::from_secs(15);

/// Options of `pull`.
#[derive(Debug, Args)]
pub struct Pull {
    /// The model's name: hf:OWNER/NAME, with @REVISION for a branch, a tag or a commit, and with :FORMAT (as
    /// :Q4_K_M) or :FILE.gguf for one of its GGUF files
    #[arg(value_name = "NAME")]
    name: String,
    /// The branch, tag or commit [default: main]
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
}

impl Pull {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let name: ModelName = self.name.parse().map_err(|error| self.with_prefix(error))?;
        let name = match &self.revision {
            Some(_) if name.has_revision() => return Err(usage("--revision and @ both name a revision; give one")),
            Some(revision) => name.at(revision)?,
            None => name,
        };
        let cache = hub::caches()?.hugging_face;
        let client = Client::new(hub::connection()?)?;
        let stop = interrupt::watch("stopping; what has arrived is kept (Ctrl-C again ends at once)")?;
        let mut reporter = Reporter::new(settings.is_json(), stop);
        let pulled = smallmind::hub::pull(&client, &cache, &name, stop, &mut |event| reporter.event(event));
        reporter.finish()?;
        match pulled {
            Ok(pulled) => print(&pulled, &name, settings),
            Err(HubError::Stopped) => {
                let again = format!("{} pull {}", program(), quoted(Path::new(&name.to_string())));
                Err(Failure::Interrupted(format!("interrupted; {again} continues")).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The error of a name, with the command that was meant if only the beginning is missing.
    fn with_prefix(&self, error: HubError) -> anyhow::Error {
        let meant = format!("{PREFIX}{}", self.name);
        if self.name.starts_with(PREFIX) || !self.name.contains('/') || meant.parse::<ModelName>().is_err() {
            return error.into();
        }
        let (name, program, meant) = (&self.name, program(), quoted(Path::new(&meant)));
        let revision = self.revision.as_ref().map(|revision| format!(" --revision {}", quoted(Path::new(revision))));
        let revision = revision.unwrap_or_default();
        usage(format!("{name}: names on the hub begin with {PREFIX}; the command is: {program} pull {meant}{revision}"))
    }
}

fn print(pulled: &Pulled, name: &ModelName, settings: &Settings) -> Outcome {
    if settings.is_json() {
        return output::event(json!({
            "event": "done",
            "model": name.to_string(),
            "path": pulled.path.display().to_string(),
            "commit": pulled.commit,
            "files": pulled.files,
            "bytes": pulled.bytes,
        }));
    }
    output::line(&pulled.path.display().to_string())?;
    note!("\nnext:\n  {} generate -m {} -p TEXT", program(), quoted(Path::new(&name.to_string())));
    Ok(())
}

/// Reports what happens.
struct Reporter {
    is_json: bool,
    stop: &'static AtomicBool,
    bar: Bar,
    bytes: u64,
    received: u64,
    reported: Instant,
    failure: Option<anyhow::Error>,
}

impl Reporter {
    fn new(is_json: bool, stop: &'static AtomicBool) -> Self {
        let bar = Bar::new(0, "{bar:24} {percent:>3}%  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left");
        Self { is_json, stop, bar, bytes: 0, received: 0, reported: Instant::now(), failure: None }
    }

    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Planned { bytes, present, .. } => {
                self.bytes = bytes;
                self.received = present;
                self.bar.set_length(bytes);
                self.bar.set_start(present);
            }
            Event::Resuming { at, .. } => self.bar.set_start(self.received + at),
            Event::Received { bytes } => {
                self.received = bytes;
                self.bar.set_position(bytes);
            }
            _ => {}
        }
        if self.is_json { self.write(event) } else { self.say(event) }
    }

    /// Whether progress has not been reported for a time.
    fn is_due(&mut self, interval: Duration) -> bool {
        let is_due = self.reported.elapsed() >= interval;
        if is_due {
            self.reported = Instant::now();
        }
        is_due
    }

    fn say(&mut self, event: Event<'_>) {
        let text = match event {
            Event::Planned { files, bytes, present, commit } => format!(
                "{} of commit {commit:.7}: {}, {} of them here",
                units::plural(files, "file"),
                units::bytes(bytes),
                units::bytes(present)
            ),
            Event::Waiting { file } => format!("{file}: another process downloads this file; waiting for it"),
            Event::Checking { file, bytes } => format!("{file}: comparing the checksum of {}", units::bytes(bytes)),
            Event::Damaged { file } => {
                format!("{file}: the content that is here is damaged; it is downloaded again")
            }
            Event::Resuming { file, at } => format!("{file}: continued after {}", units::bytes(at)),
            Event::Retrying { what, why, pause } => {
                format!("{what}: {why}; trying again in {}", units::seconds(pause.as_secs_f64()))
            }
            Event::Completed { file, bytes } => format!("{file}: {}, verified", units::bytes(bytes)),
            Event::Received { bytes } if self.bar.is_hidden() && self.is_due(LINE_INTERVAL) => {
                format!("{} of {}", units::bytes(bytes), units::bytes(self.bytes))
            }
            _ => return,
        };
        self.bar.suspend(|| note!("{text}"));
    }

    fn write(&mut self, event: Event<'_>) {
        let Some(value) = self.value(event).filter(|_| self.failure.is_none()) else { return };
        if let Err(error) = self.bar.suspend(|| output::event(value)) {
            self.failure = Some(error);
            self.stop.store(true, Ordering::SeqCst);
        }
    }

    fn value(&mut self, event: Event<'_>) -> Option<Value> {
        Some(match event {
            Event::Planned { commit, files, bytes, present } => {
                json!({ "event": "planned", "commit": commit, "files": files, "bytes": bytes, "present": present })
            }
            Event::Waiting { file } => json!({ "event": "waiting", "file": file }),
            Event::Checking { file, bytes } => json!({ "event": "checking", "file": file, "bytes": bytes }),
            Event::Damaged { file } => json!({ "event": "damaged", "file": file }),
            Event::Resuming { file, at } => json!({ "event": "resuming", "file": file, "bytes": at }),
            Event::Received { bytes } => {
                if !self.is_due(JSON_INTERVAL) {
                    return None;
                }
                json!({ "event": "progress", "bytes": bytes, "of": self.bytes })
            }
            Event::Retrying { what, why, pause } => {
                json!({ "event": "retrying", "what": what, "why": why, "seconds": pause.as_secs_f64() })
            }
            Event::Completed { file, bytes } => json!({ "event": "completed", "file": file, "bytes": bytes }),
            _ => return None,
        })
    }

    /// Removes the bar.
    ///
    /// # Errors
    /// The error if standard output could not be written.
    fn finish(self) -> Outcome {
        self.bar.finish_and_clear();
        self.failure.map_or(Ok(()), Err)
    }
}
