//! Progress reports of training: a bar, lines, or JSON.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use smallmind::train::{EvalEvent, Event, Progress, Started, StepEvent};

use super::settings::{Format, Settings};
use super::{note, output, units};

/// How many lines about steps a whole training run prints. On a terminal a bar moves between them.
const LINES: u64 = 20;
/// The longest time between two lines if there is no bar.
const LONGEST_SILENCE: Duration = Duration::from_secs(15);
/// Characters of the bar in a line for a loss as large as the first.
const LOSS_WIDTH: f64 = 24.0;

/// A bar on standard error, hidden unless that is a terminal. Its messages go through [`output::harmless`].
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar of `len` steps.
    #[allow(clippy::disallowed_methods)]
    pub fn new(len: u64, template: &'static str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(ProgressBar::with_draw_target(Some(len), target).with_style(style.progress_chars("█▉▊▋▌▍▎▏ ")))
    }

    /// Sets how many steps there are.
    pub fn set_length(&self, len: u64) {
        self.0.set_length(len);
    }

    /// Sets how many steps are done.
    pub fn set_position(&self, position: u64) {
        self.0.set_position(position);
    }

    /// Sets how many steps were done before; they don't count for the rate.
    pub fn set_start(&self, position: u64) {
        self.0.set_position(position);
        self.0.reset_eta();
    }

    /// Removes the bar.
    pub fn finish_and_clear(&self) {
        self.0.finish_and_clear();
    }

    fn set_message(&self, text: &str) {
        self.0.set_message(output::harmless(text).into_owned());
    }

    /// Runs `write` while the bar is hidden.
    pub fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }

    /// Whether nobody sees the bar.
    pub fn is_hidden(&self) -> bool {
        self.0.is_hidden()
    }
}

/// Reports the progress of training.
pub struct Reporter {
    format: Format,
    stop: &'static AtomicBool,
    bar: Bar,
    first_loss: Option<f64>,
    next_line: u64,
    last_line: Instant,
    failure: Option<anyhow::Error>,
}

impl Reporter {
    /// A reporter that sets `stop` if its JSON can't be written.
    pub fn new(settings: &Settings, stop: &'static AtomicBool) -> Self {
        Self {
            format: settings.format,
            stop,
            bar: Bar::new(0, "{bar:24} {percent:>3}%  {msg}"),
            first_loss: None,
            next_line: 0,
            last_line: Instant::now(),
            failure: None,
        }
    }

    /// Reports a stage of the preparation.
    pub fn prepare(&mut self, progress: Progress) {
        match progress {
            Progress::Note(text) => self.bar.suspend(|| note!("note: {text}")),
            Progress::Text => self.say("reading text"),
            Progress::Tokenizer => self.say("making the vocabulary"),
            Progress::Tokens => self.say("turning text into tokens"),
        }
    }

    /// Prints a line above the bar, unless the format is JSON.
    pub fn say(&mut self, text: &str) {
        if self.format == Format::Text {
            self.bar.suspend(|| note!("{text}"));
            self.last_line = Instant::now();
        }
    }

    /// Reports an event.
    pub fn event(&mut self, event: &Event) {
        if self.format == Format::Json && self.failure.is_none() {
            let printed = self.bar.suspend(|| output::event(event.to_json()));
            if let Err(error) = printed {
                self.failure = Some(error);
                self.stop.store(true, Ordering::SeqCst);
            }
        }
        match event {
            Event::Started(started) => self.started(started),
            Event::Step(step) => self.step(step),
            Event::Eval(eval) => self.eval(eval),
            Event::Sample { step, text } => {
                let indented: String = text.lines().map(|line| format!("\n  | {line}")).collect();
                self.say(&format!("a sample after step {step}:{indented}"));
            }
            Event::Warning { message } => self.bar.suspend(|| note!("warning: {message}")),
            Event::Checkpoint { .. } => {}
            Event::Done(_) => self.bar.finish_and_clear(),
        }
    }

    fn started(&mut self, started: &Started) {
        self.bar.set_length(started.steps);
        self.say(&format!(
            "{} parameters, {} tokens in the vocabulary; {} tokens to train on, {} to validate",
            units::count(started.parameters as u64),
            started.vocab_size,
            units::count(started.train_tokens as u64),
            units::count(started.validation_tokens as u64),
        ));
        self.say(&format!(
            "{} steps of {} tokens on {} ({}), {} of memory",
            units::grouped(started.steps),
            units::grouped(started.tokens_per_step as u64),
            units::plural(started.threads, "thread"),
            started.isa,
            units::bytes(started.memory_bytes as u64),
        ));
        if let Some(step) = started.resumed_from {
            self.bar.set_position(step);
            self.say(&if step < started.steps {
                format!("going on after step {step}")
            } else {
                format!("all {step} steps are done: give --train.steps=MORE to train on")
            });
        }
    }

    fn step(&mut self, step: &StepEvent) {
        let first = *self.first_loss.get_or_insert(step.loss);
        let rate = units::rate(step.tokens_per_second);
        let left = units::seconds(step.remaining_seconds);
        self.bar.set_position(step.step);
        self.bar.set_message(&format!("loss {:.3}  {rate} tokens/s  {left} left", step.loss));
        let silent = self.bar.is_hidden() && self.last_line.elapsed() >= LONGEST_SILENCE;
        if step.step < self.next_line && step.step < step.steps && !silent {
            return;
        }
        self.next_line = ((step.step * LINES / step.steps.max(1) + 1) * step.steps).div_ceil(LINES);
        let share = (step.loss / first).clamp(0.0, 1.5);
        let shown = "▇".repeat((share * LOSS_WIDTH).round() as usize);
        let (step, steps, loss) = (step.step, step.steps, step.loss);
        let digits = steps.to_string().len();
        self.say(&format!(
            "step {step:>digits$}/{steps}  loss {loss:>7.4}  {rate:>9} tokens/s  {left:>12} left  {shown}"
        ));
    }

    fn eval(&mut self, eval: &EvalEvent) {
        let bits = eval.bits_per_byte.map(|bits| format!(", {bits:.3} bits a byte")).unwrap_or_default();
        let best = if eval.best { "" } else { "; an earlier one was better" };
        self.say(&format!(
            "step {}: loss {:.4} on training text, {:.4} on validation text{bits}{best}",
            eval.step, eval.train_loss, eval.val_loss
        ));
    }

    /// Removes the bar.
    ///
    /// # Errors
    /// The error if standard output could not be written.
    pub fn finish(self) -> anyhow::Result<()> {
        self.bar.finish_and_clear();
        self.failure.map_or(Ok(()), Err)
    }
}
