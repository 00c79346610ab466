//! One try at one NameNode: connect, say hello, hear what it says.

use crate::limits;
use boomfs_io::{Io, ReadHalf, WriteHalf};
use boomfs_wire::frame::{FrameError, read_message, write_message};
use boomfs_wire::{ClusterId, Failure, FromNameNode, SessionId, ToNameNode};
use tokio::io::{AsyncWriteExt, BufReader};

/// A connection that stands, and what its `Welcome` said.
#[derive(Debug)]
pub struct Connection {
    pub addr: String,
    pub reader: BufReader<ReadHalf>,
    pub writer: WriteHalf,
    pub cluster: ClusterId,
    pub session: SessionId,
    pub ballot: u64,
    pub block_size: u64,
    pub replication: u32,
}

/// How a NameNode took a hello.
#[derive(Debug)]
pub enum Said {
    Welcome(Box<Connection>),
    /// It does not lead; the one that does, as far as it knows.
    NotLeader(Option<String>),
    Refused(Failure),
    /// Nothing that counts, and why.
    Nothing(String),
}

/// Connects and says hello. `connected` is called in between.
pub async fn greet(
    io: &Io,
    addr: &str,
    hello: impl FnOnce() -> ToNameNode,
    connected: impl FnOnce(),
) -> Said {
    let stream = match io.connect(addr, limits::CONNECT_DEADLINE).await {
        Ok(stream) => stream,
        Err(e) => return Said::Nothing(e.to_string()),
    };
    connected();
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    let hello = hello();
    let greeting = async {
        write_message(&mut writer, &hello, &[]).await?;
        writer.flush().await?;
        read_message::<FromNameNode, _>(&mut reader).await
    };
    let greeting: Result<Option<_>, FrameError> =
        match io.timeout(limits::HELLO_DEADLINE, greeting).await {
            Ok(greeting) => greeting,
            Err(_) => {
                return Said::Nothing(format!(
                    "it took the connection and said nothing for {} s",
                    limits::HELLO_DEADLINE.as_secs()
                ));
            }
        };
    match greeting {
        Ok(Some((
            FromNameNode::Welcome {
                cluster,
                session,
                ballot,
                block_size,
                replication,
                ..
            },
            _,
        ))) => Said::Welcome(Box::new(Connection {
            addr: addr.to_owned(),
            reader,
            writer,
            cluster,
            session,
            ballot,
            block_size,
            replication,
        })),
        Ok(Some((FromNameNode::Refused { failure }, _))) => Said::Refused(failure),
        Ok(Some((FromNameNode::NotLeader { leader }, _))) => Said::NotLeader(leader),
        Ok(Some(_)) => Said::Nothing(
            "it did not answer Hello with Welcome; is it a NameNode of this version?".to_owned(),
        ),
        Ok(None) => Said::Nothing("it closed the connection at Hello".to_owned()),
        Err(e) => Said::Nothing(e.to_string()),
    }
}
