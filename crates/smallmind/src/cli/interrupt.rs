//! Signals that ask the program to end: Ctrl-C, a request to terminate, the loss of the terminal. Each verb that takes a
//! while chooses one of three answers.
//!
//! * [`end_on_signal`]: the first signal ends the process, for work of which a part is worth nothing.
//! * [`watch`]: the first signal sets a flag, for work that ends in an orderly way, such as a training with its
//!   checkpoint; a second Ctrl-C ends the process. With [`watch_later`] every signal ends it before that work has begun.
//! * [`watch_answers`]: Ctrl-C stops an answer of a conversation; every other signal ends the process.
//!
//! A process that a signal ends removes its temporary files (`temporaries.rs`) and returns 130.
//!
//! A signal that was ignored when the program started stays ignored: this is what `nohup` and `trap '' HUP` do.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

use super::failure::{Failure, Outcome};
use super::temporaries;

static STOP: AtomicBool = AtomicBool::new(false);

/// What a signal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// Ctrl-C. The second one, or the second [`Cause::Terminated`], ends the process at once.
    Interrupted,
    /// A request to terminate.
    #[cfg(unix)]
    Terminated,
    /// The terminal is gone. The system and the shell both send this signal, and a request to terminate may come with
    /// it.
    #[cfg(unix)]
    HungUp,
}

impl Cause {
    /// Whether somebody asks the program to end, rather than that its terminal is gone.
    fn is_asked(self) -> bool {
        match self {
            Self::Interrupted => true,
            #[cfg(unix)]
            Self::Terminated => true,
            #[cfg(unix)]
            Self::HungUp => false,
        }
    }
}

/// The answers of a conversation, which Ctrl-C stops one at a time.
#[derive(Debug)]
pub struct Answers {
    /// Whether there is an answer to be stopped.
    going: AtomicBool,
    /// Whether it is to be stopped.
    stop: AtomicBool,
}

static ANSWERS: Answers = Answers { going: AtomicBool::new(false), stop: AtomicBool::new(false) };

impl Answers {
    /// An answer begins.
    pub fn begin(&self) {
        self.stop.store(false, Ordering::SeqCst);
        self.going.store(true, Ordering::SeqCst);
    }

    /// It has ended.
    pub fn end(&self) {
        self.going.store(false, Ordering::SeqCst);
    }

    /// Whether it is to be stopped.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Installs the handler of a conversation: Ctrl-C stops the answer that is being given. A second one, one between
/// answers, and every other signal end the process with code 130.
///
/// # Errors
/// A system that refuses the handler.
pub fn watch_answers() -> anyhow::Result<&'static Answers> {
    let on_signal = |cause: Cause| {
        let is_answer = cause == Cause::Interrupted && ANSWERS.going.load(Ordering::SeqCst);
        if !is_answer || ANSWERS.stop.swap(true, Ordering::SeqCst) {
            end(Makes::Text);
        }
    };
    install(on_signal).context("can't watch for Ctrl-C")?;
    Ok(&ANSWERS)
}

/// What a verb is for, and so what a user wants to know when a signal ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Makes {
    /// Files: which of them are there.
    Files,
    /// Text on standard output, which the user sees.
    Text,
}

/// Installs the handler of a verb that needs no orderly end: each signal removes the files that are being written and
/// ends the process with code 130.
///
/// # Errors
/// A system that refuses the handler.
pub fn end_on_signal(makes: Makes) -> Outcome {
    install(move |_| end(makes)).context("can't watch for Ctrl-C")
}

/// The message of a verb whose files, if it writes any, don't matter.
pub const INTERRUPTED: &str = "interrupted";

/// Ends the process after a signal.
#[allow(clippy::disallowed_methods)]
fn end(makes: Makes) {
    temporaries::remove_all(|published| {
        // A bar or `^C` may stand in the line.
        if std::io::stderr().is_terminal() {
            super::note!("");
        }
        match (makes, published) {
            (Makes::Text, _) => super::note!("{INTERRUPTED}"),
            (Makes::Files, []) => super::note!("{INTERRUPTED}; nothing was written"),
            (Makes::Files, [first, ..]) => super::note!("{INTERRUPTED}; {} is complete", first.display()),
        }
        std::process::exit(130);
    });
}

/// Whether the work that ends in an orderly way has begun.
static BEGUN: AtomicBool = AtomicBool::new(false);

/// As [`watch`], but until [`begin`] is called a signal ends the process at once.
///
/// # Errors
/// A system that refuses the handler.
pub fn watch_later(first: &'static str) -> anyhow::Result<&'static AtomicBool> {
    let orderly = orderly(first);
    install(move |cause| if BEGUN.load(Ordering::SeqCst) { orderly(cause) } else { end(Makes::Text) })
        .context("can't watch for Ctrl-C")?;
    Ok(&STOP)
}

/// From here on a signal sets the flag of [`watch_later`].
pub fn begin() {
    BEGUN.store(true, Ordering::SeqCst);
}

/// Installs the handler: Ctrl-C, a request to terminate and the loss of the terminal set the returned flag, and the
/// first of them prints `first`. A second Ctrl-C or request to terminate ends the process with code 130.
///
/// # Errors
/// A system that refuses the handler.
pub fn watch(first: &'static str) -> anyhow::Result<&'static AtomicBool> {
    install(orderly(first)).context("can't watch for Ctrl-C")?;
    Ok(&STOP)
}

/// The handler of [`watch`].
fn orderly(first: &'static str) -> impl Fn(Cause) + Send + 'static {
    let asked = AtomicBool::new(false);
    move |cause: Cause| {
        if cause.is_asked() && asked.swap(true, Ordering::SeqCst) {
            temporaries::remove_all(|_| std::process::exit(130));
        }
        if !STOP.swap(true, Ordering::SeqCst) {
            super::note!("\n{first}");
        }
    }
}

/// Checks for an interrupt before the first step of training, when nothing has been changed yet. `replaces`: whether
/// there is something that the run was to replace.
///
/// # Errors
/// [`Failure::Interrupted`].
pub fn check_before_training(replaces: bool) -> Outcome {
    if STOP.load(Ordering::SeqCst) { Err(before_training(replaces)) } else { Ok(()) }
}

/// The failure of a training that was interrupted before its first step.
pub fn before_training(replaces: bool) -> anyhow::Error {
    let left = if replaces { "nothing was replaced" } else { "no run was written" };
    Failure::Interrupted(format!("interrupted before the first step; {left}")).into()
}

#[cfg(not(unix))]
fn install(on_signal: impl Fn(Cause) + Send + 'static) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(move || on_signal(Cause::Interrupted))
}

#[cfg(unix)]
fn install(on_signal: impl Fn(Cause) + Send + 'static) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    // Caught, the signal of a file that would grow beyond the limit of its size (`ulimit -f`) makes the write fail.
    signal_hook::flag::register(SIGXFSZ, std::sync::Arc::new(AtomicBool::new(false)))?;
    let ignored = ignored::at_start();
    let watched = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| !ignored(*signal));
    let mut signals = signal_hook::iterator::Signals::new(watched)?;
    let wait = move || {
        for signal in signals.forever() {
            on_signal(match signal {
                SIGHUP => Cause::HungUp,
                SIGTERM => Cause::Terminated,
                _ => Cause::Interrupted,
            });
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}

/// Which signals this process ignores.
#[cfg(unix)]
mod ignored {
    use std::process::{Command, Stdio};

    /// Whether a signal is ignored. Must be called before handlers are installed.
    pub fn at_start() -> Box<dyn Fn(i32) -> bool> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        match mask(&status) {
            Some(mask) => Box::new(move |signal| mask >> (signal - 1) & 1 == 1),
            None => Box::new(by_a_shell),
        }
    }

    /// The mask of ignored signals in Linux's `status` of a process. The lowest bit is signal 1.
    pub fn mask(status: &str) -> Option<u64> {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    }

    /// Whether a signal is ignored, for systems without that file. A shell inherits which signals are ignored, so it
    /// survives an ignored signal that it sends to itself.
    pub fn by_a_shell(signal: i32) -> bool {
        const SURVIVED: i32 = 7;
        let script = format!("kill -{signal} $$; exit {SURVIVED}");
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        shell.status().is_ok_and(|status| status.code() == Some(SURVIVED))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::ignored::{at_start, by_a_shell, mask};

    #[test]
    fn ignored_signals_are_read_from_the_system() {
        assert_eq!(mask("Name:\tx\nSigIgn:\t0000000000001003\nSigCgt:\t1\n"), Some(0x1003));
        assert_eq!(mask("Name:\tx\n"), None);
        assert_eq!(mask("SigIgn:\tmany\n"), None);
    }

    /// Tells a child process of this test which signals it ignores.
    const IGNORED: &str = "SMALLMIND_TEST_IGNORED";

    /// Runs in child processes, since a process inherits what it ignores.
    #[test]
    fn a_shell_says_the_same() {
        if let Ok(ignored) = std::env::var(IGNORED) {
            for (signal, name) in [(1, "HUP"), (2, "INT"), (15, "TERM")] {
                assert_eq!(by_a_shell(signal), at_start()(signal), "signal {name} where {ignored:?} are ignored");
                assert!(by_a_shell(signal) || !ignored.contains(name), "signal {name} where {ignored:?} are ignored");
            }
            return;
        }
        let (_, module) = module_path!().split_once("::").unwrap();
        for ignored in ["", "HUP", "INT TERM"] {
            let trap = if ignored.is_empty() { String::new() } else { format!("trap '' {ignored};") };
            let mut child = std::process::Command::new("/bin/sh");
            child.args(["-c", &format!("{trap} exec \"$0\" \"$@\"")]).arg(std::env::current_exe().unwrap());
            child.args(["--exact", &format!("{module}::a_shell_says_the_same")]).env(IGNORED, ignored);
            let output = child.output().unwrap();
            let stdout = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && stdout.contains("1 passed"), "{ignored:?}: {stdout}");
        }
    }
}
