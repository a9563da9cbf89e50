//! A template as the engine runs it: compiled once, and rendered on a thread of its own that has a large stack and is
//! given up after a time.
//!
//! Fuel bounds how many instructions a template runs, but not how long each of them takes: to compare two lists that
//! hold the same list twice, fifty levels deep, is one instruction without an end in sight. The engine has no hook to
//! stop such an instruction, and Rust none to stop a thread. So the caller waits for a time and then goes on without
//! the thread.

use std::any::Any;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use minijinja::{Environment, Error, ErrorKind, Value};

use super::ChatError;
use super::environment::{Raised, environment};
use super::error::quoted;

/// Steps that a template may take. Each 64 bytes that it writes or makes are a step too, so that it can use some 64 MiB.
pub const FUEL: u64 = 1_000_000;
/// The longest prompt that a template may write, in bytes.
pub const MAX_PROMPT_BYTES: usize = 64 << 20;
/// How long compiling a template and each of its renderings may take. Past it the caller gets [`ChatError::Time`].
///
/// The thread at work can't be stopped: it goes on, and keeps its memory or takes more, until the template is rendered,
/// until its fuel is used up, or until the process ends.
pub const TIME_LIMIT: Duration = Duration::from_secs(5);

/// The stack of the thread that compiles or renders.
///
/// The engine's functions call themselves for each link of a chain, for each `elif`, and some fifteen deep for each of
/// the 150 brackets and statements that may be nested: 4096 + 256 + 15 · 150, less than 6,700 levels
/// ([`blocks::check`](super::blocks::check)). That leaves 40 KiB for a level. A release build takes less than half a
/// KiB; without optimisation the largest function, which compiles an expression and keeps a few dozen values and
/// instructions of 24 to 40 bytes, takes several KiB.
///
/// A rendering calls itself, too: to drop a value, once for each level of it. Fuel suffices to nest one less than
/// 700,000 deep, which leaves 380 bytes for a level. Comparing and writing such a value takes more.
///
/// All of it is address space; memory is taken only for what is used.
const STACK_BYTES: usize = 256 << 20;
/// The name of the template in its environment.
const NAME: &str = "chat template";

/// A compiled template.
#[derive(Debug)]
pub(super) struct Program {
    /// Names the template in errors.
    origin: String,
    /// Holds the template under [`NAME`].
    environment: Environment<'static>,
}

impl Program {
    /// Compiles a template whose chains are bounded ([`blocks::check`](super::blocks::check)).
    ///
    /// # Errors
    /// [`ChatError::Syntax`]; [`ChatError::Time`] past `limit`; [`ChatError::Engine`].
    pub(super) fn compile(origin: String, source: String, limit: Duration) -> Result<Arc<Self>, ChatError> {
        let place = origin.clone();
        let compile = move || {
            let mut environment = environment(FUEL);
            match environment.add_template_owned(NAME, source) {
                Ok(()) => Ok(Arc::new(Self { origin, environment })),
                Err(error) => {
                    let line = error.line().unwrap_or(1);
                    Err(ChatError::Syntax { origin, line, problem: quoted(&words(&error)) })
                }
            }
        };
        on_thread(&place, limit, compile)
    }

    /// Names the template in errors.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// The text that the template writes with the variables of `context`.
    ///
    /// # Errors
    /// [`ChatError::Raised`], [`ChatError::Render`], [`ChatError::Fuel`] and [`ChatError::Output`];
    /// [`ChatError::Time`] past `limit`; [`ChatError::Engine`].
    pub(super) fn render(self: &Arc<Self>, context: Value, limit: Duration) -> Result<String, ChatError> {
        let program = Arc::clone(self);
        on_thread(&self.origin, limit, move || program.run(context))
    }

    fn run(&self, context: Value) -> Result<String, ChatError> {
        let mut prompt = Prompt { text: Vec::new(), is_full: false };
        let template = self.environment.get_template(NAME);
        let rendered = template.and_then(|template| template.render_captured_to(context, &mut prompt).map(drop));
        rendered.map_err(|error| self.failed(&error, prompt.is_full))?;
        // The engine writes whole strings.
        Ok(String::from_utf8_lossy(&prompt.text).into_owned())
    }

    /// The error of a template that did not render.
    fn failed(&self, error: &Error, is_full: bool) -> ChatError {
        let origin = self.origin.clone();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            if let Some(Raised(message)) = cause.downcast_ref() {
                return ChatError::Raised(message.clone());
            }
            source = cause.source();
        }
        match error.kind() {
            ErrorKind::OutOfFuel => ChatError::Fuel { origin, fuel: FUEL },
            _ if is_full => ChatError::Output { origin, max: MAX_PROMPT_BYTES },
            _ => {
                let line = error.line().unwrap_or(0);
                ChatError::Render { origin, line, problem: quoted(&words(error)) }
            }
        }
    }
}

/// What `work` returns on a thread with a stack of [`STACK_BYTES`], if it does so within `limit`. Values that it holds
/// are dropped on that thread, too: it takes a stack as deep as they are.
///
/// # Errors
/// Those of `work`; [`ChatError::Time`] past `limit`; [`ChatError::Engine`] if `work` panics or no thread starts.
fn on_thread<T: Send + 'static>(
    origin: &str,
    limit: Duration,
    work: impl FnOnce() -> Result<T, ChatError> + Send + 'static,
) -> Result<T, ChatError> {
    let failed = |problem: String| ChatError::Engine { origin: origin.to_owned(), problem };
    let (sender, receiver) = mpsc::sync_channel(1);
    let run = move || {
        // If it comes too late, nobody waits for it any more.
        let _ = sender.send(work());
    };
    let thread = thread::Builder::new().name("chat-template".to_owned()).stack_size(STACK_BYTES).spawn(run);
    let thread = thread.map_err(|error| failed(format!("no thread can be started: {error}")))?;
    match receiver.recv_timeout(limit) {
        Ok(outcome) => {
            // It is about to end. The next thread starts when the stack of this one is free.
            let _ = thread.join();
            outcome
        }
        Err(RecvTimeoutError::Timeout) => Err(ChatError::Time { origin: origin.to_owned(), limit }),
        Err(RecvTimeoutError::Disconnected) => {
            let panic = thread.join().err();
            Err(failed(format!("the engine panicked: {}", quoted(panic.as_deref().map_or("", panic_message)))))
        }
    }
}

/// The message of a panic.
fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// The engine's message without the place, which stands in a field of its own.
fn words(error: &Error) -> String {
    match error.detail() {
        Some(detail) if error.kind() == ErrorKind::SyntaxError => detail.to_owned(),
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// The text that a template writes, up to [`MAX_PROMPT_BYTES`].
struct Prompt {
    text: Vec<u8>,
    is_full: bool,
}

impl Write for Prompt {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > MAX_PROMPT_BYTES {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Much longer than a thread takes to start, and much shorter than the work of these tests.
    const SHORT: Duration = Duration::from_millis(200);

    /// The error of a template whose compilation or rendering takes longer than [`SHORT`].
    fn late(run: impl FnOnce() -> Result<(), ChatError>) {
        let start = Instant::now();
        let error = run().unwrap_err();
        assert!(
            matches!(&error, ChatError::Time { origin, limit } if origin == "a.jinja" && *limit == SHORT),
            "{error}"
        );
        assert!(error.to_string().ends_with("longer than 0.2 s"), "{error}");
        assert!(start.elapsed() >= SHORT && start.elapsed() < TIME_LIMIT, "{:?}", start.elapsed());
    }

    #[test]
    fn what_takes_too_long_is_given_up() {
        // Lists that hold one list twice, 20 levels deep: to compare them takes some 2^20 steps, so that the threads
        // end soon after the test. At 50 levels they would run for years with the same fuel.
        let lists = "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(20) %}{% set ns.x = [ns.x, ns.x] %}\
            {% set ns.y = [ns.y, ns.y] %}{% endfor %}";
        for last in ["{{ ns.x == ns.y }}", "{{ [ns.x, ns.y] | sort | length }}"] {
            let program = Program::compile("a.jinja".to_owned(), format!("{lists}{last}"), TIME_LIMIT).unwrap();
            late(|| program.render(Value::from(()), SHORT).map(drop));
        }
        // The engine joins texts of up to 1024 bytes when it compiles, and tries it anew for each link of a chain.
        let chain = format!("{{{{ 'x'{} }}}}", "~'x'".repeat(1360)).repeat(20);
        late(|| Program::compile("a.jinja".to_owned(), chain, SHORT).map(drop));
    }

    #[test]
    fn a_panic_is_an_error() {
        let panics: [fn() -> Result<(), ChatError>; 2] = [|| panic!("a bug"), || panic!("bug {}", 7)];
        for (work, words) in panics.into_iter().zip(["a bug", "bug 7"]) {
            let error = on_thread("a.jinja", TIME_LIMIT, work).unwrap_err();
            assert!(matches!(&error, ChatError::Engine { problem, .. } if problem.ends_with(words)), "{error}");
        }
    }

    #[test]
    fn values_nested_deep_are_dropped() {
        // Fewer levels than the fuel suffices for: without optimisation each takes several times as much stack.
        let source = "{% set ns = namespace(x=1) %}{% for i in range(50000) %}{% set ns.x = [ns.x] %}{% endfor %}\
            {{ ns.x | length }}";
        let program = Program::compile("a.jinja".to_owned(), source.to_owned(), TIME_LIMIT).unwrap();
        assert_eq!(program.render(Value::from(()), TIME_LIMIT).unwrap(), "1");
    }
}
