//! From a request's path to an object's key, and from the key to the path that S3 is asked for.
//!
//! Key = prefix + percent-decoded path. The key is encoded once, by S3's rules, which are not the URL
//! standard's: only `A-Z a-z 0-9 - . _ ~ /` stay as they are
//! (<https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>, `UriEncode`).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};

/// Longest key that S3 takes, in bytes
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html>).
const MAX_KEY: usize = 1024;

const KEEP: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// The object key for the path of `target` (a request target in origin form; its query is not part of it).
///
/// `None` when no object can have that name, which makes the file absent here and no request at all: an
/// empty path (it would list the bucket), a dot segment (it would leave the prefix), a control byte, text
/// that is not UTF-8, or a key too long.
pub fn object_key(prefix: &str, target: &[u8]) -> Option<String> {
    let path = target.split(|b| *b == b'?').next().unwrap_or_default();
    let path = path.strip_prefix(b"/")?;
    let decoded = percent_decode(path).decode_utf8().ok()?;
    let hostile = decoded.is_empty()
        || decoded.chars().any(char::is_control)
        || decoded.split('/').any(|segment| segment == "." || segment == "..");
    let key = format!("{prefix}{decoded}");
    (!hostile && key.len() <= MAX_KEY).then_some(key)
}

/// The key as S3 wants it in a request path: every byte but the unreserved ones and `/` as `%XX`.
pub fn encode(key: &str) -> String {
    utf8_percent_encode(key, KEEP).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_become_keys() {
        const CASES: &[(&str, Option<&str>, &str)] = &[
            ("/cat.jpg", Some("cat.jpg"), "cat.jpg"),
            ("/a/b.jpg?x=1", Some("a/b.jpg"), "a/b.jpg"),
            ("/a+b", Some("a+b"), "a%2Bb"),
            ("/a%2Bb", Some("a+b"), "a%2Bb"),
            ("/a%20b", Some("a b"), "a%20b"),
            ("/a@b:c", Some("a@b:c"), "a%40b%3Ac"),
            ("/100%25", Some("100%"), "100%25"),
            ("/%E7%8C%AB", Some("猫"), "%E7%8C%AB"),
            ("/~a-b_c.d", Some("~a-b_c.d"), "~a-b_c.d"),
            ("//a", Some("/a"), "/a"),
            ("/a//b", Some("a//b"), "a//b"),
            ("/a%2fb", Some("a/b"), "a/b"),
            ("/a/", Some("a/"), "a/"),
            ("/...", Some("..."), "..."),
            ("/", None, ""),
            ("/?list-type=2", None, ""),
            ("", None, ""),
            ("/..", None, ""),
            ("/a/../b", None, ""),
            ("/a/%2e%2e/b", None, ""),
            ("/a%2f..%2fb", None, ""),
            ("/./a", None, ""),
            ("/a%00b", None, ""),
            ("/a%0Ab", None, ""),
            ("/%FF", None, ""),
        ];
        for (path, key, encoded) in CASES {
            let made = object_key("", path.as_bytes());
            assert_eq!(made.as_deref(), *key, "{path}");
            if let Some(made) = made {
                assert_eq!(encode(&made), *encoded, "{path}");
            }
        }
        assert_eq!(object_key("img/", b"/a").as_deref(), Some("img/a"));
        assert_eq!(object_key("img/", b"/"), None, "a prefix alone would list it");
        assert_eq!(object_key("", format!("/{}", "x".repeat(1025)).as_bytes()), None);
    }

    proptest! {
        #[test]
        fn a_key_keeps_its_prefix_and_survives_encoding(path in "/[ -~]{0,80}") {
            if let Some(key) = object_key("img/", path.as_bytes()) {
                prop_assert!(key.starts_with("img/"));
                prop_assert!(key.len() > 4);
                prop_assert!(!key.split('/').any(|segment| segment == ".."));
                let encoded = encode(&key);
                prop_assert!(!encoded.contains(['?', '#', ' ', '\\']));
                prop_assert_eq!(percent_decode(encoded.as_bytes()).decode_utf8().unwrap(), key);
            }
        }
    }
}
