//! hopfall in front of the scene, from a config text like any other.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::Context;

use super::scene::Scene;
use super::store::{ACCESS_KEY, BUCKET, REGION};

use crate::config::{Config, Surroundings};
use crate::messages::Messages;
use crate::server::{Handed, Server};

#[derive(Debug)]
pub struct Front {
    pub yaml: String,
    pub web: SocketAddr,
    pub admin: SocketAddr,
}

impl Front {
    /// Binds hopfall to its usual ports; to any free ones where those are taken.
    pub async fn bind(scene: &Scene) -> anyhow::Result<(Front, Server)> {
        match bind(scene, yaml(scene, free(8080), free(9090))).await {
            // Somebody took a port since we looked.
            Err(_) => bind(scene, yaml(scene, 0, 0)).await,
            bound => bound,
        }
    }
}

async fn bind(scene: &Scene, yaml: String) -> anyhow::Result<(Front, Server)> {
    // Secrets are references, and this is who answers them: the process's environment stays as it is.
    let variable = |name: &str| match name {
        "HOPFALL_DEMO_ACCESS_KEY" => Some(ACCESS_KEY.to_owned()),
        "HOPFALL_DEMO_SECRET_KEY" => Some(scene.store.secret_key.clone()),
        _ => None,
    };
    let surroundings = Surroundings { variable: &variable, read: &|path| std::fs::read_to_string(path) };
    let config = Config::parse("the demo's config", &yaml, &surroundings)?;
    Messages::start(&config.log)?;
    let server = Server::start(config, None, Handed::default()).await?;
    let web = server.addresses().first().copied().context("no listener")?;
    let admin = server.admin_address().context("no admin listener")?;
    Ok((Front { yaml, web, admin }, server))
}

fn yaml(scene: &Scene, web: u16, admin: u16) -> String {
    let (chitoge, taiga, store) = (scene.chitoge.address, scene.taiga.address, scene.store.address);
    format!(
        r#"listeners:
  # `trusted` networks are told the names of nodes.
  - {{ name: web, address: "127.0.0.1:{web}", route: images, trusted: [127.0.0.0/8] }}
admin: {{ address: "127.0.0.1:{admin}" }}
log: {{ level: warn, access: {{ format: off }} }}
pools:
  images:
    algorithm: roundrobin
    fallback_on: [404, 500, 502, 503, 504]
    health: {{ check: http, path: /, interval: 5s }}
    nodes:
      - {{ name: taiga,   address: "{taiga}" }}
      - {{ name: chitoge, address: "{chitoge}" }}
stores:
  s3:
    kind: s3
    endpoint: http://{store}
    region: {REGION}
    bucket: {BUCKET}
    credentials: {{ access_key: "${{HOPFALL_DEMO_ACCESS_KEY}}", secret_key: "${{HOPFALL_DEMO_SECRET_KEY}}" }}
routes:
  images: {{ chain: [images, s3], deadline: 30s }}
"#
    )
}

/// `port` if nobody listens there, else 0, which asks for any.
fn free(port: u16) -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_or(0, |_| port)
}
