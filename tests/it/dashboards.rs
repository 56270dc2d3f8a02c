//! The Grafana dashboard and the alert rules in `docker/`, against a real Prometheus that scrapes a real hopfall.

use std::collections::BTreeSet;

use hopfall::metrics::{Description, Metrics};
use regex::Regex;
use serde_json::Value;

use crate::support::composition::{Composition, docker, read};
use crate::support::prometheus::{check_metrics, promtool};
use crate::support::wait::{PATIENCE, becomes, wait_until};

/// What a quiet, well composition has no series of; everything else in the dashboard must show something.
const SILENT: &[&str] = &[
    "hopfall_tcp_",
    "hopfall_throttled_",
    "hopfall_certificate_",
    "hopfall_misshapen_",
    "hopfall_aborted_",
    "hopfall_hedges_",
    "hopfall_health_changes_",
    "hopfall_loops_total",
    "result=\"failed\"",
    "outcome!~\"found|absent|dropped\"",
];

struct Query {
    panel: String,
    expression: String,
}

fn dashboard() -> Value {
    serde_json::from_str(&read("grafana/hopfall.json")).unwrap()
}

fn queries(dashboard: &Value) -> Vec<Query> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| {
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.into_iter().map(|target| (panel["title"].to_string(), target))
    });
    let annotations = dashboard["annotations"]["list"].as_array().unwrap().iter();
    let annotations = annotations.map(|annotation| ("annotation".to_owned(), annotation.clone()));
    let all = targets.chain(annotations);
    all.map(|(panel, query)| Query { panel, expression: query["expr"].as_str().unwrap().to_owned() }).collect()
}

struct Alert {
    name: String,
    rule: Value,
}

fn alerts() -> Vec<Alert> {
    let rules: Value = serde_saphyr::from_str(&read("prometheus/alerts.yaml")).unwrap();
    let groups = rules["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap().clone());
    rules.map(|rule| Alert { name: rule["alert"].as_str().unwrap().to_owned(), rule }).collect()
}

impl Alert {
    fn expression(&self) -> &str {
        self.rule["expr"].as_str().unwrap()
    }
}

/// What Grafana would put in place of its variables.
fn filled(expression: &str) -> String {
    let filled = expression.replace("$__rate_interval", "20s").replace("$__range", "20s");
    filled.replace("$instance", ".*").replace("$pool", ".*")
}

#[test]
fn promtool_accepts_the_rules_and_they_pass_their_own_tests() {
    let path = |name: &str| docker(name).display().to_string();
    for arguments in [
        ["check", "config", &path("prometheus/prometheus.yaml")],
        ["check", "rules", &path("prometheus/alerts.yaml")],
        ["test", "rules", &path("prometheus/alerts.test.yaml")],
    ] {
        let ran = promtool(&arguments);
        assert_eq!(ran.code, Some(0), "promtool {arguments:?}\n{}{}", ran.stdout, ran.stderr);
    }
}

/// The rules' tests would notice a rule that takes a miss for a failure.
#[test]
fn a_rule_that_counts_a_404_hop_fails_the_rules_tests() {
    let folder = tempfile::tempdir().unwrap();
    let tests = folder.path().join("alerts.test.yaml");
    std::fs::write(&tests, read("prometheus/alerts.test.yaml")).unwrap();
    for (right, wrong) in [("error|down|broken", "error|down|broken|absent"), ("code=~\"5..\"", "code=~\"[45]..\"")] {
        let rules = read("prometheus/alerts.yaml");
        assert!(rules.contains(right));
        std::fs::write(folder.path().join("alerts.yaml"), rules.replace(right, wrong)).unwrap();
        let ran = promtool(&["test", "rules", tests.to_str().unwrap()]);
        assert_eq!(ran.code, Some(1), "{wrong}: {}{}", ran.stdout, ran.stderr);
        // It is the test that wants no alert at all.
        assert!(format!("{}{}", ran.stdout, ran.stderr).contains("exp: nil"), "{}{}", ran.stdout, ran.stderr);
    }
}

#[test]
fn each_alert_says_what_to_do_and_has_a_test_in_which_it_fires() {
    let tests = read("prometheus/alerts.test.yaml");
    let alerts = alerts();
    assert!(alerts.len() >= 20);
    for Alert { name, rule } in &alerts {
        let severity = rule["labels"]["severity"].as_str().unwrap_or_default();
        assert!(["critical", "warning"].contains(&severity), "{name}: severity `{severity}`");
        for annotation in ["summary", "description", "runbook"] {
            let text = rule["annotations"][annotation].as_str().unwrap_or_default();
            assert!(text.len() > 20, "{name} has no {annotation}");
        }
        let fires = format!("ALERTS{{alertname=\"{name}\", alertstate=\"firing\", severity=\"{severity}\"");
        assert!(tests.contains(&fires), "no test in which {name} fires");
    }
}

#[test]
fn queries_name_only_metrics_and_labels_that_are_registered() {
    let mut metrics = Metrics::new().unwrap().descriptions().to_vec();
    if !cfg!(feature = "otel") {
        // The alert is for builds that have it.
        let (name, help) = ("hopfall_spans_dropped_total".to_owned(), String::new());
        metrics.push(Description { name, kind: hopfall::metrics::Kind::Counter, labels: Vec::new(), help });
    }
    let dashboard = dashboard();
    let alerts = alerts();
    let mut named = BTreeSet::new();
    let queries = queries(&dashboard);
    let expressions = queries.iter().map(|query| (query.panel.as_str(), query.expression.as_str()));
    for (origin, expression) in expressions.chain(alerts.iter().map(|alert| (alert.name.as_str(), alert.expression())))
    {
        named.extend(check(&metrics, expression).unwrap_or_else(|why| panic!("{origin}: {why} in {expression}")));
    }
    let shown = |metric: &&Description| !named.contains(&metric.name);
    let unseen: Vec<&str> = metrics.iter().filter(shown).map(|metric| metric.name.as_str()).collect();
    assert!(unseen.is_empty(), "neither the dashboard nor an alert shows {unseen:?}");

    for wrong in [
        "rate(hopfall_request_total[5m])",
        "hopfall_node_up{name=\"a\"}",
        "sum by (host) (hopfall_node_up)",
        "hopfall_node_up_bucket",
    ] {
        assert!(check(&metrics, wrong).is_err(), "{wrong}");
    }
}

/// The metrics that an expression names; or which metric, or label, is not there.
pub fn check(metrics: &[Description], expression: &str) -> Result<BTreeSet<String>, String> {
    let selector = Regex::new(r"\b((?:hopfall|process)_[a-z0-9_]+)(?:\{([^}]*)\})?").unwrap();
    let matcher = Regex::new(r#"([a-z_]+)\s*(?:=~|!~|!=|=)\s*""#).unwrap();
    let grouping = Regex::new(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)").unwrap();
    // Prometheus's own, of every target.
    let mut labels = BTreeSet::from(["instance", "job"]);
    let mut named = BTreeSet::new();
    for found in selector.captures_iter(expression) {
        let series = &found[1];
        let metric = metrics.iter().find(|metric| {
            let parts = ["_bucket", "_sum", "_count"].map(|part| format!("{}{part}", metric.name));
            if metric.kind.as_str() == "histogram" { parts.contains(&series.to_owned()) } else { metric.name == series }
        });
        let metric = metric.ok_or_else(|| format!("there is no `{series}`"))?;
        named.insert(metric.name.clone());
        let own: Vec<&str> = metric.labels.iter().map(String::as_str).chain(["instance", "job"]).collect();
        labels.extend(own.iter().copied());
        if series.ends_with("_bucket") {
            labels.insert("le");
        }
        for label in matcher.captures_iter(found.get(2).map_or("", |inside| inside.as_str())) {
            let known = own.contains(&&label[1]) || (&label[1] == "le" && series.ends_with("_bucket"));
            if !known {
                return Err(format!("`{series}` has no label `{}`", &label[1]));
            }
        }
    }
    for group in grouping.captures_iter(expression) {
        for label in group[1].split(',').map(str::trim) {
            if !labels.contains(label) {
                return Err(format!("none of the metrics has the label `{label}`"));
            }
        }
    }
    Ok(named)
}

#[test]
fn the_dashboard_is_one_that_grafana_lays_out() {
    let dashboard = dashboard();
    assert_eq!(dashboard["uid"], "hopfall");
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<&str> = variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
    assert_eq!(names, ["datasource", "instance", "pool"]);

    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
    let mut cells = BTreeSet::new();
    for panel in panels {
        let (title, place) = (panel["title"].as_str().unwrap(), &panel["gridPos"]);
        let at = |name: &str| place[name].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{title} is wider than the page");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(cells.insert((x, y)), "{title} lies on another panel");
            }
        }
        if panel["type"] != "row" {
            assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{title} explains nothing");
            let targets = panel["targets"].as_array().unwrap();
            let letters: BTreeSet<&str> = targets.iter().filter_map(|target| target["refId"].as_str()).collect();
            assert!(!targets.is_empty() && letters.len() == targets.len(), "{title}: refId");
        }
        let sources = std::iter::once(panel).chain(panel["targets"].as_array().into_iter().flatten());
        for source in sources.filter(|part| part["type"] != "row") {
            assert_eq!(source["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
    for query in queries(&dashboard) {
        let expression = &query.expression;
        assert!(expression.contains("instance=~\"$instance\""), "{}: {expression} is of all instances", query.panel);
    }
}

#[test]
fn the_dashboard_shows_a_running_composition_and_404_hops_raise_no_alert() {
    let composition = Composition::start();
    let hopfall = &composition.hopfall;
    let mut unicorns = 0;
    let mut traffic = || {
        unicorns += 1;
        // Of both nodes, of one, of the bucket; of nobody, once and again.
        let unicorn = format!("/unicorn-{unicorns}.svg");
        for (path, status) in
            [("/cat.svg", 200), ("/dog.svg", 200), ("/owl.svg", 200), (unicorn.as_str(), 404), (unicorn.as_str(), 404)]
        {
            assert_eq!(hopfall.get(path).status, status, "{path}");
        }
    };
    traffic();
    assert_eq!(check_metrics(hopfall.metrics().text()), "", "promtool has nothing to say of the scrape");

    let prometheus = composition.prometheus();
    let mut scrapes = 0;
    wait_until("some scrapes, with traffic between them", PATIENCE, || {
        let counted = prometheus.query("count_over_time(up{job=\"hopfall\"}[1m])").unwrap();
        let count = counted.first().map_or(0, |series| series["value"][1].as_str().unwrap().parse().unwrap());
        if count > scrapes {
            traffic();
        }
        scrapes = count;
        scrapes >= 4
    });
    for query in queries(&dashboard()) {
        let (panel, expression) = (&query.panel, filled(&query.expression));
        let shows =
            || !prometheus.query(&expression).unwrap_or_else(|why| panic!("{panel}: {why}: {expression}")).is_empty();
        if query.panel == "annotation" || SILENT.iter().any(|silent| expression.contains(silent)) {
            shows();
        } else {
            assert!(becomes(PATIENCE, shows), "{panel} shows nothing: {expression}");
        }
    }

    assert!(hopfall.metrics().sum("hopfall_attempts_total", &[("outcome", "absent")]) >= 6.0);
    for alert in alerts() {
        let raised = prometheus.query(alert.expression()).unwrap_or_else(|why| panic!("{}: {why}", alert.name));
        assert!(raised.is_empty(), "{} is raised: {raised:?}", alert.name);
    }
    assert!(prometheus.query("ALERTS").unwrap().is_empty());
}
