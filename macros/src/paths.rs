//! Where the expansions find the runtime crate, and how errors become tokens and tokens become
//! text.
//!
//! Must not know: what is expanded.

use proc_macro2::{Ident, Punct, Spacing, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::Path;

/// The path of the hidden module of the runtime that has this version: macros and runtime of two
/// versions don't mix.
///
/// Not a `TokenStream`: the compiler is asked for each that becomes a part of another one, and this
/// is a part of most.
#[derive(Clone)]
pub(crate) struct Private(Vec<TokenTree>);

pub(crate) fn private(root: Option<&Path>) -> Private {
    let path = match root {
        Some(root) => quote!(#root::__private_0_1_0),
        None => quote!(::diesel_deferred::__private_0_1_0),
    };
    Private(path.into_iter().collect())
}

impl Private {
    /// What the module has under this name.
    pub(crate) fn item(&self, name: &str, span: Span) -> impl Iterator<Item = TokenTree> {
        let colons = [Punct::new(':', Spacing::Joint), Punct::new(':', Spacing::Alone)];
        let colons = colons.map(|mut colon| {
            colon.set_span(span);
            TokenTree::Punct(colon)
        });
        self.0.iter().cloned().chain(colons).chain([TokenTree::Ident(Ident::new(name, span))])
    }
}

impl ToTokens for Private {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        tokens.extend(self.0.iter().cloned());
    }
}

/// The same path at another place in the source: names mean what they meant, messages point there.
pub(crate) fn located_at(path: &Private, span: Span) -> Private {
    let mut path = path.clone();
    path.0.iter_mut().for_each(|token| token.set_span(span));
    path
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

    pub(crate) fn extend(&mut self, others: Self) {
        if let Some(others) = others.0 {
            self.push(others);
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
    use quote::ToTokens;

    use super::private;

    #[test]
    fn the_hidden_module_carries_the_version() {
        let module = format!("__private_{}", env!("CARGO_PKG_VERSION").replace('.', "_"));
        assert!(
            private(None).to_token_stream().to_string().ends_with(&module),
            "rename it here and in the runtime's lib.rs: {module}"
        );
    }
}
