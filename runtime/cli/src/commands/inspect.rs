//! `plumb inspect`: what a component declares.

use crate::args::Inspect;
use crate::context::Output;
use crate::exit::Done;
use anyhow::Result;
use plumb_assembly::components;
use plumb_core::time::format_duration;
use plumb_core::view::{AggregateDef, ViewDef, WindowSpec};
use std::fmt::Write;

/// Loads and checks a component and prints its definition.
pub(crate) fn run(arguments: &Inspect, output: Output) -> Result<Done> {
    let file = components::load(&components::engine()?, &arguments.file)?;
    let (def, digest) = (&file.component.def, &file.component.digest);
    let mut json = plumb_transform::describe::to_json(def, &file.component.consumers);
    json["sha256"] = digest.to_string().into();
    json["world"] = plumb_transform::INTERFACE.into();
    json["bytes"] = file.bytes.len().into();
    output.print(&json, || {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            if !value.is_empty() {
                writeln!(text, "{name:<12} {value}").expect("text can be written to");
            }
        };
        line("view", format!("{} {}+{}", def.name, def.version, digest.short()));
        line("sha-256", digest.to_string());
        line("world", plumb_transform::INTERFACE.to_owned());
        line("size", format!("{} bytes", file.bytes.len()));
        line("entity", format!("{} (key {})", def.entity.name, def.entity.key.join(", ")));
        line("source", def.source.clone());
        line("description", def.description.clone());
        line(
            "owner",
            match (def.owner.as_str(), def.team.as_str()) {
                (owner, "") => owner.to_owned(),
                ("", team) => format!("team {team}"),
                (owner, team) => format!("{owner} ({team})"),
            },
        );
        line("tags", def.tags.join(", "));
        line("ttl", def.ttl_us.map_or("none".to_owned(), format_duration));
        let field = |field: &plumb_core::view::FieldUse| {
            format!("{}: {}{}", field.name, field.data_type.name(), if field.required { " (required)" } else { "" })
        };
        line("inputs", def.fields.iter().map(field).collect::<Vec<_>>().join(", "));
        text.push_str("features\n");
        text.push_str(&features(def));
        text
    });
    Ok(Done::Ok)
}

fn features(def: &ViewDef) -> String {
    let rows: Vec<[String; 4]> = def
        .features
        .iter()
        .map(|feature| {
            let mut windows: Vec<String> =
                feature.aggregates.iter().map(|&index| window(&def.aggregates[index])).collect();
            windows.dedup();
            [feature.name.clone(), feature.data_type.name(), windows.join(", "), feature.description.clone()]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (names, types, windows) = (width(0), width(1), width(2));
    rows.iter().fold(String::new(), |mut text, [name, data_type, window, description]| {
        writeln!(text, "  {name:<names$}  {data_type:<types$}  {window:<windows$}  {description}")
            .expect("text can be written to");
        text
    })
}

fn window(aggregate: &AggregateDef) -> String {
    match aggregate.window {
        WindowSpec::Sliding { width_us, hop_us: None } => format_duration(width_us),
        WindowSpec::Sliding { width_us, hop_us: Some(hop_us) } => {
            format!("{} hop {}", format_duration(width_us), format_duration(hop_us))
        }
        WindowSpec::Hopping { width_us, hop_us } if width_us == hop_us => {
            format!("tumbling {}", format_duration(width_us))
        }
        WindowSpec::Hopping { width_us, hop_us } => {
            format!("{} every {}", format_duration(width_us), format_duration(hop_us))
        }
        WindowSpec::Lifetime => "lifetime".to_owned(),
    }
}
