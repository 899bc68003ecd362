//! Integers as the protocol writes them.

/// Reads a signed integer as Redis does: digits with an optional minus, no plus, no
/// blanks, no leading zeros, so that every number has one spelling.
pub(crate) fn parse_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let magnitude = parse_u64(digits)?;
    match (negative, magnitude) {
        (true, 0) => None,
        (true, m) => 0i64.checked_sub_unsigned(m),
        (false, m) => i64::try_from(m).ok(),
    }
}

/// Reads an unsigned integer, digits only, without leading zeros.
pub(crate) fn parse_u64(digits: &[u8]) -> Option<u64> {
    match digits {
        [b'0'] => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 20 => {}
        _ => return None,
    }
    let mut number = 0u64;
    for &digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(number)
}

/// The decimal digits of a number, on the stack.
#[derive(Debug)]
pub(crate) struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    pub(crate) fn of(number: i64) -> Self {
        let mut decimal = Self::of_u64(number.unsigned_abs());
        if number < 0 {
            decimal.start -= 1;
            decimal.digits[decimal.start] = b'-';
        }
        decimal
    }

    pub(crate) fn of_u64(mut number: u64) -> Self {
        let mut decimal = Self { digits: [0; 20], start: 20 };
        loop {
            decimal.start -= 1;
            decimal.digits[decimal.start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return decimal;
            }
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.digits[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_spelling() {
        for n in [0, 1, -1, 10, 42, i64::MAX, i64::MIN, -10] {
            assert_eq!(Decimal::of(n).as_bytes(), n.to_string().as_bytes());
            assert_eq!(parse_i64(n.to_string().as_bytes()), Some(n));
        }
        assert_eq!(Decimal::of_u64(u64::MAX).as_bytes(), u64::MAX.to_string().as_bytes());
        let bad = ["", "-", "-0", "+1", " 1", "1 ", "01", "00", "1a", "9223372036854775808"];
        for text in bad.into_iter().chain(["-9223372036854775809", "99999999999999999999999"]) {
            assert_eq!(parse_i64(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse_u64(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(parse_u64(b"18446744073709551616"), None);
    }
}
