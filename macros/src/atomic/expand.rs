//! What `atomic!` becomes: a transaction builder with the options, run on the rewritten block: as a
//! closure, or as the steps of a future.
//!
//! Must not know: what is wrong with an input (`parse` and `check` have seen to that).

use proc_macro2::{Delimiter, Group, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Block, Expr, Ident, Stmt};

use super::parse::{Asyncness, AtomicDef, Opt, OptKind};
use super::reborrow::reborrow;
use super::rewrite::Rewriter;
use super::simple::Simple;
use crate::paths::{Private, private};

pub(super) fn expand(mut atomic: AtomicDef) -> TokenStream {
    let private = private(atomic.root.as_ref());
    // Invisible to the user's code.
    let registrar = Ident::new("registrar", Span::mixed_site());
    let body = body(&mut atomic, &registrar, &private);
    // What is built last has no options of its own.
    atomic.options.sort_by_key(|option| matches!(option.kind, OptKind::Retries(_)));
    let options = atomic.options.iter().map(|option| self::option(option, &private));
    // With the span of the user's token, so that a connection that isn't one of ours is what the
    // compiler underlines.
    let (target, span) = match &atomic.target {
        Some(expr) => (quote!((#expr)), super::parse::start(expr)),
        None => {
            let conn = &atomic.conn;
            (quote!(#conn), conn.span())
        }
    };
    let (begin, run) = match &atomic.asyncness {
        None => ("__atomic_needs_a_deferred_connection", run_block(&atomic, &registrar, &body)),
        Some(asyncness) => {
            let run = run_attempts(&atomic, asyncness, &registrar, &body, &private);
            ("__atomic_needs_an_async_deferred_connection", run)
        }
    };
    let begin = Ident::new(begin, Span::mixed_site().located_at(span));
    let builder = builder(Span::mixed_site());
    let transaction = quote! {
        {
            use #private::{AtomicTarget as _, Pass as _, Refuse as _};
            match #target.#begin() {
                // A diverging statement is a part of ours, and no mistake.
                #[allow(clippy::diverging_sub_expression)]
                #builder => {
                    #(#options)*
                    #run
                }
            }
        }
    };
    match &atomic.asyncness {
        None => transaction,
        Some(Asyncness { token, capture }) => quote!(#private::future(#token #capture #transaction)),
    }
}

/// The rewritten block, as an expression.
fn body(atomic: &mut AtomicDef, registrar: &Ident, private: &Private) -> TokenStream {
    let body = &mut atomic.body;
    reborrow(body, &atomic.conn);
    let mut rewriter = Rewriter::new(private, registrar);
    for Simple { at, pieces } in std::mem::take(&mut atomic.simples) {
        if let Some(Stmt::Expr(expr, _)) = body.stmts.get_mut(at) {
            *expr = Expr::Verbatim(rewriter.simple(pieces));
        }
    }
    rewriter.block(body, false);
    let end = end_without_value(body);
    // The braces are ours from here on: a lint on a block that could do without them is not about
    // the user's code.
    let braces = body.brace_token.span;
    body.brace_token.span = ours(braces.join(), TokenStream::new()).delim_span();
    // Where a macro's arguments hold a call, the compiler looks for dropped tasks.
    let body = if rewriter.calls_in_macros {
        quote!(match () { #[deny(unused_must_use)] () => #body })
    } else {
        quote!(#body)
    };
    match end {
        Some(span) => ended(&body, span, private),
        None => body,
    }
}

/// Braces of ours that stand where the user's do.
fn ours(at: Span, code: TokenStream) -> Group {
    let mut braces = Group::new(Delimiter::Brace, code);
    braces.set_span(Span::mixed_site().located_at(at));
    braces
}

fn run_block(atomic: &AtomicDef, registrar: &Ident, body: &TokenStream) -> TokenStream {
    let (conn, builder) = (&atomic.conn, builder(Span::mixed_site()));
    let result = atomic.result.as_ref().map(|ty| quote!(-> #ty));
    // A token of the user's own: the compiler says first what is outside of all macros, and then
    // leaves out what follows from that. A result that it cannot infer is one message less then.
    let run_block = Ident::new("run_block", atomic.conn.span());
    quote! {
        #builder.#run_block(|#conn, #registrar| #result {
            let _ = (&#conn, &#registrar);
            #body
        })
    }
}

/// The steps of the runtime's own loop, written out: a closure that is given a connection and
/// returns a future of it cannot say on stable Rust that the future is `Send`.
///
/// `(&mut x).f()`, because `x.f()` would find the method of a user's trait for every type first, if
/// that takes less.
fn run_attempts(
    atomic: &AtomicDef,
    asyncness: &Asyncness,
    registrar: &Ident,
    body: &TokenStream,
    private: &Private,
) -> TokenStream {
    let (conn, builder) = (&atomic.conn, builder(Span::mixed_site()));
    // Before the block: an async block has no place for a type.
    let result = atomic.result.as_ref().map(|ty| {
        quote_spanned! {Span::mixed_site()=>
            if false {
                return #private::never_returned::<#ty>();
            }
        }
    });
    // At the user's block: what the compiler underlines when it has something to say about the
    // future or its value.
    let keyword = Ident::new("async", Span::mixed_site().located_at(asyncness.token.span));
    // By `&mut`, because a block that does not use the connection would capture it by `&`
    // otherwise: a future with a shared reference to a connection in it is not `Send`.
    let used = quote_spanned!(Span::mixed_site()=> let _ = (&mut *#conn, &#registrar););
    let block = ours(atomic.body.brace_token.span.join(), quote!(#used #result #body));
    // At the block's value: a value that is no `Result` is what the runtime refuses.
    let value = atomic.body.stmts.last().map_or(asyncness.token.span, Spanned::span);
    let value = Span::mixed_site().located_at(value);
    let (open, outcome) = (Ident::new("open", value), Ident::new("outcome", value));
    let end = quote_spanned!(value=> #open.end(#outcome).await);
    let attempt = quote_spanned! {Span::mixed_site()=>
        let mut #open = (&mut attempts).begin().await;
        let #outcome = match (&mut #open).parts() {
            ::core::option::Option::None => ::core::option::Option::None,
            ::core::option::Option::Some((#conn, #registrar)) => {
                ::core::option::Option::Some(#private::caught(#keyword #block).await)
            }
        };
        let result = #end;
    };
    let attempts = if atomic.options.iter().any(|option| matches!(option.kind, OptKind::Retries(_))) {
        quote_spanned! {Span::mixed_site()=>
            loop {
                #attempt
                if !(&mut attempts).again(::core::result::Result::is_err(&result)).await {
                    break result;
                }
            }
        }
    } else {
        quote_spanned!(Span::mixed_site()=> #attempt result)
    };
    quote_spanned! {Span::mixed_site()=>
        let mut attempts = #builder.__attempts();
        #attempts
    }
}

fn builder(span: Span) -> Ident {
    Ident::new("builder", span)
}

/// Where a block ends that has no value of its own, and so ends in a `Result` only if its end is
/// never reached.
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

/// A body without a value: a mistake, unless it diverges. `ref`, because only then does the
/// compiler keep the type `!` apart from one that is not known yet.
fn ended(body: &TokenStream, span: Span, private: &Private) -> TokenStream {
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
fn option(option: &Opt, private: &Private) -> TokenStream {
    // One kind of span for all of it: of two, the compiler would take what they have in common, the
    // whole `atomic!`.
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
