//! The head of a push, gitprotocol-pack(5): what is to become of which refs. Read, and decided
//! upon, before any of its pack.

use std::collections::HashSet;
use std::fmt;

use crate::git_gate::pkt_line::{self, Pkt};
use crate::git_gate::refusal::{Refusal, Rule};

/// Most commands of one push.
pub const COMMANDS: usize = 64;
/// Most `shallow` lines.
const SHALLOW: usize = 4096;
/// Longest name of a ref, bytes.
const NAME: usize = 1024;
/// Most bytes of a head.
const HEAD: usize = 512 << 10;

/// A SHA-1 in lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(String);

impl Id {
    /// What stands for no object.
    #[must_use]
    pub fn zero() -> Self {
        Self("0".repeat(40))
    }

    /// Whether it stands for no object.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.bytes().all(|b| b == b'0')
    }

    /// The 40 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..12]
    }

    /// Reads 40 lower-case hex digits.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let ok = text.len() == 40
            && text.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b));
        if ok { String::from_utf8(text.to_vec()).ok().map(Self) } else { None }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is to become of one ref.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// What the client takes the ref for; zero: it is to be made.
    pub old: Id,
    /// What it is to be; zero: deleted.
    pub new: Id,
    /// Full name. ASCII or UTF-8; [`crate::git_gate::push::ref_policy`] says whether it is a ref's.
    pub name: String,
}

/// What the client asks for beside its commands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// It wants to be told what became of each ref.
    pub report_status: bool,
    /// In a sideband, with messages beside.
    pub side_band: bool,
}

/// A whole head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// In order; empty for a client that only wants to know whether it may.
    pub commands: Vec<Command>,
    /// Of the first command.
    pub capabilities: Capabilities,
}

/// Reads a head as it arrives.
#[derive(Debug, Default)]
pub struct HeadReader {
    buffer: Vec<u8>,
    at: usize,
    shallow: usize,
    head: Head,
    names: HashSet<String>,
}

impl HeadReader {
    /// Takes the next bytes. Once the head is all there: the head, and what came after it.
    ///
    /// # Errors
    /// [`Rule::PktLine`], [`Rule::Command`], [`Rule::ObjectFormat`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<(Head, Vec<u8>)>, Refusal> {
        self.buffer.extend_from_slice(bytes);
        while let Some((pkt, len)) = pkt_line::next(&self.buffer[self.at..])? {
            let line = match pkt {
                Pkt::Flush => {
                    let rest = self.buffer.split_off(self.at + len);
                    return Ok(Some((std::mem::take(&mut self.head), rest)));
                }
                Pkt::Data(line) => line.to_vec(),
                Pkt::Delim | Pkt::ResponseEnd => {
                    return Err(Refusal::new(
                        Rule::PktLine,
                        "a separator where a command should be",
                    ));
                }
            };
            self.at += len;
            self.line(&line)?;
            if self.at > HEAD {
                break;
            }
        }
        if self.at.max(self.buffer.len().saturating_sub(pkt_line::MAX)) > HEAD {
            return Err(Refusal::new(Rule::Command, "the list of refs is too long"));
        }
        Ok(None)
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let bad =
            |why: &str| Refusal::new(Rule::Command, format!("not a command of a push: {why}"));
        if let Some(id) = line.strip_prefix(b"shallow ") {
            // Where the client's history ends is no matter: the gate's own copy has to connect
            // anyway.
            self.shallow += 1;
            return match Id::parse(id) {
                Some(_) if self.shallow <= SHALLOW => Ok(()),
                Some(_) => Err(bad("too many shallow lines")),
                None => Err(bad("shallow without an id")),
            };
        }
        if line.starts_with(b"push-cert") {
            return Err(bad("signed pushes are not supported"));
        }
        let (command, capabilities) = match line.iter().position(|b| *b == 0) {
            Some(nul) if self.head.commands.is_empty() => (&line[..nul], Some(&line[nul + 1..])),
            Some(_) => return Err(bad("a NUL")),
            None => (line, None),
        };
        if let Some(capabilities) = capabilities {
            self.head.capabilities = read_capabilities(capabilities)?;
        }
        let fields = command
            .split_at_checked(41)
            .and_then(|(old, rest)| Some((old, rest.split_at_checked(41)?)));
        let Some((old, (new, name))) = fields else { return Err(bad("too short")) };
        let id = |field: &[u8]| {
            field
                .strip_suffix(b" ")
                .and_then(Id::parse)
                .ok_or_else(|| bad("an id is not 40 lower-case hex digits"))
        };
        let (old, new) = (id(old)?, id(new)?);
        if name.is_empty() || name.len() > NAME {
            return Err(bad("a ref's name is empty or too long"));
        }
        let name =
            String::from_utf8(name.to_vec()).map_err(|_| bad("a ref's name is not UTF-8"))?;
        if old.is_zero() && new.is_zero() {
            return Err(bad("neither an old nor a new id"));
        }
        if !self.names.insert(name.clone()) {
            return Err(bad("the same ref twice"));
        }
        if self.head.commands.len() == COMMANDS {
            return Err(bad("more refs at once than the gate takes (64)"));
        }
        self.head.commands.push(Command { old, new, name });
        Ok(())
    }
}

fn read_capabilities(text: &[u8]) -> Result<Capabilities, Refusal> {
    let mut read = Capabilities::default();
    for word in text.split(|b| *b == b' ').filter(|w| !w.is_empty()) {
        match word {
            b"report-status" => read.report_status = true,
            b"side-band-64k" => read.side_band = true,
            b"push-options" => {
                return Err(Refusal::new(Rule::Command, "push options are not supported"));
            }
            _ => {}
        }
        if let Some(format) = word.strip_prefix(b"object-format=") {
            if format != b"sha1" {
                let reason =
                    "this is a repository of another object format: the gate's upstreams are SHA-1";
                return Err(Refusal::new(Rule::ObjectFormat, reason));
            }
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        pkt_line::data(&mut out, text.as_bytes());
        out
    }

    fn command(name: &str, caps: &str) -> Vec<u8> {
        line(&format!("{} {} {name}{caps}", "0".repeat(40), "a".repeat(40)))
    }

    #[test]
    fn a_head_is_the_same_however_it_arrives() {
        let mut text = line(&format!("shallow {}", "b".repeat(40)));
        text.extend(command(
            "refs/heads/x",
            "\0report-status side-band-64k agent=git/2 object-format=sha1",
        ));
        text.extend(command("refs/heads/y", "\n"));
        text.extend(b"0000PACK....");
        let (whole, rest) = HeadReader::default().push(&text).unwrap().unwrap();
        assert_eq!((whole.commands.len(), &rest[..]), (2, &b"PACK...."[..]));
        assert!(whole.capabilities.report_status && whole.capabilities.side_band);
        let mut reader = HeadReader::default();
        let flush = text.len() - 8;
        for (at, byte) in text.iter().enumerate().take(flush) {
            let step = reader.push(&[*byte]).unwrap();
            assert_eq!(step.is_some(), at == flush - 1);
            if let Some((head, rest)) = step {
                assert_eq!((head, rest.len()), (whole.clone(), 0));
            }
        }
    }

    #[test]
    fn what_is_no_command_is_refused() {
        let zero = "0".repeat(40);
        for (bytes, rule) in [
            (line("hello"), Rule::Command),
            (line(""), Rule::Command),
            (line("push-cert\0x"), Rule::Command),
            (line(&format!("{zero} {zero} refs/heads/x")), Rule::Command),
            (line(&format!("{} {zero} refs/heads/x", "A".repeat(40))), Rule::Command),
            (line(&format!("{} {} refs/heads/x", "a".repeat(64), "b".repeat(64))), Rule::Command),
            (command(&"x".repeat(2000), ""), Rule::Command),
            (command("refs/heads/x", "\0push-options"), Rule::Command),
            (command("refs/heads/x", "\0object-format=sha256"), Rule::ObjectFormat),
            ([command("a", ""), command("a", "")].concat(), Rule::Command),
            ([command("a", ""), command("b", "\0report-status")].concat(), Rule::Command),
            ((0..65).flat_map(|n| command(&format!("r{n}"), "")).collect(), Rule::Command),
            (b"0001".to_vec(), Rule::PktLine),
            (b"zzzz".to_vec(), Rule::PktLine),
        ] {
            let refused = HeadReader::default().push(&bytes).unwrap_err();
            assert_eq!(refused.rule, rule, "{}", String::from_utf8_lossy(&bytes));
        }
        let mut reader = HeadReader::default();
        let endless = line(&format!("shallow {}", "b".repeat(40)));
        let end = (0..100_000).find_map(|_| reader.push(&endless).err()).unwrap();
        assert_eq!(end.rule, Rule::Command);
    }
}
