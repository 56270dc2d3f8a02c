//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>): what `traceparent` and `tracestate` say, who is believed,
//! and what goes on to a node.

use http::{HeaderMap, HeaderName, HeaderValue};

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// What a `traceparent` says: a span of somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Not zero.
    pub trace: u128,
    /// Not zero.
    pub span: u64,
    pub sampled: bool,
}

impl Parent {
    /// Reads a value (§3.2). `None`: it is malformed, and counts as if it were not there.
    pub fn parse(value: &[u8]) -> Option<Parent> {
        let (version, rest) = value.split_at_checked(2)?;
        let version = hex(version)?;
        let (fields, after) = rest.split_at_checked(53)?;
        let [b'-', fields @ ..] = fields else { return None };
        // A later version may say more after a dash, and ff is none (§3.2.2.1, §4.3).
        let ends_well = match version {
            0 => after.is_empty(),
            255 => false,
            _ => after.is_empty() || after.starts_with(b"-"),
        };
        let [b'-', b'-'] = [fields[32], fields[49]] else { return None };
        let (trace, span, flags) = (hex(&fields[..32])?, hex(&fields[33..49])?, hex(&fields[50..])?);
        let span = u64::try_from(span).ok()?;
        (ends_well && trace != 0 && span != 0).then_some(Parent { trace, span, sampled: flags & 1 == 1 })
    }

    /// That of a request. Two `traceparent`s are none.
    pub fn of(headers: &HeaderMap) -> Option<Parent> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Parent::parse(value.as_bytes()),
            _ => None,
        }
    }

    /// The value that says it, in version 00.
    pub fn value(self) -> HeaderValue {
        let text = format!("00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled));
        // invariant: hex digits and dashes
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

/// Digits in lower case only (§3.2.2.2); at most 32 of them.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0u128, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

/// The `tracestate` of a request as one line, to be passed on. `None`: there is none, or a member is malformed, or there
/// are more than 32 (§3.3).
pub fn state(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut state = String::new();
    let mut members = 0;
    for line in headers.get_all(TRACESTATE) {
        for member in line.to_str().ok()?.split(',').map(|member| member.trim_matches([' ', '\t'])) {
            if member.is_empty() {
                continue;
            }
            members += 1;
            if !is_member(member) || members > MOST_MEMBERS {
                return None;
            }
            if !state.is_empty() {
                state.push(',');
            }
            state.push_str(member);
        }
    }
    if state.is_empty() { None } else { HeaderValue::try_from(state).ok() }
}

/// `key=value` of §3.3.2.2.
fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let good_key = (1..=256).contains(&key.len())
        && key.bytes().next().is_some_and(first)
        && key.bytes().all(|byte| first(byte) || b"_-*/@".contains(&byte));
    let good_value = (1..=256).contains(&value.len())
        && value.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b',' && byte != b'=');
    good_key && good_value
}

/// One request's place in a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    pub id: u128,
    /// The request's own span.
    pub span: u64,
    /// The span that a trusted client named.
    pub parent: Option<u64>,
    /// The span that a client named who is not trusted: told, and not heeded.
    pub link: Option<Parent>,
    /// Whether its spans are told.
    pub sampled: bool,
    /// To be passed on.
    pub state: Option<HeaderValue>,
}

impl Trace {
    /// A `trusted` client's trace goes on, with its decision. Anybody else's begins here, and of these `percent` in a
    /// hundred are told: a stranger is not to choose what is. `random` is uniform.
    pub fn begin(headers: &HeaderMap, trusted: bool, percent: u32, mut random: impl FnMut() -> u64) -> Trace {
        let parent = Parent::of(headers);
        // Zero is no name (§3.2.2.3).
        let span = random().max(1);
        match parent.filter(|_| trusted) {
            Some(parent) => Trace {
                id: parent.trace,
                span,
                parent: Some(parent.span),
                link: None,
                sampled: parent.sampled,
                state: state(headers),
            },
            None => {
                let sampled = random() % 100 < u64::from(percent);
                let id = (u128::from(random()) << 64 | u128::from(random())).max(1);
                Trace { id, span, parent: None, link: parent, sampled, state: None }
            }
        }
    }

    /// What a node is told: that `span` of this trace asks it.
    pub fn told_by(&self, span: u64) -> HeaderValue {
        Parent { trace: self.id, span, sampled: self.sampled }.value()
    }
}

/// §3.3.1.
const MOST_MEMBERS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
    const SPAN: u64 = 0x00f0_67aa_0ba9_02b7;
    const SAMPLED: Option<Parent> = Some(Parent { trace: TRACE, span: SPAN, sampled: true });
    const NOT_SAMPLED: Option<Parent> = Some(Parent { trace: TRACE, span: SPAN, sampled: false });

    #[test]
    fn a_traceparent_is_read_as_strictly_as_it_is_defined() {
        const CASES: &[(&str, &str, Option<Parent>)] = &[
            ("sampled", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", SAMPLED),
            ("not sampled", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", NOT_SAMPLED),
            ("flags that came later", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03", SAMPLED),
            ("all but sampled", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fe", NOT_SAMPLED),
            ("a later version", "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", SAMPLED),
            ("one that says more", "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what", SAMPLED),
            ("one without a dash", "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what", None),
            ("version 00 that says more", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what", None),
            ("no version", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
            ("upper case", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", None),
            ("upper case flags", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0A", None),
            ("no trace", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", None),
            ("no span", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", None),
            ("a sign", "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
            ("too short", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0", None),
            ("no flags", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", None),
            ("other separators", "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01", None),
            ("a space", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 ", None),
            ("nothing", "", None),
            ("half a version", "0", None),
            ("multi-byte", "00-4bf92f3577b34da6a3ce929d0e0e473ü-00f067aa0ba902b7-01", None),
        ];
        for (case, value, expected) in CASES {
            assert_eq!(Parent::parse(value.as_bytes()), *expected, "{case}");
        }
    }

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line =
            |line: &(&'static str, &'static str)| (HeaderName::from_static(line.0), HeaderValue::from_static(line.1));
        lines.iter().map(line).collect()
    }

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn two_traceparents_are_none() {
        let mut headers = map(&[("traceparent", GOOD)]);
        assert_eq!(Parent::of(&headers), SAMPLED);
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert_eq!(Parent::of(&headers), None);
    }

    #[test]
    fn a_tracestate_goes_on_whole_or_not_at_all() {
        const CASES: &[(&str, &[&str], Option<&str>)] = &[
            ("one", &["rojo=00f067aa0ba902b7"], Some("rojo=00f067aa0ba902b7")),
            ("in lines", &["a=1, b=2", "c=3"], Some("a=1,b=2,c=3")),
            ("a tenant", &["0tenant@system_1-*/=a b"], Some("0tenant@system_1-*/=a b")),
            ("empty members", &[" ,a=1,\t,"], Some("a=1")),
            ("none", &[], None),
            ("nothing", &[""], None),
            ("no value", &["a=1,b="], None),
            ("no key", &["=1"], None),
            ("no member", &["a"], None),
            ("two equal signs", &["a=1=2"], None),
            ("an upper-case key", &["A=1"], None),
        ];
        for (case, lines, expected) in CASES {
            let mut headers = HeaderMap::new();
            for line in *lines {
                headers.append(TRACESTATE, HeaderValue::from_static(line));
            }
            assert_eq!(state(&headers), expected.map(HeaderValue::from_static), "{case}");
        }
        let many = |members: usize| {
            let text: Vec<_> = (0..members).map(|i| format!("k{i}=v")).collect();
            state(&HeaderMap::from_iter([(TRACESTATE, HeaderValue::try_from(text.join(",")).unwrap())])).is_some()
        };
        assert!(many(32) && !many(33));
        let long = |key: usize, value: usize| is_member(&format!("{}={}", "k".repeat(key), "v".repeat(value)));
        assert!(long(256, 256) && !long(257, 1) && !long(1, 257));
    }

    #[test]
    fn only_a_trusted_client_has_its_trace_go_on() {
        let headers = map(&[("traceparent", GOOD), ("tracestate", "a=1")]);
        let unsampled = map(&[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")]);
        let numbers = |given: &'static [u64]| {
            let mut given = given.iter();
            move || *given.next().expect("no more numbers than needed")
        };
        let trusted = Trace::begin(&headers, true, 1, numbers(&[7]));
        assert_eq!((trusted.id, trusted.span, trusted.parent, trusted.sampled), (TRACE, 7, Some(SPAN), true));
        assert_eq!(trusted.state, Some(HeaderValue::from_static("a=1")));
        assert_eq!(trusted.told_by(5), "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000005-01");
        assert!(!Trace::begin(&unsampled, true, 100, numbers(&[7])).sampled, "its decision is heeded either way");

        let stranger = Trace::begin(&headers, false, 30, numbers(&[0, 130, 1, 2]));
        assert_eq!((stranger.id, stranger.span, stranger.parent), ((1 << 64) + 2, 1, None));
        assert_eq!((stranger.link, stranger.sampled, stranger.state), (SAMPLED, false, None));
        assert!(Trace::begin(&headers, false, 30, numbers(&[0, 129, 1, 2])).sampled);
        assert!(Trace::begin(&HeaderMap::new(), true, 100, numbers(&[0, 99, 0, 0])).sampled);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace in 1u128.., span in 1u64.., sampled: bool) {
            let parent = Parent { trace, span, sampled };
            prop_assert_eq!(Parent::parse(parent.value().as_bytes()), Some(parent));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            Parent::parse(&bytes);
        }
    }
}
