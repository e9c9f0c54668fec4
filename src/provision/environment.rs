//! The agent's environment variables.

use std::collections::BTreeMap;

use bottle_channel::trust::{CA, CA_BUNDLE, JAVA_TRUST_STORE};

use crate::plan::{Daemon, LaunchPlan};
use crate::values::{DEFAULT_VARIABLES, LAUNCH_VARIABLES, LaunchValue};

/// The whole environment of the agent. Nothing of the host's comes through but what the plan says,
/// and `term`, the operator's kind of terminal.
#[must_use]
pub fn environment(plan: &LaunchPlan, term: Option<&str>) -> BTreeMap<String, String> {
    let value = |(name, value): &(&str, LaunchValue)| {
        Some(((*name).to_owned(), launch_value(*value, plan, term)?))
    };
    let mut env: BTreeMap<_, _> = DEFAULT_VARIABLES.iter().filter_map(value).collect();
    env.extend(LAUNCH_VARIABLES.iter().filter_map(value));
    env.extend(plan.provider_env.clone());
    env.extend(plan.env.iter().map(|(name, value)| (name.to_string(), value.clone())));
    // A JVM reads this variable only. Of two settings it takes the last: the manifest's.
    let own = env.remove(JAVA_OPTIONS);
    let options = [Some(java_options(plan)), own];
    env.insert(
        JAVA_OPTIONS.to_owned(),
        options.into_iter().flatten().collect::<Vec<_>>().join(" "),
    );
    env
}

/// What a variable of the launch holds in this plan; `None`: it is not set.
fn launch_value(value: LaunchValue, plan: &LaunchPlan, term: Option<&str>) -> Option<String> {
    let guest = &plan.image.facts.guest;
    let url = |daemon| port(plan, daemon).map(|port| format!("http://127.0.0.1:{port}"));
    match value {
        LaunchValue::Fixed(text) => Some(text.to_owned()),
        LaunchValue::Home => Some(guest.home.clone()),
        LaunchValue::User => Some(guest.user.clone()),
        LaunchValue::Path => Some(guest.path.clone()),
        LaunchValue::Slug => Some(plan.slug.to_string()),
        LaunchValue::Term => term.map(str::to_owned),
        LaunchValue::Proxy => url(Daemon::Egress),
        LaunchValue::NoProxy => port(plan, Daemon::Egress).map(|_| no_proxy(plan.slug.as_str())),
        LaunchValue::UseProxy => port(plan, Daemon::Egress).map(|_| "1".to_owned()),
        LaunchValue::GitGate => url(Daemon::GitGate),
        LaunchValue::Supervise => url(Daemon::Supervise).map(|url| format!("{url}/")),
        LaunchValue::Ca => Some(CA.to_owned()),
        LaunchValue::CaBundle => Some(CA_BUNDLE.to_owned()),
    }
}

fn port(plan: &LaunchPlan, daemon: Daemon) -> Option<u16> {
    plan.endpoints.iter().find(|e| e.daemon == daemon).map(|e| e.port)
}

/// The guest's own names and addresses, in every spelling that some client understands: Go and curl
/// read the network, node and Go the star, Python the dot.
fn no_proxy(hostname: &str) -> String {
    format!("localhost,*.localhost,.localhost,127.0.0.1,127.0.0.0/8,0.0.0.0,::1,{hostname}")
}

/// Options that every JVM takes from its environment.
const JAVA_OPTIONS: &str = "JAVA_TOOL_OPTIONS";

/// The trust store, and egress as the proxy, as a JVM's options.
fn java_options(plan: &LaunchPlan) -> String {
    let mut options = format!("-Djavax.net.ssl.trustStore={JAVA_TRUST_STORE}");
    if let Some(port) = port(plan, Daemon::Egress) {
        for scheme in ["http", "https"] {
            options += &format!(" -D{scheme}.proxyHost=127.0.0.1 -D{scheme}.proxyPort={port}");
        }
        let hostname = &plan.slug;
        options +=
            &format!(" -Dhttp.nonProxyHosts=localhost|*.localhost|127.*|0.0.0.0|[::1]|{hostname}");
    }
    options
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::manifest::{MemFiles, parse};
    use crate::plan::{Engine, Host, ImageFacts, Options, plan};
    use crate::values::{EnvName, Guest};

    fn environment_of(keys: &str) -> BTreeMap<String, String> {
        let text = format!(
            "version = 1\n[agents.a]\nbottle = \"d\"\nprovider = \"command\"\ncommand = [\"true\"]\n[bottles.d]\n{keys}\n"
        );
        let manifest =
            parse(text.as_bytes(), std::path::Path::new("bottle.toml"), &MemFiles::default())
                .unwrap();
        let facts = ImageFacts {
            image: "/nix/store/a".into(),
            guest: Guest {
                user: "node".into(),
                uid: 1000,
                gid: 1000,
                home: "/home/node".into(),
                workdir: "/home/node".into(),
                path: "/usr/bin".into(),
            },
        };
        let images = BTreeMap::from([("demo".parse().unwrap(), facts)]);
        let engine = Engine { name: "qemu".into(), reason: String::new() };
        environment(
            &plan(
                &manifest,
                "a",
                &Host { env: &|_| None, engine, images, identity: None, logins: BTreeMap::new() },
                &Options::default(),
            )
            .unwrap(),
            None,
        )
    }

    const ROUTE: &str = "[[bottles.d.egress]]\nhost = \"api.test\"";

    #[test]
    fn every_client_is_told_of_the_proxy_and_the_ca() {
        let env = environment_of(ROUTE);
        for name in
            ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"]
        {
            assert_eq!(env[name], "http://127.0.0.1:9099", "{name}");
        }
        for name in [
            "SSL_CERT_FILE",
            "REQUESTS_CA_BUNDLE",
            "CURL_CA_BUNDLE",
            "GIT_SSL_CAINFO",
            "CARGO_HTTP_CAINFO",
            "PIP_CERT",
        ] {
            assert_eq!(env[name], CA_BUNDLE, "{name}");
        }
        assert_eq!((&*env["NODE_EXTRA_CA_CERTS"], &*env["NODE_USE_ENV_PROXY"]), (CA, "1"));
    }

    #[test]
    fn a_jvm_has_its_own_words_and_keeps_the_manifests() {
        let java = &environment_of(&format!("env.JAVA_TOOL_OPTIONS = \"-Xmx1g\"\n{ROUTE}"))["JAVA_TOOL_OPTIONS"];
        for option in [
            &*format!("-Djavax.net.ssl.trustStore={JAVA_TRUST_STORE}"),
            "-Dhttps.proxyHost=127.0.0.1",
            "-Dhttp.proxyPort=9099",
        ] {
            assert!(java.split(' ').any(|o| o == option), "{option} is not in {java}");
        }
        assert!(java.ends_with(" -Xmx1g"), "{java}");
    }

    #[test]
    fn the_guests_own_addresses_are_reached_without_the_proxy() {
        let env = environment_of(ROUTE);
        assert_eq!(env["NO_PROXY"], env["no_proxy"]);
        let list: Vec<_> = env["NO_PROXY"].split(',').collect();
        for host in ["localhost", "*.localhost", ".localhost", "127.0.0.0/8", "0.0.0.0", "::1", "a"]
        {
            assert!(list.contains(&host), "{host} is not in {list:?}");
        }
        assert!(env["JAVA_TOOL_OPTIONS"].contains("nonProxyHosts=localhost|*.localhost|127.*"));
    }

    #[test]
    fn a_manifest_replaces_defaults_and_nothing_else() {
        let env = environment_of(&format!("env.LANG = \"de_DE.UTF-8\"\n{ROUTE}"));
        assert_eq!((&*env["LANG"], &*env["SHELL"]), ("de_DE.UTF-8", "/bin/bash"));
        for name in env.keys() {
            let is_default = DEFAULT_VARIABLES.iter().any(|(default, _)| default == name);
            let is_free = is_default || name == JAVA_OPTIONS;
            assert_eq!(name.parse::<EnvName>().unwrap().is_reserved(), !is_free, "{name}");
        }
    }
}
