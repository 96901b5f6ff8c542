//! `docs/schema`, read strictly: a field that a schema does not name is an error here, though not
//! for users, for whom fields may be added.

use std::{fs, path::Path};

use jsonschema::{Registry, Validator};
use serde_json::Value;

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schema");

/// Panics with all that does not fit.
pub fn check(name: &str, document: &Value) {
    let problems: Vec<String> = validator(name)
        .iter_errors(document)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(problems.is_empty(), "{name}: {problems:#?}\nin {document:#}");
}

pub fn fits(name: &str, document: &Value) -> bool {
    validator(name).is_valid(document)
}

fn validator(name: &str) -> Validator {
    let schemas: Vec<(String, Value)> = fs::read_dir(DIRECTORY)
        .unwrap()
        .map(|entry| read(&entry.unwrap().path()))
        .map(|schema| (schema["$id"].as_str().unwrap().to_owned(), schema))
        .collect();
    let wanted = schemas
        .iter()
        .find(|(id, _)| id.ends_with(&format!("/{name}.json")))
        .map(|(_, schema)| schema.clone())
        .unwrap();
    let mut registry = Registry::new();
    for (id, schema) in schemas {
        registry = registry.add(id, schema).unwrap();
    }
    let registry = registry.prepare().unwrap();
    jsonschema::options()
        .with_registry(&registry)
        .offline()
        .should_validate_formats(true)
        .build(&wanted)
        .unwrap()
}

fn read(path: &Path) -> Value {
    let mut schema = serde_json::from_str(&fs::read_to_string(path).unwrap())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    close(&mut schema);
    schema
}

/// Lets objects have no other fields than those that are named, unless it is said what others hold.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            let is_map = object.get("additionalProperties").is_some_and(Value::is_object);
            if object.get("type").is_some_and(|kind| kind == "object") && !is_map {
                object.insert("additionalProperties".into(), false.into());
            }
            object.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}
