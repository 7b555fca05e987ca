//! What is left whole in a block becomes what it would if syn had taken it apart.

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
        "if { x } { send(1); }",
        "if x && { y } { send(1); }",
        "if f::<{ N }>() { send(1); }",
        "if let Some(x) = { find()? } { send(x); } else { send(2); }",
        "while { send(1); x } {}",
        "while let Some(x) = { q.lock().pop() } { send(x); }",
        "for x in { calls() } { send(x); }",
        "for x in 0..{ n } { send(x); }",
        "for x in vec! { y } { send(x); }",
        "let a::B(conn) = x;",
        "let B::<C>(mut conn) = x; f(&mut conn);",
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

/// Statements in one another, of a number that decides all about them.
struct Random(u64);

impl Random {
    fn up_to(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % limit
    }

    fn pick(&mut self, of: &[&str]) -> String {
        of[self.up_to(of.len())].to_owned()
    }

    fn chain(&mut self) -> String {
        self.pick(&["send(1)", "f(x)?", "a.b(c).d", "name", "f::<A, B>(x)", "self.x[1](y)?", "send(format!(\"{x}\"))"])
    }

    fn other(&mut self) -> String {
        self.pick(&["()", "Err(e)?", "1", "own!(x)", "vec![send(1)]", "a + b", "(send(1))", "|x| send(x)", "&send(1)"])
    }

    fn pattern(&mut self) -> String {
        self.pick(&["1", "_", "Some(y)", "Ok(mut y)", "Point { x, .. }", "1 | 2", "ref z", "2..=3", "[a, b]", "conn"])
    }

    fn condition(&mut self) -> String {
        let (chain, pattern) = (self.chain(), self.pattern());
        let plain = [
            "x",
            "a == b",
            "a <= b && !c",
            "!f(x)",
            "x.is_empty()",
            "unsafe { x }",
            "a as u8 == 1",
            "{ x }",
            "a == { b }",
        ];
        match self.up_to(5) {
            0 => format!("let {pattern} = {chain}"),
            2 => format!("let {pattern} = {{ {chain} }}"),
            1 => format!("let {pattern} = {chain} && {}", self.pick(&plain)),
            _ => self.pick(&plain),
        }
    }

    fn compound(&mut self, depth: usize) -> String {
        match self.up_to(5) {
            0 => format!("for {} in {} {}", self.pattern(), self.chain(), self.block(depth)),
            1 => format!("while {} {}", self.condition(), self.block(depth)),
            2 => {
                let arms: String = (0..=self.up_to(3)).map(|_| self.arm(depth)).collect();
                format!("match {} {{ {arms} }}", self.chain())
            }
            3 => format!("if {} {} else {}", self.condition(), self.block(depth), self.block(depth)),
            _ => {
                let first = format!("if {} {}", self.condition(), self.block(depth));
                if self.up_to(2) == 0 {
                    first
                } else {
                    format!("{first} else if {} {}", self.condition(), self.block(depth))
                }
            }
        }
    }

    fn arm(&mut self, depth: usize) -> String {
        let guard = if self.up_to(4) == 0 { self.pick(&["if x == 1", "if f(y)?"]) } else { String::new() };
        let begin = format!("{} {guard} =>", self.pattern());
        match self.up_to(6) {
            0 => format!("{begin} {} ", self.block(depth)),
            1 => format!("{begin} {}, ", self.block(depth)),
            2 => format!("{begin} {}, ", self.compound(depth.saturating_sub(1))),
            3 => {
                format!("{begin} {}, ", self.pick(&["return x", "continue", "println!(\"a\")", "return f::<A, B>(x)"]))
            }
            4 => format!("{begin} {}, ", self.other()),
            _ => format!("{begin} {}, ", self.chain()),
        }
    }

    fn statement(&mut self, depth: usize) -> String {
        let chain = self.chain();
        match self.up_to(if depth == 0 { 8 } else { 14 }) {
            0 => format!("let a = {chain};"),
            1 => format!("let mut b: Vec<(A, B)> = {chain};"),
            2 => self.pick(&["println!(\"{}\", f(x));", "info!(x);", "own!(send(1));", "debug! { x }"]),
            3 => self.pick(&[
                "return f(x);",
                "return;",
                "break;",
                "continue;",
                "a = b;",
                "let _ = send(1);",
                "fn f() {}",
            ]),
            4 => {
                self.pick(&["ids.iter().for_each(|id| send(id));", "#[allow(x)] send(1);", "f(&mut conn);", "Err(e)?;"])
            }
            8..=12 => format!("{}{}", self.compound(depth - 1), self.pick(&["", "", ";"])),
            13 => format!("{}{}", self.pick(&["loop ", "unsafe ", ""]), self.block(depth - 1)),
            _ => format!("{chain};"),
        }
    }

    fn block(&mut self, depth: usize) -> String {
        let statements: String = (0..self.up_to(3)).map(|_| self.statement(depth) + " ").collect();
        let tail = match self.up_to(6) {
            0 | 1 => self.chain(),
            2 => self.other(),
            3 if depth > 0 => self.compound(depth - 1),
            _ => String::new(),
        };
        format!("{{ {statements} {tail} }}")
    }
}

#[test]
fn statements_in_one_another_become_what_they_would_if_they_were_taken_apart() {
    let (mut whole, mut count) = (0, 0);
    for seed in 0..3_000 {
        let statement = Random(seed).compound(2);
        if syn::parse_str::<syn::Block>(&format!("{{ {statement} Ok(()) }}")).is_ok() {
            let (_, is_apart) = expanded(&statement, false);
            whole += u32::from(!is_apart);
            count += 1;
        }
    }
    assert!(count > 2_500 && whole > 300, "{whole} of {count} were left whole");
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
