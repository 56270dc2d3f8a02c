//! What went wrong with a CA, and what an operator can do about it.

use std::time::Duration;

use instant_acme::{Error, Problem};

use super::client::Trouble;
use crate::renewal::Setback;

/// Why there is no new certificate.
#[derive(Debug)]
pub struct Failure {
    pub what: String,
    pub fix: &'static str,
    pub setback: Setback,
    /// The CA's `Retry-After`.
    pub told: Option<Duration>,
    /// Whether the CA does not know the account, or no longer.
    pub account_unknown: bool,
}

impl Failure {
    /// What the library says; `told` is what the CA said of when to come again.
    pub fn of(error: &Error, told: Option<Duration>) -> Self {
        let here =
            |fix, setback| Failure { what: plain(&error.to_string()), fix, setback, told, account_unknown: false };
        match error {
            Error::Api(problem) => Failure::of_problem(problem, told),
            Error::Timeout(_) => here("look whether the CA has an incident", Setback::Refused),
            Error::Other(other) if other.is::<Trouble>() => here(
                "look whether this machine reaches the CA's `directory`, and trusts it (`ca`)",
                Setback::Unreachable,
            ),
            Error::Json(_) | Error::Str(_) | Error::InvalidUri(_) => {
                here("look whether `directory` is an ACME directory (RFC 8555)", Setback::Refused)
            }
            _ => here("look at what the CA says of it", Setback::Refused),
        }
    }

    /// What the CA says.
    fn of_problem(problem: &Problem, told: Option<Duration>) -> Self {
        let kind = kind(problem);
        let setback = match kind {
            // A nonce that it refuses again and again is its own affair (RFC 8555 §6.5).
            "serverInternal" | "badNonce" => Setback::Unreachable,
            _ => Setback::Refused,
        };
        Failure {
            what: plain(&problem.to_string()),
            fix: fix(kind),
            setback,
            told,
            account_unknown: kind == "accountDoesNotExist",
        }
    }

    /// Something on this machine.
    pub fn here(what: String, fix: &'static str) -> Self {
        Failure { what, fix, setback: Setback::Unreachable, told: None, account_unknown: false }
    }
}

/// The error's name in RFC 8555 §6.7.
pub fn kind(problem: &Problem) -> &str {
    problem.r#type.as_deref().and_then(|kind| kind.strip_prefix("urn:ietf:params:acme:error:")).unwrap_or_default()
}

/// One line of the log, whatever the CA put into it.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST_CHARACTERS).collect()
}

fn fix(kind: &str) -> &'static str {
    match kind {
        // Which of these it is, CAs see differently.
        "connection" | "tls" | "unauthorized" | "incorrectResponse" => {
            "port 443 of this name must lead to this listener, from anywhere, and nothing may end TLS before it: look at DNS \
             and the firewall"
        }
        "dns" => "give the name an A or AAAA record that leads here",
        "caa" => "let the CA in by the name's CAA record (RFC 8659), or remove the record",
        "rateLimited" => "nothing, if it happens once: it is tried again when the CA allows it",
        "externalAccountRequired" => "add `eab` with the key that the CA gave you",
        "rejectedIdentifier" | "unsupportedIdentifier" => "ask another CA for this name, or remove it from `acme`",
        "invalidContact" | "unsupportedContact" => "write another `email`",
        "userActionRequired" => "read the CA's new terms of service, where it says so",
        "accountDoesNotExist" => "nothing: a new account is made",
        "serverInternal" | "badNonce" => "look whether the CA has an incident",
        _ => "look at what the CA says of it",
    }
}

/// Of what the CA says that is logged.
const MOST_CHARACTERS: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str, detail: &str) -> Problem {
        let text = serde_json::json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_problem_says_what_to_do_and_how_soon_to_try_again() {
        use Setback::{Refused, Unreachable};
        let cases = [
            ("connection", Refused, "port 443", false),
            ("unauthorized", Refused, "port 443", false),
            ("dns", Refused, "A or AAAA", false),
            ("caa", Refused, "CAA", false),
            ("externalAccountRequired", Refused, "`eab`", false),
            ("serverInternal", Unreachable, "incident", false),
            ("badNonce", Unreachable, "incident", false),
            ("accountDoesNotExist", Refused, "new account", true),
            ("somethingNew", Refused, "what the CA says", false),
        ];
        for (kind, setback, fix, unknown) in cases {
            let failure = Failure::of(&Error::Api(problem(kind, "why")), Some(Duration::from_secs(7)));
            assert_eq!((failure.setback, failure.account_unknown), (setback, unknown), "{kind}");
            assert!(failure.fix.contains(fix) && failure.what.contains("why"), "{kind}: {failure:?}");
            assert_eq!(failure.told, Some(Duration::from_secs(7)));
        }
    }

    #[test]
    fn what_a_ca_says_is_one_line_of_bounded_length() {
        let told = Failure::of_problem(&problem("dns", &"a\r\n2026 ERROR made up\u{1b}[2J".repeat(1000)), None);
        assert!(!told.what.chars().any(char::is_control));
        assert_eq!(told.what.chars().count(), MOST_CHARACTERS);
    }
}
