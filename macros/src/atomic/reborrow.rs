//! `&mut conn` in a block. There `conn` is a `&mut` already; code that was written for a connection
//! of its own says `.execute(&mut conn)?` all the same, and means the connection.
//!
//! Must not know: what else is rewritten.

use proc_macro2::{Span, TokenStream};
use syn::visit::{self, Visit};
use syn::visit_mut::{self, VisitMut};
use syn::{Block, Expr, ExprReference, ExprUnary, Ident, PatIdent, Token, UnOp};

/// Makes `&mut *conn` of it. Without that it does not compile, as the block's own `conn` is not
/// `mut`; where the block has another variable of that name it stays as it is.
pub(super) fn reborrow(block: &mut Block, conn: &Ident) {
    let mut search = Search { conn, is_shadowed: false };
    search.visit_block(block);
    if !search.is_shadowed {
        Reborrow { conn }.visit_block_mut(block);
    }
}

struct Search<'a> {
    conn: &'a Ident,
    is_shadowed: bool,
}

impl<'ast> Visit<'ast> for Search<'_> {
    fn visit_pat_ident(&mut self, pattern: &'ast PatIdent) {
        self.is_shadowed |= pattern.ident == *self.conn;
        visit::visit_pat_ident(self, pattern);
    }
}

struct Reborrow<'a> {
    conn: &'a Ident,
}

impl VisitMut for Reborrow<'_> {
    fn visit_expr_reference_mut(&mut self, reference: &mut ExprReference) {
        visit_mut::visit_expr_reference_mut(self, reference);
        let expr = &mut *reference.expr;
        if reference.mutability.is_some() && matches!(expr, Expr::Path(path) if path.path.is_ident(self.conn)) {
            let star = Token![*](Span::mixed_site().located_at(reference.and_token.span));
            let conn = Box::new(std::mem::replace(expr, Expr::Verbatim(TokenStream::new())));
            *expr = Expr::Unary(ExprUnary { attrs: Vec::new(), op: UnOp::Deref(star), expr: conn });
        }
    }
}
