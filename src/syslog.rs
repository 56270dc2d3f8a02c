//! syslog: each message one datagram, to this machine's daemon or by UDP to another machine's.
//!
//! A daemon's socket gets what syslog(3) of the C library sends, which rsyslog, syslog-ng and journald all read; but no
//! time, for which all of them take their own. UDP gets RFC 5424's form (RFC 5426). Nobody confirms a datagram: what UDP
//! loses is lost unseen. Why not by a crate: docs/decisions/0023-logs.md.

use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use crate::config;
use crate::config::Facility;

/// How grave a message is (RFC 5424 §6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error = 3,
    Warning = 4,
    Info = 6,
    Debug = 7,
}

impl From<log::Level> for Severity {
    fn from(level: log::Level) -> Self {
        match level {
            log::Level::Error => Severity::Error,
            log::Level::Warn => Severity::Warning,
            log::Level::Info => Severity::Info,
            log::Level::Debug | log::Level::Trace => Severity::Debug,
        }
    }
}

/// One log's way to a daemon. No connection is held, so a daemon that starts anew is found again.
pub struct Syslog {
    socket: Socket,
    facility: Facility,
    /// What the messages are, for RFC 5424's MSGID.
    kind: &'static str,
    host: String,
    process: u32,
    frame: Vec<u8>,
}

enum Socket {
    Local(UnixDatagram, PathBuf),
    Udp(UdpSocket, SocketAddr),
}

/// Whether a sender waits for a daemon that does not keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// At most this long.
    AtMost(Duration),
    Never,
}

impl Syslog {
    /// A socket of our own. Whether a daemon listens shows with the first message.
    ///
    /// # Errors
    /// When there are no more sockets.
    pub fn open(to: &config::Syslog, facility: Facility, kind: &'static str, wait: Wait) -> io::Result<Self> {
        let socket = match to {
            config::Syslog::Socket(path) => {
                let socket = UnixDatagram::unbound()?;
                match wait {
                    Wait::AtMost(time) => socket.set_write_timeout(Some(time))?,
                    Wait::Never => socket.set_nonblocking(true)?,
                }
                Socket::Local(socket, path.clone())
            }
            config::Syslog::Udp(address) => {
                let any = match address {
                    SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
                    SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
                };
                let socket = UdpSocket::bind(any)?;
                socket.set_nonblocking(wait == Wait::Never)?;
                Socket::Udp(socket, *address)
            }
        };
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Syslog { socket, facility, kind, host, process: std::process::id(), frame: Vec::new() })
    }

    /// Sends one message, without a line end.
    ///
    /// # Errors
    /// When no daemon is there, it does not keep up, or the message is too long for a datagram.
    pub fn send(&mut self, severity: Severity, time: SystemTime, text: &[u8]) -> io::Result<()> {
        let priority = self.facility.code() * 8 + severity as u8;
        self.frame.clear();
        match &self.socket {
            Socket::Local(..) => local(&mut self.frame, priority, self.process, text)?,
            Socket::Udp(..) => rfc5424(&mut self.frame, priority, time, &self.host, self.process, self.kind, text)?,
        }
        match &self.socket {
            Socket::Local(socket, path) => socket.send_to(&self.frame, path)?,
            Socket::Udp(socket, address) => socket.send_to(&self.frame, address)?,
        };
        Ok(())
    }
}

/// Whether the daemon is there and only this one message was too long for it.
pub fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) || error.kind() == ErrorKind::InvalidInput
}

/// What syslog(3) sends, without the time.
fn local(frame: &mut Vec<u8>, priority: u8, process: u32, text: &[u8]) -> io::Result<()> {
    write!(frame, "<{priority}>hopfall[{process}]: ")?;
    frame.write_all(text)
}

/// RFC 5424 §6, without structured data.
fn rfc5424(
    frame: &mut Vec<u8>,
    priority: u8,
    time: SystemTime,
    host: &str,
    process: u32,
    kind: &str,
    text: &[u8],
) -> io::Result<()> {
    let time = Timestamp::try_from(time).unwrap_or_default();
    let named = !host.is_empty() && host.len() <= 255 && host.bytes().all(|byte| byte.is_ascii_graphic());
    let host = if named { host } else { "-" };
    write!(frame, "<{priority}>1 {time:.3} {host} hopfall {process} {kind} - ")?;
    frame.write_all(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_their_specifications() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_764_000_000_123);
        let mut frame = Vec::new();
        local(&mut frame, 134, 42, b"{}").unwrap();
        assert_eq!(String::from_utf8(frame).unwrap(), "<134>hopfall[42]: {}");
        for (host, told) in [("web-1", "web-1"), ("", "-"), ("no such", "-")] {
            let mut frame = Vec::new();
            rfc5424(&mut frame, 27, time, host, 42, "message", b"drained").unwrap();
            let expected = format!("<27>1 2025-11-24T16:00:00.123Z {told} hopfall 42 message - drained");
            assert_eq!(String::from_utf8(frame).unwrap(), expected);
        }
    }

    /// As syslog.h has them: the priority is the facility, already times 8, and the severity.
    #[test]
    fn a_priority_is_facility_and_severity() {
        for (facility, severity, priority) in [
            (Facility::User, Severity::Debug, 15),
            (Facility::Daemon, Severity::Error, 27),
            (Facility::Daemon, Severity::Warning, 28),
            (Facility::Local0, Severity::Info, 134),
            (Facility::Local7, Severity::Info, 190),
        ] {
            assert_eq!(facility.code() * 8 + severity as u8, priority, "{facility:?} {severity:?}");
        }
    }
}
