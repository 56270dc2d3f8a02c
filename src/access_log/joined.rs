//! A line: one connection of a tcp listener, at its end.

use std::io::{self, Write};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::Serialize;

use super::entry::{begin_combined, escape, seconds};

/// One connection that was joined to a node, or that no node took.
pub struct Joined<'a> {
    pub time: SystemTime,
    pub took: Duration,
    pub listener: &'a str,
    pub client: IpAddr,
    /// Each attempt as `node:result:time`, with spaces between.
    pub hops: &'a str,
    /// The node, if there was one.
    pub node: Option<&'a str>,
    /// Bytes from the client.
    pub received: u64,
    /// Bytes to the client.
    pub sent: u64,
    pub ended: Ended,
}

/// How a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// Each side has said that it is done.
    Closed,
    /// Nothing came either way for `idle_timeout`.
    Idle,
    /// A side broke off.
    Broken,
    /// No node took it.
    Unserved,
}

/// The keys are in order; docs/logs.md says what each means.
#[derive(Serialize)]
struct Line<'a> {
    bytes: u64,
    client: IpAddr,
    ended: Ended,
    hops: &'a str,
    listener: &'a str,
    protocol: &'a str,
    received: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample_one_in: Option<NonZeroU32>,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    served_by: Option<&'a str>,
    time: std::fmt::Arguments<'a>,
}

impl Joined<'_> {
    /// Whether a log must not leave it out.
    pub(super) fn went_wrong(&self) -> bool {
        matches!(self.ended, Ended::Unserved | Ended::Broken)
    }

    /// `one_in` of `None`: this line stands for itself alone.
    pub(super) fn json(&self, one_in: Option<NonZeroU32>, text: &mut Vec<u8>) -> io::Result<()> {
        let time = Timestamp::try_from(self.time).unwrap_or_default();
        let line = Line {
            bytes: self.sent,
            client: self.client,
            ended: self.ended,
            hops: self.hops,
            listener: self.listener,
            protocol: "TCP",
            received: self.received,
            sample_one_in: one_in,
            seconds: seconds(self.took),
            served_by: self.node,
            time: format_args!("{time:.3}"),
        };
        serde_json::to_writer(&mut *text, &line)?;
        text.push(b'\n');
        Ok(())
    }

    /// Apache's combined format, as if it was a CONNECT to the listener, so that what reads requests can read it.
    pub(super) fn combined(&self, text: &mut Vec<u8>) -> io::Result<()> {
        begin_combined(self.client, self.time, text)?;
        text.extend_from_slice(b"\"CONNECT ");
        escape(self.listener.as_bytes(), text)?;
        let status = if self.node.is_some() { 200 } else { 503 };
        write!(text, " TCP\" {status} {} \"-\" \"-\" \"", self.sent)?;
        escape(if self.hops.is_empty() { b"-" } else { self.hops.as_bytes() }, text)?;
        text.extend_from_slice(b"\"\n");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_a_line_in_each_format() {
        let joined = Joined {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_250),
            took: Duration::from_micros(1500),
            listener: "post\"gres",
            client: "192.0.2.7".parse().unwrap(),
            hops: "db-1:connection_refused:0ms db-2:connected:1ms",
            node: Some("db-2"),
            received: 17,
            sent: 4,
            ended: Ended::Closed,
        };
        let mut text = Vec::new();
        joined.json(None, &mut text).unwrap();
        joined.combined(&mut text).unwrap();
        let none = Joined { node: None, hops: "", ended: Ended::Unserved, ..joined };
        none.combined(&mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            r#"{"bytes":4,"client":"192.0.2.7","ended":"closed","hops":"db-1:connection_refused:0ms db-2:connected:1ms","listener":"post\"gres","protocol":"TCP","received":17,"seconds":0.0015,"served_by":"db-2","time":"2027-01-15T08:00:00.250Z"}
192.0.2.7 - - [15/Jan/2027:08:00:00 +0000] "CONNECT post\"gres TCP" 200 4 "-" "-" "db-1:connection_refused:0ms db-2:connected:1ms"
192.0.2.7 - - [15/Jan/2027:08:00:00 +0000] "CONNECT post\"gres TCP" 503 4 "-" "-" "-"
"#
        );
    }
}
