//! Linode's JSON, taken apart: NodeBalancers, configs and nodes, from the paged answers of the API and the bare lists of
//! its command line.
//!
//! Only the fields that are named here are read, so a private key that stands in the input is never held. Messages tell
//! keys and places, never a value.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{Refusal, Source};
use crate::units::{HostPort, Scalar};

/// All that the input says, each thing once.
#[derive(Clone, Debug, Default)]
pub struct Input {
    pub balancers: Vec<Balancer>,
    pub configs: Vec<Config>,
    pub nodes: Vec<Node>,
}

/// `GET /v4/nodebalancers/{id}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balancer {
    pub id: u64,
    pub label: String,
    pub region: String,
    pub ipv4: String,
    pub ipv6: String,
    /// `common` or `premium`.
    pub kind: String,
    /// New connections a second and client address; 0 is no bound.
    pub throttle: u64,
}

/// `GET /v4/nodebalancers/{id}/configs/{id}`. A number that is `null` is `None`, a word that is `null` is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub id: u64,
    pub balancer: Option<u64>,
    pub port: u16,
    pub protocol: String,
    pub algorithm: String,
    pub stickiness: String,
    pub check: String,
    /// In seconds.
    pub interval: Option<u64>,
    /// In seconds.
    pub timeout: Option<u64>,
    pub attempts: Option<u64>,
    pub path: String,
    pub body: String,
    pub passive: Option<bool>,
    pub proxy_protocol: String,
    pub cipher_suite: String,
    pub common_name: String,
    pub fingerprint: String,
    /// Keys that are not there, not even as `null`: something made this shorter than the API's answer.
    pub absent: Vec<&'static str>,
}

/// `GET /v4/nodebalancers/{id}/configs/{id}/nodes`, one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: u64,
    pub config: u64,
    pub label: String,
    pub address: HostPort,
    pub weight: Option<u64>,
    pub mode: String,
    /// Whether it was down when the input was saved. `Unknown` is not down.
    pub down: bool,
    /// As with a config.
    pub absent: Vec<&'static str>,
}

/// Reads all sources.
///
/// # Errors
/// What is not JSON, is none of the three shapes, contradicts itself, or lacks a page.
pub fn read(sources: &[Source]) -> Result<Input, Refusal> {
    let mut reader = Reader::default();
    for source in sources {
        let text = source.text.trim_start_matches('\u{feff}');
        let mut count = 0;
        for (i, document) in serde_json::Deserializer::from_str(text).into_iter::<Value>().enumerate() {
            let document = document.map_err(|error| {
                Refusal(format!("{}: not JSON: {error}; save the API's answer unchanged", source.name))
            })?;
            let place = if i == 0 { source.name.clone() } else { format!("{}, document {}", source.name, i + 1) };
            reader.document(&place, &document)?;
            count += 1;
        }
        if count == 0 {
            return Err(Refusal(format!("{}: the file is empty; save the API's answer in it", source.name)));
        }
    }
    reader.end()
}

#[derive(Default)]
struct Reader {
    input: Input,
    /// Which pages of which list have come.
    pages: BTreeMap<List, Pages>,
}

/// A list that the API cuts into pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum List {
    Balancers,
    /// Of this NodeBalancer.
    Configs(u64),
    /// Of this config.
    Nodes(u64),
}

#[derive(Default)]
struct Pages {
    place: String,
    of: u64,
    seen: BTreeSet<u64>,
}

impl Reader {
    fn document(&mut self, place: &str, document: &Value) -> Result<(), Refusal> {
        match document {
            Value::Array(items) => self.items(place, items).map(|_| ()),
            Value::Object(object) => match (object.get("data"), object.get("errors")) {
                (Some(Value::Array(items)), _) => {
                    let list = self.items(place, items)?;
                    let fields = Fields { object, place };
                    let (page, of) = (fields.number("page")?.unwrap_or(1), fields.number("pages")?.unwrap_or(1));
                    if let Some(list) = list {
                        let pages = self.pages.entry(list).or_default();
                        pages.place = place.to_owned();
                        pages.of = pages.of.max(of);
                        pages.seen.insert(page);
                    }
                    Ok(())
                }
                (_, Some(Value::Array(_))) => Err(Refusal(format!(
                    "{place}: an error from the API (`errors`); fetch it again with a token that may read NodeBalancers"
                ))),
                _ => self.item(place, object).map(|_| ()),
            },
            _ => Err(Refusal(format!("{place}: {} {SHAPES}", kind(document)))),
        }
    }

    fn items(&mut self, place: &str, items: &[Value]) -> Result<Option<List>, Refusal> {
        let mut list = None;
        for (i, item) in items.iter().enumerate() {
            let place = format!("{place}, item {}", i + 1);
            let Value::Object(object) = item else {
                return Err(Refusal(format!("{place}: {} {SHAPES}", kind(item))));
            };
            list = Some(self.item(&place, object)?);
        }
        Ok(list)
    }

    /// A thing is told by the keys that only its kind has.
    fn item(&mut self, place: &str, object: &Map<String, Value>) -> Result<List, Refusal> {
        let has = |keys: &[&str]| keys.iter().all(|key| object.contains_key(*key));
        let fields = Fields { object, place };
        if has(&["config_id", "address"]) {
            let node = fields.node()?;
            let list = List::Nodes(node.config);
            let known = self.input.nodes.iter().find(|known| known.id == node.id);
            // The status is of the moment, and may differ between two answers.
            match known.map(|known| Node { down: node.down, ..known.clone() } == node) {
                Some(false) => return Err(twice(place, "node", node.id)),
                Some(true) => {}
                None => self.input.nodes.push(node),
            }
            return Ok(list);
        }
        if has(&["port", "protocol"]) {
            let config = fields.config()?;
            let list = List::Configs(config.balancer.unwrap_or_default());
            match self.input.configs.iter().find(|known| known.id == config.id).map(|known| *known == config) {
                Some(false) => return Err(twice(place, "config", config.id)),
                Some(true) => {}
                None => self.input.configs.push(config),
            }
            return Ok(list);
        }
        if has(&["client_conn_throttle", "label"]) {
            let balancer = fields.balancer()?;
            match self.input.balancers.iter().find(|known| known.id == balancer.id).map(|known| *known == balancer) {
                Some(false) => return Err(twice(place, "NodeBalancer", balancer.id)),
                Some(true) => {}
                None => self.input.balancers.push(balancer),
            }
            return Ok(List::Balancers);
        }
        Err(Refusal(format!("{place}: an object {SHAPES}")))
    }

    fn end(self) -> Result<Input, Refusal> {
        for (list, pages) in &self.pages {
            let Some(missing) = (1..=pages.of.min(MOST_PAGES)).find(|page| !pages.seen.contains(page)) else {
                continue;
            };
            let list = match list {
                List::Balancers => "of the NodeBalancers".to_owned(),
                List::Configs(id) => format!("of the configs of NodeBalancer {id}"),
                List::Nodes(id) => format!("of the nodes of config {id}"),
            };
            return Err(Refusal(format!(
                "{}: page {missing} {list} is missing, of {}; fetch it too, with ?page={missing}, or all at once with ?page_size=500",
                pages.place, pages.of
            )));
        }
        Ok(self.input)
    }
}

fn twice(place: &str, what: &str, id: u64) -> Refusal {
    Refusal(format!("{place}: {what} {id} is in the input twice, and differs; keep the newer one"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The fields of one thing.
struct Fields<'a> {
    object: &'a Map<String, Value>,
    place: &'a str,
}

impl Fields<'_> {
    fn balancer(&self) -> Result<Balancer, Refusal> {
        Ok(Balancer {
            id: self.needed("id")?,
            label: self.text("label")?,
            region: self.text("region")?,
            ipv4: self.text("ipv4")?,
            ipv6: self.text("ipv6")?,
            kind: self.text("type")?,
            throttle: self.number("client_conn_throttle")?.unwrap_or_default(),
        })
    }

    fn config(&self) -> Result<Config, Refusal> {
        let port = self.number("port")?.unwrap_or(80);
        let port = u16::try_from(port).ok().filter(|port| *port > 0);
        Ok(Config {
            id: self.needed("id")?,
            balancer: self.number("nodebalancer_id")?,
            port: port.ok_or_else(|| self.wrong("port", "is not from 1 to 65535"))?,
            protocol: self.word("protocol", "http")?,
            algorithm: self.word("algorithm", "roundrobin")?,
            stickiness: self.word("stickiness", "none")?,
            check: self.word("check", "none")?,
            interval: self.number("check_interval")?,
            timeout: self.number("check_timeout")?,
            attempts: self.number("check_attempts")?,
            path: self.text("check_path")?,
            body: self.text("check_body")?,
            passive: self.flag("check_passive")?,
            proxy_protocol: self.word("proxy_protocol", "none")?,
            cipher_suite: self.word("cipher_suite", "recommended")?,
            common_name: self.text("ssl_commonname")?,
            fingerprint: self.text("ssl_fingerprint")?,
            absent: self.absent(CONFIG),
        })
    }

    fn node(&self) -> Result<Node, Refusal> {
        let address = HostPort::parse(&self.text("address")?).map_err(|advice| self.wrong("address", &advice))?;
        Ok(Node {
            id: self.needed("id")?,
            config: self.needed("config_id")?,
            label: self.text("label")?,
            address,
            weight: self.number("weight")?,
            mode: self.word("mode", "accept")?,
            down: self.text("status")?.eq_ignore_ascii_case("down"),
            absent: self.absent(NODE),
        })
    }

    fn absent(&self, keys: &[&'static str]) -> Vec<&'static str> {
        keys.iter().copied().filter(|key| !self.object.contains_key(*key)).collect()
    }

    fn needed(&self, key: &str) -> Result<u64, Refusal> {
        self.number(key)?.ok_or_else(|| self.wrong(key, "is missing"))
    }

    fn number(&self, key: &str) -> Result<Option<u64>, Refusal> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or_else(|| self.wrong(key, "is not a whole number")),
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, Refusal> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "is not true or false")),
        }
    }

    fn text(&self, key: &str) -> Result<String, Refusal> {
        match self.object.get(key) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(value) => value.as_str().map(str::to_owned).ok_or_else(|| self.wrong(key, "is not a string")),
        }
    }

    /// One of a closed set of words, or the API's default where it is empty.
    fn word(&self, key: &str, default: &str) -> Result<String, Refusal> {
        let text = self.text(key)?;
        Ok(if text.is_empty() { default.to_owned() } else { text })
    }

    fn wrong(&self, key: &str, what: &str) -> Refusal {
        Refusal(format!("{}: `{key}`: {what}; save the API's answer unchanged", self.place))
    }
}

const SHAPES: &str = "that is none of the three shapes: a NodeBalancer (`label`, `client_conn_throttle`), a config (`port`, `protocol`) or a node (`config_id`, `address`), alone, in a list, or in the `data` of a page; linode-cli leaves keys out unless it is told --all-columns";

/// What decides how a config is served.
const CONFIG: &[&str] = &[
    "algorithm",
    "stickiness",
    "check",
    "check_interval",
    "check_timeout",
    "check_attempts",
    "check_path",
    "check_passive",
    "proxy_protocol",
];

/// What decides how a node is used.
const NODE: &[&str] = &["weight", "mode"];

/// More than any list has; a made-up number of pages costs no time.
const MOST_PAGES: u64 = 100_000;
