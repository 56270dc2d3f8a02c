//! The report: what became of each thing that the NodeBalancer was told.

use std::fmt;

/// Sentences under four headings. One without sentences is left out.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was imported, and how much of it.
    pub title: String,
    /// What is as it was.
    pub kept: Vec<String>,
    /// What is done in another way, and how to have it as it was where that can be.
    pub changed: Vec<String>,
    /// What hopfall cannot do, and what is done instead.
    pub lost: Vec<String>,
    /// What only the operator can do.
    pub to_do: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        let sections =
            [("kept", &self.kept), ("changed", &self.changed), ("cannot be kept", &self.lost), ("to do", &self.to_do)];
        for (heading, sentences) in sections {
            if !sentences.is_empty() {
                writeln!(f, "\n{heading}:")?;
            }
            for sentence in sentences {
                writeln!(f, "  - {sentence}")?;
            }
        }
        Ok(())
    }
}

/// A value of the input, fit for one line of a comment or a report.
pub fn shown(text: &str) -> String {
    // The two separators end a line in YAML 1.1 (§5.4).
    text.chars().filter(|c| !c.is_control() && !"\u{2028}\u{2029}".contains(*c)).take(200).collect()
}

/// The noun as it stands after `count`.
pub fn plural(count: usize, noun: &str) -> String {
    format!("{noun}{}", if count == 1 { "" } else { "s" })
}
