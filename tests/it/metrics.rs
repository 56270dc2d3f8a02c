//! `docs/metrics.md` and the README against what is registered. The documents keep their order and their prose; the rows of
//! the tables are made from the metrics' own help texts.
//!
//! `HOPFALL_UPDATE=1 cargo test --test it metrics` writes the rows anew. For a new metric put its name where it belongs,
//! ``| `hopfall_new_total` |``, and the rest is filled in.

use std::path::Path;

use hopfall::metrics::{Description, Metrics};
use regex::Regex;

use crate::support::fleet::Fleet;
use crate::support::nginx::Nginx;

fn descriptions() -> Vec<Description> {
    Metrics::new().unwrap().descriptions().to_vec()
}

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn row(metric: &Description) -> String {
    let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
    let labels = if labels.is_empty() { "–".to_owned() } else { labels.join(", ") };
    format!("| `{}` | {} | {labels} | {} |", metric.name, metric.kind.as_str(), metric.help)
}

/// The name of the metric that a row of a table is about.
fn subject(line: &str) -> Option<&str> {
    let (name, _) = line.strip_prefix("| `")?.split_once('`')?;
    (name.starts_with("hopfall_") || name.starts_with("process_")).then_some(name)
}

#[test]
fn docs_metrics_md_has_every_metric_with_its_own_words() {
    let metrics = descriptions();
    let document = read("docs/metrics.md");
    let mut wanted = String::new();
    for line in document.lines() {
        match subject(line) {
            // There is such a row, and no such metric without the feature.
            Some("hopfall_spans_dropped_total") if !cfg!(feature = "otel") => wanted.push_str(line),
            Some(name) => {
                let metric = metrics.iter().find(|metric| metric.name == name);
                wanted.push_str(&row(
                    metric.unwrap_or_else(|| panic!("docs/metrics.md has `{name}`, which is no metric"))
                ));
            }
            None => wanted.push_str(line),
        }
        wanted.push('\n');
    }
    for metric in &metrics {
        let rows = document.lines().filter(|line| subject(line) == Some(&metric.name)).count();
        assert_eq!(
            rows,
            1,
            "docs/metrics.md has {rows} rows for it; write in the section it belongs to:\n{}",
            row(metric)
        );
    }
    if document != wanted && std::env::var_os("HOPFALL_UPDATE").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md"), &wanted).unwrap();
    }
    for (is, should) in document.lines().zip(wanted.lines()) {
        assert_eq!(is, should, "docs/metrics.md is not what the metrics say; HOPFALL_UPDATE=1 writes it anew");
    }
}

#[test]
fn no_document_names_a_metric_that_is_not_there() {
    let metrics = descriptions();
    let name = Regex::new(r"\bhopfall_[a-z0-9_]+\*?").unwrap();
    for document in ["README.md", "docs/metrics.md", "docs/architecture.md", "docs/nodebalancer.md", "docker/README.md"]
    {
        for found in name.find_iter(&read(document)) {
            let named = found.as_str();
            let known = metrics.iter().any(|metric| match named.strip_suffix('*') {
                Some(begin) => metric.name.starts_with(begin),
                None => {
                    let series = ["_bucket", "_sum", "_count"].iter().find_map(|ending| named.strip_suffix(ending));
                    let built = named != "hopfall_spans_dropped_total" || cfg!(feature = "otel");
                    !built || metric.name == named || Some(metric.name.as_str()) == series
                }
            });
            assert!(known, "{document} names {named}, which is no metric");
        }
    }
}

#[test]
fn the_process_tells_what_it_takes() {
    let node = Nginx::with_files(&[("cat.jpg", b"meow")]);
    let hopfall = Fleet::new().node("node", node.addr()).start();
    let metrics = hopfall.metrics();
    let resident = metrics.value("process_resident_memory_bytes", &[]) / 1024.0;
    let truly = hopfall.rss_kib() as f64;
    assert!((resident - truly).abs() < truly / 4.0, "{resident} KiB told, {truly} KiB taken");
    assert!(metrics.value("process_open_fds", &[]) >= 3.0);
    assert!(metrics.value("process_max_fds", &[]) >= metrics.value("process_open_fds", &[]));
    let cpu = || hopfall.metrics().value("process_cpu_seconds_total", &[]);
    let before = cpu();
    assert!(before > 0.0);
    for _ in 0..20 {
        hopfall.get("/cat.jpg");
    }
    assert!(cpu() > before, "it counts finer than in seconds");
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let started = metrics.value("process_start_time_seconds", &[]);
    assert!(started <= now && started > now - 60.0);
}

#[test]
fn an_attempt_is_timed_until_its_answer_begins() {
    let lean = Nginx::with_files(&[]);
    let hopfall = Fleet::new().node("lean", lean.addr()).node("gone", "127.0.0.1:1".parse().unwrap()).start();
    hopfall.get("/cat.jpg");
    hopfall.wait_for_access_log(1);
    let metrics = hopfall.metrics();
    let timed = |node| metrics.value("hopfall_attempt_duration_seconds_count", &[("pool", "images"), ("node", node)]);
    assert_eq!(timed("lean"), 1.0, "a 404 is an answer");
    assert_eq!(timed("gone"), 0.0, "where there is no answer there is no time");
    assert_eq!(metrics.value("hopfall_client_connections_max", &[("listener", "web")]), 10_000.0);
    assert_eq!(
        metrics.value("hopfall_sent_bytes_total", &[("listener", "web")]),
        hopfall.access_log()[0]["bytes"].as_f64().unwrap()
    );
}
