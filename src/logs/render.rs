//! A line of the audit log for a person. Everything in it may come from a guest.

use bottle_policy::audit::{AuditRecord, AuditVerdict};

use crate::manifest::neutral;

/// Longest text shown of a line that is no audit record, in characters.
const LONGEST: usize = 600;

/// Sequences around what deserves a colour; empty ones for none.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Colours {
    deny: &'static str,
    note: &'static str,
    dim: &'static str,
    plain: &'static str,
}

impl Colours {
    /// For a terminal.
    pub(crate) const ON: Self =
        Self { deny: "\x1b[31m", note: "\x1b[33m", dim: "\x1b[2m", plain: "\x1b[0m" };
}

/// `record` as one line, with further ones for findings and the hint.
pub(crate) fn render(record: &AuditRecord, colours: &Colours) -> String {
    let Colours { deny, note, dim, plain } = *colours;
    let e = &record.what;
    let time =
        safe(&record.time).replace("Z", "").split('.').next().unwrap_or_default().to_owned() + "Z";
    let verdict = match (e.event.as_str(), e.verdict) {
        ("admitted", _) => format!("{note}open{plain} "),
        ("proposed", _) => format!("{note}ask{plain}  "),
        (_, AuditVerdict::Allow) => "allow".to_owned(),
        (_, AuditVerdict::Deny) => format!("{deny}DENY{plain} "),
    };
    let mut out = format!("{dim}{time}{plain} {verdict}");
    let request = (e.method.is_some() || e.host.is_some()) && e.daemon != "supervise";
    if request {
        out.push_str(&target(record));
    } else {
        out.push_str(&format!(" {}", safe(&e.event)));
    }
    let mut cell = |text: String| out.push_str(&format!("  {text}"));
    if let Some(route) = &e.route {
        cell(format!("{dim}route{plain} {}", safe(route)));
    }
    if let Some(rule) = &e.rule {
        cell(format!("{deny}rule {}{plain}", safe(rule)));
    }
    if let Some(status) = e.status {
        cell(status.to_string());
    }
    if e.bytes_up.is_some() || e.bytes_down.is_some() {
        cell(format!("↑{} ↓{}", size(e.bytes_up.unwrap_or(0)), size(e.bytes_down.unwrap_or(0))));
    }
    if let Some(ms) = e.ms {
        cell(format!("{ms} ms"));
    }
    if let Some(reason) = &e.reason {
        cell(safe(reason));
    }
    if let Some(answer) = &e.answer {
        cell(format!("{dim}upstream:{plain} {}", safe(answer)));
    }
    out.push('\n');
    for line in &e.refs {
        out.push_str(&format!("        {dim}ref: {}{plain}\n", safe(line)));
    }
    for finding in &e.findings {
        out.push_str(&format!("        {note}found: {}{plain}\n", safe(finding)));
    }
    if let Some(hint) = &e.hint {
        out.push_str(&format!("        {dim}hint: {}{plain}\n", safe(hint)));
    }
    out
}

/// ` GET host:port/path?…`
fn target(record: &AuditRecord) -> String {
    let e = &record.what;
    let text = |field: &Option<String>| field.as_deref().map(safe).unwrap_or_default();
    let host = text(&e.host);
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let port = e.port.filter(|p| *p != 443).map(|p| format!(":{p}")).unwrap_or_default();
    let query = e.query_bytes.filter(|n| *n > 0).map(|n| format!("?… ({n} B)")).unwrap_or_default();
    let method = if e.method.is_none() && e.daemon == "git-gate" {
        "git".to_owned()
    } else {
        text(&e.method)
    };
    format!(" {method} {host}{port}{}{query}", text(&e.path))
}

/// A line that is no audit record: a damaged log, or another version's.
pub(crate) fn unreadable(line: &[u8], colours: &Colours) -> String {
    format!(
        "{}not an audit line:{} {}\n",
        colours.deny,
        colours.plain,
        safe(&String::from_utf8_lossy(line))
    )
}

/// The line itself as one line of JSON. What a terminal would act on is escaped, which JSON allows
/// in strings and only there.
pub(crate) fn json(line: &[u8], is_record: bool) -> String {
    let text = match std::str::from_utf8(line) {
        Ok(text) if is_record => text.to_owned(),
        _ => serde_json::json!({ "unreadable": safe(&String::from_utf8_lossy(line)) }).to_string(),
    };
    let mut out = String::with_capacity(text.len() + 1);
    let mut units = [0; 2];
    for c in text.chars() {
        let mut utf8 = [0; 4];
        let one = c.encode_utf8(&mut utf8);
        if neutral(one) == *one {
            out.push(c);
        } else {
            c.encode_utf16(&mut units)
                .iter()
                .for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        }
    }
    out.push('\n');
    out
}

/// `text` without what a terminal would act on, and not without end.
fn safe(text: &str) -> String {
    let shown = neutral(text.get(..4 * LONGEST).unwrap_or(text));
    if shown.chars().count() <= LONGEST {
        return shown;
    }
    shown.chars().take(LONGEST).chain(['…']).collect()
}

fn size(bytes: u64) -> String {
    let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    match units.iter().find(|(factor, _)| bytes >= *factor) {
        Some((factor, unit)) => {
            format!("{}.{} {unit}", bytes / factor, bytes % factor / (factor / 10))
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (3_456, "3.4 kB"),
            (12_345_678, "12.3 MB"),
            (u64::MAX, "18446744073.7 GB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }
}
