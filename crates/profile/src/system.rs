//! Linux's accounting of this process; on other systems every figure is absent.

use std::fs;

use serde::{Deserialize, Serialize};

/// Counters since the process, or the machine, began.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemCounters {
    cpu_ticks: Option<f64>,
    minor_faults: Option<f64>,
    major_faults: Option<f64>,
    switches: Option<(f64, f64)>,
    /// Ticks of all CPUs: those stolen by the host, and all.
    steal: Option<(f64, f64)>,
}

/// What the system counted between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SystemUse {
    /// Seconds of CPU time, all threads together.
    pub cpu_seconds: Option<f64>,
    /// Minor page faults: pages touched for the first time.
    pub minor_faults: Option<f64>,
    /// Major page faults: pages read from a disk.
    pub major_faults: Option<f64>,
    /// Context switches in which a thread gave its CPU up.
    pub voluntary_switches: Option<f64>,
    /// Context switches in which the kernel took the CPU away.
    pub involuntary_switches: Option<f64>,
    /// The share of the machine's time that its host gave to others.
    pub steal: Option<f64>,
    /// Frequency of the slowest and of the fastest CPU at the second reading: MHz. None if the system doesn't state it.
    pub mhz: Option<(f64, f64)>,
}

/// Ticks per second of Linux's accounting, on every architecture that this program is built for.
const TICKS: f64 = 100.0;

impl SystemCounters {
    /// Reads the counters.
    pub fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // Fields are counted from the end of the process's name, which may hold spaces and parentheses.
        let fields: Vec<f64> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().map(|word| word.parse().unwrap_or(0.0)).collect())
            .unwrap_or_default();
        let field = |number: usize| fields.get(number - 3).copied();
        Self {
            cpu_ticks: field(14).zip(field(15)).map(|(user, system)| user + system),
            minor_faults: field(10),
            major_faults: field(12),
            switches: switches(),
            steal: steal(),
        }
    }

    /// What was counted since this reading.
    pub fn since(&self) -> SystemUse {
        let now = Self::read();
        let less = |now: Option<f64>, before: Option<f64>| Some((now? - before?).max(0.0));
        let steal = now.steal.zip(self.steal).map(|(now, before)| (now.0 - before.0) / (now.1 - before.1).max(1.0));
        SystemUse {
            cpu_seconds: less(now.cpu_ticks, self.cpu_ticks).map(|ticks| ticks / TICKS),
            minor_faults: less(now.minor_faults, self.minor_faults),
            major_faults: less(now.major_faults, self.major_faults),
            voluntary_switches: less(now.switches.map(|s| s.0), self.switches.map(|s| s.0)),
            involuntary_switches: less(now.switches.map(|s| s.1), self.switches.map(|s| s.1)),
            steal,
            mhz: frequencies(),
        }
    }
}

/// Voluntary and involuntary switches of all threads.
fn switches() -> Option<(f64, f64)> {
    let mut all = (0.0, 0.0);
    for task in fs::read_dir("/proc/self/task").ok()?.flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let count = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim().parse::<f64>().ok()).unwrap_or(0.0)
        };
        all.0 += count("voluntary_ctxt_switches:");
        all.1 += count("nonvoluntary_ctxt_switches:");
    }
    Some(all)
}

fn steal() -> Option<(f64, f64)> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<f64> = stat.lines().next()?.split_whitespace().skip(1).filter_map(|w| w.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; the fields after these are part of user.
    Some((*ticks.get(7)?, ticks.iter().take(8).sum()))
}

fn frequencies() -> Option<(f64, f64)> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let all = info.lines().filter(|line| line.starts_with("cpu MHz")).filter_map(|line| line.split(':').nth(1));
    let all: Vec<f64> = all.filter_map(|text| text.trim().parse().ok()).collect();
    let least = all.iter().copied().reduce(f64::min)?;
    Some((least, all.into_iter().fold(least, f64::max)))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted() {
        let before = SystemCounters::read();
        let begin = std::time::Instant::now();
        let touched = vec![1u8; 64 << 20];
        while begin.elapsed().as_millis() < 200 || std::hint::black_box(&touched).is_empty() {}
        let used = before.since();
        assert!(used.cpu_seconds > Some(0.01) && used.minor_faults > Some(10.0), "{used:?}");
        assert!(used.voluntary_switches.is_some() && used.steal.is_none_or(|s| (0.0..=1.0).contains(&s)), "{used:?}");
    }
}
