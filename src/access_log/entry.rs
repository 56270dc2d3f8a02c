//! A line: one answered request, as JSON or in Apache's combined format.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::Serialize;

use crate::fallback::Failure;
use crate::trip::{Cached, Trip};

/// One answered request.
pub struct Entry<'a> {
    pub time: SystemTime,
    pub took: Duration,
    pub listener: &'a str,
    pub client: IpAddr,
    pub method: &'a str,
    pub target: &'a [u8],
    pub protocol: &'a str,
    pub host: &'a [u8],
    pub referer: &'a [u8],
    pub user_agent: &'a [u8],
    /// 0 when no answer was sent.
    pub status: u16,
    pub trip: &'a Trip,
}

/// A line of JSON. The keys are in order; docs/logs.md says what each means.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    aborted: Option<&'a str>,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<&'a str>,
    client: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'a str>,
    hops: fmt::Arguments<'a>,
    host: Cow<'a, str>,
    listener: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    looped_by: Option<&'a str>,
    method: &'a str,
    protocol: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    referer: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample_one_in: Option<NonZeroU32>,
    seconds: f64,
    served_by: &'a str,
    status: u16,
    target: Cow<'a, str>,
    time: fmt::Arguments<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: Cow<'a, str>,
}

impl Entry<'_> {
    /// `one_in` of `None`: this line stands for itself alone.
    pub(super) fn json(&self, one_in: Option<NonZeroU32>, text: &mut Vec<u8>) -> io::Result<()> {
        let time = Timestamp::try_from(self.time).unwrap_or_default();
        let told = self.trip.trace.as_ref().filter(|trace| trace.sampled);
        let line = Line {
            aborted: self.trip.aborted,
            bytes: self.trip.sent,
            cache: self.trip.cached.map(Cached::as_str),
            client: self.client,
            failure: self.trip.failure.map(Failure::as_str),
            hops: format_args!("{}", self.trip.hops()),
            host: String::from_utf8_lossy(self.host),
            listener: self.listener,
            location: self.trip.located,
            looped_by: self.trip.looped_by.as_deref(),
            method: self.method,
            protocol: self.protocol,
            referer: String::from_utf8_lossy(self.referer),
            refused: self.trip.misshapen,
            sample_one_in: one_in,
            seconds: seconds(self.took),
            served_by: self.trip.served_by.as_deref().unwrap_or("hopfall"),
            status: self.status,
            target: String::from_utf8_lossy(self.target),
            time: format_args!("{time:.3}"),
            trace_id: told.map(|trace| format!("{:032x}", trace.id)),
            user_agent: String::from_utf8_lossy(self.user_agent),
        };
        serde_json::to_writer(&mut *text, &line)?;
        text.push(b'\n');
        Ok(())
    }

    /// Apache's combined format, with the hops as one more quoted field.
    pub(super) fn combined(&self, text: &mut Vec<u8>) -> io::Result<()> {
        begin_combined(self.client, self.time, text)?;
        write!(text, "\"{} ", self.method)?;
        escape(self.target, text)?;
        write!(text, " {}\" {} {}", self.protocol, self.status, self.trip.sent)?;
        let hops = self.trip.hops().to_string();
        for field in [self.referer, self.user_agent, hops.as_bytes()] {
            text.extend_from_slice(b" \"");
            escape(if field.is_empty() { b"-" } else { field }, text)?;
            text.push(b'"');
        }
        text.push(b'\n');
        Ok(())
    }
}

/// With microseconds.
pub(super) fn seconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e6
}

/// What a line in the combined format has before the request.
pub(super) fn begin_combined(client: IpAddr, time: SystemTime, text: &mut Vec<u8>) -> io::Result<()> {
    let time = Timestamp::try_from(time).unwrap_or_default();
    write!(text, "{client} - - [{}] ", time.strftime("%d/%b/%Y:%H:%M:%S +0000"))
}

/// Adds what a quoted field may hold; the rest as Apache escapes it, so that no client can write a line of its own.
pub(super) fn escape(bytes: &[u8], text: &mut Vec<u8>) -> io::Result<()> {
    for byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => text.push(*byte),
            _ => write!(text, "\\x{byte:02x}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AccessFormat;
    use crate::fallback::Outcome;
    use crate::trip::Attempt;

    fn told(format: AccessFormat) -> String {
        let attempt = |target: &str, outcome| Attempt {
            target: target.into(),
            pool: "p".into(),
            outcome,
            began: Duration::ZERO,
            took: Duration::from_millis(3),
            span: 0,
        };
        let trip = Trip {
            attempts: vec![attempt("taiga", Outcome::Absent(404)), attempt("chitoge", Outcome::Found(200))],
            served_by: Some("chitoge".into()),
            sent: 5,
            ..Trip::default()
        };
        let entry = Entry {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_764_000_000_123),
            took: Duration::from_micros(8123),
            listener: "web",
            client: "1.2.3.4".parse().unwrap(),
            method: "GET",
            target: b"/a\"b\n",
            protocol: "HTTP/1.1",
            host: b"h",
            referer: b"",
            user_agent: b"x\x01",
            status: 200,
            trip: &trip,
        };
        let mut line = Vec::new();
        match format {
            AccessFormat::Json => entry.json(NonZeroU32::new(10), &mut line).unwrap(),
            _ => entry.combined(&mut line).unwrap(),
        }
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_line_is_json() {
        let line: serde_json::Value = serde_json::from_str(&told(AccessFormat::Json)).unwrap();
        assert_eq!(line["time"], "2025-11-24T16:00:00.123Z");
        assert_eq!(line["hops"], "taiga:404:3ms chitoge:200:3ms");
        assert_eq!(line["served_by"], "chitoge");
        assert_eq!(line["seconds"], 0.008123);
        assert_eq!(line["target"], "/a\"b\n");
        assert_eq!(line["sample_one_in"], 10);
        assert!(line.get("failure").is_none());
    }

    #[test]
    fn a_line_is_combined() {
        assert_eq!(
            told(AccessFormat::Combined),
            r#"1.2.3.4 - - [24/Nov/2025:16:00:00 +0000] "GET /a\"b\x0a HTTP/1.1" 200 5 "-" "x\x01" "taiga:404:3ms chitoge:200:3ms""#.to_owned() + "\n"
        );
    }
}
