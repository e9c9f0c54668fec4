//! WebSocket frames, read strictly and searched (RFC 6455 section 5). No extension is ever agreed
//! on, so the payload of a frame is its content.

use std::collections::VecDeque;

use bottle_scan::{Direction, Finding, Profile, Stream};
use bytes::{Bytes, BytesMut};

use crate::egress::refusal::{Refusal, Rule};

/// First byte of a Close frame.
const CLOSE: u8 = 0x88;

/// Most pieces of frames that wait for the scanner. Each is at most 131 bytes, or a counter for bytes
/// that the scanner holds.
const MAX_WAITING_PIECES: usize = 1024;

/// One direction of a WebSocket.
pub struct Frames {
    direction: Direction,
    profile: Profile,
    /// Searches the content of messages; `None` when nothing is searched for.
    scan: Option<Stream>,
    state: State,
    /// Bytes of a frame's head so far, or of a control frame.
    head: Vec<u8>,
    /// Whether the message continues in the next frame.
    fragmented: bool,
    /// Whether a Close frame has come.
    ended: bool,
    /// What is to go out, in order. Payload waits for the scanner.
    queue: VecDeque<Piece>,
}

enum State {
    Head,
    Payload { left: u64, mask: Option<[u8; 4]>, phase: usize },
    Control { left: usize, start: usize },
}

enum Piece {
    /// Bytes that go on as they came.
    Raw(Vec<u8>),
    /// So many bytes from the scanner, to be masked again from position `phase` of the key on.
    Payload { left: u64, mask: Option<[u8; 4]>, phase: usize },
}

/// What was found in the content.
pub type Findings = Vec<Finding>;

impl Frames {
    /// Frames in `direction`. The guest masks its frames, the upstream does not.
    #[must_use]
    pub fn new(direction: Direction, profile: Profile, scan: Option<Stream>) -> Self {
        Self {
            direction,
            profile,
            scan,
            state: State::Head,
            head: Vec::new(),
            fragmented: false,
            ended: false,
            queue: VecDeque::new(),
        }
    }

    /// Takes the next bytes. What may go on is appended to `out`, and findings to `found`.
    ///
    /// # Errors
    /// [`Rule::WebSocket`].
    pub fn feed(
        &mut self,
        mut input: &[u8],
        out: &mut BytesMut,
        found: &mut Findings,
    ) -> Result<(), Refusal> {
        while !input.is_empty() {
            match &mut self.state {
                State::Head => {
                    self.head.push(input[0]);
                    input = &input[1..];
                    self.begin()?;
                }
                State::Control { left, start } => {
                    let n = (*left).min(input.len());
                    self.head.extend_from_slice(&input[..n]);
                    input = &input[n..];
                    *left -= n;
                    if *left == 0 {
                        let start = *start;
                        if self.head.first() == Some(&CLOSE) {
                            self.finish(out, found); // nothing more can complete what is held
                        }
                        self.control(start, found);
                    }
                }
                State::Payload { left, mask, phase } => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    let (part, rest) = input.split_at(n);
                    input = rest;
                    let mut content = BytesMut::from(part);
                    toggle(&mut content, *mask, *phase);
                    *phase += n;
                    *left -= n as u64;
                    if *left == 0 {
                        self.state = State::Head;
                    }
                    self.content(content.freeze(), out, found);
                }
            }
        }
        self.release(Bytes::new(), out);
        // While the scanner holds back a piece of a message, the queue behind it must not grow
        // without bound.
        if self.queue.len() > MAX_WAITING_PIECES {
            return Err(Refusal::new(
                Rule::WebSocket,
                "too many WebSocket frames behind one that looks like a credential",
            ));
        }
        Ok(())
    }

    /// Ends the content: releases or reports what the scanner still held.
    pub fn finish(&mut self, out: &mut BytesMut, found: &mut Findings) {
        if let Some(scan) = self.scan.as_mut().filter(|_| !self.ended) {
            let mut parts = Vec::new();
            scan.finish(&mut parts, found);
            for part in parts {
                self.release(part, out);
            }
        }
        self.ended = true;
    }

    /// Whether the last frame is complete.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        matches!(self.state, State::Head) && self.head.is_empty()
    }

    /// Reads the frame's head, if it is complete.
    fn begin(&mut self) -> Result<(), Refusal> {
        let bad =
            |why: &str| Err(Refusal::new(Rule::WebSocket, format!("a WebSocket frame {why}")));
        let &[first, second, ..] = &self.head[..] else { return Ok(()) };
        let (last, opcode) = (first & 0x80 != 0, first & 0x0f);
        let (masked, short) = (second & 0x80 != 0, second & 0x7f);
        let control = opcode >= 8;
        if first & 0x70 != 0 {
            return bad("uses an extension that was not agreed on");
        }
        if masked != (self.direction == Direction::Request) {
            return bad(if masked {
                "from the upstream is masked"
            } else {
                "from the bottle is not masked"
            });
        }
        match opcode {
            0 if !self.fragmented => return bad("continues a message that has not begun"),
            1 | 2 if self.fragmented => return bad("begins a message inside another"),
            0..=2 if self.ended => return bad("comes after the last one"),
            8..=10 if !last || short > 125 => {
                return bad("is a control frame that is too long or fragmented");
            }
            0..=2 | 8..=10 => {}
            _ => return bad("has an unknown opcode"),
        }
        let width = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let start = 2 + width + if masked { 4 } else { 0 };
        if self.head.len() < start {
            return Ok(());
        }
        let length = match width {
            0 => u64::from(short),
            _ => self.head[2..2 + width].iter().fold(0, |n, b| (n << 8) | u64::from(*b)),
        };
        if length >> 63 != 0 {
            return bad("has an impossible length");
        }
        let mask = if masked { self.head[start - 4..start].try_into().ok() } else { None };
        if control {
            self.state = State::Control { left: usize::from(short), start };
            if short == 0 {
                self.control(start, &mut Vec::new());
            }
            return Ok(());
        }
        self.fragmented = !last;
        self.queue.push_back(Piece::Raw(std::mem::take(&mut self.head)));
        if length > 0 {
            self.queue.push_back(Piece::Payload { left: length, mask, phase: 0 });
            self.state = State::Payload { left: length, mask, phase: 0 };
        }
        Ok(())
    }

    /// Takes a complete control frame. It may stand inside a message, so it is searched on its own.
    fn control(&mut self, start: usize, found: &mut Findings) {
        let frame = std::mem::take(&mut self.head);
        let mut content = frame[start..].to_vec();
        let mask = if self.direction == Direction::Request {
            frame[start - 4..start].try_into().ok()
        } else {
            None
        };
        toggle(&mut content, mask, 0);
        if self.scan.is_some() && !content.is_empty() {
            found.extend(self.profile.text(self.direction, &content));
        }
        self.queue.push_back(Piece::Raw(frame));
        self.state = State::Head;
    }

    fn content(&mut self, content: Bytes, out: &mut BytesMut, found: &mut Findings) {
        match &mut self.scan {
            None => self.release(content, out),
            Some(scan) => {
                let mut parts = Vec::new();
                scan.push(content, &mut parts, found);
                for part in parts {
                    self.release(part, out);
                }
            }
        }
    }

    /// Puts released content back into its frames.
    fn release(&mut self, content: Bytes, out: &mut BytesMut) {
        let mut content = &content[..];
        while let Some(piece) = self.queue.front_mut() {
            match piece {
                Piece::Raw(bytes) => out.extend_from_slice(bytes),
                Piece::Payload { left, mask, phase } => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(content.len());
                    let at = out.len();
                    out.extend_from_slice(&content[..n]);
                    toggle(&mut out[at..], *mask, *phase);
                    content = &content[n..];
                    *left -= n as u64;
                    *phase += n;
                    if *left > 0 {
                        return;
                    }
                }
            }
            self.queue.pop_front();
        }
    }
}

/// Masks or unmasks, which is the same operation.
fn toggle(bytes: &mut [u8], mask: Option<[u8; 4]>, phase: usize) {
    let Some(mask) = mask else { return };
    for (n, b) in bytes.iter_mut().enumerate() {
        *b ^= mask[(phase + n) % 4];
    }
}

#[cfg(test)]
mod tests {
    use bottle_scan::Scanner;

    use super::*;

    fn profile() -> Profile {
        Scanner::new(&[(
            "T".parse().unwrap(),
            bottle_policy::Secret::new("planted-secret-value".into()),
        )])
        .profile(&Default::default())
        .unwrap()
    }

    fn frames(direction: Direction) -> Frames {
        let profile = profile();
        let scan = profile.stream(direction, "").ok();
        Frames::new(direction, profile, scan)
    }

    /// A frame of the guest's.
    fn frame(first: u8, content: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut out = vec![first];
        match content.len() {
            n @ 0..126 => out.push(0x80 | u8::try_from(n).unwrap()),
            n => {
                out.push(0x80 | 126);
                out.extend(u16::try_from(n).unwrap().to_be_bytes());
            }
        }
        out.extend(mask);
        let mut content = content.to_vec();
        toggle(&mut content, Some(mask), 0);
        out.extend(content);
        out
    }

    #[test]
    fn frames_go_on_as_they_came_however_they_are_cut() {
        let all = [
            frame(0x01, b"hel"),
            frame(0x89, b"ping"),
            frame(0x80, b"lo"),
            frame(0x82, &[7; 300]),
            frame(0x81, b""),
            frame(0x88, b""),
        ]
        .concat();
        for n in [1, 2, 3, 7, 1000] {
            let (mut f, mut out, mut found) =
                (frames(Direction::Request), BytesMut::new(), Vec::new());
            for part in all.chunks(n) {
                f.feed(part, &mut out, &mut found).unwrap();
            }
            assert_eq!(out, all, "{n}");
            assert!(f.at_boundary() && found.is_empty());
        }
    }

    #[test]
    fn what_breaks_the_protocol_is_refused() {
        for (bad, why) in [
            (vec![0x81, 0x01, b'a'], "no mask"),
            (frame(0xc1, b"a"), "an extension's bit"),
            (frame(0x80, b"a"), "a continuation of nothing"),
            ([frame(0x01, b"a"), frame(0x01, b"b")].concat(), "a message in a message"),
            (frame(0x09, b"a"), "a control frame in parts"),
            (frame(0x89, &[0; 126]), "a long control frame"),
            (frame(0x83, b"a"), "an unknown opcode"),
            (vec![0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "a length over 2^63"),
        ] {
            let e = frames(Direction::Request).feed(&bad, &mut BytesMut::new(), &mut Vec::new());
            assert_eq!(e.map_err(|r| r.rule), Err(Rule::WebSocket), "{why}");
        }
        assert!(
            frames(Direction::Response)
                .feed(&frame(0x81, b"a"), &mut BytesMut::new(), &mut Vec::new())
                .is_err(),
            "a mask"
        );
    }
}
