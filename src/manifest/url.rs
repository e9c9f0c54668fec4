//! URLs of APIs.

use super::walk::Val;
use crate::values::quote;

/// An `https://` URL without query and fragment.
pub(super) fn base_url(v: &Val<'_>) -> Option<String> {
    let text = v.line(2048)?;
    let authority =
        text.strip_prefix("https://").map(|rest| rest.split('/').next().unwrap_or_default());
    let (host, port) = authority
        .map_or(("", None), |a| a.split_once(':').map_or((a, None), |(h, p)| (h, Some(p))));
    let host_ok = !host.contains('*') && host.parse::<bottle_policy::HostPattern>().is_ok();
    let port_ok = port.is_none_or(|p| p.parse::<u16>().is_ok_and(|p| p > 0));
    if host_ok
        && port_ok
        && text.bytes().all(|b| b.is_ascii_graphic())
        && !text.contains(['?', '#', '\\'])
    {
        Some(text.to_owned())
    } else {
        v.none(
            format!("`{}` is not an https URL: {}", v.path, quote(text)),
            Some("such as https://api.example.com/v1".to_owned()),
        )
    }
}
