//! A CA: Let's Encrypt's own test server, Pebble, which checks nonces, signatures and challenges as they do. In front of it
//! a scripted part adds what it lacks (ARI) and refuses when it is told to.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::certificate::Certificate;
use super::curl::curl;
use super::nginx::Nginx;
use super::origin::{Origin, Reply, Request};
use super::process::Process;
use super::{ports, wait};

/// Names and keys of `Ca::that_wants_an_account`.
pub const KEY_ID: &str = "kid-1";
pub const HMAC_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

pub struct Ca {
    front: Origin,
    _tls: Nginx,
    address: SocketAddr,
    certificate: Arc<Certificate>,
    behind: Arc<Mutex<Pebble>>,
    script: Arc<Mutex<Script>>,
    settings: Settings,
}

#[derive(Clone, Copy)]
struct Settings {
    validated_port: u16,
    wants_account: bool,
    /// In percent of good ones.
    refused_nonces: u32,
}

/// What is done instead of asking Pebble.
#[derive(Default)]
struct Script {
    window: Option<(String, String)>,
    orders: Option<Reply>,
    directory: Option<Reply>,
}

struct Pebble {
    address: SocketAddr,
    management: SocketAddr,
    _server: Process,
    _dns: Process,
    _folder: TempDir,
}

impl Ca {
    /// Validates every name by connecting to this port of 127.0.0.1.
    pub fn that_validates_at(port: u16) -> Ca {
        Ca::start(Settings { validated_port: port, wants_account: false, refused_nonces: 0 })
    }

    /// The same, and refuses a good nonce now and then, as a CA may (RFC 8555 §6.5).
    pub fn that_refuses_nonces(port: u16) -> Ca {
        Ca::start(Settings { validated_port: port, wants_account: false, refused_nonces: 5 })
    }

    /// The same, for those only who have `KEY_ID` and `HMAC_KEY`.
    pub fn that_wants_an_account(port: u16) -> Ca {
        Ca::start(Settings { validated_port: port, wants_account: true, refused_nonces: 0 })
    }

    fn start(settings: Settings) -> Ca {
        let certificate = Arc::new(Certificate::for_names(&["localhost", "127.0.0.1"]));
        let address = ports::free("127.0.0.1");
        let behind = Arc::new(Mutex::new(Pebble::start(&certificate, settings)));
        let script = Arc::<Mutex<Script>>::default();
        let (pebble, told, trusted) = (behind.clone(), script.clone(), certificate.clone());
        let front = Origin::respond(move |request| {
            let pebble = pebble.lock().unwrap().address;
            answer(request, pebble, &trusted, address, &told)
        });
        let tls = Nginx::builder()
            .extra_http_lines(&format!(
                "server {{ listen {address} ssl; ssl_certificate {}; ssl_certificate_key {};
                 location / {{ proxy_pass http://{}; proxy_set_header Host $http_host; }} }}",
                certificate.cert_path().display(),
                certificate.key_path().display(),
                front.addr()
            ))
            .start();
        Ca { front, _tls: tls, address, certificate, behind, script, settings }
    }

    /// The directory's address, and the file with the certificate to trust, as keys of `acme`.
    pub fn keys(&self) -> String {
        let ca = self.certificate.cert_path();
        format!("directory: \"https://localhost:{}/dir\", ca: \"{}\"", self.address.port(), ca.display())
    }

    /// The root of what it issues, as PEM.
    pub fn root(&self) -> String {
        let management = self.behind.lock().unwrap().management;
        let ca = self.certificate.cert_path();
        curl(&["--cacert", ca.to_str().unwrap(), &format!("https://{management}/roots/0")]).text()
    }

    /// Suggests this window, in RFC 3339, for the renewal of every certificate.
    pub fn suggest(&self, from: &str, to: &str) {
        self.script.lock().unwrap().window = Some((from.to_owned(), to.to_owned()));
    }

    /// Answers new orders with this instead of taking them; `None` takes them again.
    pub fn refuse_orders(&self, reply: Option<Reply>) {
        self.script.lock().unwrap().orders = reply;
    }

    /// Answers for the directory with this.
    pub fn refuse_all(&self, reply: Option<Reply>) {
        self.script.lock().unwrap().directory = reply;
    }

    /// Takes a new Pebble, which knows no account and no certificate of the one before.
    pub fn forget_everything(&self) {
        *self.behind.lock().unwrap() = Pebble::start(&self.certificate, self.settings);
    }

    /// All that it was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.front.requests()
    }

    /// The orders so far: what was signed.
    pub fn orders(&self) -> Vec<Value> {
        let orders = self.requests().into_iter().filter(|request| request.target == "/order-plz");
        orders.map(|request| signed(&request.body)).collect()
    }
}

fn answer(
    request: &Request,
    pebble: SocketAddr,
    trusted: &Certificate,
    here: SocketAddr,
    script: &Mutex<Script>,
) -> Reply {
    let script = script.lock().unwrap();
    match request.target.as_str() {
        "/dir" if script.directory.is_some() => return script.directory.clone().unwrap(),
        "/order-plz" if script.orders.is_some() => return script.orders.clone().unwrap(),
        target if target.starts_with("/ari/") => {
            let Some((start, end)) = &script.window else { return Reply::status(500) };
            let window =
                json!({ "suggestedWindow": { "start": start, "end": end }, "explanationURL": "https://ca.test/why" });
            return Reply::ok(window.to_string()).header("Retry-After", "21600");
        }
        _ => {}
    }
    let has_ari = script.window.is_some();
    drop(script);

    let folder = tempfile::tempdir().unwrap();
    let body = folder.path().join("body");
    std::fs::write(&body, &request.body).unwrap();
    let host = format!("Host: {}", request.header("host").unwrap_or_default());
    let agent = format!("User-Agent: {}", request.header("user-agent").unwrap_or_default());
    let (url, sent, ca) =
        (format!("https://{pebble}{}", request.target), format!("@{}", body.display()), trusted.cert_path());
    let mut arguments = vec!["--cacert", ca.to_str().unwrap(), "-H", &host, "-H", &agent, &url];
    match request.method.as_str() {
        "HEAD" => arguments.push("--head"),
        "POST" => arguments.extend(["-H", "Content-Type: application/jose+json", "--data-binary", &sent]),
        _ => {}
    }
    let answer = curl(&arguments);
    let mut text = answer.body.clone();
    if let Ok(mut json) = serde_json::from_slice::<Value>(&text) {
        match request.target.as_str() {
            "/dir" if has_ari => json["renewalInfo"] = json!(format!("https://localhost:{}/ari", here.port())),
            // RFC 9773 §5: it must be said again.
            "/order-plz" if has_ari && answer.status == 201 => {
                json["replaces"] = signed(&request.body)["replaces"].clone();
            }
            _ => {}
        }
        text = json.to_string().into_bytes();
    }
    if request.method == "HEAD" {
        text.clear();
    }
    let passed = ["replay-nonce", "location", "content-type", "link", "retry-after"];
    let fields = answer.headers.iter().filter(|(name, _)| passed.contains(&name.to_ascii_lowercase().as_str()));
    fields.fold(Reply::ok(text).with_status(answer.status), |reply, (name, value)| reply.header(name, value))
}

/// What stands in a signed request (RFC 7515 §7.2.2).
fn signed(body: &[u8]) -> Value {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let payload = URL_SAFE_NO_PAD.decode(body["payload"].as_str().unwrap_or_default()).unwrap_or_default();
    serde_json::from_slice(&payload).unwrap_or_default()
}

impl Pebble {
    #[track_caller]
    fn start(certificate: &Certificate, settings: Settings) -> Pebble {
        for _ in 0..5 {
            let [address, management, dns] = std::array::from_fn(|_| ports::free("127.0.0.1"));
            let folder = tempfile::Builder::new().prefix("hopfall-pebble-").tempdir().expect("a temporary folder");
            let config = json!({ "pebble": {
                "listenAddress": address.to_string(), "managementListenAddress": management.to_string(),
                "certificate": certificate.cert_path(), "privateKey": certificate.key_path(),
                "httpPort": 1, "tlsPort": settings.validated_port, "ocspResponderURL": "",
                "externalAccountBindingRequired": settings.wants_account, "externalAccountMACKeys": { KEY_ID: HMAC_KEY },
            } });
            let file = folder.path().join("pebble.json");
            std::fs::write(&file, config.to_string()).unwrap();
            let mut names = Command::new("pebble-challtestsrv");
            names.args(["-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", "", "-management", ""]);
            let mut names = Process::spawn(names.arg("-dns01").arg(dns.to_string()));
            let mut pebble = Command::new("pebble");
            pebble.arg("-config").arg(&file).arg("-dnsserver").arg(dns.to_string()).arg("-strict");
            pebble.env("PEBBLE_WFE_NONCEREJECT", settings.refused_nonces.to_string());
            pebble.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
            let mut pebble = Process::spawn(&mut pebble);
            wait::wait_until("Pebble to listen", wait::PATIENCE, || {
                pebble.exited().is_some()
                    || names.exited().is_some()
                    || [address, management, dns].iter().all(|address| TcpStream::connect(address).is_ok())
            });
            match (pebble.exited(), names.exited()) {
                (None, None) => {
                    return Pebble { address, management, _server: pebble, _dns: names, _folder: folder };
                }
                // Another process took a port in between.
                _ if (pebble.stdout() + &pebble.stderr() + &names.stdout() + &names.stderr()).contains("in use") => {}
                _ => panic!("Pebble did not start: {}{}{}", pebble.stdout(), pebble.stderr(), names.stderr()),
            }
        }
        panic!("Pebble found no free ports");
    }
}
