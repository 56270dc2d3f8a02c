//! The certificates of an https listener, as its clients will see them.

use std::sync::Arc;
use std::time::SystemTime;

use super::Finding;
use crate::config::{Listener, Serves};
use crate::metrics::Metrics;
use crate::tls::{self, Certificates, Examined};
use crate::unix;

pub(super) fn examine(about: &str, listener: &Listener, metrics: &Metrics) -> Vec<Finding> {
    let Some(tls) = &listener.tls else { return Vec::new() };
    let files =
        match Certificates::read(&listener.name, tls, &Arc::default(), metrics).and_then(|read| read.all_files()) {
            Ok(files) => files,
            Err(error) => {
                let fix = "name a PEM certificate with its chain, and the PEM key that belongs to it";
                return vec![Finding::error(about, format!("{error:#}"), fix)];
            }
        };
    let now = unix::signed_seconds(SystemTime::now());
    // What the CA is asked for will be there.
    let (mut found, mut names) = (Vec::new(), tls.acme.clone());
    for files in &files {
        match tls::examine(files) {
            Ok(examined) => {
                found.extend(judge(about, &files.certificate.display().to_string(), &examined, now));
                names.extend(examined.names);
            }
            Err(error) => found.push(Finding::error(about, format!("{error:#}"), "correct the file")),
        }
    }
    let hosts = match &listener.serves {
        Serves::Routes(table) => table.hosts().collect(),
        Serves::Pool(_) => Vec::new(),
    };
    for host in hosts.iter().filter(|host| !names.iter().any(|name| covers(name, host))) {
        found.push(Finding::warn(
            about,
            format!("no certificate is for {host}, which a route is for"),
            "add one, or have the certificate issued for that name too",
        ));
    }
    found
}

/// What is to be said of one certificate at `now` (Unix time).
fn judge(about: &str, file: &str, certificate: &Examined, now: i64) -> Vec<Finding> {
    let mut found = Vec::new();
    let left = certificate.not_after - now;
    let date = jiff::Timestamp::from_second(certificate.not_after).map(|at| at.to_string()).unwrap_or_default();
    if left <= 0 {
        found.push(Finding::error(about, format!("{file} has expired at {date}"), "renew it"));
    } else if certificate.not_before > now {
        let fix = "set the clock, or use the certificate before it";
        found.push(Finding::error(about, format!("{file} is not valid yet"), fix));
    } else if left < SOON {
        let what = format!("{file} expires in {} days, at {date}", left / DAY);
        found.push(Finding::warn(about, what, "renew it; hopfall reads a changed file by itself"));
    }
    if !certificate.in_order {
        found.push(Finding::error(
            about,
            format!("{file} has its chain out of order: some clients will refuse it"),
            "write the server's certificate first, then each issuer after what it has issued",
        ));
    }
    if certificate.self_signed {
        let what = format!("{file} is self-signed: clients trust it only if they were told to");
        found.push(Finding::warn(about, what, "use one of a certificate authority"));
    }
    if certificate.names.is_empty() {
        let what = format!("{file} is for no DNS name: clients will refuse it");
        found.push(Finding::error(about, what, "have it issued with subject alternative names"));
    }
    if found.is_empty() {
        found.push(Finding::ok(about, format!("{file} is for {}, until {date}", certificate.names.join(", "))));
    }
    found
}

/// Whether a certificate's name is for a host, or for all hosts of `*.domain` (RFC 9525 §6.3).
fn covers(name: &str, host: &str) -> bool {
    let below = |domain: &str| host.split_once('.').is_some_and(|(_, rest)| rest == domain);
    name == host || name.strip_prefix("*.").is_some_and(below)
}

const DAY: i64 = 24 * 3600;
/// A certificate that ends sooner than this was to be renewed already.
const SOON: i64 = 21 * DAY;

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn a_certificate_is_judged_by_its_time_its_chain_and_its_names() {
        let good = || Examined {
            names: vec!["a.example.org".to_owned()],
            not_before: 0,
            not_after: 100 * DAY,
            in_order: true,
            self_signed: false,
        };
        let cases: [(&str, Examined, i64, Option<Level>); 7] = [
            ("", good(), DAY, None),
            ("expires in 20 days", good(), 80 * DAY, Some(Level::Warn)),
            ("has expired", good(), 100 * DAY, Some(Level::Error)),
            ("not valid yet", good(), -1, Some(Level::Error)),
            ("out of order", Examined { in_order: false, ..good() }, DAY, Some(Level::Error)),
            ("self-signed", Examined { self_signed: true, ..good() }, DAY, Some(Level::Warn)),
            ("no DNS name", Examined { names: Vec::new(), ..good() }, DAY, Some(Level::Error)),
        ];
        for (what, certificate, now, level) in cases {
            let found = judge("listener web", "cert.pem", &certificate, now);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].level, level.unwrap_or(Level::Ok), "{what}");
            assert!(found[0].what.contains(what), "{found:?}");
        }
    }

    #[test]
    fn a_star_is_one_label() {
        const CASES: &[(&str, &str, bool)] = &[
            ("a.org", "a.org", true),
            ("*.a.org", "b.a.org", true),
            ("*.a.org", "*.a.org", true),
            ("*.a.org", "c.b.a.org", false),
            ("*.a.org", "a.org", false),
        ];
        for (name, host, covered) in CASES {
            assert_eq!(covers(name, host), *covered, "{name} {host}");
        }
    }
}
