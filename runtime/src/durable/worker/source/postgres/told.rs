//! The number of a process that a server tells a new connection, by which its statements are
//! cancelled. The library keeps it to itself, but writes it into a request to cancel: here to a
//! stream that leads nowhere.
//!
//! Must not know: what it is asked for.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::CancelToken;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// The number; `None` where the request is not written as expected.
pub(super) async fn process_told_to(token: &CancelToken) -> Option<i32> {
    let mut written = Vec::new();
    token.cancel_query_raw(Nowhere(&mut written), Plain).await.ok()?;
    number_in(&written)
}

/// `SSLRequest` and `CancelRequest` begin with their length and one of these numbers.
const SSL_REQUEST: i32 = 80_877_103;
const CANCEL_REQUEST: i32 = 80_877_102;

fn number_in(written: &[u8]) -> Option<i32> {
    let number = |at: usize| Some(i32::from_be_bytes(written.get(at..at + 4)?.try_into().ok()?));
    let begin = if number(4)? == SSL_REQUEST { 8 } else { 0 };
    (number(begin + 4)? == CANCEL_REQUEST).then(|| number(begin + 8))?
}

/// Keeps what is written to it, and says to everything that TLS is welcome.
struct Nowhere<'w>(&'w mut Vec<u8>);

impl AsyncRead for Nowhere<'_> {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        buf.put_slice(b"S");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Nowhere<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl TlsStream for Nowhere<'_> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

/// TLS that is none.
struct Plain;

impl<'w> TlsConnect<Nowhere<'w>> for Plain {
    type Stream = Nowhere<'w>;
    type Error = io::Error;
    type Future = Ready<io::Result<Nowhere<'w>>>;

    fn connect(self, stream: Nowhere<'w>) -> Self::Future {
        ready(Ok(stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// D25: with and without TLS.
    #[test]
    fn d25_the_number_is_read_out_of_the_request() {
        let request = [0, 0, 0, 16, 4, 210, 22, 46, 255, 255, 255, 254, 1, 2, 3, 4];
        assert_eq!(number_in(&request), Some(-2));
        let ssl = [0, 0, 0, 8, 4, 210, 22, 47];
        assert_eq!(number_in(&[&ssl[..], &request[..]].concat()), Some(-2));
        assert_eq!(number_in(&ssl), None);
        assert_eq!(number_in(&request[..10]), None);
        assert_eq!(number_in(&[]), None);
    }
}
