//! What `atomic!` becomes: a transaction builder with the options, run on the rewritten block as a closure.
//!
//! Must not know: what is wrong with an input (`parse` has seen to that).

use proc_macro2::{Delimiter, Group, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Block, Expr, Ident, Stmt};

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

    let end = end_without_value(&atomic.body);

    // The braces are ours from here on: a lint on a block that could do without them is not about the user's code.
    let braces = atomic.body.brace_token.span;
    let mut respanned = Group::new(Delimiter::Brace, TokenStream::new());
    respanned.set_span(Span::mixed_site().located_at(braces.join()));
    atomic.body.brace_token.span = respanned.delim_span();
    let (conn, body) = (&atomic.conn, &atomic.body);
    // Where a macro's arguments hold a call, the compiler looks for dropped tasks.
    let body = if calls_in_macros { quote!(match () { #[deny(unused_must_use)] () => #body }) } else { quote!(#body) };
    let body = match end {
        Some(span) => ended(&body, span, &private),
        None => body,
    };
    let result = atomic.result.as_ref().map(|ty| quote!(-> #ty));
    // What is built last has no options of its own.
    atomic.options.sort_by_key(|option| matches!(option.kind, OptKind::Retries(_)));
    let options = atomic.options.iter().map(|option| self::option(option, &private));
    // With the span of the user's token, so that a connection that isn't one of ours is what the compiler underlines.
    let (target, span) = match &atomic.target {
        Some(expr) => (quote!((#expr)), super::parse::start(expr)),
        None => (quote!(#conn), conn.span()),
    };
    let begin = Ident::new("__atomic_needs_a_deferred_connection", Span::mixed_site().located_at(span));
    let builder = builder(Span::mixed_site());
    quote! {{
        use #private::{AtomicTarget as _, Pass as _};
        match #target.#begin() {
            // A diverging statement is a part of ours, and no mistake.
            #[allow(clippy::diverging_sub_expression)]
            #builder => {
                #(#options)*
                #builder.run_block(|#conn, #registrar| #result {
                    let _ = (&#conn, &#registrar);
                    #body
                })
            }
        }
    }}
}

fn builder(span: Span) -> Ident {
    Ident::new("builder", span)
}

/// Where a block ends that has no value of its own, and so ends in a `Result` only if its end is never reached.
fn end_without_value(body: &Block) -> Option<Span> {
    let last = match body.stmts.last() {
        None => return Some(body.brace_token.span.join()),
        Some(last) => last,
    };
    match last {
        Stmt::Expr(_, Some(semi)) => Some(semi.span),
        Stmt::Expr(Expr::ForLoop(last), None) => Some(last.body.brace_token.span.close()),
        Stmt::Expr(Expr::While(last), None) => Some(last.body.brace_token.span.close()),
        Stmt::Expr(Expr::If(last), None) if last.else_branch.is_none() => {
            Some(last.then_branch.brace_token.span.close())
        }
        Stmt::Expr(_, None) => None,
        Stmt::Local(last) => Some(last.semi_token.span),
        Stmt::Macro(last) => last.semi_token.map(|semi| semi.span),
        Stmt::Item(last) => Some(super::rewrite::ends(last).1),
    }
}

/// A body without a value: a mistake, unless it diverges. `ref`, because only then does the compiler keep the type `!` apart
/// from one that is not known yet.
fn ended(body: &TokenStream, span: Span, private: &TokenStream) -> TokenStream {
    let value = Ident::new("value", Span::mixed_site());
    let end = Ident::new("end", Span::mixed_site().located_at(span));
    quote! {
        match #body {
            #[allow(unreachable_code)]
            ref #value => #private::End(#value).#end(),
        }
    }
}

/// A statement with the span of the option that the user wrote.
fn option(option: &Opt, private: &TokenStream) -> TokenStream {
    // One kind of span for all of it: of two, the compiler would take what they have in common, the whole `atomic!`.
    let span = Span::mixed_site().located_at(option.key.span());
    let mut key = option.key.clone();
    key.set_span(span);
    let builder = builder(span);
    let call = match &option.kind {
        OptKind::Flag => quote_spanned!(span=> #key()),
        OptKind::Isolation(level) => quote_spanned!(span=> #key(#private::IsolationLevel::#level)),
        OptKind::Retries(expr) => quote_spanned!(span=> #key(#expr)),
    };
    quote_spanned!(span=> let #builder = #builder.#call;)
}
