//! The JSON Schema of the config file, for editors. It is made from the types that the file is read with.
//!
//! It knows less than `hopfall check`: names that point nowhere, and most bounds, only `resolve` finds.

use schemars::generate::SchemaSettings;

use super::model::File;

/// The schema as JSON. Draft 7: that is the newest one that the editors' YAML support knows whole.
pub fn schema() -> String {
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<File>();
    schema.insert("title".to_owned(), "hopfall's config file".into());
    format!("{:#}\n", schema.to_value())
}
