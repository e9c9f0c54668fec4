//! The head of a push, gitprotocol-pack(5): the list of ref updates and the client's capabilities.
//! It is read, and decided on, before any of the pack is.

use std::collections::HashSet;

use crate::git_gate::object_id::ObjectId;
use crate::git_gate::pkt_line::{self, Pkt};
use crate::git_gate::refusal::{Refusal, Rule};

/// Most ref updates of one push.
pub const MAX_REF_UPDATES: usize = 64;
/// Most `shallow` lines.
const MAX_SHALLOW_LINES: usize = 4096;
/// Longest ref name in bytes that is parsed.
const MAX_NAME_BYTES: usize = 1024;
/// Largest head in bytes.
const MAX_HEAD_BYTES: usize = 512 << 10;

/// A "command" of the protocol: one ref that is to be created, moved or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefUpdate {
    /// The ref's current value as the client knows it; zero to create the ref.
    pub old: ObjectId,
    /// The new value; zero to delete the ref.
    pub new: ObjectId,
    /// Full name in UTF-8. [`super::ref_policy`] checks that it is valid for a ref.
    pub name: String,
}

impl RefUpdate {
    /// Name and both ids, shortened, for the audit log.
    #[must_use]
    pub fn summary(&self) -> String {
        format!("{} {} {}", self.name, self.old.short(), self.new.short())
    }
}

/// The client's capabilities that the answer depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// `report-status`: it expects a report with one line for each ref.
    pub report_status: bool,
    /// `side-band-64k`: it accepts messages beside the report.
    pub side_band: bool,
}

/// A complete head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushHead {
    /// In the client's order. Empty if the client only probes whether it may push.
    pub updates: Vec<RefUpdate>,
    /// The capabilities in the first line.
    pub capabilities: Capabilities,
}

/// Parses a head as it arrives.
#[derive(Debug, Default)]
pub struct PushHeadReader {
    buffer: Vec<u8>,
    at: usize,
    shallow_lines: usize,
    head: PushHead,
    names: HashSet<String>,
}

impl PushHeadReader {
    /// Takes the next bytes. Once the head is complete, returns it and the bytes that follow it.
    ///
    /// # Errors
    /// [`Rule::PktLine`], [`Rule::Command`], [`Rule::ObjectFormat`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<(PushHead, Vec<u8>)>, Refusal> {
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
                        "a separator in the place of a ref update",
                    ));
                }
            };
            self.at += len;
            self.line(&line)?;
            if self.at > MAX_HEAD_BYTES {
                break;
            }
        }
        if self.at.max(self.buffer.len().saturating_sub(pkt_line::MAX_BYTES)) > MAX_HEAD_BYTES {
            return Err(Refusal::new(Rule::Command, "the list of refs is too long"));
        }
        Ok(None)
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if let Some(id) = line.strip_prefix(b"shallow ") {
            // The client's shallow boundary does not matter: the new objects must connect to the
            // mirror's in any case.
            self.shallow_lines += 1;
            return match ObjectId::parse(id) {
                Some(_) if self.shallow_lines <= MAX_SHALLOW_LINES => Ok(()),
                Some(_) => Err(bad_line("too many shallow lines")),
                None => Err(bad_line("shallow without an id")),
            };
        }
        if line.starts_with(b"push-cert") {
            return Err(bad_line("signed pushes are not supported"));
        }
        let (update, capabilities) = match line.iter().position(|b| *b == 0) {
            Some(nul) if self.head.updates.is_empty() => (&line[..nul], Some(&line[nul + 1..])),
            Some(_) => return Err(bad_line("a NUL")),
            None => (line, None),
        };
        if let Some(capabilities) = capabilities {
            self.head.capabilities = read_capabilities(capabilities)?;
        }
        let update = read_update(update)?;
        if !self.names.insert(update.name.clone()) {
            return Err(bad_line("the same ref twice"));
        }
        if self.head.updates.len() == MAX_REF_UPDATES {
            return Err(bad_line("more refs at once than git-gate accepts (64)"));
        }
        self.head.updates.push(update);
        Ok(())
    }
}

fn bad_line(why: &str) -> Refusal {
    Refusal::new(Rule::Command, format!("the list of refs is malformed: {why}"))
}

/// `OLD NEW NAME`.
fn read_update(line: &[u8]) -> Result<RefUpdate, Refusal> {
    let fields =
        line.split_at_checked(41).and_then(|(old, rest)| Some((old, rest.split_at_checked(41)?)));
    let Some((old, (new, name))) = fields else { return Err(bad_line("a line is too short")) };
    let id = |field: &[u8]| {
        field
            .strip_suffix(b" ")
            .and_then(ObjectId::parse)
            .ok_or_else(|| bad_line("an id is not 40 lower-case hex digits"))
    };
    let (old, new) = (id(old)?, id(new)?);
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(bad_line("the name of a ref is empty or too long"));
    }
    let name =
        String::from_utf8(name.to_vec()).map_err(|_| bad_line("the name of a ref is not UTF-8"))?;
    if old.is_zero() && new.is_zero() {
        return Err(bad_line("both ids are zero"));
    }
    Ok(RefUpdate { old, new, name })
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
                    "this repository has another object format: git-gate supports only SHA-1";
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
        let (whole, rest) = PushHeadReader::default().push(&text).unwrap().unwrap();
        assert_eq!((whole.updates.len(), &rest[..]), (2, &b"PACK...."[..]));
        assert!(whole.capabilities.report_status && whole.capabilities.side_band);
        let mut reader = PushHeadReader::default();
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
            let refused = PushHeadReader::default().push(&bytes).unwrap_err();
            assert_eq!(refused.rule, rule, "{}", String::from_utf8_lossy(&bytes));
        }
        let mut reader = PushHeadReader::default();
        let endless = line(&format!("shallow {}", "b".repeat(40)));
        let end = (0..100_000).find_map(|_| reader.push(&endless).err()).unwrap();
        assert_eq!(end.rule, Rule::Command);
    }
}
