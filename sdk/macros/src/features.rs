//! `Features`: what a view gives, and from which aggregates.

use crate::input::{Input, all, check_name, field_ident};
use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::punctuated::Punctuated;
use syn::{DeriveInput, Error, Expr, ExprLit, Field, Ident, Index, Lit, Meta, Path, Result, Token};

/// `#[derive(Features)]`.
pub(crate) fn expand(derive: &DeriveInput) -> Result<TokenStream> {
    let input = Input::new(derive, "features")?;
    let name = input.name;
    let generics = input.lifetime.map(|lifetime| quote!(<#lifetime>));
    let aggregates_type = named_type(derive, "aggregates", "Aggregates")?;
    let features = all(input.fields.iter().map(|field| feature(field)))?;
    let definitions = features.iter().map(|feature| &feature.definition);
    let sources = features.iter().flat_map(|feature| &feature.aggregates);
    let checks = sources.map(|aggregate| quote_spanned!(aggregate.span()=> let _ = &aggregates.#aggregate;));
    let types: Vec<_> = input.fields.iter().map(|field| &field.ty).collect();
    let idents: Vec<_> = input.fields.iter().map(|field| field_ident(field)).collect();
    let at: Vec<Index> = (0..idents.len()).map(Index::from).collect();
    Ok(quote! {
        impl #generics ::plumb_sdk::view::FeatureRow for #name #generics {
            const FEATURES: &'static [::plumb_sdk::FeatureDef] = &[#(#definitions),*];
            type Buffers = (#(<#types as ::plumb_sdk::write::FeatureValue>::Buffer,)*);

            fn buffers(rows: usize) -> Self::Buffers {
                (#(<#types as ::plumb_sdk::write::FeatureValue>::buffer(rows),)*)
            }

            #[inline]
            fn push(self, buffers: &mut Self::Buffers) {
                #(::plumb_sdk::write::FeatureValue::write(self.#idents, &mut buffers.#at);)*
            }

            fn push_nulls(buffers: &mut Self::Buffers) {
                #(<#types as ::plumb_sdk::write::FeatureValue>::write_null(&mut buffers.#at);)*
            }

            fn finish(buffers: Self::Buffers) -> ::std::vec::Vec<::plumb_sdk::column::Column> {
                ::std::vec![#(<#types as ::plumb_sdk::write::FeatureValue>::finish(buffers.#at)),*]
            }
        }

        const _: () = {
            #[allow(dead_code, elided_lifetimes_in_paths)]
            fn aggregates_exist(aggregates: &#aggregates_type) {
                #(#checks)*
            }
        };
    })
}

struct Feature {
    definition: TokenStream,
    /// The aggregates, at the place where they are named.
    aggregates: Vec<Ident>,
}

fn feature(field: &Field) -> Result<Feature> {
    let name = check_name(field)?;
    if name == "event_time" {
        return Err(Error::new_spanned(
            field_ident(field),
            "`event_time` is no feature name: outputs have a column of it",
        ));
    }
    let field_type = &field.ty;
    let description = description(field);
    if description.is_empty() {
        let why = format!("feature `{name}` needs a doc comment: it is the feature's description in the registry");
        return Err(Error::new_spanned(field_ident(field), why));
    }
    let aggregates = aggregates_of(field)?;
    let names = aggregates.iter().map(|aggregate| aggregate.unraw().to_string());
    let definition = quote! {
        ::plumb_sdk::FeatureDef {
            name: #name,
            feature_type: <#field_type as ::plumb_sdk::write::FeatureValue>::TYPE,
            description: #description,
            aggregates: &[#(#names),*],
        }
    };
    Ok(Feature { definition, aggregates })
}

/// The aggregates of `#[from(one, another)]`, or the one of the feature's own name.
fn aggregates_of(field: &Field) -> Result<Vec<Ident>> {
    let mut attributes = field.attrs.iter().filter(|attribute| attribute.path().is_ident("from"));
    let Some(attribute) = attributes.next() else {
        return Ok(vec![field_ident(field).clone()]);
    };
    if let Some(second) = attributes.next() {
        return Err(Error::new_spanned(second, "one `from` attribute at most; it takes several names"));
    }
    let names = attribute.parse_args_with(Punctuated::<Ident, Token![,]>::parse_terminated).map_err(|_| {
        Error::new_spanned(attribute, "name the aggregates it is made from, as in #[from(purchases_7d, views_7d)]")
    })?;
    Ok(names.into_iter().collect())
}

/// The doc comment as one line.
fn description(field: &Field) -> String {
    let lines = field.attrs.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value().trim().to_owned()),
            _ => None,
        },
        _ => None,
    });
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The type that `#[attribute(Type)]` on the struct names, or `default`.
pub(crate) fn named_type(derive: &DeriveInput, attribute: &str, default: &str) -> Result<Path> {
    match derive.attrs.iter().find(|found| found.path().is_ident(attribute)) {
        Some(found) => found
            .parse_args()
            .map_err(|_| Error::new_spanned(found, format!("name the struct, as in #[{attribute}({default})]"))),
        None => Ok(Ident::new(default, Span::call_site()).into()),
    }
}
