//! The pictures of the demo, and who holds which.

/// A drawing that says its own name.
#[derive(Debug)]
pub struct Picture {
    pub path: &'static str,
    /// Names of the nodes and the store that hold it.
    pub places: &'static [&'static str],
    colour: &'static str,
}

pub const PICTURES: [Picture; 5] = [
    Picture { path: "/cat.svg", places: &["chitoge", "taiga"], colour: "#e07a5f" },
    Picture { path: "/dog.svg", places: &["chitoge"], colour: "#3d5a80" },
    Picture { path: "/fox.svg", places: &["chitoge"], colour: "#bc6c25" },
    Picture { path: "/owl.svg", places: &["s3"], colour: "#6d597a" },
    Picture { path: "/loop/moon.svg", places: &["s3"], colour: "#457b9d" },
];

impl Picture {
    pub fn at(path: &str) -> Option<&'static Picture> {
        PICTURES.iter().find(|picture| picture.path == path)
    }

    pub fn svg(&self) -> String {
        let Picture { path, colour, places } = self;
        let places = places.join(" and ");
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" width="240" height="140" font-family="sans-serif" fill="#fff">
  <rect width="240" height="140" rx="12" fill="{colour}"/>
  <text x="20" y="65" font-size="26">{path}</text>
  <text x="20" y="105" font-size="16">held by {places}</text>
</svg>
"##
        )
    }
}

/// The paths of all that `place` holds, in one line.
pub fn held_by(place: &str) -> String {
    let held = PICTURES.iter().filter(|picture| picture.places.contains(&place));
    held.map(|picture| picture.path).collect::<Vec<_>>().join(" ")
}

/// The page that shows them all, and one that nobody has.
pub fn gallery() -> String {
    let images: String =
        PICTURES.iter().map(|picture| format!("<img src=\"{0}\" alt=\"{0}\">\n", picture.path)).collect();
    format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>hopfall demo</title>\n\
         <p>One address; three places that hold the files:</p>\n{images}\
         <p>Nobody has this one: <img src=\"/unicorn.svg\" alt=\"/unicorn.svg: 404\"></p>\n"
    )
}
