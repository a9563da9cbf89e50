//! The date and time that a template can ask for with `strftime_now`.

use std::fmt::Write;

const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A date of the Gregorian calendar and a time of day. Nothing is read from a clock here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CivilTime {
    /// 0 to 9999.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 60.
    pub second: u8,
}

impl CivilTime {
    /// The date and time so many seconds after the beginning of 1970, in the zone that is `offset` seconds east of UTC.
    pub fn from_unix(seconds: i64, offset: i64) -> Self {
        let local = seconds.saturating_add(offset).clamp(0, 253_402_300_799);
        let (days, time) = (local / 86_400, local % 86_400);
        // Years begin in March here, so that the leap day is the last of them; eras have 400 years
        // (Hinnant, "chrono-Compatible Low-Level Date Algorithms", 2013).
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        Self {
            year: year as u16,
            month: month as u8,
            day: (day_of_year - (153 * march_month + 2) / 5 + 1) as u8,
            hour: (time / 3_600) as u8,
            minute: (time / 60 % 60) as u8,
            second: (time % 60) as u8,
        }
    }

    /// The day of the year, from 1.
    fn day_of_year(self) -> u32 {
        const BEFORE: [u32; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let leap = self.year.is_multiple_of(4) && !self.year.is_multiple_of(100) || self.year.is_multiple_of(400);
        let before = BEFORE[usize::from(self.month.clamp(1, 12) - 1)];
        before + u32::from(self.day) + u32::from(leap && self.month > 2)
    }

    /// The day of the week, 0 for Monday.
    fn weekday(self) -> u32 {
        let past = u32::from(self.year).saturating_sub(1);
        (self.day_of_year() + 365 * past + past / 4 - past / 100 + past / 400 + 6) % 7
    }

    /// The text that Python's `strftime` makes of a format in the C locale; `%-d` and its like leave out leading zeros.
    /// An unknown directive stays as it is. Directives of zones and of weeks are unknown.
    pub fn format(self, format: &str) -> String {
        let mut text = String::with_capacity(format.len() + 16);
        let mut rest = format.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            let mut directive = rest.clone();
            let unpadded = directive.as_str().starts_with('-');
            if unpadded {
                directive.next();
            }
            match directive.next().map(|letter| self.directive(letter, unpadded, &mut text)) {
                Some(true) => rest = directive,
                _ => text.push('%'),
            }
        }
        text
    }

    /// Writes what a directive stands for; whether there is such a directive.
    fn directive(self, letter: char, unpadded: bool, text: &mut String) -> bool {
        let (month, weekday) = (MONTHS[usize::from(self.month.clamp(1, 12) - 1)], DAYS[self.weekday() as usize]);
        let hour12 = match self.hour % 12 {
            0 => 12,
            hour => hour,
        };
        let mut number = |value: u32, width: usize| {
            let width = if unpadded { 0 } else { width };
            let _ = write!(text, "{value:0width$}");
        };
        match letter {
            'd' => number(self.day.into(), 2),
            'm' => number(self.month.into(), 2),
            'y' => number(u32::from(self.year % 100), 2),
            'Y' => number(self.year.into(), 1),
            'C' => number(u32::from(self.year / 100), 2),
            'H' => number(self.hour.into(), 2),
            'I' => number(hour12.into(), 2),
            'M' => number(self.minute.into(), 2),
            'S' => number(self.second.into(), 2),
            'j' => number(self.day_of_year(), 3),
            'u' => number(self.weekday() + 1, 1),
            'w' => number((self.weekday() + 1) % 7, 1),
            'e' if !unpadded => {
                let _ = write!(text, "{:2}", self.day);
            }
            'e' => number(self.day.into(), 0),
            'f' => text.push_str("000000"),
            'A' => text.push_str(weekday),
            'a' => text.push_str(&weekday[..3]),
            'B' => text.push_str(month),
            'b' | 'h' => text.push_str(&month[..3]),
            'p' => text.push_str(if self.hour < 12 { "AM" } else { "PM" }),
            'F' => text.push_str(&self.format("%Y-%m-%d")),
            'T' | 'X' => text.push_str(&self.format("%H:%M:%S")),
            'R' => text.push_str(&self.format("%H:%M")),
            'D' | 'x' => text.push_str(&self.format("%m/%d/%y")),
            'c' => text.push_str(&self.format("%a %b %e %H:%M:%S %Y")),
            'n' => text.push('\n'),
            't' => text.push('\t'),
            '%' => text.push('%'),
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let date = |seconds| CivilTime::from_unix(seconds, 0).format("%Y-%m-%d %a %j %H:%M:%S");
        assert_eq!(date(0), "1970-01-01 Thu 001 00:00:00");
        assert_eq!(date(951_782_400), "2000-02-29 Tue 060 00:00:00");
        assert_eq!(date(1_709_251_199), "2024-02-29 Thu 060 23:59:59");
        assert_eq!(date(1_709_251_200), "2024-03-01 Fri 061 00:00:00");
        assert_eq!(date(4_102_444_800), "2100-01-01 Fri 001 00:00:00");
        assert_eq!(date(i64::MAX), "9999-12-31 Fri 365 23:59:59");
        assert_eq!(CivilTime::from_unix(1_709_251_200, -3600).format("%d %b %Y, %I %p"), "29 Feb 2024, 11 PM");
    }

    #[test]
    fn formats_are_pythons() {
        let time = CivilTime { year: 2024, month: 7, day: 4, hour: 0, minute: 5, second: 9 };
        for (format, expected) in [
            ("%d %b %Y", "04 Jul 2024"),
            ("%B %-d, %Y", "July 4, 2024"),
            ("%A, %B %d, %Y", "Thursday, July 04, 2024"),
            ("%e|%-e|%-H|%-I|%y|%C", " 4|4|0|12|24|20"),
            ("%c", "Thu Jul  4 00:05:09 2024"),
            ("%x %X %R %F %D %T %p %u %w", "07/04/24 00:05:09 00:05 2024-07-04 07/04/24 00:05:09 AM 4 4"),
            ("100%% %f %n%t", "100% 000000 \n\t"),
            ("%Q %-Q %", "%Q %-Q %"),
        ] {
            assert_eq!(time.format(format), expected, "{format}");
        }
    }
}
