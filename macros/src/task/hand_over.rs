//! `Task::hand_over`: the proof that a captured call can go to another thread, one argument at a
//! time.
//!
//! In each of the inner functions one more thing is taken for granted, by a bound. Calling the
//! function is where that has to hold, which the compiler says once, on the user's own token.
//!
//! Must not know: what else a task becomes.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Generics, Type};

use super::capture::{captured_span, local, state_call};
use super::parse::{Arg, Capture, Start, TaskDef, unwrap_groups};
use crate::paths::{Private, located_at};

/// What one of the inner functions takes for granted.
struct Step {
    name: Ident,
    predicate: TokenStream,
}

pub(super) fn hand_over(task: &TaskDef, private: &Private) -> TokenStream {
    let (name, generics) = (&task.function.sig.ident, &task.function.sig.generics);
    let (_, ty_generics, where_clause) = generics.split_for_impl();
    let parameters = generics.params.iter();
    let parameters = quote!(#(#parameters,)*);
    let predicates = where_clause.map(|clause| &clause.predicates).into_iter().flatten();
    let predicates = quote!(#(#predicates,)*);
    let steps = steps(task, private);
    let spans = steps.iter().map(|step| step.name.span());
    let calls = steps.iter().zip(spans).map(|(Step { name, .. }, span)| {
        let (call, receiver) = (local("call", span, task), local("receiver", span, task));
        quote_spanned!(span=> #name(#call, #receiver))
    });
    let mut calls = calls.chain([receive(task, private)]);
    let first = calls.next();
    let (call, receiver) = (local("call", Span::call_site(), task), local("receiver", Span::call_site(), task));
    let mut known = TokenStream::new();
    let functions = steps.iter().zip(calls).map(|(Step { name: step, predicate }, next)| {
        known.extend(quote!(#predicate,));
        quote! {
            fn #step<#parameters __Receiver: #private::Receiver>(
                #call: #name #ty_generics,
                #receiver: __Receiver,
            ) -> __Receiver::Output
            where
                #predicates
                #known
            {
                #next
            }
        }
    });
    quote! {
        fn hand_over<__Receiver: #private::Receiver>(self, #receiver: __Receiver) -> __Receiver::Output {
            #(#functions)*
            let #call = self;
            #first
        }
    }
}

fn steps(task: &TaskDef, private: &Private) -> Vec<Step> {
    let generics = &task.function.sig.generics;
    let proof = |ty: &dyn ToTokens, bound: TokenStream, span: Span| {
        (span, quote!(<#ty as #private::Argument<__Receiver>>::Type: #bound))
    };
    // The same message as that of the state itself, in the same place, is one message.
    let span_of = |parameter: &Ident| {
        let state = task.states().find(|state| mentioned(generics, &state.ty).contains(&parameter));
        state.map_or_else(|| parameter.span(), captured_span)
    };
    let arguments = task.args().filter(|arg| !is_known_to_be_send(arg));
    let arguments = arguments.filter(|arg| matches!(arg.capture(), Capture::Owned(_))).map(|arg| {
        let span = captured_span(arg);
        // Of a generic parameter the compiler itself says best what to write.
        let bound = if mentioned(generics, &arg.ty).is_empty() {
            let private = located_at(private, span);
            quote_spanned!(span=> #private::Captured)
        } else {
            quote_spanned!(span=> ::core::marker::Send + 'static)
        };
        proof(&arg.ty, bound, span)
    });
    // Those that occur nowhere else, or behind a reference: the call has their names in its type.
    let owned = task.args().filter(|arg| matches!(arg.capture(), Capture::Owned(_)));
    let in_arguments: Vec<_> = owned.flat_map(|arg| mentioned(generics, &arg.ty)).collect();
    let parameters =
        generics.type_params().filter(|parameter| !in_arguments.contains(&&parameter.ident)).map(|parameter| {
            let (name, span) = (&parameter.ident, span_of(&parameter.ident));
            proof(name, quote_spanned!(span=> 'static), span)
        });
    let proofs = parameters.chain(arguments).enumerate();
    proofs.map(|(at, (span, predicate))| Step { name: Ident::new(&format!("capture_{at}"), span), predicate }).collect()
}

/// The end of the proof.
fn receive(task: &TaskDef, private: &Private) -> TokenStream {
    let at = doubtful_copy(task).map_or_else(Span::call_site, captured_span);
    let private = located_at(private, at);
    let (call, receiver) = (local("call", at, task), local("receiver", at, task));
    // A future that is not `Send` is the mistake of the `async fn`, which is what the compiler
    // underlines.
    let called = match task.start() {
        Start::Spawned(token) => token.span,
        Start::Here | Start::Blocking => at,
    };
    let private = located_at(&private, called);
    let start = start(task, called, &private);
    let receive = quote_spanned!(called=> #private::Receiver::receive(#receiver, #call, #start));
    let impossible = impossible_copy(task);
    quote!(#impossible #receive)
}

/// What cannot be copied has been said on the field; the compiler says the same once more, in the
/// same place, and then no longer minds what follows from it.
pub(super) fn impossible_copy(task: &TaskDef) -> TokenStream {
    match doubtful_copy(task).map(Arg::capture) {
        Some(Capture::Copied(ty)) => quote_spanned! {ty.span()=>
            let _: ::core::marker::PhantomData<<#ty as ::std::borrow::ToOwned>::Owned>;
        },
        _ => TokenStream::new(),
    }
}

/// How the call is run: see [`Body`].
fn start(task: &TaskDef, at: Span, private: &Private) -> TokenStream {
    let (name, generics) = (&task.function.sig.ident, &task.function.sig.generics);
    let (_, ty_generics, _) = generics.split_for_impl();
    if matches!(task.start(), Start::Here) && task.states().next().is_none() {
        return quote_spanned!(at=> #private::Alone(<#name #ty_generics>::run));
    }
    let Body { call, states, fetched, run } = Body::new(task, at, private);
    let how = match task.start() {
        Start::Here => "Here",
        Start::Spawned(_) => "Spawned",
        Start::Blocking => "Blocking",
    };
    let at = Span::mixed_site().located_at(at);
    let how = Ident::new(how, at);
    quote_spanned! {at=>
        #private::#how(|#call: #private::Taken<#name #ty_generics>, #states: &#private::States| {
            #fetched
            ::core::option::Option::Some(#run)
        })
    }
}

/// What fetches the states of a call, `None` where one is missing, and what then runs the body or
/// makes its future.
pub(super) struct Body {
    /// The variable with the call, taken over.
    pub(super) call: Ident,
    /// The variable with all states, or `_`.
    pub(super) states: TokenStream,
    pub(super) fetched: TokenStream,
    pub(super) run: TokenStream,
}

impl Body {
    pub(super) fn new(task: &TaskDef, at: Span, private: &Private) -> Self {
        let (name, generics) = (&task.function.sig.ident, &task.function.sig.generics);
        let (_, ty_generics, _) = generics.split_for_impl();
        let at = Span::mixed_site().located_at(at);
        let (call, states) = (Ident::new("call", at), Ident::new("states", at));
        let names: Vec<_> = (0..task.states().count()).map(|index| Ident::new(&format!("state_{index}"), at)).collect();
        let fetched = task.states().zip(&names).map(|(state, name)| {
            let fetched = state_call("States", state, &quote!(#states), private);
            quote_spanned!(at=> let #name = #fetched?;)
        });
        let given = task.states().zip(&names).map(|(state, name)| match state.capture() {
            Capture::Owned(_) => quote!(#name),
            Capture::Copied(_) => quote_spanned!(at=> &*#name),
        });
        let run = quote_spanned!(at=> <#name #ty_generics>::run(#private::Taken::call(#call), #(#given),*));
        let run = match task.start() {
            Start::Spawned(_) => quote_spanned!(at=> #private::spawnable(async move { #run.await })),
            Start::Here | Start::Blocking => run,
        };
        let fetched = quote!(#(#fetched)*);
        let states = if names.is_empty() { quote!(_) } else { quote!(#states) };
        Self { call, states, fetched, run }
    }
}

/// The first argument that is copied out of a reference and may not allow it.
pub(super) fn doubtful_copy(task: &TaskDef) -> Option<&Arg> {
    task.args().find(|arg| !is_known_to_be_send(arg) && matches!(arg.capture(), Capture::Copied(_)))
}

/// Most arguments, all of which can be stored, too: they need no proof, so that most tasks are
/// expanded without one. Whoever gives these names to types of their own gets a message all the
/// same, though not on the argument.
pub(super) fn is_known_to_be_send(arg: &Arg) -> bool {
    const KNOWN: [&str; 19] = [
        "bool", "char", "f32", "f64", "i8", "i16", "i32", "i64", "i128", "isize", "u8", "u16", "u32", "u64", "u128",
        "usize", "str", "String", "PathBuf",
    ];
    let (Capture::Owned(ty) | Capture::Copied(ty)) = arg.capture();
    matches!(unwrap_groups(ty), Type::Path(path) if KNOWN.iter().any(|known| path.path.is_ident(known)))
}

/// The generic parameters that a type mentions.
fn mentioned<'a>(generics: &'a Generics, ty: &Type) -> Vec<&'a Ident> {
    struct Mentioned<'a>(&'a Generics, Vec<&'a Ident>);
    impl Visit<'_> for Mentioned<'_> {
        fn visit_ident(&mut self, ident: &Ident) {
            self.1.extend(self.0.type_params().map(|parameter| &parameter.ident).find(|name| *name == ident));
            visit::visit_ident(self, ident);
        }
    }
    let mut mentioned = Mentioned(generics, Vec::new());
    mentioned.visit_type(ty);
    mentioned.1
}
