//! Who may ask, and who may order: decisions alone, from a request's head.
//!
//! A browser is a program that does what strangers tell it, from a place inside the walls. So, besides the token:
//! - A page anywhere may have its own name lead to this listener (DNS rebinding), and would be same-origin with it. So only
//!   names that are known are answered: addresses, `localhost`, and those of `admin.hosts`.
//! - A page anywhere may have a browser send a form here. `Origin` (RFC 6454 §7) and `Sec-Fetch-Site` (W3C Fetch Metadata)
//!   tell where from, and no page can forge them.

use std::net::{IpAddr, Ipv6Addr};

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, header};
use sha2::Sha256;

/// Why a request is not answered, or an order not obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(
        "this admin listener does not have that name: use its IP address or localhost, or list the name in \
         `admin.hosts`"
    )]
    Name,
    #[error("a page of another site sent this; only the status page and command lines may send commands")]
    CrossSite,
    #[error("this command needs the token: send `Authorization: Bearer TOKEN`, or sign in on the status page")]
    NoToken,
    #[error("that is not the token of `admin.token`")]
    WrongToken,
    #[error("too many wrong tokens came from there: wait a second, then try again")]
    TooMany,
    #[error("the page that sent this is of another session: go back to /status and try again")]
    Stale,
    #[error("commands from other machines need a token: set `admin.token`, or run the command on this machine")]
    NotHere,
    #[error("there is no token to sign in with: set `admin.token`")]
    NoSessions,
    #[error("the body must have a Content-Length")]
    Chunked,
    #[error("the body is too long: 4096 bytes at most")]
    TooLong,
    #[error("the body did not arrive")]
    Cut,
}

impl Refused {
    pub fn status(self) -> u16 {
        match self {
            Refused::Name => 421,
            Refused::CrossSite | Refused::Stale | Refused::NotHere => 403,
            Refused::NoToken | Refused::WrongToken => 401,
            Refused::TooMany => 429,
            Refused::NoSessions => 404,
            Refused::Chunked => 411,
            Refused::TooLong => 413,
            Refused::Cut => 400,
        }
    }
}

/// Whether the request is for a name that we go by. One without a `Host` comes from no browser.
pub fn is_ours(headers: &HeaderMap, hosts: &[String]) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => return is_port(port) && address.parse::<Ipv6Addr>().is_ok(),
            None => return false,
        },
        None => match host.find(':') {
            Some(colon) if !is_port(&host[colon..]) => return false,
            Some(colon) => &host[..colon],
            None => host,
        },
    };
    let name = name.to_ascii_lowercase();
    name == "localhost" || name.parse::<IpAddr>().is_ok() || hosts.contains(&name)
}

/// Nothing, or a colon and a number.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

/// Whether a browser says that the request comes from a page of another origin. Command lines say nothing.
pub fn is_cross_site(headers: &HeaderMap) -> bool {
    let fetch_site = headers.get_all("sec-fetch-site").iter();
    if fetch_site.into_iter().any(|site| !matches!(site.as_bytes(), b"same-origin" | b"none")) {
        return true;
    }
    let own = headers.get(header::HOST).map(|host| host.as_bytes());
    // A TLS proxy in front may have made http of https, so the scheme is not looked at.
    let is_own = |origin: &[u8]| {
        let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
        authority.is_some() && authority.zip(own).is_some_and(|(authority, own)| authority.eq_ignore_ascii_case(own))
    };
    headers.get_all(header::ORIGIN).iter().any(|origin| !is_own(origin.as_bytes()))
}

/// The token of `Authorization: Bearer` (RFC 6750 §2.1).
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Compares secrets in a time that tells nothing of either. `key` is any that nobody outside knows.
pub fn is_same(key: &[u8], given: &str, wanted: &str) -> bool {
    let wanted = keyed(key, wanted.as_bytes()).finalize().into_bytes();
    keyed(key, given.as_bytes()).verify_slice(&wanted).is_ok()
}

pub fn keyed(key: &[u8], text: &[u8]) -> Hmac<Sha256> {
    // invariant: HMAC takes keys of any length
    Hmac::new_from_slice(key).expect("any key fits").chain_update(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_known_names_are_answered() {
        let hosts = ["lb.example.com".to_owned()];
        const CASES: &[(&str, bool)] = &[
            ("127.0.0.1:9090", true),
            ("127.0.0.1", true),
            ("192.168.1.10:9090", true),
            ("[::1]:9090", true),
            ("[::1]", true),
            ("localhost:9090", true),
            ("LocalHost", true),
            ("lb.example.com", true),
            ("LB.example.com:9090", true),
            ("evil.example.com:9090", false),
            ("lb.example.com.evil.com", false),
            ("localhost.evil.com", false),
            ("127.0.0.1.evil.com:9090", false),
            ("127.0.0.1:9090.evil.com", false),
            ("127.0.0.1:", false),
            ("[::1].evil.com", false),
            ("[evil.com]:80", false),
            ("[::1", false),
            ("evil.com@127.0.0.1", false),
            ("", false),
        ];
        for (host, expected) in CASES {
            assert_eq!(is_ours(&head(&[("host", host)]), &hosts), *expected, "{host}");
        }
        assert!(is_ours(&head(&[]), &hosts), "HTTP/1.0");
        assert!(!is_ours(&head(&[("host", "lb.example.com")]), &[]));
    }

    #[test]
    fn pages_of_other_sites_are_told_by_what_browsers_say() {
        const HOST: (&str, &str) = ("host", "127.0.0.1:9090");
        const CASES: &[(&[(&str, &str)], bool)] = &[
            (&[], false),
            (&[("origin", "http://127.0.0.1:9090")], false),
            (&[("origin", "https://127.0.0.1:9090")], false),
            (&[("origin", "http://127.0.0.1:9090"), ("sec-fetch-site", "same-origin")], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("origin", "http://127.0.0.1:8080")], true),
            (&[("origin", "http://127.0.0.1")], true),
            (&[("origin", "http://evil.example")], true),
            (&[("origin", "http://127.0.0.1:9090.evil.example")], true),
            (&[("origin", "http://evil.example"), ("origin", "http://127.0.0.1:9090")], true),
            (&[("origin", "null")], true),
            (&[("origin", "")], true),
            (&[("origin", "chrome-extension://127.0.0.1:9090")], true),
            (&[("sec-fetch-site", "cross-site")], true),
            (&[("sec-fetch-site", "same-site")], true),
            (&[("origin", "http://127.0.0.1:9090"), ("sec-fetch-site", "cross-site")], true),
        ];
        for (fields, expected) in CASES {
            assert_eq!(is_cross_site(&head(&[&[HOST], *fields].concat())), *expected, "{fields:?}");
        }
        assert!(is_cross_site(&head(&[("origin", "http://127.0.0.1:9090")])), "and no Host to compare with");
    }

    #[test]
    fn a_bearer_token_is_found() {
        const CASES: &[(&str, Option<&str>)] =
            &[("Bearer abc", Some("abc")), ("bearer  abc", Some("abc")), ("Basic abc", None), ("Bearer", None)];
        for (value, expected) in CASES {
            assert_eq!(bearer(&head(&[("authorization", value)])), *expected, "{value}");
        }
        assert!(is_same(b"k", "abc", "abc") && !is_same(b"k", "abd", "abc") && !is_same(b"k", "", "abc"));
    }
}
