//! What the documents show is tried: configs, commands, queries, links.
//!
//! A block that begins with ```` ```yaml ```` is a whole config. ```` ```yaml fragment ```` is a part of one: it is laid over
//! `conf/two-nodes-s3.yaml`, and the result must be good. ```` ```yaml prometheus ```` is a config of Prometheus.
//! ```` ```promql ```` has one query a line.

use std::collections::BTreeSet;

use clap::Parser;
use hopfall::cli::Cli;
use hopfall::config::{Config, Surroundings};
use hopfall::metrics::Metrics;
use serde_json::{Map, Value, json};

use crate::dashboards;
use crate::support::documents::{Block, all, anchors, blocks, links, path, read};
use crate::support::prometheus::promtool;
use crate::support::schema::mistakes;

fn every_block() -> Vec<Block> {
    all().iter().flat_map(|name| blocks(name)).collect()
}

#[track_caller]
fn check(place: &str, text: &str) {
    let surroundings = Surroundings {
        // `${NAME}` and `credentials: env` find something, whatever the reader's are called.
        variable: &|_| Some("something-long-enough".to_owned()),
        read: &|_| Ok("something-long-enough".to_owned()),
    };
    Config::parse(place, text, &surroundings).unwrap_or_else(|problems| panic!("{problems}\n\n{text}"));
    assert_eq!(mistakes(text), Ok(Vec::new()), "{place}: an editor would find fault with it");
}

#[test]
fn every_config_in_the_documents_is_a_good_one() {
    let (mut whole, mut fragments) = (0, 0);
    for Block { info, text, place } in every_block() {
        match info.as_str() {
            "yaml" => {
                check(&place, &text);
                whole += 1;
            }
            // A build without OpenTelemetry refuses it.
            "yaml fragment" if text.starts_with("tracing:") && !cfg!(feature = "otel") => {}
            "yaml fragment" => {
                let mut config: Value = serde_saphyr::from_str(&read("conf/two-nodes-s3.yaml")).unwrap();
                let fragment = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{place}: {error}"));
                lay_over(&mut config, fragment);
                check(&place, &config.to_string());
                fragments += 1;
            }
            "yaml prometheus" => {
                let folder = tempfile::tempdir().unwrap();
                let file = folder.path().join("prometheus.yaml");
                std::fs::write(&file, text).unwrap();
                let ran = promtool(&["check", "config", "--syntax-only", file.to_str().unwrap()]);
                assert_eq!(ran.code, Some(0), "{place}: {}{}", ran.stdout, ran.stderr);
            }
            other => assert!(!other.starts_with("yaml"), "{place}: what is `{other}`?"),
        }
    }
    assert!(whole >= 4 && fragments >= 3, "{whole} configs and {fragments} fragments");
}

/// Mappings are merged, entries of lists by their `name`; all else is replaced.
fn lay_over(config: &mut Value, fragment: Value) {
    match (config, fragment) {
        (Value::Object(config), Value::Object(fragment)) => {
            for (key, value) in fragment {
                lay_over(config.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(config), Value::Array(fragment)) if fragment.iter().all(|entry| entry["name"].is_string()) => {
            for entry in fragment {
                match config.iter_mut().find(|known| known["name"] == entry["name"]) {
                    Some(known) => lay_over(known, entry),
                    None => config.push(entry),
                }
            }
        }
        (config, fragment) => *config = fragment,
    }
}

#[test]
fn a_fragment_is_laid_over_a_config() {
    let mut config = json!({ "list": [{ "name": "a", "x": 1 }], "map": { "y": 1, "z": [1] } });
    lay_over(&mut config, json!({ "list": [{ "name": "a", "w": 2 }, { "name": "b" }], "map": { "z": [2] } }));
    assert_eq!(
        config,
        json!({ "list": [{ "name": "a", "x": 1, "w": 2 }, { "name": "b" }], "map": { "y": 1, "z": [2] } })
    );
    lay_over(&mut config, Value::Object(Map::new()));
}

#[test]
fn every_command_in_the_documents_is_one() {
    let mut commands = BTreeSet::new();
    for Block { info, text, place } in every_block() {
        if !matches!(info.as_str(), "" | "sh") {
            continue;
        }
        for line in text.replace("\\\n", " ").lines() {
            let line = line.trim_start_matches("$ ");
            if !line.starts_with("hopfall ") {
                continue;
            }
            let end = [" #", " |", " >", " 2>", " &", ";"].iter().filter_map(|stop| line.find(stop)).min();
            let words = line[..end.unwrap_or(line.len())].split_whitespace().map(|word| word.trim_matches(['"', '\'']));
            if let Err(error) = Cli::try_parse_from(words.clone()) {
                assert!(!error.use_stderr(), "{place}: {line}\n{error}");
            }
            commands.extend(words.clone().nth(1).map(str::to_owned));
        }
    }
    for command in ["run", "check", "purge", "node", "reload", "healthcheck", "import", "fmt", "schema"] {
        assert!(commands.contains(command), "no document shows `hopfall {command}`");
    }
}

#[test]
fn every_query_in_the_documents_is_one() {
    let metrics = Metrics::new().unwrap().descriptions().to_vec();
    let mut rules = String::from("groups:\n  - name: documents\n    rules:\n");
    let mut count = 0;
    for Block { info, text, place } in every_block() {
        if info != "promql" {
            continue;
        }
        for query in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            dashboards::check(&metrics, query).unwrap_or_else(|why| panic!("{place}: {why} in {query}"));
            rules.push_str(&format!("      - {{ record: \"documents:{count}\", expr: {} }}\n", json!(query)));
            count += 1;
        }
    }
    assert!(count >= 15, "{count}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yaml");
    std::fs::write(&file, rules).unwrap();
    let ran = promtool(&["check", "rules", file.to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
}

#[test]
fn every_link_in_the_documents_leads_somewhere() {
    let mut dead = Vec::new();
    for name in all() {
        for (file, anchor) in links(&name) {
            if !path(&file).exists() {
                dead.push(format!("{name}: {file}"));
            } else if !anchor.is_empty() && !anchors(&file).contains(&anchor) {
                dead.push(format!("{name}: {file}#{anchor}"));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}
