//! Choices out of a fuzzer's bytes. Past their end every choice is 0.

/// What is left of the bytes.
#[derive(Debug, Clone)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        let n = match bound {
            0..=256 => usize::from(self.byte()),
            _ => usize::from(self.byte()) << 8 | usize::from(self.byte()),
        };
        n % bound.max(1)
    }

    /// True once in `of` times.
    pub fn once_in(&mut self, of: usize) -> bool {
        self.below(of) == 1
    }

    pub fn pick<T: Clone>(&mut self, list: &[T]) -> Option<T> {
        let at = self.below(list.len());
        list.get(at).cloned()
    }

    /// Mostly a small number, now and then one from the edges.
    pub fn number(&mut self) -> u64 {
        let byte = self.byte();
        match byte {
            0..=239 => u64::from(byte % 16),
            240..=249 => 1 << (self.byte() % 64),
            250..=252 => u64::MAX - u64::from(self.byte() % 4),
            _ => self.below(1 << 16) as u64,
        }
    }

    /// Some of the bytes as they are.
    pub fn slice(&mut self, longest: usize) -> &'a [u8] {
        let length = self.below(longest + 1).min(self.0.len());
        let (slice, rest) = self.0.split_at(length);
        self.0 = rest;
        slice
    }
}
