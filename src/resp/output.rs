//! What a connection has to say, and how much of it may be said already.

/// Memory kept by an idle connection's output.
const KEPT: usize = 4 << 10;

/// Replies in order. `0 ≤ sent ≤ released ≤ sealed ≤ bytes.len()`: sealed bytes belong to a
/// commit under way, released ones to commits that held, and both marks lie between replies.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) bytes: Vec<u8>,
    sent: usize,
    released: usize,
    sealed: usize,
}

impl Output {
    /// Bytes that wait, for a commit or for the socket.
    pub(crate) fn unsent(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.unsent() == 0
    }

    /// Whether there are replies that no commit covers yet.
    pub(crate) fn has_unsealed(&self) -> bool {
        self.sealed < self.bytes.len()
    }

    /// The length of `bytes` at which `limit` of them are unsent.
    pub(crate) fn ceiling(&self, limit: usize) -> usize {
        self.sent.saturating_add(limit)
    }

    /// A commit begins: what was written up to here leaves if it holds.
    pub(crate) fn seal(&mut self) {
        self.sealed = self.bytes.len();
    }

    /// The commit held.
    pub(crate) fn release(&mut self) {
        self.released = self.sealed;
    }

    /// The commit failed: nothing since the last one that held is true any more.
    pub(crate) fn fail(&mut self, error: &[u8]) {
        self.bytes.truncate(self.released);
        self.bytes.extend_from_slice(error);
        self.seal();
        self.release();
    }

    /// What may be sent.
    pub(crate) fn sendable(&self) -> &[u8] {
        &self.bytes[self.sent..self.released]
    }

    /// So many of the sendable bytes went out.
    pub(crate) fn advance(&mut self, sent: usize) {
        self.sent += sent;
        assert!(self.sent <= self.released, "sent more than was released");
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT);
            (self.sent, self.released, self.sealed) = (0, 0, 0);
        } else if self.sent > self.bytes.len() / 2 && self.sent > KEPT {
            self.bytes.drain(..self.sent);
            self.released -= self.sent;
            self.sealed -= self.sent;
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_commit_holds_leaves() {
        let mut output = Output::default();
        output.bytes.extend_from_slice(b"one");
        assert_eq!(output.sendable(), b"");
        output.seal();
        output.bytes.extend_from_slice(b"two");
        output.release();
        assert_eq!(output.sendable(), b"one");
        output.advance(1);
        assert_eq!(output.sendable(), b"ne");
        output.seal();
        output.fail(b"-IOERR\r\n");
        assert_eq!(output.sendable(), b"ne-IOERR\r\n");
        output.advance(10);
        assert!(output.is_empty());
    }

    #[test]
    fn memory_of_sent_bytes_is_given_back() {
        let mut output = Output::default();
        output.bytes.resize(100_000, 7);
        output.seal();
        output.release();
        output.advance(60_000);
        assert_eq!((output.sendable().len(), output.bytes.len()), (40_000, 40_000));
        output.advance(40_000);
        assert!(output.bytes.capacity() <= KEPT);
    }
}
