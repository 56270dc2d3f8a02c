//! What another load balancer is told, as a config of ours: a Linode NodeBalancer's JSON in, YAML and a report out.
//!
//! Pure: files come in as text, and the caller writes what comes out. Nothing is guessed: what the input does not say, or
//! what hopfall cannot do, stands in the report. No certificate, no key and no unknown value of the input is repeated.

mod certificate;
mod document;
mod plan;
mod planner;
mod report;
mod settings;
mod yaml;

use std::fmt;

/// One file of the input.
#[derive(Clone, Debug)]
pub struct Source {
    /// What messages call it.
    pub name: String,
    /// One JSON document, or several one after another.
    pub text: String,
}

/// The PEM files that https listeners are to have instead of placeholders.
#[derive(Clone)]
pub struct TlsFiles {
    /// Path of the certificate, as the config will name it.
    pub certificate: String,
    /// Path of its key. It is not read.
    pub key: String,
    /// What stands in the certificate's file.
    pub pem: String,
}

/// What an import brings.
#[derive(Clone, Debug)]
pub struct Import {
    /// The config. `None` where nothing of the input can be served by hopfall; the report says why.
    pub yaml: Option<String>,
    /// What was kept, what was changed, what cannot be kept, and what is left to do.
    pub report: String,
}

/// Why an input cannot be imported: the file, the place in it, what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The config of one NodeBalancer, from what Linode's API v4 says of it: the NodeBalancer itself (may be left out), its
/// configs and their nodes, as paged answers or bare lists, in any order and any number of files.
///
/// # Errors
/// Where a text is not JSON, holds something else than these three, lacks a page, or is of several NodeBalancers.
pub fn nodebalancer(sources: &[Source], tls: Option<&TlsFiles>) -> Result<Import, Refusal> {
    let input = document::read(sources)?;
    let certificate = tls.map(certificate::Certificate::read).transpose()?;
    let (plan, report) = planner::plan(&input, certificate.as_ref())?;
    let yaml = (!plan.listeners.is_empty()).then(|| yaml::write(&plan));
    Ok(Import { yaml, report: report.to_string() })
}
