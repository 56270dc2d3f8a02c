//! From [`File`] to [`Config`]: defaults, names, bounds. Every mistake is noted and none ends the pass.

mod acme;
mod listener;
mod pool;
mod store;
mod tracing;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::load::{Problem, nearest};
use super::model::{self, Field, File, SecretRef};
use super::{
    Access, Admin, Config, Destination, Facility, Identity, Listener, Location, Log, Output, Pool, Route, Secret,
    Store, Surroundings,
};
use crate::fallback::{Plan, Stage};
use crate::hop::TargetId;
use crate::shape::is_host;
use crate::units::{Bytes, Dollars, HostPort, Scalar};
use crate::via::is_token;

/// Half of what `openssl rand -hex 16` gives: 64 bits, with tries slowed down.
const SHORTEST_TOKEN: usize = 16;

pub fn resolve(file: &File, surroundings: &Surroundings<'_>) -> Result<Config, Vec<Problem>> {
    let mut r = Resolver { surroundings, problems: Vec::new(), targets: HashMap::new() };
    let config = r.config(file);
    if r.problems.is_empty() { Ok(config) } else { Err(r.problems) }
}

/// What a reference to a secret leads to.
///
/// # Errors
/// When that is not there, or empty.
pub fn secret(field: &Field<SecretRef>, surroundings: &Surroundings<'_>) -> Result<Secret, Problem> {
    let found = match field.parse() {
        // The text itself is not shown: it may be the secret.
        Err(fix) => return Err(Problem::at(field.at(), "a secret in plain text", fix)),
        Ok(SecretRef::Variable(name)) => {
            (surroundings.variable)(&name).ok_or_else(|| format!("the environment variable `{name}` is not set"))
        }
        Ok(SecretRef::File(path)) => (surroundings.read)(Path::new(&path))
            .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
            .map_err(|error| format!("`{path}` cannot be read: {error}")),
    };
    match found {
        Ok(value) if !value.is_empty() => Ok(Secret(value)),
        Ok(_) => Err(Problem::at(field.at(), "the secret is empty", "give it a value")),
        Err(message) => Err(Problem::at(field.at(), message, "set it, or name another")),
    }
}

struct Resolver<'a> {
    surroundings: &'a Surroundings<'a>,
    problems: Vec<Problem>,
    targets: HashMap<HostPort, TargetId>,
}

impl Resolver<'_> {
    fn config(&mut self, file: &File) -> Config {
        let pools: Vec<Pool> = file.pools.iter().map(|(name, pool)| self.pool(name, pool)).collect();
        let mut stores = Vec::new();
        for (i, (name, store)) in file.stores.iter().enumerate() {
            // Stores are numbered after all nodes, so that node numbers stay small.
            let target = TargetId(u32::try_from(self.targets.len() + i).unwrap_or(u32::MAX));
            stores.push(self.store(name, store, target));
        }
        let routes: Vec<Route> =
            file.routes.iter().map(|(name, route)| self.route(name, route, &pools, &stores)).collect();
        let listeners: Vec<Listener> = file.listeners.iter().map(|listener| self.listener(listener, file)).collect();
        self.unique("listener name", file.listeners.iter().map(|listener| &listener.name));
        self.unique("listener address", file.listeners.iter().map(|listener| &listener.address));
        let disks = file.stores.values().filter_map(|store| store.disk.as_ref());
        self.unique("folder", disks.map(|disk| &disk.path));
        let identity = file.identity.as_ref();
        Config {
            threads: self.count(file.threads.as_ref(), 0, 0, 1024),
            shutdown_timeout: self.value(file.shutdown_timeout.as_ref(), secs(30)).min(MOST_TIME),
            identity: Identity {
                name: identity.and_then(|identity| identity.name.as_ref()).map(|name| {
                    if !is_token(name.text()) {
                        self.bad(name, "not a token", "use letters, digits, `-`, `.` and `_`");
                    }
                    name.text().to_owned()
                }),
                mark_key: identity.and_then(|identity| identity.mark_key.as_ref()).map(|key| self.secret(key)),
            },
            log: self.log(file.log.as_ref()),
            admin: file.admin.as_ref().map(|admin| self.admin(admin)),
            location: file.location.as_ref().map(|location| self.location(location)),
            acme: file.acme.as_ref().map(|acme| self.acme(acme)),
            tracing: file.tracing.as_ref().map(|tracing| self.tracing(tracing, cfg!(feature = "otel"))),
            listeners,
            pools,
            stores,
            routes,
        }
    }

    fn log(&mut self, log: Option<&model::Log>) -> Log {
        let access = log.and_then(|log| log.access.as_ref());
        let level = log.and_then(|log| log.level.as_ref());
        let (path, facility) = log.map_or((None, None), |log| (log.path.as_ref(), log.facility.as_ref()));
        let messages = self.output(path, facility, Facility::Daemon);
        let (path, facility) = access.map_or((None, None), |access| (access.path.as_ref(), access.facility.as_ref()));
        let one_in = self.count(access.and_then(|access| access.sample_one_in.as_ref()), 1, 1, 1_000_000);
        Log {
            level: self.value(level, model::Level::Info),
            messages,
            clients: self.value(log.and_then(|log| log.client.as_ref()), model::Clients::Full),
            access: Access {
                format: self.value(access.and_then(|access| access.format.as_ref()), model::AccessFormat::Json),
                output: self.output(path, facility, Facility::Local0),
                sample_one_in: u32::try_from(one_in).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN),
            },
        }
    }

    fn output(
        &mut self,
        path: Option<&Field<Destination>>,
        facility: Option<&Field<Facility>>,
        default: Facility,
    ) -> Output {
        let elsewhere = path.is_none_or(|path| path.parse().is_ok_and(|to| !matches!(to, Destination::Syslog(_))));
        if let Some(field) = facility
            && elsewhere
        {
            self.bad(field, "a facility for a log that does not go to syslog", "write path: syslog, or remove it");
        }
        Output { to: self.value(path, Destination::Standard), facility: self.value(facility, default) }
    }

    fn admin(&mut self, admin: &model::Admin) -> Admin {
        let token = admin.token.as_ref().map(|field| {
            let token = self.secret(field);
            if !token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
                let what = "the token has characters that no Authorization field can carry";
                self.problems.push(Problem::at(field.at(), what, "make one with: openssl rand -hex 32"));
            } else if (1..SHORTEST_TOKEN).contains(&token.expose().len()) {
                let what = format!("the token has fewer than {SHORTEST_TOKEN} characters, so it can be guessed");
                self.problems.push(Problem::at(field.at(), what, "make one with: openssl rand -hex 32"));
            }
            token
        });
        let mut host = |field: &Field<String>| {
            if !is_host(field.text().as_bytes()) || field.text().contains(':') {
                self.bad(field, "not a host name", "write one without a port, such as lb1.example.com");
            }
            field.text().to_ascii_lowercase()
        };
        let hosts = admin.hosts.iter().flatten().map(&mut host).collect();
        Admin { address: self.address(&admin.address), token, hosts }
    }

    fn location(&mut self, location: &model::Location) -> Location {
        let ttl = self.time(location.ttl.as_ref(), secs(3600));
        if let Some(field) = &location.ttl
            && ttl > secs(24 * 3600)
        {
            self.bad(field, "longer than a day", "write 24h or less");
        }
        let absent_ttl = self.value(location.absent_ttl.as_ref(), secs(30));
        if let Some(field) = &location.absent_ttl
            && absent_ttl > ttl
        {
            self.bad(field, "longer than `ttl`", "write less than `ttl`");
        }
        Location {
            entries: self.count(location.entries.as_ref(), 1_000_000, 1, 1_000_000_000),
            ttl,
            absent_ttl,
            control: u32::try_from(self.count(location.control.as_ref(), 1, 0, 100)).unwrap_or(1),
            file: location.file.as_ref().map(|file| PathBuf::from(file.text())),
            save_every: self.time(location.save_every.as_ref(), secs(300)),
        }
    }

    fn route(&mut self, name: &str, route: &model::Route, pools: &[Pool], stores: &[Store]) -> Route {
        let deadline = self.time(route.deadline.as_ref(), secs(30));
        let mut stages = Vec::new();
        for link in &route.chain {
            let pool = pools.iter().position(|pool| pool.name == link.text());
            let store = stores.iter().find(|store| store.name == link.text());
            let (stage, header_timeout) = match (pool, store) {
                (Some(_), Some(_)) => {
                    self.bad(link, "both a pool and a store have this name", "rename one of them");
                    continue;
                }
                (Some(pool), None) => (Stage::Pool(pool), pools[pool].bounds.header_timeout),
                (None, Some(store)) => (Stage::Store(store.target), store.bounds.header_timeout),
                (None, None) => {
                    let known: Vec<&str> = pools
                        .iter()
                        .map(|pool| pool.name.as_str())
                        .chain(stores.iter().map(|store| store.name.as_str()))
                        .collect();
                    self.undefined("pool or store", link, &known);
                    continue;
                }
            };
            if let Stage::Pool(pool) = stage
                && pools[pool].proxy_protocol.is_some()
            {
                let fix = "remove `proxy_protocol` from the pool, or serve it from a tcp listener";
                self.bad(
                    link,
                    "its nodes expect a PROXY header, which hopfall does not send for requests of a route",
                    fix,
                );
            }
            if stages.contains(&stage) {
                self.bad(link, "twice in one chain", "name it once: a target is never asked twice");
            }
            if header_timeout >= deadline {
                self.bad(
                    link,
                    &format!("its header_timeout {header_timeout:?} is not below the route's deadline {deadline:?}"),
                    "raise `deadline`, or lower `header_timeout`",
                );
            }
            stages.push(stage);
        }
        Route {
            name: name.to_owned(),
            plan: Arc::new(Plan { stages, attempts: self.value(route.attempts.as_ref(), 0) }),
            deadline,
            transfer_deadline: self.time(route.transfer_deadline.as_ref(), secs(3600)),
            absent_max_age: self.value(route.absent_max_age.as_ref(), secs(10)).min(MOST_TIME),
        }
    }

    fn secret(&mut self, field: &Field<SecretRef>) -> Secret {
        secret(field, self.surroundings).unwrap_or_else(|problem| {
            self.problems.push(problem);
            Secret(String::new())
        })
    }

    fn address(&mut self, field: &Field<String>) -> SocketAddr {
        field.text().parse().unwrap_or_else(|_| {
            self.bad(field, "not an IP address and port", "write one such as 0.0.0.0:8080 or [::]:8080");
            SocketAddr::from(([0, 0, 0, 0], 0))
        })
    }

    fn reference(&mut self, what: &str, field: &Field<String>, known: &[&str]) -> usize {
        known.iter().position(|name| *name == field.text()).unwrap_or_else(|| {
            self.undefined(what, field, known);
            0
        })
    }

    fn undefined(&mut self, what: &str, field: &Field<String>, known: &[&str]) {
        let fix = match (nearest(field.text(), known), known) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, []) => format!("define a {what} of that name"),
            (None, known) => format!("defined: {}", known.join(", ")),
        };
        self.problems.push(Problem::at(field.at(), format!("{what} `{}` is not defined", field.text()), fix));
    }

    fn unique<'f, T: Scalar + 'f>(&mut self, what: &str, fields: impl Iterator<Item = &'f Field<T>>) {
        let mut seen = std::collections::HashSet::new();
        for field in fields {
            // Port 0 asks for any free port, so it is never the same twice.
            if !seen.insert(field.text()) && !field.text().ends_with(":0") {
                self.problems.push(Problem::at(
                    field.at(),
                    format!("{what} `{}` is used twice", field.text()),
                    "give each its own",
                ));
            }
        }
    }

    fn parse<T: Scalar>(&mut self, field: &Field<T>) -> Option<T> {
        match field.parse() {
            Ok(value) => Some(value),
            Err(fix) => {
                self.problems.push(Problem::at(field.at(), format!("`{}` does not fit here", field.text()), fix));
                None
            }
        }
    }

    fn value<T: Scalar>(&mut self, field: Option<&Field<T>>, default: T) -> T {
        field.and_then(|field| self.parse(field)).unwrap_or(default)
    }

    /// A time above zero.
    fn time(&mut self, field: Option<&Field<Duration>>, default: Duration) -> Duration {
        let time = self.value(field, default);
        if let Some(field) = field
            && time.is_zero()
        {
            self.bad(field, "zero", "write a time above zero: every wait has an end");
        }
        if let Some(field) = field
            && time > MOST_TIME
        {
            self.bad(field, "longer than a year", "write a shorter time: every wait has an end");
        }
        time.min(MOST_TIME)
    }

    fn dollars(&mut self, field: Option<&Field<Dollars>>) -> u64 {
        self.value(field, Dollars(0)).0
    }

    fn count(&mut self, field: Option<&Field<u32>>, default: u32, low: u32, high: u32) -> usize {
        let count = self.value(field, default);
        if let Some(field) = field
            && !(low..=high).contains(&count)
        {
            self.bad(field, "out of bounds", &format!("write {low} to {high}"));
        }
        count as usize
    }

    fn within(&mut self, field: Option<&Field<Bytes>>, default: Bytes, low: u64, high: u64) -> usize {
        let size = self.value(field, default).0;
        if let Some(field) = field
            && !(low..=high).contains(&size)
        {
            self.bad(field, "out of bounds", &format!("write {low} to {high} bytes"));
        }
        usize::try_from(size).unwrap_or(usize::MAX)
    }

    fn bad<T: Scalar>(&mut self, field: &Field<T>, what: &str, fix: &str) {
        self.problems.push(Problem::at(field.at(), format!("`{}`: {what}", field.text()), fix));
    }
}

/// Ten years.
const MOST_AGE: Duration = secs(10 * 365 * 24 * 3600);
/// The longest time that the config may name.
const MOST_TIME: Duration = secs(365 * 24 * 3600);

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
