//! Messages: what hopfall says of itself, to standard error, a file or syslog.
//!
//! The least severe level that is told is [`log::max_level`] itself: whoever may change it needs nothing else, and a
//! message below it costs one load. Under systemd, standard error has what the journal reads (sd-daemon(3)): the
//! priority of each line in front, and no time, which the journal has.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use anyhow::Context;
use jiff::Timestamp;
use log::{LevelFilter, Metadata, Record};

use crate::config::{self, Destination};
use crate::syslog::{Severity, Syslog, Wait};

/// The process's messages.
pub struct Messages {
    to: Destination,
    sink: Mutex<Sink>,
}

enum Sink {
    Terminal,
    Journal,
    File(File),
    Syslog(Syslog),
}

impl Messages {
    /// Opens what the config names and has all messages go there. A second call, in a test, keeps the first one's.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn start(config: &config::Log) -> anyhow::Result<Arc<Self>> {
        let to = &config.messages.to;
        let sink = match to {
            Destination::Standard if stderr_is_journal() => Sink::Journal,
            Destination::Standard => Sink::Terminal,
            Destination::File(path) => {
                let file = append(path).with_context(|| format!("the log `{to}` cannot be opened"))?;
                Sink::File(file)
            }
            Destination::Syslog(daemon) => {
                // Messages come from where requests are served, which must not wait.
                let syslog = Syslog::open(daemon, config.messages.facility, "message", Wait::Never);
                Sink::Syslog(syslog.with_context(|| format!("the log `{to}` cannot be opened"))?)
            }
        };
        let messages = Arc::new(Messages { to: to.clone(), sink: Mutex::new(sink) });
        if log::set_boxed_logger(Box::new(messages.clone())).is_ok() {
            log::set_max_level(config.level.filter());
        }
        Ok(messages)
    }

    /// Opens the file anew, after it was renamed. One that cannot be opened leaves the old one in use.
    pub fn reopen(&self) {
        let Destination::File(path) = &self.to else { return };
        match append(path) {
            Ok(file) => *self.sink() = Sink::File(file),
            Err(error) => {
                log::error!("the log `{}` cannot be opened anew, and goes on where it was: {error}", self.to);
            }
        }
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl log::Log for Messages {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= least(metadata.target(), log::max_level())
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = SystemTime::now();
        let written = match &mut *self.sink() {
            Sink::Terminal => io::stderr().write_all(line(record, now).as_bytes()),
            Sink::Journal => io::stderr().write_all(journal_lines(record).as_bytes()),
            Sink::File(file) => file.write_all(line(record, now).as_bytes()),
            Sink::Syslog(syslog) => syslog.send(record.level().into(), now, record.args().to_string().as_bytes()),
        };
        if written.is_err() {
            // The last place that is left; when it is the one that failed, there is none.
            let _ = io::stderr().write_all(line(record, now).as_bytes());
        }
    }

    fn flush(&self) {}
}

/// Opens a log's file to append to, and makes it if there is none.
pub fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The least severe level at which `target`, a module's path, is told, where hopfall's own is `level`.
fn least(target: &str, level: LevelFilter) -> LevelFilter {
    if target.starts_with("hopfall") {
        level
    } else if target.starts_with("pingora_proxy") || target.starts_with("pingora_core::apps") {
        // They log each client's mistakes as errors of their own; those of requests are in the access log.
        LevelFilter::Off
    } else if target.starts_with("pingora_core") {
        level.min(LevelFilter::Error)
    } else {
        level.min(LevelFilter::Warn)
    }
}

/// Time, severity, message.
fn line(record: &Record<'_>, now: SystemTime) -> String {
    let time = Timestamp::try_from(now).unwrap_or_default();
    format!("{time:.3} {:<5} {}\n", record.level(), record.args())
}

/// Priority and message: each line is a message to the journal.
fn journal_lines(record: &Record<'_>) -> String {
    let priority = Severity::from(record.level()) as u8;
    record.args().to_string().lines().map(|line| format!("<{priority}>{line}\n")).collect()
}

fn stderr_is_journal() -> bool {
    let told = std::env::var("JOURNAL_STREAM").ok();
    rustix::fs::fstat(io::stderr()).is_ok_and(|stat| is_journal(told.as_deref(), stat.st_dev, stat.st_ino))
}

/// `JOURNAL_STREAM` is the device and inode of the journal's stream (systemd.exec(5)). It is inherited by programs whose
/// standard error is something else, hence the comparison.
fn is_journal(told: Option<&str>, device: u64, inode: u64) -> bool {
    told.and_then(|told| told.split_once(':'))
        .is_some_and(|(told_device, told_inode)| told_device.parse() == Ok(device) && told_inode.parse() == Ok(inode))
}

/// An error with all that caused it, as a message tells it: a library's own text often says only where it happened.
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let texts: Vec<String> = anyhow::Chain::new(error).map(ToString::to_string).collect();
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;

    #[test]
    fn who_is_told_at_which_level() {
        use LevelFilter::*;
        const CASES: &[(&str, LevelFilter, LevelFilter)] = &[
            ("hopfall::chain", Debug, Debug),
            ("hopfall", Error, Error),
            ("pingora_proxy::proxy_h1", Trace, Off),
            ("pingora_core::apps::http_app", Trace, Off),
            ("pingora_core::server", Trace, Error),
            ("rustls::conn", Trace, Warn),
            ("rustls::conn", Error, Error),
        ];
        for (target, level, expected) in CASES {
            assert_eq!(least(target, *level), *expected, "{target} {level}");
        }
    }

    #[test]
    fn the_journal_gets_a_priority_for_each_line() {
        let told =
            |level, text: &str| journal_lines(&Record::builder().level(level).args(format_args!("{text}")).build());
        assert_eq!(told(Level::Error, "a"), "<3>a\n");
        assert_eq!(told(Level::Warn, "a"), "<4>a\n");
        assert_eq!(told(Level::Info, "a\nb"), "<6>a\n<6>b\n");
        assert_eq!(told(Level::Trace, "a"), "<7>a\n");
    }

    #[test]
    fn the_journal_is_known_by_its_device_and_inode() {
        const CASES: &[(Option<&str>, bool)] =
            &[(Some("9:4711"), true), (Some("9:4712"), false), (Some("4711"), false), (Some(""), false), (None, false)];
        for (told, expected) in CASES {
            assert_eq!(is_journal(*told, 9, 4711), *expected, "{told:?}");
        }
    }
}
