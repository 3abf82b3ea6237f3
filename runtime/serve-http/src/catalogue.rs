//! The catalogue's pages: entries as JSON, search, lineage.

use crate::backend::RegistryEntry;
use crate::problem::Problem;
use crate::uri::Parameters;
use plumb_pipeline::near;
use serde_json::{Value, json};

/// An entry as JSON: the definition with what the host knows of it.
pub(crate) fn entry(entry: &RegistryEntry) -> Value {
    let mut page = json!({
        "view": entry.view,
        "version": entry.version,
        "digest": entry.digest,
        "state": entry.state.name(),
    });
    if let (Value::Object(page), Value::Object(definition)) = (&mut page, &entry.definition) {
        let members = definition.iter().filter(|(name, _)| !matches!(name.as_str(), "name" | "version" | "format"));
        page.extend(members.map(|(name, value)| (name.clone(), value.clone())));
    }
    page
}

/// The entries of a search; every given parameter must match.
pub(crate) fn search<'a>(entries: &'a [RegistryEntry], parameters: &Parameters) -> Vec<&'a RegistryEntry> {
    let text = |entry: &'a RegistryEntry, at: &str| entry.definition.pointer(at).and_then(Value::as_str).unwrap_or("");
    let words = parameters.get("q").map(str::to_lowercase).unwrap_or_default();
    let matches = |entry: &&'a RegistryEntry| {
        let texts = texts(&entry.definition);
        let found = words.split_whitespace().all(|word| texts.iter().any(|text| text.to_lowercase().contains(word)));
        let tags = entry.definition.get("tags").and_then(Value::as_array);
        let has_tag = |tag: &str| tags.is_some_and(|tags| tags.iter().any(|known| known.as_str() == Some(tag)));
        found
            && parameters.get("tag").is_none_or(has_tag)
            && parameters.get("entity").is_none_or(|name| text(entry, "/entity/name") == name)
            && parameters.get("team").is_none_or(|name| text(entry, "/team") == name)
    };
    entries.iter().filter(matches).collect()
}

/// The names and descriptions of a view and its features.
fn texts(definition: &Value) -> Vec<&str> {
    let mut texts = Vec::new();
    for name in ["name", "description"] {
        texts.extend(definition.get(name).and_then(Value::as_str));
        let features = definition.get("features").and_then(Value::as_array).into_iter().flatten();
        texts.extend(features.filter_map(|feature| feature.get(name)?.as_str()));
    }
    texts
}

/// A view by name.
pub(crate) fn find<'a>(entries: &'a [RegistryEntry], view: &str) -> Result<&'a RegistryEntry, Problem> {
    entries.iter().find(|entry| entry.view == view).ok_or_else(|| {
        let names = || entries.iter().map(|entry| entry.view.as_str());
        let near = near::near_names(view, names());
        let hint = match near.as_slice() {
            [] if entries.is_empty() => "; none is loaded".to_owned(),
            [] => format!("; known are {}", near::quoted(names())),
            near => format!("; did you mean {}?", near::quoted(near.iter().map(String::as_str))),
        };
        Problem::unknown_view(format!("unknown view `{view}`{hint}")).with("near", near)
    })
}

/// What each feature of a view is made from.
pub(crate) fn lineage(entry: &RegistryEntry) -> Value {
    let definition = &entry.definition;
    let list = |name: &str| definition.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let aggregates = list("aggregates");
    let by_name = |name: &Value| aggregates.iter().find(|aggregate| aggregate.get("name") == Some(name)).cloned();
    let features: Vec<Value> = list("features")
        .iter()
        .map(|feature| {
            let names = feature.get("aggregates").and_then(Value::as_array).into_iter().flatten();
            json!({
                "feature": feature.get("name"),
                "type": feature.get("type"),
                "aggregates": names.filter_map(by_name).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "view": entry.view,
        "version": entry.version,
        "source": definition.get("source"),
        "entity": definition.get("entity"),
        "fields": definition.get("fields"),
        "features": features,
        "upstream": definition.get("upstream"),
        "consumers": definition.get("consumers"),
    })
}
