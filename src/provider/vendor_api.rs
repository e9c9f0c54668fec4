//! What agents of vendors with an HTTPS API have in common: a credential and a route.

use bottle_policy::{HostPattern, PathPattern, Route, TokenName};

use super::agent::{Inputs, Provider, ProviderSettings, TokenSource};
use super::login_layout::Auth;
use crate::values::EnvName;

/// What an agent has in the place of its credential. Egress overwrites it. It looks like no
/// vendor's key, so that nobody takes it for one.
pub const PLACEHOLDER: &str = "placeholder-the-real-one-stays-outside-the-bottle";

/// A credential: its name, its source, and how it is sent.
pub(super) type Credential = (Option<TokenName>, Option<TokenSource>, Auth);

/// The credential from the settings, from the host's login, or from the first of `variables` that
/// is set (else the last). `name` is the token's name when its source has none.
pub(super) fn credential(
    inputs: &Inputs<'_>,
    provider: Provider,
    variables: &[(&str, Auth)],
    name: &str,
) -> Credential {
    let by_name = |variable: &str| {
        variables.iter().find(|(known, _)| *known == variable).map(|(_, auth)| *auth)
    };
    let usual =
        || variables.iter().find(|(variable, _)| (inputs.is_set)(variable)).or(variables.last());
    let (source, auth) = match (inputs.login, inputs.settings.and_then(|s| s.token.clone())) {
        (Some(login), _) => {
            let url = inputs.settings.and_then(|s| s.login_url.clone());
            let ca = inputs.settings.and_then(|s| s.ca.clone()).filter(|_| url.is_some());
            (
                Some(TokenSource::Login { provider, file: login.file.clone(), url, ca }),
                Some(login.auth),
            )
        }
        (None, Some(TokenSource::Env(variable))) => {
            (Some(TokenSource::Env(variable.clone())), by_name(variable.as_str()))
        }
        (None, Some(source)) => (Some(source), None),
        (None, None) => usual().map_or((None, None), |(v, auth)| {
            (v.parse::<EnvName>().ok().map(TokenSource::Env), Some(*auth))
        }),
    };
    let token = match &source {
        Some(TokenSource::Env(variable)) => variable.as_str().parse().ok(),
        _ => name.parse().ok(),
    };
    (token, source, inputs.settings.and_then(|s| s.auth).or(auth).unwrap_or(Auth::ApiKey))
}

/// The route to the API at `base_url`, which the manifest has checked. `paths` are the vendor's
/// own; when empty, everything below the URL.
pub(super) fn api_route(
    name: &str,
    base_url: &str,
    paths: &[&str],
    settings: Option<&ProviderSettings>,
) -> Option<Route> {
    let rest = base_url.strip_prefix("https://")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = authority
        .split_once(':')
        .map_or((authority, None), |(host, port)| (host, port.parse().ok()));
    let below = format!("/{}/*", path.trim_matches('/')).replace("//", "/");
    let own = [below.as_str()];
    let paths = if paths.is_empty() { &own[..] } else { paths };
    Some(Route {
        port: port.unwrap_or(443),
        paths: paths.iter().filter_map(|p| p.parse::<PathPattern>().ok()).collect(),
        connect: settings.and_then(|s| s.connect),
        ca: settings.and_then(|s| s.ca.clone()),
        ..Route::to(name, host.to_ascii_lowercase().parse::<HostPattern>().ok()?)
    })
}
