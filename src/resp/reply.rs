//! From replies to bytes: the types of RESP2 and RESP3.

use super::number::Decimal;

/// Which of the two protocols a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Proto {
    #[default]
    Resp2,
    Resp3,
}

impl Proto {
    pub(crate) fn number(self) -> i64 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

/// Appends replies to a connection's output. What RESP2 has no type for is written as
/// the type that Redis uses instead.
#[derive(Debug)]
pub(crate) struct Reply<'a> {
    out: &'a mut Vec<u8>,
    pub(crate) proto: Proto,
    /// Most bytes that `out` may hold; past it bulks are dropped and `overrun` is set.
    limit: usize,
    overrun: bool,
}

/// Where an aggregate of yet unknown length begins.
#[derive(Debug)]
pub(crate) struct Open {
    at: usize,
}

impl<'a> Reply<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>, proto: Proto, limit: usize) -> Self {
        Self { out, proto, limit, overrun: false }
    }

    /// Whether a reply did not fit and so is not whole: the connection cannot go on.
    pub(crate) fn overrun(&self) -> bool {
        self.overrun
    }

    pub(crate) fn mark(&self) -> usize {
        self.out.len()
    }

    /// Takes back everything since `mark`.
    pub(crate) fn rewind(&mut self, mark: usize) {
        self.out.truncate(mark);
    }

    pub(crate) fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// A simple string. It has no line end in it.
    pub(crate) fn simple(&mut self, text: &str) {
        self.out.push(b'+');
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// An error; line ends in the text, which may quote the client, become blanks.
    pub(crate) fn error(&mut self, text: &[u8]) {
        self.out.push(b'-');
        self.out.extend(text.iter().map(|&b| if b == b'\r' || b == b'\n' { b' ' } else { b }));
        self.out.extend_from_slice(b"\r\n");
    }

    pub(crate) fn integer(&mut self, number: i64) {
        match number {
            0 => self.out.extend_from_slice(b":0\r\n"),
            1 => self.out.extend_from_slice(b":1\r\n"),
            _ => self.line(b':', Decimal::of(number).as_bytes()),
        }
    }

    pub(crate) fn count(&mut self, number: usize) {
        self.integer(i64::try_from(number).unwrap_or(i64::MAX));
    }

    pub(crate) fn bulk(&mut self, bytes: &[u8]) {
        if self.out.len() + bytes.len() > self.limit {
            self.overrun = true;
            return;
        }
        self.out.reserve(bytes.len() + 16);
        self.length(b'$', bytes.len());
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.bulk(text.as_bytes());
    }

    /// The decimal spelling of a number, as a bulk.
    pub(crate) fn bulk_integer(&mut self, number: i64) {
        self.bulk(Decimal::of(number).as_bytes());
    }

    /// Text for people.
    pub(crate) fn verbatim(&mut self, text: &str) {
        match self.proto {
            Proto::Resp2 => self.text(text),
            Proto::Resp3 => {
                self.length(b'=', text.len() + 4);
                self.out.extend_from_slice(b"txt:");
                self.out.extend_from_slice(text.as_bytes());
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    pub(crate) fn null(&mut self) {
        self.out.extend_from_slice(match self.proto {
            Proto::Resp2 => b"$-1\r\n",
            Proto::Resp3 => b"_\r\n",
        });
    }

    pub(crate) fn null_array(&mut self) {
        self.out.extend_from_slice(match self.proto {
            Proto::Resp2 => b"*-1\r\n",
            Proto::Resp3 => b"_\r\n",
        });
    }

    pub(crate) fn array(&mut self, length: usize) {
        self.length(b'*', length);
    }

    pub(crate) fn set(&mut self, length: usize) {
        self.length(self.sign(b'~'), length);
    }

    /// A map of so many pairs; keys and values follow in turn.
    pub(crate) fn map(&mut self, pairs: usize) {
        match self.proto {
            Proto::Resp2 => self.length(b'*', pairs * 2),
            Proto::Resp3 => self.length(b'%', pairs),
        }
    }

    /// Begins an array whose length is known only at its end.
    pub(crate) fn open_array(&mut self) -> Open {
        Open { at: self.out.len() }
    }

    /// Ends what was opened: writes the length in front of it.
    pub(crate) fn close(&mut self, open: Open, length: usize) {
        let number = Decimal::of_u64(length as u64);
        let head = [b'*'].into_iter().chain(number.as_bytes().iter().copied()).chain(*b"\r\n");
        self.out.splice(open.at..open.at, head);
    }

    /// Ends the reply of a scan, of which the second part is written already.
    pub(crate) fn close_scan(&mut self, open: Open, cursor: u64) {
        let number = Decimal::of_u64(cursor);
        let digits = number.as_bytes();
        let length = Decimal::of_u64(digits.len() as u64);
        let head = [b"*2\r\n$", length.as_bytes(), b"\r\n", digits, b"\r\n"].concat();
        self.out.splice(open.at..open.at, head);
    }

    fn sign(&self, resp3: u8) -> u8 {
        match self.proto {
            Proto::Resp2 => b'*',
            Proto::Resp3 => resp3,
        }
    }

    fn length(&mut self, sign: u8, length: usize) {
        if length < 10 {
            self.out.extend_from_slice(&[sign, b'0' + length as u8, b'\r', b'\n']);
        } else {
            self.line(sign, Decimal::of_u64(length as u64).as_bytes());
        }
    }

    fn line(&mut self, sign: u8, digits: &[u8]) {
        self.out.push(sign);
        self.out.extend_from_slice(digits);
        self.out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(proto: Proto, write: impl Fn(&mut Reply<'_>)) -> String {
        let mut out = Vec::new();
        write(&mut Reply::new(&mut out, proto, 1000));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_type_in_both_protocols() {
        type Case = (fn(&mut Reply<'_>), &'static str, &'static str);
        let cases: [Case; 10] = [
            (|r| r.ok(), "+OK\r\n", "+OK\r\n"),
            (|r| r.error(b"ERR a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n"),
            (|r| r.integer(-12), ":-12\r\n", ":-12\r\n"),
            (|r| r.bulk(b"0123456789"), "$10\r\n0123456789\r\n", "$10\r\n0123456789\r\n"),
            (|r| r.null(), "$-1\r\n", "_\r\n"),
            (|r| r.null_array(), "*-1\r\n", "_\r\n"),
            (|r| r.set(2), "*2\r\n", "~2\r\n"),
            (|r| r.map(12), "*24\r\n", "%12\r\n"),
            (|r| r.verbatim("a"), "$1\r\na\r\n", "=5\r\ntxt:a\r\n"),
            (
                |r| {
                    let open = r.open_array();
                    r.bulk(b"a");
                    r.close(open, 1);
                },
                "*1\r\n$1\r\na\r\n",
                "*1\r\n$1\r\na\r\n",
            ),
        ];
        for (write, resp2, resp3) in cases {
            assert_eq!(written(Proto::Resp2, write), resp2);
            assert_eq!(written(Proto::Resp3, write), resp3);
        }
    }

    #[test]
    fn a_reply_over_the_limit_is_noticed() {
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, Proto::Resp2, 10);
        reply.bulk(b"12345");
        assert!(!reply.overrun());
        reply.bulk(b"6");
        assert!(reply.overrun());
    }
}
