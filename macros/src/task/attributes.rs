//! The function's attributes, and where each goes: a function becomes several items, and what is
//! said of it must reach the ones that it is about.
//!
//! Must not know: what the items are made of.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::{Attribute, Ident, Meta, Token};

/// The attributes of each item.
#[derive(Default)]
pub(super) struct Attributes {
    /// On all of them.
    pub(super) cfg: Vec<TokenStream>,
    /// On the captured call.
    pub(super) on_struct: Vec<TokenStream>,
    /// On the function that captures, which is the one that has the name, the visibility and the
    /// docs.
    pub(super) on_function: Vec<TokenStream>,
    /// On what is implemented for the captured call.
    pub(super) on_impls: Vec<TokenStream>,
    /// On the function as it was written. Only there is what is said of its code true or false.
    pub(super) on_body: Vec<TokenStream>,
    /// Whether somebody said that nobody calls it.
    pub(super) expects_dead_code: bool,
}

/// One of the items.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Home {
    Struct,
    Function,
    Impls,
    Body,
}

/// Lints about a name, a visibility, docs or who calls it. The body has none of them.
const ABOUT_THE_FUNCTION: [&str; 8] = [
    "clippy::implicit_hasher",
    "dead_code",
    "missing_docs",
    "non_snake_case",
    "private_bounds",
    "private_interfaces",
    "unnameable_types",
    "unreachable_pub",
];

impl Attributes {
    pub(super) fn sort(attributes: &[Attribute]) -> Self {
        let mut sorted = Self::default();
        for attribute in attributes {
            sorted.add(&attribute.meta, quote!(#attribute), None);
        }
        sorted
    }

    /// `written` is the whole of it, and `condition` that of a `cfg_attr`.
    fn add(&mut self, meta: &Meta, written: TokenStream, condition: Option<&TokenStream>) {
        let name = meta.path().get_ident().map(Ident::to_string).unwrap_or_default();
        match (&*name, meta) {
            ("cfg", _) => self.cfg.push(written),
            ("cfg_attr", Meta::List(list)) => match conditional.parse2(list.tokens.clone()) {
                Ok((condition, attributes)) => {
                    let condition = quote!(#condition);
                    for meta in attributes {
                        self.add(&meta, quote!(#[cfg_attr(#condition, #meta)]), Some(&condition));
                    }
                }
                Err(_) => self.on_body.push(written),
            },
            ("doc" | "deprecated", _) => self.on_function.push(written),
            ("allow", _) => {
                for home in [Home::Struct, Home::Function, Home::Impls, Home::Body] {
                    self.on(home).push(written.clone());
                }
            }
            ("expect", Meta::List(list)) => match Lints::parse(list.tokens.clone(), condition) {
                Some(lints) => self.expect(&lints),
                None => self.on_body.push(written),
            },
            ("warn" | "deny" | "forbid", Meta::List(list)) => {
                self.on_body.push(written);
                if let Some(lints) = Lints::parse(list.tokens.clone(), condition) {
                    // Nothing of ours could be allowed behind a `forbid`.
                    let level = if name == "warn" { "warn" } else { "deny" };
                    for home in [Home::Struct, Home::Function, Home::Impls] {
                        // A tool's lints are about code, which is the body's.
                        let of_rustc = lints.written(level, |lint| lint.get_ident().is_some());
                        self.on(home).extend(of_rustc);
                    }
                }
            }
            _ => self.on_body.push(written),
        }
    }

    /// Each lint is expected where it fires, and allowed elsewhere.
    fn expect(&mut self, lints: &Lints<'_>) {
        self.expects_dead_code |= lints.lints.iter().any(|lint| lint.is_ident("dead_code"));
        for home in [Home::Struct, Home::Function, Home::Impls, Home::Body] {
            let expected = lints.written("expect", |lint| home_of(lint) == home);
            let allowed = lints.written("allow", |lint| home_of(lint) != home);
            self.on(home).extend(expected.into_iter().chain(allowed));
        }
    }

    fn on(&mut self, home: Home) -> &mut Vec<TokenStream> {
        match home {
            Home::Struct => &mut self.on_struct,
            Home::Function => &mut self.on_function,
            Home::Impls => &mut self.on_impls,
            Home::Body => &mut self.on_body,
        }
    }
}

fn home_of(lint: &syn::Path) -> Home {
    let segments: Vec<_> = lint.segments.iter().map(|segment| segment.ident.to_string()).collect();
    if ABOUT_THE_FUNCTION.contains(&&*segments.join("::")) { Home::Function } else { Home::Body }
}

/// `condition, attribute, …`
fn conditional(input: syn::parse::ParseStream<'_>) -> syn::Result<(Meta, Punctuated<Meta, Token![,]>)> {
    let condition = input.parse()?;
    input.parse::<Token![,]>()?;
    Ok((condition, Punctuated::parse_terminated(input)?))
}

/// What stands in the parentheses of `allow(…)` and its like.
struct Lints<'a> {
    lints: Vec<syn::Path>,
    reason: Option<Meta>,
    condition: Option<&'a TokenStream>,
}

impl<'a> Lints<'a> {
    fn parse(tokens: TokenStream, condition: Option<&'a TokenStream>) -> Option<Self> {
        let mut parsed = Self { lints: Vec::new(), reason: None, condition };
        for meta in Punctuated::<Meta, Token![,]>::parse_terminated.parse2(tokens).ok()? {
            match meta {
                Meta::Path(lint) => parsed.lints.push(lint),
                reason => parsed.reason = Some(reason),
            }
        }
        Some(parsed)
    }

    /// An attribute with those lints, if there are any.
    fn written(&self, level: &str, which: impl Fn(&syn::Path) -> bool) -> Option<TokenStream> {
        let lints: Vec<_> = self.lints.iter().filter(|lint| which(lint)).collect();
        let level = Ident::new(level, syn::spanned::Spanned::span(lints.first()?));
        let reason = self.reason.iter();
        let meta = quote!(#level(#(#lints,)* #(#reason)*));
        Some(match self.condition {
            Some(condition) => quote!(#[cfg_attr(#condition, #meta)]),
            None => quote!(#[#meta]),
        })
    }
}
