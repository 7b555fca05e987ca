//! What stands in for a task with mistakes in it, so that one mistake is one message: its calls
//! still compile, and the body is still checked and known to an editor.
//!
//! Must not know: which mistakes.

use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;
use syn::FnArg;

use super::expand::{Expansion, methods};
use super::parse::{Start, TaskDef, is_state, self_type, without_our_attributes};
use crate::paths::private;

pub(super) fn expand(task: &TaskDef) -> TokenStream {
    let mut function = task.function.clone();
    // It has its message; with it, each statement of the body would have another.
    function.sig.constness = None;
    function.sig = without_our_attributes(&function.sig);
    let function = &function;
    let is_method = |input: &FnArg| matches!(input, FnArg::Receiver(_));
    if function.sig.inputs.iter().any(is_method) || self_type(&function.sig).is_some() {
        // A method, in an impl block: no struct can stand beside it there.
        return quote!(#function);
    }
    let private = private(task.options.root.as_ref());
    let (vis, name, generics) = (&function.vis, &function.sig.ident, &function.sig.generics);
    let (inputs, where_clause) = (&task.function.sig.inputs, &generics.where_clause);
    let captured =
        inputs.iter().zip(&function.sig.inputs).filter(|(input, _)| !is_state(input)).map(|(_, input)| input);
    // Of any type: one of them may be the mistake.
    let states = inputs.iter().filter(|input| is_state(input)).map(|_| quote!(_: impl ::core::marker::Sized));
    let asyncness = matches!(task.start(), Start::Spawned(_)).then(|| quote!(async));
    let cfg: Vec<_> = function.attrs.iter().filter(|attribute| attribute.path().is_ident("cfg")).collect();
    let this = Ident::new("self", Span::call_site());
    let methods = methods(task, &this, &quote!(#asyncness fn run(#this, #(#states),*) {}), true, &private);
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
        #vis fn #name #generics (#(#captured),*) -> #name #where_clause {
            #name { __stub: () }
        }

        #(#cfg)*
        impl #private::Task for #name {
            type Output = ();
            const NAME: &'static str = "";
            fn hand_over<__Receiver: #private::Receiver>(self, receiver: __Receiver) -> __Receiver::Output {
                #private::Receiver::receive(
                    receiver,
                    self,
                    #private::Alone(|_: #name| ()),
                )
            }
            fn call_site(&self) -> &'static ::core::panic::Location<'static> {
                ::core::panic::Location::caller()
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
