//! Frames: a length of four bytes, little-endian, then that many bytes of postcard.

use serde::Serialize;

use crate::message::{Hello, Lane, Message, Sync};
use crate::{DecodeError, bound, bounds, limit};

/// Bytes of the length before each frame.
pub const PREFIX: usize = 4;

/// The longest frame, without its prefix, that a lane carries.
pub fn limit(lane: Lane) -> usize {
    match lane {
        Lane::News => bounds::NEWS_FRAME,
        Lane::Bulk => bounds::BULK_FRAME,
    }
}

/// The length that a prefix announces, refused if over the lane's limit.
pub fn length(prefix: [u8; PREFIX], lane: Lane) -> Result<usize, DecodeError> {
    let length = u32::from_le_bytes(prefix) as usize;
    bound("frame", length, limit(lane))?;
    Ok(length)
}

/// A whole frame with its prefix, for HELLO.
pub fn encode_hello(hello: &Hello) -> Vec<u8> {
    encode(hello, 0)
}

/// A whole frame with its prefix, for a message.
///
/// # Panics
/// If it is over its lane's limit: whoever makes messages keeps them within.
pub fn encode_message(message: &Message) -> Vec<u8> {
    debug_assert_eq!(message.check(), Ok(()), "a {} message that every receiver refuses", message.kind());
    let frame = encode(message, most_of(message));
    assert!(frame.len() - PREFIX <= limit(message.lane()), "{} frame over its limit", message.kind());
    frame
}

/// About how many bytes a message takes, where that is many and known.
fn most_of(message: &Message) -> usize {
    match message {
        Message::Sync(Sync::Block { block, .. }) => block.len() + 32,
        _ => 0,
    }
}

fn encode<T: Serialize>(value: &T, room: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(PREFIX + room);
    frame.resize(PREFIX, 0);
    let mut frame = postcard::to_extend(value, frame).expect("plain values always encode");
    let length = u32::try_from(frame.len() - PREFIX).expect("a frame is far below 4 GiB");
    frame[..PREFIX].copy_from_slice(&length.to_le_bytes());
    frame
}

/// The HELLO in a frame's body (without prefix).
pub fn decode_hello(body: &[u8]) -> Result<Hello, DecodeError> {
    bound("hello", body.len(), bounds::HELLO_FRAME)?;
    let hello: Hello = limit::decode_all(body, "hello")?;
    hello.check()?;
    Ok(hello)
}

/// The message in a frame's body (without prefix), checked against every bound
/// but for the ops inside runs and the cells inside blocks, which are checked as they are read.
pub fn decode_message(body: &[u8]) -> Result<Message, DecodeError> {
    let message: Message = limit::decode_all(body, "message")?;
    message.check()?;
    Ok(message)
}
