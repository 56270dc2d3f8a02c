//! Hops between proxies: who we are in `Via` and `CDN-Loop`, and whether a request has been here before.
//!
//! `Via` (RFC 9110 §7.6.3) and `CDN-Loop` (RFC 8586) both carry our name; a node that passes on either one
//! is caught. `CDN-Loop` also carries a mark, a keyed hash of the name, that a client cannot make: it tells
//! a request sent by another hopfall of the same key from one that a node made up.

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use sha2::Sha256;

pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// This instance's name and mark.
#[derive(Clone)]
pub struct Identity {
    name: String,
    key: Vec<u8>,
    via: HeaderValue,
    cdn_loop: HeaderValue,
}

/// What the hops of an incoming request say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Our own name: somebody sent one of our requests back to us.
    Ourselves,
    /// A hopfall with our key and another name.
    Peer,
    /// Nothing that we would vouch for.
    Stranger,
}

impl Identity {
    /// `name` must be a token (RFC 9110 §5.6.2), as [`is_token`] tells, and be this instance's alone.
    pub fn new(name: &str, key: &[u8]) -> Self {
        let mark = mark(name, key);
        // invariant: a token and hex digits are valid in a header value
        let value = |text: String| HeaderValue::from_str(&text).expect("a token is a valid header value");
        Identity {
            name: name.to_owned(),
            key: key.to_vec(),
            via: value(format!("1.1 {name}")),
            cdn_loop: value(format!("{name};mark={mark}")),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads the hops of a request that came in.
    pub fn look(&self, headers: &HeaderMap) -> Seen {
        let mut seen = Seen::Stranger;
        for hop in headers.get_all(header::VIA).iter().flat_map(members) {
            // received-protocol RWS received-by [ RWS comment ]
            if hop.split_ascii_whitespace().nth(1).is_some_and(|by| by.eq_ignore_ascii_case(&self.name)) {
                return Seen::Ourselves;
            }
        }
        for hop in headers.get_all(CDN_LOOP).iter().flat_map(members) {
            let mut parts = hop.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            if name.eq_ignore_ascii_case(&self.name) {
                return Seen::Ourselves;
            }
            if parts.filter_map(|part| part.strip_prefix("mark=")).any(|given| self.vouches(name, given)) {
                seen = Seen::Peer;
            }
        }
        seen
    }

    /// Adds this hop, after those that are there already.
    pub fn sign(&self, headers: &mut HeaderMap) {
        headers.append(header::VIA, self.via.clone());
        headers.append(CDN_LOOP, self.cdn_loop.clone());
    }

    fn vouches(&self, name: &str, given: &str) -> bool {
        let Some(given) = unhex(given) else { return false };
        keyed(name, &self.key).verify_truncated_left(&given).is_ok() && given.len() == MARK_BYTES
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.name)
    }
}

/// Whether `text` is a token, the only form a pseudonym in `Via` may take.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// The members of a comma-separated list, commas in comments and quoted strings left alone. Text that is
/// not ASCII yields none: it cannot hold our name.
fn members(value: &HeaderValue) -> impl Iterator<Item = &str> {
    let mut depth = 0u32;
    let mut quoted = false;
    value
        .to_str()
        .unwrap_or_default()
        .split(move |c: char| {
            match c {
                '"' => quoted = !quoted,
                '(' if !quoted => depth += 1,
                ')' if !quoted => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ',' && depth == 0 && !quoted
        })
        .map(str::trim)
}

const MARK_BYTES: usize = 16;

fn keyed(name: &str, key: &[u8]) -> Hmac<Sha256> {
    // invariant: HMAC takes a key of any length
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key");
    mac.update(name.to_ascii_lowercase().as_bytes());
    mac
}

fn mark(name: &str, key: &[u8]) -> String {
    keyed(name, key).finalize().into_bytes()[..MARK_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 2 * MARK_BYTES || !text.is_ascii() {
        return None;
    }
    (0..MARK_BYTES).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn our_name_is_found_wherever_it_may_stand() {
        let us = Identity::new("hopfall-1a2b", b"key");
        let long = format!("{}, 1.1 hopfall-1a2b", vec!["1.1 someone"; 800].join(", "));
        let cases: &[(&[(&'static str, &str)], Seen)] = &[
            (&[], Seen::Stranger),
            (&[("via", "1.1 hopfall-1a2b")], Seen::Ourselves),
            (&[("via", "1.1 HOPFALL-1A2B")], Seen::Ourselves),
            (&[("via", "HTTP/1.1 hopfall-1a2b (a comment, with a comma)")], Seen::Ourselves),
            (&[("via", "1.0 fred, 1.1 hopfall-1a2b , 1.1 nginx")], Seen::Ourselves),
            (&[("via", "1.0 fred"), ("via", "1.1 hopfall-1a2b")], Seen::Ourselves),
            (&[("via", &long)], Seen::Ourselves),
            (&[("cdn-loop", "fastly, hopfall-1a2b;mark=0")], Seen::Ourselves),
            (&[("cdn-loop", "HopFall-1a2b")], Seen::Ourselves),
            (&[("via", "1.1 hopfall-1a2bc")], Seen::Stranger),
            (&[("via", "1.1 fred (hopfall-1a2b)")], Seen::Stranger),
            (&[("via", "1.1 fred (1.1 a, 1.1 hopfall-1a2b)")], Seen::Stranger),
            (&[("via", "hopfall-1a2b")], Seen::Stranger),
            (&[("via", "1.1 hopfall")], Seen::Stranger),
            (&[("cdn-loop", "other;mark=00112233445566778899aabbccddeeff")], Seen::Stranger),
        ];
        for (lines, expected) in cases {
            assert_eq!(us.look(&headers(lines)), *expected, "{lines:?}");
        }
    }

    #[test]
    fn only_the_same_key_makes_a_peer() {
        let us = Identity::new("a", b"key");
        let mut from_peer = HeaderMap::new();
        Identity::new("b", b"key").sign(&mut from_peer);
        assert_eq!(us.look(&from_peer), Seen::Peer);

        let mut forged = HeaderMap::new();
        Identity::new("b", b"another key").sign(&mut forged);
        assert_eq!(us.look(&forged), Seen::Stranger);

        let mut renamed = HeaderMap::new();
        let mark = from_peer.get(CDN_LOOP).unwrap().to_str().unwrap().replace("b;", "c;");
        renamed.append(CDN_LOOP, HeaderValue::from_str(&mark).unwrap());
        assert_eq!(us.look(&renamed), Seen::Stranger, "a mark belongs to one name");
    }

    #[test]
    fn signing_keeps_the_hops_before_us() {
        let mut headers = headers(&[("via", "1.0 fred")]);
        Identity::new("a", b"key").sign(&mut headers);
        let via: Vec<_> = headers.get_all(header::VIA).iter().collect();
        assert_eq!(via, ["1.0 fred", "1.1 a"]);
        assert_eq!(Identity::new("a", b"key").look(&headers), Seen::Ourselves);
    }

    #[test]
    fn the_key_is_never_printed() {
        assert!(!format!("{:?}", Identity::new("a", b"sesame")).contains("sesame"));
    }
}
