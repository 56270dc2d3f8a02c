//! Hops between proxies: who we are in `Via` and `CDN-Loop`, and whether a request has been here before.
//!
//! `Via` (RFC 9110 §7.6.3) and `CDN-Loop` (RFC 8586) both carry our name; a node that passes on either one
//! is caught. `CDN-Loop` also carries a mark, a keyed hash of the name, that a client cannot make: it tells
//! a request sent by another hopfall of the same key from one that a node made up. And it says whom we sent
//! the request to, so that the node that points back can be named.

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use sha2::Sha256;

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
    /// `name` must be a token (RFC 9110 §5.6.2), as [`is_token`] tells, and be this instance's alone.
    pub fn new(name: &str, key: &[u8]) -> Self {
        Identity { name: name.to_owned(), key: key.to_vec(), mark: mark(name, key) }
    }

    /// The hop of requests to the target called `to`.
    pub fn hop(&self, to: &str) -> Hop {
        let (name, mark) = (&self.name, &self.mark);
        let to: String = to.bytes().map(|byte| format!("{byte:02x}")).collect();
        // invariant: a token and hex digits are valid in a header value
        let value = |text: String| HeaderValue::from_str(&text).expect("a token is a valid header value");
        Hop { via: value(format!("1.1 {name}")), cdn_loop: value(format!("{name};mark={mark};to={to}")) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads the hops of a request that came in.
    pub fn look(&self, headers: &HeaderMap) -> Seen {
        let mut seen = Seen::Stranger;
        let mut ours = None;
        for hop in headers.get_all(CDN_LOOP).iter().flat_map(members) {
            let mut parts = hop.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let parameter = |wanted: &str| parts.clone().find_map(|part| part.strip_prefix(wanted)?.strip_prefix('='));
            let vouched = parameter("mark").is_some_and(|given| self.vouches(name, given));
            if name.eq_ignore_ascii_case(&self.name) {
                // The last one is the hop that came back.
                ours = Some(parameter("to").filter(|_| vouched).and_then(|to| String::from_utf8(unhex(to)?).ok()));
            } else if vouched {
                seen = Seen::Peer;
            }
        }
        // received-protocol RWS received-by [ RWS comment ]
        let received_by_us =
            |hop: &str| hop.split_ascii_whitespace().nth(1).is_some_and(|by| by.eq_ignore_ascii_case(&self.name));
        match ours {
            Some(to) => Seen::Ourselves { to },
            None if headers.get_all(header::VIA).iter().flat_map(members).any(received_by_us) => {
                Seen::Ourselves { to: None }
            }
            None => seen,
        }
    }

    fn vouches(&self, name: &str, given: &str) -> bool {
        // A shorter mark would be a weaker one.
        let Some(given) = unhex(given).filter(|given| given.len() == MARK_BYTES) else { return false };
        keyed(name, &self.key).verify_truncated_left(&given).is_ok()
    }
}

impl Hop {
    /// The values of `Via` and `CDN-Loop`.
    pub fn values(&self) -> (&HeaderValue, &HeaderValue) {
        (&self.via, &self.cdn_loop)
    }

    /// Adds this hop, after those that are there already.
    pub fn add_to(&self, headers: &mut HeaderMap) {
        headers.append(header::VIA, self.via.clone());
        headers.append(CDN_LOOP, self.cdn_loop.clone());
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
    if !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()).collect()
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
        Identity::new("b", b"key").hop("x").add_to(&mut from_peer);
        assert_eq!(us.look(&from_peer), Seen::Peer);

        let mut forged = HeaderMap::new();
        Identity::new("b", b"another key").hop("x").add_to(&mut forged);
        assert_eq!(us.look(&forged), Seen::Stranger);

        let mut renamed = HeaderMap::new();
        let mark = from_peer.get(CDN_LOOP).unwrap().to_str().unwrap().replace("b;", "c;");
        renamed.append(CDN_LOOP, HeaderValue::from_str(&mark).unwrap());
        assert_eq!(us.look(&renamed), Seen::Stranger, "a mark belongs to one name");
    }

    #[test]
    fn signing_keeps_the_hops_before_us() {
        let mut headers = headers(&[("via", "1.0 fred")]);
        Identity::new("a", b"key").hop("the node, \"taiga\"").add_to(&mut headers);
        let via: Vec<_> = headers.get_all(header::VIA).iter().collect();
        assert_eq!(via, ["1.0 fred", "1.1 a"]);
        let to = Some("the node, \"taiga\"".to_owned());
        assert_eq!(Identity::new("a", b"key").look(&headers), Seen::Ourselves { to });
    }

    #[test]
    fn the_key_is_never_printed() {
        assert!(!format!("{:?}", Identity::new("a", b"sesame")).contains("sesame"));
    }
}
