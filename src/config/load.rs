//! From text to [`File`]: YAML behind one function, and every mistake of shape at once.
//!
//! serde stops at its first error. So the text is first read as a plain tree with places, and the tree
//! is held against the JSON Schema of [`File`], which its types give: unknown keys, missing keys and wrong
//! shapes are all found in one pass. The `File` is then read without minding unknown keys.

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{Location, Spanned};

use super::model::File;

/// One mistake in a config file, with its place and its cure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line and column, from 1. Both 0 where no place is known.
    pub line: usize,
    pub column: usize,
    /// Length of the offending text in characters.
    pub length: usize,
    /// Where it begins in the file, in characters.
    offset: usize,
    /// What is wrong: the thing by name.
    pub message: String,
    /// What to write instead.
    pub fix: String,
}

impl Problem {
    pub fn at(place: Location, message: impl Into<String>, fix: impl Into<String>) -> Self {
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Problem {
            line: count(place.line()),
            column: count(place.column()),
            length: count(place.span().len()).max(1),
            offset: count(place.span().offset()),
            message: message.into(),
            fix: fix.into(),
        }
    }

    /// A mistake of the whole file.
    pub fn of_file(message: impl Into<String>, fix: impl Into<String>) -> Self {
        Problem { line: 0, column: 0, length: 0, offset: 0, message: message.into(), fix: fix.into() }
    }
}

/// Every mistake found in one file, in the order of their places.
#[derive(Debug)]
pub struct Problems {
    pub file: String,
    text: String,
    pub problems: Vec<Problem>,
}

impl Problems {
    /// `secrets` are the places of values that must not be shown.
    pub fn new(file: &str, text: &str, mut problems: Vec<Problem>, secrets: &[Range<usize>]) -> Self {
        let mut shown: Vec<char> = text.chars().collect();
        for secret in secrets {
            for c in shown.iter_mut().take(secret.end).skip(secret.start).filter(|c| !c.is_whitespace()) {
                *c = '*';
            }
        }
        for problem in &mut problems {
            if secrets.iter().any(|secret| secret.contains(&problem.offset)) {
                // What stands between backquotes may be the text itself.
                let mut parts = problem.message.splitn(3, '`');
                if let (Some(before), Some(_), Some(after)) = (parts.next(), parts.next(), parts.next()) {
                    problem.message = format!("{before}`***`{after}");
                }
            }
        }
        problems.sort_by_key(|problem| (problem.line, problem.column));
        Problems { file: file.to_owned(), text: shown.into_iter().collect(), problems }
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            match problem.line {
                0 => writeln!(f, "{}: {}", self.file, problem.message)?,
                line => writeln!(f, "{}:{line}:{}: {}", self.file, problem.column, problem.message)?,
            }
            if let Some(line) = self.text.lines().nth(problem.line.wrapping_sub(1)) {
                let gutter = problem.line.to_string();
                let pad = " ".repeat(gutter.len());
                let indent = problem.column.saturating_sub(1);
                let before: String = line.chars().take(indent).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
                let room = line.chars().count().saturating_sub(indent).max(1);
                let marks = "^".repeat(problem.length.min(room));
                writeln!(f, " {gutter} | {line}")?;
                writeln!(f, " {pad} | {before}{marks}")?;
            }
            write!(f, "  fix: {}", problem.fix)?;
            if i + 1 < self.problems.len() {
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

/// Whether a key's value may be a secret, going by its name. A private key's file is none.
fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let words = ["credential", "secret", "password", "passwd", "token"];
    // Those that a collector is sent.
    let headers = key == "headers";
    headers || words.iter().any(|word| key.contains(word)) || (key.ends_with("key") && key != "key")
}

/// Whether a value is no secret but says where one is.
fn is_reference(value: &str) -> bool {
    let value = value.trim_matches(['"', '\'']);
    let variable = value.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    let named = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    };
    variable.is_some_and(named) || value.starts_with("file:")
}

/// The places of all values that must not be shown: those under a secret's key, and an address with a
/// password in it.
fn secrets(tree: &Spanned<Tree>, hidden: bool, text: &[char], places: &mut Vec<Range<usize>>) {
    match &tree.value {
        Tree::Map(entries) => {
            for (key, value) in entries {
                secrets(value, hidden || is_secret(&key.value), text, places);
            }
        }
        Tree::List(items) => items.iter().for_each(|item| secrets(item, hidden, text, places)),
        Tree::Scalar | Tree::Null => {
            for place in [tree.referenced, tree.defined] {
                let start = usize::try_from(place.span().offset()).unwrap_or(usize::MAX);
                let end = start.saturating_add(usize::try_from(place.span().len()).unwrap_or(0)).min(text.len());
                let value: String = text.get(start..end).unwrap_or_default().iter().collect();
                let address = value.contains("://") && value.contains('@');
                if (hidden && !is_reference(&value) && value.trim() != "env") || address {
                    places.push(start..end);
                }
            }
        }
    }
}

/// The lines of a text that is not even YAML which may hold a secret: those with a secret's key, and what
/// follows one.
fn secret_lines(text: &str) -> Vec<Range<usize>> {
    let mut places = Vec::new();
    let mut start = 0;
    let mut before = false;
    for line in text.split_inclusive('\n') {
        let length = line.chars().count();
        let here = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-').any(is_secret);
        if here || before {
            places.push(start..start + length);
        }
        before = here;
        start += length;
    }
    places
}

/// Gives the file, if its shape allows one despite the mistakes, and the mistakes of shape. An unknown key
/// does allow one, so that `resolve` can add what else is wrong. And the places of secrets.
pub fn parse(text: &str) -> (Option<File>, Vec<Problem>, Vec<Range<usize>>) {
    let tree: Spanned<Tree> = match serde_saphyr::from_str(text) {
        Ok(tree) => tree,
        Err(error) => return (None, vec![not_yaml(&error)], secret_lines(text)),
    };
    let mut places = Vec::new();
    secrets(&tree, false, &text.chars().collect::<Vec<char>>(), &mut places);
    let schema = serde_json::to_value(schemars::schema_for!(File)).unwrap_or_default();
    let mut check = Check { root: &schema, problems: Vec::new() };
    check.node(&tree, &schema, "the file");
    match serde_saphyr::from_str(text) {
        Ok(file) => (Some(file), check.problems, places),
        Err(error) if check.problems.is_empty() => (None, vec![not_yaml(&error)], places),
        Err(_) => (None, check.problems, places),
    }
}

fn not_yaml(error: &serde_saphyr::Error) -> Problem {
    let place = error.location().unwrap_or(Location::UNKNOWN);
    let message = error.without_snippet().to_string();
    let message =
        message.split(" at line ").next().unwrap_or_default().split(", set ").next().unwrap_or_default().to_owned();
    let fix =
        if message.starts_with("duplicate") { "keep one of them" } else { "correct the YAML here or just before" };
    Problem::at(place, message, fix)
}

/// A text that is no YAML, as [`Problems`].
pub fn refuse_yaml(file: &str, text: &str, error: &serde_saphyr::Error) -> Problems {
    Problems::new(file, text, vec![not_yaml(error)], &secret_lines(text))
}

/// YAML without a meaning yet.
enum Tree {
    Null,
    Scalar,
    List(Vec<Spanned<Tree>>),
    Map(Vec<(Spanned<String>, Spanned<Tree>)>),
}

impl Tree {
    fn shape(&self) -> &'static str {
        match self {
            Tree::Null => "nothing",
            Tree::Scalar => "a single value",
            Tree::List(_) => "a list",
            Tree::Map(_) => "a mapping",
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TreeVisitor;
        impl<'de> Visitor<'de> for TreeVisitor {
            type Value = Tree;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("YAML")
            }
            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Null)
            }
            fn visit_str<E>(self, _: &str) -> Result<Tree, E> {
                Ok(Tree::Scalar)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
                Ok(Tree::Scalar)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
                Ok(Tree::Scalar)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
                Ok(Tree::Scalar)
            }
            fn visit_i128<E>(self, _: i128) -> Result<Tree, E> {
                Ok(Tree::Scalar)
            }
            fn visit_u128<E>(self, _: u128) -> Result<Tree, E> {
                Ok(Tree::Scalar)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
                Ok(Tree::Scalar)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Tree::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
                let mut map = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    map.push(entry);
                }
                Ok(Tree::Map(map))
            }
        }
        deserializer.deserialize_any(TreeVisitor)
    }
}

/// Holds a tree against the part of JSON Schema that schemars makes of our types.
struct Check<'s> {
    root: &'s Value,
    problems: Vec<Problem>,
}

impl<'s> Check<'s> {
    fn node(&mut self, tree: &Spanned<Tree>, schema: &'s Value, what: &str) {
        let Some(schema) = self.fitting(&tree.value, schema) else { return };
        let properties = schema.get("properties").and_then(Value::as_object);
        let additional = schema.get("additionalProperties").filter(|value| value.is_object());
        let items = schema.get("items");
        match &tree.value {
            Tree::Map(entries) if properties.is_some() || additional.is_some() => {
                for (key, value) in entries {
                    match properties.and_then(|properties| properties.get(&key.value)).or(additional) {
                        Some(inner) => self.node(value, inner, &format!("`{}`", key.value)),
                        None => self.unknown(key, properties, what),
                    }
                }
                let required =
                    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
                for missing in required.filter(|name| !entries.iter().any(|(key, _)| key.value == **name)) {
                    self.problems.push(Problem::at(
                        tree.referenced,
                        format!("{what} lacks the key `{missing}`"),
                        format!("add `{missing}`"),
                    ));
                }
            }
            Tree::List(list) if items.is_some() => {
                if list.is_empty() && schema.get("minItems").is_some() {
                    self.problems.push(Problem::at(tree.referenced, format!("{what} is empty"), "name at least one"));
                }
                for item in list {
                    self.node(item, items.unwrap_or(&Value::Null), &format!("an entry of {what}"));
                }
            }
            Tree::Scalar if properties.is_none() && additional.is_none() && items.is_none() => {}
            Tree::Null
                if schema
                    .get("type")
                    .and_then(Value::as_array)
                    .is_some_and(|types| types.iter().any(|t| t == "null")) => {}
            found => {
                let wanted = match (properties.is_some() || additional.is_some(), items.is_some()) {
                    (true, _) => "a mapping",
                    (_, true) => "a list",
                    _ => "a single value",
                };
                self.problems.push(Problem::at(
                    tree.referenced,
                    format!("{what} is {}, not {wanted}", found.shape()),
                    format!("write {wanted}"),
                ));
            }
        }
    }

    fn unknown(&mut self, key: &Spanned<String>, properties: Option<&serde_json::Map<String, Value>>, what: &str) {
        let known: Vec<&str> =
            properties.into_iter().flat_map(|properties| properties.keys().map(String::as_str)).collect();
        let fix = match nearest(&key.value, &known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("keys here: {}", known.join(", ")),
        };
        self.problems.push(Problem::at(key.referenced, format!("unknown key `{}` in {what}", key.value), fix));
    }

    /// Follows `$ref` and picks the branch of an `anyOf` whose shape is the tree's.
    fn fitting(&self, tree: &Tree, schema: &'s Value) -> Option<&'s Value> {
        if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
            return self.fitting(tree, self.root.pointer(name.strip_prefix('#')?)?);
        }
        let Some(branches) = schema.get("anyOf").and_then(Value::as_array) else { return Some(schema) };
        let mut resolved = branches.iter().filter_map(|branch| self.fitting(tree, branch));
        let wanted = match tree {
            Tree::Map(_) => "object",
            Tree::List(_) => "array",
            Tree::Null => "null",
            Tree::Scalar => "string",
        };
        let first = resolved.clone().next();
        resolved.find(|branch| branch.get("type").is_some_and(|kind| kind == wanted)).or(first)
    }
}

/// The known word closest to `word`, if one is close enough to be meant.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_by_their_keys() {
        for secret in ["secret_key", "secretkey", "access_key", "api-key", "session_token", "Password", "credentials"] {
            assert!(is_secret(secret), "{secret}");
        }
        for open in ["key", "name", "certificate", "keepalive", "bucket"] {
            assert!(!is_secret(open), "{open}");
        }
        for (value, reference) in [
            ("${AK}", true),
            ("\"${A_1}\"", true),
            ("file:/run/x", true),
            ("${hunter2", false),
            ("${A}hunter2", false),
            ("hunter2", false),
        ] {
            assert_eq!(is_reference(value), reference, "{value}");
        }
    }
}
