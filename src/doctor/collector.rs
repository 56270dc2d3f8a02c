//! The collector that traces are sent to.

use std::time::Duration;

use http::Uri;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Finding;

/// Connects to the endpoint. Nothing is sent: a made-up trace would be told of.
pub(super) async fn examine(about: String, endpoint: String) -> Vec<Finding> {
    vec![connect(&about, &endpoint).await]
}

async fn connect(about: &str, endpoint: &str) -> Finding {
    let uri = endpoint.parse::<Uri>().ok();
    let Some((host, uri)) = uri.as_ref().and_then(|uri| Some((uri.host()?, uri))) else {
        return Finding::error(about, format!("`{endpoint}` is no address"), "write http://HOST:PORT/v1/traces");
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let fix =
        "start the collector, or correct `tracing.endpoint`; meanwhile requests are served, but their traces are lost";
    match timeout(PATIENCE, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Finding::ok(about, format!("the collector at {host}:{port} takes connections")),
        Ok(Err(error)) => {
            Finding::warn(about, format!("no connection to the collector at {host}:{port}: {error}"), fix)
        }
        Err(_) => Finding::warn(about, format!("the collector at {host}:{port} does not answer within 3s"), fix),
    }
}

const PATIENCE: Duration = Duration::from_secs(3);
