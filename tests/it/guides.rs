//! The guides, carried out: their shell blocks as they stand, in order, with this machine's addresses in place of those of
//! the block `sh settings`.

use std::process::Command;
use std::time::Duration;

use crate::support::client;
use crate::support::curl::curl;
use crate::support::documents::{Block, blocks, read};
use crate::support::hopfall::Hopfall;
use crate::support::nginx::Nginx;
use crate::support::process::{Ran, run};
use crate::support::seaweed::Seaweed;

/// The commands of one guide.
struct Guide {
    settings: String,
    steps: Vec<Block>,
}

impl Guide {
    /// Every setting of the guide must be given.
    fn open(name: &str, settings: &[(&str, &str)]) -> Guide {
        let (settings_blocks, steps): (Vec<Block>, Vec<Block>) = blocks(name)
            .into_iter()
            .filter(|block| block.info.starts_with("sh"))
            .partition(|b| b.info == "sh settings");
        let names: Vec<&str> =
            settings_blocks[0].text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        assert_eq!(names, settings.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        let settings = settings.iter().map(|(name, value)| format!("{name}=\"{value}\"\n")).collect();
        Guide { settings, steps }
    }

    /// The next step that has this in it, and all before it.
    #[track_caller]
    fn up_to(&mut self, what: &str) {
        loop {
            assert!(!self.steps.is_empty(), "no step with `{what}`");
            let step = self.steps.remove(0);
            let ran = self.sh(&step.text);
            assert_eq!(ran.code, Some(0), "{}\n{}{}{}", step.place, step.text, ran.stdout, ran.stderr);
            if step.text.contains(what) {
                return;
            }
        }
    }

    fn sh(&self, text: &str) -> Ran {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &format!("{}{text}", self.settings)]);
        for (name, _) in std::env::vars_os() {
            // This machine's own settings must not decide a test.
            let name = name.to_string_lossy().into_owned();
            if ["AWS_", "RCLONE_"].iter().any(|begin| name.starts_with(begin))
                || name.to_lowercase().ends_with("_proxy")
            {
                command.env_remove(name);
            }
        }
        command.env("RCLONE_CONFIG", "/dev/null");
        command.env("AWS_ACCESS_KEY_ID", Seaweed::shared().access_key());
        command.env("AWS_SECRET_ACCESS_KEY", Seaweed::shared().secret_key());
        run(&mut command, Duration::from_secs(120))
    }
}

#[test]
fn old_files_are_moved_to_s3_by_the_guide_and_their_urls_stay() {
    let s3 = Seaweed::shared();
    s3.bucket("guide");
    let odd = "2019/a cat, 50% & #1 猫.jpg";
    let nginx = Nginx::with_files(&[("2019/old.jpg", b"old"), (odd, b"odd"), ("2026/new.jpg", b"new")]);
    let files = nginx.root();
    for name in ["2019/old.jpg", odd] {
        let ran = run(Command::new("touch").args(["-d", "2 years ago"]).arg(files.join(name)), Duration::from_secs(10));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
    let hopfall = hopfall(
        MOVE,
        &[
            ("0.0.0.0:8080", "{web}"),
            ("127.0.0.1:8081", "{addr:proof}"),
            ("127.0.0.1:9090", "{admin}"),
            ("127.0.0.1:8000", &nginx.addr().to_string()),
            ("bucket: awwni-cdn", &format!("bucket: guide, endpoint: \"{}\"", s3.endpoint())),
        ],
    );

    let work = tempfile::tempdir().unwrap();
    let place = |name: &str| work.path().join(name).display().to_string();
    let bucket = format!(":s3,provider=Other,env_auth=true,no_check_bucket=true,endpoint='{}':guide", s3.endpoint());
    let mut guide = Guide::open(
        MOVE,
        &[
            ("files", files.to_str().unwrap()),
            ("list", &place("old.txt")),
            ("aside", &place("aside")),
            ("bucket", &bucket),
            ("web", &format!("http://{}", hopfall.web())),
            ("proof", &format!("http://{}", hopfall.address("proof"))),
        ],
    );
    guide.up_to("-mtime");
    assert_eq!(std::fs::read_to_string(place("old.txt")).unwrap(), format!("{odd}\n2019/old.jpg\n"));
    // The proof is one: without the files in the bucket it fails.
    let proof = guide.steps.iter().find(|step| step.text.contains("$proof")).unwrap().text.clone();
    assert_ne!(guide.sh(&proof).code, Some(0));
    guide.up_to("rclone copy");
    guide.up_to("$proof");
    assert!(nginx.requests().is_empty(), "the proof asks only S3");
    guide.up_to("rclone move");
    assert!(!files.join("2019/old.jpg").exists() && files.join("2026/new.jpg").exists());
    let old = hopfall.get("/2019/old.jpg");
    assert_eq!((old.status, old.text().as_str()), (200, "old"));
    assert_eq!(old.header("cache-control"), Some("public, max-age=604800"));
    assert_eq!(hopfall.get("/2026/new.jpg").text(), "new");
    guide.up_to("$web");
    guide.up_to("rclone move");
    assert_eq!(std::fs::read(files.join(odd)).unwrap(), b"odd", "the way back, while the files are there");
    nginx.remove("2019/old.jpg");
    guide.up_to("\"$bucket\" \"$files\"");
    assert_eq!(std::fs::read(files.join("2019/old.jpg")).unwrap(), b"old", "the way back from the bucket");
}

#[test]
fn mastodons_media_are_served_by_the_guide_from_the_disk_and_from_s3_under_the_same_urls() {
    let s3 = Seaweed::shared();
    s3.bucket("mastodata");
    s3.put("mastodata", "system/media/new.png", "new", "image/png");
    let hopfall = hopfall(
        MASTODON,
        &[
            ("127.0.0.1:8080", "{web}"),
            ("127.0.0.1:9090", "{admin}"),
            ("bucket: mastodata", &format!("bucket: mastodata, endpoint: \"{}\"", s3.endpoint())),
        ],
    );
    let lines = block(MASTODON, "nginx").replace("127.0.0.1:8080", &hopfall.web().to_string());
    let nginx = Nginx::builder().file("system/media/old.png", "old").extra_server_lines(&lines).start();

    let get = |target: &str| client::get(nginx.addr(), target);
    let (old, new) = (get("/system/media/old.png"), get("/system/media/new.png"));
    assert_eq!((old.status, old.text().as_str(), old.header("proxy-status")), (200, "old", None));
    assert_eq!((new.status, new.text().as_str()), (200, "new"));
    assert_eq!(new.header("proxy-status"), Some("hopfall; received-status=200; next-hop=\"s3\""));
    assert_eq!(new.header("content-type"), Some("image/png"));
    for answer in [&old, &new] {
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    }
    assert_eq!(get("/system/media/nowhere.png").status, 404);
    // Before Mastodon 4.3.
    let rewrite = "rewrite ^/system/(.*)$ /$1 break;";
    assert!(read(MASTODON).contains(rewrite));
    s3.put("mastodata", "media/older.png", "older", "image/png");
    let lines = lines.replace("limit_except", &format!("{rewrite} limit_except"));
    let before = Nginx::builder().extra_server_lines(&lines).start();
    assert_eq!(client::get(before.addr(), "/system/media/older.png").text(), "older");

    let put = curl(&["-X", "PUT", "-d", "x", &format!("http://{}/system/media/new.png", nginx.addr())]);
    assert_eq!(put.status, 403);
}

fn block(guide: &str, info: &str) -> String {
    blocks(guide).into_iter().find(|block| block.info == info).unwrap_or_else(|| panic!("{guide}: no {info}")).text
}

/// The guide's config, with these words replaced, running.
fn hopfall(guide: &str, here: &[(&str, &str)]) -> Hopfall {
    let yaml = here.iter().fold(block(guide, "yaml"), |yaml, (theirs, ours)| {
        assert!(yaml.contains(theirs), "{guide}: {theirs}");
        yaml.replace(theirs, ours)
    });
    let s3 = Seaweed::shared();
    let keys = [("AWS_ACCESS_KEY_ID", s3.access_key()), ("AWS_SECRET_ACCESS_KEY", s3.secret_key())];
    Hopfall::start_with_env(&yaml, &keys)
}

const MOVE: &str = "docs/guides/move-old-files-to-s3.md";
const MASTODON: &str = "docs/guides/mastodon.md";
