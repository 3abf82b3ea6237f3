//! Component files to transforms.

use crate::{Error, Result, Settings};
use plumb_transform::{Engine, EngineOptions, LoadedComponent, Transform};
use std::path::{Path, PathBuf};

/// A component's file with what it declares.
#[derive(Debug, Clone)]
pub struct ComponentFile {
    /// The file.
    pub path: PathBuf,
    /// Its bytes: what a deploy stores.
    pub bytes: Vec<u8>,
    /// What it declares.
    pub component: LoadedComponent,
}

/// An engine that keeps compiled components in the user's cache folder (`PLUMB_CACHE_DIR`, else
/// `XDG_CACHE_HOME/plumb`, else `HOME/.cache/plumb`), or nowhere if there is none of these.
pub fn engine() -> Result<Engine> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache_dir = variable("PLUMB_CACHE_DIR")
        .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("plumb")))
        .or_else(|| variable("HOME").map(|folder| folder.join(".cache/plumb")))
        .map(|folder| folder.join("components"));
    Ok(Engine::new(EngineOptions { cache_dir, ..EngineOptions::default() })?)
}

/// Loads a component; errors name the file.
pub fn load(engine: &Engine, path: &Path) -> Result<ComponentFile> {
    let name = path.display();
    let bytes =
        std::fs::read(path).map_err(|error| Error::invalid(format!("cannot read the component `{name}`: {error}")))?;
    let component = engine.load(&bytes).map_err(|error| Error::invalid(format!("`{name}`: {error}")))?;
    Ok(ComponentFile { path: path.to_owned(), bytes, component })
}

/// Binds a component to the source it names in the settings.
pub fn bind(component: &LoadedComponent, settings: &Settings) -> Result<Transform> {
    let source = settings.source(&component.def.source)?;
    let schema = settings.schema(&component.def.source)?;
    Ok(Transform::new(component.clone(), &schema, source.allowed_lateness_us)?)
}

/// Loads and binds components, each view once.
pub fn transforms(engine: &Engine, paths: &[PathBuf], settings: &Settings) -> Result<Vec<Transform>> {
    let mut transforms: Vec<Transform> = Vec::with_capacity(paths.len());
    for path in paths {
        let file = load(engine, path)?;
        let transform = bind(&file.component, settings)?;
        if let Some(other) = transforms.iter().find(|other| other.def().name == transform.def().name) {
            let (name, other) = (&transform.def().name, other.version_label());
            return Err(Error::invalid(format!(
                "`{}` is the view `{name}` {}, but `{name}` {other} was given too: give one of them",
                path.display(),
                transform.version_label()
            )));
        }
        transforms.push(transform);
    }
    Ok(transforms)
}
