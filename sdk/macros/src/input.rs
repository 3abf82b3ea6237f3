//! What all derives need of their struct: named fields and at most one lifetime.

use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Field, Fields, GenericParam, Ident, Lifetime, Result};

/// A struct of named fields.
pub(crate) struct Input<'i> {
    pub(crate) name: &'i Ident,
    /// The struct's own lifetime.
    pub(crate) lifetime: Option<&'i Lifetime>,
    pub(crate) fields: Vec<&'i Field>,
}

impl<'i> Input<'i> {
    /// Reads a struct; `what` is what it declares, for the messages.
    pub(crate) fn new(input: &'i DeriveInput, what: &str) -> Result<Self> {
        let fields = match &input.data {
            Data::Struct(data) => match &data.fields {
                Fields::Named(fields) => fields.named.iter().collect(),
                _ => return Err(Error::new_spanned(&input.ident, format!("{what} are the named fields of a struct"))),
            },
            _ => return Err(Error::new_spanned(&input.ident, format!("{what} are the named fields of a struct"))),
        };
        let mut lifetime = None;
        for parameter in &input.generics.params {
            match parameter {
                GenericParam::Lifetime(parameter) if lifetime.is_none() => lifetime = Some(&parameter.lifetime),
                other => return Err(Error::new(other.span(), "one lifetime at most, and no other parameter")),
            }
        }
        Ok(Self { name: &input.ident, lifetime, fields })
    }

    /// The lifetime of the columns: the struct's own, or one that the struct does not use.
    pub(crate) fn column_lifetime(&self) -> Lifetime {
        self.lifetime.cloned().unwrap_or_else(|| Lifetime::new("'plumb", self.name.span()))
    }
}

/// A field's name as text, without `r#`.
pub(crate) fn field_name(field: &Field) -> String {
    field_ident(field).unraw().to_string()
}

/// A field's name.
pub(crate) fn field_ident(field: &Field) -> &Ident {
    field.ident.as_ref().expect("only structs of named fields get here")
}

/// Checks that a name can be one of plumb's: `[a-z][a-z0-9_]{0,62}` without `__`.
pub(crate) fn check_name(field: &Field) -> Result<String> {
    let name = field_name(field);
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase());
    let rest = bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if !first || !rest || name.len() > 63 || name.contains("__") {
        let why = format!("`{name}` is no name here: [a-z][a-z0-9_]{{0,62}} without a double underscore");
        return Err(Error::new_spanned(field_ident(field), why));
    }
    Ok(name)
}

/// Collects all errors, so that one compilation shows them all.
pub(crate) fn all<T>(results: impl Iterator<Item = Result<T>>) -> Result<Vec<T>> {
    let mut values = Vec::new();
    let mut failure: Option<Error> = None;
    for result in results {
        match (result, &mut failure) {
            (Ok(value), _) => values.push(value),
            (Err(error), Some(all)) => all.combine(error),
            (Err(error), None) => failure = Some(error),
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(values),
    }
}
