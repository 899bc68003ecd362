//! A Redis client of one page.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::process::PATIENCE;

/// What a node answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Simple(String),
    Error(String),
    Int(i64),
    Bulk(String),
    Nil,
    Array(Vec<Reply>),
}

pub(crate) fn ok() -> Reply {
    Reply::Simple("OK".to_owned())
}

pub(crate) fn bulk(text: &str) -> Reply {
    Reply::Bulk(text.to_owned())
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Redis {
    pub(crate) reader: Reader,
    pub(crate) writer: TcpStream,
}

/// The half that reads.
#[derive(Debug)]
pub(crate) struct Reader(BufReader<TcpStream>);

impl Redis {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let writer = TcpStream::connect(address)?;
        writer.set_nodelay(true)?;
        writer.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { reader: Reader(BufReader::new(writer.try_clone()?)), writer })
    }

    /// One command, one reply.
    #[track_caller]
    pub(crate) fn call(&mut self, command: &[&str]) -> Reply {
        self.writer.write_all(&encode(command)).expect("the node takes commands");
        self.reader.reply().expect("the node answers")
    }

    /// A reply that is a number.
    #[track_caller]
    pub(crate) fn int(&mut self, command: &[&str]) -> i64 {
        match self.call(command) {
            Reply::Int(int) => int,
            other => panic!("{command:?}: {other:?}"),
        }
    }

    /// The members of a set, in order.
    #[track_caller]
    pub(crate) fn members(&mut self, key: &str) -> Vec<String> {
        let Reply::Array(members) = self.call(&["SMEMBERS", key]) else { panic!("{key} is no set") };
        let text = |member| match member {
            Reply::Bulk(text) => text,
            other => panic!("{other:?}"),
        };
        let mut members: Vec<_> = members.into_iter().map(text).collect();
        members.sort();
        members
    }

    /// Many commands, with many of them on their way at once. None may be answered with an error.
    #[track_caller]
    pub(crate) fn pipeline(&mut self, commands: &[Vec<String>]) -> Vec<Reply> {
        let mut replies = Vec::new();
        for some in commands.chunks(256) {
            let bytes: Vec<u8> = some.iter().flat_map(|command| encode(command)).collect();
            self.writer.write_all(&bytes).expect("the node takes commands");
            for command in some {
                let reply = self.reader.reply().expect("the node answers");
                assert!(!matches!(reply, Reply::Error(_)), "{command:?}: {reply:?}");
                replies.push(reply);
            }
        }
        replies
    }
}

impl Reader {
    pub(crate) fn reply(&mut self) -> io::Result<Reply> {
        let line = self.line()?;
        let (kind, rest) = line.split_at(1);
        let number = || rest.parse::<i64>().map_err(io::Error::other);
        Ok(match kind {
            "+" => Reply::Simple(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Int(number()?),
            "$" if number()? < 0 => Reply::Nil,
            "$" => {
                let mut bytes = vec![0; number()? as usize + 2];
                self.0.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Reply::Bulk(String::from_utf8(bytes).map_err(io::Error::other)?)
            }
            "*" if number()? < 0 => Reply::Nil,
            "*" => Reply::Array((0..number()?).map(|_| self.reply()).collect::<io::Result<_>>()?),
            _ => return Err(io::Error::other(format!("not a reply: {line:?}"))),
        })
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) if !line.is_empty() => Ok(line.to_owned()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A command in bytes.
pub(crate) fn encode(command: &[impl AsRef<str>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
    for part in command {
        let part = part.as_ref();
        bytes.extend(format!("${}\r\n{part}\r\n", part.len()).bytes());
    }
    bytes
}
