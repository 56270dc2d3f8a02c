//! Values as people read them, and text as HTML takes it.

use std::fmt;
use std::time::Duration;

/// Text of anybody's, between tags or in a quoted attribute.
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let special = |c| matches!(c, '<' | '>' | '&' | '"' | '\'');
        let mut rest = self.0;
        while let Some(at) = rest.find(special) {
            f.write_str(&rest[..at])?;
            f.write_str(match rest.as_bytes()[at] {
                b'<' => "&lt;",
                b'>' => "&gt;",
                b'&' => "&amp;",
                b'"' => "&quot;",
                _ => "&#39;",
            })?;
            rest = &rest[at + 1..];
        }
        f.write_str(rest)
    }
}

/// So many, in three or four digits.
pub fn count(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..1_000_000 => format!("{:.1}k", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}M", count as f64 / 1e6),
        _ => format!("{:.1}G", count as f64 / 1e9),
    }
}

/// So many a second.
pub fn rate(rate: f64) -> String {
    match rate {
        r if r < 0.05 => "0".to_owned(),
        r if r < 9.95 => format!("{r:.1}"),
        r if r < 9999.5 => format!("{r:.0}"),
        r => format!("{:.1}k", r / 1e3),
    }
}

/// A share from 0 to 1.
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        p if p <= 0.0 => "0 %".to_owned(),
        p if p < 0.1 => "under 0.1 %".to_owned(),
        p if p >= 99.95 => "100 %".to_owned(),
        p => format!("{p:.1} %"),
    }
}

/// A latency.
pub fn latency(seconds: f64) -> String {
    match seconds {
        s if s < 0.00095 => format!("{:.0} µs", s * 1e6),
        s if s < 0.00995 => format!("{:.1} ms", s * 1e3),
        s if s < 0.9995 => format!("{:.0} ms", s * 1e3),
        s => format!("{s:.1} s"),
    }
}

pub fn dollars(dollars: f64) -> String {
    match dollars {
        d if d <= 0.0 => "$0".to_owned(),
        d if d < 0.0001 => "under $0.0001".to_owned(),
        // Cents, and what is finer where there is any.
        d if d < 1.0 => {
            let told = format!("${d:.4}");
            told.strip_suffix("00").map_or(told.clone(), str::to_owned)
        }
        d => format!("${d:.2}"),
    }
}

pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1023.95 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

/// A span of time, in its two largest units.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min"),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_is_escaped() {
        let evil = "<script>alert('1' & \"2\")</script>";
        assert_eq!(Escaped(evil).to_string(), "&lt;script&gt;alert(&#39;1&#39; &amp; &quot;2&quot;)&lt;/script&gt;");
        assert_eq!(Escaped("猫.jpg").to_string(), "猫.jpg");
    }

    #[test]
    fn values_are_short() {
        for (is, should) in [
            (count(9999), "9999"),
            (count(12_345), "12.3k"),
            (count(4_560_000), "4.6M"),
            (rate(0.0), "0"),
            (rate(0.26), "0.3"),
            (rate(41.7), "42"),
            (rate(12_345.0), "12.3k"),
            (percent(0.0), "0 %"),
            (percent(0.0001), "under 0.1 %"),
            (percent(0.8213), "82.1 %"),
            (percent(1.0), "100 %"),
            (latency(0.0005), "500 µs"),
            (latency(0.0042), "4.2 ms"),
            (latency(0.25), "250 ms"),
            (latency(1.25), "1.2 s"),
            (dollars(0.0), "$0"),
            (dollars(0.0042), "$0.0042"),
            (dollars(0.5), "$0.50"),
            (dollars(12.345), "$12.35"),
            (bytes(999), "999 B"),
            (bytes(1_048_576), "1.0 MiB"),
            (bytes(10 << 30), "10.0 GiB"),
            (span(Duration::from_secs(59)), "59 s"),
            (span(Duration::from_secs(3599)), "59 min"),
            (span(Duration::from_secs(7980)), "2 h 13 min"),
            (span(Duration::from_secs(100 * 3600)), "4 d 4 h"),
        ] {
            assert_eq!(is, should);
        }
    }
}
