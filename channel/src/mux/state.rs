//! The state that the driver and the streams of one end share.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tokio::sync::OwnedSemaphorePermit;

use super::error::ChannelError;
use super::limits::{GROWTH_POOL, INITIAL_WINDOW, MAX_WINDOW};
use super::wire::{self, Frame, Limits, MAX_DATA};

/// Maximum number of bytes that wait to be sent on a stream.
pub(super) const MAX_SEND_BYTES: usize = 64 * 1024;
/// The driver collects about this many bytes before it writes.
const BATCH_BYTES: usize = 64 * 1024;
/// Maximum number of unsent resets for refused streams. A peer that keeps opening streams and does
/// not read the resets violates the protocol.
const MAX_REFUSED: usize = 4096;

pub(super) struct Shared(Mutex<Inner>);

pub(super) struct Inner {
    limits: Limits,
    pub(super) streams: HashMap<u32, Entry>,
    /// Streams with an open, window or reset frame to send; each at most once. Served before
    /// `data`.
    control: VecDeque<u32>,
    /// Streams with data or a fin to send, served in turn; each at most once.
    data: VecDeque<u32>,
    refused: VecDeque<u32>,
    next_local: u32,
    last_peer: u32,
    peer_streams: usize,
    growth: u32,
    pub(super) driver: Option<Waker>,
    pub(super) closing: bool,
    pub(super) end: Option<ChannelError>,
}

pub(super) struct Entry {
    /// Set for streams that this end opened.
    slot: Option<OwnedSemaphorePermit>,
    open: Option<Vec<u8>>,
    pub(super) recv: VecDeque<u8>,
    window: u32,
    /// Number of bytes that the peer may still send.
    recv_credit: u32,
    consumed: u32,
    owed: u32,
    pub(super) recv_fin: bool,
    pub(super) send: VecDeque<u8>,
    credit: u32,
    pub(super) fin: bool,
    fin_sent: bool,
    pub(super) reset: bool,
    abort: bool,
    detached: bool,
    in_control: bool,
    in_data: bool,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Entry {
    fn new(slot: Option<OwnedSemaphorePermit>, open: Option<Vec<u8>>) -> Self {
        Self {
            slot,
            open,
            recv: VecDeque::new(),
            window: INITIAL_WINDOW,
            recv_credit: INITIAL_WINDOW,
            consumed: 0,
            owed: 0,
            recv_fin: false,
            send: VecDeque::new(),
            credit: INITIAL_WINDOW,
            fin: false,
            fin_sent: false,
            reset: false,
            abort: false,
            detached: false,
            in_control: false,
            in_data: false,
            reader: None,
            writer: None,
        }
    }

    fn wake_both(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    fn sendable(&self) -> bool {
        if self.send.is_empty() { self.fin && !self.fin_sent } else { self.credit > 0 }
    }
}

/// What the driver has to do for a frame.
pub(super) enum Event<'a> {
    Nothing,
    /// A stream with this id and header now exists.
    Opened(u32, &'a [u8]),
}

impl Shared {
    pub(super) fn new(limits: Limits) -> Self {
        Self(Mutex::new(Inner {
            limits,
            streams: HashMap::new(),
            control: VecDeque::new(),
            data: VecDeque::new(),
            refused: VecDeque::new(),
            next_local: if limits.host { 1 } else { 2 },
            last_peer: 0,
            peer_streams: 0,
            growth: GROWTH_POOL,
            driver: None,
            closing: false,
            end: None,
        }))
    }

    /// Nothing panics while it holds the lock and has changed the state only in part, so a poisoned
    /// lock can be used.
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open(
        &self,
        header: Vec<u8>,
        slot: OwnedSemaphorePermit,
    ) -> Result<u32, ChannelError> {
        let mut inner = self.lock();
        if let Some(end) = &inner.end {
            return Err(end.clone());
        }
        if inner.closing {
            return Err(ChannelError::Closed);
        }
        let id = inner.next_local;
        inner.next_local = id.checked_add(2).ok_or(ChannelError::Closed)?;
        inner.streams.insert(id, Entry::new(Some(slot), Some(header)));
        inner.queue_control(id);
        Ok(id)
    }

    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.closing = true;
        inner.wake_driver();
    }
}

impl Inner {
    pub(super) fn wake_driver(&mut self) {
        if let Some(waker) = self.driver.take() {
            waker.wake();
        }
    }

    fn queue_control(&mut self, id: u32) {
        if let Some(entry) = self.streams.get_mut(&id) {
            if !entry.in_control {
                entry.in_control = true;
                self.control.push_back(id);
                self.wake_driver();
            }
        }
    }

    pub(super) fn queue_data(&mut self, id: u32) {
        if let Some(entry) = self.streams.get_mut(&id) {
            if !entry.in_data && entry.sendable() {
                entry.in_data = true;
                self.data.push_back(id);
                self.wake_driver();
            }
        }
    }

    fn remove(&mut self, id: u32) {
        if let Some(entry) = self.streams.remove(&id) {
            self.growth += entry.window - INITIAL_WINDOW;
            if entry.slot.is_none() {
                self.peer_streams -= 1;
            }
        }
    }

    /// The reader took `n` bytes: decides whether the peer gets new credit, and how much.
    pub(super) fn consumed(&mut self, id: u32, n: u32) {
        let Some(entry) = self.streams.get_mut(&id) else { return };
        entry.consumed += n;
        if entry.recv_fin || entry.reset || entry.consumed < entry.window / 2 {
            return;
        }
        // A reader that keeps up earns a larger window, while the pool lasts.
        if entry.recv.is_empty() && entry.window < MAX_WINDOW && self.growth >= entry.window {
            self.growth -= entry.window;
            entry.owed += entry.window;
            entry.recv_credit += entry.window;
            entry.window *= 2;
        }
        entry.owed += entry.consumed;
        entry.recv_credit += entry.consumed;
        entry.consumed = 0;
        self.queue_control(id);
    }

    /// The handle was dropped. After a fin the rest is still sent; without one, the stream is
    /// reset.
    pub(super) fn detach(&mut self, id: u32) {
        if self.end.is_some() {
            self.remove(id);
            return;
        }
        let Some(entry) = self.streams.get_mut(&id) else { return };
        entry.detached = true;
        // Nobody will read what was received; what still comes is dropped.
        entry.recv = VecDeque::new();
        if entry.reset {
            self.remove(id);
        } else if entry.fin {
            self.finish(id);
        } else {
            entry.abort = true;
            entry.send = VecDeque::new();
            self.queue_control(id);
        }
    }

    /// Removes a detached stream whose fin is sent. Resets it when the peer may still be sending.
    fn finish(&mut self, id: u32) {
        let Some(entry) = self.streams.get_mut(&id) else { return };
        if !entry.detached || !entry.fin_sent {
            return;
        }
        if entry.recv_fin {
            self.remove(id);
        } else {
            entry.abort = true;
            self.queue_control(id);
        }
    }

    /// Handles one frame of the peer.
    pub(super) fn receive<'a>(&mut self, frame: Frame<'a>) -> Result<Event<'a>, ChannelError> {
        match frame {
            Frame::Open(id, header) => return self.receive_open(id, header),
            Frame::Data(id, bytes) => {
                let Some(entry) = self.entry(id)? else { return Ok(Event::Nothing) };
                if entry.recv_fin {
                    return Err(ChannelError::Protocol("data after fin"));
                }
                // At most MAX_DATA.
                #[allow(clippy::cast_possible_truncation)]
                let n = bytes.len() as u32;
                entry.recv_credit = entry
                    .recv_credit
                    .checked_sub(n)
                    .ok_or(ChannelError::Protocol("data beyond the window"))?;
                if !entry.detached && !entry.reset {
                    entry.recv.extend(bytes);
                    if let Some(waker) = entry.reader.take() {
                        waker.wake();
                    }
                }
            }
            Frame::Window(id, credit) => {
                let Some(entry) = self.entry(id)? else { return Ok(Event::Nothing) };
                entry.credit = entry
                    .credit
                    .checked_add(credit)
                    .ok_or(ChannelError::Protocol("credit overflow"))?;
                self.queue_data(id);
            }
            Frame::Fin(id) => {
                let Some(entry) = self.entry(id)? else { return Ok(Event::Nothing) };
                if entry.recv_fin {
                    return Err(ChannelError::Protocol("fin after fin"));
                }
                entry.recv_fin = true;
                if let Some(waker) = entry.reader.take() {
                    waker.wake();
                }
            }
            Frame::Reset(id) => {
                let Some(entry) = self.entry(id)? else { return Ok(Event::Nothing) };
                entry.reset = true;
                entry.send = VecDeque::new();
                entry.wake_both();
                if entry.detached {
                    self.remove(id);
                }
            }
        }
        Ok(Event::Nothing)
    }

    fn receive_open<'a>(&mut self, id: u32, header: &'a [u8]) -> Result<Event<'a>, ChannelError> {
        if id == 0 || self.is_local(id) || id <= self.last_peer {
            return Err(ChannelError::Protocol("a stream id that is not the opener's next"));
        }
        self.last_peer = id;
        if self.peer_streams >= self.limits.max_peer_streams || self.closing {
            if self.refused.len() >= MAX_REFUSED {
                return Err(ChannelError::Protocol("too many streams"));
            }
            self.refused.push_back(id);
            return Ok(Event::Nothing);
        }
        self.peer_streams += 1;
        self.streams.insert(id, Entry::new(None, None));
        Ok(Event::Opened(id, header))
    }

    fn is_local(&self, id: u32) -> bool {
        (id % 2 == 1) == self.limits.host
    }

    /// The stream, or `None` when it has ended.
    fn entry(&mut self, id: u32) -> Result<Option<&mut Entry>, ChannelError> {
        let known =
            if self.is_local(id) { id < self.next_local } else { id != 0 && id <= self.last_peer };
        if !known {
            return Err(ChannelError::Protocol("a frame for a stream that was never opened"));
        }
        Ok(self.streams.get_mut(&id))
    }

    /// Appends frames that are due to `out`, until it holds a batch or nothing is due.
    pub(super) fn fill(&mut self, out: &mut Vec<u8>) {
        while out.len() < BATCH_BYTES {
            if let Some(id) = self.refused.pop_front() {
                wire::put_header(out, wire::RESET, 0, id);
            } else if let Some(id) = self.control.pop_front() {
                self.fill_control(id, out);
            } else if let Some(id) = self.data.pop_front() {
                self.fill_data(id, out);
            } else {
                return;
            }
        }
    }

    fn fill_control(&mut self, id: u32, out: &mut Vec<u8>) {
        let Some(entry) = self.streams.get_mut(&id) else { return };
        entry.in_control = false;
        if let Some(header) = entry.open.take() {
            wire::put_header(out, wire::OPEN, header.len(), id);
            out.extend_from_slice(&header);
        }
        let owed = std::mem::take(&mut entry.owed);
        if owed > 0 && !entry.recv_fin && !entry.reset && !entry.abort {
            wire::put_header(out, wire::WINDOW, 4, id);
            out.extend_from_slice(&owed.to_le_bytes());
        }
        if entry.abort && !entry.reset {
            wire::put_header(out, wire::RESET, 0, id);
        }
        if entry.abort {
            self.remove(id);
        }
    }

    fn fill_data(&mut self, id: u32, out: &mut Vec<u8>) {
        let Some(entry) = self.streams.get_mut(&id) else { return };
        entry.in_data = false;
        if entry.abort || entry.reset {
            return;
        }
        let n = entry.send.len().min(MAX_DATA).min(entry.credit as usize);
        if n > 0 {
            wire::put_header(out, wire::DATA, n, id);
            let (a, b) = entry.send.as_slices();
            let from_a = n.min(a.len());
            out.extend_from_slice(&a[..from_a]);
            out.extend_from_slice(&b[..n - from_a]);
            entry.send.drain(..n);
            // At most MAX_DATA.
            #[allow(clippy::cast_possible_truncation)]
            let sent = n as u32;
            entry.credit -= sent;
            if let Some(waker) = entry.writer.take() {
                waker.wake();
            }
        }
        if entry.send.is_empty() && entry.fin && !entry.fin_sent {
            entry.fin_sent = true;
            wire::put_header(out, wire::FIN, 0, id);
        }
        self.queue_data(id);
        self.finish(id);
    }

    /// Whether nothing is left to be sent.
    pub(super) fn drained(&self) -> bool {
        self.refused.is_empty() && self.control.is_empty() && self.data.is_empty()
    }

    /// Ends every stream with `end`.
    pub(super) fn end(&mut self, end: ChannelError) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(end);
        self.control.clear();
        self.data.clear();
        let detached: Vec<u32> =
            self.streams.iter().filter(|(_, e)| e.detached).map(|(id, _)| *id).collect();
        for id in detached {
            self.remove(id);
        }
        for entry in self.streams.values_mut() {
            entry.send = VecDeque::new();
            entry.wake_both();
        }
    }
}
