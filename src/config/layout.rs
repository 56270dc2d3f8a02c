//! A config file reformatted: indents, spaces, quotes, line breaks. Comments and the order of keys stay.
//!
//! What the file means stays too: both texts are read, and one that would mean something else is never given out.

use std::panic::catch_unwind;

use pretty_yaml::config::{FormatOptions, LayoutOptions};
use serde_json::Value;

use super::load::{Problem, Problems, refuse_yaml};

/// The text reformatted. It need not be a good config, but YAML.
pub fn format(file: &str, text: &str) -> Result<String, Problems> {
    let meaning = |text: &str| {
        serde_saphyr::from_str_with_options::<Value>(text, serde_saphyr::options! { strict_booleans: true })
    };
    let before = meaning(text).map_err(|error| refuse_yaml(file, text, &error))?;
    let layout = LayoutOptions { print_width: WIDTH, ..LayoutOptions::default() };
    let options = FormatOptions { layout, ..FormatOptions::default() };
    // Its parser is another one than ours, so it may stumble over what ours has taken.
    let laid_out = catch_unwind(|| pretty_yaml::format_text(text, &options));
    match laid_out {
        Ok(Ok(laid_out)) if meaning(&laid_out).is_ok_and(|after| after == before) => Ok(laid_out),
        _ => {
            let problem =
                Problem::of_file("cannot be laid out without a change of what it means", "lay it out by hand");
            Err(Problems::new(file, text, vec![problem], &[]))
        }
    }
}

const WIDTH: usize = 120;
