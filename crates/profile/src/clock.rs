//! A clock that is cheap to read, one for the whole process.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use smallmind_simd::ticks;

/// How long the counter's rate is measured. Its relative error is that of two readings of the system's clock over this
/// time.
const CALIBRATION: Duration = Duration::from_millis(4);

/// Reads the CPU's counter if the system uses it as its own clock, else the system's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
    /// The counter's value at `origin`, and nanoseconds per count.
    counter: Option<(u64, f64)>,
}

static CLOCK: OnceLock<Clock> = OnceLock::new();

impl Clock {
    /// The process's clock, which the first call calibrates.
    pub(crate) fn get() -> Self {
        *CLOCK.get_or_init(Self::calibrated)
    }

    fn calibrated() -> Self {
        let trusted = std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
        let origin = Instant::now();
        let Some(begin) = ticks().filter(|_| trusted.is_ok_and(|name| name.trim() == "tsc")) else {
            return Self { origin, counter: None };
        };
        while origin.elapsed() < CALIBRATION {
            std::hint::spin_loop();
        }
        let (end, elapsed) = (ticks().unwrap_or(begin), origin.elapsed());
        let rate = elapsed.as_nanos() as f64 / end.saturating_sub(begin).max(1) as f64;
        Self { origin, counter: Some((begin, rate)) }
    }

    /// Counts since the clock was made.
    #[inline(always)]
    pub(crate) fn now(&self) -> u64 {
        match (self.counter, ticks()) {
            (Some((begin, _)), Some(now)) => now.wrapping_sub(begin),
            _ => self.origin.elapsed().as_nanos() as u64,
        }
    }

    /// Seconds of some counts.
    pub(crate) fn seconds(&self, counts: u64) -> f64 {
        counts as f64 * 1e-9 * self.counter.map_or(1.0, |(_, rate)| rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_as_fast_as_the_systems_clock() {
        let clock = Clock::get();
        // A thread may lose its CPU between two readings, so one of a few tries must be undisturbed.
        let close = (0..20).any(|_| {
            let (begin, from) = (Instant::now(), clock.now());
            std::thread::sleep(Duration::from_millis(5));
            let (to, elapsed) = (clock.now(), begin.elapsed().as_secs_f64());
            (clock.seconds(to - from) / elapsed - 1.0).abs() < 0.002
        });
        assert!(close);
    }
}
