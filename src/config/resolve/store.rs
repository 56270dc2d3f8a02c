//! Stores: where a bucket is, by which keys, and what is kept of it.

use crate::config::load::Problem;
use crate::config::model::{self, Addressing, Field};
use crate::config::{Bounds, Disk, Store};
use crate::disk;
use crate::freshness;
use crate::hop::TargetId;
use crate::s3::cost::Prices;
use crate::units::{Bytes, HostPort, Scalar};
use aws_credential_types::Credentials;
use serde_saphyr::Location as Place;
use std::path::{Path, PathBuf};

use super::{MOST_AGE, Resolver, secs};

impl Resolver<'_> {
    pub(super) fn store(&mut self, name: &str, store: &model::Store, target: TargetId) -> Store {
        self.value(Some(&store.kind), model::StoreKind::S3);
        let bucket = store.bucket.text().to_owned();
        if !(3..=63).contains(&bucket.len())
            || !bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        {
            self.bad(&store.bucket, "not a bucket name", "write 3 to 63 letters, digits, `-` and `.`");
        }
        let region = self.value(store.region.as_ref(), "us-east-1".to_owned());
        if let Some(field) = &store.region
            && (region.is_empty() || !region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
        {
            self.bad(field, "not a region", "write one such as us-east-1, or auto");
        }
        let (tls, endpoint, port_shown) = match &store.endpoint {
            None => (true, HostPort { host: format!("s3.{region}.amazonaws.com"), port: 443 }, false),
            Some(field) => self.endpoint(field),
        };
        let by_default = if store.endpoint.is_none() { Addressing::Virtual } else { Addressing::Path };
        let addressing = self.value(store.addressing.as_ref(), by_default);
        let address = match addressing {
            Addressing::Path => endpoint,
            Addressing::Virtual => HostPort { host: format!("{bucket}.{}", endpoint.host), port: endpoint.port },
        };
        let host = match port_shown {
            true => address.to_string(),
            false => address.to_string().rsplit_once(':').map(|(host, _)| host.to_owned()).unwrap_or_default(),
        };
        let prefix = self.value(store.prefix.as_ref(), String::new());
        if let Some(field) = &store.prefix
            && (prefix.starts_with('/') || prefix.split('/').any(|segment| segment == "." || segment == ".."))
        {
            self.bad(
                field,
                "a prefix that starts with `/` or has dot segments",
                "write the beginning of the keys, such as img/",
            );
        }
        Store {
            name: name.to_owned(),
            target,
            bucket,
            region,
            tls,
            address,
            host,
            addressing,
            prefix,
            credentials: self.credentials(name, store),
            prices: Prices {
                request: self.dollars(store.prices.as_ref().and_then(|prices| prices.thousand_requests.as_ref()))
                    / 1000,
                gibibyte: self.dollars(store.prices.as_ref().and_then(|prices| prices.gibibyte.as_ref())),
            },
            budget_per_day: store.budget_per_day.as_ref().map(|budget| self.dollars(Some(budget))),
            disk: store.disk.as_ref().map(|disk| self.disk(disk)),
            shared_memory: self.value(store.shared_memory.as_ref(), Bytes(64 << 20)).0,
            on_403: self.value(store.on_403.as_ref(), model::OnDenied::Probe),
            ca: store.ca.as_ref().and_then(|ca| self.authorities(ca)),
            bounds: Bounds {
                connect_timeout: self.time(store.connect_timeout.as_ref(), secs(3)),
                header_timeout: self.time(store.header_timeout.as_ref(), secs(10)),
                body_idle_timeout: self.time(store.body_idle_timeout.as_ref(), secs(30)),
                keepalive: self.time(store.keepalive.as_ref(), secs(15)),
                max_in_flight: self.count(store.max_in_flight.as_ref(), 512, 1, 1_000_000),
                queue: self.count(store.queue.as_ref(), 512, 0, 1_000_000),
                queue_timeout: self.time(store.queue_timeout.as_ref(), secs(1)),
            },
        }
    }

    fn disk(&mut self, disk: &model::Disk) -> Disk {
        if disk.path.text().is_empty() {
            self.bad(&disk.path, "an empty path", "write the path of a folder");
        }
        let bytes = self.value(Some(&disk.bytes), Bytes(LEAST_DISK)).0;
        if bytes < LEAST_DISK {
            self.bad(&disk.bytes, "less than 8MiB", "write 8MiB or more");
        }
        let most = bytes / disk::LARGEST_PART;
        let largest = self.value(disk.largest.as_ref(), Bytes(most)).0;
        if let Some(field) = &disk.largest
            && largest > most
        {
            self.bad(field, "more than a quarter of `bytes`", "write less, or raise `bytes`");
        }
        Disk {
            settings: disk::Settings {
                path: PathBuf::from(disk.path.text()),
                bytes,
                free_floor: self.value(disk.free.as_ref(), Bytes(1 << 30)).0,
                memory: self.value(disk.memory.as_ref(), Bytes(64 << 20)).0,
                object_max: largest,
                memory_object_max: self.value(disk.memory_largest.as_ref(), Bytes(256 << 10)).0,
            },
            rules: freshness::Rules {
                ttl: self.value(disk.ttl.as_ref(), secs(24 * 3600)).min(MOST_AGE),
                stale_while_revalidate: self.value(disk.stale_while_revalidate.as_ref(), secs(3600)).min(MOST_AGE),
                stale_if_error: self.value(disk.stale_if_error.as_ref(), secs(168 * 3600)).min(MOST_AGE),
            },
        }
    }

    /// Scheme, host and port of an endpoint, and whether the port must stand in `Host`.
    fn endpoint(&mut self, field: &Field<String>) -> (bool, HostPort, bool) {
        let text = field.text().trim_end_matches('/');
        let split = text
            .strip_prefix("https://")
            .map(|rest| (true, 443, rest))
            .or_else(|| text.strip_prefix("http://").map(|rest| (false, 80, rest)));
        let parsed = split.and_then(|(tls, port, rest)| {
            let with_port =
                if rest.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) && !rest.ends_with(']') {
                    rest.to_owned()
                } else {
                    format!("{rest}:{port}")
                };
            HostPort::parse(&with_port).ok().map(|address| (tls, address.port != port, address))
        });
        match parsed {
            Some((tls, shown, address)) => (tls, address, shown),
            None => {
                self.bad(field, "not an endpoint", "write http:// or https:// and a host, without a path");
                (true, HostPort { host: String::new(), port: 443 }, false)
            }
        }
    }

    fn credentials(&mut self, name: &str, store: &model::Store) -> Credentials {
        let nobody = || Credentials::new("", "", None, None, "hopfall");
        match &store.credentials {
            None => self.credentials_from_env(store.kind.at(), name).unwrap_or_else(nobody),
            Some(model::Credentials::Word(word)) if word.text() == "env" => {
                self.credentials_from_env(word.at(), name).unwrap_or_else(nobody)
            }
            Some(model::Credentials::Word(word)) => {
                self.bad(
                    word,
                    "not a source of credentials",
                    "write env, or a mapping with access_key and secret_key, or with profile",
                );
                nobody()
            }
            Some(model::Credentials::Keys(keys)) => match (&keys.access_key, &keys.secret_key, &keys.profile) {
                (Some(access), Some(secret), None) => {
                    let token = keys.session_token.as_ref().map(|token| self.secret(token).0);
                    Credentials::new(self.secret(access).0, self.secret(secret).0, token, None, "hopfall")
                }
                (None, None, Some(profile)) => self.credentials_from_profile(profile).unwrap_or_else(nobody),
                _ => {
                    self.problems.push(Problem::at(
                        store.bucket.at(),
                        format!("store `{name}` has neither a pair of keys nor a profile"),
                        "write access_key and secret_key, or profile alone",
                    ));
                    nobody()
                }
            },
        }
    }

    fn credentials_from_env(&mut self, place: Place, name: &str) -> Option<Credentials> {
        let variable = self.surroundings.variable;
        match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
            (Some(access), Some(secret)) => {
                Some(Credentials::new(access, secret, variable("AWS_SESSION_TOKEN"), None, "hopfall"))
            }
            _ => {
                self.problems.push(Problem::at(
                    place,
                    format!("store `{name}` takes its credentials from the environment, but they are not set"),
                    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write `credentials` as a mapping",
                ));
                None
            }
        }
    }

    /// The shared credentials file, <https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html>.
    fn credentials_from_profile(&mut self, profile: &Field<String>) -> Option<Credentials> {
        let variable = self.surroundings.variable;
        let path = variable("AWS_SHARED_CREDENTIALS_FILE")
            .or_else(|| variable("HOME").map(|home| format!("{home}/.aws/credentials")))
            .unwrap_or_default();
        let text = match (self.surroundings.read)(Path::new(&path)) {
            Ok(text) => text,
            Err(error) => {
                self.bad(
                    profile,
                    &format!("the credentials file `{path}` cannot be read: {error}"),
                    "set AWS_SHARED_CREDENTIALS_FILE",
                );
                return None;
            }
        };
        // The parser's own error would quote the line, and the line may be a secret.
        let Ok(ini) = ini::Ini::load_from_str_noescape(&text) else {
            self.bad(profile, &format!("`{path}` is not a credentials file"), "correct its syntax");
            return None;
        };
        let section = ini.section(Some(profile.text()));
        let get = |key: &str| section.and_then(|section| section.get(key)).map(str::to_owned);
        match (get("aws_access_key_id"), get("aws_secret_access_key")) {
            (Some(access), Some(secret)) => {
                Some(Credentials::new(access, secret, get("aws_session_token"), None, "hopfall"))
            }
            _ => {
                self.bad(
                    profile,
                    &format!("`{path}` has no keys for this profile"),
                    "add aws_access_key_id and aws_secret_access_key to it",
                );
                None
            }
        }
    }
}

/// What a disk needs for its folders, and for files of some use.
const LEAST_DISK: u64 = 8 << 20;
