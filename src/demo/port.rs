//! A loopback port with a service behind it.

use std::net::{Ipv4Addr, SocketAddr};

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use s3s::{Body, StdError};
use tokio::net::TcpListener;

/// Serves `service` on a free port until the runtime ends.
pub async fn open<S>(service: S) -> anyhow::Result<SocketAddr>
where
    S: Service<Request<Incoming>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<StdError>,
{
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = socket.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone());
            tokio::spawn(async move {
                // A client that goes away is no news.
                let _ = connection.await;
            });
        }
    });
    Ok(address)
}
