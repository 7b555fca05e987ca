//! What `atomic!` becomes: a transaction builder with the options, run on the rewritten block as a closure.
//!
//! Must not know: what is wrong with an input (`parse` has seen to that).

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::Ident;

use super::parse::{AtomicDef, Opt, OptKind};
use super::rewrite::Rewriter;
use crate::paths::private;

pub(super) fn expand(mut atomic: AtomicDef) -> TokenStream {
    let private = private(atomic.root.as_ref());
    // Invisible to the user's code.
    let registrar = Ident::new("registrar", Span::mixed_site());
    let mut rewriter = Rewriter::new(&private, &registrar);
    rewriter.block(&mut atomic.body, false);
    let calls_in_macros = rewriter.calls_in_macros;

    // The braces are ours from here on: a lint on a block that could do without them is not about the user's code.
    let braces = atomic.body.brace_token.span;
    let mut respanned = proc_macro2::Group::new(proc_macro2::Delimiter::Brace, TokenStream::new());
    respanned.set_span(Span::mixed_site().located_at(braces.join()));
    atomic.body.brace_token.span = respanned.delim_span();
    let (conn, body) = (&atomic.conn, &atomic.body);
    // Where a macro's arguments hold a call, the compiler looks for dropped tasks.
    let body = if calls_in_macros { quote!(match () { #[deny(unused_must_use)] () => #body }) } else { quote!(#body) };
    let result = atomic.result.as_ref().map(|ty| quote!(-> #ty));
    let options = atomic.options.iter().map(|option| self::option(option, &private));
    // With the span of the user's token, so that a connection that isn't one of ours is what the compiler underlines.
    let (target, span) = match &atomic.target {
        Some(expr) => (quote!((#expr)), super::parse::start(expr)),
        None => (quote!(#conn), conn.span()),
    };
    let begin = Ident::new("__diesel_deferred_atomic", Span::mixed_site().located_at(span));
    quote! {{
        #[allow(unused_imports)]
        use #private::{AtomicTarget as _, Pass as _};
        #target.#begin() #(#options)* .run_block(|#conn, #registrar| #result {
            let _ = (&#conn, &#registrar);
            #body
        })
    }}
}

/// A method call with the span of the option that the user wrote.
fn option(option: &Opt, private: &TokenStream) -> TokenStream {
    let key = &option.key;
    let span = key.span();
    match &option.kind {
        OptKind::Flag => quote_spanned!(span=> .#key()),
        OptKind::Isolation(level) => quote_spanned!(span=> .#key(#private::IsolationLevel::#level)),
        OptKind::Retries(expr) => quote_spanned!(span=> .#key(#expr)),
    }
}
