//! What stands in for a task with mistakes in it, so that one mistake is one message: its calls still compile, and the
//! body is still checked and known to an editor.
//!
//! Must not know: which mistakes.

use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;
use syn::FnArg;

use super::expand::{Expansion, methods};
use super::parse::TaskDef;
use crate::paths::private;

pub(super) fn expand(task: &TaskDef) -> TokenStream {
    let mut function = task.function.clone();
    // It has its message; with it, each statement of the body would have another.
    function.sig.constness = None;
    let function = &function;
    if function.sig.inputs.iter().any(|input| matches!(input, FnArg::Receiver(_))) {
        // A method, in an impl block: no struct can stand beside it there.
        return quote!(#function);
    }
    let private = private(task.options.root.as_ref());
    let (vis, name, generics) = (&function.vis, &function.sig.ident, &function.sig.generics);
    let (inputs, where_clause) = (&function.sig.inputs, &generics.where_clause);
    let cfg: Vec<_> = function.attrs.iter().filter(|attribute| attribute.path().is_ident("cfg")).collect();
    let methods = methods(vis, &Ident::new("self", Span::call_site()), &quote!(()), &private);
    let call = quote! {
        #(#cfg)*
        #[allow(non_camel_case_types, dead_code, missing_docs)]
        #[derive(Debug)]
        #vis struct #name { __stub: () }
    };
    let items = quote! {
        #(#cfg)*
        #[allow(unused, clippy::all)]
        const _: () = { #function };

        #(#cfg)*
        #[allow(unused_variables, dead_code, missing_docs, clippy::all)]
        #vis fn #name #generics (#inputs) -> #name #where_clause {
            #name { __stub: () }
        }

        #(#cfg)*
        impl #private::Task for #name {
            type Output = ();
            const NAME: &'static str = "";
            fn run(self) {}
            fn hand_over<__Receiver: #private::Receiver>(self, receiver: __Receiver) -> __Receiver::Output {
                #private::Receiver::receive(receiver, self)
            }
            fn call_site(&self) -> &'static ::core::panic::Location<'static> {
                ::core::panic::Location::caller()
            }
            fn write_arguments(&self, _: &mut dyn ::core::fmt::Write) -> ::core::fmt::Result {
                ::core::result::Result::Ok(())
            }
        }

        #(#cfg)*
        #[allow(dead_code)]
        impl #name {
            #methods
        }
    };
    Expansion { call, items }.into_tokens(task)
}
