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
        let here = |fix, setback| Failure { what: error.to_string(), fix, setback, told, account_unknown: false };
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
    pub fn of_problem(problem: &Problem, told: Option<Duration>) -> Self {
        let kind = kind(problem);
        let setback = match kind {
            // A nonce that it refuses again and again is its own affair (RFC 8555 §6.5).
            "serverInternal" | "badNonce" => Setback::Unreachable,
            _ => Setback::Refused,
        };
        Failure {
            what: problem.to_string(),
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
