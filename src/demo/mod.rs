//! `hopfall demo`: the chain at work with nothing else installed, told as a story.
//!
//! Two static nodes, a store that verifies signatures and hopfall itself run in this process, on loopback.
//! Nothing here is reached from `hopfall run`: only `cli` knows this module, and only with the feature `demo`.

mod client;
mod front;
mod node;
mod picture;
mod port;
mod scene;
mod store;
mod table;
mod trial;

use std::future::pending;
use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli;
use crate::server::Told;
use front::Front;
use scene::Scene;

/// Shows the chain. With `once`, ends after the requests; without, serves until SIGINT or SIGTERM.
///
/// The exit code is 0 only if every case came out right.
pub fn run(once: bool) -> ExitCode {
    let shown = cli::runtime(0).and_then(|runtime| {
        let shown = runtime.block_on(show(once));
        runtime.shutdown_background();
        shown
    });
    match shown {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("hopfall demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all came out right.
async fn show(once: bool) -> anyhow::Result<bool> {
    // Before the folders are made, so that whatever ends us also removes them.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let scene = Scene::set().await.context("the nodes and the store could not be started")?;
    let (front, server) = Front::bind(&scene).await?;
    scene.taiga.point_back_to(front.web);
    println!("{}", prologue(&scene, &front));

    let mut verdict = Ok(false);
    server
        .run(async || {
            let story = async {
                verdict = trial::run(&scene, &front).await;
                if !once && verdict.is_ok() {
                    println!("{}", epilogue(&scene, &front));
                    pending::<()>().await;
                }
            };
            tokio::select! {
                () = story => {}
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            // Never `Drain`, which would ask again.
            Told::StopNow
        })
        .await;
    verdict
}

fn prologue(scene: &Scene, front: &Front) -> String {
    let places = [("chitoge", "full node"), ("taiga", "lean node"), ("s3", "bucket")];
    let address = |name| match name {
        "chitoge" => scene.chitoge.address,
        "taiga" => scene.taiga.address,
        _ => scene.store.address,
    };
    let rows: Vec<_> = places
        .iter()
        .map(|&(name, kind)| [name.into(), kind.into(), format!("http://{}", address(name)), picture::held_by(name)])
        .collect();
    let places = table::render(["name", "is a", "at", "holds"], &rows);
    let yaml = front.yaml.trim_end().replace('\n', "\n    ");
    format!(
        "Two storage nodes, an S3 bucket and hopfall in front, all in this process and on loopback.\n\
         When one lacks a file, hopfall asks the next that it has not asked yet, and finally S3.\n\n\
         WHAT IS WHERE\n{places}\n    \
         taiga is misconfigured, to show that hopfall cannot loop: what it lacks under /loop/ it asks hopfall for.\n    \
         s3 refuses whoever does not sign.\n\n\
         HOPFALL'S CONFIG\n    {yaml}\n\
         It listens on http://{}, for admins on http://{}.\n",
        front.web, front.admin
    )
}

fn epilogue(scene: &Scene, front: &Front) -> String {
    let Front { web, admin, .. } = front;
    let store = scene.store.address;
    let lines = [
        (format!("http://{web}/"), "in a browser: all the pictures"),
        (format!("curl -i http://{web}/dog.svg"), "only chitoge has it"),
        (format!("curl -i http://{web}/owl.svg"), "only the bucket has it"),
        (format!("curl -i http://{web}/loop/moon.svg"), "taiga calls back; it is served all the same"),
        (format!("curl -i http://{web}/unicorn.svg"), "nobody has it"),
        (format!("curl -i http://{store}/{}/owl.svg", store::BUCKET), "the bucket itself, unsigned: refused"),
        (format!("curl http://{admin}/metrics"), "what hopfall counted"),
    ];
    let rows = lines.map(|(what, why)| [what, why.to_owned()]);
    let folder = scene.folder.path().display();
    format!(
        "{}\n    The nodes' folders are in {folder}: put files there.",
        table::render(["try (Ctrl-C ends)", ""], &rows)
    )
}
