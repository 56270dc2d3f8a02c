//! The Debian package, as `packaging/build-deb` builds it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::process::run;
use super::{hopfall, watchdog};

/// The config that it brings.
pub const CONFIG: &str = "/etc/hopfall/hopfall.yaml";
/// It strips and packs a debug build of some 200 MiB.
pub const BUILD_PATIENCE: Duration = Duration::from_secs(120);

/// The package of the tested binary, built once.
pub fn deb() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();

    BUILT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = tempfile::tempdir().unwrap().keep();
        watchdog::guard_path(&folder);
        let mut build = Command::new(root.join("packaging/build-deb"));
        build.arg(&folder).arg(hopfall::BINARY).arg("--fast");
        let tool = root.join("target/test-tools/venv/bin/cargo-deb");
        build.env("CARGO_DEB", std::env::var_os("HOPFALL_TEST_CARGO_DEB").unwrap_or(tool.into()));
        let built = run(&mut build, BUILD_PATIENCE);
        assert_eq!(built.code, Some(0), "{}{}", built.stdout, built.stderr);
        let mut files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        files.find(|path| path.extension().is_some_and(|ending| ending == "deb")).expect("a package is there")
    })
}
