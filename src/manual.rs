//! Manual pages and shell completions, made from the command line's own definition: packages install them.

use std::io::{Write, stdout};
use std::path::Path;

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;

/// Writes `hopfall.1` and a page for each command, such as `hopfall-run.1`.
///
/// # Errors
/// When the folder is not there, or cannot be written to.
pub fn pages(command: Command, folder: &Path) -> anyhow::Result<()> {
    clap_mangen::generate_to(command, folder).with_context(|| format!("{}: cannot be written to", folder.display()))
}

/// Prints the completions for `shell`.
///
/// # Errors
/// When standard output cannot be written to.
pub fn completions(mut command: Command, shell: Shell) -> anyhow::Result<()> {
    // Whole before it is printed: clap_complete panics when its output is closed.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "hopfall", &mut script);
    stdout().write_all(&script).context("standard output cannot be written to")
}
