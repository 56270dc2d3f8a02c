//! The trial: requests whose hops are known beforehand, and what came of each.

use std::net::SocketAddr;

use http::{HeaderMap, Method, header};

use super::client::{self, Reply};
use super::front::Front;
use super::picture::Picture;
use super::scene::Scene;
use super::table;

/// A request and what must come of it.
struct Case {
    name: &'static str,
    path: &'static str,
    status: u16,
    served_by: &'static [&'static str],
    /// Any of these. Which node is asked first is the round robin's affair.
    hops: &'static [&'static str],
    /// The node that must be asked first, where the case is about that.
    first: Option<&'static str>,
}

const CASES: [Case; 5] = [
    Case {
        name: "hit",
        path: "/cat.svg",
        status: 200,
        served_by: &["taiga", "chitoge"],
        hops: &["taiga 200", "chitoge 200"],
        first: None,
    },
    Case {
        name: "fallback",
        path: "/dog.svg",
        status: 200,
        served_by: &["chitoge"],
        hops: &["taiga 404 → chitoge 200"],
        first: Some("taiga"),
    },
    Case {
        name: "S3 tail",
        path: "/owl.svg",
        status: 200,
        served_by: &["s3"],
        hops: &["taiga 404 → chitoge 404 → s3 200", "chitoge 404 → taiga 404 → s3 200"],
        first: None,
    },
    Case {
        name: "nowhere",
        path: "/unicorn.svg",
        status: 404,
        served_by: &["hopfall"],
        hops: &["taiga 404 → chitoge 404 → s3 404", "chitoge 404 → taiga 404 → s3 404"],
        first: None,
    },
    Case {
        name: "loop attempt",
        path: "/loop/moon.svg",
        status: 200,
        served_by: &["s3"],
        hops: &["taiga 404 → chitoge 404 → s3 200", "chitoge 404 → taiga 404 → s3 200"],
        first: None,
    },
];

/// Makes the requests, prints what came of them, and says whether all of it is right.
pub async fn run(scene: &Scene, front: &Front) -> anyhow::Result<bool> {
    println!("REQUESTS (the hops are those that Server-Timing tells; the log warns of the loop)");
    let mut rows = Vec::new();
    for case in &CASES {
        let reply = case.ask(front.web).await?;
        let hops = told(&reply);
        let cells = [case.name, case.path].map(str::to_owned);
        let verdict = if case.is_right(&reply) { OK.to_owned() } else { case.wrong() };
        rows.push(row(cells, &reply, hops, verdict));
    }
    let calls = scene.taiga.take_told();
    for told in &calls {
        let caught = told.status == 404 && told.error() == Some("proxy_loop_detected") && told.hops().is_empty();
        let cells = ["  taiga calls back".to_owned(), "/loop/moon.svg".to_owned()];
        let hops = format!("none: {}", told.error().unwrap_or("not caught"));
        rows.push(row(cells, told, hops, verdict(caught).to_owned()));
    }
    let heads = ["case", "path", "status", "hops", "served by", "verdict"];
    println!("{}\n", table::render(heads, &rows));

    let metrics = client::ask(front.admin, &Method::GET, "/metrics", &HeaderMap::new()).await?;
    let metrics = String::from_utf8_lossy(&metrics.body);
    println!("METRICS (http://{}/metrics, in part)", front.admin);
    for line in metrics.lines().filter(|line| SHOWN.iter().any(|name| line.starts_with(name))) {
        println!("    {line}");
    }

    println!("\nBESIDES");
    let mut checks = refusals(scene).await?;
    let named = metrics.lines().any(|line| line == "hopfall_loops_total{node=\"taiga\"} 1");
    checks.push(("hopfall caught one loop, and named taiga".to_owned(), named && calls.len() == 1));
    for (check, passed) in &checks {
        println!("    {}: {check}", verdict(*passed));
    }

    let right = rows.iter().all(|row| row[5] == OK) && checks.iter().all(|(_, passed)| *passed);
    println!("\n{}\n", if right { "All came out right." } else { "NOT ALL CAME OUT RIGHT: see the verdicts above." });
    Ok(right)
}

impl Case {
    /// Asks hopfall, again if need be until the round robin begins where this case does.
    async fn ask(&self, web: SocketAddr) -> anyhow::Result<Reply> {
        let mut reply = client::ask(web, &Method::GET, self.path, &HeaderMap::new()).await?;
        for _ in 0..4 {
            let first = reply.hops().first().map(|hop| hop.name.to_owned());
            if self.first.is_none() || self.first == first.as_deref() {
                break;
            }
            reply = client::ask(web, &Method::GET, self.path, &HeaderMap::new()).await?;
        }
        Ok(reply)
    }

    fn is_right(&self, reply: &Reply) -> bool {
        let content = match Picture::at(self.path) {
            Some(picture) => {
                reply.body == picture.svg().as_bytes() && reply.field(&header::CONTENT_TYPE) == "image/svg+xml"
            }
            None => true,
        };
        content
            && reply.status == self.status
            && self.served_by.contains(&reply.served_by().as_str())
            && self.hops.contains(&told(reply).as_str())
    }

    fn wrong(&self) -> String {
        let Case { status, hops, served_by, .. } = self;
        format!("WRONG: not {status} by {} ({}), or other bytes", served_by.join(" or "), hops.join(" or "))
    }
}

/// What the store says to those who may not read it: it does verify signatures.
async fn refusals(scene: &Scene) -> anyhow::Result<Vec<(String, bool)>> {
    let Some(owl) = Picture::at("/owl.svg") else { anyhow::bail!("there is no owl") };
    let unsigned = scene.store.ask_unsigned(owl).await?;
    let forged = scene.store.ask_signed(owl, "not the secret").await?;
    let signed = scene.store.ask_signed(owl, &scene.store.secret_key).await?;
    let mut checks = Vec::new();
    for (what, reply, status) in
        [("no signature", unsigned, 403), ("another secret's signature", forged, 403), ("the right one", signed, 200)]
    {
        checks.push((format!("the store answers {} to a GET with {what}", reply.status), reply.status == status));
    }
    Ok(checks)
}

fn row([name, path]: [String; 2], reply: &Reply, hops: String, verdict: String) -> [String; 6] {
    [name, path, reply.status.to_string(), hops, reply.served_by(), verdict]
}

/// `taiga 404 → chitoge 200`
fn told(reply: &Reply) -> String {
    reply.hops().iter().map(|hop| format!("{} {}", hop.name, hop.result)).collect::<Vec<_>>().join(" → ")
}

fn verdict(right: bool) -> &'static str {
    if right { OK } else { "WRONG" }
}

const OK: &str = "ok";

/// Metrics that tell of the requests.
const SHOWN: [&str; 4] =
    ["hopfall_attempts_total", "hopfall_fallbacks_total", "hopfall_loops_total", "hopfall_upstream_connects_total"];
