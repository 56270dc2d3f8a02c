//! Configs, good and bad. Each bad one is a file: the YAML, a line of dashes, the exact message.
//!
//! `HOPFALL_UPDATE=1 cargo test config` writes the messages anew; read them before you commit them.

use std::io::ErrorKind;
use std::path::Path;

use hopfall::config::{Config, Problems, Surroundings};

fn parse(name: &str, text: &str) -> Result<Config, Problems> {
    let variable = |name: &str| match name {
        "AK" | "S3_ACCESS_KEY" => Some("an-access-key".to_owned()),
        "HOPFALL_MARK_KEY" | "S3_SECRET_KEY" | "HMAC_KEY" => Some("value-of-a-secret".to_owned()),
        _ => None,
    };
    Config::parse(name, text, &Surroundings { variable: &variable, read: &|_| Err(ErrorKind::NotFound.into()) })
}

fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == ending))
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn bad_configs_are_refused_with_every_mistake_and_its_fix() {
    let cases = files("tests/bad-configs", "txt");
    assert!(cases.len() >= 20);
    let mut wrong = Vec::new();
    for (name, case) in cases {
        if name == "tracing.txt" && !cfg!(feature = "otel") {
            continue;
        }
        let (yaml, expected) = case.split_once("----------\n").expect("a line of dashes");
        let Err(problems) = parse("hopfall.yaml", yaml) else { panic!("{name} was accepted") };
        let message = format!("{problems}\n");
        for secret in ["hunter2", "sesame", "AKIAEXAMPLE", "value-of-a-secret"] {
            assert!(!message.contains(secret), "{name} tells a secret:\n{message}");
        }
        if message != expected {
            if std::env::var_os("HOPFALL_UPDATE").is_some() {
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad-configs").join(&name);
                std::fs::write(path, format!("{yaml}----------\n{message}")).unwrap();
            }
            wrong.push(format!("--- {name}\n{message}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_examples_are_good_configs() {
    let examples = files("conf", "yaml");
    assert!(examples.len() >= 4);
    for (name, text) in examples {
        // An example that takes its keys from the environment gets them by name here.
        let text = text.replace("credentials: env", "credentials: { access_key: \"${AK}\", secret_key: \"${AK}\" }");
        parse(&name, &text).unwrap_or_else(|problems| panic!("{problems}"));
    }
}

#[test]
fn full_yaml_states_the_true_defaults() {
    let (_, full) = files("conf", "yaml").into_iter().find(|(name, _)| name == "full.yaml").unwrap();
    let bare = r#"
identity: { name: hopfall-1, mark_key: "${HOPFALL_MARK_KEY}" }
admin: { address: "127.0.0.1:9090" }
location: {}
acme: { folder: /var/lib/hopfall/acme, terms_of_service_agreed: true }
listeners:
  - { name: web, address: "0.0.0.0:8080", route: images }
  - name: web-tls
    address: "0.0.0.0:8443"
    protocol: https
    route: images
    tls: { certificate: /etc/hopfall/cert.pem, key: /etc/hopfall/key.pem }
  - { name: raw, address: "0.0.0.0:8081", protocol: tcp, pool: images }
pools:
  images:
    health: { host: images.example.com }
    hedge: {}
    nodes:
      - { name: chitoge, address: "192.168.1.10:80" }
      - { name: taiga, address: "192.168.1.11:80" }
stores:
  s3:
    kind: s3
    bucket: awwni-cdn
    credentials: { access_key: "${S3_ACCESS_KEY}", secret_key: "${S3_SECRET_KEY}" }
    disk: { path: /var/cache/hopfall/s3, bytes: 10GiB }
routes:
  images: { chain: [images, s3] }
"#;
    let full = format!("{:#?}", parse("full.yaml", &full).unwrap());
    let bare = format!("{:#?}", parse("bare", bare).unwrap());
    assert_eq!(full, bare);
}

/// Every key of the schema stands in `full.yaml`, at least in a comment.
#[test]
fn full_yaml_names_every_key() {
    let (_, full) = files("conf", "yaml").into_iter().find(|(name, _)| name == "full.yaml").unwrap();
    let schema = serde_json::to_value(schemars::schema_for!(hopfall::config::model::File)).unwrap();
    let mut keys = Vec::new();
    collect(&schema, &mut keys);
    assert!(keys.len() > 60, "{keys:?}");
    let missing: Vec<_> =
        keys.iter().filter(|key| !full.contains(&format!("{key}:")) && !full.contains(key.as_str())).collect();
    assert!(missing.is_empty(), "not in full.yaml: {missing:?}");
}

fn collect(schema: &serde_json::Value, keys: &mut Vec<String>) {
    match schema {
        serde_json::Value::Object(map) => {
            if let Some(serde_json::Value::Object(properties)) = map.get("properties") {
                for (key, property) in properties {
                    let described = property.get("description").is_some() || property.get("$ref").is_some();
                    assert!(described, "`{key}` has no docstring");
                    keys.push(key.clone());
                }
            }
            map.values().for_each(|value| collect(value, keys));
        }
        serde_json::Value::Array(list) => list.iter().for_each(|value| collect(value, keys)),
        _ => {}
    }
}

#[test]
fn a_secret_is_never_printed() {
    let (_, full) = files("conf", "yaml").into_iter().find(|(name, _)| name == "full.yaml").unwrap();
    let config = parse("full.yaml", &full).unwrap();
    assert!(!format!("{config:?}").contains("value-of-a-secret"));
}
