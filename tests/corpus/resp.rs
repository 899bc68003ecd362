//! Whatever a client sends, in whatever pieces: the same commands, or the same refusal after the same commands.

use tidings::resp::{Limits, fuzzing::feed};

use crate::bytes::Bytes;

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let small = Limits { inline: 40, args: 20, bulk: 30, query: 100, ..Limits::default() };
    let limits = if bytes.byte() % 2 == 1 { small } else { Limits::default() };
    let count = bytes.below(16);
    let mut cuts: Vec<usize> = (0..count).map(|_| bytes.below(1 << 10)).collect();
    cuts.sort_unstable();
    let stream = bytes.0;

    let whole = feed(stream, &[], &limits);
    assert_eq!(feed(stream, &cuts, &limits), whole);
    if stream.len() <= 256 {
        assert_eq!(feed(stream, &(0..stream.len()).collect::<Vec<_>>(), &limits), whole, "byte by byte");
    }
    let (commands, _) = whole;
    let size: usize = commands.iter().flatten().map(Vec::len).sum();
    assert!(size <= stream.len(), "no argument is longer than what was sent");
    let encoded: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
    assert_eq!(feed(&encoded, &cuts, &Limits::default()), (commands, None), "what was meant, said plainly");
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
