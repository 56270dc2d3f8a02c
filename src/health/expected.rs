//! What the answer to a check must be, and why it was not.

use std::fmt;

use crate::units::{Pattern, StatusRange};

/// What the answer to an `http` or `http_body` check must be.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    pub statuses: Vec<StatusRange>,
    /// What its body must have in it.
    pub body: Option<Pattern>,
}

/// Why a check failed. Nothing of a body is in it: a node may say there what is nobody's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failing {
    /// This process is at its end, and not the node: it has no more files, ports or memory.
    Ourselves,
    /// The node's name has no address yet.
    Unresolved,
    /// The check's timeout passed.
    Late,
    /// No answer, or not the whole of it: a kind of failure as RFC 9209 §2.3 names it.
    NoAnswer(&'static str),
    Status {
        status: u16,
        expected: String,
    },
    /// The pattern is not in so many bytes of the body.
    Body {
        pattern: String,
        looked_at: usize,
    },
}

impl Expected {
    /// # Errors
    /// When the status is none of those expected.
    pub fn status(&self, status: u16) -> Result<(), Failing> {
        if self.statuses.iter().any(|range| range.contains(status)) {
            return Ok(());
        }
        let expected: Vec<_> = self.statuses.iter().map(StatusRange::to_string).collect();
        Err(Failing::Status { status, expected: expected.join(", ") })
    }

    /// # Errors
    /// When a pattern is expected that is not in `start`, the part of the body that is looked at.
    pub fn body(&self, start: &[u8]) -> Result<(), Failing> {
        match &self.body {
            Some(pattern) if !pattern.is_in(start) => {
                Err(Failing::Body { pattern: pattern.as_str().to_owned(), looked_at: start.len() })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failing::Ourselves => f.write_str("this process has no more files, ports or memory"),
            Failing::Unresolved => f.write_str("its name has no address yet"),
            Failing::Late => f.write_str("no whole answer within the check's timeout"),
            Failing::NoAnswer(failure) => f.write_str(failure),
            Failing::Status { status, expected } => write!(f, "status {status}, where {expected} is expected"),
            Failing::Body { pattern, looked_at } => {
                write!(f, "`{pattern}` is not in the {looked_at} bytes of its body")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Scalar;

    #[test]
    fn an_answer_is_judged_by_status_and_body() {
        let expected = Expected {
            statuses: ["200-299", "404"].iter().map(|text| StatusRange::parse(text).unwrap()).collect(),
            body: Some(Pattern::parse("^ok").unwrap()),
        };
        for (status, passed) in [(199, false), (200, true), (299, true), (300, false), (404, true), (503, false)] {
            assert_eq!(expected.status(status).is_ok(), passed, "{status}");
        }
        let told = expected.status(503).unwrap_err().to_string();
        assert_eq!(told, "status 503, where 200-299, 404 is expected");
        assert_eq!(expected.body(b"ok then"), Ok(()));
        let told = expected.body(b"password").unwrap_err().to_string();
        assert_eq!(told, "`^ok` is not in the 8 bytes of its body", "the body itself is not told");
        assert_eq!(Expected { body: None, ..expected }.body(b"anything"), Ok(()));
    }
}
