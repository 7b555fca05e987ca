//! What a task function becomes: the captured call, the function that captures, and the body.
//!
//! Must not know: what is allowed (`check` has seen to that).

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, GenericParam, Ident, ReturnType};

use super::parse::{Capture, TaskDef};
use crate::paths::private;

pub(super) fn expand(task: &TaskDef) -> TokenStream {
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
    let (cfg, on_function) = (&attrs.cfg, &attrs.on_function);

    let fields: Vec<_> = task.args.iter().map(|arg| &arg.name).collect();
    let names = fields.iter().map(|field| field.to_string());
    let types = task.args.iter().map(|arg| match arg.capture() {
        Capture::Owned(ty) => quote!(#ty),
        Capture::Copied(ty) => quote_spanned!(ty.span()=> <#ty as ::std::borrow::ToOwned>::Owned),
    });
    let parameters = task.args.iter().map(|arg| {
        let (name, ty) = (&arg.name, &arg.ty);
        quote!(#name: #ty)
    });
    let captures = task.args.iter().map(|arg| {
        let name = &arg.name;
        match arg.capture() {
            Capture::Owned(_) => quote!(#name),
            Capture::Copied(ty) => quote!(#name: <#ty as ::std::borrow::ToOwned>::to_owned(#name)),
        }
    });
    let separators = fields.iter().enumerate().map(|(at, _)| if at == 0 { "" } else { ", " });
    let task_name = match &task.options.name {
        Some(name) => quote!(#name),
        None => {
            let name = name.to_string();
            quote!(::core::concat!(::core::module_path!(), "::", #name))
        }
    };
    let run = run(task, &private, &attrs.on_body);
    let doc = format!("A captured call of [`{name}`](fn@{name}).");
    let phantom = phantom(task);

    quote! {
        #(#cfg)*
        #[doc = #doc]
        #[allow(non_camel_case_types)]
        #[must_use = "a task runs only when it is registered: call it as a statement of `atomic!`, or write `.after_commit(conn)?`, or `.run()` to run it now"]
        #vis struct #name #generics #where_clause {
            #(#fields: #types,)*
            __call_site: &'static ::core::panic::Location<'static>,
            __generics: ::core::marker::PhantomData<#phantom>,
        }

        #(#cfg)*
        #(#on_function)*
        #[track_caller]
        #vis fn #name #impl_generics (#(#parameters),*) -> #name #ty_generics #where_clause {
            #name {
                #(#captures,)*
                __call_site: ::core::panic::Location::caller(),
                __generics: ::core::marker::PhantomData,
            }
        }

        #(#cfg)*
        impl #impl_generics #private::Task for #name #ty_generics #where_clause {
            type Output = #output;
            const NAME: &'static str = #task_name;

            #run

            fn call_site(&self) -> &'static ::core::panic::Location<'static> {
                self.__call_site
            }

            fn write_arguments(&self, f: &mut dyn ::core::fmt::Write) -> ::core::fmt::Result {
                #[allow(unused_imports)]
                use #private::Opaque as _;
                #(
                    ::core::fmt::Write::write_str(f, ::core::concat!(#separators, #names, ": "))?;
                    #private::Shown(&self.#fields).write(f)?;
                )*
                ::core::result::Result::Ok(())
            }
        }

        #(#cfg)*
        #[allow(dead_code)]
        impl #impl_generics #name #ty_generics #where_clause {
            /// Runs the task now.
            #vis fn run(self) -> #output {
                #private::Task::run(self)
            }

            /// Runs the task after the outermost commit; `Err(NotInTransaction)` outside of a transaction.
            #vis fn after_commit(self, conn: &mut impl #private::AfterCommit) -> #private::QueryResult<()> {
                #private::after_commit(self, conn)
            }

            /// Runs the task after the outermost commit, or now where no transaction is open.
            #vis fn after_commit_or_now(self, conn: &mut impl #private::AfterCommit) -> ::core::result::Result<(), #private::BoxError> {
                #private::after_commit_or_now(self, conn)
            }

            /// Runs the task when what it belongs to is rolled back; `Err(NotInTransaction)` outside of a transaction.
            #vis fn after_rollback(self, conn: &mut impl #private::AfterCommit) -> #private::QueryResult<()> {
                #private::after_rollback(self, conn)
            }
        }

        #(#cfg)*
        impl #impl_generics ::core::fmt::Debug for #name #ty_generics #where_clause {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                ::core::fmt::Formatter::write_str(f, <Self as #private::Task>::NAME)?;
                ::core::fmt::Formatter::write_str(f, "(")?;
                #private::Task::write_arguments(self, f)?;
                ::core::fmt::Formatter::write_str(f, ")")
            }
        }
    }
}

/// `Task::run`: the user's function as an inner one, called with what was captured.
fn run(task: &TaskDef, private: &TokenStream, on_body: &[&Attribute]) -> TokenStream {
    let mut signature = task.function.sig.clone();
    // Not the user's name: in the body that must mean the function that captures.
    signature.ident = Ident::new("__deferred_body", Span::mixed_site().located_at(signature.ident.span()));
    let (body_name, block) = (signature.ident.clone(), &task.function.block);
    let turbofish = turbofish(task);
    let fields: Vec<_> = task.args.iter().map(|arg| &arg.name).collect();
    let arguments = task.args.iter().map(|arg| {
        let name = &arg.name;
        match arg.capture() {
            Capture::Owned(_) => quote!(#name),
            Capture::Copied(ty) => quote!(::core::borrow::Borrow::<#ty>::borrow(&#name)),
        }
    });
    // On the user's own type, so that it is what the compiler underlines.
    let checks = task.args.iter().map(|arg| match arg.capture() {
        Capture::Owned(ty) => {
            quote_spanned!(ty.span()=> #private::captured_argument_is_send_and_static::<#ty>();)
        }
        Capture::Copied(ty) => {
            quote_spanned!(ty.span()=> #private::captured_argument_is_send_and_static::<<#ty as ::std::borrow::ToOwned>::Owned>();)
        }
    });
    quote! {
        fn run(self) -> Self::Output {
            #(#on_body)*
            #signature #block

            #(#checks)*
            let Self { #(#fields,)* .. } = self;
            #body_name #turbofish (#(#arguments),*)
        }
    }
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

/// Mentions each type parameter: one may occur in the body only. A function pointer is `Send` whatever it returns.
fn phantom(task: &TaskDef) -> TokenStream {
    let types = task.function.sig.generics.type_params().map(|parameter| &parameter.ident);
    quote!(fn() -> (#(::core::marker::PhantomData<#types>,)*))
}

/// The function's attributes, by what they are for.
struct Attributes<'a> {
    cfg: Vec<&'a Attribute>,
    on_function: Vec<&'a Attribute>,
    on_body: Vec<&'a Attribute>,
}

impl<'a> Attributes<'a> {
    fn sort(attributes: &'a [Attribute]) -> Self {
        let mut sorted = Self { cfg: Vec::new(), on_function: Vec::new(), on_body: Vec::new() };
        for attribute in attributes {
            let path = attribute.path();
            if path.is_ident("cfg") {
                sorted.cfg.push(attribute);
            } else if ["doc", "deprecated"].iter().any(|name| path.is_ident(name)) {
                sorted.on_function.push(attribute);
            } else if ["allow", "warn", "deny", "forbid"].iter().any(|name| path.is_ident(name)) {
                // Also about the signature, which both have.
                sorted.on_function.push(attribute);
                sorted.on_body.push(attribute);
            } else {
                sorted.on_body.push(attribute);
            }
        }
        sorted
    }
}
