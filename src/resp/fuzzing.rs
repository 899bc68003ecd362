//! The parser as a stranger's bytes meet it, for tests and fuzz targets outside of this crate.

use super::Limits;
use super::codec::{Parsed, Parser};

/// The commands in `stream`, if it arrives in the pieces that end at `cuts`, which ascend; and what was wrong with it.
///
/// # Panics
/// If the parser asks for what it already has.
pub fn feed(stream: &[u8], cuts: &[usize], limits: &Limits) -> (Vec<Vec<Vec<u8>>>, Option<String>) {
    let mut parser = Parser::default();
    let mut commands = Vec::new();
    let mut held: Vec<u8> = Vec::new();
    let mut from = 0;
    for cut in cuts.iter().copied().chain([stream.len()]) {
        let to = cut.min(stream.len()).max(from);
        held.extend_from_slice(&stream[from..to]);
        from = to;
        loop {
            match parser.parse(&mut held, limits) {
                Ok(Parsed::Command(length)) => {
                    let argument =
                        |span: &super::codec::Span| held[span.start as usize..span.end as usize].to_vec();
                    commands.push(parser.spans().iter().map(argument).collect());
                    held.drain(..length);
                }
                Ok(Parsed::Nothing(length)) => drop(held.drain(..length)),
                Ok(Parsed::More(need)) => {
                    assert!(need > held.len(), "what is asked for is not there yet");
                    break;
                }
                Err(malformed) => return (commands, Some(malformed.to_string())),
            }
        }
    }
    (commands, None)
}
