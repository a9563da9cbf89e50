//! Linux performance events of this thread and of the threads that it starts; on other systems nothing is counted.
//!
//! A unit of the CPU counts instructions, cycles and cache misses. Many virtual machines hide it and many systems
//! forbid it; a counter that can't be opened is absent. The kernel counts faults, switches and CPU time.

use serde::{Deserialize, Serialize};

/// Numbers of events; none for a counter that can't be opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Events {
    /// Instructions outside of the kernel.
    pub instructions: Option<f64>,
    /// Cycles of the CPU outside of the kernel.
    pub cycles: Option<f64>,
    /// Accesses outside of the kernel that miss all caches.
    pub cache_misses: Option<f64>,
    /// Page faults.
    pub page_faults: Option<f64>,
    /// Context switches.
    pub switches: Option<f64>,
    /// Seconds of CPU time, all threads together.
    pub cpu_seconds: Option<f64>,
}

impl Events {
    /// Applies `f` to each number in `self` and in `other`; absent if it is in either.
    fn with(self, other: Self, f: impl Fn(f64, f64) -> f64) -> Self {
        let both = |a: Option<f64>, b: Option<f64>| Some(f(a?, b?));
        Self {
            instructions: both(self.instructions, other.instructions),
            cycles: both(self.cycles, other.cycles),
            cache_misses: both(self.cache_misses, other.cache_misses),
            page_faults: both(self.page_faults, other.page_faults),
            switches: both(self.switches, other.switches),
            cpu_seconds: both(self.cpu_seconds, other.cpu_seconds),
        }
    }

    /// Events since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        self.with(earlier, |now, then| (now - then).max(0.0))
    }

    /// Each number divided by `count`.
    #[must_use]
    pub fn per(self, count: f64) -> Self {
        self.with(self, |all, _| all / count)
    }
}

/// The open counters.
#[derive(Default)]
pub struct Counters {
    #[cfg(target_os = "linux")]
    open: linux::Open,
}

impl Counters {
    /// Opens all counters that the system allows. They count this thread and those that are started later.
    pub fn open() -> Self {
        #[cfg(target_os = "linux")]
        return Self { open: linux::Open::all() };
        #[cfg(not(target_os = "linux"))]
        Self::default()
    }

    /// Events since they were opened.
    pub fn read(&mut self) -> Events {
        #[cfg(target_os = "linux")]
        return self.open.read();
        #[cfg(not(target_os = "linux"))]
        Events::default()
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use perf_event::events::{Event, Hardware, Software};
    use perf_event::{Builder, Counter};

    use super::Events;

    /// Nanoseconds in a second: the kernel counts CPU time in nanoseconds.
    const SECOND: f64 = 1e9;

    #[derive(Default)]
    pub(super) struct Open {
        instructions: Option<Counter>,
        cycles: Option<Counter>,
        cache_misses: Option<Counter>,
        page_faults: Option<Counter>,
        switches: Option<Counter>,
        cpu_time: Option<Counter>,
    }

    /// Which events are counted.
    #[derive(Clone, Copy, PartialEq)]
    enum Side {
        /// Those of user code.
        User,
        /// Those of the kernel as well.
        Both,
    }

    /// A running counter for this thread and those that it starts; none if the system refuses.
    fn counting(event: impl Event, side: Side) -> Option<Counter> {
        let mut builder = Builder::new(event);
        builder.inherit(true);
        if side == Side::Both {
            builder.include_kernel();
        }
        let mut counter = builder.build().ok()?;
        counter.enable().ok()?;
        Some(counter)
    }

    /// The count. It is extrapolated if the CPU ran the counter only a part of the time, because more counters are open
    /// than it has.
    fn value(counter: &mut Option<Counter>) -> Option<f64> {
        let read = counter.as_mut()?.read_count_and_time().ok()?;
        let share = read.time_running as f64 / read.time_enabled.max(1) as f64;
        (share > 0.0).then(|| read.count as f64 / share.min(1.0))
    }

    impl Open {
        pub(super) fn all() -> Self {
            Self {
                instructions: counting(Hardware::INSTRUCTIONS, Side::User),
                cycles: counting(Hardware::CPU_CYCLES, Side::User),
                cache_misses: counting(Hardware::CACHE_MISSES, Side::User),
                page_faults: counting(Software::PAGE_FAULTS, Side::User),
                // These events happen in the kernel. A user who may not count there gets none.
                switches: counting(Software::CONTEXT_SWITCHES, Side::Both),
                cpu_time: counting(Software::TASK_CLOCK, Side::User),
            }
        }

        pub(super) fn read(&mut self) -> Events {
            Events {
                instructions: value(&mut self.instructions),
                cycles: value(&mut self.cycles),
                cache_misses: value(&mut self.cache_misses),
                page_faults: value(&mut self.page_faults),
                switches: value(&mut self.switches),
                cpu_seconds: value(&mut self.cpu_time).map(|nanoseconds| nanoseconds / SECOND),
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// A system may forbid counting: then all counters are absent, and nothing fails.
    #[test]
    fn other_threads_are_counted_and_refused_counters_are_absent() {
        let mut counters = Counters::open();
        let before = counters.read();
        let pages = 4096;
        std::thread::spawn(move || {
            let touched = vec![1_u8; pages * 4096];
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_millis(20) {
                std::hint::spin_loop();
            }
            std::thread::sleep(Duration::from_millis(1));
            drop(std::hint::black_box(touched));
        })
        .join()
        .unwrap();
        let counted = counters.read().since(before);
        println!("{counted:?}");
        // How many events there are depends on the system. But touched memory, work and a sleep cause at least one
        // event of each kind.
        let some = |count: Option<f64>| count.is_none_or(|n| n > 0.0);
        assert!(some(counted.page_faults) && some(counted.switches), "{counted:?}");
        assert!(some(counted.cpu_seconds) && some(counted.instructions), "{counted:?}");
        if counted.cpu_seconds.is_none() {
            assert_eq!(counted, Events::default());
        }
    }

    #[test]
    fn events_are_divided_and_absent_ones_stay_absent() {
        let before = Events { instructions: Some(10.0), switches: Some(1.0), ..Events::default() };
        let now = Events { instructions: Some(30.0), cycles: Some(7.0), switches: Some(1.0), ..Events::default() };
        let expected = Events { instructions: Some(5.0), switches: Some(0.0), ..Events::default() };
        assert_eq!(now.since(before).per(4.0), expected);
    }
}
