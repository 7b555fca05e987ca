//! The listings of the README and of the guide, so that they compile and run. They are outside of the
//! package, which has no doctests of them.

macro_rules! pages {
    ($($(#[$condition:meta])? $page:ident: $file:literal;)*) => {$(
        $(#[$condition])?
        #[doc = include_str!($file)]
        struct $page;
    )*};
}

pages! {
    Readme: "../../README.md";
    Introduction: "../../guide/src/introduction.md";
    Bug: "../../guide/src/bug.md";
    FirstTask: "../../guide/src/first-task.md";
    Nesting: "../../guide/src/nesting.md";
    Errors: "../../guide/src/errors.md";
    Async: "../../guide/src/async.md";
    Durable: "../../guide/src/durable.md";
    #[cfg(all(feature = "testing", feature = "sqlite", feature = "async-sqlite", feature = "bb8"))]
    Testing: "../../guide/src/testing.md";
    #[cfg(all(feature = "async-postgres", feature = "deadpool", feature = "bb8"))]
    MovingAnApplication: "../../guide/src/moving-an-application.md";
    Operating: "../../guide/src/operating.md";
    #[cfg(feature = "metrics")]
    Metrics: "../../guide/src/metrics.md";
    #[cfg(feature = "opentelemetry")]
    Traces: "../../guide/src/traces.md";
    Performance: "../../guide/src/performance.md";
    ComingFrom: "../../guide/src/coming-from.md";
    NotPromised: "../../guide/src/not-promised.md";
    Options: "../../guide/src/options.md";
    DurableTable: "../../guide/src/durable-table.md";
    Events: "../../guide/src/events.md";
}
