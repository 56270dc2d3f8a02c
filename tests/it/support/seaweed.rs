//! A real SeaweedFS as the S3 store: it checks signatures. One for all tests of the process.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::curl::{Answer, curl};
use super::process::Process;
use super::{ports, wait, watchdog};

const ACCESS_KEY: &str = "HOPFALLTESTKEY";
const SECRET_KEY: &str = "hopfall/test+secret";
const REGION: &str = "us-east-1";

/// curl versions differ in whether, and how, they hash a body; so none is hashed. (`-H Expect:` would be signed,
/// as a header that is not sent.)
const UNSIGNED: &[&str] = &["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "--expect100-timeout", "0.01"];

pub struct Seaweed {
    address: SocketAddr,
    process: Process,
}

impl Seaweed {
    /// The one server; the first call starts it, which takes some seconds.
    pub fn shared() -> &'static Seaweed {
        static SHARED: OnceLock<Seaweed> = OnceLock::new();
        SHARED.get_or_init(Seaweed::start)
    }

    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn access_key(&self) -> &'static str {
        ACCESS_KEY
    }

    pub fn secret_key(&self) -> &'static str {
        SECRET_KEY
    }

    pub fn region(&self) -> &'static str {
        REGION
    }

    /// Creates a bucket; one that is there already is as good.
    #[track_caller]
    pub fn bucket(&self, name: &str) -> &Seaweed {
        let answer = self.signed(SECRET_KEY, &["-X", "PUT", &self.url(name, "")]);
        assert!(matches!(answer.status, 200 | 409), "bucket `{name}`: {answer:?}");
        self
    }

    /// Uploads an object. The key is plain text: `"a b+c@d%/猫.jpg"`.
    #[track_caller]
    pub fn put(&self, bucket: &str, key: &str, bytes: impl AsRef<[u8]>, content_type: &str) -> &Seaweed {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("body");
        std::fs::write(&file, bytes).unwrap();
        let (file, kind) = (file.display().to_string(), format!("Content-Type: {content_type}"));
        let answer = self.signed(SECRET_KEY, &[UNSIGNED, &["-H", &kind, "-T", &file, &self.url(bucket, key)]].concat());
        assert_eq!(answer.status, 200, "put `{bucket}/{key}`: {answer:?}");
        self
    }

    #[track_caller]
    pub fn delete(&self, bucket: &str, key: &str) {
        let answer = self.signed(SECRET_KEY, &["-X", "DELETE", &self.url(bucket, key)]);
        assert_eq!(answer.status, 204, "delete `{bucket}/{key}`: {answer:?}");
    }

    /// A GET signed with this secret: what the server itself says, right or wrong.
    pub fn get(&self, bucket: &str, key: &str, secret_key: &str) -> Answer {
        self.signed(secret_key, &[&self.url(bucket, key)])
    }

    /// An object's address, with the key encoded as S3 wants it.
    pub fn url(&self, bucket: &str, key: &str) -> String {
        format!("{}/{bucket}/{}", self.endpoint(), encode(key))
    }

    /// curl signs, so that a fault in our signer cannot hide behind itself.
    fn signed(&self, secret_key: &str, arguments: &[&str]) -> Answer {
        let (scheme, user) = (format!("aws:amz:{REGION}:s3"), format!("{ACCESS_KEY}:{secret_key}"));
        curl(&[&["--aws-sigv4", &scheme, "--user", &user], arguments].concat())
    }

    fn start() -> Seaweed {
        let folder = tempfile::Builder::new().prefix("hopfall-seaweed-").tempdir().expect("a temporary folder").keep();
        watchdog::guard_path(&folder);
        let identities = serde_json::json!({ "identities": [{
            "name": "test",
            "credentials": [{ "accessKey": ACCESS_KEY, "secretKey": SECRET_KEY }],
            "actions": ["Admin", "Read", "Write", "List"],
        }]});
        std::fs::write(folder.join("identities.json"), identities.to_string()).unwrap();
        for _ in 0..3 {
            let mut command = Command::new(weed());
            command.current_dir(&folder).args(["-logtostderr=true", "-v=-1", "server"]);
            command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]);
            command.args(["-dir=.", "-volume.max=400", "-master.volumeSizeLimitMB=256"]);
            command.args(["-filer", "-s3", "-s3.config=identities.json", "-s3.iam=false"]);
            command.args(["-s3.port.iceberg=0", "-s3.port.lance=0"]);
            command.args(["-filer.localSocket=filer.sock", "-s3.localSocket=s3.sock"]);
            let address = ports::free("127.0.0.1");
            for server in ["master", "volume", "filer", "s3"] {
                let port = if server == "s3" { address.port() } else { ports::free("127.0.0.1").port() };
                let grpc = ports::free("127.0.0.1").port();
                command.arg(format!("-{server}.port={port}")).arg(format!("-{server}.port.grpc={grpc}"));
                // It opens this one too, and no option moves it.
                watchdog::guard_path(format!("/tmp/seaweedfs-{server}-grpc-{grpc}.sock").as_ref());
            }
            let mut seaweed = Seaweed { address, process: Process::spawn(&mut command) };
            match seaweed.becomes_ready() {
                Ok(()) => return seaweed,
                // Another process took a port in between.
                Err(why) if why.contains("address already in use") => continue,
                Err(why) => panic!("SeaweedFS did not start: {why}"),
            }
        }
        panic!("SeaweedFS found no free ports");
    }

    /// Its port opens some seconds before it can create a bucket, and that some time before it can store an object.
    fn becomes_ready(&mut self) -> Result<(), String> {
        let (bucket, object) = (self.url("ready", ""), self.url("ready", "ready"));
        let mut last = String::new();
        let ready = wait::becomes(Duration::from_secs(60), || {
            if self.process.exited().is_some() || std::net::TcpStream::connect(self.address).is_err() {
                return self.process.exited().is_some();
            }
            let made = self.signed(SECRET_KEY, &["-X", "PUT", &bucket]);
            let put = self.signed(SECRET_KEY, &[UNSIGNED, &["-X", "PUT", "-d", "ready", &object]].concat());
            last = format!("bucket: {} {}; object: {} {}", made.status, made.text(), put.status, put.text());
            put.status == 200
        });
        if ready && self.process.exited().is_none() {
            return Ok(());
        }
        Err(format!("{last}\n{}", self.process.stderr()))
    }
}

fn weed() -> PathBuf {
    let installed = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-tools/venv/bin/weed"));
    let weed = std::env::var_os("HOPFALL_TEST_WEED").map_or_else(installed, PathBuf::from);
    assert!(weed.exists(), "no SeaweedFS at {}: run scripts/test, which installs it", weed.display());
    weed
}

fn encode(key: &str) -> String {
    let mut encoded = String::new();
    for byte in key.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => encoded.push(byte as char),
            other => write!(encoded, "%{other:02X}").unwrap(),
        }
    }
    encoded
}
