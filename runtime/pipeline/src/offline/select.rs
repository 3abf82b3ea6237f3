//! Which features are asked for: `view:feature` or `view:*`, comma-separated.

use crate::near::{near_names, quoted};
use crate::{Error, Result};
use plumb_transform::Transform;
use std::collections::BTreeMap;

/// Features asked of one view.
#[derive(Debug, Clone)]
pub struct ViewSelection {
    /// The view.
    pub transform: Transform,
    /// The features, by index in its definition, in the order asked; each once.
    pub features: Vec<usize>,
}

/// Features asked, in order.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// The views, in the order first named.
    pub views: Vec<ViewSelection>,
    /// Every feature in the order asked, as (index in `views`, index in its `features`).
    pub order: Vec<(usize, usize)>,
}

impl Selection {
    /// Every feature of these views.
    pub fn all(transforms: &[Transform]) -> Self {
        let mut selection = Selection::default();
        for transform in transforms {
            (0..transform.def().features.len()).for_each(|feature| selection.add(transform, feature));
        }
        selection
    }

    /// Reads a list as in `user_activity:*,item_activity:avg_rating`. An unknown name is an error that lists
    /// the near ones.
    pub fn parse(list: &str, transforms: &[Transform]) -> Result<Self> {
        let mut selection = Selection::default();
        for asked in list.split(',').map(str::trim).filter(|asked| !asked.is_empty()) {
            let Some((view, feature)) = asked.split_once(':') else {
                let why = "write `view:feature` or `view:*`";
                return Err(Error::invalid(format!("feature `{asked}` names no view: {why}")));
            };
            let views = || transforms.iter().map(|transform| transform.def().name.as_str());
            let Some(transform) = transforms.iter().find(|transform| transform.def().name == view) else {
                return Err(unknown(&format!("view `{view}`"), view, "views", views()));
            };
            let features = &transform.def().features;
            if feature == "*" {
                (0..features.len()).for_each(|feature| selection.add(transform, feature));
                continue;
            }
            match features.iter().position(|def| def.name == feature) {
                Some(index) => selection.add(transform, index),
                None => {
                    let names = features.iter().map(|def| def.name.as_str());
                    return Err(unknown(&format!("feature `{asked}`"), feature, "features of the view", names));
                }
            }
        }
        if selection.order.is_empty() {
            return Err(Error::invalid("no features are asked for: write `view:feature` or `view:*`, comma-separated"));
        }
        Ok(selection)
    }

    fn add(&mut self, transform: &Transform, feature: usize) {
        let name = &transform.def().name;
        let view = self.views.iter().position(|view| view.transform.def().name == *name).unwrap_or_else(|| {
            self.views.push(ViewSelection { transform: transform.clone(), features: Vec::new() });
            self.views.len() - 1
        });
        let features = &mut self.views[view].features;
        if !features.contains(&feature) {
            features.push(feature);
            self.order.push((view, features.len() - 1));
        }
    }

    /// The indices of the views by the source they read.
    pub fn by_source(&self) -> BTreeMap<&str, Vec<usize>> {
        let mut sources: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, view) in self.views.iter().enumerate() {
            sources.entry(view.transform.def().source.as_str()).or_default().push(index);
        }
        sources
    }
}

fn unknown<'a>(what: &str, name: &str, kind: &str, known: impl Iterator<Item = &'a str> + Clone) -> Error {
    let near = near_names(name, known.clone());
    if near.is_empty() {
        return Error::invalid(format!("unknown {what}; known {kind} are {}", quoted(known)));
    }
    Error::invalid(format!("unknown {what}; did you mean {}?", quoted(near.iter().map(String::as_str))))
}
