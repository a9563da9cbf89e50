//! Numbers as people write and read them.

use std::fmt::Display;
use std::ops::{Bound, RangeBounds};
use std::str::FromStr;

use clap::builder::TypedValueParser;

/// Parses a whole number.
pub fn whole(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "it must be a whole number, 0 or more".to_owned())
}

/// A parser of whole numbers within a range.
pub fn within<T>(range: impl RangeBounds<T> + Clone + Send + Sync + 'static) -> impl TypedValueParser<Value = T>
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text: &str| {
        text.parse().ok().filter(|n| range.contains(n)).ok_or_else(|| {
            let end = match range.end_bound() {
                Bound::Included(end) => format!("to {end}"),
                Bound::Excluded(end) => format!("to below {end}"),
                Bound::Unbounded => "up".to_owned(),
            };
            match range.start_bound() {
                Bound::Included(start) | Bound::Excluded(start) => {
                    format!("it must be a whole number from {start} {end}")
                }
                Bound::Unbounded => format!("it must be a whole number {end}"),
            }
        })
    }
}

/// Parses a text that must not be empty.
pub fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("it is empty; give at least one character".to_owned()) } else { Ok(text.to_owned()) }
}

/// Parses a number.
pub fn number(text: &str) -> Result<f32, String> {
    text.parse().map_err(|_| "it must be a number".to_owned())
}

/// A count: `65`, `12,345`, `1.23 M`.
pub fn count(n: u64) -> String {
    match n {
        0..100_000 => grouped(n),
        100_000..1_000_000_000 => format!("{:.2} M", n as f64 / 1e6),
        _ => format!("{:.2} G", n as f64 / 1e9),
    }
}

/// A whole number with a comma between its thousands.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things: `1 piece`, `3 pieces`. `noun` forms its plural with an s.
pub fn plural(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// Bytes: `512 B`, `1.5 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let (mut value, mut unit) = (n as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A rate: `1,234` or `12.3`.
pub fn rate(x: f64) -> String {
    if !x.is_finite() {
        "-".to_owned()
    } else if x >= 100.0 {
        grouped(x.round() as u64)
    } else {
        format!("{x:.1}")
    }
}

/// A time: `8.1 s`, `1 min 05 s`, `2 h 03 min`.
pub fn seconds(s: f64) -> String {
    if !s.is_finite() || s < 0.0 {
        return "-".to_owned();
    }
    let whole = s.round() as u64;
    match whole {
        0..60 => format!("{s:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1000, 12_345, 1_234_567].map(grouped), ["0", "999", "1,000", "12,345", "1,234,567"]);
        assert_eq!([65, 99_999, 804_480, 1_500_000_000].map(count), ["65", "99,999", "0.80 M", "1.50 G"]);
        assert_eq!([0, 1, 2].map(|n| plural(n, "piece")), ["0 pieces", "1 piece", "2 pieces"]);
        assert_eq!([0, 1023, 1536, 5 << 30].map(bytes), ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        assert_eq!([0.0, 12.34, 99_999.6, f64::NAN].map(rate), ["0.0", "12.3", "100,000", "-"]);
        assert_eq!([0.04, 59.4, 65.0, 7380.0].map(seconds), ["0.0 s", "59.4 s", "1 min 05 s", "2 h 03 min"]);
        assert_eq!(seconds(f64::INFINITY), "-");
    }
}
