//! Words with units, as they are written in the config: times, sizes, networks, status sets.
//!
//! Every type here parses from one scalar and says in its error what it would have accepted.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// A value that the config writes as one YAML scalar.
pub trait Scalar: Sized {
    /// The value, or a sentence that says what would have been accepted.
    fn parse(text: &str) -> Result<Self, String>;
    /// Words of a closed set, empty when the value is open.
    fn choices() -> &'static [&'static str] {
        &[]
    }
    /// The JSON Schema type of the value: `string`, `integer`, `boolean`.
    const KIND: &'static str;
    /// What else editors and the documentation are told of it.
    fn form() -> Form {
        Form::default()
    }
}

/// What a scalar looks like, beyond its type.
#[derive(Clone, Copy, Debug, Default)]
pub struct Form {
    /// What such a value is called, such as `time`. Empty: nothing in particular.
    pub name: &'static str,
    /// Another JSON Schema type that it may be written as.
    pub also: Option<&'static str>,
    /// A pattern (ECMA 262) for its text. It lets too much pass rather than too little: [`Scalar::parse`] decides.
    pub pattern: Option<&'static str>,
    /// The smallest and the largest number.
    pub bounds: Option<(u64, u64)>,
}

impl Scalar for String {
    const KIND: &'static str = "string";
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl Scalar for bool {
    const KIND: &'static str = "boolean";
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("write true or false".into()),
        }
    }
}

impl Scalar for u32 {
    const KIND: &'static str = "integer";
    fn parse(text: &str) -> Result<Self, String> {
        text.replace('_', "").parse().map_err(|_| "write a whole number, 0 or more".into())
    }
    fn form() -> Form {
        // `1_000_000` is a string to YAML 1.2.
        let pattern = Some("^[0-9][0-9_]*$");
        Form { name: "number", also: Some("string"), pattern, bounds: Some((0, u32::MAX.into())) }
    }
}

impl Scalar for Duration {
    const KIND: &'static str = "string";
    fn parse(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text).map_err(|_| "write a time with its unit, such as 250ms, 10s, 5m or 1h".into())
    }
    fn form() -> Form {
        Form { name: "time", pattern: Some(r"^(\s*[0-9.]+\s*[A-Za-zµ]+)+\s*$"), ..Form::default() }
    }
}

/// A number of bytes: `32KiB`, `1GiB`, `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl Scalar for Bytes {
    const KIND: &'static str = "string";
    fn parse(text: &str) -> Result<Self, String> {
        text.parse::<bytesize::ByteSize>()
            .map(|size| Bytes(size.as_u64()))
            .map_err(|_| "write a size with its unit, such as 4096, 32KiB or 1GiB".into())
    }
    fn form() -> Form {
        let pattern = Some(r"^\s*[0-9.]+\s*([kKmMgGtTpPeE][iI]?)?[bB]?\s*$");
        Form { name: "size", also: Some("integer"), pattern, ..Form::default() }
    }
}

/// An amount of dollars: `0.0004`, `25`. Kept in nanodollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dollars(pub u64);

impl Scalar for Dollars {
    const KIND: &'static str = "number";
    fn parse(text: &str) -> Result<Self, String> {
        const ADVICE: &str = "write an amount of dollars, such as 0.0004 or 25, with at most nine decimals";
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        if whole.is_empty() || part.is_empty() || part.len() > 9 {
            return Err(ADVICE.into());
        }
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
        let whole = digits(whole).and_then(|whole| whole.checked_mul(1_000_000_000)).ok_or(ADVICE)?;
        let part = digits(&format!("{part:0<9}")).ok_or(ADVICE)?;
        whole.checked_add(part).map(Dollars).ok_or_else(|| ADVICE.into())
    }
    fn form() -> Form {
        Form { name: "dollars", bounds: Some((0, u64::MAX / 1_000_000_000)), ..Form::default() }
    }
}

/// A network of addresses in CIDR form (RFC 4632): `10.0.0.0/8`, `::1/128`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether `address` lies in this network. An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                u32::from(base) & mask == u32::from(address) & mask
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                u128::from(base) & mask == u128::from(address) & mask
            }
            _ => false,
        }
    }
}

impl Scalar for Network {
    const KIND: &'static str = "string";
    fn parse(text: &str) -> Result<Self, String> {
        const ADVICE: &str = "write a network such as 10.0.0.0/8, 192.168.1.7 or fd00::/8";
        let (base, prefix) = match text.split_once('/') {
            Some((base, prefix)) => (base, Some(prefix)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| ADVICE)?;
        let widest = if base.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| ADVICE)?,
            None => widest,
        };
        if prefix > widest {
            return Err(ADVICE.into());
        }
        Ok(Network { base, prefix })
    }
    fn form() -> Form {
        Form { name: "network", pattern: Some("^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$"), ..Form::default() }
    }
}

/// What counts as one client: an IPv4 address, or the network of an IPv6 address's first 64 bits, since a client has many
/// addresses with these. An IPv4 address mapped into IPv6 counts as IPv4.
pub fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

/// A client's address without what tells it from its neighbours, as logs may keep it: /24 of IPv4, /48 of IPv6.
pub fn truncated(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4((u32::from(address) & !0xff).into()),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 80 << 80).into()),
    }
}

/// A status code that the config may name: 400 to 599.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Status(pub u16);

impl Scalar for Status {
    const KIND: &'static str = "integer";
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(code @ 400..=599) => Ok(Status(code)),
            _ => Err("write an error status, 400 to 599".into()),
        }
    }
    fn form() -> Form {
        Form { name: "status", bounds: Some((400, 599)), ..Form::default() }
    }
}

/// A set of error statuses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusSet(BTreeSet<u16>);

impl StatusSet {
    pub fn contains(&self, status: u16) -> bool {
        self.0.contains(&status)
    }
}

impl FromIterator<u16> for StatusSet {
    fn from_iter<I: IntoIterator<Item = u16>>(statuses: I) -> Self {
        StatusSet(statuses.into_iter().collect())
    }
}

impl fmt::Display for StatusSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.0.iter().map(u16::to_string).collect();
        write!(f, "{}", words.join(", "))
    }
}

/// Statuses of answers: one, `200`, or all from one to another, `200-399`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    pub low: u16,
    pub high: u16,
}

impl StatusRange {
    pub fn contains(self, status: u16) -> bool {
        (self.low..=self.high).contains(&status)
    }
}

impl Scalar for StatusRange {
    const KIND: &'static str = "string";
    fn parse(text: &str) -> Result<Self, String> {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        match (low.trim().parse(), high.trim().parse()) {
            (Ok(low), Ok(high)) if low <= high && 100 <= low && high <= 599 => Ok(StatusRange { low, high }),
            _ => Err("write a status, such as 200, or a range of them, such as 200-399, from 100 to 599".into()),
        }
    }
    fn form() -> Form {
        let pattern = Some(r"^[0-9]{3}\s*(-\s*[0-9]{3})?$");
        Form { name: "status or range", also: Some("integer"), pattern, ..Form::default() }
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.low == self.high {
            true => write!(f, "{}", self.low),
            false => write!(f, "{}-{}", self.low, self.high),
        }
    }
}

/// A regex on bytes, in the syntax of the crate `regex` (<https://docs.rs/regex/latest/regex/#syntax>): its time is linear
/// in what it looks at, so there are no look-around and no back-references.
#[derive(Clone, Debug)]
pub struct Pattern(regex::bytes::Regex);

/// Most memory of a compiled regex, and most for its cache.
const PATTERN_BYTES: usize = 1 << 20;

impl Pattern {
    /// Whether it is found anywhere in `text`. As in PCRE, `$` also stands before a line end that ends the text.
    pub fn is_in(&self, text: &[u8]) -> bool {
        self.0.is_match(text) || text.strip_suffix(b"\n").is_some_and(|text| self.0.is_match(text))
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Scalar for Pattern {
    const KIND: &'static str = "string";
    fn parse(text: &str) -> Result<Self, String> {
        let mut builder = regex::bytes::RegexBuilder::new(text);
        builder.size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES).build().map(Pattern).map_err(|error| {
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default().trim();
            let reason = reason.trim_start_matches("error: ").trim_end_matches('.');
            format!("write a regex as https://docs.rs/regex has them: {reason}")
        })
    }
    fn form() -> Form {
        Form { name: "regex", ..Form::default() }
    }
}

/// `host:port`, where the host is a name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The host without brackets.
    pub host: String,
    pub port: u16,
}

impl Scalar for HostPort {
    const KIND: &'static str = "string";
    fn parse(text: &str) -> Result<Self, String> {
        const ADVICE: &str = "write host:port, such as 192.168.1.10:80, node-a:8080 or [fd00::10]:80";
        let (host, port) = text.rsplit_once(':').ok_or(ADVICE)?;
        let port = port.parse().map_err(|_| ADVICE)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => inner,
            Some(_) => return Err(ADVICE.into()),
            None => host,
        };
        let bare_v6 = host.contains(':') && !text.starts_with('[');
        if host.is_empty() || bare_v6 || host.bytes().any(|b| !b.is_ascii_graphic() || b == b'/' || b == b'@') {
            return Err(ADVICE.into());
        }
        Ok(HostPort { host: host.to_owned(), port })
    }
    fn form() -> Form {
        Form { name: "host:port", pattern: Some(r"^[^\s/@]+:[0-9]{1,5}$"), ..Form::default() }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses() {
        const CASES: &[(&str, &str, bool)] = &[
            ("10.0.0.0/8", "10.255.1.2", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("192.168.1.7", "192.168.1.7", true),
            ("192.168.1.7", "192.168.1.8", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("fd00::/8", "fd12::1", true),
            ("::/0", "10.0.0.1", false),
        ];
        for (network, address, inside) in CASES {
            let network = Network::parse(network).unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), *inside, "{network:?} {address}");
        }
        for bad in ["10.0.0.0/33", "10.0.0/8", "", "::/129", "x"] {
            assert!(Network::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_truncated_client_is_a_network() {
        const CASES: &[(&str, &str)] = &[
            ("198.51.100.255", "198.51.100.0"),
            ("0.0.0.1", "0.0.0.0"),
            ("::ffff:198.51.100.7", "198.51.100.0"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
            ("::1", "::"),
        ];
        for (client, network) in CASES {
            assert_eq!(truncated(client.parse().unwrap()).to_string(), *network, "{client}");
        }
    }

    #[test]
    fn statuses_come_alone_and_in_ranges() {
        for (text, status, inside) in
            [("200", 200, true), ("200", 201, false), ("200-399", 399, true), ("200-399", 400, false)]
        {
            let range = StatusRange::parse(text).unwrap();
            assert_eq!((range.contains(status), range.to_string().as_str()), (inside, text), "{text} {status}");
        }
        for bad in ["", "2xx", "399-200", "99", "600", "200-", "-200", "200-300-400"] {
            assert!(StatusRange::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_is_found_as_pcre_would_find_it() {
        const CASES: &[(&str, &[u8], bool)] = &[
            ("ok", b"all ok here", true),
            ("^ok$", b"ok", true),
            ("^ok$", b"ok\n", true),
            ("^ok$", b"ok\n\n", false),
            ("ok\\n", b"ok\n", true),
            ("^ok$", b"not ok", false),
            ("(?i)OK", b"ok", true),
            ("ok", b"\xff\xfeok", true),
            ("ok|fine", b"", false),
        ];
        for (pattern, text, found) in CASES {
            assert_eq!(Pattern::parse(pattern).unwrap().is_in(text), *found, "{pattern} {text:?}");
        }
        for (bad, told) in
            [("(?!x)", "look-around"), ("(a)\\1", "backreferences"), ("(", "unclosed"), (r"\w{9999}", "size limit")]
        {
            let error = Pattern::parse(bad).unwrap_err();
            assert!(error.contains(told), "{bad}: {error}");
        }
    }

    #[test]
    fn host_and_port_are_told_apart() {
        const CASES: &[(&str, Option<(&str, u16)>)] = &[
            ("a:80", Some(("a", 80))),
            ("[::1]:80", Some(("::1", 80))),
            ("::1:80", None),
            ("a", None),
            ("a:http", None),
            (":80", None),
            ("a/b:80", None),
            ("[x]:80", None),
        ];
        for (text, expected) in CASES {
            let parsed = HostPort::parse(text).ok();
            assert_eq!(parsed.as_ref().map(|a| (a.host.as_str(), a.port)), *expected, "{text}");
        }
    }

    #[test]
    fn times_and_sizes_need_sensible_units() {
        assert_eq!(Duration::parse("250ms"), Ok(Duration::from_millis(250)));
        assert!(Duration::parse("10").is_err());
        assert_eq!(Bytes::parse("32KiB"), Ok(Bytes(32 * 1024)));
        assert_eq!(Bytes::parse("4096"), Ok(Bytes(4096)));
        assert!(Bytes::parse("many").is_err());
        assert!(Status::parse("200").is_err());
        assert_eq!(Dollars::parse("0.0004"), Ok(Dollars(400_000)));
        assert_eq!(Dollars::parse("25"), Ok(Dollars(25_000_000_000)));
        for bad in ["", ".5", "1.", "-1", "1e3", "0.0000000001", "99999999999999"] {
            assert!(Dollars::parse(bad).is_err(), "{bad}");
        }
    }
}
