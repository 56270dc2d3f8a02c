//! For how long an answer may be used again, as RFC 9111 asks of a shared cache. Pure: the time is an argument.
//!
//! A store is asked without any field of the client's but its range and conditions, so what it answers is the same for
//! all clients: a query string and `Vary` make no difference, but for `Vary: *`. What clients say in `Cache-Control` is
//! not heeded, which RFC 9111 §5.2.1 leaves to the cache: it would let anybody spend the operator's money.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::conditional::members;

/// What the operator says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long an answer is fresh that does not say so itself.
    pub ttl: Duration,
    /// How long after that it may be served while it is being asked for anew.
    pub stale_while_revalidate: Duration,
    /// How long after that it may be served because the store fails.
    pub stale_if_error: Duration,
}

/// What may be done with a kept answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Serve it, for so long.
    Fresh(Duration),
    /// It has been stale for so long.
    Stale {
        since: Duration,
        /// It may be served at once, while the store is asked on the side.
        while_revalidating: bool,
        /// It may be served if the store fails.
        if_error: bool,
    },
}

/// Whether an answer with `status` and `fields` may be kept (RFC 9111 §3). Only whole ones are.
pub fn may_keep(status: u16, fields: &HeaderMap) -> bool {
    let said = Said::of(fields);
    let varies = fields.get_all(header::VARY).iter().any(|vary| vary.as_bytes().contains(&b'*'));
    status == 200 && !said.no_store && !said.private && !varies && !fields.contains_key(header::SET_COOKIE)
}

/// How old an answer is that is received at `now` (RFC 9111 §4.2.3), after a wait of `delay`.
pub fn age_on_arrival(fields: &HeaderMap, now: SystemTime, delay: Duration) -> Duration {
    let apparent = date(fields, &header::DATE).and_then(|date| now.duration_since(date).ok()).unwrap_or_default();
    let said = text(fields, &header::AGE).and_then(|age| age.trim().parse().ok()).map(Duration::from_secs);
    apparent.max(said.unwrap_or_default() + delay)
}

/// What may be done with an answer of this `age` now.
pub fn judge(fields: &HeaderMap, age: Duration, rules: &Rules) -> Freshness {
    let said = Said::of(fields);
    let lifetime = if said.no_cache { Duration::ZERO } else { said.lifetime(fields).unwrap_or(rules.ttl) };
    if let Some(left) = lifetime.checked_sub(age).filter(|left| !left.is_zero()) {
        return Freshness::Fresh(left);
    }
    let since = age - lifetime;
    let within = |said: Option<Duration>, rule| since <= said.unwrap_or(rule);
    Freshness::Stale {
        since,
        while_revalidating: !said.strict && within(said.stale_while_revalidate, rules.stale_while_revalidate),
        if_error: !said.strict && within(said.stale_if_error, rules.stale_if_error),
    }
}

/// The fields of a kept answer after a 304 (RFC 9111 §3.2): what it says replaces what was kept.
pub fn updated(kept: &HeaderMap, not_modified: &HeaderMap) -> HeaderMap {
    let mut fields = kept.clone();
    for name in not_modified.keys().filter(|name| !OF_THE_CONTENT.contains(name)) {
        fields.remove(name);
        for value in not_modified.get_all(name) {
            fields.append(name.clone(), value.clone());
        }
    }
    fields
}

/// What a 304 may not change: it says what the kept bytes are.
const OF_THE_CONTENT: [HeaderName; 4] =
    [header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::CONTENT_TYPE, header::CONTENT_RANGE];

/// What `Cache-Control` says (RFC 9111 §5.2.2, RFC 5861).
#[derive(Debug, Default)]
struct Said {
    no_store: bool,
    private: bool,
    no_cache: bool,
    /// Never to be served stale.
    strict: bool,
    max_age: Option<Duration>,
    s_maxage: Option<Duration>,
    stale_while_revalidate: Option<Duration>,
    stale_if_error: Option<Duration>,
}

impl Said {
    fn of(fields: &HeaderMap) -> Said {
        let mut said = Said::default();
        for line in fields.get_all(header::CACHE_CONTROL) {
            for directive in members(line.as_bytes()) {
                said.take(&String::from_utf8_lossy(directive).to_ascii_lowercase());
            }
        }
        said
    }

    fn take(&mut self, directive: &str) {
        let (name, argument) = directive.split_once('=').unwrap_or((directive, ""));
        let argument = argument.trim().trim_matches('"');
        // What cannot be read is stale at once, and too many seconds are very many (RFC 9111 §1.2.2, §4.2.1).
        let digits = !argument.is_empty() && argument.bytes().all(|b| b.is_ascii_digit());
        let seconds = if digits { argument.parse().unwrap_or(u64::from(u32::MAX)) } else { 0 };
        // Of two that differ, the shorter.
        let shorter = |known: &mut Option<Duration>| {
            let seconds = Duration::from_secs(seconds);
            *known = Some(known.map_or(seconds, |known| known.min(seconds)));
        };
        match name.trim() {
            "no-store" => self.no_store = true,
            // With field names, only these are meant; to take it for all is allowed.
            "private" => self.private = true,
            "no-cache" => self.no_cache = true,
            "must-revalidate" | "proxy-revalidate" => self.strict = true,
            "max-age" => shorter(&mut self.max_age),
            "s-maxage" => {
                // RFC 9111 §5.2.2.10: implies proxy-revalidate.
                self.strict = true;
                shorter(&mut self.s_maxage);
            }
            "stale-while-revalidate" => shorter(&mut self.stale_while_revalidate),
            "stale-if-error" => shorter(&mut self.stale_if_error),
            _ => {}
        }
    }

    /// RFC 9111 §4.2.1. `None` where nothing is said.
    fn lifetime(&self, fields: &HeaderMap) -> Option<Duration> {
        self.s_maxage.or(self.max_age).or_else(|| {
            let expires = fields.get(header::EXPIRES)?;
            let expires = httpdate::parse_http_date(expires.to_str().unwrap_or_default());
            let (Ok(expires), Some(date)) = (expires, date(fields, &header::DATE)) else { return Some(Duration::ZERO) };
            Some(expires.duration_since(date).unwrap_or_default())
        })
    }
}

fn date(fields: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(text(fields, name)?).ok()
}

fn text<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    fields.get(name).map(HeaderValue::to_str)?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { ttl: secs(100), stale_while_revalidate: secs(10), stale_if_error: secs(1000) };

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        map
    }

    fn control(said: &str) -> HeaderMap {
        map(&[("cache-control", said)])
    }

    #[test]
    fn what_may_be_kept() {
        for (said, keep) in [
            ("public, max-age=3", true),
            ("no-cache", true),
            ("no-store", false),
            ("max-age=3, No-Store", false),
            ("private", false),
            ("private=\"a, b\"", false),
            ("x=\"no-store\"", true),
            ("", true),
        ] {
            assert_eq!(may_keep(200, &control(said)), keep, "{said}");
        }
        assert!(may_keep(200, &map(&[("vary", "Origin")])));
        assert!(!may_keep(200, &map(&[("vary", "Origin"), ("vary", "*")])));
        assert!(!may_keep(200, &map(&[("set-cookie", "a=b")])));
        assert!(!may_keep(206, &HeaderMap::new()) && !may_keep(404, &HeaderMap::new()));
    }

    #[test]
    fn how_long_it_is_fresh() {
        let date = ("date", "Wed, 21 Oct 2015 07:28:00 GMT");
        let cases: &[(&[(&str, &str)], u64)] = &[
            (&[], 100),
            (&[("cache-control", "max-age=7")], 7),
            (&[("cache-control", "max-age=\"7\"")], 7),
            (&[("cache-control", "MAX-AGE=7")], 7),
            (&[("cache-control", "max-age=7, s-maxage=9")], 9),
            (&[("cache-control", "max-age=7"), ("cache-control", "max-age=5")], 5),
            (&[("cache-control", "max-age=x")], 0),
            (&[("cache-control", "max-age=-5")], 0),
            (&[("cache-control", "max-age=99999999999999999999")], u32::MAX.into()),
            (&[("cache-control", "max-age=7, no-cache")], 0),
            (&[date, ("expires", "Wed, 21 Oct 2015 07:28:30 GMT")], 30),
            (&[date, ("expires", "Wed, 21 Oct 2015 07:27:30 GMT")], 0),
            (&[date, ("expires", "0")], 0),
            (&[date, ("expires", "Wed, 21 Oct 2015 07:28:30 GMT"), ("cache-control", "max-age=7")], 7),
        ];
        for (fields, seconds) in cases {
            let fields = map(fields);
            let fresh = |age| matches!(judge(&fields, age, &RULES), Freshness::Fresh(_));
            assert!(!fresh(secs(*seconds)), "{fields:?}");
            assert!(*seconds == 0 || fresh(secs(seconds - 1)), "{fields:?}");
        }
    }

    #[test]
    fn what_may_be_done_with_a_stale_one() {
        let judged = |said, age| match judge(&control(said), secs(age), &RULES) {
            Freshness::Fresh(left) => panic!("{said} is fresh for {left:?}"),
            Freshness::Stale { since, while_revalidating, if_error } => (since.as_secs(), while_revalidating, if_error),
        };
        assert_eq!(judged("", 100), (0, true, true));
        assert_eq!(judged("", 110), (10, true, true));
        assert_eq!(judged("", 111), (11, false, true));
        assert_eq!(judged("", 1101), (1001, false, false));
        assert_eq!(judged("max-age=0", 5), (5, true, true));
        assert_eq!(judged("no-cache", 11), (11, false, true));
        for strict in ["max-age=1, must-revalidate", "max-age=1, proxy-revalidate", "s-maxage=1"] {
            assert_eq!(judged(strict, 2), (1, false, false), "{strict}");
        }
        assert_eq!(judged("max-age=1, stale-while-revalidate=50, stale-if-error=2", 4), (3, true, false));
    }

    #[test]
    fn its_age_counts_from_where_it_was_made() {
        let date = "Wed, 21 Oct 2015 07:28:00 GMT";
        let now = httpdate::parse_http_date(date).unwrap() + secs(30);
        let age = |fields: &[(&'static str, &str)]| age_on_arrival(&map(fields), now, secs(2)).as_secs();
        assert_eq!(age(&[]), 2);
        assert_eq!(age(&[("date", date)]), 30);
        assert_eq!(age(&[("date", "Wed, 21 Oct 2015 07:29:00 GMT")]), 2, "their clock is ahead");
        assert_eq!(age(&[("date", date), ("age", "40")]), 42);
    }

    #[test]
    fn a_304_changes_what_it_says_but_not_the_bytes() {
        let kept = map(&[("etag", "\"a\""), ("content-length", "9"), ("cache-control", "max-age=1"), ("x", "1")]);
        let fresh = map(&[("cache-control", "max-age=2"), ("content-length", "0"), ("date", "now")]);
        let updated = updated(&kept, &fresh);
        let expected =
            [("etag", "\"a\""), ("content-length", "9"), ("cache-control", "max-age=2"), ("x", "1"), ("date", "now")];
        assert_eq!(updated, map(&expected));
    }
}
