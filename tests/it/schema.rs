//! The JSON Schema of the config file, what editors make of it, and `docs/configuration.md`, which is made from it.
//!
//! `HOPFALL_UPDATE=1 cargo test --test it schema` writes both anew.

use std::collections::BTreeMap;
use std::fmt::Write;

use hopfall::config::{Config, Surroundings};
use regex::Regex;
use serde_json::Value;

use crate::support::documents::{anchor, path, read};
use crate::support::hopfall::{BINARY, command};
use crate::support::schema::mistakes;

/// Holds a file against what it should be, and writes it if that is asked for.
fn hold(name: &str, wanted: &str) {
    let is = std::fs::read_to_string(path(name)).unwrap_or_default();
    if is != wanted && std::env::var_os("HOPFALL_UPDATE").is_some() {
        std::fs::write(path(name), wanted).unwrap();
    }
    for (is, wanted) in is.lines().zip(wanted.lines()) {
        assert_eq!(is, wanted, "{name} is not what the config's types say; HOPFALL_UPDATE=1 writes it anew");
    }
    assert_eq!(is.len(), wanted.len(), "{name} is not what the config's types say; HOPFALL_UPDATE=1 writes it anew");
}

#[test]
fn the_schema_beside_the_examples_is_what_the_command_prints() {
    let printed = command(&["schema"]);
    assert_eq!(printed.code, Some(0), "{}", printed.stderr);
    hold("conf/hopfall.schema.json", &printed.stdout);
}

#[test]
fn editors_find_the_schema_and_nothing_wrong_with_the_examples() {
    for name in examples() {
        let text = read(&name);
        let schema = if name.starts_with("conf/") { "hopfall.schema.json" } else { "../conf/hopfall.schema.json" };
        assert!(text.starts_with(&format!("# yaml-language-server: $schema={schema}\n")), "{name}");
        assert_eq!(mistakes(&text), Ok(Vec::new()), "{name}");
    }
}

fn examples() -> Vec<String> {
    let mut examples = vec!["docker/hopfall.yaml".to_owned()];
    for entry in std::fs::read_dir(path("conf")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".yaml") {
            examples.push(format!("conf/{name}"));
        }
    }
    assert!(examples.len() >= 5);
    examples
}

/// What is wrong in shape, or in a value that stands by itself, an editor underlines. What is wrong with the whole only
/// `hopfall check` sees.
#[test]
fn editors_see_what_is_wrong_in_shape() {
    let shape = Regex::new("unknown key|lacks the key|, not a|is empty|does not fit here").unwrap();
    let mut seen = 0;
    for entry in std::fs::read_dir(path("tests/bad-configs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let case = read(&format!("tests/bad-configs/{name}"));
        let (yaml, message) = case.split_once("----------\n").unwrap();
        let Ok(mistakes) = mistakes(yaml) else { continue };
        if shape.is_match(message) {
            assert!(!mistakes.is_empty(), "{name}: the schema takes it");
            seen += 1;
        }
    }
    assert!(seen >= 10, "{seen}");
}

/// A pattern may let too much pass, never too little.
#[test]
fn editors_take_whatever_hopfall_takes() {
    const VALUES: &[(&str, &[&str])] = &[
        ("idle_timeout", &["250ms", "1h 30m", "1h30m", "90sec", "1500 msec", " 2 days ", "300us", "5µs"]),
        ("body_bytes", &["4096", "1.5 GiB", "32k", "10MB", "10 mb", "512B", "7Kib"]),
        ("max_connections", &["7", "1_000", "\"7\""]),
        ("trusted", &["[10.0.0.0/8]", "[\"fd00::/8\", \"::1\"]", "[\"::ffff:10.0.0.1\"]"]),
        ("protocol", &["http"]),
        ("http2", &["true"]),
    ];
    for (key, values) in VALUES {
        for value in *values {
            let config = format!(
                "listeners: [{{ name: web, address: \"0.0.0.0:80\", route: r, {key}: {value} }}]\n\
                 pools: {{ p: {{ nodes: [{{ name: a, address: \"[fd00::10]:80\" }}] }} }}\n\
                 routes: {{ r: {{ chain: [p] }} }}\n"
            );
            let surroundings = Surroundings { variable: &|_| None, read: &|_| Ok(String::new()) };
            if let Err(problems) = Config::parse("hopfall.yaml", &config, &surroundings) {
                panic!("{problems}");
            }
            assert_eq!(mistakes(&config), Ok(Vec::new()), "{key}: {value}");
        }
    }
}

#[test]
fn docs_configuration_md_is_made_of_the_types() {
    hold("docs/configuration.md", &Reference::new().document());
}

#[test]
fn a_file_is_laid_out_anew_with_its_comments_and_its_meaning() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hopfall.yaml");
    let name = file.to_str().unwrap();
    let untidy = "# top\nlisteners:\n    -   {name:   web,   address: '0.0.0.0:80',route: r}   # the web\n\n\n\nadmin:\n      address:   127.0.0.1:9090\n# end\n";
    let tidy = "# top\nlisteners:\n  - { name: web, address: \"0.0.0.0:80\", route: r } # the web\n\nadmin:\n  address: 127.0.0.1:9090\n# end\n";
    std::fs::write(&file, untidy).unwrap();
    let checked = command(&["fmt", "--check", name]);
    assert_eq!(
        (checked.code, std::fs::read_to_string(&file).unwrap().as_str()),
        (Some(1), untidy),
        "{}",
        checked.stderr
    );
    assert_eq!(command(&["fmt", name]).code, Some(0));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), tidy);
    assert_eq!(command(&["fmt", "--check", name]).code, Some(0));

    std::fs::write(&file, "a: [1\nsecret_key: hunter2\n").unwrap();
    let refused = command(&["fmt", name]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("hopfall.yaml:") && !refused.stderr.contains("hunter2"), "{}", refused.stderr);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "a: [1\nsecret_key: hunter2\n");
    assert_eq!(command(&["fmt", "/nowhere"]).code, Some(1));
}

/// Its folder's other files are nobody's to touch, and one that is mounted, as into a container, can only be written in place.
#[test]
fn a_file_is_laid_out_anew_where_it_cannot_be_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let [file, beside, mounted] = ["a.yaml", "a.yaml.new", "b.yaml"].map(|name| folder.path().join(name));
    let untidy = "a:   1\n";
    std::fs::write(&file, untidy).unwrap();
    std::fs::write(&beside, "mine").unwrap();
    assert_eq!(command(&["fmt", file.to_str().unwrap()]).code, Some(0));
    assert_eq!(std::fs::read_to_string(&beside).unwrap(), "mine");

    std::fs::write(&file, untidy).unwrap();
    std::fs::write(&mounted, "").unwrap();
    let mounting = r#"mount --bind "$1" "$2" && exec "$3" fmt "$2""#;
    let mut apart = std::process::Command::new("unshare");
    apart.args(["--mount", "sh", "-c", mounting, "sh"]).args([&file, &mounted]).arg(BINARY);
    assert!(apart.status().unwrap().success());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "a: 1\n");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "nothing is left behind");
}

#[test]
fn the_examples_are_laid_out_as_fmt_does_it() {
    for name in
        ["conf/full.yaml", "conf/minimal.yaml", "conf/tcp.yaml", "conf/two-nodes-s3.yaml", "docker/hopfall.yaml"]
    {
        let text = read(name);
        assert_eq!(hopfall::config::format(name, &text).unwrap(), text, "{name}");
    }
}

/// `docs/configuration.md` being written.
struct Reference {
    schema: Value,
    /// The keys of each type in the order of the source, which a schema does not keep.
    keys: BTreeMap<String, Vec<String>>,
    /// Keys that may be left out and do not say what that means.
    silent: Vec<String>,
}

impl Reference {
    fn new() -> Reference {
        let schema = serde_json::from_str(&hopfall::config::schema()).unwrap();
        let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut current = String::new();
        for line in read("src/config/model.rs").lines() {
            if let Some(name) = line.strip_prefix("pub struct ").and_then(|rest| rest.strip_suffix(" {")) {
                name.clone_into(&mut current);
            } else if let Some((key, _)) = line.strip_prefix("    pub ").and_then(|rest| rest.split_once(": ")) {
                keys.entry(current.clone()).or_default().push(key.to_owned());
            }
        }
        Reference { schema, keys, silent: Vec::new() }
    }

    fn document(mut self) -> String {
        let mut text = HEAD.to_owned();
        let root = self.schema.clone();
        self.section(&mut text, "", "File", &root);
        assert!(
            self.silent.is_empty(),
            "these may be left out and have no `Default …` in their docs: {:?}",
            self.silent
        );
        text
    }

    /// One mapping, and then those inside it.
    fn section(&mut self, text: &mut String, place: &str, kind: &str, schema: &Value) {
        let title = if place.is_empty() { "The file".to_owned() } else { format!("`{place}`") };
        let about = schema["description"].as_str().unwrap_or_default();
        write!(text, "\n## {title}\n\n{}\n\n| key | type | default | meaning |\n|---|---|---|---|\n", line(about))
            .unwrap();
        let properties = schema["properties"].as_object().unwrap_or_else(|| panic!("{kind} is no mapping"));
        let keys = self.keys.get(kind).unwrap_or_else(|| panic!("no `pub struct {kind}`")).clone();
        assert_eq!(keys.len(), properties.len(), "{kind}: {keys:?}");
        let mut inner = Vec::new();
        for key in keys {
            let property = &properties[&key];
            let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
            let kind = self.kind(property, &place, &mut inner);
            let required = schema["required"].as_array().is_some_and(|all| all.iter().any(|name| *name == *key));
            let (default, meaning) = default_and_meaning(&line(property["description"].as_str().unwrap()));
            if default.is_none() && !required {
                self.silent.push(place);
            }
            let default = if required { "**required**".to_owned() } else { default.unwrap_or_default() };
            let cell = |text: &str| text.replace('|', "\\|");
            writeln!(text, "| `{key}` | {} | {} | {} |", cell(&kind), cell(&default), cell(&meaning)).unwrap();
        }
        for (place, kind) in inner {
            let schema = self.schema["definitions"][&kind].clone();
            self.section(text, &place, &kind, &schema);
        }
    }

    /// A value's type in words, with a link where it has a section.
    fn kind(&self, property: &Value, place: &str, inner: &mut Vec<(String, String)>) -> String {
        if let Some(name) = property["$ref"].as_str() {
            let name = name.rsplit('/').next().unwrap();
            let schema = &self.schema["definitions"][name];
            if schema.get("properties").is_none() {
                return self.kind(schema, place, inner);
            }
            inner.push((place.to_owned(), name.to_owned()));
            return format!("[mapping](#{})", anchor(place));
        }
        if let Some(branches) = property["anyOf"].as_array() {
            let some = branches.iter().filter(|branch| branch["type"] != "null");
            return some.map(|branch| self.kind(branch, place, inner)).collect::<Vec<_>>().join(" or ");
        }
        if let Some(all) = property["allOf"].as_array() {
            return self.kind(&all[0], place, inner);
        }
        if property["items"].is_object() {
            return format!("list of {}", self.kind(&property["items"], &format!("{place}[]"), inner));
        }
        if property["additionalProperties"].is_object() {
            return format!(
                "by name: {}",
                self.kind(&property["additionalProperties"], &format!("{place}.NAME"), inner)
            );
        }
        if let Some(words) = property["enum"].as_array() {
            return words
                .iter()
                .filter_map(Value::as_str)
                .map(|word| format!("`{word}`"))
                .collect::<Vec<_>>()
                .join(", ");
        }
        if let Some(title) = property["title"].as_str() {
            return title.to_owned();
        }
        let types = property["type"].as_array().cloned().unwrap_or_else(|| vec![property["type"].clone()]);
        match types[0].as_str() {
            Some("boolean") => "`true`, `false`".to_owned(),
            Some("string") => "text".to_owned(),
            other => panic!("{place}: no word for {other:?}"),
        }
    }
}

fn line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// Takes `Default 10s.` out of a meaning. Where the sentence goes on, it stays as it is.
fn default_and_meaning(text: &str) -> (Option<String>, String) {
    let sentence = Regex::new(r" ?\bDefault:? (.+?)(\.$|\. |; |: |, at most )").unwrap();
    let Some(found) = sentence.captures(text) else { return (None, text.to_owned()) };
    let meaning = match &found[2] {
        "." => text.replace(&found[0], ""),
        ". " => text.replace(&found[0], " "),
        _ => text.to_owned(),
    };
    (Some(found[1].to_owned()), meaning)
}

#[test]
fn defaults_are_taken_out_of_a_meaning() {
    const CASES: &[(&str, Option<&str>, &str)] = &[
        ("A wait. Default 10s.", Some("10s"), "A wait."),
        ("A wait. Default 10s, at most 60s.", Some("10s"), "A wait. Default 10s, at most 60s."),
        ("A wait. Default 0s: at once.", Some("0s"), "A wait. Default 0s: at once."),
        ("A. Default: none. B.", Some("none"), "A. B."),
        ("Where. Default `https://s3.REGION.amazonaws.com`.", Some("`https://s3.REGION.amazonaws.com`"), "Where."),
        ("Where; by default nowhere.", None, "Where; by default nowhere."),
    ];
    for (text, default, meaning) in CASES {
        assert_eq!(default_and_meaning(text), (default.map(str::to_owned), (*meaning).to_owned()), "{text}");
    }
}

const HEAD: &str = "# Configuration

Every key of the config file, with one section per mapping. [`conf/full.yaml`](../conf/full.yaml) has them all in one file.
`hopfall check FILE` prints what is wrong with a config, and how to fix it.

- **time**: a number and its unit, such as `250ms`, `10s`, `5m`, `1h`.
- **size**: bytes, such as `4096`, `32KiB`, `1GiB`.
- **network**: addresses in CIDR form, such as `10.0.0.0/8` or `fd00::/8`, or one address.
- **secret**: not the secret itself but a reference to it: `${VARIABLE}`, or `file:PATH`.
- **status**: an HTTP status, 400 to 599. **dollars**: such as `0.0004` or `25`. **host:port**: such as `10.0.0.1:80`.
- `NAME` stands for a name of your choice, `[]` for each entry of a list.

Editors with the YAML language server complete and check keys with the JSON Schema
[`conf/hopfall.schema.json`](../conf/hopfall.schema.json): put it beside the config, and begin the config with
`# yaml-language-server: $schema=hopfall.schema.json`. `fmt` formats a file and keeps its comments.

```
hopfall schema > hopfall.schema.json
hopfall fmt hopfall.yaml
hopfall check hopfall.yaml
```

This page is made from the types in `src/config/model.rs` (`HOPFALL_UPDATE=1 cargo test --test it schema`).
";
