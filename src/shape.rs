//! Refusal by shape: what a request must look like before anything routes on it.
//!
//! Pingora's parser is lenient where RFC 9112 lets a server be; a proxy that stands before servers with
//! other leniencies must not be, or the two read one byte stream as different requests.

use http::{HeaderMap, Method, Version, header};

/// Bounds on the head of a request.
#[derive(PartialEq, Eq, Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Most bytes of a request target, above which the answer is 414.
    pub target_bytes: usize,
    /// Most bytes of the whole head, above which the answer is 431.
    pub head_bytes: usize,
    /// Most header fields, above which the answer is 431.
    pub fields: usize,
    /// Largest request body by its `Content-Length`, above which the answer is 413.
    pub body_bytes: u64,
}

/// The head of a request as it came in.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    pub method: &'a Method,
    /// The request target as sent, which may be in absolute form.
    pub target: &'a [u8],
    pub version: Version,
    pub headers: &'a HeaderMap,
    /// The bytes of an HTTP/1 head; empty for HTTP/2, whose framing has no such ambiguities.
    pub raw: &'a [u8],
}

/// A request refused by its shape. `reason` goes into the log, never to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misshapen {
    pub status: u16,
    pub reason: &'static str,
}

const fn bad(reason: &'static str) -> Misshapen {
    Misshapen { status: 400, reason }
}

/// Largest `Content-Length` taken: 2^53, which every peer's number type holds exactly.
const MAX_LENGTH: u64 = 1 << 53;

/// Checks a head.
///
/// # Errors
/// [`Misshapen`] with the status to answer: 400, 413, 414, 417 or 431.
pub fn check(head: &Head<'_>, limits: &HeadLimits) -> Result<(), Misshapen> {
    if head.raw.len() > limits.head_bytes {
        return Err(Misshapen { status: 431, reason: "request head too large" });
    }
    if head.headers.len() > limits.fields {
        return Err(Misshapen { status: 431, reason: "too many header fields" });
    }
    if head.target.len() > limits.target_bytes {
        return Err(Misshapen { status: 414, reason: "request target too long" });
    }
    check_lines(head.raw)?;
    check_target(head.target)?;
    check_host(head)?;
    check_framing(head, limits)?;
    if let Some(expect) = head.headers.get(header::EXPECT)
        && !expect.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err(Misshapen { status: 417, reason: "unknown expectation" });
    }
    Ok(())
}

/// Bytes above ASCII as `%XX`: targets go out as RFC 3986 has them.
pub fn encoded(target: &[u8]) -> Vec<u8> {
    if target.is_ascii() {
        return target.to_vec();
    }
    let mut encoded = Vec::with_capacity(target.len() + 16);
    for byte in target {
        match byte.is_ascii() {
            true => encoded.push(*byte),
            false => encoded.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    encoded
}

/// The origin form of a target that passed [`check`]: what follows the authority of an absolute form.
pub fn origin_form(target: &[u8]) -> &[u8] {
    match absolute(target) {
        Some(rest) => match rest.iter().position(|b| *b == b'/') {
            Some(slash) => &rest[slash..],
            None => b"/",
        },
        None => target,
    }
}

fn absolute(target: &[u8]) -> Option<&[u8]> {
    let scheme = |scheme: &[u8]| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    scheme(b"http://").or_else(|| scheme(b"https://"))
}

/// RFC 9112 §2.2 lets a recipient take a bare LF for a line's end, and §5.2 an obs-fold for a space: two
/// ways to smuggle, so both are refused.
fn check_lines(raw: &[u8]) -> Result<(), Misshapen> {
    let line = raw.split(|b| *b == b'\r').next().unwrap_or_default();
    // Pingora's parser encodes such bytes, and what it took for the target's end may not be what others do.
    let spaces = line.iter().filter(|b| **b == b' ').count();
    if !raw.is_empty() && (spaces != 2 || line.iter().any(|b| *b < b' ' || *b == 0x7f || *b == b'#' || *b == b'\\')) {
        return Err(bad("malformed request line"));
    }
    for (i, byte) in raw.iter().enumerate() {
        match byte {
            b'\n' if i == 0 || raw[i - 1] != b'\r' => return Err(bad("bare LF in the head")),
            b'\n' if matches!(raw.get(i + 1), Some(b' ' | b'\t')) => return Err(bad("folded header line")),
            b'\r' if raw.get(i + 1) != Some(&b'\n') => return Err(bad("bare CR in the head")),
            0 => return Err(bad("NUL in the head")),
            _ => {}
        }
    }
    Ok(())
}

fn check_target(target: &[u8]) -> Result<(), Misshapen> {
    let path = match absolute(target) {
        Some(rest) if rest.is_empty() || rest[0] == b'/' => return Err(bad("absolute target without a host")),
        Some(_) => origin_form(target),
        None => target,
    };
    if path.first() != Some(&b'/') {
        return Err(bad("target does not begin with a slash"));
    }
    if target.iter().any(|b| *b <= b' ' || *b == 0x7f || *b == b'\\' || *b == b'#') {
        return Err(bad("forbidden byte in the target"));
    }
    Ok(())
}

fn check_host(head: &Head<'_>) -> Result<(), Misshapen> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => Err(bad("more than one Host")),
        (None, _) if head.version == Version::HTTP_11 => Err(bad("no Host")),
        (Some(host), None) if !is_host(host.as_bytes()) => Err(bad("malformed Host")),
        _ => Ok(()),
    }
}

/// RFC 3986 §3.2.2 host with an optional port. An empty Host is lawful (RFC 9110 §7.2), and useless here.
pub fn is_host(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let (name, port) = name_and_port(host);
    let port_ok = port.is_none_or(|port| port.is_empty() || port.parse::<u16>().is_ok());
    let name_ok = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&b)),
    };
    name_ok && port_ok
}

/// A host's name, and its port if it has one. A colon within brackets is an IPv6 address's own.
pub fn name_and_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// RFC 9112 §6.3: one framing, stated once.
fn check_framing(head: &Head<'_>, limits: &HeadLimits) -> Result<(), Misshapen> {
    let mut lengths = head.headers.get_all(header::CONTENT_LENGTH).iter();
    let length = match (lengths.next(), lengths.next()) {
        (Some(_), Some(_)) => return Err(bad("more than one Content-Length")),
        (Some(value), None) => {
            let digits =
                value.to_str().ok().filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
            match digits.and_then(|text| text.parse::<u64>().ok()).filter(|length| *length <= MAX_LENGTH) {
                Some(length) => Some(length),
                None => return Err(bad("malformed Content-Length")),
            }
        }
        (None, _) => None,
    };
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    let chunked = match (codings.next(), codings.next()) {
        (Some(_), Some(_)) => return Err(bad("more than one Transfer-Encoding")),
        (Some(value), None) if !value.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            return Err(bad("Transfer-Encoding is not chunked"));
        }
        (Some(_), None) => true,
        (None, _) => false,
    };
    // Pingora drops Content-Length where both stand, so the raw bytes are asked.
    if chunked && (length.is_some() || has_field(head.raw, b"content-length")) {
        return Err(bad("both Content-Length and Transfer-Encoding"));
    }
    let reads_only = matches!(*head.method, Method::GET | Method::HEAD);
    if reads_only && (chunked || length.is_some_and(|length| length > 0)) {
        return Err(bad("a body on GET or HEAD"));
    }
    if length.is_some_and(|length| length > limits.body_bytes) {
        return Err(Misshapen { status: 413, reason: "request body too large" });
    }
    Ok(())
}

fn has_field(raw: &[u8], name: &[u8]) -> bool {
    raw.split(|b| *b == b'\n').skip(1).any(|line| {
        line.split_at_checked(name.len())
            .is_some_and(|(start, rest)| start.eq_ignore_ascii_case(name) && rest.first() == Some(&b':'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    const LIMITS: HeadLimits = HeadLimits { target_bytes: 100, head_bytes: 1000, fields: 10, body_bytes: 1 << 30 };

    /// Parses as Pingora would, so that the table can be written as bytes on the wire.
    fn verdict(raw: &str) -> Result<(), u16> {
        let mut lines = raw.split("\r\n");
        let mut first = lines.next().unwrap().split(' ');
        let method: Method = first.next().unwrap().parse().unwrap();
        let target = first.next().unwrap();
        let version = if first.next() == Some("HTTP/1.0") { Version::HTTP_10 } else { Version::HTTP_11 };
        let mut headers = HeaderMap::new();
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').unwrap();
            headers
                .append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.trim().as_bytes()).unwrap());
        }
        check(
            &Head { method: &method, target: target.as_bytes(), version, headers: &headers, raw: raw.as_bytes() },
            &LIMITS,
        )
        .map_err(|bad| bad.status)
    }

    #[test]
    fn requests_are_refused_by_shape() {
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(100));
        let fat = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(1000));
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(10));
        let cases: &[(&str, Result<(), u16>)] = &[
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(())),
            ("GET / HTTP/1.0\r\n\r\n", Ok(())),
            ("GET /%2e%2e/x?y=1&z HTTP/1.1\r\nHost: a:8080\r\n\r\n", Ok(())),
            ("GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n", Ok(())),
            ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
            ("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Ok(())),
            ("GET / HTTP/1.1\r\n\r\n", Err(400)),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Err(400)),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Err(400)),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Err(400)),
            ("GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", Err(400)),
            ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", Err(400)),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Err(400)),
            ("GET x HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
            ("GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
            ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
            ("GET /a\x01b HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", Ok(())),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", Err(400)),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", Err(400)),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", Err(400)),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n", Err(400)),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000000\r\n\r\n", Err(413)),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Ok(())),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", Err(400)),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Err(400)),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                Err(400),
            ),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", Ok(())),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", Err(400)),
            ("HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Err(400)),
            ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\n\r\n", Ok(())),
            ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", Err(417)),
            (&long, Err(414)),
            (&fat, Err(431)),
            (&many, Err(431)),
        ];
        for (raw, expected) in cases {
            assert_eq!(verdict(raw), *expected, "{raw:?}");
        }
    }

    #[test]
    fn lines_are_checked_as_bytes() {
        for raw in [
            "GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
            "GET / HTTP/1.1\nX: a\n\n",
            "GET / HTTP/1.1\r\nX: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nX: a\0\r\n\r\n",
        ] {
            assert!(check_lines(raw.as_bytes()).is_err(), "{raw:?}");
        }
        assert!(check_lines(b"GET / HTTP/1.1\r\nX: a\r\n\r\n").is_ok());
    }

    #[test]
    fn an_absolute_target_is_reduced_to_its_origin_form() {
        for (target, expected) in [("/a?b", "/a?b"), ("http://h/a?b", "/a?b"), ("HTTPS://h:1/", "/"), ("http://h", "/")]
        {
            assert_eq!(origin_form(target.as_bytes()), expected.as_bytes());
        }
    }
}
