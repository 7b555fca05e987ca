//! What a block must not have in it.
//!
//! Must not know: what it expands to.

use syn::visit::{self, Visit};
use syn::{ExprAsync, ExprAwait, ExprClosure, Item};

use super::parse::AtomicDef;
use crate::paths::Errors;

pub(super) fn check(atomic: &AtomicDef, errors: &mut Errors) {
    if atomic.asyncness.is_none() {
        Awaits(errors).visit_block(&atomic.body);
    }
}

/// `.await` where nothing is async.
struct Awaits<'a>(&'a mut Errors);

impl<'ast> Visit<'ast> for Awaits<'_> {
    fn visit_expr_await(&mut self, expr: &'ast ExprAwait) {
        visit::visit_expr_await(self, expr);
        self.0.push(syn::Error::new(
            expr.await_token.span,
            "`.await` in a block that is not async; write `atomic!(conn, async { … }).await`",
        ));
    }

    fn visit_expr_closure(&mut self, expr: &'ast ExprClosure) {
        if expr.asyncness.is_none() {
            visit::visit_expr_closure(self, expr);
        }
    }

    // What is async by itself.
    fn visit_expr_async(&mut self, _: &'ast ExprAsync) {}
    fn visit_item(&mut self, _: &'ast Item) {}
}
