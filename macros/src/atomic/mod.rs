//! `atomic!`: input, checked; rewritten body, expansion.
//!
//! Must not know: `#[deferred_task]`; that a statement is a task is found out by type, in the
//! runtime.

mod check;
mod expand;
mod macros;
mod options;
mod parse;
mod reborrow;
mod rewrite;
mod simple;

use proc_macro2::TokenStream;
use quote::quote;

use crate::paths::Errors;

pub(crate) fn atomic(input: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let parsed = parse::AtomicDef::parse(input, &mut errors);
    if let Ok(atomic) = &parsed {
        check::check(atomic, &mut errors);
    }
    match parsed {
        Ok(atomic) if errors.is_empty() => expand::expand(atomic),
        Ok(_) => stub(errors),
        Err(error) => {
            errors.push(error);
            stub(errors)
        }
    }
}

/// `compile_error!` has no type, so that nothing around it is wrong too.
fn stub(errors: Errors) -> TokenStream {
    let errors = errors.into_tokens();
    quote!({ #errors })
}

#[cfg(test)]
mod tests {
    use super::{expand, parse};
    use crate::paths::Errors;

    fn parsed(input: &str) -> syn::Result<parse::AtomicDef> {
        parse::AtomicDef::parse(input.parse()?, &mut Errors::default())
    }

    /// What becomes of a block with this statement in it, and whether it was taken apart.
    fn expanded(statement: &str, is_async: bool) -> (String, bool) {
        let asyncness = if is_async { "async" } else { "" };
        let block = |apart: bool| {
            let input = format!("conn, {asyncness} {{ {statement} Ok(()) }}");
            let mut atomic = parsed(&input).expect("a block");
            let is_apart = !matches!(&atomic.body.stmts[0], syn::Stmt::Expr(syn::Expr::Verbatim(_), None));
            if apart {
                let body: syn::Block = syn::parse_str(&format!("{{ {statement} Ok(()) }}")).expect("a block");
                (atomic.body, atomic.simples) = (body, Vec::new());
            }
            (expand::expand(atomic).to_string(), is_apart)
        };
        let ((fast, is_apart), (slow, _)) = (block(false), block(true));
        // Printed with other spaces between punctuation.
        assert_eq!(fast.replace(' ', ""), slow.replace(' ', ""), "{statement}");
        (fast, is_apart)
    }

    #[test]
    fn a_statement_that_is_not_taken_apart_becomes_what_it_would_otherwise() {
        for statement in [
            "send(1, &name);",
            "name;",
            "self.send(name).0.field[1 + 2]?;",
            "crate::tasks::send::<Vec<&'static str>, { 3 }>(1)?;",
            "a::<B>::c(d)(e)?.f::<G<H>>();",
            "users::table.find(id).execute(conn)?;",
            "r#match(x);",
            "send(format!(\"{x}\"), !flag, a - b);",
            "let x = 1;",
            "let mut total: Vec<(i64, &str)> = load(conn)?;",
            "let name: String = format!(\"{conn}\");",
            "println!(\"{}\", call(x));",
            "if x { send(1); }",
            "if x { send(1) }",
            "if x { send(1); return Err(e); }",
            "if x == y && !z.is_empty() { send(1) } else if z { name } else { println!(\"a\") }",
            "if x { send(1) } else { f()? };",
            "if let Some(x) = find(conn)? { send(x); let y = x + 1; send(y); }",
            "if let 1..=5 = x && let Some(y) = z { send(y); }",
            "while let Some(x) = next() { send(x); if x { continue; } break }",
            "for (at, name) in names.iter().enumerate() { send(at as i32, name); }",
            "for _ in 0..3 {}",
            "for x in q.load(conn)? { for y in &x.all { send(*y); } }",
            "match x { 0 => { send(1); } 1 => send(2), Some(y) if y == 3 => name?, _ => println!(\"a\"), }",
            "match x { Ok(y) => match y { _ => send(1) }, Err(error) => return Err(error) }",
            "match x { 1 => if y { send(1) }, 2 => f::<A, B>(x), 3 => return f::<A, B>(x), _ => {} };",
        ] {
            let (_, is_apart) = expanded(statement, false);
            assert_eq!(is_apart, statement.contains('{') && statement.contains("<Vec<&'"), "{statement}");
        }
        let (_, is_apart) = expanded("send(id).await?;", true);
        assert!(!is_apart);
    }

    #[test]
    fn a_statement_out_of_the_ordinary_is_taken_apart() {
        for statement in [
            "execute(&mut conn)?;",
            "let conn = other;",
            "let (conn, x) = both;",
            "let _ = send(1);",
            "let _: Call = send(1);",
            "let Some(x) = y else { return Ok(()) };",
            "ids.iter().for_each(|id| send(id));",
            "spawn(async { send(1); });",
            "let x = { send(1); 2 };",
            "own!(send(1));",
            "send(own!(x));",
            "vec![send(1)];",
            "dbg!(send(1));",
            "#[allow(unused)] send(1);",
            "send(#[allow(unused)] 1);",
            "a = b;",
            "return (Ok(()));",
            "return;",
            "break;",
            "if x { send(1) }.f();",
            "match x { _ => send(1) }?;",
            "if x { let conn = 1; send(1); }",
            "for conn in conns { send(1); }",
            "for (x, conn) in conns { send(1); }",
            "if let Some(conn) = x { send(1); }",
            "if let Some(Point { x }) = y { send(1); }",
            "if x { execute(&mut conn)?; }",
            "if x { fn f() {} }",
            "if x { Err(e)? }",
            "if x { a = b; }",
            "if x { send(1) + 2; }",
            "match x { conn => send(1) }",
            "match x { Point { x } => send(1), _ => {} }",
            "match x { 1 | 2 => send(1), _ => {} }",
            "match x { 1 => Err(e)?, _ => {} }",
            "match x { 1 => a = b, _ => {} }",
            "match x { #[cfg(a)] 1 => send(1), _ => {} }",
            "match unsafe { x } { _ => send(1) }",
            "loop { send(1); break; }",
            "'a: for x in y { send(1); }",
            "unsafe { send(1); }",
            "println!(\"a\").f();",
            "(send(1));",
            "&send(1);",
            "*send(1);",
            "Task { id };",
            "a..b;",
            "a + b;",
            "println! { \"a\" }",
            "fn f() {}",
            "use a::b;",
            ";",
        ] {
            let (_, is_apart) = expanded(statement, false);
            assert!(is_apart, "{statement}");
        }
    }

    #[test]
    fn mistakes_in_a_statement_are_syns_as_before() {
        for statement in [
            "send(1) send(2);",
            "send(1) let x = 2;",
            "println!(\"a\") println!(\"b\");",
            "let x = 1",
            "f().;",
            "if x { send(1) send(2); }",
            "match x { _ => send(1) _ => send(2) }",
            "if { }",
            "for x { }",
        ] {
            let input = format!("conn, {{ {statement} }}");
            let block = syn::parse_str::<syn::Block>(&format!("{{ {statement} }}"));
            let ours = parsed(&input).err().map(|error| error.to_string());
            assert_eq!(ours, block.err().map(|error| error.to_string()), "{statement}");
            assert!(ours.is_some(), "{statement}");
        }
    }
}
