//! C23, enumerated: all values of a statement that hold tasks, in std's containers up to two deep,
//! in each place of a statement. Each registers all of its tasks in order, or does not compile. The
//! one exception: nothing is known of what a user's macro does with its arguments. There the
//! compiler's lint on dropped values is denied, and what it does not see is told at run time.
//!
//! The first kind becomes tests, written by the build script; the second a crate that `ui.rs`
//! compiles.
//!
//! Must not know: how a value is looked through.

use std::fmt::Write as _;

/// What a value is made of, around its tasks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Container {
    Tuple,
    Array,
    Box,
    Option,
    Vec,
    Result,
    Deque,
    Map,
}

impl Container {
    const ALL: [Self; 8] =
        [Self::Tuple, Self::Array, Self::Box, Self::Option, Self::Vec, Self::Result, Self::Deque, Self::Map];

    fn is_reached(self) -> bool {
        !matches!(self, Self::Result | Self::Deque | Self::Map)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tuple => "tuple",
            Self::Array => "array",
            Self::Box => "box",
            Self::Option => "option",
            Self::Vec => "vec",
            Self::Result => "result",
            Self::Deque => "deque",
            Self::Map => "map",
        }
    }

    fn around(self, mut value: impl FnMut() -> String) -> String {
        match self {
            Self::Tuple => format!("({}, {})", value(), value()),
            Self::Array => format!("[{}, {}]", value(), value()),
            Self::Box => format!("Box::new({})", value()),
            Self::Option => format!("Some({})", value()),
            Self::Vec => format!("vec![{}, {}]", value(), value()),
            Self::Result => format!("Ok::<_, Error>({})", value()),
            Self::Deque => format!("std::collections::VecDeque::from([{}, {}])", value(), value()),
            Self::Map => format!("std::collections::BTreeMap::from([(0, {}), (1, {})])", value(), value()),
        }
    }
}

/// Containers, from the outermost to the innermost.
type Shape = Vec<Container>;

fn shapes() -> Vec<Shape> {
    let mut shapes = vec![Vec::new()];
    for outer in Container::ALL {
        shapes.push(vec![outer]);
        shapes.extend(Container::ALL.map(|inner| vec![outer, inner]));
    }
    shapes
}

fn name(shape: &Shape) -> String {
    shape.iter().fold(String::from("task"), |name, container| format!("{name}_in_{}", container.name()))
}

/// Whether the compiler's own lint on dropped values has something to say: it looks into some
/// types, and minds some whatever is in them.
fn is_seen_by_the_compiler(shape: &Shape) -> bool {
    for container in shape {
        match container {
            Container::Tuple | Container::Array | Container::Box => {}
            Container::Result => return true,
            Container::Option | Container::Vec | Container::Deque | Container::Map => return false,
        }
    }
    true
}

/// Writes values, and counts the tasks in them.
struct Writer {
    task: fn(u32) -> String,
    written: u32,
}

impl Writer {
    fn value(&mut self, shape: &[Container]) -> String {
        match shape {
            [] => {
                self.written += 1;
                (self.task)(self.written)
            }
            [outer, inner @ ..] => outer.around(|| self.value(inner)),
        }
    }
}

/// A place of a statement where the block registers the tasks of its value.
const PLACES: [(&str, &str); 9] = [
    ("plain", "VALUE;"),
    ("from_a_call", "of(VALUE);"),
    ("branch", "if no() { return Err(Error::NotFound); } else { VALUE };"),
    ("arm", "match no() { true => return Err(Error::NotFound), false => VALUE };"),
    ("block", "{ VALUE };"),
    ("labelled_block", "'found: { break 'found VALUE; };"),
    ("labelled_block_with_a_tail", "'found: { if no() { break 'found VALUE; } VALUE };"),
    ("loop_with_break", "loop { break VALUE; };"),
    ("loop_with_break_from_within", "'found: loop { for _ in 0..2 { break 'found VALUE; } };"),
];

/// Those where it reaches none: the value is of a closure or async block that may run at any time.
const STRAY_PLACES: [(&str, &str); 6] = [
    ("closure", "std::thread::spawn(move || VALUE);"),
    ("statement_of_a_closure", "std::thread::spawn(move || { VALUE; });"),
    ("returned_by_a_closure", "std::thread::spawn(move || { return VALUE; });"),
    ("async_block", "spawn(async move { VALUE });"),
    ("returned_by_an_async_block", "spawn(async move { return VALUE; });"),
    ("underscore", "let _ = of(VALUE);"),
];

fn fill(place: &str, mut value: impl FnMut() -> String) -> String {
    let mut parts = place.split("VALUE");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        filled += &value();
        filled += part;
    }
    filled
}

/// Tests: one for each shape that registers its tasks, with a statement for each place; and one for
/// each that a user's macro can drop unseen, which is told at run time (C24).
#[allow(dead_code, reason = "for the build script")]
pub fn registered() -> String {
    let mut code = String::new();
    for shape in shapes().into_iter().filter(|shape| shape.iter().all(|container| container.is_reached())) {
        let mut statements = String::new();
        let mut tasks = Vec::new();
        let mut writer = Writer { task: |id| format!("note(&log, {id})"), written: 0 };
        for (_, place) in PLACES {
            let mut ids = 0..0;
            let statement = fill(place, || {
                let first = writer.written + 1;
                let value = writer.value(&shape);
                ids = first..writer.written + 1;
                value
            });
            // Of several values in one place it is the last that is reached.
            tasks.extend(ids);
            writeln!(statements, "        {statement}").expect("a string");
        }
        let name = name(&shape);
        write!(
            code,
            "#[test]\nfn c23_{name}() -> QueryResult<()> {{\n    let (conn, log) = (&mut connect(), Log::new());\n    \
             atomic!(conn, -> QueryResult<()>, {{\n{statements}        Ok(())\n    }})?;\n    \
             assert_eq!(log.ran(), {tasks:?});\n    Ok(())\n}}\n\n"
        )
        .expect("a string");
    }
    for shape in shapes().into_iter().filter(|shape| !is_seen_by_the_compiler(shape)) {
        let mut writer = Writer { task: |id| format!("note(log, {id})"), written: 0 };
        let (value, name) = (writer.value(&shape), name(&shape));
        write!(
            code,
            "#[test]\nfn c24_{name}_in_a_macro_is_told() {{\n    told({}, |conn, log| atomic!(conn, {{\n        \
             stmt!(of({value}));\n        Ok(())\n    }}));\n}}\n\n",
            writer.written
        )
        .expect("a string");
    }
    code
}

/// A function that must not compile.
#[allow(dead_code, reason = "for the test")]
pub struct Refused {
    pub name: String,
    /// The lines that it has in the code, counted from 1.
    pub lines: std::ops::Range<usize>,
}

/// A crate's code, and the functions in it that must not compile.
#[allow(dead_code, reason = "for the test")]
pub struct Crate {
    pub code: String,
    pub refused: Vec<Refused>,
}

#[allow(dead_code, reason = "for the test")]
impl Crate {
    fn new() -> Self {
        let code = "#![allow(dead_code, unused_variables, unreachable_code, clippy::all)]\n\
                    use diesel::result::Error;\n\
                    use diesel_deferred::{Deferrable, DeferredConnection, atomic, deferred_task};\n\
                    #[deferred_task]\nfn send(id: i32) {}\n\
                    fn of<T>(value: T) -> T { value }\nfn no() -> bool { false }\n\
                    fn spawn<F: Future>(future: F) {}\n\
                    macro_rules! stmt { ($value:expr) => { $value; }; }\n";
        Self { code: code.to_owned(), refused: Vec::new() }
    }

    fn push(&mut self, place: (&str, &str), shape: &Shape) {
        let mut writer = Writer { task: |id| format!("send({id})"), written: 0 };
        let statement = fill(place.1, || writer.value(shape));
        let name = format!("{}_{}", name(shape), place.0);
        let first = self.code.lines().count() + 1;
        let function = format!(
            "fn {name}<C: Deferrable>(conn: &mut DeferredConnection<C>) -> Result<(), Error> {{\n    atomic!(conn, {{\n        \
             {statement}\n        Ok(())\n    }})\n}}\n"
        );
        self.refused.push(Refused { name, lines: first..first + function.lines().count() });
        self.code += &function;
    }

    /// What the types refuse.
    pub fn refused_by_type() -> Self {
        let mut this = Self::new();
        for shape in shapes() {
            if shape.iter().any(|container| !container.is_reached()) {
                PLACES.iter().for_each(|place| this.push(*place, &shape));
            }
            STRAY_PLACES.iter().for_each(|place| this.push(*place, &shape));
        }
        this
    }

    /// What the compiler's lint on dropped values refuses, in the arguments of a user's macro.
    pub fn refused_in_macros() -> Self {
        let mut this = Self::new();
        for shape in shapes() {
            if is_seen_by_the_compiler(&shape) {
                this.push(("macro", "stmt!(of(VALUE));"), &shape);
            }
        }
        this
    }
}
