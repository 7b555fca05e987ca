//! What a durable task has besides: how a call becomes the arguments in a row and is run from them, what is said of one call before it
//! is stored, and the task's entry in the list that workers read.
//!
//! Must not know: what all tasks have (`expand`), or the table.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;

use super::expand::{captured_span, captured_type, field, local};
use super::hand_over::{Body, doubtful_copy};
use super::options::OfDurable;
use super::parse::{Arg, Start, TaskDef};
use super::values::{Attempts, Time, Unique};
use crate::paths::{located_at, rendered};

/// Whether the runtime has what a durable task expands to. What it is can be read here without.
pub(super) const IS_THERE: bool = cfg!(any(feature = "durable", test));

/// `Task::hand_over`. It needs no proof that the call can go to another thread: what goes there is its row.
pub(super) fn hand_over(private: &TokenStream) -> TokenStream {
    quote! {
        fn hand_over<__Receiver: #private::Receiver>(self, receiver: __Receiver) -> __Receiver::Output {
            #private::Receiver::receive_durable(receiver, self)
        }
    }
}

/// What is said of a call when it is captured. To be evaluated before an argument moves.
pub(super) fn call_options(task: &TaskDef, private: &TokenStream) -> TokenStream {
    match &task.options.of_durable.key {
        Some(key) => quote!(#private::CallOptions::keyed(::std::format!(#key))),
        None => quote!(#private::CallOptions::new()),
    }
}

/// How it is stored and run, and the entry in the list.
pub(super) fn expand(task: &TaskDef, private: &TokenStream) -> TokenStream {
    let name = &task.function.sig.ident;
    let defaults = defaults(&task.options.of_durable, private);
    let wrapped = task.args().filter_map(|arg| wrapper(arg, private));
    let this = local("self", doubtful_copy(task).map_or_else(Span::call_site, captured_span), task);
    let payload = local("payload", Span::call_site(), task);
    let encoded = task.args().map(|arg| encoded(arg, task, private));
    let fields = task.args().map(field);
    let decoded = task.args().map(|arg| decoded(arg, task, private));
    let start = start(task, private);
    // Where the function is, not the attribute.
    let place = quote_spanned!(name.span()=> ::core::file!(), ::core::line!());
    let caller = quote_spanned!(name.span()=> ::core::panic::Location::caller());
    quote! {
        const _: () = {
            #(#wrapped)*

            impl #private::Durable for #name {
                const DEFAULTS: #private::Defaults = #defaults;

                fn encode(#this, #payload: &mut #private::Encoder) -> #private::CallOptions {
                    let _ = &#payload;
                    #(#encoded)*
                    #this.__options
                }

                fn decode(#payload: &#private::Decoder<'_>) -> ::core::result::Result<Self, #private::Undecodable> {
                    let _ = &#payload;
                    ::core::result::Result::Ok(#name {
                        __options: #private::CallOptions::new(),
                        #(#fields: #decoded,)*
                        __call_site: #caller,
                        __generics: ::core::marker::PhantomData,
                    })
                }

                #start
            }

            #private::inventory::submit! { #private::Registered::new::<#name>(#place) }
        };
    }
}

/// `Durable::DEFAULTS`: what the attribute says, and no more.
fn defaults(options: &OfDurable, private: &TokenStream) -> TokenStream {
    let OfDurable { queue, priority, max_attempts, timeout, backoff, unique, keys: _, key: _ } = options;
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

/// The name that an argument is stored under.
fn stored_name(arg: &Arg) -> String {
    arg.name.unraw().to_string()
}

/// The struct that has an argument's `#[serde(…)]` attributes, where there are any.
fn wrapper(arg: &Arg, private: &TokenStream) -> Option<TokenStream> {
    arg.serde_attributes().next()?;
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

/// Writes an argument. A type that cannot be stored is underlined, here and where it is read, by one and the same message.
fn encoded(arg: &Arg, task: &TaskDef, private: &TokenStream) -> TokenStream {
    let at = captured_span(arg);
    let (private, this, payload) = (located_at(private, at), local("self", at, task), local("payload", at, task));
    let (stored_name, field, ty) = (stored_name(arg), field(arg), captured_type(arg));
    if arg.serde_attributes().next().is_none() {
        return quote_spanned!(at=> <#ty as #private::Storable>::write(&#this.#field, #payload, #stored_name););
    }
    let wrapper = wrapper_name(arg);
    quote_spanned!(at=> #private::Encoder::wrapped(#payload, #stored_name, &#wrapper { #field: #this.#field });)
}

/// Reads an argument.
fn decoded(arg: &Arg, task: &TaskDef, private: &TokenStream) -> TokenStream {
    let at = captured_span(arg);
    let (private, payload) = (located_at(private, at), local("payload", at, task));
    let (stored_name, field, ty) = (stored_name(arg), field(arg), captured_type(arg));
    if arg.serde_attributes().next().is_none() {
        return quote_spanned!(at=> <#ty as #private::Storable>::read(#payload, #stored_name)?);
    }
    let wrapper = wrapper_name(arg);
    quote_spanned!(at=> #private::Decoder::wrapped::<#wrapper>(#payload, #stored_name)?.#field)
}

/// `Durable::start`.
fn start(task: &TaskDef, private: &TokenStream) -> TokenStream {
    // A future that is not `Send` is the mistake of the `async fn`, which is what the compiler underlines.
    let at = match task.start() {
        Start::Spawned(token) => token.span,
        Start::Here | Start::Blocking => Span::call_site(),
    };
    let located = located_at(private, at);
    let Body { call, states, fetched, run } = Body::new(task, at, &located);
    let running = match task.start() {
        Start::Spawned(_) => quote_spanned!(at=> #located::Running::spawned::<Self, _>(#run)),
        Start::Here | Start::Blocking => quote_spanned!(at=> #located::Running::blocking::<Self, _>(move || #run)),
    };
    quote! {
        fn start(self, #states: &#private::States) -> ::core::option::Option<#private::Running> {
            let #call = self;
            #fetched
            ::core::option::Option::Some(#running)
        }
    }
}

/// What users call on a captured call, besides `run`. Those of a stub store nothing.
pub(super) fn methods(task: &TaskDef, this: &Ident, is_stub: bool, private: &TokenStream) -> TokenStream {
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
            quote!(impl ::core::convert::Into<::std::borrow::Cow<'static, ::core::primitive::str>>),
        ),
        (
            "priority",
            "With another priority than the task's: the lower one runs first.",
            quote!(::core::primitive::i16),
        ),
        (
            "max_attempts",
            "Tried more or less often than others of the task, the first time included.",
            quote!(::core::primitive::u16),
        ),
    ];
    let setters = setters.into_iter().map(|(name, doc, ty)| {
        let name = Ident::new(name, Span::call_site());
        let (mutable, value, set) = match is_stub {
            true => (quote!(), quote!(_), quote!()),
            false => (quote!(mut), quote!(#name), quote!(#private::CallOptions::#name(&mut #this.__options, #name);)),
        };
        quote! {
            #[doc = #doc]
            #vis fn #name(#mutable #this, #value: #ty) -> Self {
                #set
                #this
            }
        }
    });
    quote! {
        /// Has the call stored in what the transaction commits, for a worker to run; `Err(NotInTransaction)` outside of a transaction.
        #vis fn after_commit(#this, #conn: &mut impl #private::AfterCommit) -> #private::QueryResult<#id> {
            #store
        }

        #(#setters)*
    }
}
