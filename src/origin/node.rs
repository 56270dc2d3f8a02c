//! A storage node as an origin.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};
use pingora::http::RequestHeader;

use super::live::request_head;
use super::{Answer, Ask, Asked, Origin, Upstream};
use crate::fallback::{Busy, Failure, Outcome, node_outcome};
use crate::pool::Node;
use crate::trace_context::TRACEPARENT;
use crate::units::StatusSet;
use crate::via::CDN_LOOP;

pub struct NodeOrigin {
    node: Arc<Node>,
    upstream: Arc<Upstream>,
    fallback_on: StatusSet,
    /// The `Host` to send instead of the client's.
    host: Option<HeaderValue>,
}

impl NodeOrigin {
    pub fn new(node: Arc<Node>, upstream: Arc<Upstream>, fallback_on: StatusSet, host: Option<&str>) -> Self {
        let host = host.and_then(|host| HeaderValue::from_str(host).ok());
        NodeOrigin { node, upstream, fallback_on, host }
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its connections, for whoever else asks the same node.
    pub fn shared_upstream(&self) -> Arc<Upstream> {
        self.upstream.clone()
    }

    fn request(&self, ask: &Ask<'_>) -> pingora::Result<RequestHeader> {
        let mut fields = HeaderMap::with_capacity(ask.for_node.len() + 4);
        let own = || HeaderValue::from_str(&self.node.endpoint.name.to_string()).ok();
        if let Some(host) = self.host.as_ref().or(ask.host).cloned().or_else(own) {
            fields.append(header::HOST, host);
        }
        for (name, value) in ask.for_node.iter().filter(|(name, _)| **name != header::VIA && **name != CDN_LOOP) {
            fields.append(name.clone(), value.clone());
        }
        if let Some(traceparent) = ask.traceparent {
            fields.insert(TRACEPARENT, traceparent.clone());
        }
        fields.extend(self.node.hop.after(ask.for_node));
        request_head(ask.method, ask.target, fields)
    }
}

impl Origin for NodeOrigin {
    async fn ask(&self, ask: &Ask<'_>) -> Asked {
        let Some(address) = self.node.endpoint.address() else {
            return Asked::without_answer(Outcome::Down(Failure::DnsError));
        };
        let Some(permit) = self.node.gate.enter_by(ask.deadline).await else {
            return Asked::without_answer(Outcome::Busy(Busy::Full));
        };
        let request = || self.request(ask);
        match self.upstream.exchange_made(address, &request, ask.deadline, &self.node.metrics.connects, permit).await {
            Ok(live) => {
                let outcome = node_outcome(live.status(), &self.fallback_on);
                Asked { outcome, answer: Some(Answer::Live(Box::new(live))), cached: None }
            }
            Err(outcome) => Asked::without_answer(outcome),
        }
    }

    fn upstream(&self) -> &Upstream {
        &self.upstream
    }
}
