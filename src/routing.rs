//! Routing: which route a request takes, by its host and by how its path begins.
//!
//! The most specific rule that fits wins: one for this very host before one for a domain that it is below, the longer
//! domain first, and these before one for any host; among them the longest path. So the order in which rules are written
//! means nothing.

use std::borrow::Cow;
use std::collections::HashMap;

use percent_encoding::percent_decode;

use crate::shape;

/// The rules of one listener. Routes are told by their index in the config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    exact: HashMap<String, Paths>,
    /// By domain, with its leading dot; the longest first.
    below: Vec<(String, Paths)>,
    any: Paths,
}

/// The routes of one host, by how paths begin; the longest first.
type Paths = Vec<(String, usize)>;

/// Which hosts a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    Any,
    /// This one, in lower case, without a port.
    Exact(String),
    /// All that end in this domain, which begins with a dot; not the domain itself.
    Below(String),
}

impl Hosts {
    /// `name`, or `*.domain`. The error is what to write instead.
    pub fn parse(text: &str) -> Result<Hosts, &'static str> {
        let (name, wild) = match text.strip_prefix("*.") {
            Some(domain) => (domain, true),
            None => (text, false),
        };
        let bare = name.ends_with(']') || !name.contains(':');
        if !bare || name.ends_with('.') || name.contains('*') || !crate::shape::is_host(name.as_bytes()) {
            return Err("write a name such as cdn.example.org, or *.example.org, without a port");
        }
        let name = name.to_ascii_lowercase();
        Ok(if wild { Hosts::Below(format!(".{name}")) } else { Hosts::Exact(name) })
    }
}

impl Table {
    /// Everything takes one route.
    pub fn to(route: usize) -> Table {
        Table { any: vec![("/".to_owned(), route)], ..Table::default() }
    }

    /// Adds a rule. False when one for the same hosts and path is there already, which stays.
    #[must_use]
    pub fn add(&mut self, hosts: &Hosts, path: &str, route: usize) -> bool {
        let paths = match hosts {
            Hosts::Any => &mut self.any,
            Hosts::Exact(name) => self.exact.entry(name.clone()).or_default(),
            Hosts::Below(domain) => {
                let place = self.below.partition_point(|(other, _)| other.len() > domain.len());
                let known = self.below.iter().position(|(other, _)| other == domain);
                let place = known.unwrap_or_else(|| {
                    self.below.insert(place, (domain.clone(), Paths::new()));
                    place
                });
                &mut self.below[place].1
            }
        };
        if paths.iter().any(|(other, _)| other == path) {
            return false;
        }
        let place = paths.partition_point(|(other, _)| other.len() >= path.len());
        paths.insert(place, (path.to_owned(), route));
        true
    }

    /// The route of a request for `target`, a request target in origin form, at `host`, as its `Host` field has it. `None`
    /// when no rule fits.
    pub fn find(&self, host: Option<&[u8]>, target: &[u8]) -> Option<usize> {
        // A listener with one route looks at nothing.
        if let (true, true, [(path, route)]) = (self.exact.is_empty(), self.below.is_empty(), self.any.as_slice())
            && path == "/"
        {
            return Some(*route);
        }
        let path = plain(target);
        let name = host.and_then(name);
        let of_host = || self.exact.get(name.as_deref()?).and_then(|paths| of_path(paths, &path));
        let of_domain = || {
            let name = name.as_deref()?;
            let fits = self.below.iter().filter(|(domain, _)| name.ends_with(domain.as_str()));
            fits.filter_map(|(_, paths)| of_path(paths, &path)).next()
        };
        of_host().or_else(of_domain).or_else(|| of_path(&self.any, &path))
    }

    /// The hosts that rules are for: names, and `*.domain`.
    pub fn hosts(&self) -> impl Iterator<Item = String> {
        self.exact.keys().cloned().chain(self.below.iter().map(|(domain, _)| format!("*{domain}")))
    }

    /// The routes that requests may take.
    pub fn routes(&self) -> impl Iterator<Item = usize> {
        let named = self.exact.values().chain(self.below.iter().map(|(_, paths)| paths));
        named.chain([&self.any]).flatten().map(|(_, route)| *route)
    }
}

/// The route of the longest path that `path` begins with, by whole segments: `/img` is the beginning of `/img` and of
/// `/img/cat.jpg`, and not of `/images`.
fn of_path(paths: &Paths, path: &[u8]) -> Option<usize> {
    let fits = |own: &str| {
        path.strip_prefix(own.as_bytes()).is_some_and(|rest| own.ends_with('/') || rest.is_empty() || rest[0] == b'/')
    };
    paths.iter().find(|(own, _)| fits(own)).map(|(_, route)| *route)
}

/// A host's name, in lower case, without a port and without the root's dot.
fn name(host: &[u8]) -> Option<String> {
    let (name, _) = shape::name_and_port(std::str::from_utf8(host).ok()?);
    Some(name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase())
}

/// The path as it is meant (RFC 3986 §6.2.2): without the query, decoded, without dot segments. So no spelling of a path
/// takes another route; `//a` is another path than `/a`, even if a node may serve the same file for both. Only for the choice:
/// nodes get it as it came.
fn plain(target: &[u8]) -> Cow<'_, [u8]> {
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let path: Cow<'_, [u8]> = percent_decode(path).into();
    if !path.windows(2).any(|pair| pair == b"/.") {
        return path;
    }
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut segments = path.split(|byte| *byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"." | b".." => {
                if segment == b".." {
                    kept.pop();
                }
                if last {
                    kept.push(b"");
                }
            }
            _ => kept.push(segment),
        }
    }
    let mut path = vec![b'/'];
    path.extend(kept.join(&b'/'));
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(rules: &[(&str, &str, usize)]) -> Table {
        let mut table = Table::default();
        for (hosts, path, route) in rules {
            let hosts = if hosts.is_empty() { Hosts::Any } else { Hosts::parse(hosts).unwrap() };
            assert!(table.add(&hosts, path, *route));
        }
        table
    }

    #[test]
    fn the_most_specific_rule_wins_however_they_are_written() {
        let mut rules = [
            ("", "/", 0),
            ("", "/img", 1),
            ("*.example.org", "/", 2),
            ("*.cdn.example.org", "/", 3),
            ("cdn.example.org", "/", 4),
            ("cdn.example.org", "/img/", 5),
            ("cdn.example.org", "/img/old", 6),
            ("[::1]", "/", 7),
            ("only.example.org", "/here/", 8),
        ];
        for _ in 0..2 {
            let table = table(&rules);
            for (host, target, route) in [
                ("other", "/", 0),
                ("other", "/images", 0),
                ("other", "/img", 1),
                ("other", "/img/cat.jpg?x=/", 1),
                ("www.example.org", "/img/", 2),
                ("a.b.example.org", "/", 2),
                ("example.org", "/", 0),
                ("a.cdn.example.org", "/img/old", 3),
                ("CDN.example.ORG.:8080", "/", 4),
                ("cdn.example.org", "/img", 4),
                ("cdn.example.org", "/img/cat.jpg", 5),
                ("cdn.example.org", "/%69mg/cat.jpg", 5),
                ("cdn.example.org", "/x/../img/./cat.jpg", 5),
                ("cdn.example.org", "/img/%2e%2e/x", 4),
                ("cdn.example.org", "/img/old/cat.jpg", 6),
                ("cdn.example.org", "/img/older", 5),
                ("[::1]:80", "/", 7),
                ("only.example.org", "/here/x", 8),
                // Where this host's own rules say nothing, its domain's do.
                ("only.example.org", "/there", 2),
            ] {
                assert_eq!(table.find(Some(host.as_bytes()), target.as_bytes()), Some(route), "{host} {target}");
            }
            rules.reverse();
        }
    }

    #[test]
    fn what_no_rule_fits_has_no_route() {
        let table = table(&[("cdn.example.org", "/img/", 1)]);
        for (host, target) in [(Some("cdn.example.org"), "/"), (Some("example.org"), "/img/x"), (None, "/img/x")] {
            assert_eq!(table.find(host.map(str::as_bytes), target.as_bytes()), None, "{host:?} {target}");
        }
        assert_eq!(Table::to(3).find(None, b"*"), Some(3));
        let mut table = table;
        assert!(!table.add(&Hosts::Exact("cdn.example.org".into()), "/img/", 2), "the same again");
    }

    #[test]
    fn a_rule_names_a_host_or_a_domain() {
        for good in ["a", "A.example.org", "*.example.org", "10.0.0.1", "[::1]"] {
            assert!(Hosts::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "*", "a:80", "*.", "a.*", "*.*.org", "a b", "a.", "[::1]:80"] {
            assert!(Hosts::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        /// No spelling of a path, and no bytes at all, make it fail or leave the path's own rules.
        #[test]
        fn a_plain_path_has_no_dot_segments(target in proptest::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), Just(b'%'), Just(b'2'), Just(b'e'), any::<u8>()], 0..40)) {
            let target = [b"/".as_slice(), &target].concat();
            let path = plain(&target);
            prop_assert!(path.starts_with(b"/"));
            prop_assert!(path.split(|byte| *byte == b'/').all(|segment| segment != b"." && segment != b".."));
        }
    }
}
