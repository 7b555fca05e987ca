//! The assertions of the test kit: a call with `_` for what may be anything becomes what is
//! expected of one.
//!
//! Must not know: what a task's expansion has, beyond the one function that this calls.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::parse::{Parse, ParseStream, Parser};
use syn::spanned::Spanned;
use syn::{Expr, ExprCall, ExprMethodCall, ExprPath, Token};

/// `method, on, call`.
pub(crate) fn assertion(input: TokenStream) -> TokenStream {
    let mut tokens = input.into_iter();
    let Some(TokenTree::Ident(method)) = tokens.next() else {
        return syn::Error::new(Span::call_site(), "use it through `diesel_deferred`").into_compile_error();
    };
    let rest = tokens.skip(1).collect();
    match (|input: ParseStream<'_>| Assertion::parse(input)).parse2(rest) {
        Ok(assertion) => assertion.expand(&method),
        Err(error) => error.into_compile_error(),
    }
}

/// Where to look, and for what.
struct Assertion {
    on: Expr,
    expected: Expr,
}

impl Parse for Assertion {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let on = input.parse()?;
        if input.is_empty() {
            let missing = "write where to look, and for which call: `assert_deferred!(conn, send_welcome(7, _))`";
            return Err(syn::Error::new(Span::call_site(), missing));
        }
        input.parse::<Token![,]>()?;
        let expected = input.parse()?;
        input.parse::<Option<Token![,]>>()?;
        if !input.is_empty() {
            let more = "expected the end: what the options of the call are to be is said behind it, `.queue(\"mail\")`";
            return Err(syn::Error::new(input.span(), more));
        }
        Ok(Self { on, expected })
    }
}

impl Assertion {
    fn expand(&self, method: &Ident) -> TokenStream {
        let Self { on, expected } = self;
        match of(expected) {
            Ok(expected) => {
                // On the user's connection, which may lack the method.
                let method = Ident::new(&method.to_string(), on.span());
                quote_spanned!(on.span()=> (#on).#method(#expected))
            }
            Err(error) => {
                let error = error.into_compile_error();
                // What is looked at is used, so that nothing else is said.
                quote!({ let _ = &(#on); #error })
            }
        }
    }
}

/// `send(7, _).queue("mail")` as what is expected: `send::__expected(Some(7), None).queue("mail")`.
fn of(call: &Expr) -> syn::Result<TokenStream> {
    match call {
        Expr::MethodCall(ExprMethodCall { receiver, method, turbofish, args, attrs: _, dot_token, paren_token: _ }) => {
            let receiver = of(receiver)?;
            Ok(quote!(#receiver #dot_token #method #turbofish (#args)))
        }
        Expr::Call(ExprCall { func, args, .. }) => {
            let Expr::Path(ExprPath { qself: None, path, .. }) = &**func else {
                return Err(syn::Error::new(func.span(), NOT_A_CALL));
            };
            let args = args.iter().map(|arg| match arg {
                Expr::Infer(any) => quote_spanned!(any.span()=> ::core::option::Option::None),
                arg => quote_spanned!(arg.span()=> ::core::option::Option::Some(#arg)),
            });
            let expected =
                Ident::new("__expected", path.segments.last().map_or_else(Span::call_site, |last| last.ident.span()));
            Ok(quote!(#path::#expected(#(#args),*)))
        }
        Expr::Paren(paren) => of(&paren.expr),
        Expr::Group(group) => of(&group.expr),
        other => Err(syn::Error::new(other.to_token_stream().span(), NOT_A_CALL)),
    }
}

const NOT_A_CALL: &str = "expected a call of a task, with `_` for what may be anything: `send_welcome(7, _)`";

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::assertion;

    fn expanded(tokens: proc_macro2::TokenStream) -> String {
        assertion(tokens).to_string().replace(' ', "")
    }

    #[test]
    fn t08_an_underscore_is_any_value_and_options_stay_behind_the_call() {
        assert_eq!(
            expanded(quote!(look, conn, mail::send(7, _).queue("mail").times(2))),
            "(conn).look(mail::send::__expected(::core::option::Option::Some(7),::core::option::Option::None)\
             .queue(\"mail\").times(2))"
        );
    }

    #[test]
    fn t08_what_is_no_call_is_a_mistake_in_our_words() {
        for tokens in [quote!(look, conn, 7), quote!(look, conn, (|| send)()), quote!(look, conn, send)] {
            assert!(expanded(tokens.clone()).contains("expectedacallofatask"), "{tokens}");
        }
        assert!(expanded(quote!(look, conn)).contains("forwhichcall"));
        assert!(expanded(quote!(look, conn, send(1), 2)).contains("expectedtheend"));
    }
}
