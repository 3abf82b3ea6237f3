//! `Event` and `Slots`: rows read from columns, rows written to columns.

use crate::input::{Input, all, check_name, field_ident, field_name};
use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Error, Field, Index, LitStr, Result};

/// `#[derive(Event)]`.
pub(crate) fn event(input: &DeriveInput) -> Result<TokenStream> {
    let input = Input::new(input, "event fields")?;
    let name = input.name;
    let column = input.column_lifetime();
    let generics = input.lifetime.map(|lifetime| quote!(<#lifetime>));
    let names = all(input.fields.iter().map(|field| source_name(field)))?;
    let types: Vec<_> = input.fields.iter().map(|field| &field.ty).collect();
    let idents: Vec<_> = input.fields.iter().map(|field| field_ident(field)).collect();
    let at: Vec<Index> = (0..idents.len()).map(Index::from).collect();
    Ok(quote! {
        impl<#column> ::plumb_sdk::view::EventRow<#column> for #name #generics {
            const FIELDS: &'static [::plumb_sdk::FieldDef] = &[#(::plumb_sdk::FieldDef {
                name: #names,
                field_type: <#types as ::plumb_sdk::read::Value<#column>>::TYPE,
                required: !<#types as ::plumb_sdk::read::Value<#column>>::OPTIONAL,
            }),*];
            type Readers = (#(<#types as ::plumb_sdk::read::Value<#column>>::Reader,)*);

            fn open(
                columns: &[::plumb_sdk::column::ColumnRef<#column>],
                rows: usize,
            ) -> ::std::result::Result<Self::Readers, ::std::string::String> {
                ::std::result::Result::Ok((#(
                    ::plumb_sdk::read::open_column::<#types>(#names, #at, columns, rows)?,
                )*))
            }

            #[inline]
            fn read(readers: &Self::Readers, row: usize) -> ::std::result::Result<Self, ::plumb_sdk::Error> {
                ::std::result::Result::Ok(Self {#(
                    #idents: match <#types as ::plumb_sdk::read::Value<#column>>::get(&readers.#at, row) {
                        ::std::option::Option::Some(value) => value,
                        ::std::option::Option::None => {
                            return ::std::result::Result::Err(::plumb_sdk::Error::null_field(#names));
                        }
                    },
                )*})
            }
        }
    })
}

/// The field's name in the source: its own, or that of `#[field("name")]`.
fn source_name(field: &Field) -> Result<String> {
    let mut name = None;
    for attribute in field.attrs.iter().filter(|attribute| attribute.path().is_ident("field")) {
        if name.is_some() {
            return Err(Error::new_spanned(attribute, "one `field` attribute at most"));
        }
        let text: LitStr = attribute.parse_args().map_err(|_| {
            Error::new_spanned(attribute, "write the field's name in the source, as in #[field(\"Event-Type\")]")
        })?;
        if text.value().is_empty() {
            return Err(Error::new_spanned(text, "a field's name is not empty"));
        }
        name = Some(text.value());
    }
    Ok(name.unwrap_or_else(|| field_name(field)))
}

/// `#[derive(Slots)]`.
pub(crate) fn slots(input: &DeriveInput) -> Result<TokenStream> {
    const MOST: usize = 64;
    let input = Input::new(input, "slots")?;
    let name = input.name;
    if input.fields.len() > MOST {
        return Err(Error::new_spanned(name, format!("{} slots, at most {MOST} are possible", input.fields.len())));
    }
    let generics = input.lifetime.map(|lifetime| quote!(<#lifetime>));
    let names = all(input.fields.iter().map(|field| check_name(field)))?;
    let types: Vec<_> = input.fields.iter().map(|field| &field.ty).collect();
    let idents: Vec<_> = input.fields.iter().map(|field| field_ident(field)).collect();
    let at: Vec<Index> = (0..idents.len()).map(Index::from).collect();
    Ok(quote! {
        impl #generics ::plumb_sdk::view::SlotRow for #name #generics {
            const SLOTS: &'static [::plumb_sdk::SlotDef] = &[#(::plumb_sdk::SlotDef {
                name: #names,
                slot_type: <#types as ::plumb_sdk::write::SlotValue>::TYPE,
            }),*];
            type Buffers = (#(<#types as ::plumb_sdk::write::SlotValue>::Buffer,)*);

            fn buffers(rows: usize) -> Self::Buffers {
                (#(<#types as ::plumb_sdk::write::SlotValue>::buffer(rows),)*)
            }

            #[inline]
            fn contributes(&self) -> bool {
                false #(| ::plumb_sdk::write::SlotValue::contributes(&self.#idents))*
            }

            #[inline]
            fn push(self, buffers: &mut Self::Buffers) {
                #(::plumb_sdk::write::SlotValue::write(self.#idents, &mut buffers.#at);)*
            }

            fn finish(buffers: Self::Buffers) -> ::std::vec::Vec<::plumb_sdk::column::Column> {
                ::std::vec![#(<#types as ::plumb_sdk::write::SlotValue>::finish(buffers.#at)),*]
            }
        }
    })
}
