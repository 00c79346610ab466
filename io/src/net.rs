//! Connections, as both backends show them.

use crate::{real, sim};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Waits for connections; dropping it stops listening.
#[derive(Debug)]
pub struct Listener(ListenerInner);

#[derive(Debug)]
enum ListenerInner {
    Real(TcpListener),
    Sim(sim::SimListener),
}

impl Listener {
    pub(crate) fn real(listener: TcpListener) -> Listener {
        Listener(ListenerInner::Real(listener))
    }

    pub(crate) fn sim(listener: sim::SimListener) -> Listener {
        Listener(ListenerInner::Sim(listener))
    }

    /// Where it listens, `host:port`; empty if the system does not know.
    #[must_use]
    pub fn local_addr(&self) -> String {
        match &self.0 {
            ListenerInner::Real(l) => l.local_addr().map(|a| a.to_string()).unwrap_or_default(),
            ListenerInner::Sim(l) => l.local_addr(),
        }
    }

    /// The next connection and the address of the other side. Passing troubles, such as too
    /// many open files, are waited out. Safe to cancel.
    ///
    /// # Errors
    /// The listener is of no further use.
    pub async fn accept(&self) -> io::Result<(Stream, String)> {
        match &self.0 {
            ListenerInner::Real(l) => {
                let (stream, peer) = real::accept(l).await?;
                Ok((Stream::real(stream), peer))
            }
            ListenerInner::Sim(l) => {
                let (stream, peer) = l.accept().await?;
                Ok((Stream::sim(stream), peer))
            }
        }
    }
}

/// A connection: bytes in both directions, in order.
#[derive(Debug)]
pub struct Stream(StreamInner);

#[derive(Debug)]
enum StreamInner {
    Real(TcpStream),
    Sim(sim::SimStream),
}

impl Stream {
    pub(crate) fn real(stream: TcpStream) -> Stream {
        Stream(StreamInner::Real(stream))
    }

    pub(crate) fn sim(stream: sim::SimStream) -> Stream {
        Stream(StreamInner::Sim(stream))
    }

    /// Splits it, for two tasks. The other side sees an end when the write half is shut down or
    /// dropped.
    #[must_use]
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self.0 {
            StreamInner::Real(s) => {
                let (r, w) = s.into_split();
                (ReadHalf(ReadInner::Real(r)), WriteHalf(WriteInner::Real(w)))
            }
            StreamInner::Sim(s) => {
                let (r, w) = s.into_split();
                (ReadHalf(ReadInner::Sim(r)), WriteHalf(WriteInner::Sim(w)))
            }
        }
    }

    /// Ends the connection when the other side's system has not taken what was sent for so long (`TCP_USER_TIMEOUT`).
    /// Without it a connection can be silent for long after the network works again: what was lost is sent again after
    /// pauses that double. A simulated connection goes on at once, and stays as it is.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn end_when_stuck(&self, limit: Duration) -> io::Result<()> {
        let ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        match &self.0 {
            StreamInner::Real(s) => Ok(rustix::net::sockopt::set_tcp_user_timeout(s, ms)?),
            StreamInner::Sim(_) => Ok(()),
        }
    }

    /// Address of the other side; empty if the system does not know.
    #[must_use]
    pub fn peer_addr(&self) -> String {
        match &self.0 {
            StreamInner::Real(s) => s.peer_addr().map(|a| a.to_string()).unwrap_or_default(),
            StreamInner::Sim(s) => s.peer_addr(),
        }
    }
}

/// The reading half of a [`Stream`].
#[derive(Debug)]
pub struct ReadHalf(ReadInner);

#[derive(Debug)]
enum ReadInner {
    Real(OwnedReadHalf),
    Sim(sim::SimRead),
}

/// The writing half of a [`Stream`].
#[derive(Debug)]
pub struct WriteHalf(WriteInner);

#[derive(Debug)]
enum WriteInner {
    Real(OwnedWriteHalf),
    Sim(sim::SimWrite),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            StreamInner::Real(s) => Pin::new(s).poll_read(cx, buf),
            StreamInner::Sim(s) => Pin::new(s.read_half()).poll_read(cx, buf),
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            ReadInner::Real(s) => Pin::new(s).poll_read(cx, buf),
            ReadInner::Sim(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            StreamInner::Real(s) => Pin::new(s).poll_write(cx, buf),
            StreamInner::Sim(s) => Pin::new(s.write_half()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            StreamInner::Real(s) => Pin::new(s).poll_flush(cx),
            StreamInner::Sim(s) => Pin::new(s.write_half()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            StreamInner::Real(s) => Pin::new(s).poll_shutdown(cx),
            StreamInner::Sim(s) => Pin::new(s.write_half()).poll_shutdown(cx),
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            WriteInner::Real(s) => Pin::new(s).poll_write(cx, buf),
            WriteInner::Sim(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            WriteInner::Real(s) => Pin::new(s).poll_flush(cx),
            WriteInner::Sim(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            WriteInner::Real(s) => Pin::new(s).poll_shutdown(cx),
            WriteInner::Sim(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
