//! What agents send: JSON around source text. Always the same bytes, no line like another, and full
//! of the words that a scanner for credentials must look at twice.

/// Bytes of [`large`].
pub const LARGE_BYTES: usize = 4_000_000;

const WORDS: [&str; 40] = [
    "token",
    "self",
    "request",
    "parse",
    "index",
    "buffer",
    "key",
    "config",
    "response",
    "stream",
    "secret",
    "value",
    "state",
    "error",
    "match",
    "length",
    "client",
    "password",
    "header",
    "path",
    "result",
    "api",
    "route",
    "policy",
    "auth",
    "limit",
    "write",
    "update",
    "frame",
    "host",
    "bearer",
    "cache",
    "window",
    "credential",
    "future",
    "access",
    "total",
    "session",
    "node",
    "handle",
];

/// Numbers that look random (xorshift64*, Vigna 2016).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn word(&mut self) -> &'static str {
        WORDS[usize::try_from(self.next() >> 33).unwrap_or(0) % WORDS.len()]
    }
}

/// A request's body of exactly [`LARGE_BYTES`] bytes.
pub fn large() -> Vec<u8> {
    let mut n = Numbers(0x9E37_79B9_7F4A_7C15);
    let mut out = String::from(r#"{"model":"bench","stream":true,"messages":["#);
    let mut line = 0;
    while out.len() < LARGE_BYTES - 2000 {
        out.push_str(r#"{"role":"user","content":""#);
        for _ in 0..20 {
            line += 1;
            let (a, b, c, d) = (n.word(), n.word(), n.word(), n.next());
            let text = match d >> 60 {
                0 => format!(
                    r"// commit {:016x}{:016x}{:08x}: {a} of the {b}\n",
                    n.next(),
                    n.next(),
                    n.next() >> 32
                ),
                1 => {
                    format!(
                        r#"    \"id\": \"{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}\",\n"#,
                        d >> 32,
                        d & 0xffff,
                        d & 0xfff,
                        d >> 52,
                        d >> 16
                    )
                }
                2 => format!(r"// see https://docs.example.test/{a}/{b}#L{line}\n"),
                3 => format!(r"    pub {a}_{b}: Option<Box<dyn Fn(&{c}) -> usize>>,\n"),
                4 => format!(r#"    assert_eq!(render(\"{a} {b}\"), \"{c} {line}\");\n"#),
                5..8 => format!(
                    r"    if {a}.{b}() > {} {{ return Err(Error::{c}({line})); }}\n",
                    d & 0xfff
                ),
                8..11 => format!(r"        let {a}_{b} = {c}.{a}({line})?.{b}_mut();\n"),
                11 => r"\n".to_owned(),
                _ => format!(
                    r"the {a} is kept by the {b} until {c} number {line} is done, which then frees it\n"
                ),
            };
            out.push_str(&text);
        }
        out.push_str(r#""},"#);
    }
    out.push_str(r#"{"role":"user","content":""#);
    let end = r#""}]}"#;
    while out.len() + end.len() < LARGE_BYTES {
        out.push(if out.len() % 61 == 0 { ' ' } else { 'e' });
    }
    out.push_str(end);
    out.into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_is_json_of_the_length_it_says() {
        let text = large();
        assert_eq!(text.len(), LARGE_BYTES);
        let read: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert!(read["messages"].as_array().unwrap().len() > 1000);
    }
}
