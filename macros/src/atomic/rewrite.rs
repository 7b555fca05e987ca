//! The rewrite of a block: a statement's value is handed to the runtime, which registers it if it
//! is a task.
//!
//! `f(x);` becomes
//! `match (f(x)) { value => registrar.__statement(&value).__settle_statement(value), … };`: the
//! user's expression stays what it was, in the place where it was, so that inference, coercions,
//! borrows, temporaries and spans are the user's own. A `match` and not a `let`, because
//! temporaries of the statement live as long in the one as they did before.
//!
//! Must not know: which expressions are tasks. That is decided by type.

use proc_macro2::{Delimiter, Group, Punct, Spacing, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::visit_mut::{self, VisitMut};
use syn::{
    Attribute, Block, Expr, ExprBlock, ExprLoop, ExprMacro, Ident, Macro, Pat, Stmt, StmtMacro, Token, parse_quote,
};

use super::macros::{has_value, is_known};
use super::simple::{Chain, Piece};
use crate::paths::Private;

/// Rewrites the body of one `atomic!`.
pub(super) struct Rewriter<'a> {
    private: &'a Private,
    registrar: &'a Ident,
    reach: Reach,
    /// Whether the closure or async block around has its value dropped, and with it what is
    /// returned.
    returns_dropped: bool,
    /// Whether some macro's arguments may call something: nothing is known of what becomes of it.
    pub(super) calls_in_macros: bool,
}

#[derive(Clone, Copy)]
enum Reach {
    /// A task is registered here.
    Block,
    /// In a closure or async block: it may outlive the transaction, so a task here is an error.
    Closure,
}

impl<'a> Rewriter<'a> {
    pub(super) fn new(private: &'a Private, registrar: &'a Ident) -> Self {
        Self { private, registrar, reach: Reach::Block, returns_dropped: false, calls_in_macros: false }
    }

    /// Rewrites a block's statements. Its tail is one of them when the block stands where a
    /// statement does.
    pub(super) fn block(&mut self, block: &mut Block, tail_is_statement: bool) {
        let last = block.stmts.len().saturating_sub(1);
        for (at, stmt) in block.stmts.iter_mut().enumerate() {
            match stmt {
                // Of this one it is known what it expands to.
                Stmt::Macro(StmtMacro { attrs, mac, semi_token }) if has_value(&mac.path) => {
                    let call = ExprMacro { attrs: std::mem::take(attrs), mac: mac.clone() };
                    let semi = semi_token.map(|semi| Token![;](Span::mixed_site().located_at(semi.span)));
                    let mut value = Expr::Macro(call);
                    self.statement(&mut value, semi.is_none());
                    *stmt = Stmt::Expr(value, semi);
                }
                Stmt::Expr(expr, semi) if semi.is_some() || at < last || tail_is_statement => {
                    self.statement(expr, semi.is_none());
                    // Ours, because what stands before it is: a `match` needs none, nor do branches
                    // that are settled.
                    if let (Expr::Verbatim(_) | Expr::If(_) | Expr::Match(_), Some(semi)) = (expr, semi) {
                        semi.span = Span::mixed_site().located_at(semi.span);
                    }
                }
                Stmt::Expr(expr, _) => self.visit_expr_mut(expr),
                Stmt::Local(local) => {
                    if let Some(init) = &mut local.init {
                        self.visit_expr_mut(&mut init.expr);
                        match &local.pat {
                            Pat::Wild(_) => self.dropped(&mut init.expr, true),
                            pattern if is_wild(pattern) => self.dropped(&mut init.expr, false),
                            _ => {}
                        }
                        if let Some((_, diverge)) = &mut init.diverge {
                            self.visit_expr_mut(diverge);
                        }
                    }
                }
                // A macro may expand to items or `let`s, so that nothing can be put around it.
                Stmt::Macro(statement) => self.visit_macro_mut(&mut statement.mac),
                Stmt::Item(_) => {}
            }
        }
    }

    /// An expression whose value is dropped, or is `()` and that of a block, arm or closure.
    fn statement(&mut self, expr: &mut Expr, is_tail: bool) {
        match expr {
            Expr::If(expr) => {
                self.visit_expr_mut(&mut expr.cond);
                self.block(&mut expr.then_branch, true);
                if let Some((_, otherwise)) = &mut expr.else_branch {
                    self.statement(otherwise, true);
                }
            }
            Expr::Match(expr) => {
                self.visit_expr_mut(&mut expr.expr);
                for arm in &mut expr.arms {
                    if let Some((_, guard)) = &mut arm.guard {
                        self.visit_expr_mut(guard);
                    }
                    self.statement(&mut arm.body, true);
                }
            }
            // What `break` gives, and not only the tail, is the value.
            Expr::Block(ExprBlock { label: Some(label), block, .. })
                if breaks_with_value(block, Some(label), false) =>
            {
                self.block(block, false);
                // Not a `match` on a block, which is a lint of Clippy's.
                let (attrs, private) = (take_attributes(expr), self.private);
                *expr = parse_quote!(#(#attrs)* #private::value_of(#expr));
                self.settle(expr, is_tail);
            }
            Expr::Loop(ExprLoop { label, body, .. }) if breaks_with_value(body, label.as_ref(), true) => {
                self.visit_expr_mut(expr);
                self.settle(expr, is_tail);
            }
            Expr::Block(expr) => self.block(&mut expr.block, true),
            Expr::Unsafe(expr) => self.block(&mut expr.block, true),
            Expr::Group(expr) => self.statement(&mut expr.expr, is_tail),
            // The type of `Err(e)?` is what its place asks for, so that nothing may stand between
            // the two.
            Expr::Try(_) if is_tail && leaves_with_error(expr) => self.visit_expr_mut(expr),
            Expr::Call(_)
            | Expr::MethodCall(_)
            | Expr::Path(_)
            | Expr::Paren(_)
            | Expr::Try(_)
            | Expr::Await(_)
            | Expr::Field(_)
            | Expr::Index(_)
            | Expr::Unary(_)
            | Expr::Struct(_)
            | Expr::Array(_)
            | Expr::Repeat(_) => {
                self.visit_expr_mut(expr);
                self.settle(expr, is_tail);
            }
            Expr::Tuple(tuple) if !tuple.elems.is_empty() => {
                self.visit_expr_mut(expr);
                self.settle(expr, is_tail);
            }
            Expr::Macro(call) if has_value(&call.mac.path) => self.settle(expr, is_tail),
            Expr::Assign(assign) if matches!(&*assign.left, Expr::Infer(_)) => {
                self.visit_expr_mut(&mut assign.right);
                self.dropped(&mut assign.right, true);
            }
            // Loops have their own rule below; nothing else can have a task as its value.
            _ => self.visit_expr_mut(expr),
        }
    }

    /// A statement that was not taken apart.
    pub(super) fn simple(&self, pieces: Vec<Piece>) -> TokenStream {
        let mut tokens = Vec::with_capacity(pieces.len());
        for piece in pieces {
            match piece {
                Piece::Token(token) => tokens.push(token),
                Piece::Braces(inside, at) => {
                    let mut braces = Group::new(Delimiter::Brace, self.simple(inside));
                    braces.set_span(at);
                    tokens.push(TokenTree::Group(braces));
                }
                Piece::Chain(Chain { tokens: written, first, last, is_tail }) => {
                    let written = written.into_iter().collect();
                    tokens.extend(self.hand_to(SETTLE, true, written, (first, last), is_tail));
                }
                Piece::Semi(at) => tokens.push(punct(';', Span::mixed_site().located_at(at))),
            }
        }
        tokens.into_iter().collect()
    }

    fn settle(&mut self, expr: &mut Expr, is_tail: bool) {
        match self.reach {
            Reach::Block => self.hand(SETTLE, true, expr, is_tail),
            Reach::Closure => self.hand("__stray_statement", false, expr, is_tail),
        }
    }

    /// `let _ = f(x);`, which is what the compiler advises where a value should not be dropped.
    /// Only a function's call, or a list of some: another expression may be a place, from which
    /// nothing is moved, or of a type that is not known yet. A list's may be said by the pattern's.
    fn dropped(&mut self, expr: &mut Expr, lists: bool) {
        match expr {
            Expr::Paren(inner) => self.dropped(&mut inner.expr, lists),
            Expr::Group(inner) => self.dropped(&mut inner.expr, lists),
            Expr::Call(_) => self.hand("__dropped_statement", false, expr, false),
            _ if lists && lists_calls(expr) => self.hand("__dropped_statement", false, expr, false),
            _ => {}
        }
    }

    fn hand(&self, method: &str, with_registrar: bool, expr: &mut Expr, is_tail: bool) {
        let attrs = take_attributes(expr);
        let written = expr.to_token_stream();
        let ends = ends(&written);
        let handed = self.hand_to(method, with_registrar, written, ends, is_tail);
        let mut tokens = TokenStream::new();
        attrs.iter().for_each(|attribute| attribute.to_tokens(&mut tokens));
        tokens.extend(handed);
        *expr = Expr::Verbatim(tokens);
    }

    /// Hands the expression's value to one of the runtime's methods for it.
    ///
    /// Token by token and not with `quote!`: this is most of what is written for a block.
    fn hand_to(
        &self,
        method: &str,
        with_registrar: bool,
        written: TokenStream,
        (first, last): (Span, Span),
        is_tail: bool,
    ) -> [TokenTree; 3] {
        // The user's own spans, as far as the compiler asks for them: a warning about the
        // statement's value points there.
        let name = Ident::new("value", Span::mixed_site().located_at(last));
        let value = || TokenTree::Ident(name.clone());
        // On the first token: what the compiler underlines when it has something to say about the
        // statement's type.
        let at = Span::mixed_site().located_at(first);
        let at_value = name.span();
        let method = Ident::new(method, at);
        // `registrar.__statement(of).method(taken)` or `Statement::of(of).method(taken)`
        let settle = |of: Vec<TokenTree>, taken: Vec<TokenTree>, arm: &mut Vec<TokenTree>| {
            if with_registrar {
                let registrar = TokenTree::Ident(self.registrar.clone());
                arm.extend([registrar, punct('.', at_value), ident("__statement", at_value)]);
            } else {
                arm.extend(self.private.item("Statement", at_value));
                arm.extend(colons(at_value));
                arm.push(ident("of", at_value));
            }
            arm.extend([parenthesised(of, at_value), punct('.', at_value)]);
            arm.extend([TokenTree::Ident(method.clone()), parenthesised(taken, at), punct(',', at_value)]);
        };
        // Not reachable where the user's expression diverges, which is no news to the user.
        let allow = || {
            let lint = parenthesised(vec![ident("unreachable_code", at_value)], at_value);
            [punct('#', at_value), group(Delimiter::Bracket, [ident("allow", at_value), lint], at_value)]
        };
        let mut arms = Vec::with_capacity(48);
        // A diverging tail has to fit the other branches. It does if the compiler keeps its type,
        // and does not look for one that fits the arm below; it keeps the type where a pattern has
        // a `ref` in it.
        if is_tail {
            arms.extend(allow());
            arms.extend([ident("ref", at_value), value(), ident("if", at_value), ident("false", at_value)]);
            arms.extend(arrow(at_value));
            let never: Vec<_> =
                self.private.item("unreachable", at).chain([parenthesised(vec![value()], at)]).collect();
            settle(vec![value()], never, &mut arms);
        }
        arms.extend(allow());
        arms.push(value());
        arms.extend(arrow(at_value));
        settle(vec![punct('&', at_value), value()], vec![value()], &mut arms);
        // In parentheses because a struct literal cannot stand in a scrutinee.
        let mut scrutinee = Group::new(Delimiter::Parenthesis, written);
        scrutinee.set_span(at);
        [ident("match", first), TokenTree::Group(scrutinee), group(Delimiter::Brace, arms, last)]
    }
}

/// What registers the tasks in a statement's value.
const SETTLE: &str = "__settle_statement";

fn ident(name: &str, at: Span) -> TokenTree {
    TokenTree::Ident(Ident::new(name, at))
}

fn punct(character: char, at: Span) -> TokenTree {
    spaced(character, Spacing::Alone, at)
}

fn colons(at: Span) -> [TokenTree; 2] {
    [spaced(':', Spacing::Joint, at), punct(':', at)]
}

fn arrow(at: Span) -> [TokenTree; 2] {
    [spaced('=', Spacing::Joint, at), punct('>', at)]
}

fn spaced(character: char, spacing: Spacing, at: Span) -> TokenTree {
    let mut punct = Punct::new(character, spacing);
    punct.set_span(at);
    TokenTree::Punct(punct)
}

fn group(delimiter: Delimiter, tokens: impl IntoIterator<Item = TokenTree>, at: Span) -> TokenTree {
    let mut group = Group::new(delimiter, tokens.into_iter().collect());
    group.set_span(at);
    TokenTree::Group(group)
}

fn parenthesised(tokens: Vec<TokenTree>, at: Span) -> TokenTree {
    group(Delimiter::Parenthesis, tokens, at)
}

/// Expressions whose value is used: only the statements of blocks inside them are rewritten.
impl VisitMut for Rewriter<'_> {
    fn visit_block_mut(&mut self, block: &mut Block) {
        self.block(block, false);
    }

    fn visit_expr_for_loop_mut(&mut self, expr: &mut syn::ExprForLoop) {
        self.visit_expr_mut(&mut expr.expr);
        self.block(&mut expr.body, true);
    }

    fn visit_expr_while_mut(&mut self, expr: &mut syn::ExprWhile) {
        self.visit_expr_mut(&mut expr.cond);
        self.block(&mut expr.body, true);
    }

    fn visit_expr_loop_mut(&mut self, expr: &mut syn::ExprLoop) {
        self.block(&mut expr.body, true);
    }

    fn visit_expr_if_mut(&mut self, expr: &mut syn::ExprIf) {
        self.visit_expr_mut(&mut expr.cond);
        // Without `else` the value is `()`.
        self.block(&mut expr.then_branch, expr.else_branch.is_none());
        if let Some((_, otherwise)) = &mut expr.else_branch {
            self.visit_expr_mut(otherwise);
        }
    }

    fn visit_expr_method_call_mut(&mut self, expr: &mut syn::ExprMethodCall) {
        if !drops_values(&expr.method) {
            visit_mut::visit_expr_method_call_mut(self, expr);
            return;
        }
        self.visit_expr_mut(&mut expr.receiver);
        self.dropped_values(&mut expr.args);
    }

    fn visit_expr_call_mut(&mut self, expr: &mut syn::ExprCall) {
        let called = match &*expr.func {
            Expr::Path(path) => path.path.segments.last().map(|segment| &segment.ident),
            _ => None,
        };
        if !called.is_some_and(drops_values) {
            visit_mut::visit_expr_call_mut(self, expr);
            return;
        }
        self.dropped_values(&mut expr.args);
    }

    fn visit_expr_return_mut(&mut self, expr: &mut syn::ExprReturn) {
        match &mut expr.expr {
            Some(value) if self.returns_dropped => self.statement(value, true),
            _ => visit_mut::visit_expr_return_mut(self, expr),
        }
    }

    fn visit_expr_closure_mut(&mut self, expr: &mut syn::ExprClosure) {
        self.elsewhere(false, |this| visit_mut::visit_expr_closure_mut(this, expr));
    }

    fn visit_expr_async_mut(&mut self, expr: &mut syn::ExprAsync) {
        self.elsewhere(false, |this| visit_mut::visit_expr_async_mut(this, expr));
    }

    fn visit_macro_mut(&mut self, mac: &mut Macro) {
        self.calls_in_macros |= !is_known(&mac.path) && may_call(mac.tokens.clone());
    }

    // Not part of the block: what they call, they call by themselves.
    fn visit_item_mut(&mut self, _: &mut syn::Item) {}
    fn visit_expr_const_mut(&mut self, _: &mut syn::ExprConst) {}
    fn visit_type_mut(&mut self, _: &mut syn::Type) {}
    fn visit_pat_mut(&mut self, _: &mut syn::Pat) {}
}

impl Rewriter<'_> {
    fn elsewhere(&mut self, returns_dropped: bool, visit: impl FnOnce(&mut Self)) {
        let around = (self.reach, self.returns_dropped);
        (self.reach, self.returns_dropped) = (Reach::Closure, returns_dropped);
        visit(self);
        (self.reach, self.returns_dropped) = around;
    }

    /// Arguments of what drops the values of its closures and async blocks, as a statement does: a
    /// task there is refused in our words, and not lost in a `JoinHandle`.
    fn dropped_values(&mut self, arguments: &mut Punctuated<Expr, Token![,]>) {
        for argument in arguments {
            match argument {
                Expr::Closure(closure) => self.elsewhere(true, |this| this.statement(&mut closure.body, true)),
                Expr::Async(block) => self.elsewhere(true, |this| this.block(&mut block.block, true)),
                other => self.visit_expr_mut(other),
            }
        }
    }
}

/// Functions and methods whose closures' and async blocks' values are dropped, or mostly are.
fn drops_values(called: &Ident) -> bool {
    ["for_each", "spawn", "spawn_blocking", "spawn_local"].iter().any(|name| called == name)
}

/// `_`, also with a type.
fn is_wild(pattern: &Pat) -> bool {
    match pattern {
        Pat::Wild(_) => true,
        Pat::Type(typed) => is_wild(&typed.pat),
        _ => false,
    }
}

/// `[f(x)]`, `(f(x), 1)` or `vec![f(x)]`, also in one another: nothing but calls and literals, whose
/// types are known.
fn lists_calls(expr: &Expr) -> bool {
    let is_or_lists = |expr: &Expr| matches!(expr, Expr::Call(_) | Expr::Lit(_)) || lists_calls(expr);
    let are = |elems: &Punctuated<Expr, Token![,]>| !elems.is_empty() && elems.iter().all(is_or_lists);
    match expr {
        Expr::Array(list) => are(&list.elems),
        Expr::Tuple(list) => are(&list.elems),
        Expr::Macro(call) if has_value(&call.mac.path) => {
            call.mac.parse_body_with(Punctuated::parse_terminated).is_ok_and(|elems| are(&elems))
        }
        _ => false,
    }
}

/// `Err(e)?`, also behind methods: `Err(e).context("…")?`.
fn leaves_with_error(expr: &Expr) -> bool {
    match expr {
        Expr::Try(expr) => leaves_with_error(&expr.expr),
        Expr::MethodCall(expr) => leaves_with_error(&expr.receiver),
        Expr::Paren(expr) => leaves_with_error(&expr.expr),
        Expr::Call(expr) => {
            matches!(&*expr.func, Expr::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "Err"))
        }
        _ => false,
    }
}

/// Whether something may be called in these tokens: the macro may write the parentheses, so that a
/// name is enough.
fn may_call(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(_) => true,
        TokenTree::Group(group) => may_call(group.stream()),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

/// Whether a `break` in this body gives a value to the loop or block that the body is of.
fn breaks_with_value(body: &Block, label: Option<&syn::Label>, is_loop: bool) -> bool {
    struct Breaks<'a> {
        label: Option<&'a syn::Lifetime>,
        /// Whether a `break` without a label is one out of this body.
        is_innermost: bool,
        found: bool,
    }
    impl Breaks<'_> {
        fn inner(&mut self, visit: impl FnOnce(&mut Self)) {
            let innermost = std::mem::replace(&mut self.is_innermost, false);
            visit(self);
            self.is_innermost = innermost;
        }
    }
    impl Visit<'_> for Breaks<'_> {
        fn visit_expr_break(&mut self, expr: &syn::ExprBreak) {
            let is_ours = match &expr.label {
                None => self.is_innermost,
                Some(label) => self.label.is_some_and(|ours| ours.ident == label.ident),
            };
            self.found |= is_ours && expr.expr.is_some();
            visit::visit_expr_break(self, expr);
        }
        fn visit_expr_loop(&mut self, expr: &ExprLoop) {
            self.inner(|this| visit::visit_expr_loop(this, expr));
        }
        fn visit_expr_while(&mut self, expr: &syn::ExprWhile) {
            self.inner(|this| visit::visit_expr_while(this, expr));
        }
        fn visit_expr_for_loop(&mut self, expr: &syn::ExprForLoop) {
            self.inner(|this| visit::visit_expr_for_loop(this, expr));
        }
        // A `break` cannot leave these.
        fn visit_expr_closure(&mut self, _: &syn::ExprClosure) {}
        fn visit_expr_async(&mut self, _: &syn::ExprAsync) {}
        fn visit_item(&mut self, _: &syn::Item) {}
    }
    // Out of a block there is no `break` without its label.
    let mut breaks = Breaks { label: label.map(|label| &label.name), is_innermost: is_loop, found: false };
    breaks.visit_block(body);
    breaks.found
}

/// The spans of the first and the last token: together the compiler makes one of them.
pub(super) fn ends(code: &impl ToTokens) -> (Span, Span) {
    let mut tokens = code.to_token_stream().into_iter();
    let Some(first) = tokens.next() else { return (Span::call_site(), Span::call_site()) };
    let last = tokens.last().unwrap_or_else(|| first.clone());
    let last = match last {
        TokenTree::Group(group) => group.span_close(),
        token => token.span(),
    };
    (first.span(), last)
}

/// Attributes of a statement stand on the statement.
fn take_attributes(expr: &mut Expr) -> Vec<Attribute> {
    // Of `a.b()?` syn keeps a statement's attributes on the innermost expression, where they are
    // printed first.
    match expr {
        Expr::Call(inner) => take_or(&mut inner.attrs, &mut inner.func),
        Expr::MethodCall(inner) => take_or(&mut inner.attrs, &mut inner.receiver),
        Expr::Try(inner) => take_or(&mut inner.attrs, &mut inner.expr),
        Expr::Await(inner) => take_or(&mut inner.attrs, &mut inner.base),
        Expr::Field(inner) => take_or(&mut inner.attrs, &mut inner.base),
        Expr::Index(inner) => take_or(&mut inner.attrs, &mut inner.expr),
        Expr::Path(inner) => std::mem::take(&mut inner.attrs),
        Expr::Paren(inner) => std::mem::take(&mut inner.attrs),
        Expr::Unary(inner) => std::mem::take(&mut inner.attrs),
        Expr::Struct(inner) => std::mem::take(&mut inner.attrs),
        Expr::Macro(inner) => std::mem::take(&mut inner.attrs),
        Expr::Tuple(inner) => std::mem::take(&mut inner.attrs),
        Expr::Array(inner) => std::mem::take(&mut inner.attrs),
        Expr::Repeat(inner) => std::mem::take(&mut inner.attrs),
        Expr::Loop(inner) => std::mem::take(&mut inner.attrs),
        Expr::Block(inner) => std::mem::take(&mut inner.attrs),
        _ => Vec::new(),
    }
}

fn take_or(attrs: &mut Vec<Attribute>, inner: &mut Expr) -> Vec<Attribute> {
    if attrs.is_empty() { take_attributes(inner) } else { std::mem::take(attrs) }
}
