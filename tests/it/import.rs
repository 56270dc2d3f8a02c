//! `hopfall import nodebalancer`. Each case is `tests/nodebalancer/NAME.json`, or a folder NAME of such files, with the
//! exact NAME.yaml and NAME.report beside it; one without YAML has nothing that hopfall can serve.
//!
//! `HOPFALL_UPDATE=1 cargo test --test it import` writes both anew; read them before you commit them.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use hopfall::config::{Config, Surroundings};
use hopfall::import::{self, Import, Refusal, Source, TlsFiles};

use crate::support::certificate::Certificate;
use crate::support::hopfall as binary;

/// What no output may ever show.
const SECRETS: &[&str] = &["PRIVATE KEY", "value-of-a-secret", "REDACTED"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nodebalancer")
}

/// The file, or the `.json` files of the folder, by names that are the same on every machine.
fn sources(path: &Path) -> Vec<Source> {
    let mut paths = vec![path.to_owned()];
    if path.is_dir() {
        paths = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
    }
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    paths.iter().map(|path| Source { name: name(path), text: std::fs::read_to_string(path).unwrap() }).collect()
}

fn import_text(text: &str) -> Result<Import, Refusal> {
    import::nodebalancer(&[Source { name: "nb.json".into(), text: text.into() }], None)
}

fn check(name: &str, yaml: &str) {
    let nothing = Surroundings { variable: &|_| None, read: &|_| Err(ErrorKind::NotFound.into()) };
    Config::parse(name, yaml, &nothing).unwrap_or_else(|problems| panic!("{problems}"));
}

#[test]
fn a_nodebalancer_is_imported_and_every_difference_is_told() {
    let mut cases: Vec<PathBuf> = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.retain(|path| path.is_dir() || path.extension().is_some_and(|ending| ending == "json"));
    cases.sort();
    assert!(cases.len() >= 12);
    let mut wrong = Vec::new();
    for case in cases {
        let name = case.file_stem().unwrap().to_str().unwrap();
        let Import { yaml, report } = import::nodebalancer(&sources(&case), None).unwrap();
        let yaml = yaml.unwrap_or_default();
        for secret in SECRETS {
            assert!(!yaml.contains(secret) && !report.contains(secret), "{name} tells a secret");
        }
        if !yaml.is_empty() {
            check(name, &yaml);
        }
        for (ending, text) in [("yaml", &yaml), ("report", &report)] {
            let path = folder().join(format!("{name}.{ending}"));
            if std::fs::read_to_string(&path).unwrap_or_default() == *text {
                continue;
            }
            if std::env::var_os("HOPFALL_UPDATE").is_some() {
                std::fs::write(&path, text).unwrap();
            }
            wrong.push(format!("--- {name}.{ending}\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_no_nodebalancer_is_refused_with_its_place() {
    const CASES: &[(&str, &str)] = &[
        ("", "nb.json: the file is empty"),
        ("{\"id\": 1", "nb.json: not JSON: EOF while parsing an object at line 1 column 8"),
        ("[{\"ssl_key\": \"value-of-a-secret\"}]", "nb.json, item 1: an object that is none of the three shapes"),
        ("[{\"id\": 1, \"label\": \"a\", \"address\": \"10.0.0.1:80\"}]", "nb.json, item 1: an object that is none of"),
        ("[] 7", "nb.json, document 2: a number that is none of the three shapes"),
        ("{\"data\": [\"value-of-a-secret\"]}", "nb.json, item 1: a string that is none of the three shapes"),
        ("{\"errors\": [{\"reason\": \"Invalid Token\"}]}", "nb.json: an error from the API"),
        ("[]", "the input has no config of a NodeBalancer"),
        (
            "{\"id\": 1, \"port\": \"value-of-a-secret\", \"protocol\": \"http\"}",
            "nb.json: `port`: is not a whole number",
        ),
        ("{\"id\": 1, \"port\": 0, \"protocol\": \"http\"}", "nb.json: `port`: is not from 1 to 65535"),
        ("{\"id\": null, \"port\": 80, \"protocol\": \"http\"}", "nb.json: `id`: is missing"),
        ("{\"id\": 1, \"config_id\": 2, \"address\": \"10.0.0.1\"}", "nb.json: `address`: write host:port"),
        (
            "[{\"id\": 1, \"port\": 80, \"protocol\": \"http\"}, {\"id\": 1, \"port\": 81, \"protocol\": \"http\"}]",
            "nb.json, item 2: config 1 is in the input twice, and differs",
        ),
        (
            "[{\"id\": 1, \"port\": 80, \"protocol\": \"http\", \"nodebalancer_id\": 5}, {\"id\": 2, \"port\": 81, \"protocol\": \"http\", \"nodebalancer_id\": 6}]",
            "the input has configs of several NodeBalancers (5, 6)",
        ),
        (
            "{\"data\": [{\"id\": 1, \"config_id\": 2, \"address\": \"10.0.0.1:80\"}], \"page\": 1, \"pages\": 2}",
            "nb.json: page 2 of the nodes of config 2 is missing, of 2",
        ),
    ];
    for (text, expected) in CASES {
        let refusal = import_text(text).unwrap_err().to_string();
        assert!(refusal.starts_with(expected), "{text}: {refusal}");
        assert!(!refusal.contains("value-of-a-secret"), "{refusal}");
    }
}

#[test]
fn a_certificate_is_held_against_the_fingerprint() {
    let certificate = Certificate::for_names(&["cats.example.com"]);
    let pem = std::fs::read_to_string(certificate.cert_path()).unwrap();
    let path = certificate.cert_path();
    let fingerprint = |hash: &str| {
        let mut openssl = std::process::Command::new("openssl");
        let ran = openssl.args(["x509", "-noout", "-fingerprint", hash, "-in"]).arg(&path).output().unwrap();
        String::from_utf8(ran.stdout).unwrap().trim().split_once('=').unwrap().1.to_owned()
    };
    let tls = TlsFiles { certificate: "own.pem".into(), key: "own.key".into(), pem };
    let cases = [
        (fingerprint("-sha1"), "own.pem has the NodeBalancer's certificate"),
        (fingerprint("-sha256").to_lowercase(), "own.pem has the NodeBalancer's certificate"),
        (format!("00{}", &fingerprint("-sha1")[2..]), "own.pem is not the NodeBalancer's certificate"),
        (String::new(), "own.pem is the right certificate: it was not compared"),
    ];
    for (fingerprint, told) in cases {
        let text = format!(
            r#"{{"id": 1, "port": 443, "protocol": "https", "ssl_fingerprint": "{fingerprint}"}}
               {{"id": 2, "config_id": 1, "address": "10.0.0.1:80"}}"#
        );
        let source = Source { name: "nb.json".into(), text };
        let Import { yaml, report } = import::nodebalancer(&[source], Some(&tls)).unwrap();
        assert!(report.contains(told), "{report}");
        let yaml = yaml.unwrap();
        assert!(yaml.contains("certificate: \"own.pem\"\n      key: \"own.key\""), "{yaml}");
        check("own", &yaml);
    }
}

#[test]
fn the_binary_imports_checks_and_never_overwrites() {
    let fixture = |name: &str| folder().join(name).to_str().unwrap().to_owned();
    let text = |name: &str| std::fs::read_to_string(folder().join(name)).unwrap();
    let ran = binary::command(&["import", "nodebalancer", &fixture("http.json")]);
    assert_eq!((ran.code, ran.stdout, ran.stderr), (Some(0), text("http.yaml"), text("http.report")));

    let here = tempfile::tempdir().unwrap();
    let out = here.path().join("hopfall.yaml").to_str().unwrap().to_owned();
    let ran = binary::command(&["import", "nodebalancer", &fixture("pages"), "--out", &out]);
    assert_eq!((ran.code, ran.stdout, ran.stderr), (Some(0), String::new(), text("pages.report")));
    assert_eq!(std::fs::read_to_string(&out).unwrap(), text("pages.yaml"));
    assert_eq!(binary::command(&["check", &out]).code, Some(0));

    let again = binary::command(&["import", "nodebalancer", &fixture("http.json"), "--out", &out]);
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("exists already and is not overwritten"), "{}", again.stderr);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), text("pages.yaml"));

    let empty = here.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let cases: [(&[&str], i32, &str); 6] = [
        (&["/nowhere.json"], 1, "/nowhere.json: cannot be read"),
        (&[empty.to_str().unwrap()], 2, "no file in it ends in .json"),
        (&[&fixture("http.yaml")], 2, "http.yaml: not JSON"),
        (&[&fixture("only-udp.json")], 2, "hopfall does not support UDP"),
        (&[&fixture("http.json"), "--tls-key", "key.pem"], 2, "--tls-certificate"),
        (&[&fixture("http.json"), "--tls-certificate", "/nowhere.pem", "--tls-key", "k"], 1, "/nowhere.pem: cannot be"),
    ];
    for (arguments, code, told) in cases {
        let ran = binary::command(&[&["import", "nodebalancer"], arguments].concat());
        assert_eq!(ran.code, Some(code), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(told), "{arguments:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{arguments:?}");
    }
}

#[test]
fn one_certificate_of_several_goes_to_its_own_listener() {
    let certificate = Certificate::for_names(&["cats.example.com"]);
    let pem = std::fs::read_to_string(certificate.cert_path()).unwrap();
    let tls = TlsFiles { certificate: "own.pem".into(), key: "own.key".into(), pem };
    let zeros = "00:".repeat(19) + "00";
    let ones = "11:".repeat(19) + "11";
    let text = format!(
        r#"[{{"id": 1, "port": 443, "protocol": "https", "ssl_fingerprint": "{zeros}"}},
            {{"id": 2, "port": 8443, "protocol": "https", "ssl_fingerprint": "{ones}"}}]
           [{{"id": 3, "config_id": 1, "address": "10.0.0.1:80"}}, {{"id": 4, "config_id": 2, "address": "10.0.0.1:80"}}]"#
    );
    let source = Source { name: "nb.json".into(), text };
    let Import { yaml, report } = import::nodebalancer(&[source], Some(&tls)).unwrap();
    assert!(!yaml.unwrap().contains("own.pem"), "it is neither's");
    assert!(report.contains("https-8443: own.pem has another certificate"), "{report}");

    let none = TlsFiles { pem: "no PEM".into(), ..tls };
    let refusal = import::nodebalancer(&sources(&folder().join("http.json")), Some(&none)).unwrap_err().to_string();
    assert!(refusal.starts_with("own.pem: there is no certificate in it"), "{refusal}");
}

/// The table of `docs/nodebalancer.md` claims nothing for hopfall that no test proves.
#[test]
fn each_feature_of_the_table_names_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/nodebalancer.md")).unwrap();
    let tests: String = std::fs::read_dir(root.join("tests/it"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    let (_, table) = text.split_once("| feature | hopfall | its test |").unwrap();
    let mut rows = 0;
    for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let (hopfall, named) = (cells[2], cells[3]);
        assert_eq!(named.is_empty(), hopfall == "no" || hopfall == "not yet", "{row}");
        for name in named.split(", ").filter(|name| !name.is_empty()) {
            assert!(tests.contains(&format!("#[test]\nfn {}()", name.trim_matches('`'))), "no test {name}");
        }
        rows += 1;
    }
    assert!(rows > 30, "{rows} rows");
}
