//! hopfall in front of a fleet: the config that most tests need, with the parts that one test is about.

use std::net::SocketAddr;

use super::hopfall::{Builder, Hopfall};
use super::seaweed::Seaweed;

/// A config being written. Timeouts are short, so that a test of one ends soon.
#[derive(Default)]
pub struct Fleet {
    nodes: Vec<String>,
    pool: Vec<String>,
    listener: Vec<String>,
    route: Vec<String>,
    top: Vec<String>,
    store: Option<String>,
    store_keys: Vec<String>,
    secrets: Vec<(String, String)>,
}

impl Fleet {
    pub fn new() -> Fleet {
        Fleet::default()
    }

    pub fn node(self, name: &str, address: SocketAddr) -> Fleet {
        self.node_with(name, address, "")
    }

    /// `keys` are more of the node's keys: `"weight: 5"`.
    pub fn node_with(mut self, name: &str, address: SocketAddr, keys: &str) -> Fleet {
        self.nodes.push(format!("      - {{ name: {name}, address: \"{address}\", {keys} }}\n"));
        self
    }

    /// One more key of the pool.
    pub fn pool(mut self, key: &str) -> Fleet {
        self.pool.push(format!("    {key}\n"));
        self
    }

    pub fn listener(mut self, key: &str) -> Fleet {
        self.listener.push(format!("    {key}\n"));
        self
    }

    pub fn route(mut self, key: &str) -> Fleet {
        self.route.push(format!("    {key}\n"));
        self
    }

    /// One more key of the file's top level.
    pub fn top(mut self, key: &str) -> Fleet {
        self.top.push(format!("{key}\n"));
        self
    }

    /// A bucket of the real S3 server at the end of the chain.
    pub fn s3(self, bucket: &str) -> Fleet {
        let s3 = Seaweed::shared();
        s3.bucket(bucket);
        self.store(bucket, s3.addr(), s3.access_key(), s3.secret_key())
    }

    /// A bucket of whatever listens at this address.
    pub fn store(mut self, bucket: &str, address: SocketAddr, access_key: &str, secret_key: &str) -> Fleet {
        self.store = Some(format!("bucket: {bucket}, endpoint: \"http://{address}\""));
        self.secrets = vec![("AK".to_owned(), access_key.to_owned()), ("SK".to_owned(), secret_key.to_owned())];
        self
    }

    /// One more key of the store: `"prefix: img/"`.
    pub fn store_key(mut self, key: &str) -> Fleet {
        self.store_keys.push(key.to_owned());
        self
    }

    pub fn yaml(&self) -> String {
        let mut yaml = String::from("listeners:\n  - name: web\n    address: \"{web}\"\n    route: images\n");
        yaml.extend(self.listener.iter().map(String::as_str));
        let mut chain = Vec::new();
        if !self.nodes.is_empty() {
            chain.push("images");
            yaml.push_str("pools:\n  images:\n    nodes:\n");
            yaml.extend(self.nodes.iter().map(String::as_str));
            yaml.extend(self.pool.iter().map(String::as_str));
            let set = |key: &str| self.pool.iter().any(|line| line.trim_start().starts_with(key));
            for (key, default) in [("connect_timeout:", "1s"), ("header_timeout:", "1s"), ("body_idle_timeout:", "1s")]
            {
                if !set(key) {
                    yaml.push_str(&format!("    {key} {default}\n"));
                }
            }
        }
        if let Some(store) = &self.store {
            chain.push("s3");
            let keys: String = self.store_keys.iter().map(|key| format!(", {key}")).collect();
            let credentials = "credentials: { access_key: \"${AK}\", secret_key: \"${SK}\" }";
            yaml.push_str(&format!("stores:\n  s3: {{ kind: s3, {store}, {credentials}{keys} }}\n"));
        }
        yaml.push_str(&format!("routes:\n  images:\n    chain: [{}]\n", chain.join(", ")));
        yaml.extend(self.route.iter().map(String::as_str));
        yaml.push_str("admin: { address: \"{admin}\" }\n");
        yaml.extend(self.top.iter().map(String::as_str));
        yaml
    }

    pub fn builder(&self) -> Builder {
        let builder = Hopfall::builder(&self.yaml());
        self.secrets.iter().fold(builder, |builder, (name, value)| builder.env(name, value))
    }

    #[track_caller]
    pub fn start(&self) -> Hopfall {
        self.builder().start()
    }
}
