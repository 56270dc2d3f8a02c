//! The access log: one line a request, with its hops. Written by a thread of its own, off the hot path.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use jiff::Timestamp;
use prometheus::IntCounter;
use serde_json::json;

use crate::config::AccessFormat;
use crate::trip::Trip;

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
    lines: Option<SyncSender<Entered>>,
    writer: Option<JoinHandle<()>>,
    dropped: IntCounter,
}

/// What the writer is sent.
enum Entered {
    Line(String),
    /// Write what came before, then say so.
    Flush(SyncSender<()>),
}

/// Lines that may wait for the disk; beyond that they are dropped and counted rather than waited for.
const WAITING: usize = 16 * 1024;

impl AccessLog {
    /// Opens the log. `path` of `None` is standard output.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn open(format: AccessFormat, path: Option<&Path>, dropped: IntCounter) -> anyhow::Result<Self> {
        if format == AccessFormat::Off {
            return Ok(AccessLog { format, lines: None, writer: None, dropped });
        }
        let sink: Box<dyn Write + Send> = match path {
            None => Box::new(io::stdout()),
            Some(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                Box::new(file.with_context(|| format!("the access log `{}` cannot be opened", path.display()))?)
            }
        };
        let (lines, waiting) = sync_channel(WAITING);
        let writer = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write(&waiting, BufWriter::new(sink)))?;
        Ok(AccessLog { format, lines: Some(lines), writer: Some(writer), dropped })
    }

    pub fn write(&self, entry: &Entry<'_>) {
        let Some(lines) = &self.lines else { return };
        let line = match self.format {
            AccessFormat::Json => entry.json(),
            AccessFormat::Combined => entry.combined(),
            AccessFormat::Off => return,
        };
        if lines.try_send(Entered::Line(line)).is_err() {
            self.dropped.inc();
        }
    }

    /// Waits until what was entered so far is written, or `patience` is over.
    pub fn flush(&self, patience: Duration) {
        let Some(lines) = &self.lines else { return };
        let (done, written) = sync_channel(1);
        if lines.send(Entered::Flush(done)).is_ok() {
            // A disk that takes longer must not hold up the end of the process.
            let _ = written.recv_timeout(patience);
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(writer) = self.writer.take() {
            // A panic of the writer has lost its lines already.
            let _ = writer.join();
        }
    }
}

fn write(waiting: &Receiver<Entered>, mut sink: BufWriter<Box<dyn Write + Send>>) {
    let mut broken = false;
    while let Ok(first) = waiting.recv() {
        // What has gathered meanwhile is written in one go.
        let written = std::iter::once(first).chain(waiting.try_iter()).try_for_each(|entered| match entered {
            Entered::Line(line) => writeln!(sink, "{line}"),
            Entered::Flush(done) => {
                let flushed = sink.flush();
                // Nobody may wait any longer: nothing to tell.
                let _ = done.send(());
                flushed
            }
        });
        if let Err(error) = written.and_then(|()| sink.flush())
            && !std::mem::replace(&mut broken, true)
        {
            log::error!("the access log cannot be written: {error}");
        }
    }
}

impl Entry<'_> {
    fn json(&self) -> String {
        let time = Timestamp::try_from(self.time).unwrap_or_default();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut line = json!({
            "time": format!("{time:.3}"),
            "listener": self.listener,
            "client": self.client.to_string(),
            "method": self.method,
            "target": text(self.target),
            "protocol": self.protocol,
            "host": text(self.host),
            "status": self.status,
            "bytes": self.trip.sent,
            "seconds": (self.took.as_secs_f64() * 1e6).round() / 1e6,
            "hops": self.trip.hops(),
            "served_by": self.trip.served_by.as_deref().unwrap_or("hopfall"),
        });
        let mut add = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                line[key] = value.into();
            }
        };
        add("failure", self.trip.failure.map(|failure| failure.as_str().to_owned()));
        add("looped_by", self.trip.looped_by.clone());
        add("refused", self.trip.misshapen.map(str::to_owned));
        add("aborted", self.trip.aborted.map(str::to_owned));
        add("location", self.trip.located.map(str::to_owned));
        add("referer", (!self.referer.is_empty()).then(|| text(self.referer)));
        add("user_agent", (!self.user_agent.is_empty()).then(|| text(self.user_agent)));
        line.to_string()
    }

    /// Apache's combined format, with the hops as one more quoted field.
    fn combined(&self) -> String {
        let time = Timestamp::try_from(self.time).unwrap_or_default();
        let or_dash = |bytes: &[u8]| if bytes.is_empty() { "-".to_owned() } else { escaped(bytes) };
        format!(
            "{} - - [{}] \"{} {} {}\" {} {} \"{}\" \"{}\" \"{}\"",
            self.client,
            time.strftime("%d/%b/%Y:%H:%M:%S +0000"),
            self.method,
            escaped(self.target),
            self.protocol,
            self.status,
            self.trip.sent,
            or_dash(self.referer),
            or_dash(self.user_agent),
            or_dash(self.trip.hops().as_bytes()),
        )
    }
}

/// What a quoted field may hold; the rest as Apache escapes it, so that no client can write a line of its own.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'"' | b'\\' => {
                text.push('\\');
                text.push(char::from(*byte));
            }
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text
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
        match format {
            AccessFormat::Json => entry.json(),
            _ => entry.combined(),
        }
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
            r#"1.2.3.4 - - [24/Nov/2025:16:00:00 +0000] "GET /a\"b\x0a HTTP/1.1" 200 5 "-" "x\x01" "taiga:404:3ms chitoge:200:3ms""#
        );
    }
}
