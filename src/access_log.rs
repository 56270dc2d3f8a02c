//! The access log: one line a request, with its hops. Written by a thread of its own, off the hot path.

use std::borrow::Cow;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use jiff::Timestamp;
use prometheus::IntCounter;
use serde::Serialize;

use crate::config::AccessFormat;
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

/// Where lines go. Dropping it writes what is waiting.
pub struct AccessLog {
    format: AccessFormat,
    gathered: Arc<Gathered>,
    writer: Option<JoinHandle<()>>,
    dropped: IntCounter,
}

/// What is on its way to the writer: one text and not a queue of lines, so that neither side allocates for the other.
#[derive(Default)]
struct Gathered {
    state: Mutex<State>,
    /// Something came where nothing was, or is wanted at once.
    came: Condvar,
    /// `State::written` has changed.
    wrote: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    /// Until here, counted in bytes since the start, somebody waits for lines to be written.
    wanted: u64,
    entered: u64,
    written: u64,
    closed: bool,
}

/// Bytes that may wait for the disk; lines beyond that are dropped and counted rather than waited for.
const WAITING: usize = 4 << 20;

/// How long the writer gathers lines, so that it is not woken for each one.
const GATHERING: Duration = Duration::from_millis(10);

impl AccessLog {
    /// Opens the log. `path` of `None` is standard output.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn open(format: AccessFormat, path: Option<&Path>, dropped: IntCounter) -> anyhow::Result<Self> {
        let gathered = Arc::<Gathered>::default();
        if format == AccessFormat::Off {
            return Ok(AccessLog { format, gathered, writer: None, dropped });
        }
        let sink: Box<dyn Write + Send> = match path {
            None => Box::new(io::stdout()),
            Some(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                Box::new(file.with_context(|| format!("the access log `{}` cannot be opened", path.display()))?)
            }
        };
        let source = gathered.clone();
        let writer = std::thread::Builder::new().name("access-log".into()).spawn(move || source.write_to(sink))?;
        Ok(AccessLog { format, gathered, writer: Some(writer), dropped })
    }

    pub fn write(&self, entry: &Entry<'_>) {
        let mut line = Vec::with_capacity(LINE);
        let written = match self.format {
            AccessFormat::Json => entry.json(&mut line),
            AccessFormat::Combined => entry.combined(&mut line),
            AccessFormat::Off => return,
        };
        // invariant: a Vec takes all that is written to it, and an entry can always be told
        if written.is_err() || !self.gathered.enter(&line) {
            self.dropped.inc();
        }
    }

    /// Waits until what was entered so far is written, or `patience` is over.
    pub fn flush(&self, patience: Duration) {
        if self.writer.is_some() {
            self.gathered.flush(patience);
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.gathered.state().closed = true;
        self.gathered.came.notify_one();
        if let Some(writer) = self.writer.take() {
            // A panic of the writer has lost its lines already.
            let _ = writer.join();
        }
    }
}

impl Gathered {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False when there is no room.
    fn enter(&self, line: &[u8]) -> bool {
        let mut state = self.state();
        if state.lines.len() + line.len() > WAITING {
            return false;
        }
        let first = state.lines.is_empty();
        state.lines.extend_from_slice(line);
        state.entered += line.len() as u64;
        drop(state);
        if first {
            self.came.notify_one();
        }
        true
    }

    fn flush(&self, patience: Duration) {
        let mut state = self.state();
        let until = state.entered;
        state.wanted = until;
        self.came.notify_one();
        // A disk that takes longer must not hold up the end of the process.
        let _ = self.wrote.wait_timeout_while(state, patience, |state| state.written < until);
    }

    fn write_to(&self, mut sink: impl Write) {
        let mut lines = Vec::new();
        let mut broken = false;
        while self.take(&mut lines) {
            // What could not be written is lost: lines told twice would be worse.
            if let Err(error) = sink.write_all(&lines).and_then(|()| sink.flush())
                && !std::mem::replace(&mut broken, true)
            {
                log::error!("the access log cannot be written: {error}");
            }
            self.state().written += lines.len() as u64;
            self.wrote.notify_all();
            lines.clear();
        }
    }

    /// Waits for lines, gathers more for a moment, and gives all in exchange for the empty `lines`. False at the end.
    fn take(&self, lines: &mut Vec<u8>) -> bool {
        let wait = self.came.wait_while(self.state(), |state| state.lines.is_empty() && !state.closed);
        let state = wait.unwrap_or_else(PoisonError::into_inner);
        let gather = |state: &mut State| state.wanted <= state.written && !state.closed;
        let gathering = self.came.wait_timeout_while(state, GATHERING, gather);
        let (mut state, _) = gathering.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut state.lines, lines);
        !(lines.is_empty() && state.closed)
    }
}

/// Room for a usual line.
const LINE: usize = 512;

/// A line of JSON. The keys are in order.
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
    seconds: f64,
    served_by: &'a str,
    status: u16,
    target: Cow<'a, str>,
    time: fmt::Arguments<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: Cow<'a, str>,
}

impl Entry<'_> {
    fn json(&self, text: &mut Vec<u8>) -> io::Result<()> {
        let time = Timestamp::try_from(self.time).unwrap_or_default();
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
            seconds: (self.took.as_secs_f64() * 1e6).round() / 1e6,
            served_by: self.trip.served_by.as_deref().unwrap_or("hopfall"),
            status: self.status,
            target: String::from_utf8_lossy(self.target),
            time: format_args!("{time:.3}"),
            user_agent: String::from_utf8_lossy(self.user_agent),
        };
        serde_json::to_writer(&mut *text, &line)?;
        text.push(b'\n');
        Ok(())
    }

    /// Apache's combined format, with the hops as one more quoted field.
    fn combined(&self, text: &mut Vec<u8>) -> io::Result<()> {
        let time = Timestamp::try_from(self.time).unwrap_or_default();
        write!(text, "{} - - [{}] \"{} ", self.client, time.strftime("%d/%b/%Y:%H:%M:%S +0000"), self.method)?;
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

/// Adds what a quoted field may hold; the rest as Apache escapes it, so that no client can write a line of its own.
fn escape(bytes: &[u8], text: &mut Vec<u8>) -> io::Result<()> {
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
    use crate::fallback::Outcome;
    use crate::trip::Attempt;

    fn told(format: AccessFormat) -> String {
        let attempt = |target: &str, outcome| Attempt {
            target: target.into(),
            pool: "p".into(),
            outcome,
            took: Duration::from_millis(3),
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
            AccessFormat::Json => entry.json(&mut line).unwrap(),
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
