//! A collector of traces that a test can rule: it takes OTLP over HTTP and reads it by the official types.

use std::net::SocketAddr;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use super::origin::{Origin, Reply};
use super::request::Request;
use super::wait::{PATIENCE, wait_for};

pub struct Collector(Origin);

impl Collector {
    pub fn new() -> Collector {
        Collector::answering(Reply::ok("").header("Content-Type", "application/x-protobuf"))
    }

    /// Every batch gets this answer.
    pub fn answering(reply: Reply) -> Collector {
        Collector(Origin::always(reply))
    }

    pub fn addr(&self) -> SocketAddr {
        self.0.addr()
    }

    pub fn requests(&self) -> Vec<Request> {
        self.0.requests()
    }

    /// A key of the config's top level that names it; `more` are further keys.
    pub fn tracing(&self, more: &str) -> String {
        format!("tracing: {{ endpoint: \"http://{}/v1/traces\", {more} }}", self.addr())
    }

    /// The attributes of the resources.
    pub fn resources(&self) -> Vec<KeyValue> {
        let batches = self.batches();
        let resources = batches.into_iter().flat_map(|batch| batch.resource_spans);
        resources.filter_map(|spans| spans.resource).flat_map(|resource| resource.attributes).collect()
    }

    pub fn spans(&self) -> Vec<Span> {
        let resources = self.batches().into_iter().flat_map(|batch| batch.resource_spans);
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    /// Waits for so many spans.
    #[track_caller]
    pub fn wait_for_spans(&self, count: usize) -> Vec<Span> {
        wait_for("the spans", PATIENCE, || Some(self.spans()).filter(|spans| spans.len() >= count))
    }

    fn batches(&self) -> Vec<ExportTraceServiceRequest> {
        let decode = |request: Request| ExportTraceServiceRequest::decode(request.body.as_slice()).expect("protobuf");
        self.0.requests().into_iter().map(decode).collect()
    }
}

/// An attribute as text.
pub fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match &found.value {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => Some(text.clone()),
        Some(AnyValue { value: Some(Value::IntValue(number)) }) => Some(number.to_string()),
        Some(AnyValue { value: Some(Value::DoubleValue(number)) }) => Some(number.to_string()),
        other => panic!("{key} is {other:?}"),
    }
}

/// A trace's or a span's name as `traceparent` has it.
pub fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
