//! The status page: HTML that needs nothing else, and looks again by itself.
//!
//! Names come from the config and paths from anybody, so all text goes through [`Escaped`]; and what got through all the
//! same could do nothing, because only what bears this answer's nonce is style or script (`Content-Security-Policy`).

use std::time::Duration;

use super::flow;
use super::session::Session;
use super::status::{Attempts, DiskStatus, Happened, NodeStatus, PoolStatus, Status, StoreStatus};
use super::write::{Escaped, bytes, count, dollars, latency, percent, rate, span};
use crate::history::Kind;

/// What the one who looks may do.
#[derive(Clone, Copy)]
pub enum May<'a> {
    /// Only look; `admin.token` is not set.
    Look,
    /// Look, and show the token.
    SignIn,
    Order(&'a Session),
}

/// What a browser must know of the page, besides its text.
pub fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
}

/// The page; `notice` is what came of what was just done, where it went wrong.
pub fn page(status: &Status, may: May<'_>, notice: Option<&str>, nonce: &str) -> String {
    let (class, verdict) = verdict(status);
    let session = match may {
        May::Look => "none",
        May::SignIn => "out",
        May::Order(session) => &session.csrf[..8],
    };
    let notice = notice.map(|told| format!("<p class=\"alert bad notice\" role=alert>{}</p>", Escaped(told)));
    format!(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width, initial-scale=1\"><link rel=icon href=\"data:,\">\
         <title>{verdict} · hopfall</title><style nonce={nonce}>{STYLE}</style>\
         <noscript><meta http-equiv=refresh content=\"10; url=status\"></noscript></head>\n\
         <body data-session={session}><header><h1>hopfall</h1>\
         <p id=verdict class={class} role=status>{verdict}</p><p id=facts class=soft>{}</p></header>\n\
         <p id=lost class=\"alert bad\" role=alert hidden>hopfall does not answer. What stands below is old.</p>{}\n\
         <main id=live>{}</main>\n{}\n\
         <footer><span>hopfall {}</span><a href=status.json>JSON</a><a href=status.schema.json>its schema</a>\
         <a href=metrics>metrics</a>{}</footer>\n<script nonce={nonce}>{SCRIPT}</script></body></html>\n",
        facts(status),
        notice.unwrap_or_default(),
        live(status, may),
        orders(may),
        status.version,
        if matches!(may, May::Look) { "<span>buttons: set <code>admin.token</code></span>" } else { "" },
    )
}

/// What is wrong, in one line.
fn verdict(status: &Status) -> (&'static str, String) {
    let nodes = || status.pools.iter().flat_map(|pool| &pool.nodes);
    let listed = |names: Vec<&str>| {
        let more = if names.len() > 3 { format!(" and {} more", names.len() - 3) } else { String::new() };
        format!("{}{more}", Escaped(&names[..names.len().min(3)].join(", ")))
    };
    let looping: Vec<_> =
        status.loops.iter().filter(|one| one.requests_last_minute > 0).map(|one| one.node.as_str()).collect();
    let down: Vec<_> = nodes().filter(|node| !node.up).map(|node| node.name.as_str()).collect();
    let suspect: Vec<_> = nodes().filter(|node| node.suspect).map(|node| node.name.as_str()).collect();
    let failing = status.stores.iter().filter(|store| store.is_failing());
    let failing: Vec<_> = failing.map(|store| store.name.as_str()).collect();
    let spent = status.stores.iter().filter(|store| store.is_spent());
    let spent: Vec<_> = spent.map(|store| store.name.as_str()).collect();
    let all = nodes().count();
    let is = |names: &[&str]| if names.len() == 1 { "is" } else { "are" };
    let mut told = Vec::new();
    if status.stopping {
        told.push("Draining".to_owned());
    }
    if !looping.is_empty() {
        told.push(format!("Loop: {}", listed(looping.clone())));
    }
    if !down.is_empty() {
        told.push(format!("{} of {all} nodes {} down: {}", down.len(), is(&down), listed(down.clone())));
    }
    if !failing.is_empty() {
        told.push(format!(
            "{} answer{} no request",
            listed(failing.clone()),
            if failing.len() == 1 { "s" } else { "" }
        ));
    }
    if !spent.is_empty() {
        told.push(format!("Today's budget is spent: {}", listed(spent)));
    }
    if !told.is_empty() {
        return ("bad", told.join(" · "));
    }
    if !suspect.is_empty() {
        told.push(format!("{} lack{} files", listed(suspect.clone()), if suspect.len() == 1 { "s" } else { "" }));
    }
    if status.config.last_reload.as_ref().is_some_and(|reload| !reload.ok) {
        told.push("The config has changed and is not in force".to_owned());
    }
    let aside = nodes().filter(|node| matches!(node.mode, "drain" | "reject"));
    let aside: Vec<_> = aside.map(|node| node.name.as_str()).collect();
    if !aside.is_empty() {
        told.push(format!("Set aside: {}", listed(aside)));
    }
    match (told.is_empty(), all) {
        (false, _) => ("warn", told.join(" · ")),
        (true, 0) => ("ok", "Serving".to_owned()),
        (true, 1) => ("ok", "The node is up".to_owned()),
        (true, _) => ("ok", format!("All {all} nodes are up")),
    }
}

fn facts(status: &Status) -> String {
    let up = span(Duration::from_secs(status.up_seconds));
    let reload = match &status.config.last_reload {
        Some(reload) if reload.ok => format!(", reloaded {}", Escaped(&reload.at.replace('T', " "))),
        Some(reload) => format!(", reload failed {}", Escaped(&reload.at.replace('T', " "))),
        None => String::new(),
    };
    format!("serving for {up} · config {}{reload}", status.config.generation)
}

fn live(status: &Status, may: May<'_>) -> String {
    let several = status.chains.len() > 1;
    let flows: String = status
        .chains
        .iter()
        .map(|chain| {
            let routes =
                if several { format!(" <small>{}</small>", Escaped(&chain.routes.join(", "))) } else { String::new() };
            format!("<section class=card><h2>Who served{routes}</h2>{}</section>", flow::svg(chain, status))
        })
        .collect();
    let pools: String = status.pools.iter().map(|pool| pool_card(pool, may)).collect();
    let stores: String = status.stores.iter().map(store_card).collect();
    format!(
        "{}{}<div class=columns><div>{flows}{}</div><div>{pools}{stores}{}</div></div>",
        alerts(status),
        tiles(status),
        location_card(status),
        events_card(&status.events)
    )
}

fn alerts(status: &Status) -> String {
    let mut alerts = String::new();
    if status.stopping {
        alerts.push_str(
            "<p class=\"alert warn\">Draining: no new connections are taken; requests under way may end.</p>",
        );
    }
    for one in &status.loops {
        let (node, lately) = (Escaped(&one.node), one.requests_last_minute);
        let class = if lately > 0 { "bad" } else { "warn" };
        let guilty = match one.node.as_str() {
            "unknown" => "<b>A node that cannot be told</b>".to_owned(),
            _ => format!("<b>{node}</b>"),
        };
        alerts.push_str(&format!(
            "<p class=\"alert {class} looping\">↻ {guilty} points back: it asks hopfall for files that hopfall asks it for. \
             {} of its requests were stopped in the last minute, {} in all. Make it answer 404 instead.</p>",
            count(lately),
            count(one.requests)
        ));
    }
    if let Some(reload) = status.config.last_reload.as_ref().filter(|reload| !reload.ok) {
        let told = Escaped(&reload.told);
        alerts.push_str(&format!(
            "<div class=\"alert warn\">✕ The config was not reloaded, and the one before is in force.<pre>{told}</pre></div>"
        ));
    }
    for store in &status.stores {
        if store.budget_per_day.is_some_and(|budget| store.dollars_today >= budget) {
            alerts.push_str(&format!(
                "<p class=\"alert warn\">The day's budget of store <b>{}</b> is spent: it is not asked until midnight UTC.</p>",
                Escaped(&store.name)
            ));
        }
    }
    alerts
}

fn tiles(status: &Status) -> String {
    let all = status.requests.last_minute;
    let of_all = |part: u64| if all > 0 { percent(part as f64 / all as f64) } else { "–".to_owned() };
    let today: f64 = status.stores.iter().map(|store| store.dollars_today).sum();
    let nodes = || status.pools.iter().flat_map(|pool| &pool.nodes);
    let failed = nodes().map(|node| node.attempts.failed).sum::<u64>();
    let mut tiles = vec![
        ("Requests", format!("{} <small>/s</small>", rate(status.requests.per_second))),
        ("In flight", count(status.requests.in_flight.max(0).unsigned_abs())),
        ("Nobody had it", of_all(status.requests.own_last_minute)),
        ("Errors", format!("{} <small>in a minute</small>", count(failed))),
    ];
    if !status.stores.is_empty() {
        tiles.push(("S3 requests", format!("{} <small>in a minute</small>", count(status.s3.requests_last_minute))));
        tiles.push(("S3 today", dollars(today)));
    }
    let tile = |(name, value): &(&str, String)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>");
    format!("<dl class=tiles>{}</dl>", tiles.iter().map(tile).collect::<String>())
}

fn pool_card(pool: &PoolStatus, may: May<'_>) -> String {
    let order = if matches!(may, May::Order(_)) { "<th scope=col><small>Order</small></th>" } else { "" };
    let rows: String = pool.nodes.iter().enumerate().map(|(i, node)| node_row(&pool.name, i, node, may)).collect();
    format!(
        "<section class=card><h2>{} <small>pool; misses, errors and times of the last minute</small></h2>\
         <table><thead><tr><th scope=col>Node</th><th scope=col class=left>State</th><th scope=col class=left>Mode</th>\
         <th scope=col>Weight</th><th scope=col>In flight</th><th scope=col>Requests/s</th><th scope=col>Misses</th>\
         <th scope=col>Errors</th><th scope=col>Median</th><th scope=col>95 %</th>{order}</tr></thead>\
         <tbody>{rows}</tbody></table></section>",
        Escaped(&pool.name)
    )
}

fn node_row(pool: &str, i: usize, node: &NodeStatus, may: May<'_>) -> String {
    let state = match (node.up, node.suspect) {
        (false, _) => ("down", "▼ down"),
        (true, true) => ("suspect", "◆ lacks files"),
        (true, false) => ("up", "● up"),
    };
    let since = span(Duration::from_secs(node.since_seconds));
    let order = match may {
        May::Order(session) => {
            let (wanted, word) = if node.mode == "accept" { ("drain", "Drain") } else { ("accept", "Accept") };
            let fields = [("pool", pool), ("node", &node.name), ("mode", wanted)];
            let id = format!("order-{}-{i}", Escaped(pool));
            format!(
                "<td class=order>{}<button id=\"{id}\" aria-label=\"{word} {}\">{word}</button></form></td>",
                form("node", session, &fields),
                Escaped(&node.name)
            )
        }
        _ => String::new(),
    };
    format!(
        "<tr><th scope=row>{} <small>{}</small></th><td class=\"state left {}\">{} <small>{since}</small></td>\
         <td class=\"left {}\" data-of=Mode>{}</td><td data-of=Weight>{}</td><td data-of=\"In flight\">{}</td>{}{order}</tr>",
        Escaped(&node.name),
        Escaped(&node.address),
        state.0,
        state.1,
        node.mode,
        node.mode,
        node.weight,
        node.in_flight,
        figures(&node.attempts)
    )
}

fn figures(attempts: &Attempts) -> String {
    let time = |seconds: Option<f64>| seconds.map_or_else(|| "–".to_owned(), latency);
    format!(
        "<td data-of=Requests/s>{}</td><td data-of=Misses>{}</td><td data-of=Errors{}>{}</td><td data-of=Median>{}</td>\
         <td data-of=\"95 %\">{}</td>",
        rate(attempts.per_second),
        count(attempts.absent),
        if attempts.failed > 0 { " class=errors" } else { "" },
        count(attempts.failed),
        time(attempts.median_seconds),
        time(attempts.p95_seconds)
    )
}

/// A bar that is filled to this share.
fn bar(share: f64, what: &str) -> String {
    let full = if share >= 1.0 { " full" } else { "" };
    format!(
        "<svg class=\"bar{full}\" viewBox=\"0 0 100 4\" preserveAspectRatio=none role=img aria-label=\"{what}: {}\">\
         <rect width={:.1} height=4 /></svg>",
        percent(share),
        share.clamp(0.0, 1.0) * 100.0
    )
}

fn store_card(store: &StoreStatus) -> String {
    let time = |seconds: Option<f64>| seconds.map_or_else(|| "–".to_owned(), latency);
    let attempts = &store.attempts;
    let mut facts = vec![
        ("Requests", format!("{} <small>/s</small>", rate(attempts.per_second))),
        ("Found", format!("{} <small>in a minute</small>", count(attempts.found))),
        ("Misses", format!("{} <small>in a minute</small>", count(attempts.absent))),
        ("Errors", format!("{} <small>in a minute</small>", count(attempts.failed))),
        ("Median", time(attempts.median_seconds)),
        ("95 %", time(attempts.p95_seconds)),
        ("Dollars today", spent(store)),
    ];
    if let Some(disk) = &store.disk {
        let kept = disk.kept_share.map_or_else(|| "–".to_owned(), percent);
        facts.push(("Without S3", format!("{kept} <small>of a minute</small>")));
        facts.push(("Disk", disk_fact(disk)));
    }
    card("store", &store.name, "store", &facts)
}

fn spent(store: &StoreStatus) -> String {
    let Some(budget) = store.budget_per_day else { return dollars(store.dollars_today) };
    let share = if budget > 0.0 { store.dollars_today / budget } else { 1.0 };
    format!("{}{} <small>of {}</small>", bar(share, "spent"), dollars(store.dollars_today), dollars(budget))
}

fn disk_fact(disk: &DiskStatus) -> String {
    let share = if disk.max_bytes > 0 { disk.bytes as f64 / disk.max_bytes as f64 } else { 0.0 };
    let state = if disk.ready { "" } else { " <span class=suspect>◆ takes no files yet</span>" };
    let (held, most, files) = (bytes(disk.bytes), bytes(disk.max_bytes), count(disk.objects));
    format!("{}{held} <small>of {most}, {files} files</small>{state}", bar(share.min(0.999), "disk"))
}

fn location_card(status: &Status) -> String {
    let Some(map) = &status.location else { return String::new() };
    let share = map.entries as f64 / (map.max_entries as f64).max(1.0);
    let (held, most) = (count(map.entries), count(map.max_entries));
    let hits = map.hit_share.map_or_else(|| "–".to_owned(), percent);
    let filled = format!("{}{held} <small>of {most}</small>", bar(share.min(0.999), "map"));
    card("map", "Location map", "who has which path", &[("Paths", filled), ("Known when asked", hits)])
}

fn card(class: &str, name: &str, what: &str, facts: &[(&str, String)]) -> String {
    let fact = |(name, value): &(&str, String)| {
        let class = if value.starts_with("<svg") { " class=wide" } else { "" };
        format!("<div{class}><dt>{name}</dt><dd>{value}</dd></div>")
    };
    let facts: String = facts.iter().map(fact).collect();
    format!(
        "<section class=\"card {class}\"><h2>{} <small>{what}</small></h2><dl class=facts>{facts}</dl></section>",
        Escaped(name)
    )
}

fn events_card(events: &[Happened]) -> String {
    if events.is_empty() {
        return "<section class=\"card lately\"><h2>Lately</h2><p class=soft>Nothing has changed since the start.</p></section>".to_owned();
    }
    let rows: String = events.iter().take(SHOWN).map(event_row).collect();
    let more = match events.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!("<p class=soft><small><a href=status.json>{more} more</a></small></p>"),
    };
    format!("<section class=\"card lately\"><h2>Lately</h2><ol>{rows}</ol>{more}</section>")
}

fn event_row(event: &Happened) -> String {
    let mark = match event.what {
        Kind::Up => "●",
        Kind::Down => "▼",
        Kind::Suspect => "◆",
        Kind::Mode => "◐",
        Kind::Loop => "↻",
        Kind::Purged => "⌫",
        Kind::Reloaded => "✓",
        Kind::NotReloaded => "✕",
    };
    let of = event.pool.as_deref().map(|pool| format!(" of {}", Escaped(pool))).unwrap_or_default();
    let who = event.node.as_deref().map(|node| format!("<b>{}</b>{of}", Escaped(node))).unwrap_or_default();
    let told = Escaped(&event.told);
    let told = match event.what {
        Kind::Up => format!("{who} is up: {told}"),
        Kind::Down => format!("{who} is down: {told}"),
        Kind::Suspect => format!("{who}: {told}"),
        Kind::Mode => format!("{who} is set to {told}"),
        Kind::Loop => format!("{who} {told}"),
        Kind::Purged => format!("Forgotten: {told}"),
        Kind::Reloaded => format!("Reloaded: {told}"),
        Kind::NotReloaded => format!("Not reloaded: {told}"),
    };
    format!(
        "<li><i class={} aria-hidden=true>{mark}</i><span>{told}</span><time datetime={} title={}>{} ago</time></li>",
        event.kind,
        event.at,
        event.at,
        span(event.ago)
    )
}

/// What stands still, so that nobody's typing is lost.
fn orders(may: May<'_>) -> String {
    match may {
        May::Look => String::new(),
        May::SignIn => "<section class=\"card orders\"><form action=sign-in method=post>\
             <label for=token>To drain nodes, purge and reload, show the token:</label> \
             <input id=token name=token type=password autocomplete=current-password required> <button>Sign in</button>\
             </form></section>"
            .to_owned(),
        May::Order(session) => format!(
            "<section class=\"card orders\">{}<label for=path>Forget a path</label>\
             <input id=path name=path type=text placeholder=\"/img/cat.jpg\" pattern=\"/.*\" required>\
             <label><input type=checkbox name=begins value=1> and all that begin so</label><button>Purge</button></form>\
             {}<button>Reload the config</button></form>{}<button>Sign out</button></form></section>",
            form("purge", session, &[]),
            form("reload", session, &[]),
            form("sign-out", session, &[])
        ),
    }
}

/// The beginning of a form.
fn form(action: &str, session: &Session, fields: &[(&str, &str)]) -> String {
    let field = |(name, value): &(&str, &str)| format!("<input type=hidden name={name} value=\"{}\">", Escaped(value));
    let fields: String = fields.iter().map(field).collect();
    format!("<form action={action} method=post><input type=hidden name=csrf value={}>{fields}", session.csrf)
}

/// Events on the page; the JSON has all.
const SHOWN: usize = 12;
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
