//! Numbers with units, for people.

/// A number with two to three significant digits, or all digits before the point: `0.012`, `12.3`, `1,234`.
pub fn number(x: f64) -> String {
    let size = x.abs();
    if !x.is_finite() {
        "-".to_owned()
    } else if size >= 99.95 {
        grouped(x.round())
    } else if size >= 9.995 {
        format!("{x:.1}")
    } else if size >= 0.0995 || size == 0.0 {
        format!("{x:.2}")
    } else {
        format!("{x:.3}")
    }
}

fn grouped(x: f64) -> String {
    let digits = format!("{:.0}", x.abs());
    let mut text = if x < 0.0 { "-".to_owned() } else { String::new() };
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A share: `97.3 %`.
pub fn percent(x: f64) -> String {
    if x.is_finite() { format!("{:.1} %", x * 100.0) } else { "-".to_owned() }
}

/// A change: `+12.0 %`.
pub fn change(x: f64) -> String {
    if x.is_finite() { format!("{:+.1} %", x * 100.0) } else { "-".to_owned() }
}

/// Seconds: `12.3 µs`, `4.56 ms`, `1.20 s`.
pub fn seconds(x: f64) -> String {
    match x.abs() {
        s if s < 1e-3 => format!("{} µs", number(x * 1e6)),
        s if s < 1.0 => format!("{} ms", number(x * 1e3)),
        _ => format!("{} s", number(x)),
    }
}

/// Bytes in decimal units, as in bandwidths: `1.20 MB`.
pub fn bytes(x: f64) -> String {
    match x.abs() {
        b if b < 1e3 => format!("{x:.0} B"),
        b if b < 1e6 => format!("{} kB", number(x * 1e-3)),
        b if b < 1e9 => format!("{} MB", number(x * 1e-6)),
        _ => format!("{} GB", number(x * 1e-9)),
    }
}

/// Operations: `1.20 MFLOP`.
pub fn flops(x: f64) -> String {
    match x.abs() {
        f if f < 1e6 => format!("{} kFLOP", number(x * 1e-3)),
        f if f < 1e9 => format!("{} MFLOP", number(x * 1e-6)),
        _ => format!("{} GFLOP", number(x * 1e-9)),
    }
}

/// A count: `135 M`.
pub fn count(x: f64) -> String {
    match x.abs() {
        n if n < 1e6 => grouped(x.round()),
        n if n < 1e9 => format!("{} M", number(x * 1e-6)),
        _ => format!("{} G", number(x * 1e-9)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [0.0, 0.0123, 1.234, 12.34, 1234.4, -1234.0].map(number),
            ["0.00", "0.012", "1.23", "12.3", "1,234", "-1,234"]
        );
        assert_eq!([2e-6, 0.0034, 2.0].map(seconds), ["2.00 µs", "3.40 ms", "2.00 s"]);
        assert_eq!([12.0, 1.5e3, 2.5e8].map(bytes), ["12 B", "1.50 kB", "250 MB"]);
        assert_eq!((percent(0.973), change(0.12), count(135e6)), ("97.3 %".into(), "+12.0 %".into(), "135 M".into()));
    }
}
