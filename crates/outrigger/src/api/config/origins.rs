//! Where each property of the configuration is from, and what is not used.

use outrigger_app_config::{ConfigState, KnownConfig, PropertyOrigin, PropertyValue, ViewProblem};
use serde_json::{Map, Value, json};

/// A JSON document: `parts`, `properties`, `hidden`, `problems`. Its age is not in it, so that it changes with the configuration alone.
/// `of_format`: problems of the format that was asked for.
pub(super) fn origins_json(state: &ConfigState, known: &KnownConfig, of_format: &[ViewProblem]) -> String {
    let parts: Vec<_> = state
        .parts
        .iter()
        .map(|part| {
            let keys = part.prefix.entries.as_ref().map_or(0, |entries| entries.len());
            let mut json =
                json!({"prefix": part.context.prefix, "as": part.context.layout.as_str(), "keys": keys});
            if let Some(failure) = &part.prefix.failure {
                json["failure"] = (**failure).into();
            }
            json
        })
        .collect();
    let properties: Map<String, Value> = known
        .view
        .properties()
        .iter()
        .map(|one| {
            let mut json = origin_json(&one.origin);
            json["value"] = value_json(&one.value);
            (one.name.clone(), json)
        })
        .collect();
    let hidden: Vec<_> = known
        .view
        .hidden()
        .iter()
        .map(|one| {
            let mut json = origin_json(&one.origin);
            json["name"] = one.name.clone().into();
            json
        })
        .collect();
    let problems: Vec<_> = known.view.problems().iter().chain(of_format).map(problem_json).collect();
    let mut json = json!({
        "version": &*known.version,
        "parts": parts,
        "properties": properties,
        "hidden": hidden,
        "problems": problems,
    });
    if state.is_stale() {
        json["stale"] = true.into();
    }
    format!("{json:#}\n")
}

fn origin_json(origin: &PropertyOrigin) -> Value {
    json!({"key": origin.key, "index": origin.index})
}

fn value_json(value: &PropertyValue) -> Value {
    match value {
        PropertyValue::Null => Value::Null,
        PropertyValue::Bool(value) => (*value).into(),
        // A number that a double cannot hold is text.
        PropertyValue::Number { json, .. } => serde_json::from_str(json)
            .ok()
            .filter(|value: &Value| serde_json::to_string(value).is_ok_and(|text| text == *json))
            .unwrap_or_else(|| json.clone().into()),
        PropertyValue::Text(text) => text.clone().into(),
        PropertyValue::EmptyList => Value::Array(Vec::new()),
        PropertyValue::EmptyMap => Value::Object(Map::new()),
    }
}

fn problem_json(problem: &ViewProblem) -> Value {
    json!({
        "key": problem.key,
        "index": problem.index,
        "reason": problem.reason.as_str(),
        "detail": problem.detail,
        "in_effect": problem.in_effect,
    })
}
