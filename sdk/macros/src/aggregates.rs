//! `Aggregates`: operators over slots in windows.

use crate::duration;
use crate::features::named_type;
use crate::input::{Input, all, check_name, field_ident};
use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{Attribute, DeriveInput, Error, Field, Ident, Index, LitFloat, LitInt, LitStr, Result, Token};

/// Attribute, name of the type in `plumb_sdk::operator::op`.
const OPERATORS: [(&str, &str); 17] = [
    ("count", "Count"),
    ("sum", "Sum"),
    ("mean", "Mean"),
    ("top_k", "TopK"),
    ("last", "Last"),
    ("last_time", "LastTime"),
    ("session_count", "SessionCount"),
    ("session_duration_sum", "SessionDurationSum"),
    ("relative_rank", "RelativeRank"),
    ("min", "Min"),
    ("max", "Max"),
    ("variance", "Variance"),
    ("stddev", "StdDev"),
    ("quantile", "Quantile"),
    ("count_distinct", "CountDistinct"),
    ("approx_distinct", "ApproxDistinct"),
    ("collect_set", "CollectSet"),
];

/// The most elements of a capped set; the host's limit.
const MAX_SET: u32 = 4_096;

/// `#[derive(Aggregates)]`.
pub(crate) fn expand(derive: &DeriveInput) -> Result<TokenStream> {
    let input = Input::new(derive, "aggregates")?;
    let name = input.name;
    let column = input.column_lifetime();
    let generics = input.lifetime.map(|lifetime| quote!(<#lifetime>));
    let slots_type = named_type(derive, "slots", "Slots")?;
    let aggregates = all(input.fields.iter().map(|field| aggregate(field)))?;
    let definitions = aggregates.iter().map(|(definition, _)| definition);
    let checks = aggregates.iter().map(|(_, check)| check);
    let names = all(input.fields.iter().map(|field| check_name(field)))?;
    let types: Vec<_> = input.fields.iter().map(|field| &field.ty).collect();
    let idents: Vec<_> = input.fields.iter().map(|field| field_ident(field)).collect();
    let at: Vec<Index> = (0..idents.len()).map(Index::from).collect();
    // Column 0 is the instant.
    let columns = 1..=idents.len();
    Ok(quote! {
        impl<#column> ::plumb_sdk::view::AggregateRow<#column> for #name #generics {
            const AGGREGATES: &'static [::plumb_sdk::AggregateDef] = &[#(#definitions),*];
            type Readers = (#(<#types as ::plumb_sdk::read::Value<#column>>::Reader,)*);

            fn open(
                columns: &[::plumb_sdk::column::ColumnRef<#column>],
                rows: usize,
            ) -> ::std::result::Result<Self::Readers, ::std::string::String> {
                ::std::result::Result::Ok((#(
                    ::plumb_sdk::read::open_column::<#types>(#names, #columns, columns, rows)?,
                )*))
            }

            #[inline]
            fn read(readers: &Self::Readers, row: usize) -> Self {
                Self {#(
                    #idents: <#types as ::plumb_sdk::read::Value<#column>>::get(&readers.#at, row).unwrap_or_default(),
                )*}
            }
        }

        const _: () = {
            #[allow(dead_code, elided_lifetimes_in_paths)]
            fn operators_fit #generics (slots: &#slots_type) {
                #(#checks)*
            }
        };
    })
}

/// The definition of one aggregate, and the code by which the compiler checks its slot and type.
fn aggregate(field: &Field) -> Result<(TokenStream, TokenStream)> {
    let name = check_name(field)?;
    let mut found = field.attrs.iter().filter_map(|attribute| {
        let operator = OPERATORS.iter().find(|(operator, _)| attribute.path().is_ident(operator))?;
        Some((attribute, operator.0, operator.1))
    });
    let known = || OPERATORS.map(|(operator, _)| operator).join(", ");
    let Some((attribute, operator, operator_type)) = found.next() else {
        let why =
            format!("aggregate `{name}` needs an operator, as in #[count(slot, window = \"1h\")]; known: {}", known());
        return Err(Error::new_spanned(field_ident(field), why));
    };
    if let Some((second, ..)) = found.next() {
        return Err(Error::new_spanned(second, format!("aggregate `{name}` has a second operator")));
    }
    let parameters = parse_parameters(attribute, operator)?;
    let slot = &parameters.slot;
    let slot_name = slot.unraw().to_string();
    let window = parameters.window(attribute, operator)?;
    let operator_value = parameters.operator(attribute, operator, operator_type)?;
    let definition = quote! {
        ::plumb_sdk::AggregateDef { name: #name, operator: #operator_value, slot: #slot_name, window: #window }
    };
    let marker = Ident::new(operator_type, attribute.span());
    let field_type = &field.ty;
    let slot_check = quote_spanned! {slot.span()=>
        ::plumb_sdk::operator::check_slot::<::plumb_sdk::operator::op::#marker, _>(&slots.#slot);
    };
    let type_check = quote_spanned! {field_type.span()=>
        ::plumb_sdk::operator::check_aggregate::<::plumb_sdk::operator::op::#marker, _, #field_type>(&slots.#slot);
    };
    Ok((definition, quote!(#slot_check #type_check)))
}

/// The slot and the parameters of an operator, as written.
struct Parameters {
    slot: Ident,
    named: Vec<(Ident, Value)>,
}

enum Value {
    Text(LitStr),
    Number(LitInt),
    Share(LitFloat),
}

impl Parse for Parameters {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let slot = input.call(Ident::parse_any)?;
        let mut named: Vec<(Ident, Value)> = Vec::new();
        while !input.is_empty() {
            input.parse::<Token![,]>()?;
            if input.is_empty() {
                break;
            }
            let key: Ident = input.parse()?;
            input.parse::<Token![=]>()?;
            let value = if input.peek(LitInt) {
                Value::Number(input.parse()?)
            } else if input.peek(LitFloat) {
                Value::Share(input.parse()?)
            } else {
                Value::Text(input.parse()?)
            };
            if named.iter().any(|(known, _)| *known == key) {
                return Err(Error::new_spanned(&key, format!("`{key}` is given twice")));
            }
            named.push((key, value));
        }
        Ok(Self { slot, named })
    }
}

fn parse_parameters(attribute: &Attribute, operator: &str) -> Result<Parameters> {
    if attribute.meta.require_list().is_err() {
        let why = format!("name the slot, as in #[{operator}(slot, window = \"1h\")]");
        return Err(Error::new_spanned(attribute, why));
    }
    let parameters: Parameters = attribute.parse_args()?;
    let own: &[&str] = match operator {
        "top_k" | "approx_distinct" | "collect_set" => &["k"],
        "quantile" => &["q"],
        "session_count" | "session_duration_sum" => &["gap"],
        _ => &[],
    };
    for (key, _) in &parameters.named {
        let windows = ["window", "hop", "hopping", "tumbling"];
        if !windows.iter().chain(own).any(|known| key == known) {
            let known = own.iter().chain(&windows).copied().collect::<Vec<_>>().join(", ");
            return Err(Error::new_spanned(key, format!("`{operator}` has no parameter `{key}`; known: {known}")));
        }
    }
    Ok(parameters)
}

impl Parameters {
    fn value(&self, key: &str) -> Option<&Value> {
        self.named.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    /// A duration parameter: its text and its microseconds.
    fn duration(&self, key: &str) -> Result<Option<(LitStr, i64)>> {
        const RIGHT: &str = "a duration is a positive whole number and a unit (us, ms, s, m, h, d), as in \"30m\"";
        match self.value(key) {
            None => Ok(None),
            Some(Value::Number(number)) => Err(Error::new_spanned(number, RIGHT)),
            Some(Value::Share(share)) => Err(Error::new_spanned(share, RIGHT)),
            Some(Value::Text(text)) => match duration::parse(&text.value()) {
                Some(us) => Ok(Some((text.clone(), us))),
                None => Err(Error::new_spanned(text, RIGHT)),
            },
        }
    }

    fn window(&self, attribute: &Attribute, operator: &str) -> Result<TokenStream> {
        let span = |(text, us): &(LitStr, i64)| quote!(::plumb_sdk::Span { text: #text, us: #us });
        let sliding = self.duration("window")?;
        let hopping = self.duration("hopping")?;
        let tumbling = self.duration("tumbling")?;
        let hop = self.duration("hop")?;
        if [&sliding, &hopping, &tumbling].into_iter().flatten().count() > 1 {
            return Err(Error::new_spanned(attribute, "one of `window`, `hopping` and `tumbling`"));
        }
        if operator == "relative_rank" {
            let fits = hopping.is_some() || tumbling.is_some();
            let multiple = match (&hopping, &hop) {
                (Some((_, width_us)), Some((_, hop_us))) => width_us % hop_us == 0,
                _ => true,
            };
            if !fits || !multiple {
                let why = "`relative_rank` needs a hopping window whose width is a multiple of its hop, as in \
                           hopping = \"1h\", hop = \"1m\"";
                return Err(Error::new_spanned(attribute, why));
            }
        }
        match (sliding, hopping, tumbling, hop) {
            (Some(width), None, None, hop) => {
                let width = span(&width);
                let hop = match hop {
                    Some(hop) => {
                        let hop = span(&hop);
                        quote!(::std::option::Option::Some(#hop))
                    }
                    None => quote!(::std::option::Option::None),
                };
                Ok(quote!(::plumb_sdk::Window::Sliding { width: #width, hop: #hop }))
            }
            (None, Some(width), None, Some(hop)) => {
                let (width, hop) = (span(&width), span(&hop));
                Ok(quote!(::plumb_sdk::Window::Hopping { width: #width, hop: #hop }))
            }
            (None, Some(_), None, None) => {
                Err(Error::new_spanned(attribute, "a hopping window needs its hop, as in hop = \"1m\""))
            }
            (None, None, Some(width), None) => {
                let width = span(&width);
                Ok(quote!(::plumb_sdk::Window::Hopping { width: #width, hop: #width }))
            }
            (None, None, None, None) => Ok(quote!(::plumb_sdk::Window::Lifetime)),
            _ => Err(Error::new_spanned(attribute, "`hop` goes with `window` or `hopping`")),
        }
    }

    /// The parameter `k`.
    fn how_many(&self, attribute: &Attribute, operator: &str, most: u32) -> Result<u32> {
        match self.value("k") {
            Some(Value::Number(k)) if k.base10_parse::<u32>().is_ok_and(|k| (1..=most).contains(&k)) => {
                k.base10_parse::<u32>()
            }
            Some(_) if most == u32::MAX => Err(Error::new_spanned(attribute, "`k` is a whole number of at least 1")),
            Some(_) => Err(Error::new_spanned(attribute, format!("`k` is a whole number from 1 to {most}"))),
            None => Err(Error::new_spanned(attribute, format!("`{operator}` needs how many, as in k = 3"))),
        }
    }

    /// The parameter `q`: its digits, and the same in millionths.
    fn share(&self, attribute: &Attribute) -> Result<(String, u32)> {
        const RIGHT: &str = "`q` is a number above 0 and below 1 of at most six digits";
        let Some(Value::Share(share)) = self.value("q") else {
            let why = if self.value("q").is_some() { RIGHT } else { "`quantile` needs which one, as in q = 0.5" };
            return Err(Error::new_spanned(attribute, why));
        };
        let q: f64 = share.base10_parse()?;
        let millionths = (q * 1e6).round();
        if !share.suffix().is_empty() || !(1.0..1e6).contains(&millionths) || millionths / 1e6 != q {
            return Err(Error::new_spanned(share, RIGHT));
        }
        Ok((format!("{q}"), millionths as u32))
    }

    fn operator(&self, attribute: &Attribute, operator: &str, operator_type: &str) -> Result<TokenStream> {
        let variant = Ident::new(operator_type, attribute.span());
        match operator {
            "top_k" => {
                let k = self.how_many(attribute, operator, u32::MAX)?;
                Ok(quote!(::plumb_sdk::Operator::#variant { k: #k }))
            }
            "approx_distinct" | "collect_set" => {
                let k = self.how_many(attribute, operator, MAX_SET)?;
                Ok(quote!(::plumb_sdk::Operator::#variant { k: #k }))
            }
            "quantile" => {
                let (q, ppm) = self.share(attribute)?;
                Ok(quote!(::plumb_sdk::Operator::#variant { q: #q, ppm: #ppm }))
            }
            "session_count" | "session_duration_sum" => match self.duration("gap")? {
                Some((gap, gap_us)) => Ok(quote!(::plumb_sdk::Operator::#variant { gap: #gap, gap_us: #gap_us })),
                None => {
                    let why = format!("`{operator}` needs the longest gap inside a session, as in gap = \"30m\"");
                    Err(Error::new_spanned(attribute, why))
                }
            },
            _ => Ok(quote!(::plumb_sdk::Operator::#variant)),
        }
    }
}
