//! Points in time as text, without a clock, a time zone or an allocation: everything is UTC.

/// A `%START_TIME(…)%` layout, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout(Box<[Part]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    Year,
    YearOfCentury,
    Month,
    MonthName {
        short: bool,
    },
    Day {
        pad: u8,
    },
    DayOfYear,
    WeekdayName {
        short: bool,
    },
    Hour,
    Hour12,
    HalfOfDay,
    Minute,
    Second,
    UnixSeconds,
    /// So many digits of the second's fraction.
    Fraction(usize),
}

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
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl Layout {
    /// Compiles a `strftime` layout with Envoy's additions (`%3f`, `%E3S`, `%E*S`, `%Ez`). The error is the specifier
    /// that has no meaning and its byte offset.
    pub(super) fn compile(text: &str) -> Result<Layout, (usize, String)> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            push_literal(&mut parts, &rest[..at]);
            let start = text.len() - rest.len() + at;
            let length = specifier_len(&rest[at..]);
            specifier(&rest[at..at + length], &mut parts).ok_or_else(|| (start, rest[at..at + length].to_owned()))?;
            rest = &rest[at + length..];
        }
        push_literal(&mut parts, rest);
        Ok(Layout(parts.into()))
    }

    /// Appends `unix_us`, in microseconds since 1970.
    pub(super) fn write(&self, unix_us: u64, out: &mut Vec<u8>) {
        let time = Utc::of(unix_us);
        self.0.iter().for_each(|part| part.write(&time, out));
    }
}

/// Appends `2024-02-29T12:34:56.007Z`, Envoy's default.
pub(super) fn rfc3339_ms(unix_us: u64, out: &mut Vec<u8>) {
    let time = Utc::of(unix_us);
    digits(time.year, 4, out);
    for (separator, value) in
        [(b'-', time.month), (b'-', time.day), (b'T', time.hour), (b':', time.minute), (b':', time.second)]
    {
        out.push(separator);
        digits(value, 2, out);
    }
    out.push(b'.');
    digits(time.nanosecond / 1_000_000, 3, out);
    out.push(b'Z');
}

fn push_literal(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Literal(text.into()));
    }
}

/// `%` with what belongs to it: `%E` and digits or `*` come before the letter.
fn specifier_len(text: &str) -> usize {
    let flags = text[1..].find(|char: char| !(char == 'E' || char == '*' || char.is_ascii_digit()));
    let letter = flags.map_or(0, |at| text[1 + at..].chars().next().map_or(0, char::len_utf8));
    1 + flags.unwrap_or(text.len() - 1) + letter
}

fn specifier(text: &str, parts: &mut Vec<Part>) -> Option<()> {
    let single = match &text[1..] {
        "Y" => Part::Year,
        "y" => Part::YearOfCentury,
        "m" => Part::Month,
        "B" => Part::MonthName { short: false },
        "b" | "h" => Part::MonthName { short: true },
        "d" => Part::Day { pad: b'0' },
        "e" => Part::Day { pad: b' ' },
        "j" => Part::DayOfYear,
        "A" => Part::WeekdayName { short: false },
        "a" => Part::WeekdayName { short: true },
        "H" => Part::Hour,
        "I" => Part::Hour12,
        "p" => Part::HalfOfDay,
        "M" => Part::Minute,
        "S" => Part::Second,
        "s" => Part::UnixSeconds,
        "f" => Part::Fraction(9),
        "z" => Part::Literal("+0000".into()),
        "Ez" => Part::Literal("+00:00".into()),
        "Z" => Part::Literal("UTC".into()),
        "%" => Part::Literal("%".into()),
        "F" => return compound(parts, &["%Y", "-", "%m", "-", "%d"]),
        "T" => return compound(parts, &["%H", ":", "%M", ":", "%S"]),
        "R" => return compound(parts, &["%H", ":", "%M"]),
        "D" => return compound(parts, &["%m", "/", "%d", "/", "%y"]),
        "E*S" => return compound(parts, &["%S", ".", "%6f"]),
        other => return fraction(other, parts),
    };
    parts.push(single);
    Some(())
}

fn compound(parts: &mut Vec<Part>, pieces: &[&str]) -> Option<()> {
    for piece in pieces {
        match piece.starts_with('%') {
            true => specifier(piece, parts)?,
            false => push_literal(parts, piece),
        }
    }
    Some(())
}

/// `3f` and `E3S`.
fn fraction(text: &str, parts: &mut Vec<Part>) -> Option<()> {
    let digits = |text: &str| text.parse().ok().filter(|digits| (1..=9).contains(digits));
    if let Some(count) = text.strip_suffix('f') {
        parts.push(Part::Fraction(digits(count)?));
    } else {
        let count = digits(text.strip_prefix('E')?.strip_suffix('S')?)?;
        parts.extend([Part::Second, Part::Literal(".".into()), Part::Fraction(count)]);
    }
    Some(())
}

impl Part {
    fn write(&self, time: &Utc, out: &mut Vec<u8>) {
        match self {
            Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Part::Year => digits(time.year, 4, out),
            Part::YearOfCentury => digits(time.year % 100, 2, out),
            Part::Month => digits(time.month, 2, out),
            Part::MonthName { short } => name(MONTHS[time.month as usize - 1], *short, out),
            Part::Day { pad } if time.day < 10 => out.extend_from_slice(&[*pad, b'0' + time.day as u8]),
            Part::Day { .. } => digits(time.day, 2, out),
            Part::DayOfYear => digits(time.day_of_year(), 3, out),
            Part::WeekdayName { short } => name(WEEKDAYS[time.weekday()], *short, out),
            Part::Hour => digits(time.hour, 2, out),
            Part::Hour12 => digits((time.hour + 11) % 12 + 1, 2, out),
            Part::HalfOfDay => out.extend_from_slice(if time.hour < 12 { b"AM" } else { b"PM" }),
            Part::Minute => digits(time.minute, 2, out),
            Part::Second => digits(time.second, 2, out),
            Part::UnixSeconds => out.extend_from_slice(itoa::Buffer::new().format(time.unix_s).as_bytes()),
            Part::Fraction(count) => digits(time.nanosecond / 10_u32.pow(9 - *count as u32), *count, out),
        }
    }
}

fn name(text: &str, short: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if short { &text.as_bytes()[..3] } else { text.as_bytes() });
}

fn digits(value: u32, count: usize, out: &mut Vec<u8>) {
    let mut text = [b'0'; 10];
    let mut rest = value;
    for digit in text[..count].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&text[..count]);
}

struct Utc {
    unix_s: u64,
    year: u32,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
    nanosecond: u32,
}

impl Utc {
    fn of(unix_us: u64) -> Utc {
        // The layouts have four digits for the year: 9999-12-31T23:59:59.999999Z is as far as they go.
        let unix_us = unix_us.min(253_402_300_799_999_999);
        let unix_s = unix_us / 1_000_000;
        let (days, of_day) = ((unix_s / 86_400) as u32, (unix_s % 86_400) as u32);
        let (year, month, day) = civil(days);
        Utc {
            unix_s,
            year,
            month,
            day,
            hour: of_day / 3_600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
            nanosecond: (unix_us % 1_000_000) as u32 * 1_000,
        }
    }

    /// 0 is Sunday; 1970-01-01 was a Thursday.
    fn weekday(&self) -> usize {
        (self.unix_s / 86_400 + 4) as usize % 7
    }

    fn day_of_year(&self) -> u32 {
        const BEFORE: [u32; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let leap = self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400));
        BEFORE[self.month as usize - 1] + self.day + u32::from(leap && self.month > 2)
    }
}

/// Year, month and day of a day since 1970-01-01, in the proleptic Gregorian calendar: Howard Hinnant's
/// `civil_from_days`, with years that begin in March so that the leap day is the last.
fn civil(days: u32) -> (u32, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u32::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    const LEAP_DAY_US: u64 = 1_709_210_096_007_089; // 2024-02-29T12:34:56.007089Z

    fn formatted(layout: &str, unix_us: u64) -> String {
        let mut out = Vec::new();
        Layout::compile(layout).unwrap().write(unix_us, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_specifier_is_written() {
        for (layout, text) in [
            ("%Y-%m-%dT%H:%M:%S.%3fZ", "2024-02-29T12:34:56.007Z"),
            ("%F %T %R %D", "2024-02-29 12:34:56 12:34 02/29/24"),
            ("%s.%3f", "1709210096.007"),
            ("%f %1f %6f %9f", "007089000 0 007089 007089000"),
            ("%E3S %E*S %Ez", "56.007 56.007089 +00:00"),
            ("%a %A %b %B %h %e %j", "Thu Thursday Feb February Feb 29 060"),
            ("%I %p %y %z %Z 100%%", "12 PM 24 +0000 UTC 100%"),
            ("no specifier", "no specifier"),
        ] {
            assert_eq!(formatted(layout, LEAP_DAY_US), text, "{layout}");
        }
        assert_eq!(formatted("%e|%I %p|%j", 0), " 1|12 AM|001");
    }

    #[test]
    fn what_has_no_meaning_is_an_error_with_its_place() {
        for (layout, at, specifier) in
            [("%Y %Q", 3, "%Q"), ("%", 0, "%"), ("a%0f", 1, "%0f"), ("%E12S", 0, "%E12S"), ("%é", 0, "%é")]
        {
            assert_eq!(Layout::compile(layout), Err((at, specifier.to_owned())), "{layout}");
        }
    }

    proptest! {
        #[test]
        fn the_calendar_agrees_with_humantime(unix_us in 0_u64..=253_402_300_799_999_999) {
            let mut out = Vec::new();
            rfc3339_ms(unix_us, &mut out);
            let expected = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_micros(unix_us)).to_string();
            prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
