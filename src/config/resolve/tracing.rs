//! The collector of traces.

use http::{HeaderName, HeaderValue};

use super::{Resolver, secs};
use crate::config::Tracing;
use crate::config::load::Problem;
use crate::config::model;

impl Resolver<'_> {
    /// `built` is whether this build has OpenTelemetry.
    pub(super) fn tracing(&mut self, tracing: &model::Tracing, built: bool) -> Tracing {
        let endpoint = tracing.endpoint.text();
        if !built {
            let fix = "build with --features otel, or remove `tracing`";
            self.problems.push(Problem::at(tracing.endpoint.at(), "this build has no OpenTelemetry".to_owned(), fix));
        }
        if !is_endpoint(endpoint) {
            self.bad(
                &tracing.endpoint,
                "not the address of a collector",
                "write one with its path, such as http://127.0.0.1:4318/v1/traces",
            );
        }
        let service_name = self.value(tracing.service_name.as_ref(), "hopfall".to_owned());
        if let Some(field) = tracing.service_name.as_ref().filter(|name| name.text().is_empty()) {
            self.bad(field, "no name", "write one, or remove it");
        }
        let mut headers = Vec::new();
        for (name, field) in &tracing.headers {
            if HeaderName::try_from(name).is_err() {
                let message = format!("`{name}`: not the name of a header field");
                self.problems.push(Problem::at(field.at(), message, "use letters, digits and `-`"));
            }
            let before = self.problems.len();
            let value = self.secret(field);
            if self.problems.len() == before && HeaderValue::from_str(value.expose()).is_err() {
                // Not the value: it is a secret.
                let message = "the secret has bytes that no header field may have".to_owned();
                self.problems.push(Problem::at(field.at(), message, "keep it to printable ASCII, in one line"));
            }
            headers.push((name.clone(), value));
        }
        let timeout = self.time(tracing.timeout.as_ref(), secs(10));
        if let Some(field) = &tracing.timeout
            && timeout > secs(60)
        {
            self.bad(field, "longer than 60s", "write 60s or less");
        }
        let percent = u32::try_from(self.count(tracing.sample.as_ref(), 100, 1, 100)).unwrap_or(100);
        Tracing { endpoint: endpoint.to_owned(), percent, service_name, headers, timeout }
    }
}

/// The path is not guessed: a library that adds `/v1/traces` where there is none would hide what is asked.
fn is_endpoint(address: &str) -> bool {
    let Ok(uri) = address.parse::<http::Uri>() else { return false };
    matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.host().is_some_and(|host| !host.is_empty())
        && uri.path().len() > 1
        && !address.contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Surroundings;
    use crate::config::model::File;

    #[test]
    fn a_build_without_opentelemetry_says_so() {
        let text = "tracing: { endpoint: \"http://127.0.0.1:4318/v1/traces\" }\nlisteners: []\n";
        let file: File = serde_saphyr::from_str(text).unwrap();
        let surroundings = Surroundings { variable: &|_| None, read: &|_| Err(std::io::ErrorKind::NotFound.into()) };
        for (built, told) in [(true, false), (false, true)] {
            let mut resolver = Resolver {
                surroundings: &surroundings,
                problems: Vec::new(),
                targets: std::collections::HashMap::new(),
            };
            resolver.tracing(file.tracing.as_ref().unwrap(), built);
            let problems = format!("{:?}", resolver.problems);
            assert_eq!(problems.contains("this build has no OpenTelemetry"), told, "{problems}");
            assert_eq!(problems.contains("--features otel"), told, "{problems}");
        }
    }

    #[test]
    fn an_endpoint_has_a_scheme_a_host_and_a_path() {
        for good in ["http://127.0.0.1:4318/v1/traces", "https://otlp.example/x", "http://[::1]:4318/v1/traces"] {
            assert!(is_endpoint(good), "{good}");
        }
        for bad in
            ["", "127.0.0.1:4318", "http://", "http://a:4318", "http://a:4318/", "grpc://a/v1", "http://u:p@a/v1"]
        {
            assert!(!is_endpoint(bad), "{bad}");
        }
    }
}
