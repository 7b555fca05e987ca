//! What a durable task has besides: how a call becomes the arguments in a row and is run from them,
//! what is said of one call before it is stored, and the task's entry in the list that workers
//! read.
//!
//! Must not know: what all tasks have (`expand`), or the table.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;

use super::capture::{captured_span, captured_type, field, local};
use super::hand_over::{Body, doubtful_copy, impossible_copy, is_known_to_be_send};
use super::options::OfDurable;
use super::parse::{Arg, Capture, Start, TaskDef};
use super::values::{Attempts, Time, Unique};
use crate::paths::{Private, located_at, rendered};

/// Whether the runtime has what a durable task expands to. What it is can be read here without.
pub(super) const IS_THERE: bool = cfg!(any(feature = "durable", test));

/// `Task::hand_over`. It needs no proof that the call can go to another thread: what goes there is
/// its row.
pub(super) fn hand_over(task: &TaskDef, private: &Private) -> TokenStream {
    let impossible = impossible_copy(task);
    quote! {
        fn hand_over<__Receiver: #private::Receiver>(self, receiver: __Receiver) -> __Receiver::Output {
            #impossible
            #private::Receiver::receive_durable(receiver, #private::Durable::call(self))
        }
    }
}

/// The field with what is said of a call when it is captured. It stands before the arguments, which
/// the key names and which move.
pub(super) fn call_options(task: &TaskDef, private: &Private) -> TokenStream {
    match &task.options.of_durable.key {
        Some(key) => quote!(__options: #private::CallOptions::keyed(::std::format!(#key)),),
        None => quote!(__options: #private::CallOptions::new(),),
    }
}

/// How it is stored and run, and the entry in the list.
pub(super) fn expand(task: &TaskDef, private: &Private) -> TokenStream {
    let name = &task.function.sig.ident;
    let defaults = defaults(&task.options.of_durable, private);
    let was = &task.options.of_durable.was;
    let was = (!was.is_empty()).then(|| quote!(const WAS: &'static [&'static str] = &[#(#was),*];));
    let wrappers = task.args().filter_map(|arg| wrapper(arg, private));
    let stored = stored(task, private);
    // Where the function is, not the attribute.
    let place = quote_spanned!(name.span()=> ::core::file!(), ::core::line!());
    quote! {
        const _: () = {
            #(#wrappers)*

            impl #private::Durable for #name {
                const DEFAULTS: #private::Defaults = #defaults;
                #was

                #stored
            }

            #private::inventory::submit! { #private::Registered::new::<#name>(#place) }
        };
    }
}

/// `Durable::stored`: a proof that all arguments can be stored and given to a worker's thread, as
/// in `hand_over`; and at its end, where that is known, how it is done.
fn stored(task: &TaskDef, private: &Private) -> TokenStream {
    let name = &task.function.sig.ident;
    // What is copied out of a reference is not taken for granted: it may not be possible, and a
    // bound says nothing then.
    let is_step = |arg: &&Arg| !is_known_to_be_send(arg) && matches!(arg.capture(), Capture::Owned(_));
    let steps: Vec<_> = task.args().filter(is_step).enumerate().collect();
    let called = |(at, arg): &(usize, &Arg)| {
        let span = captured_span(arg);
        let step = Ident::new(&format!("capture_{at}"), span);
        quote_spanned!(span=> #step::<__Any>())
    };
    let mut known = TokenStream::new();
    let functions: Vec<_> = steps
        .iter()
        .map(|(at, arg)| {
            let span = captured_span(arg);
            let (step, ty, located) =
                (Ident::new(&format!("capture_{at}"), span), captured_type(arg), located_at(private, span));
            let bound = Ident::new(if is_wrapped(arg) { "Captured" } else { "Storable" }, span);
            known.extend(quote_spanned!(span=> <#ty as #located::Argument<__Any>>::Type: #located::#bound,));
            let next = steps.get(at + 1).map_or_else(|| how(task, private), called);
            quote!(fn #step<__Any>() -> #private::Stored<#name> where #known { #next })
        })
        .collect();
    let first = steps.first().map_or_else(|| how(task, private), called);
    quote! {
        fn stored<__Any>() -> #private::Stored<Self> {
            #(#functions)*
            #first
        }
    }
}

/// How a call is written, read and run.
fn how(task: &TaskDef, private: &Private) -> TokenStream {
    let name = &task.function.sig.ident;
    let at = doubtful_copy(task).map_or_else(Span::call_site, captured_span);
    let (call, payload) = (local("call", at, task), local("payload", at, task));
    let encoded = task.args().map(|arg| encoded(arg, task, private));
    let decoded = task.args().map(|arg| decoded(arg, task, private));
    let located = located_at(private, name.span());
    let call_site = quote_spanned!(name.span()=> #located::CallSite::of_caller());
    let start = start(task, private);
    let impossible = impossible_copy(task);
    let private = located_at(private, at);
    quote_spanned! {at=>
        #impossible
        #private::Stored {
            encode: |#call: #name, #payload: &mut #private::Encoder| {
                let _ = &#payload;
                #(#encoded)*
                #private::CallSite::silence(#call.__call_site);
                #call.__options
            },
            decode: |#payload: &#private::Decoder<'_>| {
                let _ = &#payload;
                ::core::result::Result::Ok(#name {
                    #(#decoded,)*
                    __options: #private::CallOptions::new(),
                    __call_site: #call_site,
                })
            },
            start: #start,
        }
    }
}

/// `Durable::DEFAULTS`: what the attribute says, and no more.
fn defaults(options: &OfDurable, private: &Private) -> TokenStream {
    let OfDurable { queue, priority, max_attempts, timeout, backoff, unique, keys: _, key: _, was: _ } = options;
    let duration = |time: &Time| {
        let milliseconds = time.milliseconds;
        quote!(::core::time::Duration::from_millis(#milliseconds))
    };
    let some = |value: TokenStream| quote!(::core::option::Option::Some(#value));
    let given: Vec<_> = [
        queue.as_ref().map(|queue| quote!(queue: #queue)),
        priority.map(|priority| quote!(priority: #priority)),
        max_attempts.map(|Attempts(attempts)| quote!(max_attempts: #attempts)),
        timeout.as_ref().map(duration).map(some).map(|timeout| quote!(timeout: #timeout)),
        backoff.as_ref().map(duration).map(|backoff| quote!(backoff: #backoff)),
        unique.map(|unique| {
            let unique = some(match unique {
                Unique::Keep => quote!(#private::Unique::Keep),
                Unique::Replace => quote!(#private::Unique::Replace),
            });
            quote!(unique: #unique)
        }),
    ]
    .into_iter()
    .flatten()
    .collect();
    match given.len() {
        0 => quote!(#private::Defaults::STANDARD),
        // A lint minds a base of which nothing is taken.
        6 => quote!(#private::Defaults { #(#given,)* }),
        _ => quote!(#private::Defaults { #(#given,)* ..#private::Defaults::STANDARD }),
    }
}

fn is_wrapped(arg: &Arg) -> bool {
    arg.serde_attributes().next().is_some()
}

/// The struct that has an argument's `#[serde(…)]` attributes, where there are any.
fn wrapper(arg: &Arg, private: &Private) -> Option<TokenStream> {
    if !is_wrapped(arg) {
        return None;
    }
    let (wrapper, attributes, field, ty) = (wrapper_name(arg), arg.serde_attributes(), field(arg), captured_type(arg));
    let serde = rendered(&quote!(#private::serde));
    Some(quote! {
        #[allow(non_camel_case_types)]
        #[derive(#private::serde::Serialize, #private::serde::Deserialize)]
        #[serde(crate = #serde)]
        struct #wrapper {
            #(#attributes)*
            #field: #ty,
        }
    })
}

fn wrapper_name(arg: &Arg) -> Ident {
    format_ident!("__Argument_{}", arg.name.unraw())
}

/// Writes an argument.
fn encoded(arg: &Arg, task: &TaskDef, private: &Private) -> TokenStream {
    let at = captured_span(arg);
    let (private, call, payload) = (located_at(private, at), local("call", at, task), local("payload", at, task));
    let (field, stored_name) = (field(arg), arg.name.unraw().to_string());
    let hidden = arg.is_secret.then(|| quote_spanned!(at=> #private::Encoder::hide(#payload, #stored_name);));
    if is_wrapped(arg) {
        let wrapper = wrapper_name(arg);
        quote_spanned!(at=> #private::Encoder::wrapped(#payload, #stored_name, &#wrapper { #field: #call.#field }); #hidden)
    } else {
        quote_spanned!(at=> #private::Encoder::argument(#payload, #stored_name, &#call.#field); #hidden)
    }
}

/// Reads an argument.
fn decoded(arg: &Arg, task: &TaskDef, private: &Private) -> TokenStream {
    let at = captured_span(arg);
    let (private, payload) = (located_at(private, at), local("payload", at, task));
    let (field, stored_name) = (field(arg), arg.name.unraw().to_string());
    // One that is `flatten` may be told what is in another argument.
    let may_quote_a_secret = arg.is_secret || (is_wrapped(arg) && task.args().any(|arg| arg.is_secret));
    let hidden = may_quote_a_secret.then(|| quote_spanned!(at=> .map_err(#private::Undecodable::without_cause)));
    if is_wrapped(arg) {
        let wrapper = wrapper_name(arg);
        quote_spanned!(at=> #field: #private::Decoder::wrapped::<#wrapper>(#payload, #stored_name)#hidden?.#field)
    } else {
        quote_spanned!(at=> #field: #private::Decoder::argument(#payload, #stored_name)#hidden?)
    }
}

/// What a worker runs: see [`Body`].
fn start(task: &TaskDef, private: &Private) -> TokenStream {
    let name = &task.function.sig.ident;
    // A future that is not `Send` is the mistake of the `async fn`, which is what the compiler
    // underlines.
    let (at, how, starts) = match task.start() {
        Start::Spawned(token) => (token.span, "spawned", quote!()),
        Start::Here | Start::Blocking => {
            (doubtful_copy(task).map_or_else(Span::call_site, captured_span), "blocking", quote!(move ||))
        }
    };
    let private = located_at(private, at);
    let Body { call, states, fetched, run } = Body::new(task, at, &private);
    let how = Ident::new(how, at);
    quote_spanned! {at=>
        |#call: #private::Taken<#name>, #states: &#private::States| {
            #fetched
            ::core::option::Option::Some(#private::Running::#how::<#name, _>(#starts #run))
        }
    }
}

/// What users call on a captured call, besides `run`. Those of a stub store nothing.
pub(super) fn methods(task: &TaskDef, this: &Ident, is_stub: bool, private: &Private) -> TokenStream {
    let vis = &task.function.vis;
    let id = if IS_THERE { quote!(#private::TaskId) } else { quote!(()) };
    let (conn, store) = match is_stub {
        true => (quote!(_), quote!(::core::unreachable!())),
        false => (quote!(conn), quote!(#private::store(#this, conn))),
    };
    let setters = [
        ("delay", "Not before this time has passed since the commit.", quote!(::core::time::Duration)),
        ("run_at", "Not before this time, by the clock of the database.", quote!(::std::time::SystemTime)),
        ("key", "What the call is about.", quote!(impl ::core::convert::Into<::std::string::String>)),
        (
            "queue",
            "Into another queue than the task's.",
            quote!(impl ::core::convert::Into<::std::borrow::Cow<'static, str>>),
        ),
        ("priority", "With another priority than the task's: the lower one runs first.", quote!(i16)),
        ("max_attempts", "Tried more or less often than others of the task, the first time included.", quote!(u16)),
    ];
    // A result of a type that cannot be is one more mistake, in two places: as in `capture::field`.
    let at = this.span();
    let returned = Ident::new("Self", at);
    let setters = setters.into_iter().map(|(name, doc, ty)| {
        let name = Ident::new(name, Span::call_site());
        let (mutable, value, set) = match is_stub {
            true => (quote!(), quote!(_), quote!()),
            false => (quote!(mut), quote!(#name), quote!(#private::CallOptions::#name(&mut #this.__options, #name);)),
        };
        let body = quote_spanned!(at=> #set #this);
        // The braces are ours: with one end in the user's code the compiler minds a method that
        // nobody calls.
        quote! {
            #[doc = #doc]
            #vis fn #name(#mutable #this, #value: #ty) -> #returned { #body }
        }
    });
    // Nobody can call it: it is there for what the compiler says then.
    let after_rollback = (!is_stub).then(|| {
        quote! {
            #[doc(hidden)]
            #vis fn after_rollback<__Conn>(#this, conn: &mut __Conn) -> #private::QueryResult<()>
            where
                __Conn: #private::AfterCommit,
                <Self as #private::Argument<__Conn>>::Type: #private::IsInProcess,
            {
                #private::after_rollback(#this, conn)
            }
        }
    });
    quote! {
        /// Has the call stored in what the transaction commits, for a worker to run;
        /// `Err(NotInTransaction)` outside of a transaction.
        #vis fn after_commit(#this, #conn: &mut impl #private::AfterCommit) -> #private::QueryResult<#id> {
            #store
        }

        #(#setters)*

        #after_rollback
    }
}
