//! What a test expects of a task's calls: each argument, or any. For the feature `testing` only, so
//! that a program pays nothing for it.
//!
//! Must not know: what is done with it.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;

use super::capture::{captured_span, field};
use super::parse::{Arg, Capture, TaskDef};
use crate::paths::{Private, located_at};

/// Whether the runtime has what this expands to.
const IS_THERE: bool = cfg!(all(feature = "testing", not(test)));

/// `Expectable`, and the function that the assertions call.
pub(super) fn expand(task: &TaskDef, private: &Private) -> Option<TokenStream> {
    IS_THERE.then(|| expected(task, private))
}

fn expected(task: &TaskDef, private: &Private) -> TokenStream {
    let (name, vis) = (&task.function.sig.ident, &task.function.vis);
    let (impl_generics, ty_generics, where_clause) = task.function.sig.generics.split_for_impl();
    let parameters = task.args().map(|arg| {
        let (name, ty) = (&arg.name, &arg.ty);
        quote!(#name: ::core::option::Option<#ty>)
    });
    let captures = task.args().map(|arg| {
        let field = field(arg);
        match arg.capture() {
            Capture::Owned(_) => quote!(),
            Capture::Copied(ty) => {
                quote_spanned!(ty.span()=> let #field = #field.map(<#ty as ::std::borrow::ToOwned>::to_owned);)
            }
        }
    });
    let compared = task.args().map(|arg| compared(arg, private));
    let (call, comparison) = (ours("call"), ours("comparison"));
    let read = task.is_durable().then(|| {
        quote! {
            fn read(payload: &str) -> ::core::option::Option<#private::Read<Self>> {
                ::core::option::Option::Some(#private::read::<Self>(payload))
            }
        }
    });
    // The types of the arguments may be less public than the task, and so stand in no trait.
    quote! {
        impl #impl_generics #private::Expectable for #name #ty_generics #where_clause {
            #read
        }

        impl #impl_generics #name #ty_generics #where_clause {
            /// For `assert_deferred!` and its like: what is `None` may be anything.
            #[doc(hidden)]
            #vis fn __expected(#(#parameters),*) -> #private::Expected<Self> {
                use #private::{Incomparable as _, Unshown as _};
                #(#captures)*
                #private::Expected::new(move |
                    #call: ::core::option::Option<&Self>,
                    #comparison: &mut #private::Comparison|
                {
                    let _ = (&#call, &#comparison);
                    #(#compared)*
                })
            }
        }
    }
}

/// A variable that no argument can be mistaken for.
fn ours(name: &str) -> Ident {
    Ident::new(name, Span::mixed_site())
}

fn compared(arg: &Arg, private: &Private) -> TokenStream {
    let at = captured_span(arg);
    let (field, name, is_secret) = (field(arg), arg.name.unraw().to_string(), arg.is_secret);
    let (call, comparison) = (ours("call"), ours("comparison"));
    let private = located_at(private, at);
    quote_spanned! {at=>
        #private::Comparison::argument(
            #comparison,
            #name,
            #is_secret,
            #field.as_ref(),
            #call.map(|#call| &#call.#field),
            |expected, found| #private::Same(expected, found).test(),
            |value| #private::Text(value).text(),
        );
    }
}
