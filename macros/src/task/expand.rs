//! What a task function becomes: the captured call, the function that captures, and the body.
//!
//! Must not know: what is allowed (`check` has seen to that).

use proc_macro2::{Delimiter, Group, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{GenericParam, Ident, ReturnType, Type};

use super::attributes::Attributes;
use super::capture::{captured_span, captured_type, field, local, state_call};
use super::hand_over::{doubtful_copy, hand_over};
use super::parse::{Arg, Capture, Start, TaskDef, unwrap_groups, without_our_attributes};
use super::{durable, expected};
use crate::paths::{Private, located_at, private};

/// The struct, and all that comes with it.
pub(super) struct Expansion {
    pub(super) call: TokenStream,
    pub(super) items: TokenStream,
}

impl Expansion {
    /// The items wait in an attribute on the struct: in an impl block, where none of them can
    /// stand, the compiler then refuses the struct alone, on the user's function, and not each of
    /// them.
    pub(super) fn into_tokens(self, task: &TaskDef) -> TokenStream {
        let private = private(task.options.root.as_ref());
        let Self { call, items } = self;
        quote!(#[#private::with_items { #items }] #call)
    }
}

pub(super) fn expand(task: &TaskDef) -> Expansion {
    let private = private(task.options.root.as_ref());
    let name = &task.function.sig.ident;
    let vis = &task.function.vis;
    let (impl_generics, ty_generics, where_clause) = task.function.sig.generics.split_for_impl();
    let generics = &task.function.sig.generics;
    let output = match &task.function.sig.output {
        ReturnType::Default => quote!(()),
        ReturnType::Type(_, ty) => quote!(#ty),
    };
    let attrs = Attributes::sort(&task.function.attrs);
    let Attributes { cfg, on_struct, on_function, on_impls, on_body, .. } = &attrs;
    let silent = Silent::about(task);
    let (struct_is_silent, use_is_silent) = (&silent.on_struct, &silent.on_use);

    let fields: Vec<_> = task.args().map(field).collect();
    let types = task.args().map(captured_type);
    let parameters = task.args().map(|arg| {
        let (name, ty) = (&arg.name, &arg.ty);
        quote!(#name: #ty)
    });
    let captures = task.args().map(|arg| {
        let field = field(arg);
        match arg.capture() {
            Capture::Owned(_) => quote!(#field),
            Capture::Copied(ty) => {
                quote_spanned!(ty.span()=> #field: <#ty as ::std::borrow::ToOwned>::to_owned(#field))
            }
        }
    });
    let shown = task.args().enumerate().map(|(at, arg)| {
        let label = format!("{}{}: ", if at == 0 { "" } else { ", " }, arg.name);
        if arg.is_secret {
            let f = local("f", Span::call_site(), task);
            return quote!(#private::Shown(#label, &#private::Secret).write(#f););
        }
        let field = field(arg);
        let (at, private) = (captured_span(arg), located_at(&private, captured_span(arg)));
        let (this, f) = (local("self", at, task), local("f", at, task));
        quote_spanned!(at=> #private::Shown(#label, &#this.#field).write(#f);)
    });
    let (shown_self, f) = (local("self", Span::call_site(), task), local("f", Span::call_site(), task));
    let shown = task.args().next().is_some().then(|| {
        quote! {
            fn show_arguments(&#shown_self, #f: &mut #private::Shows<'_>) {
                use #private::Opaque as _;
                #(#shown)*
            }
        }
    });
    let task_name = match &task.options.name {
        Some(name) => quote!(#name),
        None => {
            let name = name.to_string();
            quote!(::core::concat!(::core::module_path!(), "::", #name))
        }
    };
    let states = states(task, &private);
    let hand_over = if task.is_durable() { durable::hand_over(task, &private) } else { hand_over(task, &private) };
    // A parameter of a type that cannot be is one more mistake: see `field`.
    let this = local("self", doubtful_copy(task).map_or_else(Span::call_site, captured_span), task);
    let methods = methods(task, &this, &run(task, &this, &output, on_body, &private), false, &private);
    let expected = expected::expand(task, &private);
    let expected = expected.map(|items| quote!(#(#cfg)* #(#on_impls)* #use_is_silent const _: () = { #items };));
    let doc = format!("A captured call of [`{name}`](fn@{name}).");
    let (generics_field, no_generics) = phantom(task).unzip();

    let must_use = must_use(task);
    let options_field = task.is_durable().then(|| quote!(__options: #private::CallOptions,));
    let options = task.is_durable().then(|| durable::call_options(task, &private));
    let durable = task.is_durable().then(|| durable::expand(task, &private));
    let durable = durable.map(|items| quote!(#(#cfg)* #(#on_impls)* #use_is_silent #items));

    let keyword = Ident::new("struct", task.function.sig.fn_token.span);
    let (at_fn, at_end) = (task.function.sig.fn_token.span, task.function.sig.paren_token.span.close());
    let body = braced(
        at_end,
        quote! {
            #(#fields: #types,)*
            #options_field
            __call_site: #private::CallSite<Self>,
            #generics_field
        },
    );
    // Of a task that nobody calls the compiler says once that it is dead, of the struct. Where that
    // is expected it must be said of the function, which has to look like the user's for that.
    let ours = Span::call_site();
    let (at_fn, at_end) = if attrs.expects_dead_code { (at_fn, at_end) } else { (ours, ours) };
    let fn_token = Ident::new("fn", at_fn);
    let capture = braced(
        at_end,
        quote! {
            #name {
                #options
                #(#captures,)*
                __call_site: #private::CallSite::of_caller(),
                #no_generics
            }
        },
    );
    let call = quote! {
        #(#cfg)*
        #[doc = #doc]
        #(#on_struct)*
        #[allow(non_camel_case_types)]
        #struct_is_silent
        #[must_use = #must_use]
        #vis #keyword #name #generics #where_clause #body
    };
    let items = quote! {
        #(#cfg)*
        #(#on_function)*
        #use_is_silent
        #[track_caller]
        #vis #fn_token #name #impl_generics (#(#parameters),*) -> #name #ty_generics #where_clause #capture

        #(#cfg)*
        #(#on_impls)*
        #use_is_silent
        impl #impl_generics #private::Task for #name #ty_generics #where_clause {
            type Output = #output;
            const NAME: &'static str = #task_name;
            #states

            #hand_over

            fn call_site(&self) -> &'static ::core::panic::Location<'static> {
                #private::CallSite::location(&self.__call_site)
            }

            fn give_up(#this) {
                #private::CallSite::silence(#this.__call_site);
            }

            #shown
        }

        #(#cfg)*
        #(#on_impls)*
        impl #impl_generics #name #ty_generics #where_clause {
            #methods
        }

        #(#cfg)*
        #(#on_impls)*
        #use_is_silent
        impl #impl_generics ::core::fmt::Debug for #name #ty_generics #where_clause {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                #private::fmt_call(self, f)
            }
        }

        #durable

        #expected
    };
    Expansion { call, items }
}

fn braced(span: Span, content: TokenStream) -> Group {
    let mut group = Group::new(Delimiter::Brace, content);
    group.set_span(span);
    group
}

/// The lints that would speak of our items only, where a task gives cause for it. No more than
/// these are allowed: behind a crate's `forbid` an `allow` is itself a warning.
struct Silent {
    on_struct: TokenStream,
    /// On what uses the arguments.
    on_use: TokenStream,
}

impl Silent {
    fn about(task: &TaskDef) -> Self {
        let name = task.function.sig.ident.unraw().to_string();
        let names: Vec<_> = task.args().map(|arg| arg.name.unraw().to_string()).collect();
        let is_flag = |arg: &&Arg| matches!(unwrap_groups(&arg.ty), Type::Path(path) if path.path.is_ident("bool"));
        let is_snake_case = |name: &String| *name == name.to_lowercase() && !name.trim_matches('_').contains("__");
        let on_struct = [
            (names.iter().all(is_snake_case), quote!(non_snake_case)),
            (task.args().filter(is_flag).count() <= 3, quote!(clippy::struct_excessive_bools)),
            (
                !names.iter().any(|field| field.starts_with(&name) || field.ends_with(&name)),
                quote!(clippy::struct_field_names),
            ),
        ];
        let on_use = [(!names.iter().any(|name| says_unused(name)), quote!(clippy::used_underscore_binding))];
        let allow = |lints: &[(bool, TokenStream)]| -> TokenStream {
            lints.iter().filter(|(is_fine, _)| !is_fine).map(|(_, lint)| quote!(#[allow(#lint)])).collect()
        };
        Self { on_struct: allow(&on_struct), on_use: allow(&on_use) }
    }
}

fn says_unused(name: &str) -> bool {
    name.starts_with('_') && !name.starts_with("__")
}

fn must_use(task: &TaskDef) -> String {
    let run = if task.states().next().is_some() { ".run(…)" } else { ".run()" };
    let and_await = if let Start::Spawned(_) = task.start() { ".await" } else { "" };
    if task.is_durable() {
        return format!(
            "a durable task is stored only when it is registered: call it as a statement of `atomic!`, or write \
             `.after_commit(conn)?`; `{run}{and_await}` runs it here and now, and stores nothing"
        );
    }
    format!(
        "a task runs only when it is registered: call it as a statement of `atomic!`, or write `.after_commit(conn)?`, or \
         `{run}{and_await}` to run it now"
    )
}

/// What users call on a captured call.
pub(super) fn methods(
    task: &TaskDef,
    this: &Ident,
    run: &TokenStream,
    is_stub: bool,
    private: &Private,
) -> TokenStream {
    let vis = &task.function.vis;
    let forget = quote! {
        /// Drops the call on purpose: it neither runs nor is registered.
        #vis fn forget(#this) {
            #private::Task::give_up(#this);
        }
    };
    if task.is_durable() {
        let runs = match task.start() {
            Start::Spawned(_) => {
                "The future of the task's body, to be awaited: runs nothing by itself, and stores nothing."
            }
            Start::Here | Start::Blocking => "Runs the task now, on this thread, and stores nothing.",
        };
        let methods = durable::methods(task, this, is_stub, private);
        return quote! {
            #[doc = #runs]
            #vis #run

            #forget

            #methods
        };
    }
    let (runs, runs_later_or_now) = match task.start() {
        Start::Here => {
            ("Runs the task now.", "Runs the task after the outermost commit, or now where no transaction is open.")
        }
        Start::Spawned(_) => (
            "The future of the task's body, to be awaited: runs nothing by itself.",
            "Spawns the task after the outermost commit, or now where no transaction is open.",
        ),
        Start::Blocking => (
            "Runs the task now, on this thread.",
            "Runs the task on a thread for blocking work, after the outermost commit, or from now where no transaction is open.",
        ),
    };
    // Nobody can call it: it is there for what the compiler says then.
    let delay = (!is_stub).then(|| {
        // A result of a type that cannot be is one more mistake, in two places: see `field`.
        let (returned, body) = (Ident::new("Self", this.span()), quote_spanned!(this.span()=> #this));
        quote! {
            #[doc(hidden)]
            #vis fn delay<__Delay>(#this, _: __Delay) -> #returned
            where
                <Self as #private::Argument<__Delay>>::Type: #private::IsDurable,
            { #body }
        }
    });
    quote! {
        #[doc = #runs]
        #vis #run

        #forget

        /// Runs the task after the outermost commit; `Err(NotInTransaction)` outside of a
        /// transaction.
        #vis fn after_commit(#this, conn: &mut impl #private::AfterCommit) -> #private::QueryResult<()> {
            #private::after_commit(#this, conn)
        }

        #[doc = #runs_later_or_now]
        #vis fn after_commit_or_now(#this, conn: &mut impl #private::AfterCommit) -> ::core::result::Result<(), #private::BoxError> {
            #private::after_commit_or_now(#this, conn)
        }

        /// Runs the task when what it belongs to is rolled back; `Err(NotInTransaction)` outside of
        /// a transaction.
        #vis fn after_rollback(#this, conn: &mut impl #private::AfterCommit) -> #private::QueryResult<()> {
            #private::after_rollback(#this, conn)
        }

        #delay
    }
}

/// `.run(…)`: the user's function as an inner one, called with what was captured and with the
/// states. The only place that has the body.
fn run(task: &TaskDef, this: &Ident, output: &TokenStream, on_body: &[TokenStream], private: &Private) -> TokenStream {
    let mut signature = without_our_attributes(&task.function.sig);
    // Not the user's name: in the body that must mean the function that captures.
    signature.ident = Ident::new("__deferred_body", Span::mixed_site().located_at(signature.ident.span()));
    let (body_name, block) = (signature.ident.clone(), &task.function.block);
    let turbofish = turbofish(task);
    let fields = task.args().map(|arg| {
        let (field, used) = (field(arg), used(arg, task).into_iter());
        quote!(#field #(: #used)*)
    });
    let states = task.states().map(|state| {
        let (name, ty) = (used(state, task).unwrap_or_else(|| state.name.clone()), &state.ty);
        quote!(#name: #ty)
    });
    let arguments = task.parameters().map(|arg| {
        let variable = used(arg, task).unwrap_or_else(|| field(arg));
        match arg.capture() {
            Capture::Copied(ty) if !arg.is_state => {
                quote_spanned!(ty.span()=> ::core::borrow::Borrow::<#ty>::borrow(&#variable))
            }
            _ => quote!(#variable),
        }
    });
    // Not `-> impl Future`, which in edition 2021 may not borrow a state.
    let (asyncness, and_await) = match task.start() {
        Start::Spawned(_) => (quote!(async), quote!(.await)),
        Start::Here | Start::Blocking => (quote!(), quote!()),
    };
    quote! {
        #asyncness fn run(#this, #(#states),*) -> #output {
            // The advice would not be taken: a task cannot be `const`.
            #[allow(clippy::missing_const_for_fn)]
            #(#on_body)*
            #signature #block

            let Self { #(#fields,)* __call_site, .. } = #this;
            #private::CallSite::silence(__call_site);
            #body_name #turbofish (#(#arguments),*) #and_await
        }
    }
}

/// Another name for an argument or state in `.run(…)`, which uses it, where its own says that
/// nobody does: Clippy minds that of `_unused`, and not of `__unused`.
fn used(arg: &Arg, task: &TaskDef) -> Option<Ident> {
    let name = arg.name.unraw().to_string();
    says_unused(&name).then(|| local(&format!("_{name}"), captured_span(arg), task))
}

/// `Task::STATES`, where there are any. A type that cannot be a state is underlined.
fn states(task: &TaskDef, private: &Private) -> TokenStream {
    let required: Vec<_> =
        task.states().map(|state| state_call("Required", state, &TokenStream::new(), private)).collect();
    if required.is_empty() {
        return TokenStream::new();
    }
    quote!(const STATES: &'static [#private::Required] = &[#(#required),*];)
}

/// `::<T, N>`: the inner function has generic parameters of its own.
fn turbofish(task: &TaskDef) -> TokenStream {
    let names: Vec<_> = task
        .function
        .sig
        .generics
        .params
        .iter()
        .filter_map(|parameter| match parameter {
            GenericParam::Type(parameter) => Some(&parameter.ident),
            GenericParam::Const(parameter) => Some(&parameter.ident),
            GenericParam::Lifetime(_) => None,
        })
        .collect();
    if names.is_empty() { quote!() } else { quote!(::<#(#names),*>) }
}

/// A field, and its value, that mentions each type parameter: one may occur in the body only. A
/// function pointer is `Send` whatever it returns.
fn phantom(task: &TaskDef) -> Option<(TokenStream, TokenStream)> {
    let types: Vec<_> = task.function.sig.generics.type_params().map(|parameter| &parameter.ident).collect();
    let field = quote!(__generics: ::core::marker::PhantomData<fn() -> (#(::core::marker::PhantomData<#types>,)*)>,);
    (!types.is_empty()).then(|| (field, quote!(__generics: ::core::marker::PhantomData,)))
}
