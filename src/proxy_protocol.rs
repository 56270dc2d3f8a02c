//! The PROXY protocol, versions 1 and 2: a header before a connection's first byte in which a proxy says whom it
//! speaks for. <https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt>, whose sections are cited here.
//!
//! What a header says is decided by its own bytes: those after it change nothing, and a beginning is never taken for
//! something else than the whole. So it can be read piece by piece and not a byte too far.
//!
//! Why not the crate ppp: it takes some beginnings of a good line for a bad one, and has no bound for version 2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A complete header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its bytes; what follows is the stream's.
    pub length: usize,
    /// The client that the proxy speaks for. `None`: the proxy itself (`LOCAL`), or one whose address it cannot tell
    /// (`UNKNOWN`, and families other than TCP over IP).
    pub client: Option<SocketAddr>,
}

/// The two forms of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Why bytes are not the beginning of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("no PROXY header")]
    NotThere,
    #[error("a PROXY line that is longer than 107 bytes or has no CRLF")]
    Line,
    #[error("a PROXY line with an unknown protocol, or a bad address or port")]
    Address,
    #[error("a version or command that version 2 has not")]
    Command,
    #[error("a family or transport that version 2 has not")]
    Family,
    #[error("a length that is too short for the addresses, or above 4096")]
    Length,
}

/// Reads a header from the beginning of a connection. `None`: what is there so far is a header's beginning.
///
/// # Errors
/// When it is none, whatever may follow.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    if begins(bytes, SIGNATURE) {
        return version_2(bytes);
    }
    if begins(bytes, b"PROXY ") {
        return version_1(bytes);
    }
    Err(Malformed::NotThere)
}

/// The header for a connection on behalf of `client`, which reached us at `local`. An IPv4 address beside an IPv6 one is
/// mapped into IPv6 (RFC 4291 §2.5.5.2), since a header has one family.
pub fn write(version: Version, client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let (from, to) = (client.port(), local.port());
    let (source, destination) = match (client.ip().to_canonical(), local.ip().to_canonical()) {
        (IpAddr::V4(client), IpAddr::V4(local)) => {
            return match version {
                Version::V1 => format!("PROXY TCP4 {client} {local} {from} {to}\r\n").into_bytes(),
                Version::V2 => binary(0x11, &client.octets(), &local.octets(), from, to),
            };
        }
        (client, local) => (in_v6(client), in_v6(local)),
    };
    match version {
        Version::V1 => format!("PROXY TCP6 {source} {destination} {from} {to}\r\n").into_bytes(),
        Version::V2 => binary(0x21, &source.octets(), &destination.octets(), from, to),
    }
}

fn in_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn binary(family: u8, source: &[u8], destination: &[u8], from: u16, to: u16) -> Vec<u8> {
    // 12 or 36: two addresses and two ports.
    let length = if family == 0x11 { 12_u16 } else { 36 };
    let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
    [SIGNATURE, &[0x21, family], &length.to_be_bytes(), source, destination, &ports].concat()
}

/// Whether `bytes` begin with `mark`, or are a beginning of it.
fn begins(bytes: &[u8], mark: &[u8]) -> bool {
    bytes.iter().zip(mark).all(|(byte, wanted)| byte == wanted)
}

/// §2.1: a line of text.
fn version_1(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let room = &bytes[..bytes.len().min(LINE)];
    let Some(end) = room.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if room.len() == LINE { Err(Malformed::Line) } else { Ok(None) };
    };
    match &room[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] if room.len() < LINE => return Ok(None),
        _ => return Err(Malformed::Line),
    }
    let line = std::str::from_utf8(&room[..end]).map_err(|_| Malformed::Address)?;
    let words: Vec<&str> = line.split(' ').collect();
    let client = match words[..] {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", "TCP4", source, destination, from, to] => {
            address::<Ipv4Addr>(destination)?;
            port(to)?;
            Some(SocketAddr::new(IpAddr::V4(address(source)?), port(from)?))
        }
        ["PROXY", "TCP6", source, destination, from, to] => {
            address::<Ipv6Addr>(destination)?;
            port(to)?;
            Some(SocketAddr::new(IpAddr::V6(address(source)?), port(from)?))
        }
        _ => return Err(Malformed::Address),
    };
    Ok(Some(Header { length: end + 2, client }))
}

fn address<A: std::str::FromStr>(text: &str) -> Result<A, Malformed> {
    text.parse().map_err(|_| Malformed::Address)
}

/// Digits without a sign or leading zeros.
fn port(text: &str) -> Result<u16, Malformed> {
    let plain = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| plain).ok_or(Malformed::Address)
}

/// §2.2: sixteen bytes, then addresses, then extensions, which are not looked at.
fn version_2(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some(&command) = bytes.get(12) else { return Ok(None) };
    let local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed::Command),
    };
    let Some(&family) = bytes.get(13) else { return Ok(None) };
    // A local connection's is not looked at.
    if !local && (family >> 4 > 3 || family & 15 > 2) {
        return Err(Malformed::Family);
    }
    let Some(&[high, low]) = bytes.get(14..16) else { return Ok(None) };
    let announced = usize::from(u16::from_be_bytes([high, low]));
    let least = match family {
        _ if local => 0,
        0x11 => 12,
        0x21 => 36,
        _ => 0,
    };
    if announced < least || announced > MOST - 16 {
        return Err(Malformed::Length);
    }
    let Some(block) = bytes.get(16..16 + announced) else { return Ok(None) };
    let client = match (local, family, block) {
        (false, 0x11, [a, b, c, d, _, _, _, _, high, low, ..]) => {
            Some(SocketAddr::new(Ipv4Addr::new(*a, *b, *c, *d).into(), u16::from_be_bytes([*high, *low])))
        }
        (false, 0x21, _) => block.first_chunk::<16>().zip(block.get(32..34)).map(|(source, port)| {
            SocketAddr::new(Ipv6Addr::from(*source).into(), u16::from_be_bytes([port[0], port[1]]))
        }),
        _ => None,
    };
    Ok(Some(Header { length: 16 + announced, client }))
}

/// §2.2.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest line of version 1, with its CRLF (§2.1).
const LINE: usize = 107;
/// Longest header of version 2 that is taken. The specification has none but 64 KiB, and its senders stay far below.
const MOST: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A header of version 2, from its 13th byte on.
    fn v2(command: u8, family: u8, length: u16, block: &[u8]) -> Vec<u8> {
        [SIGNATURE, &[command, family], &length.to_be_bytes(), block].concat()
    }

    const V4: &[u8] = &[192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 0x04, 0x01, 0xbb];

    fn v6_block() -> Vec<u8> {
        let source: Ipv6Addr = "2001:db8::1".parse().unwrap();
        [&source.octets()[..], &[0xff; 16], &[0xdc, 0x04, 0x01, 0xbb]].concat()
    }

    #[test]
    fn headers_say_whom_a_proxy_speaks_for() {
        let longest6 = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        let longest = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        assert_eq!((longest6.len(), longest.len()), (104, 107));
        let cases: Vec<(&[u8], Option<&str>)> = vec![
            // The examples of §2.1.
            (b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", Some("192.168.0.1:56324")),
            (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", Some("255.255.255.255:65535")),
            (longest6.as_bytes(), Some("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535")),
            (b"PROXY TCP6 2001:db8::1 ::1 1 0\r\n", Some("[2001:db8::1]:1")),
            (b"PROXY UNKNOWN\r\n", None),
            (longest.as_bytes(), None),
            (b"PROXY UNKNOWN whatever 1 2 3\r\n", None),
        ];
        let binary = [
            (v2(0x21, 0x11, 12, V4), Some("192.168.0.1:56324")),
            (v2(0x21, 0x21, 36, &v6_block()), Some("[2001:db8::1]:56324")),
            // With an extension: PP2_TYPE_NOOP of three bytes; and with one that is none.
            (v2(0x21, 0x11, 18, &[V4, &[4, 0, 3, 0, 0, 0]].concat()), Some("192.168.0.1:56324")),
            (v2(0x21, 0x11, 13, &[V4, &[0xff]].concat()), Some("192.168.0.1:56324")),
            (v2(0x21, 0x11, 4080, &[V4, &[7; 4068]].concat()), Some("192.168.0.1:56324")),
            // LOCAL, whatever its block says.
            (v2(0x20, 0, 0, b""), None),
            (v2(0x20, 0x11, 12, V4), None),
            (v2(0x20, 0xff, 2, b"xx"), None),
            // UNSPEC, UDP and UNIX.
            (v2(0x21, 0x00, 0, b""), None),
            (v2(0x21, 0x10, 0, b""), None),
            (v2(0x21, 0x12, 12, V4), None),
            (v2(0x21, 0x31, 216, &[b'/'; 216]), None),
        ];
        let cases = cases.into_iter().map(|(bytes, client)| (bytes.to_vec(), client)).chain(binary);
        for (bytes, client) in cases {
            let expected = Header { length: bytes.len(), client: client.map(|client| client.parse().unwrap()) };
            let followed = [&bytes[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(parse(&followed), Ok(Some(expected)), "{}", bytes.escape_ascii());
            assert_eq!(parse(&bytes[..bytes.len() - 1]), Ok(None), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_header_is_refused_at_once() {
        let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 93]].concat();
        let late = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 92], b"\r"].concat();
        let cases: Vec<(Vec<u8>, Malformed)> = [
            (b"GET / HTTP/1.1\r\n".as_slice(), Malformed::NotThere),
            (b"PROXX", Malformed::NotThere),
            (b"\r\n\r\n\0\r\nQUIT\r", Malformed::NotThere),
            (b"\x16\x03\x01", Malformed::NotThere),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", Malformed::Line),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rx", Malformed::Line),
            (&long, Malformed::Line),
            (&late, Malformed::Line),
            (b"PROXY\x20\r\n", Malformed::Address),
            (b"PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n", Malformed::Address),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n", Malformed::Address),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n", Malformed::Address),
            (b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n", Malformed::Address),
            (b"PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n", Malformed::Address),
            (b"PROXY TCP4 ::1 ::1 1 2\r\n", Malformed::Address),
            (b"PROXY TCP6 1.2.3.4 ::1 1 2\r\n", Malformed::Address),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n", Malformed::Address),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n", Malformed::Address),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n", Malformed::Address),
            (b"PROXY UNKNOWN\xff\r\n", Malformed::Address),
            (b"PROXY UNKNOWNS\r\n", Malformed::Address),
        ]
        .into_iter()
        .map(|(bytes, error)| (bytes.to_vec(), error))
        .chain([
            (v2(0x11, 0x11, 12, V4), Malformed::Command),
            (v2(0x22, 0x11, 12, V4), Malformed::Command),
            (v2(0x21, 0x13, 12, V4), Malformed::Family),
            (v2(0x21, 0x41, 12, V4), Malformed::Family),
            (v2(0x21, 0x11, 11, V4), Malformed::Length),
            (v2(0x21, 0x21, 12, V4), Malformed::Length),
            (v2(0x21, 0x11, 4081, V4), Malformed::Length),
        ])
        .collect();
        for (bytes, error) in cases {
            assert_eq!(parse(&bytes), Err(error), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_is_written_is_what_the_specification_shows() {
        let written = |version, client: &str, local: &str| {
            let (client, local): (SocketAddr, SocketAddr) = (client.parse().unwrap(), local.parse().unwrap());
            let header = write(version, client, local);
            let read = parse(&header).unwrap().unwrap();
            assert_eq!(read.length, header.len());
            assert_eq!(read.client.unwrap().ip().to_canonical(), client.ip().to_canonical());
            assert_eq!(read.client.unwrap().port(), client.port());
            header.escape_ascii().to_string()
        };
        // §2.1's example, and the same in version 2.
        let (client, local) = ("192.168.0.1:56324", "192.168.0.11:443");
        assert_eq!(written(Version::V1, client, local), r"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n");
        let signature = r"\r\n\r\n\x00\r\nQUIT\n";
        let four = format!(r"{signature}!\x11\x00\x0c\xc0\xa8\x00\x01\xc0\xa8\x00\x0b\xdc\x04\x01\xbb");
        assert_eq!(written(Version::V2, client, local), four);
        // An IPv6 socket's IPv4 client is an IPv4 client.
        assert_eq!(written(Version::V2, "[::ffff:192.168.0.1]:56324", "[::ffff:192.168.0.11]:443"), four);

        let (client, local) = ("[2001:db8::1]:56324", "[::1]:443");
        assert_eq!(written(Version::V1, client, local), r"PROXY TCP6 2001:db8::1 ::1 56324 443\r\n");
        let zeros = r"\x00".repeat(15);
        let six = [r"!!\x00$ \x01\r\xb8", &r"\x00".repeat(11), r"\x01", &zeros, r"\x01\xdc\x04\x01\xbb"].concat();
        assert_eq!(written(Version::V2, client, local), format!("{signature}{six}"));
        // Two families are one.
        let mixed = r"PROXY TCP6 2001:db8::1 ::ffff:10.0.0.1 56324 443\r\n";
        assert_eq!(written(Version::V1, client, "10.0.0.1:443"), mixed);
        written(Version::V2, client, "10.0.0.1:443");
        written(Version::V2, "10.0.0.1:443", local);
    }

    /// Bytes that are a header, nearly one, or anything.
    fn nearly() -> impl Strategy<Value = Vec<u8>> {
        let any_bytes = || proptest::collection::vec(any::<u8>(), 0..300);
        let lines = "PROXY (TCP4|TCP6|UNKNOWN|TCP) ?[0-9a-f.:]{0,20} [0-9.:]{1,9} [0-9]{1,6} [0-9]{1,6}\r?\n?.{0,9}";
        prop_oneof![
            any_bytes(),
            lines.prop_map(String::into_bytes),
            (any::<u8>(), any::<u8>(), 0u16..300, any_bytes())
                .prop_map(|(a, b, length, block)| v2(a, b, length, &block)),
            (0x20u8..0x22, prop_oneof![Just(0x11), Just(0x21), Just(0)], 0u16..60, any_bytes())
                .prop_map(|(command, family, length, block)| v2(command, family, length, &block)),
        ]
    }

    proptest! {
        #[test]
        fn a_beginning_is_never_taken_for_something_else(bytes in nearly()) {
            let whole = parse(&bytes);
            if let Ok(Some(header)) = whole {
                prop_assert!(header.length <= bytes.len());
            }
            for cut in 0..bytes.len() {
                let part = parse(&bytes[..cut]);
                prop_assert!(part == Ok(None) || part == whole, "{part:?} at {cut}, then {whole:?}");
            }
        }
    }
}
