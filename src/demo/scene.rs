//! The scene: what stands behind hopfall, filled and running.

use std::path::Path;

use tempfile::TempDir;

use super::node::Node;
use super::picture::{PICTURES, Picture, gallery};
use super::store::Store;

/// Two nodes and a store over generated folders, which go when this does.
#[derive(Debug)]
pub struct Scene {
    pub folder: TempDir,
    /// The full node.
    pub chitoge: Node,
    /// The lean one.
    pub taiga: Node,
    pub store: Store,
}

impl Scene {
    pub async fn set() -> anyhow::Result<Scene> {
        let folder = tempfile::Builder::new().prefix("hopfall-demo-").tempdir()?;
        let place = |name| folder.path().join(name);
        for node in ["chitoge", "taiga"] {
            fill(&place(node), held_by(node))?;
        }
        Ok(Scene {
            chitoge: Node::start("chitoge", place("chitoge")).await?,
            taiga: Node::start("taiga", place("taiga")).await?,
            store: Store::start(&place("s3"), held_by("s3")).await?,
            folder,
        })
    }
}

fn held_by(place: &'static str) -> impl Iterator<Item = &'static Picture> {
    PICTURES.iter().filter(move |picture| picture.places.contains(&place))
}

/// Writes a node's folder.
fn fill(folder: &Path, pictures: impl Iterator<Item = &'static Picture>) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("index.html"), gallery())?;
    for picture in pictures {
        std::fs::write(folder.join(picture.path.trim_start_matches('/')), picture.svg())?;
    }
    Ok(())
}
