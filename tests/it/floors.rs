//! The layout's law: a module imports only from lower floors (docs/architecture.md has the table).

use std::path::Path;

const FLOORS: &[(u32, &[&str])] = &[
    (0, &["units", "hex", "hop", "quiet", "unix"]),
    (
        1,
        &[
            "absence",
            "conditional",
            "explain",
            "fallback",
            "framing",
            "freshness",
            "headers",
            "health",
            "hedge",
            "history",
            "location",
            "proxy_protocol",
            "renewal",
            "routing",
            "s3",
            "shape",
            "throttle",
            "trace_context",
            "trip",
            "via",
        ],
    ),
    (2, &["config", "disk", "flight"]),
    (3, &["metrics", "pool", "snapshot", "syslog"]),
    (4, &["origin", "admission"]),
    (5, &["chain", "probe", "keep", "messages", "access_log", "edge", "tls", "acme", "admin", "tcp", "traces"]),
    (6, &["proxy", "doctor"]),
    (7, &["server", "cli", "import", "manual", "demo", "main", "lib"]),
];

/// Modules of one floor that may use each other, and why.
const SIDEWAYS: &[(&str, &str)] = &[
    ("snapshot", "pool"), // a snapshot is made of pools
    ("pool", "metrics"),  // a node counts what happens to it
    ("snapshot", "metrics"),
    ("probe", "chain"),           // checks run against the chain's own nodes and stores
    ("admin", "chain"),           // purges, and tells what is served from
    ("keep", "chain"),            // saves the chain's own map
    ("probe", "keep"),            // at its interval
    ("chain", "edge"),            // tells the connection which piece to hold for the next
    ("admin", "edge"),            // tells the connection when a request begins and ends
    ("acme", "tls"),              // puts what it gets where handshakes find it
    ("tcp", "edge"),              // is handed the connections that it accepts
    ("tcp", "access_log"),        // a connection is a line
    ("access_log", "messages"),   // opens its file in the same way
    ("chain", "traces"),          // carries it to the front
    ("traces", "access_log"),     // tells the same of a request
    ("routing", "shape"),         // takes a host apart in the same way
    ("headers", "trace_context"), // puts a trace into what is sent
    ("trip", "fallback"),         // a trip is a list of outcomes
    ("trip", "trace_context"),    // and has its place in a trace
    ("acme", "messages"),         // how an error is told
    ("traces", "messages"),
    ("routing", "shape"),         // what a host is
    ("s3", "fallback"),           // an S3 answer is an outcome
    ("freshness", "conditional"), // lists with quotes are taken apart in one place
    ("config", "disk"),           // a disk's settings are part of the config
    ("cli", "server"),
    ("cli", "demo"),
    ("cli", "import"),
    ("cli", "manual"),
    ("demo", "cli"),
    ("demo", "server"),
    ("main", "cli"),
];

/// What pure floors must not know.
const IMPURE: &[&str] =
    &["tokio", "pingora", "std::net::Tcp", "SystemTime::now", "Instant::now", "std::fs", "std::thread"];

#[test]
fn a_module_imports_only_from_lower_floors() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    walk(&src, &mut |path| {
        let relative = path.strip_prefix(&src).unwrap();
        let module =
            relative.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
        let floor = floor_of(&module).unwrap_or_else(|| panic!("{module} is on no floor"));
        let text = std::fs::read_to_string(path).unwrap();
        // Tests inside a module may reach anywhere.
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for used in code.split("crate::").skip(1) {
            let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let Some(below) = floor_of(&used) else { continue };
            let sideways = SIDEWAYS.contains(&(module.as_str(), used.as_str()));
            assert!(
                below < floor || used == module || sideways,
                "{} (floor {floor}) uses {used} (floor {below})",
                relative.display()
            );
        }
        if floor <= 1 {
            for impure in IMPURE {
                assert!(!code.contains(impure), "{} is pure and knows {impure}", relative.display());
            }
        }
        seen += 1;
    });
    assert!(seen > 25, "{seen} files");
}

fn floor_of(module: &str) -> Option<u32> {
    FLOORS.iter().find(|(_, modules)| modules.contains(&module)).map(|(floor, _)| *floor)
}

fn walk(folder: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, visit);
        } else {
            visit(&path);
        }
    }
}
