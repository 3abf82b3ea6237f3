//! `plumb transforms`: the views of a running service.

use super::run::with_service;
use crate::args::{Transforms, TransformsAction};
use crate::client::{Client, encode};
use crate::context::{Output, settings};
use crate::exit::{Done, usage};
use anyhow::Result;
use plumb_assembly::Settings;
use plumb_serve_http::told::{View, Views};
use serde_json::Value;
use std::time::Duration;

/// A deployment builds state from the whole archive before it answers.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Lists the views, or changes which are active.
pub(crate) fn run(arguments: &Transforms, output: Output) -> Result<Done> {
    let admin = match &arguments.admin {
        Some(address) => address.clone(),
        None => {
            let settings = settings(arguments.config.as_deref())?;
            if settings.is_shared() && matches!(arguments.action, TransformsAction::List) {
                return list_shared(&settings, output);
            }
            if settings.is_shared() { admin_of_shared(&settings)? } else { admin_of_owner(&settings)? }
        }
    };
    let client = Client::new(&admin, PATIENCE)?;
    match &arguments.action {
        TransformsAction::List => {
            let document = client.get("/transforms")?;
            let views = client.read("GET /transforms", &document)?;
            output.print(&document, || lines(&views));
        }
        TransformsAction::Deploy { file, replace } => {
            let bytes = std::fs::read(file)
                .map_err(|error| usage(format!("cannot read the component `{}`: {error}", file.display())))?;
            let target = if *replace { "/transforms?replace=true" } else { "/transforms" };
            let document = client.post_bytes(target, "application/wasm", bytes)?;
            let view = client.read("POST /transforms", &document)?;
            output.print(&document, || format!("active: {}", line(&view)));
        }
        TransformsAction::Rollback { name } => {
            let route = format!("/transforms/{}/rollback", encode(name));
            let document = client.post_bytes(&route, "application/json", Vec::new())?;
            let view = client.read(&format!("POST {route}"), &document)?;
            output.print(&document, || format!("active: {}", line(&view)));
        }
        TransformsAction::Retire { name } => {
            let document = client.delete(&format!("/transforms/{}", encode(name)))?;
            output.print(&document, || {
                format!("retired: {name}; a start with its component in transforms.paths makes it active again")
            });
        }
    }
    Ok(Done::Ok)
}

/// The admin address of the process that owns the data folder.
fn admin_of_owner(settings: &Settings) -> Result<String> {
    let owner = plumb_embedded::owner_of(&settings.data_dir)?;
    owner.and_then(|owner| owner.admin).ok_or_else(|| {
        let folder = settings.data_dir.display();
        usage(format!("no running service owns `{folder}`: start `plumb run` or `plumb serve`, or give --admin"))
    })
}

/// The admin address of one of the processes that run a shared job, each of which can change its views: as configured.
fn admin_of_shared(settings: &Settings) -> Result<String> {
    match settings.serve.admin_listen.as_str() {
        any if any.ends_with(":0") => Err(usage(
            "several processes may run this job: give --admin with the admin address of one of them, which \
             `plumb run` prints where run.serve = true",
        )),
        address => Ok(address.to_owned()),
    }
}

/// Of a job that several processes run, the stores say which views are active.
fn list_shared(settings: &Settings, output: Output) -> Result<Done> {
    with_service(settings, |local| {
        let admin = local.admin()?;
        let document = admin.get("/transforms")?;
        let views = admin.read("GET /transforms", &document)?;
        output.print(&document, || lines(&views));
        Ok(Done::Ok)
    })
}

/// One line a view.
pub(crate) fn lines(found: &Views) -> String {
    found.views.iter().map(|view| line(view) + "\n").collect()
}

fn line(view: &View) -> String {
    let features = view.features.len();
    format!("{} {} ({}, {features} features, {})", view.view, view.version, view.entity.name, view.state)
}

/// The text form of one view in full.
pub(crate) fn pretty(document: &Value) -> String {
    format!("{document:#}")
}
