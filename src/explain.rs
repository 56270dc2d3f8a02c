//! How a request would go, told: whom it would ask, in which order and why, and what came of it if it was made.
//!
//! Only the words and their form; the chain knows what is true.

use std::fmt::{self, Write};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

/// How a GET or HEAD would go along the chain, from what holds now.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Explanation {
    pub request: Request,
    /// Set when the answer is given without asking anybody; then there are no hops.
    pub at_once: Option<AtOnce>,
    /// Whom the request would ask, in this order, as long as each says that it lacks the file.
    pub hops: Vec<Hop>,
    /// Targets of the route that would not be asked.
    pub not_asked: Vec<NotAsked>,
    /// The final status if each hop says that it lacks the file.
    pub if_all_lack_it: u16,
    /// What else has a part in it.
    pub notes: Vec<String>,
    /// What came of the request, if it was made.
    pub live: Option<Live>,
}

/// The request that is explained.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Request {
    /// `GET` or `HEAD`.
    pub method: String,
    pub host: String,
    /// The request target in origin form, with what no terminal should see escaped.
    pub target: String,
    /// The listener's name.
    pub listener: String,
    /// The route's name; null when no rule fits.
    pub route: Option<String>,
    /// The client's address.
    pub client: String,
    /// What a client of that address is taken for: `client`, `node NAME` or `neighbour`.
    pub caller: String,
}

/// An answer of hopfall's own.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct AtOnce {
    pub status: u16,
    pub why: String,
}

/// One target that would be asked.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Hop {
    /// Name of the node or store.
    pub target: String,
    pub kind: Kind,
    /// Name of the node's pool; null for a store.
    pub pool: Option<String>,
    /// Where it is asked; null while its name has never been resolved.
    pub address: Option<String>,
    /// Why it is asked, and why at this place.
    pub why: Vec<String>,
    /// What decided for it.
    pub choice: Choice,
    /// What the location map says of it.
    pub hint: Hint,
    /// Null for a store.
    pub node: Option<NodeState>,
    /// Null for a node.
    pub s3: Option<S3>,
}

/// What sort of target a hop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Node,
    Store,
}

/// What decided for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// The client was sent to it before.
    Stickiness,
    /// It comes before the others of its pool by health, mode, places or hint; or is the only one.
    Rank,
    /// Its turn by weight, among equals.
    Weight,
    /// The fewest requests in flight, among equals.
    LeastBusy,
    /// The path, among equals.
    Path,
    /// The client's address, among equals.
    Client,
    /// A store that is known to have what each node is known to lack.
    Preferred,
    /// A store's place in the chain.
    Chain,
}

/// What the location map says of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Hint {
    Has,
    Unknown,
    Lacks,
}

/// A node as it stands.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct NodeState {
    pub health: Health,
    /// Seconds that `health` has been `down`.
    pub down_for: Option<f64>,
    /// `accept`, `backup`, `drain` or `reject`.
    pub mode: String,
    /// As the config has it.
    pub weight: u32,
    pub in_flight: i64,
    pub max_in_flight: usize,
    /// Seconds of silence after which another node is asked beside it; null without hedging.
    pub hedge_after: Option<f64>,
}

/// Whether a node is asked before others or after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    Up,
    Down,
    /// It kept silent while others answered.
    Silent,
    /// It suddenly lacks all that it is asked for.
    Suspect,
}

/// What S3 would be asked, without what is secret: neither the key nor a signature.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct S3 {
    /// Null when no object can have the path's name: then S3 is not asked.
    pub request: Option<Signed>,
    /// What is kept on this machine of the object.
    pub disk: Disk,
    /// Whether S3 itself would be asked: not when what is kept is fresh, nor when the day's budget is spent.
    pub asked: bool,
    /// How the bucket says that it lacks a key: `404`, `403`, or `unknown` while no probe was answered.
    pub absent_is: String,
    /// Dollars for one request.
    pub dollars_per_request: f64,
    /// Dollars for 2^30 bytes.
    pub dollars_per_gibibyte: f64,
    /// Dollars spent on this UTC day.
    pub dollars_today: f64,
    /// Dollars left of the day's budget; null without one.
    pub dollars_left: Option<f64>,
}

/// The request to S3, signed with SigV4.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Signed {
    pub method: String,
    pub url: String,
    pub host: String,
    /// The fields that the signature covers, by name in their canonical order.
    pub headers: Vec<String>,
    /// `DATE/REGION/s3/aws4_request`
    pub scope: String,
    /// The access key's id, shortened.
    pub access_key: String,
}

/// What a store keeps of an object.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Disk {
    /// The store has no disk, or could not open it.
    None,
    NotKept,
    /// Served without asking S3, for so many seconds more.
    Fresh {
        left: f64,
        bytes: u64,
    },
    /// It has been stale for so many seconds.
    Stale {
        since: f64,
        bytes: u64,
        /// It is served at once, and S3 is asked on the side.
        while_revalidating: bool,
        /// It is served if S3 fails.
        if_error: bool,
    },
}

/// A target that would not be asked.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct NotAsked {
    pub target: String,
    /// Name of the node's pool; null for a store.
    pub pool: Option<String>,
    pub why: String,
}

/// What came of a request that was made.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Live {
    /// What the client would have got; null when no head was sent in time.
    pub status: Option<u16>,
    /// Name of the target whose answer it was; null when hopfall answered itself.
    pub served_by: Option<String>,
    /// A failure by its name in RFC 9209.
    pub failure: Option<String>,
    /// Who cut the answer short: `upstream`, `client` or `deadline`.
    pub aborted: Option<String>,
    /// What the store's disk had to do with it: `hit`, `miss`, `stale`, `revalidated`, `collapsed` or `bypass`.
    pub cache: Option<String>,
    /// Body bytes.
    pub bytes: u64,
    pub seconds: f64,
    /// By the prices of the config.
    pub dollars: f64,
    pub hops: Vec<LiveHop>,
}

/// What came of one hop.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct LiveHop {
    pub target: String,
    /// `found`, `absent`, `busy`, `error`, `down`, `broken`, `misconfigured` or `dropped`.
    pub outcome: String,
    pub status: Option<u16>,
    pub failure: Option<String>,
    /// Body bytes that were handed on.
    pub bytes: u64,
    /// Until its head, or its failure.
    pub seconds: f64,
    /// By the prices of the config.
    pub dollars: f64,
}

/// Text that may go to a terminal: control characters, and those that turn the direction of text, as escapes.
pub fn printable(text: &str) -> String {
    let mut printed = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                printed.extend(c.escape_unicode());
            }
            c if c.is_control() => printed.extend(c.escape_unicode()),
            c => printed.push(c),
        }
    }
    printed
}

/// A time as a person says it: two units at most.
pub fn spoken(time: Duration) -> String {
    let rounded = match time.as_millis() {
        0..1000 => Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(0)),
        1000..60_000 => Duration::from_secs(time.as_secs()),
        60_000..3_600_000 => Duration::from_secs(time.as_secs()),
        _ => Duration::from_secs(time.as_secs() / 60 * 60),
    };
    humantime::format_duration(rounded).to_string()
}

/// Dollars with as many decimals as they need, and not more than nine.
pub fn dollars(amount: f64) -> String {
    let text = format!("{amount:.9}");
    let text = text.trim_end_matches('0');
    let decimals = text.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    if decimals < 2 { format!("${amount:.2}") } else { format!("${text}") }
}

impl fmt::Display for Explanation {
    /// For a person, in at most [`WIDTH`] columns where words allow it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let request = &self.request;
        writeln!(f, "{} {}{}", request.method, printable(&request.host), printable(&request.target))?;
        let route = request.route.as_deref().map_or_else(|| "no route".to_owned(), |route| format!("route {route}"));
        let taken_for = if request.caller == "client" { "" } else { &format!(", taken for {}", request.caller) };
        let from = format!("listener {}, {route}, for a client at {}{taken_for}", request.listener, request.client);
        writeln!(f, "{}\n", printable(&from))?;
        if let Some(AtOnce { status, why }) = &self.at_once {
            f.write_str(&block(&format!("{status} at once, and nobody is asked: "), why))?;
        } else {
            f.write_str(&self.table())?;
            writeln!(f, "\nIf each of them lacks it: {}.", self.if_all_lack_it)?;
        }
        for hop in &self.hops {
            if let Some(s3) = &hop.s3 {
                write!(f, "\nStore {}\n{}", printable(&hop.target), s3.lines())?;
            }
        }
        if !self.notes.is_empty() {
            f.write_char('\n')?;
            self.notes.iter().try_for_each(|note| f.write_str(&block("Note: ", note)))?;
        }
        match &self.live {
            Some(live) => write!(f, "\n{}", live.lines()),
            None => Ok(()),
        }
    }
}

impl Explanation {
    fn table(&self) -> String {
        let hops = self.hops.iter().enumerate().map(|(i, hop)| {
            let place = hop.pool.as_deref().unwrap_or("store");
            let address = hop.address.as_deref().unwrap_or("no address");
            [(i + 1).to_string(), hop.target.clone(), place.to_owned(), address.to_owned(), hop.why.join("; ")]
        });
        let not_asked = self.not_asked.iter().map(|passed| {
            let place = passed.pool.as_deref().unwrap_or("store");
            ["-".to_owned(), passed.target.clone(), place.to_owned(), String::new(), passed.why.clone()]
        });
        let rows: Vec<[String; 5]> = hops.chain(not_asked).collect();
        columns(["#", "target", "of", "address", "why"], &rows)
    }
}

impl S3 {
    fn lines(&self) -> String {
        let mut lines = String::new();
        match &self.request {
            Some(signed) => {
                let asked = if self.asked { "" } else { " (not now)" };
                lines.push_str(&block("  request:  ", &format!("{} {}{asked}", signed.method, signed.url)));
                lines.push_str(&block("  Host:     ", &signed.host));
                lines.push_str(&block("  signed:   ", &signed.headers.join(";")));
                let scope = format!("{}, access key {}", signed.scope, signed.access_key);
                lines.push_str(&block("  scope:    ", &scope));
            }
            None => lines.push_str(&block("  request:  ", "none: no object can have this name")),
        }
        lines.push_str(&block("  disk:     ", &self.disk.words()));
        let absent = match self.absent_is.as_str() {
            "unknown" => "not known yet how this bucket says that it lacks a key".to_owned(),
            status => format!("a missing key is {status} here"),
        };
        lines.push_str(&block("  absent:   ", &absent));
        let price = format!(
            "{} a request, {} a GiB; today {} spent",
            dollars(self.dollars_per_request),
            dollars(self.dollars_per_gibibyte),
            dollars(self.dollars_today)
        );
        let left = self.dollars_left.map_or_else(String::new, |left| format!(", {} left", dollars(left)));
        lines.push_str(&block("  price:    ", &(price + &left)));
        lines
    }
}

impl Disk {
    fn words(&self) -> String {
        let spoken = |seconds: f64| spoken(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        match self {
            Disk::None => "none".to_owned(),
            Disk::NotKept => "not kept".to_owned(),
            Disk::Fresh { left, bytes } => format!("kept ({bytes} bytes), fresh for {} more", spoken(*left)),
            Disk::Stale { since, bytes, while_revalidating, if_error } => {
                let then = match (while_revalidating, if_error) {
                    (true, _) => "served at once, and S3 is asked on the side",
                    (false, true) => "S3 is asked whether it is still good; served if S3 fails",
                    (false, false) => "S3 is asked whether it is still good",
                };
                format!("kept ({bytes} bytes), stale for {}: {then}", spoken(*since))
            }
        }
    }
}

impl Live {
    fn lines(&self) -> String {
        let rows: Vec<[String; 7]> = self
            .hops
            .iter()
            .enumerate()
            .map(|(i, hop)| {
                let status = hop.status.map(|status| status.to_string());
                [
                    (i + 1).to_string(),
                    hop.target.clone(),
                    hop.outcome.clone(),
                    status.or_else(|| hop.failure.clone()).unwrap_or_else(|| "-".to_owned()),
                    hop.bytes.to_string(),
                    format!("{:.1}ms", hop.seconds * 1000.0),
                    if hop.dollars > 0.0 { dollars(hop.dollars) } else { "-".to_owned() },
                ]
            })
            .collect();
        let mut lines = "Done:\n".to_owned();
        if !rows.is_empty() {
            lines.push_str(&columns(["#", "target", "outcome", "status", "bytes", "time", "cost"], &rows));
        }
        let status = self.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
        let by = self.served_by.as_deref().unwrap_or("hopfall itself");
        let mut told = format!("{status} by {by}, {} bytes in {:.1}ms", self.bytes, self.seconds * 1000.0);
        let more = [("cache", &self.cache), ("failure", &self.failure), ("cut short by", &self.aborted)];
        for (what, word) in more {
            if let Some(word) = word {
                told.push_str(&format!(", {what} {word}"));
            }
        }
        if self.dollars > 0.0 {
            told.push_str(&format!(", {}", dollars(self.dollars)));
        }
        lines + &block("  ", &told)
    }
}

/// Rows under their heads, each column as wide as its widest cell; the last one is broken into lines.
fn columns<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let heads = heads.map(str::to_owned);
    let width = |i: usize| rows.iter().chain([&heads]).map(|row| printable(&row[i]).chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut lines = String::new();
    for row in [&heads].into_iter().chain(rows) {
        let (last, first) = row.split_last().map_or(("", [].as_slice()), |(last, first)| (last.as_str(), first));
        let mut start = String::from("  ");
        for (cell, width) in first.iter().zip(widths) {
            let cell = printable(cell);
            let _ = write!(start, "{cell:width$}  ");
        }
        lines.push_str(&block(&start, last));
    }
    lines
}

/// `text` after `start`, broken into lines at spaces; the lines after the first begin below the text's beginning.
fn block(start: &str, text: &str) -> String {
    let indent = start.chars().count();
    let room = WIDTH.saturating_sub(indent).max(NARROWEST);
    let (mut lines, mut line) = (start.to_owned(), 0);
    for word in printable(text).split(' ').filter(|word| !word.is_empty()) {
        let length = word.chars().count();
        if line > 0 && line + 1 + length > room {
            lines = format!("{}\n{:indent$}", lines.trim_end(), "");
            line = 0;
        }
        if line > 0 {
            lines.push(' ');
            line += 1;
        }
        lines.push_str(word);
        line += length;
    }
    format!("{}\n", lines.trim_end())
}

/// Columns of a terminal that is not wide.
const WIDTH: usize = 100;
/// The least room that a text is given, whatever stands before it.
const NARROWEST: usize = 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_printed_moves_the_cursor_or_turns_the_text() {
        const CASES: &[(&str, &str)] = &[
            ("/cat.jpg", "/cat.jpg"),
            ("/猫", "/猫"),
            ("/\x1b[2J", "/\\u{1b}[2J"),
            ("/a\r\nb\x7f", "/a\\u{d}\\u{a}b\\u{7f}"),
            ("/\u{9b}2J", "/\\u{9b}2J"),
            ("/\u{202e}gpj", "/\\u{202e}gpj"),
        ];
        for (text, printed) in CASES {
            assert_eq!(printable(text), *printed);
        }
    }

    #[test]
    fn times_and_sums_are_as_a_person_says_them() {
        const TIMES: &[(u64, &str)] =
            &[(250, "250ms"), (12_345, "12s"), (200_500, "3m 20s"), (3_725_000, "1h 2m"), (90_061_000, "1day 1h 1m")];
        for (milliseconds, said) in TIMES {
            assert_eq!(spoken(Duration::from_millis(*milliseconds)), *said);
        }
        const SUMS: &[(f64, &str)] = &[(0.0, "$0.00"), (0.000_000_4, "$0.0000004"), (5.0, "$5.00"), (1.25, "$1.25")];
        for (sum, said) in SUMS {
            assert_eq!(dollars(*sum), *said);
        }
    }

    #[test]
    fn long_words_of_the_last_column_stay_below_it() {
        let rows = [["1".to_owned(), "word ".repeat(30)], ["2".to_owned(), "x".to_owned()]];
        let table = columns(["#", "why"], &rows);
        assert!(table.lines().all(|line| line.chars().count() <= WIDTH), "{table}");
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!((lines[0], lines[3]), ("  #  why", "  2  x"));
        assert!(lines[2].starts_with("     word"), "{table}");
    }
}
