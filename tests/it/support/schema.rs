//! What an editor sees of a config: a JSON Schema validator that is not ours, on the schema that `hopfall schema` prints.

use std::sync::OnceLock;

use jsonschema::Validator;

/// What the schema says against a text; `Err` if that is no YAML.
pub fn mistakes(yaml: &str) -> Result<Vec<String>, String> {
    static VALIDATOR: OnceLock<Validator> = OnceLock::new();
    let validator = VALIDATOR.get_or_init(|| {
        let schema = serde_json::from_str(&hopfall::config::schema()).unwrap();
        jsonschema::validator_for(&schema).expect("it is a schema")
    });
    // YAML 1.2, as editors read it: `off` is a word there.
    let options = serde_saphyr::options! { strict_booleans: true };
    let document: serde_json::Value =
        serde_saphyr::from_str_with_options(yaml, options).map_err(|error| error.to_string())?;
    Ok(validator.iter_errors(&document).map(|error| format!("{}: {error}", error.instance_path())).collect())
}
