//! The service as its users have it: a process of its own, real signals, real HTTP. What it
//! promises is looked up in the end from outside: the rows by another connection, the mails in the
//! outbox.

mod client;
mod load;
mod metrics;
mod process;
mod receipts;
mod rows;
mod shutdown;
mod statuses;
mod traces;

/// Makes a test of a function for each database, which it is given a new one of.
macro_rules! on_both_databases {
    ($($test:ident),* $(,)?) => {$(
        mod $test {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                super::$test($crate::rows::Scratch::sqlite()).await;
            }

            #[cfg(feature = "test-postgres")]
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgresql() {
                super::$test($crate::rows::Scratch::postgres().await).await;
            }
        }
    )*};
}
use on_both_databases;
