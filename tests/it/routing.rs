//! Requests go by host and by path to a route: one hopfall for `cdn.` and for the site.

use crate::support::hopfall::{self, Hopfall};
use crate::support::nginx::{HeaderMode, Nginx};

const YAML: &str = r#"
listeners:
  - name: web
    address: "{web}"
    routes:
      - { hosts: [cdn.example.org, "*.cdn.example.org"], route: images }
      - { hosts: [example.org], path: /img/, route: images }
      - { hosts: [example.org, www.example.org], route: site }
pools:
  images: { nodes: [{ name: disk, address: "DISK" }] }
  site: { nodes: [{ name: app, address: "APP" }] }
routes:
  images: { chain: [images] }
  site: { chain: [site] }
admin: { address: "{admin}" }
"#;

#[test]
fn one_hopfall_serves_the_images_and_the_site() {
    let disk = Nginx::with_files(&[("cat.jpg", b"meow"), ("img/cat.jpg", b"meow")]);
    let app = Nginx::with_files(&[("index.html", b"welcome"), ("cat.jpg", b"not a cat")]);
    let yaml = YAML.replace("DISK", &disk.addr().to_string()).replace("APP", &app.addr().to_string());
    let hopfall = Hopfall::start(&yaml);
    let mut client = hopfall.connect();
    // On one connection: a route is a request's, not a connection's.
    for (host, target, body) in [
        ("cdn.example.org", "/cat.jpg", "meow"),
        ("eu.cdn.example.org:8080", "/cat.jpg", "meow"),
        ("example.org", "/cat.jpg", "not a cat"),
        ("Example.ORG", "/img/cat.jpg?x", "meow"),
        ("example.org", "/%69mg/cat.jpg", "meow"),
        ("www.example.org", "/index.html", "welcome"),
    ] {
        let answer = client.request("GET", target, &[("Host", host)]).response();
        assert_eq!((answer.status, answer.text().as_str()), (200, body), "{host}{target}");
    }
    for method in ["GET", "DELETE"] {
        let answer = client.request(method, "/cat.jpg", &[("Host", "elsewhere.org")]).response();
        assert_eq!(answer.status, 404, "{method}");
        let told = answer.header("proxy-status").unwrap();
        assert!(told.contains("error=destination_not_found"), "{told}");
    }
    let by_node = |name| hopfall.metrics().sum("hopfall_attempts_total", &[("node", name)]);
    assert_eq!((by_node("disk"), by_node("app")), (4.0, 2.0), "nobody was asked for what has no route");
    let delete = client.request("DELETE", "/cat.jpg", &[("Host", "www.example.org")]).response();
    assert_eq!(delete.status, 405, "nginx's own word");
    assert_eq!(by_node("app"), 3.0);
}

/// Two routes whose nodes ask for what they lack on each other's route, and drop all headers that could tell.
#[test]
fn a_circle_of_routes_is_no_loop() {
    let (web, other) = (hopfall::reserve(), hopfall::reserve());
    let node = |address: &str, asks| {
        let node = Nginx::at(address).miss_proxied_to(asks, HeaderMode::Dropped).proxy_bind(address);
        node.file("cat.jpg", b"meow").start()
    };
    let (a, b) = (node("127.0.0.2", other), node("127.0.0.3", web));
    let yaml = format!(
        r#"
listeners:
  - {{ name: web, address: "{web}", route: a }}
  - {{ name: other, address: "{other}", route: b }}
pools:
  a: {{ nodes: [{{ name: a, address: "{}" }}] }}
  b: {{ nodes: [{{ name: b, address: "{}" }}] }}
routes:
  a: {{ chain: [a] }}
  b: {{ chain: [b] }}
admin: {{ address: "{{admin}}" }}
"#,
        a.addr(),
        b.addr()
    );
    let hopfall = Hopfall::builder(&yaml).address("web", web).address("other", other).start();
    for i in 0..20 {
        let path = format!("/missing-{i}.jpg");
        let answer = hopfall.get(&path);
        assert!(matches!(answer.status, 404 | 503), "{}", answer.status);
        for node in [&a, &b] {
            let asked = node.requests_for(&path).len();
            assert!(asked <= 2, "{path} was asked for {asked} times");
        }
    }
    hopfall.wait_for_log("points back");
    assert_eq!(hopfall.get("/cat.jpg").text(), "meow");
}
