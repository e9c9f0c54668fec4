//! Brotli (RFC 7932), without the large-window extension.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};

use super::shared::{BUFFER, Decode, Sink, Stop};

pub(super) struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    buffer: Vec<u8>,
    ended: bool,
}

impl Default for Brotli {
    fn default() -> Self {
        let alloc = StandardAlloc::default;
        Self {
            state: BrotliState::new_strict(alloc(), alloc(), alloc()),
            buffer: Vec::new(),
            ended: false,
        }
    }
}

impl Decode for Brotli {
    fn push(&mut self, input: &[u8], sink: Sink<'_>) -> Result<(), Stop> {
        if input.is_empty() {
            return Ok(());
        }
        if self.ended {
            return Err(Stop::Corrupt);
        }
        self.buffer.resize(BUFFER, 0);
        let (mut left, mut at, mut total) = (input.len(), 0, 0);
        loop {
            let (mut room, mut made) = (self.buffer.len(), 0);
            let state = &mut self.state;
            let result = BrotliDecompressStream(
                &mut left,
                &mut at,
                input,
                &mut room,
                &mut made,
                &mut self.buffer,
                &mut total,
                state,
            );
            if made > 0 {
                sink(&self.buffer[..made])?;
            }
            match result {
                BrotliResult::NeedsMoreOutput => {}
                // It says so too when its own window holds more than there was room for (5.0.3).
                BrotliResult::NeedsMoreInput if made == self.buffer.len() => {}
                BrotliResult::NeedsMoreInput => return Ok(()),
                BrotliResult::ResultSuccess => {
                    self.ended = true;
                    return if left == 0 { Ok(()) } else { Err(Stop::Corrupt) };
                }
                BrotliResult::ResultFailure => return Err(Stop::Corrupt),
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.ended
    }
}
