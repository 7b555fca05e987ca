//! Where the expansions find the runtime crate, and how errors become tokens and tokens become
//! text.
//!
//! Must not know: what is expanded.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::Path;

/// The hidden module of the runtime that has this version: macros and runtime of two versions don't
/// mix.
pub(crate) fn private(root: Option<&Path>) -> TokenStream {
    match root {
        Some(root) => quote!(#root::__private_0_1_0),
        None => quote!(::diesel_deferred::__private_0_1_0),
    }
}

/// The same tokens at another place in the source: names mean what they meant, messages point
/// there.
pub(crate) fn located_at(tokens: &TokenStream, span: Span) -> TokenStream {
    tokens
        .clone()
        .into_iter()
        .map(|mut token| {
            token.set_span(span);
            token
        })
        .collect()
}

/// Collects errors: several mistakes, several messages, one compile.
#[derive(Default)]
pub(crate) struct Errors(Option<syn::Error>);

impl Errors {
    pub(crate) fn push(&mut self, error: syn::Error) {
        match &mut self.0 {
            Some(errors) => errors.combine(error),
            None => self.0 = Some(error),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// `compile_error!`s, one for each.
    pub(crate) fn into_tokens(self) -> TokenStream {
        self.0.map(|errors| errors.into_compile_error()).unwrap_or_default()
    }
}

/// Tokens as a person writes them: without the spaces that `to_string` puts between all of them.
pub(crate) fn rendered(tokens: &impl ToTokens) -> String {
    let mut text = tokens.to_token_stream().to_string();
    for (spaced, tight) in [
        (" <", "<"),
        ("< ", "<"),
        (" >", ">"),
        (" ,", ","),
        (" ::", "::"),
        (":: ", "::"),
        ("& ", "&"),
        (" . ", "."),
        (" (", "("),
        (" ?", "?"),
    ] {
        text = text.replace(spaced, tight);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::private;

    #[test]
    fn the_hidden_module_carries_the_version() {
        let module = format!("__private_{}", env!("CARGO_PKG_VERSION").replace('.', "_"));
        assert!(private(None).to_string().ends_with(&module), "rename it here and in the runtime's lib.rs: {module}");
    }
}
