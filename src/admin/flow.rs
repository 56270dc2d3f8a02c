//! The chain as a picture: a stream that falls from hop to hop. What a hop serves leaves it to the right, as wide as its
//! share, and what it lacks falls on.

use super::status::{Flow, Status};
use super::write::{Escaped, count, dollars, percent, rate};

/// One branch of the stream.
struct Branch {
    class: &'static str,
    name: String,
    share: Option<f64>,
    lines: [String; 2],
}

/// The picture of one chain.
pub fn svg(flow: &Flow, status: &Status) -> String {
    let branches = branches(flow, status);
    let height = TOP + STEP * branches.len() as f64;
    let told: Vec<String> = branches.iter().map(|branch| format!("{}: {}", branch.name, branch.lines[0])).collect();
    let mut drawing = String::new();
    let mut left = branches.iter().filter_map(|branch| branch.share).sum::<f64>();
    for (i, branch) in branches.iter().enumerate() {
        let top = TOP + STEP * i as f64;
        let last = i + 1 == branches.len();
        drawing.push_str(&match branch.share {
            None => quiet(top, last),
            Some(share) => {
                let rest = if last { 0.0 } else { (left - share).max(0.0) };
                left = rest;
                // Where nothing falls on, the bed is seen.
                let bed = if last || rest > 0.0 { String::new() } else { bed(top) };
                bed + &stream(branch.class, top, share, rest)
            }
        });
        let (name, [line, more]) = (Escaped(&branch.name), &branch.lines);
        let at = [38.0, 57.0, 74.0].map(|down| top + down);
        drawing.push_str(&format!(
            "<text class=name x={LABEL} y={}>{name}</text><text x={LABEL} y={}>{line}</text>\
             <text class=more x={LABEL} y={}>{more}</text>",
            at[0], at[1], at[2]
        ));
    }
    format!(
        "<svg class=flow viewBox=\"0 0 340 {height}\" role=img aria-label=\"The chain. {}\">\
         <text class=more x={LEFT} y=14>clients</text>{drawing}</svg>",
        Escaped(&told.join("; "))
    )
}

fn branches(flow: &Flow, status: &Status) -> Vec<Branch> {
    // With one chain it is known whose the requests are that nobody had an answer to.
    let found: u64 = match status.chains.len() {
        1 => status.requests.last_minute.saturating_sub(status.requests.own_last_minute),
        _ => 0,
    };
    let own = status.requests.own_last_minute;
    let nobody = (found + own > 0 && status.chains.len() == 1).then(|| own as f64 / (found + own) as f64);
    let scale = 1.0 - nobody.unwrap_or(0.0);
    let mut branches: Vec<Branch> = flow
        .hops
        .iter()
        .map(|hop| {
            let share = hop.share.map(|share| share * scale).or_else(|| nobody.map(|_| 0.0));
            let told = match share {
                Some(share) => format!("{} · {}/s", percent(share), rate(hop.served_per_second)),
                None => "no requests".to_owned(),
            };
            let more = match hop.kind {
                "pool" => nodes_up(&hop.name, status),
                _ => cost(&hop.name, status),
            };
            Branch { class: hop.kind, name: hop.name.clone(), share, lines: [told, more] }
        })
        .collect();
    if let Some(share) = nobody.filter(|share| *share > 0.0) {
        let told = format!("{} · {} in a minute", percent(share), count(own));
        let more = "not found, or refused".to_owned();
        branches.push(Branch { class: "none", name: "nobody".to_owned(), share: Some(share), lines: [told, more] });
    }
    branches
}

fn nodes_up(name: &str, status: &Status) -> String {
    let Some(pool) = status.pools.iter().find(|pool| pool.name == name) else { return String::new() };
    let up = pool.nodes.iter().filter(|node| node.up).count();
    format!("{up} of {} nodes up", pool.nodes.len())
}

fn cost(name: &str, status: &Status) -> String {
    let Some(store) = status.stores.iter().find(|store| store.name == name) else { return String::new() };
    let kept = store.disk.as_ref().and_then(|disk| disk.kept_share);
    let kept = kept.map(|share| format!(" · {} kept here", percent(share))).unwrap_or_default();
    format!("{} today{kept}", dollars(store.dollars_today))
}

/// A branch of this share, and what falls on beside it.
fn stream(class: &str, top: f64, share: f64, rest: f64) -> String {
    // The thinnest that can be seen, where there is any.
    let width = |share: f64| if share > 0.0 { (share * WIDTH).max(1.5) } else { 0.0 };
    let (on, off) = (width(rest), width(share));
    let trunk = match on > 0.0 {
        true => format!("<rect class=trunk x={LEFT} y={top} width={on:.1} height={STEP} />"),
        false => String::new(),
    };
    if off <= 0.0 {
        return format!("{}{trunk}", quiet(top, true));
    }
    let (inner, outer) = (LEFT + on, LEFT + on + off);
    let (upper, lower) = (top + MIDDLE - off / 2.0, top + MIDDLE + off / 2.0);
    format!(
        "{trunk}<path class={class} d=\"M{inner:.1} {top}Q{inner:.1} {lower:.1} {END} {lower:.1}V{upper:.1}\
         Q{outer:.1} {upper:.1} {outer:.1} {top}Z\"/>"
    )
}

/// A branch without a stream, and the bed beside it.
fn quiet(top: f64, last: bool) -> String {
    let (x, middle) = (LEFT + 2.0, top + MIDDLE);
    let bed = if last { String::new() } else { bed(top) };
    format!("{bed}<path class=quiet d=\"M{x} {top}Q{x} {middle} {END} {middle}\"/>")
}

/// Where the stream would fall on.
fn bed(top: f64) -> String {
    format!("<path class=quiet d=\"M{} {top}v{STEP}\"/>", LEFT + 2.0)
}

const LEFT: f64 = 4.0;
/// The whole stream.
const WIDTH: f64 = 60.0;
const TOP: f64 = 24.0;
const STEP: f64 = 92.0;
/// Where a branch leaves, below the top of its step.
const MIDDLE: f64 = 50.0;
const END: f64 = 128.0;
const LABEL: f64 = 140.0;
