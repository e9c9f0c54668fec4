//! What the escapes of a text stand for, where one may be the first character of a secret.

pub(super) enum Decoded {
    /// Not the beginning of an escape that a secret could begin with.
    Nothing,
    /// This character.
    Char(u8),
    /// More than these bytes are needed to say.
    Unknown,
}

pub(super) fn hex_value(byte: u8) -> Option<u32> {
    char::from(byte).to_digit(16)
}

/// What the escape that begins with `mark` stands for. A [`Follower`] says the same, more slowly.
pub(super) fn decode(mark: u8, byte: impl Fn(u64) -> Option<u8>) -> Decoded {
    let Some(next) = byte(1) else { return Decoded::Unknown };
    let number = |from: u64, len: u64| {
        let mut value = 0;
        for i in from..from + len {
            match byte(i).map(hex_value) {
                None => return Decoded::Unknown,
                Some(None) => return Decoded::Nothing,
                Some(Some(digit)) => value = (value << 4) | digit,
            }
        }
        u8::try_from(value).map_or(Decoded::Nothing, Decoded::Char)
    };
    match (mark, next) {
        (b'%', b'u' | b'U') | (b'\\', b'U' | b'0'..=b'7') | (b'&', b'#') => Decoded::Unknown,
        (b'%', _) => match number(1, 2) {
            Decoded::Char(b'%') => Decoded::Unknown, // escaped twice
            decoded => decoded,
        },
        (b'\\', b'u') if byte(2) == Some(b'{') => Decoded::Unknown,
        (b'\\', b'u') => match number(2, 4) {
            Decoded::Char(c) if c >= 0x80 => Decoded::Nothing,
            decoded => decoded,
        },
        (b'\\', b'x') => number(2, 2),
        (b'\\', other) => Decoded::Char(simple(other)),
        (_, b'a' | b'l' | b'g' | b'q') => Decoded::Unknown,
        _ => Decoded::Nothing,
    }
}

/// What a backslash and this letter stand for.
pub(super) fn simple(letter: u8) -> u8 {
    match letter {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'f' => 12,
        other => other,
    }
}
