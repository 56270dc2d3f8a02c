//! A real browser, told what to do by WebDriver (W3C) through chromedriver. Both are Debian's.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::Client;
use super::process::Process;
use super::wait::{PATIENCE, wait_for};

pub struct Chromium {
    driver: SocketAddr,
    session: String,
    // In this order: the browser ends with its driver, and then its folder goes.
    _process: Process,
    _profile: TempDir,
}

impl Chromium {
    #[track_caller]
    pub fn start() -> Chromium {
        let chromedriver = std::env::var("HOPFALL_TEST_CHROMEDRIVER").unwrap_or_else(|_| "chromedriver".to_owned());
        let process = Process::spawn(Command::new(chromedriver).args(["--port=0", "--log-level=WARNING"]));
        let port = wait_for("chromedriver's port", PATIENCE, || {
            let said = process.stdout();
            said.split_once("started successfully on port ")?.1.split_once('.')?.0.parse::<u16>().ok()
        });
        let driver = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let profile = tempfile::Builder::new().prefix("hopfall-chromium-").tempdir().expect("a temporary folder");
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            &format!("--user-data-dir={}", profile.path().display()),
        ];
        let options = json!({ "goog:chromeOptions": { "args": arguments }, "goog:loggingPrefs": { "browser": "ALL" } });
        let answer = send(driver, "POST", "/session", &json!({ "capabilities": { "alwaysMatch": options } }));
        let session = answer["sessionId"].as_str().expect("a session").to_owned();
        Chromium { driver, session, _process: process, _profile: profile }
    }

    #[track_caller]
    pub fn open(&self, url: &str) {
        self.tell("POST", "url", &json!({ "url": url }));
    }

    pub fn url(&self) -> String {
        self.tell("GET", "url", &Value::Null).as_str().unwrap_or_default().to_owned()
    }

    /// What a function's body returns in the page.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.tell("POST", "execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// The text that is seen of the first element that fits; empty where none does.
    #[track_caller]
    pub fn text(&self, css: &str) -> String {
        // SVG has no `innerText`.
        let script =
            format!("const found = document.querySelector({css:?}); return found?.innerText ?? found?.textContent");
        self.run(&script).as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the element says this.
    #[track_caller]
    pub fn wait_for_text(&self, css: &str, text: &str) {
        let mut said = String::new();
        let found = super::wait::becomes(PATIENCE, || {
            said = self.text(css);
            said.contains(text)
        });
        assert!(found, "{css} does not say {text:?}: {said:?}");
    }

    /// A click as a person makes it: the element must be there to be seen.
    #[track_caller]
    pub fn click(&self, css: &str) {
        self.tell("POST", &format!("element/{}/click", self.element(css)), &json!({}));
    }

    #[track_caller]
    pub fn write(&self, css: &str, text: &str) {
        self.tell("POST", &format!("element/{}/value", self.element(css)), &json!({ "text": text }));
    }

    #[track_caller]
    fn element(&self, css: &str) -> String {
        let found = self.tell("POST", "element", &json!({ "using": "css selector", "value": css }));
        let id = found.as_object().and_then(|found| found.values().next()).and_then(Value::as_str);
        id.unwrap_or_else(|| panic!("there is no {css}")).to_owned()
    }

    /// A phone or a desktop, by day or by night.
    pub fn look_like(&self, width: u32, height: u32, scheme: &str) {
        let command = |name: &str, parameters: Value| {
            self.tell("POST", "goog/cdp/execute", &json!({ "cmd": name, "params": parameters }));
        };
        let screen = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        command("Emulation.setDeviceMetricsOverride", screen);
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        command("Emulation.setEmulatedMedia", features);
    }

    /// Takes a picture of the whole page, to be looked at: `target/screenshots/NAME.png`.
    pub fn picture(&self, name: &str) {
        let parameters = json!({ "format": "png", "captureBeyondViewport": true });
        let command = json!({ "cmd": "Page.captureScreenshot", "params": parameters });
        let taken = self.tell("POST", "goog/cdp/execute", &command);
        let png = BASE64_STANDARD.decode(taken["data"].as_str().unwrap_or_default()).expect("base64");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(format!("{name}.png")), png).expect("a file");
    }

    /// What the browser complains of since it was asked last: scripts that fail, what a policy forbids, what cannot be
    /// fetched.
    pub fn complaints(&self) -> Vec<String> {
        let entries = self.tell("POST", "se/log", &json!({ "type": "browser" }));
        let entries = entries.as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    #[track_caller]
    fn tell(&self, method: &str, what: &str, body: &Value) -> Value {
        send(self.driver, method, &format!("/session/{}/{what}", self.session), body)
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // So that the browser puts its folder in order; the driver's end would end it too.
        if let Ok(mut client) = Client::try_connect(self.driver) {
            let host = self.driver.to_string();
            client.timeout(Duration::from_secs(5));
            client.request("DELETE", &format!("/session/{}", self.session), &[("Host", &host)]);
            let _ = client.try_response();
        }
    }
}

#[track_caller]
fn send(driver: SocketAddr, method: &str, path: &str, body: &Value) -> Value {
    let host = driver.to_string();
    let mut client = Client::connect(driver);
    client.timeout(Duration::from_secs(60));
    let fields = [("Host", host.as_str()), ("Content-Type", "application/json"), ("Connection", "close")];
    let answer = match method {
        "GET" => client.request(method, path, &fields).response(),
        _ => client.upload(method, path, &fields, body.to_string().as_bytes()).response(),
    };
    let value: Value = serde_json::from_slice(&answer.body).expect("chromedriver speaks JSON");
    assert_eq!(answer.status, 200, "{method} {path}: {value:#}");
    value["value"].clone()
}
