//! `[[bottles.X.egress]]`.

use std::collections::HashMap;
use std::net::SocketAddr;

use bottle_policy::{HostPattern, Inject, Method, PathPattern, Place, Route, Scheme};

use super::files::{Files, inside};
use super::tokens::{self, TokenNames};
use super::walk::{Tab, Val};
use super::{EgressRoute, Location, TokenSource, quote};

/// Most routes of a bottle, most paths of a route, most methods of a route.
const MOST: (usize, usize, usize) = (256, 256, 16);

/// Headers that belong to the connection or to the message's framing: injecting one would break or redirect requests.
const FORBIDDEN_HEADERS: &[&str] =
    &["host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade", "expect"];

/// A route whose token has no name yet.
pub(super) struct Draft {
    at: Location,
    path: String,
    route: Route,
    inject: Option<(String, Scheme, TokenSource, Val2)>,
}

/// Where to report a fault of a token, kept after the document's borrow ends.
type Val2 = (Location, String);

impl Draft {
    /// Where the token comes from.
    pub fn source(&self) -> Option<&TokenSource> {
        self.inject.as_ref().map(|(_, _, source, _)| source)
    }
}

/// Reads the list of routes.
pub(super) fn drafts(list: &Val<'_>, files: &dyn Files) -> Vec<Draft> {
    let elements = list.list(MOST.0).unwrap_or_default();
    let drafts: Vec<Draft> = elements.iter().filter_map(|e| draft(&e.table()?, files)).collect();
    let mut names: HashMap<&str, &Draft> = HashMap::new();
    for d in &drafts {
        if let Some(first) = names.get(d.route.name.as_str()) {
            let hint = format!("the first is at {}; give each a `name` of its own", first.at);
            list.src.faults.push(&d.at, &d.path, format!("two routes are called {}", quote(&d.route.name)), Some(hint));
        } else {
            names.insert(&d.route.name, d);
        }
    }
    clashes(list, &drafts);
    drafts
}

/// Reports pairs of routes that match the same request but would inject different credentials: the second could never do so.
fn clashes(list: &Val<'_>, drafts: &[Draft]) {
    let mut seen: HashMap<(&str, u16, &str, &str), &Draft> = HashMap::new();
    for d in drafts {
        let r = &d.route;
        let methods = if r.methods.is_empty() { vec!["*"] } else { r.methods.iter().map(Method::as_str).collect() };
        let paths = if r.paths.is_empty() { vec!["/*"] } else { r.paths.iter().map(PathPattern::as_str).collect() };
        let credential = |d: &Draft| d.inject.as_ref().map(|(header, scheme, source, _)| (header.clone(), *scheme, source.clone()));
        let keys = methods.iter().flat_map(|m| paths.iter().map(|p| (r.host.as_str(), r.port, *m, *p)));
        for key in keys {
            let first = *seen.entry(key).or_insert(d);
            if credential(first) != credential(d) {
                let (host, port, method, path) = key;
                let message = format!("routes {} and {} disagree about the credential", quote(&first.route.name), quote(&d.route.name));
                let hint = format!("both match {method} {host}:{port}{path}, and the first wins (it is at {})", first.at);
                list.src.faults.push(&d.at, &d.path, message, Some(hint));
                break;
            }
        }
    }
}

fn draft(t: &Tab<'_>, files: &dyn Files) -> Option<Draft> {
    let host = t.req("host").and_then(|v| host(&v));
    let name = match t.opt("name") {
        Some(v) => route_name(&v),
        None => host.as_ref().map(|h| h.as_str().to_owned()),
    };
    let tls = t.opt("tls").map_or(Some(true), |v| v.bool());
    let port = match t.opt("port") {
        Some(v) => v.int(1, 65535).and_then(|p| u16::try_from(p).ok()),
        None => Some(if tls == Some(false) { 80 } else { 443 }),
    };
    let methods = t.opt("methods").map_or(Some(Vec::new()), |v| v.parsed_list::<Method>(MOST.2));
    let paths = t.opt("paths").map_or(Some(Vec::new()), |v| v.parsed_list::<PathPattern>(MOST.1));
    let allow_private = t.opt("allow_private").map_or(Some(false), |v| v.bool());
    let connect = t.opt("connect").map_or(Some(None), |v| connect(&v).map(Some));
    let ca = t.opt("ca_file").map_or(Some(None), |v| ca(&v, tls, files).map(Some));
    let inject = t.opt("inject").map_or(Some(None), |v| inject(&v.table()?, files).map(Some));
    t.finish();
    let route = Route {
        port: port?,
        methods: methods?,
        paths: paths?,
        tls: tls?,
        allow_private: allow_private?,
        connect: connect?,
        ca: ca?,
        ..Route::to(name?, host?)
    };
    Some(Draft { at: t.at.clone(), path: t.path.clone(), route, inject: inject? })
}

fn host(v: &Val<'_>) -> Option<HostPattern> {
    let text = v.str()?;
    if let Some((_, rest)) = text.split_once("://") {
        let bare = rest.split(['/', ':', '?']).next().unwrap_or_default();
        let hint = format!("write host = \"{bare}\", and the rest as `port`, `paths` and `tls`");
        return v.none(format!("`{}` is a URL, not a host: {}", v.path, quote(text)), Some(hint));
    }
    match text.parse() {
        Ok(host) => Some(host),
        Err(_) if text.contains('*') => v.none(
            format!("not a host: {}", quote(text)),
            Some("a wildcard stands first and alone, above two labels or more: *.example.com".to_owned()),
        ),
        Err(_) => v.none(
            format!("not a host: {}", quote(text)),
            Some("a DNS name such as api.example.com, *.example.com for names below it, or an IP address".to_owned()),
        ),
    }
}

fn route_name(v: &Val<'_>) -> Option<String> {
    let text = v.str()?;
    let ok = (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && !text.starts_with(['-', '.'])
        && !text.contains("..");
    if ok {
        Some(text.to_owned())
    } else {
        v.none(format!("not a route name: {} (letters, digits, -, _ and ., at most 64)", quote(text)), None)
    }
}

fn connect(v: &Val<'_>) -> Option<SocketAddr> {
    match v.str()?.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Some(address),
        _ => v.none(format!("`{}` must be an address and a port", v.path), Some("such as \"127.0.0.1:8443\" or \"[::1]:8443\"".to_owned())),
    }
}

fn ca(v: &Val<'_>, tls: Option<bool>, files: &dyn Files) -> Option<String> {
    if tls == Some(false) {
        v.fail(format!("`{}` has no use with tls = false", v.path), None);
    }
    let read = inside(v.line(4096)?).and_then(|path| files.read(&path));
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(why) => return v.none(format!("`{}`: {why}", v.path), Some("put the certificate beside the manifest".to_owned())),
    };
    match certificates(&String::from_utf8_lossy(&bytes)) {
        Some(pem) => Some(pem),
        None => v.none(format!("`{}` holds no PEM certificate", v.path), Some("-----BEGIN CERTIFICATE----- …".to_owned())),
    }
}

/// Only the certificates of a PEM text: a key that lies beside them goes nowhere.
fn certificates(text: &str) -> Option<String> {
    let (mut out, mut block) = (String::new(), None::<String>);
    for line in text.lines().map(str::trim) {
        match (line, &mut block) {
            ("-----BEGIN CERTIFICATE-----", _) => block = Some(String::new()),
            ("-----END CERTIFICATE-----", Some(body)) => {
                if !body.is_empty() {
                    out.push_str(&format!("-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n"));
                }
                block = None;
            }
            (line, Some(body)) if line.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b)) => {
                body.push_str(line);
                body.push('\n');
            }
            _ => block = None,
        }
    }
    (!out.is_empty()).then_some(out)
}

fn inject(t: &Tab<'_>, files: &dyn Files) -> Option<(String, Scheme, TokenSource, Val2)> {
    let header = t.opt("header").map_or(Some("authorization".to_owned()), |v| header(&v));
    let default = if header.as_deref() == Some("authorization") { Scheme::Bearer } else { Scheme::Raw };
    let schemes = [("raw", Scheme::Raw), ("bearer", Scheme::Bearer), ("basic", Scheme::Basic)];
    let scheme = t.opt("scheme").map_or(Some(default), |v| v.choice(&schemes));
    let token = t.req("token");
    let source = token.as_ref().and_then(|v| tokens::source(v, files));
    t.finish();
    Some((header?, scheme?, source?, token.map(|v| (v.at, v.path))?))
}

fn header(v: &Val<'_>) -> Option<String> {
    let text = v.str()?;
    let lower = text.to_ascii_lowercase();
    let token = (1..=64).contains(&lower.len()) && lower.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    if !token {
        return v.none(format!("not a header name: {}", quote(text)), Some("such as authorization or x-api-key".to_owned()));
    }
    if FORBIDDEN_HEADERS.contains(&lower.as_str()) || lower.starts_with("proxy-") {
        return v.none(
            format!("the header {} cannot be injected", quote(text)),
            Some("it belongs to the connection, not to the request".to_owned()),
        );
    }
    Some(lower)
}

/// Gives each token its name, after `names` has reserved all variables of the bottle.
pub(super) fn finish(list: &Val<'_>, drafts: Vec<Draft>, names: &mut TokenNames) -> Vec<EgressRoute> {
    let named = drafts.into_iter().map(|d| {
        let Draft { at, mut route, inject, .. } = d;
        let Some((header, scheme, source, (token_at, token_path))) = inject else {
            return Some(EgressRoute { at, route, token: None });
        };
        match names.name(&source, &route.name) {
            Ok(token) => {
                route.inject = Some(Inject { place: Place::Header(header), scheme, token });
                Some(EgressRoute { at, route, token: Some(source) })
            }
            Err(why) => {
                list.src.faults.push(&token_at, &token_path, why, None);
                None
            }
        }
    });
    named.flatten().collect()
}
