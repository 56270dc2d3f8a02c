//! What is logged, and where to, resolved.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;

use super::model::{AccessFormat, Clients, Facility, Level};
use crate::units::{Form, Scalar, truncated};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// At the start; it can be changed while running.
    pub level: Level,
    pub messages: Output,
    pub clients: Clients,
    pub access: Access,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub format: AccessFormat,
    pub output: Output,
    /// Of the lines that may be left out, one in so many is written.
    pub sample_one_in: NonZeroU32,
}

/// Where a log goes, and as what if that is syslog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub to: Destination,
    pub facility: Facility,
}

/// Where a log goes: `-`, a file, `syslog`, `syslog:/a/socket`, or `syslog:IP:PORT` (UDP).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output for the access log, standard error for messages.
    Standard,
    File(PathBuf),
    Syslog(Syslog),
}

/// Where a syslog daemon takes datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Syslog {
    Socket(PathBuf),
    Udp(SocketAddr),
}

impl Scalar for Destination {
    const KIND: &'static str = "string";
    fn parse(text: &str) -> Result<Self, String> {
        let syslog = match text {
            "-" => return Ok(Destination::Standard),
            "" => return Err("write a file, - or syslog".into()),
            "syslog" => "/dev/log",
            _ => match text.strip_prefix("syslog:") {
                Some(daemon) => daemon,
                None => return Ok(Destination::File(text.into())),
            },
        };
        if syslog.starts_with('/') {
            return Ok(Destination::Syslog(Syslog::Socket(syslog.into())));
        }
        match syslog.parse() {
            Ok(address) => Ok(Destination::Syslog(Syslog::Udp(address))),
            Err(_) => Err("write syslog, syslog:/a/socket or syslog:IP:PORT (UDP), such as syslog:10.0.0.5:514".into()),
        }
    }
    fn form() -> Form {
        let pattern = Some(r"^((?!syslog:).+|syslog:(/.+|[0-9A-Fa-f.:\[\]]+:[0-9]{1,5}))$");
        Form { name: "file or syslog", pattern, ..Form::default() }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Standard => f.write_str("-"),
            Destination::File(path) => write!(f, "{}", path.display()),
            Destination::Syslog(Syslog::Socket(path)) => write!(f, "syslog:{}", path.display()),
            Destination::Syslog(Syslog::Udp(address)) => write!(f, "syslog:{address}"),
        }
    }
}

impl Level {
    pub fn filter(self) -> log::LevelFilter {
        match self {
            Level::Error => log::LevelFilter::Error,
            Level::Warn => log::LevelFilter::Warn,
            Level::Info => log::LevelFilter::Info,
            Level::Debug => log::LevelFilter::Debug,
            Level::Trace => log::LevelFilter::Trace,
        }
    }
}

impl Facility {
    /// Its number (RFC 5424 §6.2.1).
    pub fn code(self) -> u8 {
        match self {
            Facility::User => 1,
            Facility::Daemon => 3,
            Facility::Local0 => 16,
            Facility::Local1 => 17,
            Facility::Local2 => 18,
            Facility::Local3 => 19,
            Facility::Local4 => 20,
            Facility::Local5 => 21,
            Facility::Local6 => 22,
            Facility::Local7 => 23,
        }
    }
}

impl Clients {
    /// A client's address as logs may have it.
    pub fn address(self, client: IpAddr) -> IpAddr {
        match self {
            Clients::Full => client.to_canonical(),
            Clients::Truncated => truncated(client),
        }
    }

    /// The other end of a client's connection as messages may have it. A port tells one client of a network from
    /// another, so it goes too.
    pub fn peer(self, client: SocketAddr) -> Peer {
        Peer { address: self.address(client.ip()), port: (self == Clients::Full).then_some(client.port()) }
    }
}

/// A client's connection, as messages have it.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    address: IpAddr,
    port: Option<u16>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_a_file_a_stream_or_syslog() {
        let socket = |path: &str| Destination::Syslog(Syslog::Socket(path.into()));
        let udp = |address: &str| Destination::Syslog(Syslog::Udp(address.parse().unwrap()));
        let cases = [
            ("-", Some(Destination::Standard)),
            ("/var/log/a.log", Some(Destination::File("/var/log/a.log".into()))),
            ("./syslog", Some(Destination::File("./syslog".into()))),
            ("syslog", Some(socket("/dev/log"))),
            ("syslog:/run/log", Some(socket("/run/log"))),
            ("syslog:10.0.0.5:514", Some(udp("10.0.0.5:514"))),
            ("syslog:[fd00::5]:514", Some(udp("[fd00::5]:514"))),
            ("syslog:", None),
            ("syslog:10.0.0.5", None),
            ("syslog:loghost:514", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Destination::parse(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_truncated_client_has_no_port() {
        let client = "198.51.100.7:4711".parse().unwrap();
        assert_eq!(Clients::Full.peer(client).to_string(), "198.51.100.7:4711");
        assert_eq!(Clients::Truncated.peer(client).to_string(), "198.51.100.0");
        // As an IPv4 client of a listener for both families has it.
        let client = "[::ffff:198.51.100.7]:4711".parse().unwrap();
        assert_eq!(Clients::Full.peer(client).to_string(), "198.51.100.7:4711");
        assert_eq!(Clients::Truncated.peer(client).to_string(), "198.51.100.0");
        let client = "[2001:db8:1:2::7]:4711".parse().unwrap();
        assert_eq!(Clients::Full.peer(client).to_string(), "[2001:db8:1:2::7]:4711");
        assert_eq!(Clients::Truncated.peer(client).to_string(), "2001:db8:1::");
    }
}
