//! What an answer of S3 means for the chain.
//!
//! A status alone does not say. 404 may be the file's absence or the bucket's; 403 may be a wrong key, a
//! wrong clock, or how a bucket that hides its keys says "absent". The `<Code>` of the error document
//! decides (<https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>).

use crate::fallback::{Busy, Outcome};

/// How much of an error document is read.
pub const ERROR_BYTES: usize = 4096;

/// What `403 AccessDenied` means in a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The credentials may not list, so S3 says 403 for a key that does not exist.
    MeansAbsent,
    /// The credentials may list: a 403 is a true denial.
    MeansDenied,
}

/// The outcome of an answer with `status` and the error document's `code`, if it had one.
///
/// A `code` of `None` on 404 is taken for absence: other stores answer 404 with no document.
pub fn outcome(status: u16, code: Option<&str>, denied: Denied) -> Outcome {
    match (status, code) {
        (200 | 206 | 304 | 412 | 416, _) => Outcome::Found(status),
        (404, Some("NoSuchBucket")) => Outcome::Misconfigured(404),
        (404 | 410, _) => Outcome::Absent(status),
        (403, Some("AccessDenied")) if denied == Denied::MeansAbsent => Outcome::Absent(403),
        (429 | 503, _) => Outcome::Busy(Busy::Status(status)),
        (500..=599, _) => Outcome::Error(status),
        // A redirect is a wrong region or endpoint; any other 4xx is a request we should not have made.
        _ => Outcome::Misconfigured(status),
    }
}

/// What an operator has to mend, in words for the log.
pub fn advice(status: u16, code: Option<&str>) -> &'static str {
    match (status, code) {
        (_, Some("SignatureDoesNotMatch")) => "the secret key is wrong for this access key",
        (_, Some("InvalidAccessKeyId")) => "the access key does not exist",
        (_, Some("RequestTimeTooSkewed")) => "this machine's clock is off by more than 15 minutes",
        (_, Some("ExpiredToken" | "InvalidToken")) => "the session token has expired or is invalid",
        (_, Some("NoSuchBucket")) => "the bucket does not exist at this endpoint",
        (_, Some("AccessDenied")) => "the credentials may not read this object",
        (301 | 302 | 307 | 308, _)
        | (400, Some("AuthorizationHeaderMalformed" | "IllegalLocationConstraintException")) => {
            "the region or the endpoint is wrong for this bucket"
        }
        _ => "the store refused the request",
    }
}

/// The `<Code>` of an S3 error document that may be cut short.
pub fn error_code(document: &[u8]) -> Option<&str> {
    element(document, "Code")
}

/// The text of an element of an S3 error document that may be cut short.
pub fn element<'a>(document: &'a [u8], name: &str) -> Option<&'a str> {
    let text = match std::str::from_utf8(document) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&document[..error.valid_up_to()]).ok()?,
    };
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inside, _) = rest.split_once(&format!("</{name}>"))?;
    Some(inside.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Denied::{MeansAbsent, MeansDenied};

    #[test]
    fn answers_mean_what_the_table_says() {
        const CASES: &[(u16, Option<&str>, Denied, Outcome)] = &[
            (200, None, MeansDenied, Outcome::Found(200)),
            (206, None, MeansDenied, Outcome::Found(206)),
            (304, None, MeansDenied, Outcome::Found(304)),
            (412, None, MeansDenied, Outcome::Found(412)),
            (416, None, MeansDenied, Outcome::Found(416)),
            (404, Some("NoSuchKey"), MeansDenied, Outcome::Absent(404)),
            (404, None, MeansDenied, Outcome::Absent(404)),
            (404, Some("NoSuchBucket"), MeansDenied, Outcome::Misconfigured(404)),
            (403, Some("AccessDenied"), MeansAbsent, Outcome::Absent(403)),
            (403, Some("AccessDenied"), MeansDenied, Outcome::Misconfigured(403)),
            (403, Some("SignatureDoesNotMatch"), MeansAbsent, Outcome::Misconfigured(403)),
            (403, Some("RequestTimeTooSkewed"), MeansAbsent, Outcome::Misconfigured(403)),
            (403, Some("InvalidAccessKeyId"), MeansAbsent, Outcome::Misconfigured(403)),
            (403, None, MeansAbsent, Outcome::Misconfigured(403)),
            (400, Some("ExpiredToken"), MeansAbsent, Outcome::Misconfigured(400)),
            (301, Some("PermanentRedirect"), MeansDenied, Outcome::Misconfigured(301)),
            (307, None, MeansDenied, Outcome::Misconfigured(307)),
            (405, None, MeansDenied, Outcome::Misconfigured(405)),
            (503, Some("SlowDown"), MeansDenied, Outcome::Busy(Busy::Status(503))),
            (429, None, MeansDenied, Outcome::Busy(Busy::Status(429))),
            (500, Some("InternalError"), MeansDenied, Outcome::Error(500)),
            (502, None, MeansDenied, Outcome::Error(502)),
            (504, None, MeansDenied, Outcome::Error(504)),
        ];
        for (status, code, denied, expected) in CASES {
            assert_eq!(outcome(*status, *code, *denied), *expected, "{status} {code:?} {denied:?}");
        }
    }

    #[test]
    fn the_code_is_found_even_in_a_document_cut_short() {
        const CASES: &[(&[u8], Option<&str>)] = &[
            (b"<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code><Message>x", Some("NoSuchKey")),
            (b"<Error><Code> AccessDenied </Code></Error>", Some("AccessDenied")),
            (b"<Error><Code>NoSuch", None),
            (b"", None),
            (b"<html>404</html>", None),
            (b"<Error><Code>NoSuchKey</Code>\xff\xfe", Some("NoSuchKey")),
        ];
        for (document, code) in CASES {
            assert_eq!(error_code(document), *code);
        }
    }
}
