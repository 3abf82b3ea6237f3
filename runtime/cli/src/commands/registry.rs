//! `plumb registry`: the catalogue.

use super::run::with_service;
use super::transforms::{pretty, views};
use crate::args::{Registry, RegistryAction};
use crate::client::encode;
use crate::context::{Output, settings};
use crate::exit::Done;
use anyhow::Result;

/// Lists, searches or shows views.
pub(crate) fn run(arguments: &Registry, output: Output) -> Result<Done> {
    let settings = settings(arguments.config.as_deref())?;
    with_service(&settings, |local| {
        let client = local.client()?;
        match &arguments.action {
            RegistryAction::List => {
                let document = client.get("/registry")?;
                output.print(&document, || views(&document));
            }
            RegistryAction::Search { text } => {
                let document = client.get(&format!("/registry/search?q={}", encode(text)))?;
                output.print(&document, || match views(&document) {
                    none if none.is_empty() => format!("no view or feature holds `{text}`"),
                    found => found,
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
