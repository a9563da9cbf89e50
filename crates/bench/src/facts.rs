//! Figures that all records of whole models have.

use std::time::{SystemTime, UNIX_EPOCH};

use smallmind_model::chat::CivilTime;

/// Mean, and the standard deviation of the values that they are a sample of.
pub fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0).max(1.0)).sqrt())
}

pub fn nanoseconds(seconds: f64) -> u64 {
    (1e9 * seconds).round() as u64
}

/// `2026-11-30T10:45:15Z`.
pub fn utc(when: SystemTime) -> String {
    let seconds = when.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let CivilTime { year, month, day, hour, minute, second } = CivilTime::from_unix(seconds as i64, 0);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The most memory that this process has used, from `/proc/self/status`.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_are_those_of_a_sample() {
        assert_eq!(mean_and_deviation(&[1.0, 2.0, 3.0, 6.0]), (3.0, (14.0f64 / 3.0).sqrt()));
        assert_eq!(mean_and_deviation(&[5.0]), (5.0, 0.0));
    }

    #[test]
    fn times_are_in_utc() {
        assert_eq!(utc(UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000)), "2001-09-09T01:46:40Z");
    }
}
