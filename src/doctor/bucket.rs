//! A store's bucket, asked with the real signer for a key that it cannot have.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::lookup_host;

use super::Finding;
use crate::config::{Addressing, OnDenied, Store};
use crate::explain::spoken;
use crate::fallback::{Failure, Outcome};
use crate::metrics::Metrics;
use crate::origin::{S3Origin, Seen};
use crate::s3::answer;
use crate::units::HostPort;
use crate::via::Identity;

pub(super) async fn examine(about: String, store: Store, identity: Identity, metrics: Arc<Metrics>) -> Vec<Finding> {
    let asked = ask(&store, &identity, &metrics).await;
    let mut found = Vec::new();
    if !store.tls && asked.as_ref().is_ok_and(|(_, address)| !address.ip().is_loopback()) {
        found.push(Finding::warn(
            &about,
            format!("{} is spoken to in plain text: files can be read and changed on the way", store.address),
            "write https:// in `endpoint`",
        ));
    }
    let seen = match asked {
        Ok((Ok(seen), _)) => seen,
        Ok((Err(outcome), address)) => {
            let failure = outcome.failure().unwrap_or(Failure::DestinationUnavailable);
            let fix = match failure {
                Failure::TlsProtocolError => "correct the certificate there, or name its authority in `ca`",
                _ => "correct `endpoint`, the firewall or the store",
            };
            found.push(Finding::error(&about, format!("{address} gives no answer: {}", failure.as_str()), fix));
            return found;
        }
        Err(error) => {
            found.push(match other_style(&store, &identity, &metrics).await {
                Some(finding) => finding,
                None => Finding::error(
                    &about,
                    format!("{} cannot be resolved: {error}", store.address.host),
                    "correct `endpoint` or `region`, or the resolver",
                ),
            });
            return found;
        }
    };
    found.extend(clock(&about, &seen, SystemTime::now()));
    // Where the bucket is named in the wrong place, a store takes something else for the bucket.
    let unknown = (seen.status == 404 && seen.code.as_deref() != Some("NoSuchKey")) || seen.status == 405;
    let other = if unknown { other_style(&store, &identity, &metrics).await } else { None };
    found.push(match other {
        Some(finding) => finding,
        None => judge(&about, &store, &seen),
    });
    found
}

type Asked = Result<(Result<Seen, Outcome>, SocketAddr), std::io::Error>;

async fn ask(store: &Store, identity: &Identity, metrics: &Arc<Metrics>) -> Asked {
    let s3 = S3Origin::new(store, identity, metrics, None);
    let name = &store.address;
    let addresses: Vec<SocketAddr> = lookup_host((name.host.as_str(), name.port)).await?.collect();
    let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    let address = *address.ok_or(std::io::ErrorKind::NotFound)?;
    s3.endpoint.set(address);
    Ok((s3.look().await, address))
}

/// Asks with the bucket in the other place. A finding if that is the right one.
async fn other_style(store: &Store, identity: &Identity, metrics: &Arc<Metrics>) -> Option<Finding> {
    let other = with_other_style(store)?;
    let (Ok(seen), _) = ask(&other, identity, metrics).await.ok()? else { return None };
    let right = matches!((seen.status, seen.code.as_deref()), (404, Some("NoSuchKey")) | (403, Some("AccessDenied")));
    let (is, should) = match store.addressing {
        Addressing::Path => ("path", "virtual"),
        Addressing::Virtual => ("virtual", "path"),
    };
    right.then(|| {
        let what = format!("bucket {} is not found by `addressing: {is}`, and is by `{should}`", store.bucket);
        Finding::error(&format!("store {}", store.name), what, format!("set `addressing: {should}`"))
    })
}

fn with_other_style(store: &Store) -> Option<Store> {
    let mut other = store.clone();
    let before = format!("{}.", store.bucket);
    let (host, shown) = match store.addressing {
        Addressing::Path => (format!("{before}{}", store.address.host), format!("{before}{}", store.host)),
        Addressing::Virtual => {
            (store.address.host.strip_prefix(&before)?.to_owned(), store.host.strip_prefix(&before)?.to_owned())
        }
    };
    other.addressing = match store.addressing {
        Addressing::Path => Addressing::Virtual,
        Addressing::Virtual => Addressing::Path,
    };
    other.address = match store.address.host.parse::<std::net::IpAddr>() {
        // An address has no names below it: the bucket can be in `Host` alone.
        Ok(_) => store.address.clone(),
        Err(_) => HostPort { host, port: store.address.port },
    };
    other.host = shown;
    Some(other)
}

/// Our clock against the store's.
fn clock(about: &str, seen: &Seen, now: SystemTime) -> Option<Finding> {
    let date = seen.date?;
    let off = now.duration_since(date).unwrap_or_else(|error| error.duration());
    let (warn, refused) = (Duration::from_secs(5 * 60), Duration::from_secs(15 * 60));
    if off < warn || seen.code.as_deref() == Some("RequestTimeTooSkewed") {
        return None;
    }
    let side = if now > date { "ahead of" } else { "behind" };
    let what = format!("this machine's clock is {} {side} the store's", spoken(off));
    let fix = "set the clock by NTP (`timedatectl set-ntp true`)";
    Some(if off > refused { Finding::error(about, what, fix) } else { Finding::warn(about, what, fix) })
}

/// What the answer for a random key says of the store's settings.
fn judge(about: &str, store: &Store, seen: &Seen) -> Finding {
    let (status, code) = (seen.status, seen.code.as_deref());
    let bucket = &store.bucket;
    let answered = format!("bucket {bucket} answered {status} {}", code.unwrap_or("without a code"));
    let advice = answer::advice(status, code);
    match (status, code) {
        (404, Some("NoSuchBucket")) => {
            Finding::error(about, format!("{answered}: {advice}"), "correct `bucket`, `endpoint` or `region`")
        }
        (404, _) => match store.on_403 {
            OnDenied::NotFound => Finding::warn(
                about,
                format!(
                    "bucket {bucket} says 404 for what it lacks, so `on_403: not_found` makes true denials look absent"
                ),
                "leave `on_403` at `probe`",
            ),
            _ => Finding::ok(about, format!("bucket {bucket} answers; what it lacks is 404, so a 403 is a denial")),
        },
        (403, Some("AccessDenied")) => match store.on_403 {
            OnDenied::Error => Finding::error(
                about,
                format!("bucket {bucket} says 403 for what it lacks, and `on_403: error` makes that 502"),
                "set `on_403: probe`, or allow s3:ListBucket",
            ),
            _ => Finding::warn(
                about,
                format!(
                    "bucket {bucket} says 403 for what it lacks, and 403 is taken for absent: a true denial looks the same"
                ),
                "allow the credentials s3:ListBucket on the bucket, so that absence is 404",
            ),
        },
        (403, Some("SignatureDoesNotMatch")) => Finding::error(
            about,
            format!("{answered}: {advice}"),
            "correct `secret_key`; see that no space or line end is in it",
        ),
        (403, Some("InvalidAccessKeyId")) => {
            Finding::error(about, format!("{answered}: {advice}"), "correct `access_key`")
        }
        (403, Some("RequestTimeTooSkewed")) => {
            let fix = "set the clock by NTP (`timedatectl set-ntp true`)";
            Finding::error(about, format!("{answered}: {advice}"), fix)
        }
        (_, Some("ExpiredToken" | "InvalidToken")) => Finding::error(
            about,
            format!("{answered}: {advice}"),
            "give it a fresh `session_token`, or a key without one",
        ),
        (301 | 302 | 307 | 308, _)
        | (400, Some("AuthorizationHeaderMalformed" | "IllegalLocationConstraintException")) => {
            let fix = match seen.region.as_deref().filter(|region| *region != store.region) {
                Some(region) => format!("set `region: {region}`, where the bucket says that it is"),
                None => "correct `region` or `endpoint`".to_owned(),
            };
            Finding::error(about, format!("{answered}: {advice}"), fix)
        }
        (429 | 500..=599, _) => Finding::warn(
            about,
            format!("{answered}: it is busy or failing"),
            "try again, and see the store's own status",
        ),
        (200..=299, _) => Finding::error(
            about,
            format!("{answered} for a random key: that is no S3"),
            "correct `endpoint`: it must be the S3 API's, not a website's",
        ),
        _ => Finding::error(about, format!("{answered}: {advice}"), "see the store's own documentation for this code"),
    }
}
