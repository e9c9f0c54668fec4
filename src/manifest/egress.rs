//! `[[bottles.X.egress]]`.

use std::collections::HashMap;
use std::net::SocketAddr;

use bottle_policy::{
    Budget, HostPattern, Inject, Method, PathPattern, Place, Rate, Route, Scan, Scheme, Timeouts,
};

use super::files::{Files, inside};
use super::tokens::{self, TokenNames};
use super::walk::{Tab, Val};
use super::{EgressRoute, Location, TokenSource, limits, quote};

/// Most routes of a bottle, most paths of a route, most methods of a route.
const MOST: (usize, usize, usize) = (256, 256, 16);

/// Headers that belong to the connection or to the message's framing: injecting one would break or
/// redirect requests.
const FORBIDDEN_HEADERS: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
];

/// A route whose token has no name yet.
pub(super) struct Draft {
    at: Location,
    path: String,
    route: Route,
    inject: Option<(Place, Scheme, TokenSource, Val2)>,
}

/// Where to report a fault of a token after the document's borrow has ended.
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
            list.src.faults.push(
                &d.at,
                &d.path,
                format!("two routes are called {}", quote(&d.route.name)),
                Some(hint),
            );
        } else {
            names.insert(&d.route.name, d);
        }
    }
    clashes(list, &drafts);
    mixed_tunnels(list, &drafts);
    drafts
}

/// Reports pairs of routes that match the same request but would inject different credentials: the
/// second could never do so.
fn clashes(list: &Val<'_>, drafts: &[Draft]) {
    let mut seen: HashMap<(&str, u16, &str, &str), &Draft> = HashMap::new();
    for d in drafts {
        let r = &d.route;
        let methods = if r.methods.is_empty() {
            vec!["*"]
        } else {
            r.methods.iter().map(Method::as_str).collect()
        };
        let paths = if r.paths.is_empty() {
            vec!["/*"]
        } else {
            r.paths.iter().map(PathPattern::as_str).collect()
        };
        let credential = |d: &Draft| {
            d.inject
                .as_ref()
                .map(|(place, scheme, source, _)| (place.clone(), *scheme, source.clone()))
        };
        let keys =
            methods.iter().flat_map(|m| paths.iter().map(|p| (r.host.as_str(), r.port, *m, *p)));
        for key in keys {
            let first = *seen.entry(key).or_insert(d);
            if credential(first) != credential(d) {
                let (host, port, method, path) = key;
                let message = format!(
                    "routes {} and {} disagree about the credential",
                    quote(&first.route.name),
                    quote(&d.route.name)
                );
                let hint = format!(
                    "both match {method} {host}:{port}{path}, and the first wins (it is at {})",
                    first.at
                );
                list.src.faults.push(&d.at, &d.path, message, Some(hint));
                break;
            }
        }
    }
}

/// Reports two routes for the same host where one is passthrough and the other is not.
fn mixed_tunnels(list: &Val<'_>, drafts: &[Draft]) {
    let mut seen: HashMap<(&str, u16), &Draft> = HashMap::new();
    for d in drafts {
        let first = *seen.entry((d.route.host.as_str(), d.route.port)).or_insert(d);
        if first.route.passthrough != d.route.passthrough {
            let (a, b) = (quote(&first.route.name), quote(&d.route.name));
            let message = format!(
                "routes {a} and {b} disagree about passthrough for {}:{}",
                d.route.host, d.route.port
            );
            let hint =
                format!("a tunnel is intercepted or it is not; the first is at {}", first.at);
            list.src.faults.push(&d.at, &d.path, message, Some(hint));
        }
    }
}

fn draft(t: &Tab<'_>, files: &dyn Files) -> Option<Draft> {
    let host = t.req("host").and_then(|v| host(&v));
    let name = match t.opt("name") {
        Some(v) => route_name(&v),
        None => host.as_ref().map(|h| h.as_str().to_owned()),
    };
    let apex = t.opt("apex").map_or(Some(false), |v| apex(&v, host.as_ref()));
    let tls = t.opt("tls").map_or(Some(true), |v| v.bool());
    let port = match t.opt("port") {
        Some(v) => v.int(1, 65535).and_then(|p| u16::try_from(p).ok()),
        None => Some(if tls == Some(false) { 80 } else { 443 }),
    };
    let methods = t.opt("methods").map_or(Some(Vec::new()), |v| v.parsed_list::<Method>(MOST.2));
    let paths = t.opt("paths").map_or(Some(Vec::new()), |v| v.parsed_list::<PathPattern>(MOST.1));
    let passthrough_key = t.opt("passthrough");
    let passthrough = passthrough_key.as_ref().map_or(Some(false), Val::bool);
    let allow_private = t.opt("allow_private").map_or(Some(false), |v| v.bool());
    let connect = t.opt("connect").map_or(Some(None), |v| connect(&v).map(Some));
    let ca = t.opt("ca_file").map_or(Some(None), |v| ca(&v, tls, files).map(Some));
    let scan_key = t.opt("scan");
    let scan = scan_key.as_ref().map_or(Some(Scan::default()), limits::scan);
    let max_body = t.opt("max_body").map_or(Some(None), |v| limits::max_body(&v).map(Some));
    let budget = t.opt("budget").map_or(Some(Budget::default()), |v| limits::budget(&v));
    let rate = t.opt("rate").map_or(Some(None), |v| v.parse::<Rate>().map(Some));
    let websocket = t.opt("websocket").map_or(Some(true), |v| v.bool());
    let timeout = t.opt("timeout").map_or(Some(Timeouts::default()), |v| limits::timeouts(&v));
    let inject_key = t.opt("inject");
    let inject = inject_key.as_ref().map_or(Some(None), |v| inject(&v.table()?, files).map(Some));
    t.finish();
    let route = Route {
        apex: apex?,
        port: port?,
        methods: methods?,
        paths: paths?,
        tls: tls?,
        passthrough: passthrough?,
        allow_private: allow_private?,
        connect: connect?,
        ca: ca?,
        scan: scan?,
        max_body: max_body?,
        budget: budget?,
        rate: rate?,
        timeout: timeout?,
        websocket: websocket?,
        ..Route::to(name?, host?)
    };
    if let Some(v) = passthrough_key.filter(|_| route.passthrough) {
        // Injection has no token name yet, and an explicit default of scan counts as set.
        let also = [("inject", inject_key.is_some()), ("scan", scan_key.is_some())];
        not_with_passthrough(&v, &route, &also)?;
    }
    Some(Draft { at: t.at.clone(), path: t.path.clone(), route, inject: inject? })
}

/// Reports keys that need to see requests, on a passthrough route.
fn not_with_passthrough(v: &Val<'_>, route: &Route, also: &[(&'static str, bool)]) -> Option<()> {
    let mut keys: Vec<&str> = route
        .passthrough_conflicts()
        .into_iter()
        .map(|key| if key == "ca" { "ca_file" } else { key })
        .collect();
    for (key, given) in also {
        if *given && !keys.contains(key) {
            keys.push(key);
        }
    }
    if keys.is_empty() {
        return Some(());
    }
    let hint =
        "without interception nobody can enforce them: drop `passthrough`, or drop them".to_owned();
    v.none(format!("`{}` excludes {}", v.path, keys.join(", ")), Some(hint))
}

fn apex(v: &Val<'_>, host: Option<&HostPattern>) -> Option<bool> {
    let apex = v.bool()?;
    match host.filter(|h| apex && !h.as_str().starts_with("*.")) {
        Some(host) => v.none(
            format!("`{}` is for wildcards: {host} has no names below it", v.path),
            Some(format!("write host = \"*.{host}\"")),
        ),
        None => Some(apex),
    }
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
        v.none(
            format!("not a route name: {} (letters, digits, -, _ and ., at most 64)", quote(text)),
            None,
        )
    }
}

pub(super) fn connect(v: &Val<'_>) -> Option<SocketAddr> {
    match v.str()?.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Some(address),
        _ => v.none(
            format!("`{}` must be an address and a port", v.path),
            Some("such as \"127.0.0.1:8443\" or \"[::1]:8443\"".to_owned()),
        ),
    }
}

pub(super) fn ca(v: &Val<'_>, tls: Option<bool>, files: &dyn Files) -> Option<String> {
    if tls == Some(false) {
        v.fail(format!("`{}` has no use with tls = false", v.path), None);
    }
    let read = inside(v.line(4096)?).and_then(|path| files.read(&path));
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(why) => {
            return v.none(
                format!("`{}`: {why}", v.path),
                Some("put the certificate beside the manifest".to_owned()),
            );
        }
    };
    match certificates(&String::from_utf8_lossy(&bytes)) {
        Some(pem) => Some(pem),
        None => v.none(
            format!("`{}` holds no PEM certificate", v.path),
            Some("-----BEGIN CERTIFICATE----- …".to_owned()),
        ),
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
                    out.push_str(&format!(
                        "-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n"
                    ));
                }
                block = None;
            }
            (line, Some(body))
                if line.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b)) =>
            {
                body.push_str(line);
                body.push('\n');
            }
            _ => block = None,
        }
    }
    (!out.is_empty()).then_some(out)
}

fn inject(t: &Tab<'_>, files: &dyn Files) -> Option<(Place, Scheme, TokenSource, Val2)> {
    let (header_key, query_key) = (t.opt("header"), t.opt("query"));
    let place = match (header_key, query_key) {
        (Some(_), Some(query)) => query.none(
            format!("`{}` has both header and query", t.path),
            Some("a token has one place: keep one of them".to_owned()),
        ),
        (None, Some(v)) => query(&v).map(Place::Query),
        (Some(v), None) => header(&v).map(Place::Header),
        (None, None) => Some(Place::Header("authorization".to_owned())),
    };
    let default = if matches!(&place, Some(Place::Header(name)) if name == "authorization") {
        Scheme::Bearer
    } else {
        Scheme::Raw
    };
    let schemes = [("raw", Scheme::Raw), ("bearer", Scheme::Bearer), ("basic", Scheme::Basic)];
    let scheme = t.opt("scheme").map_or(Some(default), |v| v.choice(&schemes));
    let token = t.req("token");
    let source = token.as_ref().and_then(|v| tokens::source(v, files));
    t.finish();
    Some((place?, scheme?, source?, token.map(|v| (v.at, v.path))?))
}

fn query(v: &Val<'_>) -> Option<String> {
    let text = v.str()?;
    if (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.[]".contains(&b))
    {
        Some(text.to_owned())
    } else {
        v.none(
            format!(
                "not a query parameter: {} (letters, digits, -, _, ., [ and ], at most 64)",
                quote(text)
            ),
            Some("such as key".to_owned()),
        )
    }
}

fn header(v: &Val<'_>) -> Option<String> {
    let text = v.str()?;
    let lower = text.to_ascii_lowercase();
    let token = (1..=64).contains(&lower.len())
        && lower.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    if !token {
        return v.none(
            format!("not a header name: {}", quote(text)),
            Some("such as authorization or x-api-key".to_owned()),
        );
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
pub(super) fn finish(
    list: &Val<'_>,
    drafts: Vec<Draft>,
    names: &mut TokenNames,
) -> Vec<EgressRoute> {
    let named = drafts.into_iter().map(|d| {
        let Draft { at, mut route, inject, .. } = d;
        let Some((place, scheme, source, (token_at, token_path))) = inject else {
            return Some(EgressRoute { at, route, token: None });
        };
        match names.name(&source, &route.name) {
            Ok(token) => {
                route.inject = Some(Inject { place, scheme, token });
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
