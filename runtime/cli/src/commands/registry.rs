//! `plumb registry`: the catalogue.

use super::run::with_service;
use super::transforms::{lines, pretty};
use crate::args::{Registry, RegistryAction};
use crate::client::encode;
use crate::context::{Output, settings};
use crate::exit::Done;
use anyhow::Result;
use plumb_serve_http::told::Views;

/// Lists, searches or shows views.
pub(crate) fn run(arguments: &Registry, output: Output) -> Result<Done> {
    let settings = settings(arguments.config.as_deref())?;
    with_service(&settings, |local| {
        let client = local.client()?;
        match &arguments.action {
            RegistryAction::List => {
                let document = client.get("/registry")?;
                let views = client.read("GET /registry", &document)?;
                output.print(&document, || lines(&views));
            }
            RegistryAction::Search { text } => {
                let document = client.get(&format!("/registry/search?q={}", encode(text)))?;
                let found: Views = client.read("GET /registry/search", &document)?;
                output.print(&document, || match found.views.is_empty() {
                    true => format!("no view or feature holds `{text}`"),
                    false => lines(&found),
                });
            }
            RegistryAction::Lineage { view } => {
                let document = client.get(&format!("/registry/{}/lineage", encode(view)))?;
                output.print(&document, || pretty(&document));
            }
            RegistryAction::Show { view } => {
                let document = client.get(&format!("/registry/{}", encode(view)))?;
                output.print(&document, || pretty(&document));
            }
        }
        Ok(Done::Ok)
    })
}
