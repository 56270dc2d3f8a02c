//! A storage node as an origin.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use http::{HeaderValue, header};
use pingora::http::RequestHeader;
use pingora::upstreams::peer::HttpPeer;

use super::{Ask, Asked, Origin, Upstream};
use crate::fallback::{Busy, Failure, Outcome, node_outcome};
use crate::pool::Node;
use crate::units::StatusSet;
use crate::via::CDN_LOOP;

pub struct NodeOrigin {
    node: Arc<Node>,
    upstream: Arc<Upstream>,
    fallback_on: StatusSet,
    /// The `Host` to send instead of the client's.
    host: Option<HeaderValue>,
    /// Made once per address: a peer is large.
    peer: ArcSwapOption<(SocketAddr, Arc<HttpPeer>)>,
}

impl NodeOrigin {
    pub fn new(node: Arc<Node>, upstream: Arc<Upstream>, fallback_on: StatusSet, host: Option<&str>) -> Self {
        let host = host.and_then(|host| HeaderValue::from_str(host).ok());
        NodeOrigin { node, upstream, fallback_on, host, peer: ArcSwapOption::empty() }
    }

    fn peer(&self) -> Option<Arc<HttpPeer>> {
        let address = self.node.endpoint.address()?;
        if let Some(made) = self.peer.load().as_deref()
            && made.0 == address
        {
            return Some(made.1.clone());
        }
        let peer = Arc::new(self.upstream.peer(address, false, ""));
        self.peer.store(Some(Arc::new((address, peer.clone()))));
        Some(peer)
    }

    fn request(&self, ask: &Ask<'_>) -> pingora::Result<RequestHeader> {
        let mut request = RequestHeader::build(ask.method.clone(), ask.target, Some(ask.for_node.len() + 4))?;
        let own = HeaderValue::from_str(&self.node.endpoint.name.to_string()).ok();
        if let Some(host) = self.host.as_ref().or(ask.host).or(own.as_ref()) {
            request.append_header(header::HOST, host)?;
        }
        for (name, value) in ask.for_node {
            request.append_header(name, value)?;
        }
        let (via, cdn_loop) = self.node.hop.values();
        request.append_header(header::VIA, via)?;
        request.append_header(CDN_LOOP, cdn_loop)?;
        Ok(request)
    }
}

#[async_trait]
impl Origin for NodeOrigin {
    async fn ask(&self, ask: &Ask<'_>) -> Asked {
        let Some(peer) = self.peer() else { return Asked::without_answer(Outcome::Down(Failure::DnsError)) };
        let Ok(request) = self.request(ask) else {
            return Asked::without_answer(Outcome::Down(Failure::ProxyInternalError));
        };
        let Some(permit) = self.node.gate.enter().await else {
            return Asked::without_answer(Outcome::Busy(Busy::Full));
        };
        match self.upstream.exchange(&peer, &request, ask.deadline, &self.node.metrics.connects, permit).await {
            Ok(answer) => Asked { outcome: node_outcome(answer.status(), &self.fallback_on), answer: Some(answer) },
            Err(outcome) => Asked::without_answer(outcome),
        }
    }

    fn body_idle_timeout(&self) -> Duration {
        self.upstream.bounds().body_idle_timeout
    }
}
