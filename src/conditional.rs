//! What of a whole file a request is to be given, when the file is at hand: all of it, a part, or word that the client
//! has it already. The order is that of RFC 9110 §13.2.2.

use std::ops::Range;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// What of a file is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    /// 200 with all of it.
    Whole,
    /// 206 with these bytes: at least one, and all within the file.
    Part(Range<u64>),
    /// 304: the client has it.
    NotModified,
    /// 412: the client asked for another version.
    Failed,
    /// 416: no byte of it was asked for.
    Unsatisfiable,
}

impl Selected {
    pub fn status(&self) -> u16 {
        match self {
            Selected::Whole => 200,
            Selected::Part(_) => 206,
            Selected::NotModified => 304,
            Selected::Failed => 412,
            Selected::Unsatisfiable => 416,
        }
    }
}

/// Judges a GET (or HEAD, to which ranges mean nothing) with the fields `asked` against a file of `length` bytes with
/// the fields `fields`.
///
/// Of several ranges none is served, but the whole, as RFC 9110 §14.2 allows.
pub fn select(is_get: bool, asked: &HeaderMap, fields: &HeaderMap, length: u64) -> Selected {
    let etag = fields.get(header::ETAG).map(HeaderValue::as_bytes);
    let modified = date(fields, &header::LAST_MODIFIED);
    let changed_since = |name| Some(modified? > date(asked, name)?);
    if asked.contains_key(header::IF_MATCH) {
        if !lists(asked, &header::IF_MATCH, etag, strong) {
            return Selected::Failed;
        }
    } else if changed_since(&header::IF_UNMODIFIED_SINCE) == Some(true) {
        return Selected::Failed;
    }
    if asked.contains_key(header::IF_NONE_MATCH) {
        if lists(asked, &header::IF_NONE_MATCH, etag, weak) {
            return Selected::NotModified;
        }
    } else if changed_since(&header::IF_MODIFIED_SINCE) == Some(false) {
        return Selected::NotModified;
    }
    let holds = |if_range: &HeaderValue| {
        let last_modified = fields.get(header::LAST_MODIFIED).map(HeaderValue::as_bytes);
        if_range_holds(if_range.as_bytes(), etag, last_modified)
    };
    match asked.get(header::RANGE) {
        Some(range) if is_get && asked.get(header::IF_RANGE).is_none_or(holds) => part(range.as_bytes(), length),
        _ => Selected::Whole,
    }
}

/// Where a request's one range begins, if it counts from the start: 0 where it asks for the whole.
pub fn begins_at(asked: &HeaderMap) -> Option<u64> {
    let Some(range) = asked.get(header::RANGE) else { return Some(0) };
    match one_range(range.as_bytes()) {
        None => Some(0),
        Some((first, _)) => first,
    }
}

/// Whether a part is what `If-Range` asked for (RFC 9110 §13.1.5): its validator is the one that the client has, to
/// the byte.
pub fn if_range_holds(if_range: &[u8], etag: Option<&[u8]>, last_modified: Option<&[u8]>) -> bool {
    let is_weak = if_range.starts_with(b"W/");
    !is_weak && (etag == Some(if_range) || last_modified == Some(if_range))
}

/// Whether a file's `ETag` tells one version from all others, byte by byte (RFC 9110 §8.8.3).
pub fn is_strong(etag: &[u8]) -> bool {
    etag.len() >= 2 && etag.starts_with(b"\"") && etag.ends_with(b"\"")
}

fn part(range: &[u8], length: u64) -> Selected {
    let Some(range) = one_range(range) else { return Selected::Whole };
    let part = match range {
        (Some(first), last) => first..last.map_or(length, |last| last.saturating_add(1).min(length)),
        (None, suffix) => length.saturating_sub(suffix.unwrap_or(0))..length,
    };
    if part.is_empty() { Selected::Unsatisfiable } else { Selected::Part(part) }
}

/// The first and last position of the only range in a `Range` (RFC 9110 §14.1.2); without a first, the last so many
/// bytes. `None` for all else, which is to be ignored.
fn one_range(range: &[u8]) -> Option<(Option<u64>, Option<u64>)> {
    let range = std::str::from_utf8(range).ok()?;
    let (unit, set) = range.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
    let position = |text: &str| match text.trim() {
        "" => Some(None),
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok().map(Some),
        _ => None,
    };
    match (position(first)?, position(last)?) {
        (None, None) => None,
        (Some(first), Some(last)) if last < first => None,
        range => Some(range),
    }
}

/// Whether a list of tags, or `*`, has this one.
fn lists(asked: &HeaderMap, name: &HeaderName, etag: Option<&[u8]>, same: fn(&[u8], &[u8]) -> bool) -> bool {
    let lines = asked.get_all(name).iter().map(HeaderValue::as_bytes);
    lines.flat_map(members).any(|tag| tag == b"*" || etag.is_some_and(|etag| same(tag, etag)))
}

/// The members of a list (RFC 9110 §5.6.1), whose commas may be within quotes.
pub fn members(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    let members = line.split(move |byte| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    });
    members.map(<[u8]>::trim_ascii)
}

/// RFC 9110 §8.8.3.2.
fn strong(a: &[u8], b: &[u8]) -> bool {
    is_strong(a) && a == b
}

fn weak(a: &[u8], b: &[u8]) -> bool {
    let opaque = |tag| <[u8]>::strip_prefix(tag, b"W/").map_or_else(|| tag.to_vec(), <[u8]>::to_vec);
    opaque(a) == opaque(b)
}

/// The moment in this field, if it is one.
fn date(fields: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(fields.get(name)?.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Selected::{Failed, NotModified, Part, Unsatisfiable, Whole};
    use proptest::prelude::*;

    const DATE: &str = "Wed, 21 Oct 2015 07:28:00 GMT";
    const BEFORE: &str = "Wed, 21 Oct 2015 07:27:59 GMT";
    const AFTER: &str = "Wed, 21 Oct 2015 07:28:01 GMT";

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn selected(asked: &[(&'static str, &str)]) -> Selected {
        select(true, &map(asked), &map(&[("etag", "\"a\""), ("last-modified", DATE)]), 100)
    }

    #[test]
    fn a_request_is_given_what_the_table_says() {
        let cases: &[(&[(&str, &str)], Selected)] = &[
            (&[], Whole),
            (&[("if-none-match", "\"a\"")], NotModified),
            (&[("if-none-match", "W/\"a\"")], NotModified),
            (&[("if-none-match", "\"x,y\", \"a\"")], NotModified),
            (&[("if-none-match", "*")], NotModified),
            (&[("if-none-match", "\"b\"")], Whole),
            (&[("if-none-match", "\"b\""), ("if-modified-since", DATE)], Whole),
            (&[("if-modified-since", DATE)], NotModified),
            (&[("if-modified-since", AFTER)], NotModified),
            (&[("if-modified-since", BEFORE)], Whole),
            (&[("if-modified-since", "yesterday")], Whole),
            (&[("if-match", "\"a\"")], Whole),
            (&[("if-match", "W/\"a\"")], Failed),
            (&[("if-match", "\"b\"")], Failed),
            (&[("if-match", "*")], Whole),
            (&[("if-match", "\"a\""), ("if-none-match", "\"a\"")], NotModified),
            (&[("if-unmodified-since", BEFORE)], Failed),
            (&[("if-unmodified-since", DATE)], Whole),
            (&[("if-match", "\"a\""), ("if-unmodified-since", BEFORE)], Whole),
            (&[("range", "bytes=0-9")], Part(0..10)),
            (&[("range", "bytes=0-")], Part(0..100)),
            (&[("range", "Bytes=99-200")], Part(99..100)),
            (&[("range", "bytes=-1")], Part(99..100)),
            (&[("range", "bytes=-200")], Part(0..100)),
            (&[("range", "bytes=-0")], Unsatisfiable),
            (&[("range", "bytes=100-")], Unsatisfiable),
            (&[("range", "bytes=9-0")], Whole),
            (&[("range", "bytes=0-1,5-6")], Whole),
            (&[("range", "bytes=+1-2")], Whole),
            (&[("range", "bytes=-")], Whole),
            (&[("range", "lines=0-1")], Whole),
            (&[("range", "bytes=0-9"), ("if-range", "\"a\"")], Part(0..10)),
            (&[("range", "bytes=0-9"), ("if-range", DATE)], Part(0..10)),
            (&[("range", "bytes=0-9"), ("if-range", "\"b\"")], Whole),
            (&[("range", "bytes=0-9"), ("if-range", "W/\"a\"")], Whole),
            (&[("range", "bytes=0-9"), ("if-range", AFTER)], Whole),
            (&[("range", "bytes=0-9"), ("if-none-match", "\"a\"")], NotModified),
        ];
        for (asked, expected) in cases {
            assert_eq!(selected(asked), *expected, "{asked:?}");
        }
    }

    #[test]
    fn a_file_without_validators_matches_nothing_but_any() {
        let select = |asked: &[(&'static str, &str)]| select(true, &map(asked), &HeaderMap::new(), 10);
        assert_eq!(select(&[("if-none-match", "\"a\"")]), Whole);
        assert_eq!(select(&[("if-match", "\"a\"")]), Failed);
        assert_eq!(select(&[("if-modified-since", DATE)]), Whole);
        assert_eq!(select(&[("range", "bytes=1-"), ("if-range", "\"a\"")]), Whole);
    }

    #[test]
    fn a_range_means_nothing_to_head_and_an_empty_file_has_none() {
        let asked = map(&[("range", "bytes=0-")]);
        assert_eq!(select(false, &asked, &HeaderMap::new(), 10), Whole);
        assert_eq!(select(true, &asked, &HeaderMap::new(), 0), Unsatisfiable);
    }

    #[test]
    fn where_a_range_begins_is_known_unless_it_counts_from_the_end() {
        let begins = |range| begins_at(&map(&[("range", range)]));
        assert_eq!(begins_at(&HeaderMap::new()), Some(0));
        assert_eq!((begins("bytes=0-"), begins("bytes=7-9"), begins("bytes=-9")), (Some(0), Some(7), None));
        assert_eq!(begins("bytes=1-2,5-6"), Some(0), "the whole will be served");
    }

    proptest! {
        #[test]
        fn a_part_is_within_the_file(range in "bytes=[0-9]{0,3}-[0-9]{0,21}", length in 0u64..200) {
            if let Part(part) = select(true, &map(&[("range", &range)]), &HeaderMap::new(), length) {
                prop_assert!(part.start < part.end && part.end <= length);
            }
        }
    }
}
