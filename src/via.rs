//! Hops between proxies: who we are in `Via` and `CDN-Loop`, and whether a request has been here before.
//!
//! `Via` (RFC 9110 §7.6.3) and `CDN-Loop` (RFC 8586) both carry our name; a node that passes on either one
//! is caught. `CDN-Loop` also carries a mark, a keyed hash of the name, that a client cannot make: it tells
//! a request sent by another hopfall of the same key from one that a node made up. And it says whom we sent
//! the request to, so that the node that points back can be named.

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use sha2::Sha256;

use crate::hex;

pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// This instance's name and mark.
#[derive(Clone)]
pub struct Identity {
    name: String,
    key: Vec<u8>,
    mark: String,
}

/// The two fields that a request to one target carries.
#[derive(Clone, Debug)]
pub struct Hop {
    via: HeaderValue,
    cdn_loop: HeaderValue,
}

/// What the hops of an incoming request say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Our own name: somebody sent one of our requests back to us. `to` is the target that it says we
    /// sent it to, when the mark beside it is ours.
    Ourselves { to: Option<String> },
    /// A hopfall with our key and another name.
    Peer,
    /// Nothing that we would vouch for.
    Stranger,
}

impl Identity {
    /// A short text that only who has our key can make of `text`.
    pub fn token(&self, text: &str) -> String {
        mark(text, &self.key)
    }

    /// `name` must be a token (RFC 9110 §5.6.2), as [`is_token`] tells, and be this instance's alone.
    pub fn new(name: &str, key: &[u8]) -> Self {
        Identity { name: name.to_owned(), key: key.to_vec(), mark: mark(name, key) }
    }

    /// The hop of requests to the target called `to`.
    pub fn hop(&self, to: &str) -> Hop {
        let (name, mark) = (&self.name, &self.mark);
        let to = hex::of(to.as_bytes());
        // invariant: a token and hex digits are valid in a header value
        let value = |text: String| HeaderValue::from_str(&text).expect("a token is a valid header value");
        Hop { via: value(format!("1.1 {name}")), cdn_loop: value(format!("{name};mark={mark};to={to}")) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key of the mark. Secret.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Reads the hops of a request that came in, the latest first.
    ///
    /// Our name is looked for anywhere, as a token among bytes: nobody's unclosed comment or quoted string
    /// can hide it. A false find costs its own request only.
    pub fn look(&self, headers: &HeaderMap) -> Seen {
        let mut peer = false;
        let mut marks = MOST_MARKS;
        let lines = headers.get_all(CDN_LOOP).iter().rev().map(HeaderValue::as_bytes);
        for hop in lines.flat_map(|line| line.rsplit(|byte| *byte == b',')) {
            let mut parts = hop.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let name = parts.next().unwrap_or_default();
            let parameter =
                |wanted: &[u8]| parts.clone().find_map(|part| part.strip_prefix(wanted)?.strip_prefix(b"="));
            let vouched = parameter(b"mark").is_some_and(|given| {
                let looked_at = marks > 0;
                marks = marks.saturating_sub(1);
                looked_at && self.vouches(name, given)
            });
            if has_token(name, &self.name) {
                let to = parameter(b"to").filter(|_| vouched);
                return Seen::Ourselves { to: to.and_then(|to| String::from_utf8(hex::bytes(to)?).ok()) };
            }
            peer |= vouched;
        }
        let mut via = headers.get_all(header::VIA).iter();
        if via.any(|line| has_token(line.as_bytes(), &self.name)) {
            return Seen::Ourselves { to: None };
        }
        if peer { Seen::Peer } else { Seen::Stranger }
    }

    fn vouches(&self, name: &[u8], given: &[u8]) -> bool {
        // A shorter mark would be a weaker one.
        let Some(given) = hex::bytes(given).filter(|given| given.len() == MARK_BYTES) else { return false };
        keyed(name, &self.key).verify_truncated_left(&given).is_ok()
    }
}

impl Hop {
    /// The values of `Via` and `CDN-Loop` after the hops that `headers` bear: one line each, because a node
    /// that keeps only the first line must not lose us.
    pub fn after(&self, headers: &HeaderMap) -> [(HeaderName, HeaderValue); 2] {
        let joined = |name: HeaderName, ours: &HeaderValue| {
            let before = headers.get_all(&name);
            if before.iter().next().is_none() {
                return (name, ours.clone());
            }
            let mut lines: Vec<&[u8]> = before.iter().map(HeaderValue::as_bytes).collect();
            lines.push(ours.as_bytes());
            // invariant: values joined by a comma and a space are a value
            let value = HeaderValue::from_bytes(&lines.join(&b", "[..])).unwrap_or_else(|_| ours.clone());
            (name, value)
        };
        [joined(header::VIA, &self.via), joined(CDN_LOOP, &self.cdn_loop)]
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.name)
    }
}

/// Whether `text` is a token, the only form a pseudonym in `Via` may take.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// Whether `token` stands in `text`, in any case, with no other token's byte beside it.
fn has_token(text: &[u8], token: &str) -> bool {
    let is_edge = |byte: Option<&u8>| byte.is_none_or(|byte| !is_token_byte(*byte));
    text.windows(token.len()).enumerate().any(|(at, window)| {
        window.eq_ignore_ascii_case(token.as_bytes())
            && is_edge(at.checked_sub(1).and_then(|before| text.get(before)))
            && is_edge(text.get(at + token.len()))
    })
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

const MARK_BYTES: usize = 16;
/// Marks of one request that are verified. A client may send as many as fit into its head, and each takes a hash.
const MOST_MARKS: usize = 16;

fn keyed(name: &[u8], key: &[u8]) -> Hmac<Sha256> {
    // invariant: HMAC takes a key of any length
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key");
    mac.update(&name.to_ascii_lowercase());
    mac
}

fn mark(name: &str, key: &[u8]) -> String {
    hex::of(&keyed(name.as_bytes(), key).finalize().into_bytes()[..MARK_BYTES])
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

    fn add(hop: &Hop, headers: &mut HeaderMap) {
        for (name, value) in hop.after(&headers.clone()) {
            headers.insert(name, value);
        }
    }

    #[test]
    fn our_name_is_found_wherever_it_may_stand() {
        let us = Identity::new("hopfall-1a2b", b"key");
        let long = format!("{}, 1.1 hopfall-1a2b", vec!["1.1 someone"; 800].join(", "));
        let cases: &[(&[(&'static str, &str)], Seen)] = &[
            (&[], Seen::Stranger),
            (&[("via", "1.1 hopfall-1a2b")], Seen::Ourselves { to: None }),
            (&[("via", "1.1 HOPFALL-1A2B")], Seen::Ourselves { to: None }),
            (&[("via", "HTTP/1.1 hopfall-1a2b (a comment, with a comma)")], Seen::Ourselves { to: None }),
            (&[("via", "1.0 fred, 1.1 hopfall-1a2b , 1.1 nginx")], Seen::Ourselves { to: None }),
            (&[("via", "1.0 fred"), ("via", "1.1 hopfall-1a2b")], Seen::Ourselves { to: None }),
            (&[("via", &long)], Seen::Ourselves { to: None }),
            (&[("cdn-loop", "fastly, hopfall-1a2b;mark=0")], Seen::Ourselves { to: None }),
            (&[("cdn-loop", "HopFall-1a2b")], Seen::Ourselves { to: None }),
            (&[("cdn-loop", "HopFall-1a2b;mark=00112233445566778899aabbccddeeff;to=74")], Seen::Ourselves { to: None }),
            (&[("via", "1.1 hopfall-1a2bc")], Seen::Stranger),
            (&[("via", "1.1 a (, 1.1 hopfall-1a2b")], Seen::Ourselves { to: None }),
            (&[("cdn-loop", "a;x=\", hopfall-1a2b;mark=0")], Seen::Ourselves { to: None }),
            (&[("via", "1.1 x.hopfall-1a2b")], Seen::Stranger),
            (&[("via", "1.1 hopfall")], Seen::Stranger),
            (&[("cdn-loop", "other;mark=00112233445566778899aabbccddeeff")], Seen::Stranger),
        ];
        for (lines, expected) in cases {
            assert_eq!(us.look(&headers(lines)), *expected, "{lines:?}");
        }
    }

    #[test]
    fn a_byte_beyond_ascii_hides_nothing() {
        let us = Identity::new("hopfall-1a2b", b"key");
        for name in [header::VIA, CDN_LOOP] {
            let mut headers = HeaderMap::new();
            headers.append(name, HeaderValue::from_bytes(b"1.1 \xe9, 1.1 hopfall-1a2b").unwrap());
            assert_eq!(us.look(&headers), Seen::Ourselves { to: None });
        }
    }

    #[test]
    fn only_the_same_key_makes_a_peer() {
        let us = Identity::new("a", b"key");
        let mut from_peer = HeaderMap::new();
        add(&Identity::new("b", b"key").hop("x"), &mut from_peer);
        assert_eq!(us.look(&from_peer), Seen::Peer);

        let mut forged = HeaderMap::new();
        add(&Identity::new("b", b"another key").hop("x"), &mut forged);
        assert_eq!(us.look(&forged), Seen::Stranger);

        let mut renamed = HeaderMap::new();
        let mark = from_peer.get(CDN_LOOP).unwrap().to_str().unwrap().replace("b;", "c;");
        renamed.append(CDN_LOOP, HeaderValue::from_str(&mark).unwrap());
        assert_eq!(us.look(&renamed), Seen::Stranger, "a mark belongs to one name");
    }

    #[test]
    fn signing_keeps_the_hops_before_us() {
        let mut headers = headers(&[("via", "1.0 fred")]);
        add(&Identity::new("a", b"key").hop("the node, \"taiga\""), &mut headers);
        let via: Vec<_> = headers.get_all(header::VIA).iter().collect();
        assert_eq!(via, ["1.0 fred, 1.1 a"]);
        let to = Some("the node, \"taiga\"".to_owned());
        assert_eq!(Identity::new("a", b"key").look(&headers), Seen::Ourselves { to });
    }

    #[test]
    fn the_key_is_never_printed() {
        assert!(!format!("{:?}", Identity::new("a", b"sesame")).contains("sesame"));
    }
}
