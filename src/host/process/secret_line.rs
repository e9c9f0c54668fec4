//! How secrets are written to a child.

use zeroize::Zeroizing;

/// Capacity of the buffer for one value, in bytes.
const SECRETS_CAPACITY: usize = 1 << 20;

/// `value` as JSON and a line end. The buffer has its full size from the start, as a vector that
/// grows leaves copies behind.
pub(super) fn secret_line(value: &impl serde::Serialize) -> serde_json::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(SECRETS_CAPACITY));
    serde_json::to_writer(&mut *line, value)?;
    line.push(b'\n');
    Ok(line)
}
