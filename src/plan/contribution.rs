//! What a provider adds to the plan of every bottle that it runs in.

use bottle_policy::{HostPattern, Inject, Place, Push, Route, Scheme, Stale, TokenName};

use super::{DEMO_COMMAND, DEMO_HOST, DEMO_REPOSITORY, DEMO_TOKEN};
use crate::manifest::{GitSpec, Provider, TokenSource};
use crate::provider::{self, Asked, Contribution};

/// What `provider` adds.
pub(super) fn contribution(provider: Provider, asked: &Asked<'_>) -> Contribution {
    match provider {
        Provider::Demo => demo(),
        other => provider::contribution(other, asked),
    }
}

fn demo() -> Contribution {
    let mut out = Contribution {
        command: DEMO_COMMAND.iter().map(|s| (*s).to_owned()).collect(),
        built: true,
        ..Contribution::default()
    };
    // Both constants parse (a test says so). The name's colon keeps it apart from all that a
    // manifest may call a route.
    if let (Ok(host), Ok(token)) =
        (DEMO_HOST.parse::<HostPattern>(), DEMO_TOKEN.parse::<TokenName>())
    {
        out.tokens.insert(token.clone(), TokenSource::Generated);
        let inject = Some(Inject {
            place: Place::Header("authorization".to_owned()),
            scheme: Scheme::Bearer,
            token,
        });
        out.routes.push(Route { inject, ..Route::to("demo:hello", host) });
    }
    if let (Ok(name), Ok(url), Ok(branches)) =
        ("demo".parse(), DEMO_REPOSITORY.parse(), "{slug}/*".parse())
    {
        let push = Some(Push::to(vec![branches]));
        let (identity_file, deploy_key, known_hosts, token, ca_file, attest_key) =
            (None, None, None, None, None, None);
        out.git.push(GitSpec {
            name,
            url,
            identity_file,
            deploy_key,
            known_hosts,
            token,
            ca_file,
            attest_key,
            stale: Stale::default(),
            push,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_has_its_route_and_token() {
        let demo = demo();
        assert_eq!((demo.routes.len(), demo.tokens.len(), demo.git.len()), (1, 1, 1));
    }
}
