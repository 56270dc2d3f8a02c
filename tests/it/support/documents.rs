//! The Markdown documents: their fenced blocks, headings and links.

use std::path::{Path, PathBuf};

use regex::Regex;

pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

#[track_caller]
pub fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All documents, by their names from the root.
pub fn all() -> Vec<String> {
    let mut names: Vec<String> =
        ["README.md", "CONTRIBUTING.md", "docker/README.md", "packaging/README.md"].map(str::to_owned).into();
    for folder in ["docs", "docs/guides", "docs/decisions"] {
        for entry in std::fs::read_dir(path(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                names.push(format!("{folder}/{name}"));
            }
        }
    }
    names.sort();
    names
}

/// A fenced block.
#[derive(Clone)]
pub struct Block {
    /// What stands after the opening fence: `yaml fragment`.
    pub info: String,
    pub text: String,
    /// `README.md:17`.
    pub place: String,
}

pub fn blocks(name: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in read(name).lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => blocks.push(block),
            (Some(info), None) => {
                let place = format!("{name}:{}", number + 1);
                open = Some(Block { info: info.trim().to_owned(), text: String::new(), place });
            }
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{name}: a block is not closed");
    blocks
}

/// The text outside fenced blocks.
fn prose(name: &str) -> String {
    let mut fenced = false;
    let lines = read(name);
    let outside = lines.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    outside.collect::<Vec<_>>().join("\n")
}

/// Where the links of a document lead: a file from the root, and an anchor or nothing. Links to elsewhere are left out.
pub fn links(name: &str) -> Vec<(String, String)> {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let folder = Path::new(name).parent().unwrap();
    let mut links = Vec::new();
    for found in link.captures_iter(&prose(name)) {
        let (file, anchor) = found[1].split_once('#').unwrap_or((&found[1], ""));
        if file.contains("://") {
            continue;
        }
        let file = if file.is_empty() { name.to_owned() } else { folder.join(file).display().to_string() };
        links.push((file, anchor.to_owned()));
    }
    links
}

/// The anchors of a document's headings.
pub fn anchors(name: &str) -> Vec<String> {
    prose(name)
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#').trim()))
        .collect()
}

/// A heading's anchor, as GitHub makes it.
pub fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}
