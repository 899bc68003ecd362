//! From bytes to commands: an incremental parser of multibulk and inline requests.
//!
//! It copies nothing. A command is a list of spans into the bytes it came in, and what
//! was understood of an unfinished command is kept, so that a value that arrives in a
//! thousand pieces is looked at once. Its words for malformed input are Redis's.

use super::Limits;
use super::inline;
use super::number::parse_i64;

/// One argument: a range of bytes, counted from the first byte of its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }
}

/// What the bytes at hand amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// A command of this many bytes; its arguments are in [`Parser::spans`].
    Command(usize),
    /// This many bytes that ask for nothing: an empty line, an empty array.
    Nothing(usize),
    /// The command is unfinished: no fewer than this many bytes of it are needed in all.
    More(usize),
}

/// Why bytes cannot be a command. The connection they came on is lost: nobody knows
/// where the next command begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("too big inline request")]
    InlineTooLong,
    #[error("unbalanced quotes in request")]
    UnbalancedQuotes,
    #[error("too big mbulk count string")]
    CountTooLong,
    #[error("invalid multibulk length")]
    Count,
    #[error("too big bulk count string")]
    LengthTooLong,
    #[error("invalid bulk length")]
    Length,
    #[error("expected '$', got '{}'", printable(*.0))]
    NotBulk(u8),
    #[error("expected CRLF")]
    LineEnd,
    #[error("command exceeds the query buffer limit")]
    CommandTooLong,
}

fn printable(byte: u8) -> char {
    if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '?' }
}

/// Spans kept between commands; a command with more arguments gives the memory back.
const SPANS_KEPT: usize = 1024;

/// The state of one connection's parsing.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    spans: Vec<Span>,
    /// Where in the unfinished command to go on.
    at: usize,
    /// Bytes after `at` that are known to hold no line end.
    scanned: usize,
    /// Arguments of a multibulk command still to come.
    left: usize,
    /// Length of the argument whose header was read already.
    bulk: Option<usize>,
    /// Whether the next call begins a command.
    finished: bool,
}

/// What a search for the end of a line found.
enum Line {
    /// From the given place up to but without CRLF, and where the next begins.
    Whole(usize, usize),
    Unfinished,
}

impl Parser {
    /// The arguments of the command just parsed.
    pub(crate) fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Parses one command from the front of `bytes`. After `More`, the next call must
    /// come with the same bytes and at least one more; after the others, with what follows.
    /// Quoted inline arguments are unescaped where they stand, hence the mutable bytes.
    pub(crate) fn parse(&mut self, bytes: &mut [u8], limits: &Limits) -> Result<Parsed, Malformed> {
        if self.finished {
            self.restart();
        }
        if self.left == 0 {
            match bytes.first() {
                None => return Ok(Parsed::More(1)),
                Some(b'*') => {
                    if let Some(parsed) = self.header(bytes, limits)? {
                        return Ok(parsed);
                    }
                }
                Some(_) => return self.inline(bytes, limits),
            }
        }
        self.bulks(bytes, limits)
    }

    fn restart(&mut self) {
        self.spans.clear();
        self.spans.shrink_to(SPANS_KEPT);
        *self = Self { spans: std::mem::take(&mut self.spans), ..Self::default() };
    }

    /// Reads `*count`. None: go on with the arguments.
    fn header(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<Parsed>, Malformed> {
        let Line::Whole(end, next) = self.line(bytes, limits, Malformed::CountTooLong)? else {
            return Ok(Some(Parsed::More(bytes.len() + 1)));
        };
        let count = number(&bytes[1..end]).ok_or(Malformed::Count)?;
        if count > limits.args as i64 {
            return Err(Malformed::Count);
        }
        if count <= 0 {
            self.finished = true;
            return Ok(Some(Parsed::Nothing(next)));
        }
        self.at = next;
        self.left = count as usize;
        Ok(None)
    }

    fn bulks(&mut self, bytes: &[u8], limits: &Limits) -> Result<Parsed, Malformed> {
        while self.left > 0 {
            let length = match self.bulk {
                Some(length) => length,
                None => match self.bulk_header(bytes, limits)? {
                    Some(length) => length,
                    None => return Ok(Parsed::More(bytes.len() + 1)),
                },
            };
            let end = self.at + length;
            // Every argument still to come takes six bytes at least.
            if end + 2 + (self.left - 1) * 6 > limits.query {
                return Err(Malformed::CommandTooLong);
            }
            match bytes.get(end..end + 2) {
                None => {
                    self.bulk = Some(length);
                    return Ok(Parsed::More(end + 2));
                }
                Some(b"\r\n") => {}
                Some(_) => return Err(Malformed::LineEnd),
            }
            self.spans.push(Span::new(self.at, end));
            self.at = end + 2;
            self.bulk = None;
            self.left -= 1;
        }
        self.finished = true;
        Ok(Parsed::Command(self.at))
    }

    fn bulk_header(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Malformed> {
        match bytes.get(self.at) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(&other) => return Err(Malformed::NotBulk(other)),
        }
        let Line::Whole(end, next) = self.line(bytes, limits, Malformed::LengthTooLong)? else {
            return Ok(None);
        };
        let length = number(&bytes[self.at + 1..end]).ok_or(Malformed::Length)?;
        let length = usize::try_from(length).map_err(|_| Malformed::Length)?;
        if length > limits.bulk {
            return Err(Malformed::Length);
        }
        self.at = next;
        Ok(Some(length))
    }

    /// Finds the CRLF of the line that begins at `at`.
    fn line(&mut self, bytes: &[u8], limits: &Limits, too_long: Malformed) -> Result<Line, Malformed> {
        let from = self.at + self.scanned;
        let Some(found) = bytes[from..].iter().position(|&b| b == b'\r') else {
            self.scanned = bytes.len() - self.at;
            return if self.scanned > limits.inline { Err(too_long) } else { Ok(Line::Unfinished) };
        };
        let end = from + found;
        if end - self.at > limits.inline {
            return Err(too_long);
        }
        self.scanned = end - self.at;
        match bytes.get(end + 1) {
            None => Ok(Line::Unfinished),
            Some(b'\n') => {
                self.scanned = 0;
                Ok(Line::Whole(end, end + 2))
            }
            Some(_) => Err(Malformed::LineEnd),
        }
    }

    fn inline(&mut self, bytes: &mut [u8], limits: &Limits) -> Result<Parsed, Malformed> {
        let from = self.scanned;
        let Some(found) = bytes[from..].iter().position(|&b| b == b'\n') else {
            self.scanned = bytes.len();
            let too_long = bytes.len() > limits.inline;
            return if too_long { Err(Malformed::InlineTooLong) } else { Ok(Parsed::More(bytes.len() + 1)) };
        };
        let end = from + found;
        if end > limits.inline {
            return Err(Malformed::InlineTooLong);
        }
        let text = if end > 0 && bytes[end - 1] == b'\r' { end - 1 } else { end };
        self.finished = true;
        if !inline::split(&mut bytes[..text], &mut self.spans) {
            return Err(Malformed::UnbalancedQuotes);
        }
        Ok(if self.spans.is_empty() { Parsed::Nothing(end + 1) } else { Parsed::Command(end + 1) })
    }
}

/// The first arguments after the name, of the commands that follow one another in plain multibulk form: mostly keys. A
/// guess, for whoever wants to look ahead; it ends at the first thing that is unusual.
pub(crate) fn keys_ahead(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    fn head(bytes: &[u8], sign: u8) -> Option<(usize, &[u8])> {
        let digits = bytes.strip_prefix(&[sign])?;
        let end = digits.iter().take(8).position(|byte| !byte.is_ascii_digit()).filter(|end| *end > 0)?;
        let number = digits[..end].iter().fold(0, |number, digit| 10 * number + usize::from(digit - b'0'));
        Some((number, digits[end..].strip_prefix(b"\r\n")?))
    }
    std::iter::from_fn(move || {
        let (arguments, mut rest) = head(bytes, b'*')?;
        let mut key = None;
        for place in 0..arguments {
            let (length, argument) = head(rest, b'$')?;
            if place == 1 {
                key = Some(argument.get(..length)?);
            }
            rest = argument.get(length..)?.strip_prefix(b"\r\n")?;
        }
        bytes = rest;
        Some(key)
    })
    .flatten()
}

/// A count or a length; the short ones, which are nearly all, by hand.
fn number(text: &[u8]) -> Option<i64> {
    match *text {
        [a @ b'0'..=b'9'] => Some(i64::from(a - b'0')),
        [a @ b'1'..=b'9', b @ b'0'..=b'9'] => Some(i64::from(a - b'0') * 10 + i64::from(b - b'0')),
        _ => parse_i64(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::fuzzing::feed;
    use proptest::prelude::*;

    #[test]
    fn keys_ahead_are_guessed_from_plain_commands() {
        let ahead = |text: &str| -> Vec<String> {
            keys_ahead(text.as_bytes()).map(|key| String::from_utf8(key.to_vec()).unwrap()).collect()
        };
        let get = "*2\r\n$3\r\nGET\r\n$1\r\na\r\n";
        let set = "*3\r\n$3\r\nSET\r\n$2\r\nbc\r\n$0\r\n\r\n";
        let ping = "*1\r\n$4\r\nPING\r\n";
        assert_eq!(ahead(&[get, ping, set, get].concat()), ["a", "bc", "a"]);
        assert_eq!(ahead(&[get, &set[..set.len() - 1]].concat()), ["a"]);
        for odd in [
            "",
            "PING\r\n",
            "*",
            "*2\r\n$3\r\nGET\r\n$9\r\na\r\n",
            "*99999999999\r\n",
            "*2\r\n$x\r\n",
            "*-1\r\n",
            "*0\r\n",
        ] {
            assert!(ahead(odd).is_empty(), "{odd:?}");
        }
    }

    type Commands = (Vec<Vec<Vec<u8>>>, Option<String>);

    fn one(stream: &[u8]) -> Commands {
        feed(stream, &[], &Limits::default())
    }

    fn encode(command: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
        for argument in command {
            bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
            bytes.extend_from_slice(argument);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }

    #[test]
    fn both_forms_and_nothings() {
        let (commands, error) =
            one(b"*2\r\n$3\r\nGET\r\n$1\r\n\xff\r\n\r\n*0\r\n*-1\r\nping  a\n*1\r\n$0\r\n\r\n");
        assert_eq!(error, None);
        let expected: [Vec<&[u8]>; 3] = [vec![b"GET", b"\xff"], vec![b"ping", b"a"], vec![b""]];
        assert_eq!(commands, expected);
    }

    #[test]
    fn malformed_frames_are_named() {
        let small = Limits { inline: 64, args: 4, bulk: 8, query: 59, ..Limits::default() };
        let many = b"1".repeat(80);
        let cases: [(Vec<u8>, Malformed); 15] = [
            (b"*a\r\n".to_vec(), Malformed::Count),
            (b"*+1\r\n".to_vec(), Malformed::Count),
            (b"*5\r\n".to_vec(), Malformed::Count),
            (b"*1\rx".to_vec(), Malformed::LineEnd),
            (b"*1\r\n:1\r\n".to_vec(), Malformed::NotBulk(b':')),
            (b"*1\r\n$-1\r\n".to_vec(), Malformed::Length),
            (b"*1\r\n$9\r\n".to_vec(), Malformed::Length),
            (b"*1\r\n$01\r\n".to_vec(), Malformed::Length),
            (b"*1\r\n$1\r\nabc".to_vec(), Malformed::LineEnd),
            ([b"*", &many[..]].concat(), Malformed::CountTooLong),
            ([b"*1\r\n$", &many[..]].concat(), Malformed::LengthTooLong),
            (many.clone(), Malformed::InlineTooLong),
            ([&many[..], b"\n"].concat(), Malformed::InlineTooLong),
            (b"a 'b\n".to_vec(), Malformed::UnbalancedQuotes),
            ([&b"*4\r\n"[..], &b"$8\r\n12345678\r\n".repeat(4)].concat(), Malformed::CommandTooLong),
        ];
        for (bytes, expected) in cases {
            assert_eq!(
                feed(&bytes, &[], &small).1,
                Some(expected.to_string()),
                "{:?}",
                bytes.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn a_value_in_pieces_is_scanned_once() {
        let mut parser = Parser::default();
        let mut bytes = b"*1\r\n$1000\r\n".to_vec();
        for _ in 0..1001 {
            assert_eq!(parser.parse(&mut bytes, &Limits::default()), Ok(Parsed::More(1013)));
            bytes.push(b'x');
        }
        bytes.truncate(1011);
        bytes.extend_from_slice(b"\r\n");
        assert_eq!(parser.parse(&mut bytes, &Limits::default()), Ok(Parsed::Command(1013)));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_commands(
            commands in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..6), 0..8),
            cuts in prop::collection::vec(0usize..600, 0..40),
        ) {
            let stream: Vec<u8> = commands.iter().flat_map(|c| encode(c)).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(stream.len())).collect();
            cuts.sort_unstable();
            prop_assert_eq!(feed(&stream, &cuts, &Limits::default()), (commands, None));
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_split_alike(
            stream in prop::collection::vec(
                prop_oneof![4 => prop::sample::select(b"*$\r\n0123 '\"\\xa-".to_vec()), 1 => any::<u8>()], 0..200),
            cuts in prop::collection::vec(0usize..200, 0..20),
        ) {
            let limits = Limits { inline: 40, args: 20, bulk: 30, query: 100, ..Limits::default() };
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(stream.len())).collect();
            cuts.sort_unstable();
            let whole = feed(&stream, &[], &limits);
            let split = feed(&stream, &cuts, &limits);
            prop_assert_eq!(whole, split);
        }
    }
}
