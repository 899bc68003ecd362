//! Inline commands: a line of words, as typed into telnet, with the shell-like quoting
//! of Redis (`"\x41\n"` with escapes, `'it\'s'` without).

use super::codec::Span;

/// Splits `line` into words and appends their spans. A quoted word is unescaped where
/// it stands, which works because no escape is shorter than what it means. False: a
/// quote is not closed, or not followed by a blank.
pub(crate) fn split(line: &mut [u8], spans: &mut Vec<Span>) -> bool {
    let mut at = 0;
    loop {
        while at < line.len() && is_blank(line[at]) {
            at += 1;
        }
        if at == line.len() {
            return true;
        }
        let Some((length, next)) = word(line, at) else { return false };
        spans.push(Span::new(at, at + length));
        at = next;
    }
}

/// Reads one word: its length once unescaped, and where to go on. A
/// quote may begin within a word but must end it.
fn word(line: &mut [u8], start: usize) -> Option<(usize, usize)> {
    let mut from = start;
    let mut to = start;
    while let Some(&byte) = line.get(from) {
        match byte {
            b if is_blank(b) => break,
            quote @ (b'"' | b'\'') => {
                let (to, next) = quoted(line, from + 1, to, quote)?;
                let closed = line.get(next).is_none_or(|&b| is_blank(b));
                return closed.then_some((to - start, next));
            }
            other => {
                line[to] = other;
                from += 1;
                to += 1;
            }
        }
    }
    Some((to - start, from))
}

/// Unescapes up to the closing quote: where the word now ends, and where to go on.
fn quoted(line: &mut [u8], mut from: usize, mut to: usize, quote: u8) -> Option<(usize, usize)> {
    loop {
        let (byte, length) = match (quote, line.get(from..)?) {
            (_, []) => return None,
            (q, [b, ..]) if *b == q => return Some((to, from + 1)),
            (b'\'', [b'\\', b'\'', ..]) => (b'\'', 2),
            (b'"', [b'\\', b'x', high, low, ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex(*high) << 4 | hex(*low), 4)
            }
            (b'"', [b'\\', escaped, ..]) => (unescape(*escaped), 2),
            (_, [b, ..]) => (*b, 1),
        };
        line[to] = byte;
        to += 1;
        from += length;
    }
}

fn unescape(letter: u8) -> u8 {
    match letter {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

fn hex(digit: u8) -> u8 {
    (digit as char).to_digit(16).map_or(0, |d| d as u8)
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
        let mut line = line.to_vec();
        let mut spans = Vec::new();
        split(&mut line, &mut spans)
            .then(|| spans.iter().map(|s| line[s.start as usize..s.end as usize].to_vec()).collect())
    }

    #[test]
    fn words_and_quotes() {
        let cases: [(&[u8], &[&[u8]]); 9] = [
            (b"", &[]),
            (b"  \t ", &[]),
            (b"set a b", &[b"set", b"a", b"b"]),
            (b"  a   b ", &[b"a", b"b"]),
            (b"\"a b\" c", &[b"a b", b"c"]),
            (br#""\x41\xff\n\r\t\b\a\\\"\q" x"#, &[b"A\xff\n\r\t\x08\x07\\\"q", b"x"]),
            (br"'it\'s \n' x", &[br"it's \n", b"x"]),
            (br#"ab"c d" e"#, &[b"abc d", b"e"]),
            (br#""" ''"#, &[b"", b""]),
        ];
        for (line, expected) in cases {
            assert_eq!(words(line).unwrap(), expected, "{}", line.escape_ascii());
        }
        for bad in [&b"\"a"[..], b"'a", b"\"a\"b", b"'a'b", b"a\"", b"\"a\\", b"\"a\\\""] {
            assert_eq!(words(bad), None, "{}", bad.escape_ascii());
        }
    }
}
